//! What keeps two gateways, and one that was paused, from asking CM for the same thing twice, and from taking an old answer
//! for a new one? Each of these tests is the one that notices when its guard is gone (`tests/mutations`).

use async_nats::HeaderMap;
use jiff::SignedDuration;
use kassa::Role;
use kassa_chassis::bus;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::{
    stage::{Plan, Stage},
    world::SHOP,
};

/// Orders that are raced for at once: in each of them, the two that race may miss each other by a hair.
const RACES: usize = 6;
/// Whoever has recorded a call, and those who wait for it, have come to the head of the log.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'";
const CLAIMED: &str = "SELECT count(*) FROM provider_reads WHERE lease_until IS NOT NULL";

/// Gateway and relay are processes, to be stopped; nothing is read but what a notification asks for.
async fn stage(processes: &[(&'static str, Role)]) -> Stage {
    let plan = Plan {
        processes: processes.to_vec(),
        nats: None,
        database: None,
    };
    let never = vec![SignedDuration::from_hours(1)];
    Stage::tuned(plan, |config| {
        config.poll.ladder.insert("ideal".to_owned(), never);
    })
    .await
}

/// Somebody else's transaction, and the lock that it holds.
struct Held(Client);

impl Held {
    async fn by(stage: &Stage, lock: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(&stage.database_url, NoTls)
            .await
            .expect("it opens");
        tokio::spawn(connection);
        client
            .batch_execute(&format!("BEGIN; {lock}"))
            .await
            .expect("the lock is free for a moment");
        Self(client)
    }

    /// Until then, nobody appends.
    async fn head(stage: &Stage) -> Self {
        Self::by(stage, "SELECT FROM log_head WHERE part = 0 FOR UPDATE").await
    }

    async fn let_go(self) {
        self.0.batch_execute("ROLLBACK").await.expect("it is ours to end");
    }
}

/// Starts a payment, and does not wait for what comes of it.
async fn start_unheeded(stage: &Stage, order_id: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", format!("start-{order_id}"));
    headers.insert("Prefer", "wait=0");
    let body = serde_json::to_vec(&json!({ "order_id": order_id, "method": "ideal" })).expect("JSON");
    let (_, answer) = stage
        .send(&format!("kassa.cmd.{SHOP}.start_payment"), headers, body)
        .await;
    assert!(answer["payment_id"].is_string(), "{answer}");
}

async fn notify(stage: &Stage, reference: &str) {
    let answer = stage
        .http_get(&format!("{}?id={reference}", stage.hooks_url))
        .await;
    assert_eq!(answer.status(), 200);
}

async fn recorded(stage: &Stage, event_type: &str) -> i64 {
    stage
        .sql_count(&format!(
            "SELECT count(*) FROM events WHERE event_type = '{event_type}'"
        ))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_07_of_two_gateways_at_one_payment_one_calls() {
    let mut stage = stage(&[("cm-gateway", Role::CmGateway), ("relay", Role::Relay)]).await;
    stage.spawn_as("second gateway", "cm-gateway");
    let relay = bus::connect(&stage.config.nats.url, &stage.logins.relay, "test")
        .await
        .expect("NATS answers");
    let jetstream = async_nats::jetstream::new(relay);
    let under_way = async || {
        let durable = jetstream
            .get_consumer_from_stream::<async_nats::jetstream::consumer::pull::Config, _, _>(
                "cm-gateway",
                "KASSA_EVENTS",
            )
            .await
            .expect("the gateway's durable");
        durable.cached_info().num_ack_pending
    };
    stage
        .until("the gateway listens", async |_| {
            jetstream
                .get_stream("KASSA_EVENTS")
                .await
                .is_ok_and(|stream| stream.cached_info().state.consumer_count >= 2)
        })
        .await;

    let mut orders = Vec::new();
    for _ in 0..RACES {
        orders.push(stage.create("ideal/success").await);
    }
    // Nobody hears of the payments, until both ways of hearing lead to them at once.
    stage.signal("relay", "STOP");
    for (_, order_id) in &orders {
        start_unheeded(&stage, order_id).await;
    }
    let head = Held::head(&stage).await;
    for (reference, _) in &orders {
        notify(&stage, reference).await;
    }
    stage
        .until("all are looked at, for a notification", async |stage| {
            stage.sql_count(CLAIMED).await == i64::try_from(RACES).expect("few")
                && stage.sql_count(WAITING).await > 0
        })
        .await;
    stage.signal("relay", "CONT");
    stage
        .until("and for their message", async |_| under_way().await == RACES)
        .await;
    head.let_go().await;

    for (_, order_id) in &orders {
        stage
            .until("a redirect", async |stage| {
                stage.get_order(order_id).await["next_action"]["type"] == "redirect"
            })
            .await;
    }
    stage
        .until("nobody is at work any more", async |stage| {
            under_way().await == 0 && stage.sql_count(CLAIMED).await == 0
        })
        .await;
    for (reference, _) in &orders {
        assert_eq!(
            (
                stage.count(reference, "request", "create").await,
                stage.count(reference, "request", "start").await
            ),
            (1, 1),
            "each call is made by one gateway, once"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_06_a_gateway_that_was_paused_after_its_intent_does_not_call() {
    let mut stage = stage(&[("cm-gateway", Role::CmGateway), ("relay", Role::Relay)]).await;
    // CM knows the order: the next call is a start.
    let (reference, order_id) = stage.create("ideal/cancel").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/cancel").await;
    stage.until_order(&order_id, "open", "canceled", "no").await;
    // A report that is read once more would be what waits below.
    stage
        .until("all that CM tells was read", async |stage| {
            stage.count(&reference, "notification", "start").await == 1
                && stage.count(&reference, "notification", "bank").await == 1
                && stage
                    .sql_count("SELECT count(*) FROM provider_reads WHERE requests > served OR lease_until IS NOT NULL")
                    .await
                    == 0
        })
        .await;
    // One that remembers nothing: what it does first is on the versions of the day, not a race that it has lost already.
    stage.kill("cm-gateway");
    stage.spawn("cm-gateway");

    stage.signal("relay", "STOP");
    start_unheeded(&stage, &order_id).await;
    let head = Held::head(&stage).await;
    stage.signal("relay", "CONT");
    stage
        .until("the intent waits to be recorded", async |stage| {
            stage.sql_count(WAITING).await > 0
        })
        .await;
    stage.signal("cm-gateway", "STOP");
    head.let_go().await;
    stage
        .until(
            "the intent is recorded, and its gateway does not know",
            async |stage| recorded(stage, "ProviderCallAttempted").await == 3,
        )
        .await;

    // Another finds it, and waits until nobody can be calling any more.
    stage.spawn_as("second gateway", "cm-gateway");
    stage
        .until("the outcome is unknown", async |stage| {
            notify(stage, &reference).await;
            recorded(stage, "ProviderOutcomeUnknown").await == 1
        })
        .await;
    stage.kill("second gateway");

    stage.signal("cm-gateway", "CONT");
    let (_, another) = stage.create("ideal/success").await;
    start_unheeded(&stage, &another).await;
    stage
        .until("the paused gateway is at work again", async |stage| {
            stage.get_order(&another).await["next_action"]["type"] == "redirect"
        })
        .await;
    assert_eq!(
        stage.count(&reference, "request", "start").await,
        1,
        "what was told to be over was started after that"
    );
    // The shopper was sent to the menu meanwhile.
    stage.press(&reference, "ideal/success").await;
    stage
        .until("one shipment", async |stage| {
            stage.shipments(&order_id).await == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_06_a_report_that_was_read_late_is_thrown_away_and_read_again() {
    let stage = stage(&[("cm-gateway", Role::CmGateway)]).await;
    let (reference, order_id) = stage.create("ideal/no_notification").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/no_notification").await;

    // Claimed, and not begun: the gateway cannot look at the order, and is paused before it can.
    let log = Held::by(&stage, "LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await;
    notify(&stage, &reference).await;
    stage
        .until("the read is claimed", async |stage| {
            stage.sql_count(CLAIMED).await == 1
        })
        .await;
    stage.signal("cm-gateway", "STOP");
    log.let_go().await;
    let claimed = stage.sql_count("SELECT read_no FROM provider_reads").await;
    // The lease is as long as CM's longest call, 2 s, and 10 s; of these, 2 s may be gone when the answer is there.
    stage
        .until("it is late", async |stage| {
            let late = "SELECT count(*) FROM provider_reads WHERE clock_timestamp() > lease_until - interval '7500 ms'";
            stage.sql_count(late).await == 1
        })
        .await;
    stage.signal("cm-gateway", "CONT");
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    let number = "SELECT substring(convert_from(payload, 'UTF8') FROM '\"read_no\":([0-9]+)') FROM events
        WHERE event_type = 'ProviderReportObserved' ORDER BY position";
    assert_eq!(
        stage.sql_texts(number).await,
        [(claimed + 1).to_string()],
        "another may have read by the time that this answer came"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_may_have_its_fields_in_another_order_and_nothing_else_in_it() {
    let stage = Stage::new().await;
    let (_, order_id) = stage.create("ideal/success").await;
    let send = async |body: String| -> Value {
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", "one-intention");
        let subject = format!("kassa.cmd.{SHOP}.start_payment");
        stage.send(&subject, headers, body.into_bytes()).await.1
    };
    let first = send(format!(r#"{{"order_id":"{order_id}","method":"ideal"}}"#)).await;
    assert!(first["payment_id"].is_string(), "{first}");
    let again = send(format!(r#"{{ "method": "ideal",  "order_id": "{order_id}" }}"#)).await;
    assert_eq!(again["payment_id"], first["payment_id"], "{again}");
    let other = send(format!(r#"{{"order_id":"{order_id}","method":"paypal"}}"#)).await;
    assert_eq!(other["code"], "idempotency_key_reused", "{other}");
}
