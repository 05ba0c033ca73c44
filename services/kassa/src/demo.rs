//! What does the whole look like, in one process? A shop's checkout creates an order and starts a payment on NATS, the
//! shopper does at the bank what the scenario says, and a shipment service hears of it.

use std::{process::ExitCode, time::Duration};

use async_nats::HeaderMap;
use clap::Args;
use futures::StreamExt as _;
use jiff::SignedDuration;
use kassa_chassis::{
    bus,
    config::{Cm, Config, LogFormat, Login, Mode, Shop},
    supervise, telemetry,
};
use kassa_checkout::Checkout;
use kassa_cm_notifications::Notifications;
use kassa_cm_simulator::{SCENARIOS, Simulator};
use kassa_shipment::{ConsumeError, Consumer, Database, Inbox, Instruction, PaymentSafe, Settings};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_postgres::{NoTls, Transaction};
use tokio_util::sync::CancellationToken;

use crate::{
    bus_view::{self, Timeline},
    cli::Format,
    exit::Ended,
    host::{Host, SHOP, Servers},
    keys,
    roles::{self, Bound, Role, Running},
    sim,
};

/// What a shell expects of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;
/// The whole play takes a second or two; without a notification it takes the ladder's first rungs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs everything in one process, with servers and a simulator of its own, and plays a payment. Servers that the
/// configuration or the environment names are left alone.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa demo                                plays ideal/success, then stays until Ctrl-C
  kassa demo --once --format json           ends after the shipment; the last line is the result
  kassa demo --scenario any/amount_short_11 plays what must not be shipped")]
pub(crate) struct DemoArgs {
    /// End after the payment has come to its end, instead of staying.
    #[arg(long)]
    once: bool,
    /// A scenario of `kassa sim scenarios`.
    #[arg(long, default_value = "ideal/success", value_name = "NAME")]
    scenario: String,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    // What the libraries say of a connection, our own code says with its name.
    telemetry::init(LogFormat::Auto, "warn,async_nats=error,deadpool=off");
    let known = |name: &str| SCENARIOS.iter().any(|scenario| scenario.name == name);
    if !known(&args.scenario) && !args.scenario.starts_with("any/start_slow_") {
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        return Err(Ended::new(Ended::USAGE, format!("--scenario: one of {}", names.join(", "))).into());
    }
    let signal = supervise::until_signal()?;
    Ok(if staged(args, &signal).await? {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INTERRUPTED)
    })
}

