//! `kill -9`, of engine, relay, gateway and bus, in the middle of a payment: the payment ends as if nothing had happened, later.

use kassa::Role;
use serde_json::json;

use crate::{
    stage::{Plan, Stage, order_body},
    world::{SHOP, own_nats},
};

/// What every payment comes to, whatever was killed.
pub(crate) async fn ends_well(stage: &Stage, order_id: &str, reference: &str) {
    stage.until_order(order_id, "paid", "authorized", "yes").await;
    stage
        .until("one shipment", async |s| s.shipments(order_id).await == 1)
        .await;
    assert_eq!(
        stage.count(reference, "request", "start").await,
        1,
        "start is sent once"
    );
    assert_eq!(safe_events(stage, order_id).await, 1);
}

async fn safe_events(stage: &Stage, order_id: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM events WHERE event_type = 'ConfidenceReachedSafe' AND aggregate_id = '{order_id}'"
    );
    stage.sql_count(&sql).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_is_killed_between_a_command_and_its_repeat() {
    let mut stage = Stage::planned(Plan::with_process("engine", Role::Engine)).await;
    let (reference, order_id) = stage.create("ideal/success").await;
    // Sent and not waited for: the kill comes before, in, or after the commit, and the repeat has to cope with each.
    let body = serde_json::to_vec(&json!({ "order_id": order_id, "method": "ideal" })).expect("JSON");
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Idempotency-Key", "the-one-start");
    stage
        .checkout
        .publish_with_reply_and_headers(
            format!("kassa.cmd.{SHOP}.start_payment"),
            stage.checkout.new_inbox(),
            headers,
            body.into(),
        )
        .await
        .expect("it is sent");
    stage.checkout.flush().await.expect("it is sent");
    stage.kill("engine");
    stage.spawn("engine");
    stage
        .until("the engine answers again", async |s| {
            s.checkout
                .request(format!("kassa.cmd.{SHOP}.start_payment"), "".into())
                .await
                .is_ok()
        })
        .await;
    let start = json!({ "order_id": order_id, "method": "ideal" });
    let answer = stage
        .command_with_key("start_payment", "the-one-start", &start)
        .await;
    assert_eq!(answer["next_action"]["type"], "redirect", "{answer}");
    let repeat = stage
        .command_with_key("start_payment", "the-one-start", &start)
        .await;
    assert_eq!(repeat["payment_id"], answer["payment_id"]);
    stage.press(&reference, "ideal/success").await;
    ends_well(&stage, &order_id, &reference).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_is_killed_after_cm_has_started_and_before_it_is_recorded() {
    let mut stage = Stage::planned(Plan::with_process("cm-gateway", Role::CmGateway)).await;
    let (reference, order_id) = stage.create("any/start_slow_1500").await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Idempotency-Key", "k");
    headers.insert("Prefer", "wait=0");
    let body = serde_json::to_vec(&json!({ "order_id": order_id, "method": "ideal" })).expect("JSON");
    let (_, answer) = stage
        .send(&format!("kassa.cmd.{SHOP}.start_payment"), headers, body)
        .await;
    assert_eq!(answer["next_action"]["type"], "wait", "{answer}");
    stage
        .until("the effect at CM", async |s| {
            s.count(&reference, "effect", "start").await == 1
        })
        .await;
    stage.kill("cm-gateway");
    stage.spawn("cm-gateway");
    // Nobody may start again; the shopper gets the menu, once the call can no longer be under way.
    stage
        .until("the menu as the next action", async |s| {
            s.get_order(&order_id).await["next_action"]["url"]
                .as_str()
                .is_some_and(|url| url.contains("/ps/menu"))
        })
        .await;
    stage.press(&reference, "ideal/success").await;
    ends_well(&stage, &order_id, &reference).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_is_killed_while_an_order_waits_to_be_paid() {
    let mut stage = Stage::planned(Plan::with_process("relay", Role::Relay)).await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.kill("relay");
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    assert_eq!(
        stage.shipments(&order_id).await,
        0,
        "nothing can be shipped while nothing is relayed"
    );
    stage.spawn("relay");
    ends_well(&stage, &order_id, &reference).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_server_is_killed_and_comes_back_with_its_data() {
    let (mut nats, logins) = own_nats("killed");
    let stage = Stage::planned(Plan {
        processes: vec![],
        nats: Some((nats.url(), logins)),
        database: None,
    })
    .await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let mut nats = tokio::task::spawn_blocking(move || {
        nats.kill().expect("it is ours to kill");
        nats
    })
    .await
    .expect("it does not panic");
    // While the bus is away, CM notifies, the report is read, and the order becomes safe.
    stage.press(&reference, "ideal/success").await;
    let safe = format!(
        "SELECT count(*) FROM events WHERE event_type = 'ConfidenceReachedSafe' AND aggregate_id = '{order_id}'"
    );
    stage
        .until("safe without the bus", async |s| s.sql_count(&safe).await == 1)
        .await;
    let _nats = tokio::task::spawn_blocking(move || {
        nats.restart().expect("it starts again");
        nats
    })
    .await
    .expect("it does not panic");
    ends_well(&stage, &order_id, &reference).await;
    another_goes_through(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bus_is_wiped_and_filled_again_with_the_same_sequences_and_no_second_shipment() {
    let (mut nats, logins) = own_nats("wiped");
    let stage = Stage::planned(Plan {
        processes: vec![],
        nats: Some((nats.url(), logins.clone())),
        database: None,
    })
    .await;
    let (shipped_reference, shipped) = stage.create("ideal/success").await;
    stage.start(&shipped).await;
    stage.press(&shipped_reference, "ideal/success").await;
    ends_well(&stage, &shipped, &shipped_reference).await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let before = stream(&nats.url(), &logins, stage.store.head(0).await.expect("a head")).await;

    let nats = tokio::task::spawn_blocking(move || {
        nats.kill().expect("it is ours to kill");
        nats.wipe().expect("its data can be deleted");
        nats.restart().expect("it starts again on its port");
        nats
    })
    .await
    .expect("it does not panic");

    let count = i64::try_from(before.len()).expect("few");
    let after = stream(&nats.url(), &logins, count).await;
    assert_eq!(before, after, "the same messages under the same sequences");
    stage.press(&reference, "ideal/success").await;
    ends_well(&stage, &order_id, &reference).await;
    stage
        .until("the first shipment was recognised", async |s| {
            s.shipped.duplicates() >= 1
        })
        .await;
    another_goes_through(&stage).await;
    assert_eq!(stage.shipments(&shipped).await, 1, "no second shipment");
    assert_eq!(
        stage.count(&shipped_reference, "request", "start").await,
        1,
        "history is not worked again"
    );
}

/// Everybody has recovered: another order goes all the way, over the bus.
pub(crate) async fn another_goes_through(stage: &Stage) {
    let (reference, order_id) = stage.create("ideal/success").await;
    stage
        .until("a redirect", async |s| {
            let body = json!({ "order_id": order_id, "method": "ideal" });
            s.command_with_key("start_payment", "after", &body).await["next_action"]["type"] == "redirect"
        })
        .await;
    stage.press(&reference, "ideal/success").await;
    ends_well(stage, &order_id, &reference).await;
}

/// Every message of the stream up to a sequence, as (sequence, id, body), once it is there.
pub(crate) async fn stream(
    url: &str,
    logins: &crate::world::Logins,
    upto: i64,
) -> Vec<(u64, String, Vec<u8>)> {
    let client = kassa_chassis::bus::connect(url, &logins.relay, "test reader")
        .await
        .expect("NATS answers");
    let jetstream = async_nats::jetstream::new(client);
    let deadline = tokio::time::Instant::now() + crate::stage::DEADLINE;
    let mut look = tokio::time::interval(std::time::Duration::from_millis(50));
    let upto = u64::try_from(upto).expect("a head is not negative");
    loop {
        look.tick().await;
        assert!(
            tokio::time::Instant::now() < deadline,
            "the stream did not come back"
        );
        let Ok(stream) = jetstream.get_stream("KASSA_EVENTS").await else {
            continue;
        };
        let mut messages = Vec::new();
        for sequence in 1..=upto {
            let Ok(message) = stream.get_raw_message(sequence).await else {
                break;
            };
            let id = message
                .headers
                .get("Nats-Msg-Id")
                .map_or_else(String::new, ToString::to_string);
            messages.push((message.sequence, id, message.payload.to_vec()));
        }
        if messages.len() == usize::try_from(upto).expect("few") {
            return messages;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_is_repeated_with_the_same_key_and_another_body_is_refused() {
    let stage = Stage::new().await;
    let body = order_body("same", "ideal/success");
    let first = stage.command_with_key("create_order", "key", &body).await;
    let second = stage.command_with_key("create_order", "key", &body).await;
    assert_eq!(first, second);
    let mut other = body.clone();
    other["amount"]["value"] = json!(5000);
    let refused = stage.command_with_key("create_order", "key", &other).await;
    assert_eq!(refused["code"], "idempotency_key_reused");
    let taken = stage.command("create_order", &other).await;
    assert_eq!(
        (&taken["code"], &taken["order_id"]),
        (&json!("order_reference_taken"), &first["order_id"])
    );
}
