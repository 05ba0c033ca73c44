//! How does an order end that is not simply paid: canceled, expired, refused for its method, and why is it not shipped?

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use async_nats::HeaderMap;
use kassa_chassis::bus;
use kassa_shipment::{Consumer, Database, Inbox, Instruction, Settings};
use serde_json::{Value, json};
use tokio_postgres::{NoTls, Transaction};
use tokio_util::sync::CancellationToken;

use crate::{
    stage::{Stage, order_body},
    world::{SHOP, world},
};

/// More than the time of an order and of an attempt, and than what the provider may take to show an effect.
const LATER_MS: i64 = 33 * 60 * 1000;

async fn query(stage: &Stage, verb: &str, body: &Value) -> Value {
    let subject = format!("kassa.qry.{SHOP}.{verb}");
    let body = serde_json::to_vec(body).expect("JSON");
    stage.send(&subject, HeaderMap::new(), body).await.1
}

async fn until_status(stage: &Stage, order_id: &str, status: &str) {
    stage
        .until(&format!("{order_id} is {status}"), async |s| {
            s.get_order(order_id).await["status"] == status
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canceled_order_takes_no_payment_and_late_money_never_ships() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let cancel = json!({ "order_id": order_id, "reason": "out of stock" });
    for _ in 0..2 {
        let answer = stage.command("cancel_order", &cancel).await;
        assert_eq!(
            (&answer["order_id"], &answer["status"]),
            (&json!(order_id), &json!("canceled")),
            "{answer}"
        );
        assert!(answer["position"].is_string(), "{answer}");
    }
    let refused = stage
        .command(
            "start_payment",
            &json!({ "order_id": order_id, "method": "ideal" }),
        )
        .await;
    assert_eq!(
        (&refused["status"], &refused["code"]),
        (&json!(409), &json!("order_not_payable"))
    );
    assert!(
        refused["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("canceled since 20")),
        "{refused}"
    );
    // The shopper was at the bank already.
    stage.press(&reference, "ideal/success").await;
    until_status(&stage, &order_id, "paid").await;
    let order = stage.get_order(&order_id).await;
    assert_eq!(order["safe"]["value"], "no");
    assert_eq!(order["safe"]["reasons"][0]["reason"], "order_canceled");
    let why = query(&stage, "explain_order", &json!({ "order_id": order_id })).await;
    assert_eq!(
        (&why["safe"], &why["missing"][0]["code"]),
        (&json!("no"), &json!("order_canceled")),
        "{why}"
    );
    assert!(why["last_read_at"].is_string(), "{why}");
    assert_eq!(stage.shipments(&order_id).await, 0);
    let paid = stage
        .command("cancel_order", &json!({ "order_id": order_id }))
        .await;
    assert_eq!(
        paid["status"], "paid",
        "canceled before, and a repeat says where it stands: {paid}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_expire_when_their_time_is_over_and_a_report_shows_nothing() {
    let stage = Stage::new().await;
    let (_, never_started) = stage.create("ideal/success").await;
    let (reference, given_up) = stage.create("ideal/cancel").await;
    stage.start(&given_up).await;
    stage.press(&reference, "ideal/cancel").await;
    stage.until_order(&given_up, "open", "canceled", "no").await;
    let (waiting, waiting_id) = stage.create("ideal/success").await;
    stage.start(&waiting_id).await;
    stage
        .store
        .set_clock_offset(LATER_MS)
        .await
        .expect("the owner may");
    until_status(&stage, &never_started, "expired").await;
    until_status(&stage, &given_up, "expired").await;
    // The shopper left the bank's page open: the attempt ends by a report first, and then the order.
    until_status(&stage, &waiting_id, "expired").await;
    let refused = stage
        .command(
            "start_payment",
            &json!({ "order_id": never_started, "method": "ideal" }),
        )
        .await;
    assert_eq!(refused["code"], "order_not_payable", "{refused}");
    // And comes back to it: money is money, and nobody has canceled the order.
    stage.press(&waiting, "ideal/success").await;
    stage.until_order(&waiting_id, "paid", "authorized", "yes").await;
    let asks = "SELECT count(*) FROM timers WHERE kind = 'expire'";
    assert_eq!(
        stage.sql_count(asks).await,
        0,
        "timers that nobody needs are left"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_attempt_after_a_canceled_one_uses_the_same_order_at_cm() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/cancel").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/cancel").await;
    stage.until_order(&order_id, "open", "canceled", "no").await;
    let again = stage.start(&order_id).await;
    assert_eq!(again["next_action"]["type"], "redirect", "{again}");
    assert_eq!(stage.count(&reference, "request", "create").await, 1);
    assert_eq!(stage.count(&reference, "request", "start").await, 2);
    let order = stage.get_order(&order_id).await;
    assert_eq!(order["status"], "pending");
    assert_eq!(order["payments"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_is_refused_by_the_rule_that_excludes_it_and_listed_where_it_fits() {
    let stage = Stage::new().await;
    for (country, amount, currency, method, code) in [
        ("US", 4995, "EUR", "ideal", "method_not_available"),
        ("NL", 4995, "USD", "ideal", "currency_not_supported"),
        ("NL", 6_000_000, "EUR", "ideal", "amount_out_of_range"),
        ("NL", 4995, "EUR", "teleport", "method_not_available"),
    ] {
        let mut body = order_body(
            &format!("M-{country}-{amount}-{currency}-{method}"),
            "ideal/success",
        );
        body["country"] = json!(country);
        body["amount"] = json!({ "value": amount, "currency": currency });
        let order = stage.command("create_order", &body).await;
        let start = json!({ "order_id": order["order_id"], "method": method });
        let refused = stage.command("start_payment", &start).await;
        assert_eq!(
            (&refused["status"], &refused["code"]),
            (&json!(422), &json!(code)),
            "{refused}"
        );
    }
    let list = json!({ "country": "NL", "currency": "EUR", "amount": 4995, "language": "nl" });
    let listed = query(&stage, "list_methods", &list).await;
    assert_eq!(listed["methods"][0]["name"], "iDEAL | Wero", "{listed}");
    let wrong = query(
        &stage,
        "list_methods",
        &json!({ "country": "XX", "currency": "EUR" }),
    )
    .await;
    assert_eq!(
        (&wrong["status"], &wrong["errors"][0]["pointer"]),
        (&json!(400), &json!("/country"))
    );
}

/// An order that was paid, shipped, and charged back a day later; its id.
async fn reversed(stage: &Stage) -> String {
    let (reference, order_id) = stage.create("any/safe_then_reversed").await;
    stage.start(&order_id).await;
    stage.press(&reference, "any/safe_then_reversed").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    stage.pass("25h").await;
    stage.until_order(&order_id, "paid", "authorized", "lost").await;
    order_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_that_goes_back_after_the_release_holds_the_order_once() {
    let stage = Stage::new().await;
    let order_id = reversed(&stage).await;
    stage
        .until("it is held", async |stage| stage.holds(&order_id).await == 1)
        .await;
    // Both again, as after the stream was wiped and refilled: the inbox knows them.
    let operator = bus::connect(&stage.config.nats.url, &stage.logins.of("operator"), "test")
        .await
        .expect("NATS answers");
    for event in ["ConfidenceReachedSafe", "SafetyLost"] {
        let sql = format!("SELECT position FROM events WHERE event_type = '{event}'");
        let body = serde_json::to_vec(&json!({ "sequence": stage.sql_count(&sql).await })).expect("JSON");
        let answer = operator
            .request("kassa.redeliver.test-shipment.KASSA_EVENTS", body.into())
            .await
            .expect("the shipment service answers");
        let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert_eq!(answer["settled"], true, "{event}: {answer}");
    }
    assert_eq!(
        (stage.shipments(&order_id).await, stage.holds(&order_id).await),
        (1, 1),
        "shipped and held, each once"
    );
    assert_eq!((stage.shipped.released(), stage.shipped.held()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_its_hold_overtook_ships_nothing() {
    let stage = Stage::new().await;
    let order_id = reversed(&stage).await;
    // Another shipment service, which was away so far and cannot do its first release when it comes: that is delivered
    // again, after the hold.
    let url = world().database().await;
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("it opens");
    tokio::spawn(connection);
    Inbox::prepare(&client)
        .await
        .expect("the other shop's tables are made");
    let (held, refused, shipped) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicU32::new(0)),
    );
    let consumer = Consumer::connect(
        Settings::new(&stage.config.nats.url, "overtaken"),
        bus::options(&stage.config.nats.url, &stage.logins.shipment).expect("a good address"),
        Database::new(url.parse().expect("an address"), NoTls),
    )
    .await
    .expect("the shipment service connects");
    let told = consumer.stats();
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (held, refused, shipped) = (held.clone(), refused.clone(), shipped.clone());
        consumer.run(
            async move |told: &Instruction, _: &Transaction<'_>| {
                if !matches!(told, Instruction::Ship(_)) {
                    held.store(true, Ordering::SeqCst);
                } else if held.load(Ordering::SeqCst) {
                    shipped.fetch_add(1, Ordering::SeqCst);
                } else {
                    refused.fetch_add(1, Ordering::SeqCst);
                    return Err("the printer is out of paper");
                }
                Ok(())
            },
            stop.clone(),
        )
    });
    stage
        .until("the release came again, after its hold", async |_| {
            told.duplicates() + told.released() >= 1
        })
        .await;
    stop.cancel();
    running.await.expect("it does not panic").expect("it stops");
    assert!(held.load(Ordering::SeqCst) && refused.load(Ordering::SeqCst) >= 1);
    assert_eq!(shipped.load(Ordering::SeqCst), 0, "goods left after their hold");
    assert_eq!((told.released(), told.held()), (0, 1));
    for (table, rows) in [("shipments", 0), ("holds", 1), ("shipment_inbox", 2)] {
        let sql = format!("SELECT count(*) FROM shipment_service.{table} WHERE order_id = $1");
        let count: i64 = client.query_one(&sql, &[&order_id]).await.expect(&sql).get(0);
        assert_eq!(count, rows, "{table}");
    }
}
