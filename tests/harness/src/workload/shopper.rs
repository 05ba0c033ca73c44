//! How does one order go from the shop's basket to its end, with a shopper who follows the links that are given?

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    client::{Client, Command, Said, Via},
    story::{Leaves, Story},
};
use crate::random::Random;

/// Between two looks at the order; a page that polls.
const LOOK: Duration = Duration::from_millis(400);
/// Attempts of one shopper who wants to pay: one, one more for who retries, and some for calls that a fault ended.
const ATTEMPTS_MAX: usize = 5;

/// How an order's story ended, as far as the shopper and the shop could see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Played {
    /// As it was to be played.
    Out,
    /// Given up: there was no answer for too long.
    GivenUp(String),
}

/// Plays a story; whatever is asked is asked again until `until`.
pub(crate) async fn play(client: &Client, seed: u64, number: u64, story: &Story, until: Instant) -> Played {
    let chance = Random::of(seed, "pauses", number);
    let mut shopper = Shopper {
        client,
        story,
        until,
        chance,
    };
    match shopper.play().await {
        Ok(()) => Played::Out,
        Err(why) => Played::GivenUp(format!("{} ({}): {why:#}", story.reference, story.scenario.name)),
    }
}

struct Shopper<'a> {
    client: &'a Client,
    story: &'a Story,
    until: Instant,
    chance: Random,
}