/// Sets everything up, plays, and takes everything down again; `false` when it was interrupted before the end of the play.
async fn staged(args: &DemoArgs, signal: &CancellationToken) -> anyhow::Result<bool> {
    let say = |line: &str| eprintln!("{line}");
    say("SIM  finding and starting servers (the first time they are downloaded) …");
    let (mut servers, host) = tokio::task::spawn_blocking(Servers::start).await??;
    servers.origins().iter().for_each(|line| say(line));
    servers.prepare().await?;

    let stop = CancellationToken::new();
    let _stops = stop.clone().drop_guard();
    let mut config = Config::default();
    host.configure(&mut config);
    config.simulator.listen.set_port(0);
    let simulator = Simulator::bind(roles::simulator(&config)).await?;
    let sim_url = simulator.base_url().to_owned();
    config.http.listen.set_port(0);
    let notifications = Notifications::bind(config.http.listen).await?;
    config.checkout.listen.set_port(0);
    let api = Checkout::bind(config.checkout.listen).await?;
    let api_url = format!("http://{}", api.local_addr());
    config.http.public_url = Some(api_url.clone());
    simulator.set_notification_url(format!(
        "http://{}/hooks/cm/{SHOP}?id=",
        notifications.local_addr()
    ))?;
    config.shops.insert(SHOP.to_owned(), shop(&config, &sim_url));
    // Nobody wants to wait a quarter of a minute in a demo.
    let ladder = [2, 3, 5, 10, 30, 60].map(SignedDuration::from_secs).to_vec();
    config.poll.ladder.insert("ideal".to_owned(), ladder);
    config.check()?;

    let Some(store) = roles::connect(&config, &stop).await? else {
        return Ok(false);
    };
    let roles = [
        Role::Engine,
        Role::Relay,
        Role::CmGateway,
        Role::CmNotifications,
        Role::ReadModels,
        Role::Checkout,
    ];
    let bound = Bound {
        notifications: Some(notifications),
        checkout: Some(api),
    };
    let running = Running::start(&config, &store, &roles, bound, stop.clone());
    let simulating = tokio::spawn(simulator.serve(stop.clone()));

    let (released, releases) = mpsc::unbounded_channel();
    let mut shipping = ship(&host, released, stop.clone()).await?;

    let checkout = bus::connect(&host.nats_url, &host.logins.checkout, "demo checkout").await?;
    let stage = Stage {
        checkout,
        sim_url: sim_url.clone(),
        args,
        store: store.clone(),
        database_url: host.database_url.clone(),
    };
    let staying = async {
        let played = tokio::select! {
            played = tokio::time::timeout(PATIENCE, stage.play(releases)) => match played {
                Ok(played) => played.map(Some),
                Err(_) => Err(Ended::new(
                    Ended::TIMED_OUT,
                    format!("{} did not come to its end in {} s", args.scenario, PATIENCE.as_secs()),
                )
                .into()),
            },
            ended = &mut shipping => Err(match ended {
                Ok(Err(error)) => anyhow::Error::from(error).context("the shipment service"),
                Ok(Ok(())) | Err(_) => anyhow::anyhow!("the shipment service ended"),
            }),
            () = signal.cancelled() => Ok(None),
        };
        if let Ok(Some(result)) = &played {
            println!("{result}");
            if !args.once {
                let api_key = keys::of_the_demo(&host.database_url, SHOP, store.clock().now()).await?;
                invite(&host, &sim_url, (&api_url, api_key.expose_secret()), args.format);
                signal.cancelled().await;
            }
        }
        played
    };
    let played = tokio::select! {
        played = staying => played,
        ended = servers.until_one_ends() => Err(ended.into()),
    };
    // Whatever else went wrong then went wrong because of it, and nothing that is left can end in order.
    if let Some(ended) = servers.one_that_ended() {
        return Err(ended.into());
    }
    // Roles first, servers last: nobody has to complain that they are gone.
    stop.cancel();
    if !shipping.is_finished() {
        shipping.await??;
    }
    running.wait().await?;
    simulating.await??;
    played.map(|result| result.is_some())
}

/// A shipment service that tells of each release.
async fn ship(
    host: &Host,
    released: mpsc::UnboundedSender<PaymentSafe>,
    stop: CancellationToken,
) -> anyhow::Result<JoinHandle<Result<(), ConsumeError>>> {
    let settings = Settings::new(bus::without_login(&host.nats_url)?, "demo-shipment");
    let options = bus::options(&host.nats_url, &host.logins.shipment)?;
    let database = Database::new(host.database_url.parse()?, NoTls);
    let (client, connection) = tokio_postgres::connect(&host.database_url, NoTls).await?;
    let driving = tokio::spawn(connection);
    Inbox::prepare(&client).await?;
    drop(client);
    let _ = driving.await;
    // The stream is made by the relay, which may still be starting; the consumer waits for it.
    let consumer = Consumer::connect(settings, options, database).await?;
    Ok(tokio::spawn(consumer.run(
        async move |told: &Instruction, _: &Transaction<'_>| {
            if let Instruction::Ship(safe) = told {
                // A demo that has ended does not listen any more.
                let _ = released.send(safe.clone());
            }
            Ok::<_, std::convert::Infallible>(())
        },
        stop,
    )))
}

fn shop(config: &Config, sim_url: &str) -> Shop {
    Shop {
        cm: Cm {
            mode: Mode::Sim,
            rest_url: sim_url.to_owned(),
            account: config.simulator.account.clone(),
            password: Some(SecretString::from(config.simulator.password.expose_secret())),
            password_file: None,
            merchant_key: config.simulator.merchant_key.clone(),
            timeout: SignedDuration::from_secs(3),
        },
        return_url_origins: vec!["https://shop.example".to_owned()],
    }
}

struct Stage<'a> {
    checkout: async_nats::Client,
    sim_url: String,
    args: &'a DemoArgs,
    store: kassa_event_store::Store,
    database_url: String,
}

