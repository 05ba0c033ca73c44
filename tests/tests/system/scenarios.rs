//! Every scenario of the simulator through the real services, against its documented end.

use serde_json::Value;

use crate::stage::Stage;

/// One row of the table: order, payment, safe, shipments, `start` calls.
struct End {
    order: &'static str,
    payment: &'static str,
    safe: &'static str,
    shipments: i64,
    starts: usize,
}

const PAID: End = End {
    order: "paid",
    payment: "authorized",
    safe: "yes",
    shipments: 1,
    starts: 1,
};

/// Plays a scenario and compares every column; the order's document for whatever else is to be looked at.
async fn plays(scenario: &str, end: End) -> (Stage, String, Value, Value) {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create(scenario).await;
    let started = stage.start(&order_id).await;
    assert_eq!(started["next_action"]["type"], "redirect", "{started}");
    stage.press(&reference, scenario).await;
    let order = stage
        .until_order(&order_id, end.order, end.payment, end.safe)
        .await;
    stage
        .until("the shipments", async |s| {
            s.shipments(&order_id).await == end.shipments
        })
        .await;
    assert_eq!(
        stage.count(&reference, "request", "start").await,
        end.starts,
        "start calls"
    );
    assert_eq!(order["payments"].as_array().map(Vec::len), Some(1));
    // The documented end is the one that the simulator publishes.
    let listed: Value = stage
        .http_get(&format!("{}/sim/scenarios", stage.sim_url))
        .await
        .json()
        .await
        .expect("JSON");
    let documented = listed
        .as_array()
        .expect("a list")
        .iter()
        .find(|documented| scenario.starts_with(documented["name"].as_str().expect("a name")))
        .expect("it is listed");
    let said = &documented["end"];
    assert_eq!(
        (
            &said["order"],
            &said["payment"],
            &said["safe"],
            &said["shipments"],
            &said["provider_calls"]["start"]
        ),
        (
            &end.order.into(),
            &end.payment.into(),
            &end.safe.into(),
            &end.shipments.into(),
            &end.starts.into()
        ),
    );
    (stage, reference, order, started)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ideal_success_is_paid_safe_and_shipped_once() {
    let (stage, reference, order, _) = plays("ideal/success", PAID).await;
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
async fn ideal_cancel_leaves_the_order_open_for_another_attempt() {
    let end = End {
        order: "open",
        payment: "canceled",
        safe: "no",
        shipments: 0,
        starts: 1,
    };
    let (stage, reference, order, _) = plays("ideal/cancel", end).await;
    let order_id = order["order_id"].as_str().expect("an id").to_owned();
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
async fn without_a_notification_the_ladder_finds_the_payment() {
    let (stage, reference, ..) = plays("ideal/no_notification", PAID).await;
    assert!(
        stage
            .ledger(&reference)
            .await
            .iter()
            .all(|row| row["kind"] != "notification")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubled_notification_ships_once() {
    let (stage, reference, ..) = plays("ideal/double_notification", PAID).await;
    let sent = stage
        .ledger(&reference)
        .await
        .iter()
        .filter(|row| row["kind"] == "notification")
        .count();
    assert!(sent >= 2, "the fault was not exercised: {sent} notifications");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_whose_answer_is_lost_is_paid_through_the_menu_and_never_repeated() {
    let (stage, _, order, started) = plays("any/psp_timeout_after_effect", PAID).await;
    let url = started["next_action"]["url"].as_str().expect("a URL");
    assert!(url.contains("/ps/menu"), "{started}");
    let unknown = stage
        .sql_count(&format!(
            "SELECT count(*) FROM events WHERE event_type = 'ProviderOutcomeUnknown' AND aggregate_id = '{}'",
            order["payments"][0]["payment_id"].as_str().expect("an id")
        ))
        .await;
    assert_eq!(unknown, 1, "authorized after an unknown outcome");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eleven_cents_short_is_found_and_held() {
    let end = End {
        order: "partially_paid",
        payment: "authorized",
        safe: "no",
        shipments: 0,
        starts: 1,
    };
    let (stage, _, order, _) = plays("any/amount_short_11", end).await;
    assert_eq!(order["safe"]["reasons"][0]["reason"], "amount_outside_tolerance");
    let found = stage
        .sql_count("SELECT count(*) FROM events WHERE event_type = 'AmountMismatchFound'")
        .await;
    assert_eq!(found, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_whose_answer_is_lost_is_made_again_under_another_reference() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("any/create_timeout_after_effect").await;
    stage.start(&order_id).await;
    stage
        .until("a redirect", async |s| {
            s.get_order(&order_id).await["next_action"]["type"] == "redirect"
        })
        .await;
    let again = format!("{reference}~1.2");
    assert_eq!(stage.count(&reference, "request", "create").await, 1);
    assert_eq!(stage.count(&again, "request", "create").await, 1);
    stage.press(&again, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    stage
        .until("one shipment", async |s| s.shipments(&order_id).await == 1)
        .await;
}
