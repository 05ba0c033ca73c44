//! Does every scenario of the simulator, through the real services, come to the end that the simulator publishes?

use futures::StreamExt as _;
use kassa_cm_simulator::{Act, SCENARIOS, ScenarioDoc, Stand};
use serde_json::{Value, json};

use crate::stage::Stage;

/// Stories played at once on one stage: more would only wait for each other.
const AT_ONCE: usize = 6;

/// What a story is about, as an event that must be stored once: without it the end could be reached by another way, or
/// could be the beginning.
const MUST_STORE: [(&str, &str); 11] = [
    ("any/psp_503_before_effect", "ProviderOutcomeUnknown"),
    ("any/psp_503_after_effect", "ProviderOutcomeUnknown"),
    ("any/psp_timeout_before_effect", "ProviderOutcomeUnknown"),
    ("any/effect_visible_late", "ProviderOutcomeUnknown"),
    ("any/create_timeout_after_effect", "ProviderOutcomeUnknown"),
    ("any/amount_short_11", "AmountMismatchFound"),
    ("any/amount_over_11", "AmountMismatchFound"),
    ("any/other_currency", "AmountMismatchFound"),
    ("any/wrong_reference", "AmountMismatchFound"),
    ("any/safe_then_reversed", "SafetyLost"),
    ("ideal/late_success", "OrderExpired"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_comes_to_its_documented_end() {
    let stage = &Stage::new().await;
    let published: Value = stage
        .http_get(&format!("{}/sim/scenarios", stage.sim_url))
        .await
        .json()
        .await
        .expect("JSON");
    assert_eq!(published, serde_json::to_value(SCENARIOS).expect("plain data"));
    let timeless = SCENARIOS.iter().filter(|doc| !takes_time(doc));
    let played: Vec<_> = futures::stream::iter(timeless)
        .map(async |doc| (doc, play(stage, doc).await))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    // Once more when all the others are over: nothing has moved since.
    for (doc, order_id) in played {
        stands(stage, doc, &order_id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_scenario_in_which_time_passes_comes_to_its_documented_end() {
    let with_time: Vec<_> = SCENARIOS.iter().filter(|doc| takes_time(doc)).collect();
    assert!(with_time.len() >= 5, "the clock has something to do");
    for doc in with_time {
        // A stage of its own: its clock is everybody's there.
        let stage = Stage::new().await;
        let order_id = play(&stage, doc).await;
        stands(&stage, doc, &order_id).await;
    }
}

fn takes_time(doc: &ScenarioDoc) -> bool {
    doc.steps.iter().any(|step| matches!(step.act, Act::Wait { .. }))
}

/// Takes the steps of a story and waits for its end; the order's id.
pub(crate) async fn play(stage: &Stage, doc: &ScenarioDoc) -> String {
    let (reference, order_id) = stage.create(doc.name).await;
    for step in doc.steps {
        match step.act {
            Act::Start => {
                stage.start_by(&order_id, doc.method).await;
            }
            Act::Pay => {
                let body = json!({ "order_reference": at_cm(stage, &reference).await });
                stage.sim_post("/sim/pay", &body).await;
            }
            Act::Wait { time } => stage.pass(time).await,
        }
        if let Some(stand) = step.until {
            until(stage, doc, &order_id, stand).await;
        }
    }
    until(stage, doc, &order_id, doc.end.stand).await;
    if let Some((_, event)) = MUST_STORE.iter().find(|(name, _)| *name == doc.name) {
        let what = format!("{}: {event} is stored", doc.name);
        stage
            .until(&what, async |stage| stored(stage, &order_id, event).await == 1)
            .await;
    }
    let shipments = i64::from(doc.end.shipments);
    stage
        .until(&format!("{}: {shipments} shipments", doc.name), async |stage| {
            stage.shipments(&order_id).await == shipments
        })
        .await;
    told_as_promised(doc, &ledger(stage, &reference).await);
    order_id
}

/// Every column of the published end, now.
pub(crate) async fn stands(stage: &Stage, doc: &ScenarioDoc, order_id: &str) {
    let order = stage.get_order(order_id).await;
    let end = doc.end;
    assert_eq!(
        (
            &order["status"],
            &order["payments"][0]["status"],
            &order["safe"]["value"]
        ),
        (
            &end.stand.order.into(),
            &end.stand.payment.into(),
            &end.stand.safe.into()
        ),
        "{}: {order}",
        doc.name
    );
    assert_eq!(
        order["payments"].as_array().map(Vec::len),
        Some(1),
        "{}",
        doc.name
    );
    assert_eq!(
        stage.shipments(order_id).await,
        i64::from(end.shipments),
        "{}: shipments",
        doc.name
    );
    let reference = order["order_reference"].as_str().expect("a reference");
    let rows = ledger(stage, reference).await;
    for (op, calls) in [
        ("create", end.provider_calls.create),
        ("start", end.provider_calls.start),
    ] {
        assert_eq!(
            count(&rows, "request", op),
            calls as usize,
            "{}: {op} calls",
            doc.name
        );
    }
}

async fn until(stage: &Stage, doc: &ScenarioDoc, order_id: &str, stand: Stand) {
    // On stdout only of a test that fails: which of the many it was.
    println!("{}: waiting for {stand:?}", doc.name);
    stage
        .until_order(order_id, stand.order, stand.payment, stand.safe)
        .await;
}

/// Events of a type on the order and on its payment.
async fn stored(stage: &Stage, order_id: &str, event: &str) -> i64 {
    let order = stage.get_order(order_id).await;
    let payment_id = order["payments"][0]["payment_id"].as_str().unwrap_or_default();
    stage
        .sql_count(&format!(
            "SELECT count(*) FROM events WHERE event_type = '{event}' AND aggregate_id IN ('{order_id}', '{payment_id}')"
        ))
        .await
}

/// The ledger of an order and of those that were made for it under its reference and a suffix.
async fn ledger(stage: &Stage, reference: &str) -> Vec<Value> {
    let mut rows = stage.ledger(reference).await;
    let newest = at_cm(stage, reference).await;
    if newest != reference {
        rows.extend(stage.ledger(&newest).await);
    }
    rows
}

/// The reference under which CM has the order now: after a create whose answer was lost, another than the shop's.
async fn at_cm(stage: &Stage, reference: &str) -> String {
    let orders: Value = stage
        .http_get(&format!("{}/sim/orders", stage.sim_url))
        .await
        .json()
        .await
        .expect("JSON");
    let references = orders.as_array().expect("a list").iter();
    references
        .filter_map(|order| order["order_reference"].as_str())
        .find(|found| found.starts_with(reference))
        .expect("CM has the order")
        .to_owned()
}

/// Whether the merchant was notified in the way that the story is about.
fn told_as_promised(doc: &ScenarioDoc, rows: &[Value]) {
    let at = |kind: &str, op: &str| {
        rows.iter()
            .position(|row| row["kind"] == kind && row["op"] == op && row["status"].is_u64())
    };
    let notified = rows.iter().filter(|row| row["kind"] == "notification").count();
    match doc.name {
        "ideal/no_notification" => assert_eq!(notified, 0),
        "ideal/double_notification" => assert!(notified >= 2, "{notified}"),
        "ideal/notification_before_answer" => {
            let (told, answered) = (at("notification", "start"), at("answer", "start"));
            assert!(told.is_some() && told < answered, "{rows:?}");
        }
        "ideal/notification_before_return" => {
            let (told, back) = (at("notification", "bank"), at("answer", "bank"));
            assert!(told.is_some() && told < back, "{rows:?}");
        }
        "ideal/return_before_notification" => {
            let (told, back) = (at("notification", "bank"), at("answer", "bank"));
            assert!(
                back.is_some() && told.is_none_or(|told| Some(told) > back),
                "{rows:?}"
            );
        }
        _ => {}
    }
}

fn count(rows: &[Value], kind: &str, op: &str) -> usize {
    rows.iter()
        .filter(|row| row["kind"] == kind && row["op"] == op)
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_safe_says_why_and_no_personal_data_leaves_the_vault() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/success").await;
    let order = stage.until_order(&order_id, "paid", "authorized", "yes").await;
    assert_eq!(order["safe"]["epoch"], 1);
    assert_eq!(order["safe"]["evidence"]["counted"]["value"], 4995);
    assert_eq!(order["order_reference"], reference.as_str());
    assert!(
        !order.to_string().contains("canary.person"),
        "personal data in {order}"
    );
    assert_eq!(stage.shipped.refused(), 0);
    // The person is in the vault and nowhere else.
    for (table, times) in [
        ("shoppers", 1),
        ("events", 0),
        ("command_log", 0),
        ("timers", 0),
        ("provider_reads", 0),
        ("notifications", 0),
        ("read_orders", 0),
        ("read_shipping", 0),
    ] {
        // Bytes are written as text where they are text: JSON, in all these columns.
        let bytes = "encode(convert_to('canary.person', 'UTF8'), 'hex')";
        let sql = format!(
            "SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%canary.person%' OR t::text LIKE '%' || {bytes} || '%'"
        );
        assert_eq!(stage.sql_count(&sql).await, times, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canceled_attempt_leaves_the_order_open_for_another() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/cancel").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/cancel").await;
    stage.until_order(&order_id, "open", "canceled", "no").await;
    let again = stage.start(&order_id).await;
    assert_eq!(again["next_action"]["type"], "redirect", "{again}");
    stage.press(&reference, "ideal/success").await;
    stage
        .until("the second attempt is safe", async |s| {
            s.get_order(&order_id).await["safe"]["value"] == "yes"
        })
        .await;
    stage
        .until("one shipment", async |s| s.shipments(&order_id).await == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shopper_whose_start_was_lost_is_sent_to_the_menu() {
    let stage = Stage::new().await;
    let (_, order_id) = stage.create("any/psp_timeout_before_effect").await;
    let started = stage.start(&order_id).await;
    assert_eq!(started["next_action"]["type"], "redirect", "{started}");
    let url = started["next_action"]["url"].as_str().expect("a URL");
    assert!(url.contains("/ps/menu"), "{started}");
    let page = stage.http_get(url).await.text().await.expect("a page");
    assert!(page.contains("iDEAL") && page.contains("PayPal"), "{page}");
}