impl Stage<'_> {
    /// Plays one payment and prints what happens as it happens; the result as one line of JSON.
    async fn play(&self, mut releases: mpsc::UnboundedReceiver<PaymentSafe>) -> anyhow::Result<Value> {
        let mut live = self.checkout.subscribe(format!("kassa.live.{SHOP}.>")).await?;
        self.checkout.flush().await?;
        bus_view::wait_for_service(&self.checkout, SHOP).await?;
        let timeline = Timeline::new(self.args.format == Format::Json);
        let reference = format!("demo-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);

        let ordered = Instant::now();
        let order = self
            .command(
                "create_order",
                &json!({
                    "order_reference": reference,
                    "description": "Dog food, 12 kg",
                    "amount": { "value": 4995, "currency": "EUR" },
                    "country": "NL",
                    "language": "nl",
                    "shopper": { "email": "shopper@example.org" },
                    "return_url": "https://shop.example/return",
                    "metadata": { "sim_scenario": self.args.scenario },
                }),
            )
            .await?;
        let order_id = text(&order, "order_id")?;
        timeline.line("checkout", "create_order", &order_id, "accepted");
        let payment = self
            .command(
                "start_payment",
                &json!({ "order_id": order_id, "method": "ideal" }),
            )
            .await?;
        let payment_id = text(&payment, "payment_id")?;
        let action = payment["next_action"]["type"].as_str().unwrap_or("?");
        timeline.line(
            "checkout",
            "start_payment",
            &payment_id,
            &format!("next: {action}"),
        );

        let http = sim::client()?;
        let reference_at_cm = self.reference_at_cm(&order_id).await?;
        let pressed = sim::press(&http, &self.sim_url, &reference_at_cm, &self.args.scenario).await?;
        timeline.line(
            "shopper",
            "at the bank",
            &reference,
            pressed["result"].as_str().unwrap_or("done"),
        );

        let mut event_id = None;
        let mut safe_at = None;
        loop {
            tokio::select! {
                Some(message) = live.next() => {
                    let envelope: Value = serde_json::from_slice(&message.payload)?;
                    let kind = envelope["type"].as_str().unwrap_or_default();
                    timeline.event(&envelope);
                    match kind {
                        "kassa.order.payment_safe.v1" => {
                            safe_at = Some(ordered.elapsed());
                            event_id = envelope["id"].as_str().map(str::to_owned);
                        }
                        "kassa.payment.canceled.v1" | "kassa.payment.failed.v1" | "kassa.payment.expired.v1"
                        | "kassa.order.amount_mismatch_found.v1" => {
                            return Ok(json!({ "order_id": order_id, "payment_id": payment_id, "event_id": null,
                                "order_to_safe_ms": null, "notification_to_shipment_ms": null }));
                        }
                        _ => {}
                    }
                }
                Some(safe) = releases.recv() => {
                    timeline.line("shipment", "released", &safe.order_id, "ship it");
                    let safe_ms = safe_at.unwrap_or_else(|| ordered.elapsed()).as_millis();
                    let told = self.notification_to_shipment(&reference, &order_id).await?;
                    let event_id = match event_id {
                        Some(id) => id,
                        None => self.event_of(&order_id).await?,
                    };
                    return Ok(json!({ "order_id": order_id, "payment_id": payment_id, "event_id": event_id,
                        "order_to_safe_ms": u64::try_from(safe_ms)?, "notification_to_shipment_ms": told }));
                }
            }
        }
    }

    async fn command(&self, verb: &str, body: &Value) -> anyhow::Result<Value> {
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", uuid::Uuid::new_v4().to_string().as_str());
        headers.insert("Prefer", "wait=10");
        let request = async_nats::Request::new()
            .headers(headers)
            .payload(serde_json::to_vec(body)?.into())
            .timeout(Some(Duration::from_secs(15)));
        let answer = self
            .checkout
            .send_request(kassa_events_schema::subject::command(SHOP, verb), request)
            .await?;
        let document: Value = serde_json::from_slice(&answer.payload)?;
        match document["code"].as_str() {
            Some(code) => anyhow::bail!(
                "{verb} was refused: {code}: {}",
                document["detail"].as_str().unwrap_or("")
            ),
            None => Ok(document),
        }
    }

    /// From the last notification's being stored to the release's being committed, in milliseconds; `None` where there was
    /// no notification.
    async fn notification_to_shipment(&self, reference: &str, order_id: &str) -> anyhow::Result<Option<i64>> {
        // Two owners' tables: kassa's own role may not see the shop's.
        let (client, connection) = tokio_postgres::connect(&self.database_url, NoTls).await?;
        let driving = tokio::spawn(connection);
        let row = client
            .query_opt(
                "SELECT (extract(epoch FROM s.released_at - n.last_at) * 1000)::bigint
                   FROM notifications n, shipment_service.shipments s
                  WHERE n.reference = $1 AND s.order_id = $2",
                &[&reference, &order_id],
            )
            .await?;
        drop(client);
        let _ = driving.await;
        Ok(row.map(|row| row.get(0)))
    }

    /// The provider's order that the shopper is at: after a create whose answer was lost, that is another one.
    async fn reference_at_cm(&self, order_id: &str) -> anyhow::Result<String> {
        loop {
            let client = self.store.pool().get().await?;
            let sql =
                "SELECT state #>> '{order,Opened,provider,reference}' FROM read_orders WHERE order_id = $1";
            let found = client
                .query_opt(sql, &[&order_id])
                .await?
                .and_then(|row| row.get::<_, Option<String>>(0));
            if let Some(reference) = found {
                return Ok(reference);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn event_of(&self, order_id: &str) -> anyhow::Result<String> {
        let client = self.store.pool().get().await?;
        let row = client
            .query_one(
                "SELECT event_id::text FROM events WHERE aggregate_id = $1 AND event_type = 'ConfidenceReachedSafe'",
                &[&order_id],
            )
            .await?;
        Ok(row.get(0))
    }
}

fn text(document: &Value, field: &str) -> anyhow::Result<String> {
    document[field]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| anyhow::anyhow!("the answer has no {field}"))
}

/// Where everything is and how to get in: for a person on stderr, for a program as one line of JSON on stdout.
fn invite(host: &Host, sim_url: &str, (api_url, api_key): (&str, &str), format: Format) {
    let login = |login: &Login| match (&login.user, &login.password) {
        (Some(user), Some(password)) => json!({ "user": user, "password": password.expose_secret() }),
        _ => Value::Null,
    };
    let logins = &host.logins;
    let [checkout, shipment, relay] = [&logins.checkout, &logins.shipment, &logins.relay].map(login);
    if format == Format::Json {
        let users = json!({ "checkout": checkout, "shipment": shipment, "relay": relay });
        println!(
            "{}",
            json!({ "nats_url": host.nats_url, "shop": SHOP, "users": users, "cm_url": sim_url,
                "api_url": api_url, "api_key": api_key, "database_url": host.database_url })
        );
        return;
    }
    let text = |login: &Value, field: &str| login[field].as_str().unwrap_or_default().to_owned();
    let words = |login: &Value| {
        format!(
            "user {}  password {}",
            text(login, "user"),
            text(login, "password")
        )
    };
    eprintln!("\nSIM  everything stays up until Ctrl-C; nothing here is real money");
    eprintln!("NATS        {}", host.nats_url);
    eprintln!("  checkout  {}", words(&checkout));
    eprintln!("  shipment  {}", words(&shipment));
    eprintln!("shop        {SHOP}, return URLs on https://shop.example");
    eprintln!("HTTP        {api_url}   (reader: {api_url}/docs/api)");
    eprintln!("  key       {api_key}");
    eprintln!("CM          {sim_url}   (what it was asked: {sim_url}/sim/ledger)");
    eprintln!("PostgreSQL  {}", host.database_url);
    eprintln!("try         curl -s {api_url}/v1/orders -H 'Authorization: Bearer {api_key}'");
    let kassa = program();
    eprintln!("            {kassa} sim pay ORDER_REFERENCE ideal/success --url {sim_url}");
    let database = format!("DATABASE_URL='{}'", host.database_url);
    eprintln!("            {database} {kassa} replay --from 0-0");
    eprintln!(
        "            {database} NATS_URL={} KASSA_NATS__RELAY__USER={} KASSA_NATS__RELAY__PASSWORD={} {kassa} export \
         --to \"$(mktemp -d)\" --simulator {sim_url}",
        host.nats_url,
        text(&relay, "user"),
        text(&relay, "password"),
    );
}

/// How a shell calls this program: by the name under which it was found, or by its whole path, which is the same in any
/// folder.
fn program() -> String {
    let by_path = std::env::args_os()
        .next()
        .is_none_or(|called| called.as_encoded_bytes().contains(&b'/'));
    let path = std::env::current_exe().ok().filter(|_| by_path);
    path.map_or("kassa".to_owned(), |path| quoted(&path.to_string_lossy()))
}

/// As one word for a shell.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._-+".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_for_a_shell() {
        assert_eq!(quoted("/opt/kassa-1.0/kassa"), "/opt/kassa-1.0/kassa");
        assert_eq!(quoted("/my tools/o'clock"), r"'/my tools/o'\''clock'");
    }
}
