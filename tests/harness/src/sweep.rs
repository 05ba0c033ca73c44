//! Does a payment end as ever, whichever write of a process is its last?
//!
//! A process is killed with SIGKILL at its N-th write to PostgreSQL, the bus or CM while one payment is made, for N = 1, 2,
//! 3 … until a payment is through before the N-th write comes. By turns the write is the first that never happened and
//! the last that did. The process starts again, the shopper goes on, and the order must be paid, safe and shipped once; in the
//! end `kassa verify` judges all that happened.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tokio::time::{Instant, interval};

use crate::{
    fault::{network::Network, postgres::session},
    installation::{Installation, SHIPMENT},
    proxy::{Release, Trap, When},
    run::{Asked, Ran},
    verdict::Verdict,
    workload::{
        Outcome,
        client::{Client, Via},
        shopper::{self, Played},
        story::{Scenario, Story},
    },
};

/// More writes than any process makes for one payment, those by which it looks for work included.
const WRITES_MAX: u64 = 400;
/// For a payment with a process killed in it: an unknown outcome is doubted for seconds, and a lost message for half a
/// minute (the bus waits so long for an acknowledgement).
const PAYMENT_MAX: Duration = Duration::from_secs(100);
const LOOK: Duration = Duration::from_millis(20);

/// What is to be swept.
#[derive(Debug, Clone)]
pub struct Sweep {
    pub exe: PathBuf,
    /// Made, and left to who asked.
    pub folder: PathBuf,
    pub cache_dir: PathBuf,
    /// Processes by name, one after the other.
    pub roles: Vec<String>,
    /// The first N.
    pub first: u64,
    /// From one N to the next: a slice takes every third, say, and another slice others.
    pub step: u64,
    /// No further kill is begun after this.
    pub budget: Option<Duration>,
}

/// What became of it.
#[derive(Debug, Clone, Default)]
pub struct Swept {
    /// Processes killed at a write.
    pub kills: u64,
    /// Processes swept to the end, with the number of the write that never came.
    pub complete: Vec<(String, u64)>,
    /// Payments that did not end as they should, at which write of which process; and what verify found.
    pub failures: Vec<String>,
}

/// Every process that can be killed in the middle of a payment.
pub const SWEPT: [&str; 7] = [
    "engine",
    "relay",
    "cm-gateway",
    "cm-notifications",
    "read-models",
    "checkout",
    SHIPMENT,
];

impl Sweep {
    /// Sweeps; `tell` hears of each kill.
    ///
    /// # Errors
    /// When the installation cannot be started, or does not come back after a kill.
    pub async fn run(&self, mut tell: impl FnMut(&str)) -> anyhow::Result<Swept> {
        let asked = self.asked();
        let mut plan = asked.plan(&self.folder);
        plan.wire = Some(Network::wire());
        let mut installation = Installation::start(plan).await?;
        let began = Instant::now();
        let mut swept = Swept::default();
        let client = Client::connect(installation.access(), &self.folder.join("answers.ndjson")).await?;
        let mut number = 0;
        'roles: for role in &self.roles {
            let mut n = self.first.max(1);
            loop {
                if self.budget.is_some_and(|budget| began.elapsed() > budget) {
                    break 'roles;
                }
                ensure!(
                    n <= WRITES_MAX,
                    "{role} writes more than {WRITES_MAX} times in one payment"
                );
                number += 1;
                // Both sides of a write, over the numbers of a sweep and over sweeps from another beginning.
                let when = if (n / self.step.max(1)).is_multiple_of(2) {
                    When::Before
                } else {
                    When::After
                };
                let at = Instant::now();
                match self
                    .kill_at(&mut installation, &client, role, n, when, number)
                    .await
                {
                    Ok(true) => {
                        swept.kills += 1;
                        let took = at.elapsed().as_millis();
                        tell(&format!(
                            "{role}: killed {when:?} write {n}; paid, safe and shipped once after {took} ms"
                        ));
                    }
                    Ok(false) => {
                        tell(&format!("{role}: a payment is through before write {n}"));
                        swept.complete.push((role.clone(), n));
                        continue 'roles;
                    }
                    Err(why) => {
                        let failure = format!("{role}: killed {when:?} write {n}: {why:#}");
                        tell(&failure);
                        swept.failures.push(failure);
                    }
                }
                n += self.step.max(1);
            }
        }
        client.flush()?;
        drop(client);
        tell("every order was played out; waiting until all is quiet, then judging");
        let verdict = self.judge(installation, &asked, number).await?;
        ensure!(
            verdict.paid == number || !swept.failures.is_empty(),
            "{} of {number} orders are paid at the end",
            verdict.paid
        );
        swept.failures.extend(verdict.wrong);
        Ok(swept)
    }

    /// What `kassa verify` says of all that happened.
    async fn judge(&self, at: Installation, asked: &Asked, orders: u64) -> anyhow::Result<Verdict> {
        let (exports, ends) = asked
            .end(at, &self.folder, false, None, &mut |_: &str| ())
            .await?;
        let ran = Ran {
            exports,
            outcome: Outcome {
                orders,
                ..Outcome::default()
            },
            faults_asked: false,
            went: Vec::new(),
            ends,
        };
        Verdict::of(&ran, None, &self.folder)
    }

    fn asked(&self) -> Asked {
        Asked {
            exe: self.exe.clone(),
            cache_dir: self.cache_dir.clone(),
            folder: self.folder.clone(),
            seed: self.first,
            lasts: Duration::ZERO,
            payments_per_minute: 0,
            fault_every: Duration::MAX,
            only: String::new(),
            doubled: false,
        }
    }

    /// Makes one payment and kills at a write; whether the write came.
    async fn kill_at(
        &self,
        installation: &mut Installation,
        client: &Client,
        role: &str,
        n: u64,
        when: When,
        number: u64,
    ) -> anyhow::Result<bool> {
        let until = Instant::now() + PAYMENT_MAX;
        let story = story(role, number);
        let trap = Arc::new(Trap::new(n, when));
        set_trap(installation, role, Some(&trap))?;
        let mut paying = std::pin::pin!(shopper::play(client, number, number, &story, until));
        let mut played = None;
        // The end of a payment is not the shopper's last click: the shipment is.
        let through = async {
            played = Some((&mut paying).await);
            ends_well(client, installation, &story.reference, until).await
        };
        let ended = tokio::select! {
            biased;
            reached = trap.reached(PAYMENT_MAX) => {
                ensure!(reached, "the payment neither ended nor came to the write within {PAYMENT_MAX:?}");
                None
            }
            ended = through => Some(ended),
        };
        if let Some(ended) = ended {
            set_trap(installation, role, None)?;
            trap.release(Release::Forward);
            ended?;
            return Ok(false);
        }
        installation.kill(role)?;
        trap.release(Release::Drop);
        set_trap(installation, role, None)?;
        installation.spawn(role)?;
        let played = match played {
            Some(played) => played,
            None => paying.await,
        };
        if let Played::GivenUp(why) = played {
            bail!("the shopper gave up: {why}");
        }
        ends_well(client, installation, &story.reference, until).await?;
        installation.until_ready(role).await?;
        Ok(true)
    }
}