impl Shopper<'_> {
    async fn play(&mut self) -> anyhow::Result<()> {
        let story = self.story;
        let order_id = self.create().await?;
        if story.leaves == Some(Leaves::BeforeStart) {
            return Ok(());
        }
        // Who comes back after a cancel pays then.
        let mut presses = vec![story.scenario.name.as_str()];
        if story.retries && story.leaves.is_none() {
            presses.push("ideal/success");
        }
        let mut attempt = 0;
        for scenario in presses {
            loop {
                anyhow::ensure!(attempt < ATTEMPTS_MAX, "{attempt} attempts came to nothing");
                self.start(&order_id, attempt).await?;
                attempt += 1;
                match self.link().await? {
                    Link::Go(url) => {
                        if story.leaves.is_some() {
                            return Ok(());
                        }
                        sleep(story.thinks).await;
                        self.press(&url, scenario).await?;
                        break;
                    }
                    Link::Open if !story.scenario.pays => return Ok(()),
                    Link::Open => {}
                    Link::Over => return Ok(()),
                }
            }
            if scenario != "ideal/success" && story.retries && !self.open_again().await? {
                return Ok(());
            }
        }
        if story.notified_again > 0 {
            self.notify().await;
        }
        Ok(())
    }

    async fn create(&mut self) -> anyhow::Result<String> {
        let (key, body) = (
            format!("create-{}", self.story.reference),
            self.story.create_body(),
        );
        let command = Command {
            via: self.story.create_via,
            verb: "create_order",
            key: &key,
            body: &body,
        };
        let said = self.send(&command).await;
        if let Said::Accepted(answer) = said {
            return Ok(answer["order_id"]
                .as_str()
                .context("an order has an id")?
                .to_owned());
        }
        if let Said::Refused(code) = said {
            bail!("create was refused: {code}");
        }
        // By the inbox there is no answer: what it did is looked for.
        anyhow::ensure!(self.story.create_via == Via::Inbox, "create was never answered");
        while Instant::now() < self.until {
            for _ in 0..20 {
                if let Some(order) = self.client.order(&self.story.reference, Via::Nats).await {
                    return Ok(order["order_id"].as_str().unwrap_or_default().to_owned());
                }
                sleep(LOOK).await;
            }
            self.client.once(&command).await;
        }
        bail!("the inbox never had an effect")
    }

    /// Once, or by an impatient shop twice at once; until it is settled.
    async fn send(&mut self, command: &Command<'_>) -> Said {
        if command.via == Via::Inbox {
            self.client.once(command).await;
            if self.story.doubled {
                self.client.once(command).await;
            }
            return Said::Nothing;
        }
        if self.story.doubled {
            let mut chance = self.chance;
            let (first, second) = tokio::join!(
                self.client.command(command, self.until, &mut self.chance),
                self.client.command(command, self.until, &mut chance)
            );
            return if matches!(first, Said::Accepted(_)) {
                first
            } else {
                second
            };
        }
        self.client.command(command, self.until, &mut self.chance).await
    }

    async fn start(&mut self, order_id: &str, attempt: usize) -> anyhow::Result<()> {
        let key = format!("start-{}-{attempt}", self.story.reference);
        let body = json!({ "order_id": order_id, "method": self.story.scenario.method });
        let command = Command {
            via: self.story.start_via,
            verb: "start_payment",
            key: &key,
            body: &body,
        };
        match self.send(&command).await {
            Said::Accepted(_) => Ok(()),
            // Another attempt is alive, or the money is there: the order says what is next.
            Said::Refused(code) if matches!(code.as_str(), "payment_under_way" | "order_not_payable") => {
                Ok(())
            }
            Said::Refused(code) => bail!("start was refused: {code}"),
            Said::Nothing => bail!("start was never answered"),
        }
    }

    /// Where the shopper is sent.
    async fn link(&mut self) -> anyhow::Result<Link> {
        let mut last = Value::Null;
        while Instant::now() < self.until {
            if let Some(order) = self
                .client
                .order(&self.story.reference, self.story.start_via)
                .await
            {
                let next = &order["next_action"];
                if next["type"] == "redirect"
                    && let Some(url) = next["url"].as_str()
                {
                    return Ok(Link::Go(url.to_owned()));
                }
                match order["status"].as_str() {
                    // The attempt ended before the shopper could do anything.
                    Some("open") if ended(&order) => return Ok(Link::Open),
                    Some("paid" | "partially_paid" | "expired" | "canceled") => return Ok(Link::Over),
                    _ => {}
                }
                last = order;
            }
            sleep(LOOK).await;
        }
        bail!("there was no link; last: {last}")
    }

    /// Does at the bank or on the menu what the scenario's shopper does; once, even if the answer was lost.
    async fn press(&mut self, url: &str, scenario: &str) -> anyhow::Result<()> {
        let parameter = |name: &str| {
            let found = url.split(['?', '&']).find_map(|part| part.strip_prefix(name));
            found.and_then(|rest| rest.strip_prefix('=')).map(str::to_owned)
        };
        let mut last = String::new();
        while Instant::now() < self.until {
            let sent = if let Some(trxid) = parameter("trxid") {
                let form = [("trxid", trxid.as_str()), ("result", scenario)];
                // The same page, without what stands between the gateway and CM: shoppers come by another way.
                let path = url
                    .split('?')
                    .next()
                    .and_then(|page| page.rsplit_once("/ps_sim/"));
                let (_, method) = path.with_context(|| format!("no bank at {url}"))?;
                let page = format!("{}/ps_sim/{method}", self.client.access.cm_url);
                self.client.http.post(page).form(&form).send().await
            } else {
                let key = parameter("payment_cluster_key").with_context(|| format!("no key in {url}"))?;
                if self.pressed(&key).await? {
                    return Ok(());
                }
                let body = json!({ "order_key": key, "scenario": scenario });
                let pay = format!("{}/sim/pay", self.client.access.cm_url);
                self.client.http.post(pay).json(&body).send().await
            };
            match sent {
                // Done; or it was paid before.
                Ok(answer) if answer.status().as_u16() < 400 || answer.status() == 409 => return Ok(()),
                Ok(answer) => last = answer.status().to_string(),
                Err(error) => last = error.to_string(),
            }
            sleep(LOOK).await;
        }
        bail!("the bank was never reached: {last}")
    }

    /// Whether a shopper has decided something about this order before: a second payment is not what they meant.
    async fn pressed(&self, order_key: &str) -> anyhow::Result<bool> {
        while Instant::now() < self.until {
            let url = format!("{}/sim/orders?order_key={order_key}", self.client.access.cm_url);
            if let Ok(answer) = self.client.http.get(url).send().await
                && let Ok(orders) = answer.json::<Value>().await
            {
                let payments = orders[0]["payments"].as_array().cloned().unwrap_or_default();
                let waits = |payment: &Value| payment["state"] == "REDIRECTED_FOR_AUTHORIZATION";
                return Ok(payments.iter().any(|payment| !waits(payment)));
            }
            sleep(LOOK).await;
        }
        bail!("the provider was never reached")
    }

    /// Whether the order can be paid anew, once the first attempt has ended.
    async fn open_again(&mut self) -> anyhow::Result<bool> {
        let mut last = Value::Null;
        while Instant::now() < self.until {
            if let Some(order) = self.client.order(&self.story.reference, Via::Nats).await {
                match order["status"].as_str() {
                    Some("open") if ended(&order) => return Ok(true),
                    Some("paid" | "partially_paid" | "expired" | "canceled") => return Ok(false),
                    _ => last = order,
                }
            }
            sleep(LOOK).await;
        }
        bail!("the first attempt never ended; last: {last}")
    }

    async fn notify(&self) {
        let body = json!({ "order_reference": self.story.reference, "times": self.story.notified_again });
        let url = format!("{}/sim/notify", self.client.access.cm_url);
        // A provider that repeats itself, or does not: nothing hangs on it.
        let _ = self.client.http.post(url).json(&body).send().await;
    }
}

enum Link {
    Go(String),
    /// Nothing to go to: it may be tried again.
    Open,
    /// Nothing left to pay, or to be paid.
    Over,
}

/// Whether the newest attempt is over.
fn ended(order: &Value) -> bool {
    let newest = order["payments"].as_array().and_then(|payments| payments.last());
    newest.is_some_and(|payment| {
        matches!(
            payment["status"].as_str(),
            Some("failed" | "canceled" | "expired" | "declined")
        )
    })
}