fn set_trap(installation: &Installation, role: &str, trap: Option<&Arc<Trap>>) -> anyhow::Result<()> {
    let network = Network::of(installation).context("no proxy stands between processes and servers")?;
    network.set_trap(role, trap);
    Ok(())
}

/// What most shoppers do, without waiting.
fn story(role: &str, number: u64) -> Story {
    Story {
        reference: format!("S-{number:06}"),
        scenario: Scenario {
            name: "ideal/success".to_owned(),
            method: "ideal".to_owned(),
            pays: true,
        },
        amount_minor: 4_995,
        arrives: Duration::ZERO,
        create_via: Via::Nats,
        // Every other one by HTTP. The role `checkout` is in the middle of those alone: a payment by the bus would be through
        // before its next write, and look as if there was no other.
        start_via: if role == "checkout" || !number.is_multiple_of(2) {
            Via::Http
        } else {
            Via::Nats
        },
        leaves: None,
        retries: false,
        doubled: false,
        notified_again: 0,
        thinks: Duration::ZERO,
    }
}

/// Waits until the order is paid, safe and shipped, and makes sure that all of it is so once.
async fn ends_well(
    client: &Client,
    installation: &Installation,
    reference: &str,
    until: Instant,
) -> anyhow::Result<()> {
    let sql = session(installation).await?;
    let mut last = Value::Null;
    let mut look = interval(LOOK);
    let order_id = loop {
        look.tick().await;
        ensure!(
            Instant::now() < until,
            "the order did not become paid and safe; last: {last}"
        );
        let Some(order) = client.order(reference, Via::Nats).await else {
            continue;
        };
        if order["status"] == "paid" && order["safe"]["value"] == "yes" {
            break order["order_id"].as_str().unwrap_or_default().to_owned();
        }
        last = order;
    };
    let count = "SELECT count(*) FILTER (WHERE what = 'release'), count(*) FILTER (WHERE what = 'hold')
                 FROM shipment_service.log WHERE order_id = $1";
    loop {
        look.tick().await;
        let row = sql.query_one(count, &[&order_id]).await?;
        let (releases, holds): (i64, i64) = (row.get(0), row.get(1));
        ensure!(
            releases <= 1 && holds == 0,
            "{order_id}: {releases} releases, {holds} holds"
        );
        if releases == 1 {
            break;
        }
        ensure!(Instant::now() < until, "{order_id} was never released");
    }
    let row = sql
        .query_one(
            "SELECT count(*) FROM events WHERE aggregate_id = $1 AND event_type = 'ConfidenceReachedSafe'",
            &[&order_id],
        )
        .await?;
    ensure!(
        row.get::<_, i64>(0) == 1,
        "{order_id} became safe {} times",
        row.get::<_, i64>(0)
    );
    starts(client, reference).await
}

/// No payment order at CM was started twice.
async fn starts(client: &Client, reference: &str) -> anyhow::Result<()> {
    let url = format!("{}/sim/ledger?reference={reference}", client.access.cm_url);
    let text = client.http.get(url).send().await?.text().await?;
    let rows = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let starts = rows
        .filter(|row| row["kind"] == "effect" && row["op"] == "start")
        .count();
    ensure!(starts <= 1, "{reference} was started {starts} times at CM");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payment_of_a_sweep_of_checkout_goes_by_way_of_it() {
        for number in 1..6 {
            assert_eq!(story("checkout", number).start_via, Via::Http);
        }
        let others: Vec<Via> = (1..4).map(|number| story("relay", number).start_via).collect();
        assert_eq!(others, [Via::Http, Via::Nats, Via::Http]);
    }
}
