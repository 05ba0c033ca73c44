//! What does the provider do to us, and does every order come to its right end all the same? By the ids of the fault list.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use kassa_cm_simulator::{SCENARIOS, ScenarioDoc};
use kassa_event_store::{Store, StoreConfig};
use serde_json::{Value, json};

use crate::{
    scenarios::{play, stands},
    stage::{Stage, order_body},
    world::{SHOP, world},
};

/// Orders at once on one stage.
const AT_ONCE: usize = 4;

/// Plays published stories, and looks at each again when all are over.
async fn play_all(stage: &Stage, names: &[&str]) {
    let played: Vec<_> = futures::stream::iter(names.iter().map(|name| doc(name)))
        .map(async |doc| (doc, play(stage, doc).await))
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    for (doc, order_id) in played {
        stands(stage, doc, &order_id).await;
    }
}

fn doc(name: &str) -> &'static ScenarioDoc {
    let found = SCENARIOS.iter().find(|doc| doc.name == name);
    found.unwrap_or_else(|| panic!("{name} is no scenario"))
}

async fn fault(stage: &Stage, fault: &str, operation: &str, count: u32) {
    let body = json!({ "fault": fault, "operation": operation, "count": count });
    stage.sim_post("/sim/faults", &body).await;
}

/// Waits until all faults were felt.
async fn all_felt(stage: &Stage) {
    stage
        .until("all faults are felt", async |stage| {
            let url = format!("{}/sim/faults", stage.sim_url);
            let waiting: Value = stage.http_get(&url).await.json().await.expect("JSON");
            waiting["faults"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
}

/// An order whose shopper was sent to the bank.
async fn redirected(stage: &Stage) -> (String, String) {
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.until_order(&order_id, "pending", "redirected", "no").await;
    (reference, order_id)
}

async fn pay(stage: &Stage, reference: &str) {
    stage
        .sim_post("/sim/pay", &json!({ "order_reference": reference }))
        .await;
}

/// Under which references CM holds an order and those that were made for it again.
async fn at_cm(stage: &Stage, reference: &str) -> Vec<String> {
    let url = format!("{}/sim/orders", stage.sim_url);
    let orders: Value = stage.http_get(&url).await.json().await.expect("JSON");
    let references = orders.as_array().expect("a list").iter();
    let mut references: Vec<String> = references
        .filter_map(|order| order["order_reference"].as_str())
        .filter(|found| *found == reference || found.starts_with(&format!("{reference}~")))
        .map(ToOwned::to_owned)
        .collect();
    references.sort();
    references
}

/// Starts of an order at CM by us, and by the shopper on the menu, over all its references.
async fn starts(stage: &Stage, reference: &str) -> usize {
    let mut starts = 0;
    for reference in at_cm(stage, reference).await {
        starts += stage.count(&reference, "request", "start").await;
    }
    starts
}

async fn explained(stage: &Stage, order_id: &str) -> String {
    let body = json!({ "order_id": order_id }).to_string().into_bytes();
    let subject = format!("kassa.qry.{SHOP}.explain_order");
    let (_, answer) = stage.send(&subject, async_nats::HeaderMap::new(), body).await;
    answer["sentence"].as_str().unwrap_or_default().to_owned()
}

async fn hook(stage: &Stage, url: &str) {
    assert_eq!(stage.http_get(url).await.status(), 200, "{url}");
}

/// No payment was ever called failed for what the provider did.
async fn nothing_failed(stage: &Stage) {
    let failed = "SELECT count(*) FROM events WHERE event_type IN ('PaymentFailed', 'PaymentCanceled')";
    assert_eq!(stage.sql_count(failed).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_01_calls_that_fail_before_or_after_their_effect_are_made_once_or_read_about() {
    let stage = &Stage::new().await;
    play_all(
        stage,
        &[
            "any/create_503_before_effect",
            "any/create_503_after_effect",
            "any/create_timeout_before_effect",
            "any/create_timeout_after_effect",
            "any/psp_503_before_effect",
            "any/psp_503_after_effect",
            "any/psp_timeout_before_effect",
            "any/psp_timeout_after_effect",
            "any/status_503",
            "any/status_timeout",
        ],
    )
    .await;
    for what in [
        "psp_503",
        "psp_503_after_effect",
        "psp_timeout",
        "psp_timeout_after_effect",
    ] {
        let (reference, order_id) = redirected(stage).await;
        fault(stage, what, "status", 2).await;
        pay(stage, &reference).await;
        stage.until_order(&order_id, "paid", "authorized", "yes").await;
        assert_eq!(starts(stage, &reference).await, 1, "{what}");
    }
    nothing_failed(stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_02_an_effect_that_shows_late_is_waited_for_and_nothing_is_started_meanwhile() {
    let stage = &Stage::new().await;
    let again = async |order_id: &str| {
        let body = json!({ "order_id": order_id, "method": "ideal" });
        stage.command("start_payment", &body).await
    };
    let (late, late_id) = stage.create("any/effect_visible_late").await;
    let (never, never_id) = stage.create("any/psp_timeout_before_effect").await;
    for order_id in [&late_id, &never_id] {
        stage.start(order_id).await;
        stage
            .until_order(order_id, "pending", "outcome_unknown", "no")
            .await;
    }
    // Well before the horizon, also on a machine that takes a minute for what comes now.
    stage.pass("25s").await;
    for (reference, order_id) in [(&late, &late_id), (&never, &never_id)] {
        let read = stage.count(reference, "answer", "status").await;
        stage
            .until("it is read again, and shows nothing", async |stage| {
                stage.count(reference, "answer", "status").await > read + 1
            })
            .await;
        let refused = again(order_id).await;
        assert_eq!(refused["code"], "payment_under_way", "{refused}");
        assert_eq!(starts(stage, reference).await, 1);
        let order = stage.get_order(order_id).await;
        assert_eq!(order["payments"][0]["status"], "outcome_unknown", "{order}");
    }
    stage.pass("75s").await;
    stage.until_order(&late_id, "pending", "redirected", "no").await;
    pay(stage, &late).await;
    stage.until_order(&late_id, "paid", "authorized", "yes").await;
    // Beyond the horizon, what does not show did not happen: the shopper may try again, and it heals.
    stage.until_order(&never_id, "open", "failed", "no").await;
    let keys = format!("{}/sim/orders?reference={never}", stage.sim_url);
    let found: Value = stage.http_get(&keys).await.json().await.expect("JSON");
    let key = found[0]["order_key"].as_str().expect("a key");
    let healed = json!({ "scenario": "ideal/success" });
    stage
        .sim_post(&format!("/sim/orders/{key}/scenario"), &healed)
        .await;
    let started = again(&never_id).await;
    assert_eq!(started["next_action"]["type"], "redirect", "{started}");
    pay(stage, &never).await;
    stage
        .until("the second attempt is safe", async |stage| {
            stage.get_order(&never_id).await["safe"]["value"] == "yes"
        })
        .await;
    assert_eq!(starts(stage, &never).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_03_a_reference_that_is_taken_leaves_a_ghost_that_is_listed_with_its_reason() {
    let stage = &Stage::new().await;
    for (scenario, reason) in [
        ("any/create_reference_taken", "CM has the reference already"),
        ("any/create_timeout_after_effect", "no answer in time"),
        ("any/create_lower_case_key", "the answer could not be taken"),
    ] {
        let order_id = play(stage, doc(scenario)).await;
        let order = stage.get_order(&order_id).await;
        let reference = order["order_reference"].as_str().expect("a reference");
        let references = at_cm(stage, reference).await;
        assert_eq!(references, [reference.to_owned(), format!("{reference}~1.2")]);
        let sentence = explained(stage, &order_id).await;
        assert!(
            sentence.contains(&format!("{reference} ({reason})")),
            "{sentence}"
        );
        assert!(!sentence.contains("~1.2"), "{sentence}");
        // Nobody has its key: nothing was ever started or shown there.
        for op in ["start", "menu_start", "status"] {
            assert_eq!(stage.count(reference, "request", op).await, 0, "{scenario}: {op}");
        }
    }
    let (_, plain) = redirected(stage).await;
    let sentence = explained(stage, &plain).await;
    assert!(!sentence.contains("CM may hold"), "{sentence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_04_a_notification_that_is_faster_than_our_own_record_is_kept_and_read_for() {
    let stage = &Stage::new().await;
    play_all(
        stage,
        &[
            "any/notification_before_create_answer",
            "ideal/notification_before_answer",
        ],
    )
    .await;
    let reference = format!("early-{}", uuid::Uuid::new_v4().simple());
    hook(stage, &format!("{}?id={reference}", stage.hooks_url)).await;
    let state = |state: &str| {
        format!("SELECT count(*) FROM notifications WHERE reference = '{reference}' AND state = '{state}'")
    };
    assert_eq!(stage.sql_count(&state("parked")).await, 1);
    // A quarter of an hour and more, in which it was looked for and not found.
    let aged = format!(
        "WITH aged AS (UPDATE notifications SET first_at = first_at - interval '20 minutes'
                        WHERE reference = '{reference}' RETURNING 1) SELECT count(*) FROM aged"
    );
    assert_eq!(stage.sql_count(&aged).await, 1);
    let order = stage
        .command("create_order", &order_body(&reference, "ideal/success"))
        .await;
    let order_id = order["order_id"].as_str().expect("an id").to_owned();
    stage
        .until("the hint is the order's", async |stage| {
            stage.sql_count(&state("known")).await == 1
        })
        .await;
    let asked = format!("SELECT count(*) FROM provider_reads WHERE order_id = '{order_id}' AND requests > 0");
    assert_eq!(stage.sql_count(&asked).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_05_notifications_twice_a_thousand_times_out_of_order_late_or_never_change_nothing() {
    let stage = &Stage::new().await;
    play_all(
        stage,
        &[
            "ideal/no_notification",
            "ideal/double_notification",
            "ideal/notified_100_times",
            "ideal/notifications_out_of_order",
            "ideal/notifications_undeliverable",
        ],
    )
    .await;
    let (reference, order_id) = redirected(stage).await;
    pay(stage, &reference).await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    let all = "SELECT count(*) FROM events";
    let quiet = async |stage: &Stage| {
        let waiting = "SELECT count(*) FROM provider_reads WHERE requests > served";
        let orders: Value = stage
            .http_get(&format!("{}/sim/orders", stage.sim_url))
            .await
            .json()
            .await
            .expect("JSON");
        let told = orders.as_array().expect("a list").iter();
        stage.sql_count(waiting).await == 0
            && told
                // Ten attempts of a notification that never arrives take longer than a test.
                .filter(|order| order["scenario"] != "ideal/notifications_undeliverable")
                .all(|order| order["notifications_pending"] == 0)
    };
    stage.until("all is quiet", quiet).await;
    let (before, reads) = (
        stage.sql_count(all).await,
        stage.count(&reference, "request", "status").await,
    );
    let began = Instant::now();
    let thousand = json!({ "order_reference": reference, "times": 1_000 });
    stage.sim_post("/sim/notify", &thousand).await;
    stage.until("all is quiet again", quiet).await;
    assert_eq!(stage.sql_count(all).await, before, "a repeat is no news");
    let reads = stage.count(&reference, "request", "status").await - reads;
    let bound = 5 + usize::try_from(began.elapsed().as_secs()).expect("a few");
    assert!((1..=bound).contains(&reads), "{reads} reads, {bound} allowed");
    assert_eq!(stage.shipments(&order_id).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_05_notifications_that_come_days_late_find_an_order_that_was_read_long_ago() {
    let stage = &Stage::new().await;
    play_all(stage, &["ideal/notified_days_late"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_06_a_notification_for_another_shops_or_an_unknown_reference_costs_no_call() {
    let stage = &Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    let other_shop = stage.hooks_url.replace(SHOP, "other-shop");
    for url in [
        format!("{other_shop}?id={reference}"),
        format!("{}?id=nobodys", stage.hooks_url),
        format!("{}?id={reference}x", stage.hooks_url),
    ] {
        hook(stage, &url).await;
    }
    let parked = "SELECT count(*) FROM notifications WHERE state = 'parked'";
    assert_eq!(stage.sql_count(parked).await, 3);
    assert_eq!(stage.sql_count("SELECT count(*) FROM provider_reads").await, 0);
    stage.start(&order_id).await;
    pay(stage, &reference).await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    assert_eq!(stage.sql_count(parked).await, 3);
    assert_eq!(stage.sql_count("SELECT count(*) FROM provider_reads").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_08_ten_minor_units_either_way_are_released_and_eleven_are_held() {
    let stage = &Stage::new().await;
    let names = [
        ("any/amount_short_11", -11),
        ("any/amount_short_10", -10),
        ("any/amount_short_1", -1),
        ("ideal/success", 0),
        ("any/amount_over_1", 1),
        ("any/amount_over_10", 10),
        ("any/amount_over_11", 11),
    ];
    play_all(stage, &names.map(|(name, _)| name)).await;
    let released = stage
        .sql_texts(
            "SELECT ((convert_from(payload, 'UTF8')::json)->'ConfidenceReachedSafe'->'evidence'->>'difference_minor')
               FROM events WHERE event_type = 'ConfidenceReachedSafe' ORDER BY 1",
        )
        .await;
    let mut released: Vec<i64> = released
        .iter()
        .map(|text| text.parse().expect("a number"))
        .collect();
    released.sort_unstable();
    assert_eq!(released, [-10, -1, 0, 1, 10]);
    let held: Vec<_> = names
        .iter()
        .filter(|(name, _)| doc(name).end.shipments == 0)
        .collect();
    assert_eq!(held.len(), 2, "{held:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_09_money_of_another_currency_is_held_whatever_cm_converts_it_to() {
    let stage = &Stage::new().await;
    play_all(
        stage,
        &[
            "any/other_currency",
            "any/paid_42_for_50",
            "any/converted_total",
            "any/converted_to_other",
        ],
    )
    .await;
    // The recorded trap: 50 USD ordered, 42 EUR paid, called SAFE.
    let reference = format!("usd-{}", uuid::Uuid::new_v4().simple());
    let mut body = order_body(&reference, "any/paid_42_for_50");
    body["amount"] = json!({ "value": 5_000, "currency": "USD" });
    let order = stage.command("create_order", &body).await;
    let order_id = order["order_id"].as_str().expect("an id");
    stage.start_by(order_id, "paypal").await;
    pay(stage, &reference).await;
    let order = stage.until_order(order_id, "pending", "authorized", "no").await;
    let sentence = explained(stage, order_id).await;
    assert!(
        sentence.contains("42.00") && sentence.contains("USD"),
        "{sentence}: {order}"
    );
    assert_eq!(stage.shipments(order_id).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_15_what_is_new_in_a_report_is_read_as_before() {
    let stage = &Stage::new().await;
    play_all(
        stage,
        &[
            "any/new_fields",
            "any/fields_missing",
            "any/one_for_a_list",
            "any/start_refused_new_code",
            "any/level_unknown_word",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_15_a_state_or_confidence_that_nobody_knows_is_pending_until_it_is_known() {
    let stage = &Stage::new().await;
    let mut orders = vec![];
    for scenario in ["any/unknown_state", "any/unknown_confidence"] {
        let (reference, order_id) = stage.create(scenario).await;
        stage.start(&order_id).await;
        stage.until_order(&order_id, "pending", "redirected", "no").await;
        pay(stage, &reference).await;
        // It is read, and says nothing.
        let seen = format!(
            "SELECT count(*) FROM events WHERE aggregate_id = '{order_id}' AND event_type = 'ProviderReportObserved'
                AND convert_from(payload, 'UTF8') ~ 'ACKNOWLEDGED_BY_WHOMEVER|WHOEVER_APPROVED'"
        );
        stage
            .until("the word is on record", async |stage| {
                stage.sql_count(&seen).await == 1
            })
            .await;
        let order = stage.get_order(&order_id).await;
        assert_eq!(
            (&order["status"], &order["safe"]["value"]),
            (&json!("pending"), &json!("no"))
        );
        let body = json!({ "order_id": order_id, "method": "ideal" });
        let refused = stage.command("start_payment", &body).await;
        assert_eq!(refused["code"], "payment_under_way", "it may be money: {refused}");
        orders.push(order_id);
    }
    // Longer than the attempt would have lived.
    stage.pass("61m").await;
    for order_id in orders {
        stage.until_order(&order_id, "paid", "authorized", "yes").await;
    }
    nothing_failed(stage).await;
}

/// Answers that are no answer to a create, a start, or a read.
const SPOILT: [&str; 18] = [
    "html",
    "wrong_content_type",
    "utf16",
    "charset_lies",
    "gzip",
    "huge",
    "trickle",
    "endless",
    "cut",
    "list",
    "nested",
    "trailing",
    "empty",
    "no_content",
    "error_with200",
    "success_and_error",
    "success_with500",
    "error_with500",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_16_p_17_an_answer_to_create_that_is_none_leads_to_another_order_under_another_reference() {
    let stage = &Stage::new().await;
    let keys = [
        "lower_case_key",
        "short_key",
        "script_url",
        "control_characters",
        "other_host",
    ];
    for what in SPOILT.iter().chain(&keys) {
        fault(stage, what, "create", 1).await;
        let (reference, order_id) = redirected(stage).await;
        assert_eq!(at_cm(stage, &reference).await.len(), 2, "{what}");
        assert_eq!(starts(stage, &reference).await, 1, "{what}");
        pay(stage, &format!("{reference}~1.2")).await;
        stage.until_order(&order_id, "paid", "authorized", "yes").await;
    }
    nothing_failed(stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_16_p_17_an_answer_to_start_that_is_none_is_read_about_and_start_is_not_sent_again() {
    let stage = &Stage::new().await;
    for what in SPOILT
        .iter()
        .chain(&["script_url", "control_characters", "other_host"])
    {
        fault(stage, what, "start", 1).await;
        let (reference, order_id) = redirected(stage).await;
        let unknown = format!(
            "SELECT count(*) FROM events WHERE event_type = 'ProviderOutcomeUnknown' AND shop = '{SHOP}'
                AND convert_from(metadata, 'UTF8') LIKE '%{order_id}%'"
        );
        assert_eq!(stage.sql_count(&unknown).await, 1, "{what}");
        pay(stage, &reference).await;
        stage.until_order(&order_id, "paid", "authorized", "yes").await;
        assert_eq!(starts(stage, &reference).await, 1, "{what}");
    }
    nothing_failed(stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_16_p_17_a_report_that_is_none_says_nothing_and_is_read_again() {
    let stage = &Stage::new().await;
    let mut orders = vec![];
    for _ in SPOILT {
        orders.push(redirected(stage).await);
    }
    stage
        .until("nothing is to be read", async |stage| {
            let waiting = "SELECT count(*) FROM provider_reads WHERE requests > served";
            stage.sql_count(waiting).await == 0
        })
        .await;
    for what in SPOILT {
        fault(stage, what, "status", 1).await;
    }
    fault(stage, "pointed_amount", "status", 1).await;
    for (reference, _) in &orders {
        pay(stage, reference).await;
    }
    all_felt(stage).await;
    // Well before the shopper's time is over, and later than the next try.
    stage.pass("30s").await;
    for (_, order_id) in &orders {
        stage.until_order(order_id, "paid", "authorized", "yes").await;
    }
    nothing_failed(stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_18_one_key_for_two_orders_stops_both_before_anything_is_started_for_the_second() {
    let stage = &Stage::new().await;
    let (first, first_id) = redirected(stage).await;
    fault(stage, "same_key", "create", 1).await;
    let (second, second_id) = stage.create("ideal/success").await;
    stage.start(&second_id).await;
    let stopped = |order_id: &str| {
        format!(
            "SELECT count(*) FROM events WHERE event_type = 'AmountMismatchFound' AND aggregate_id = '{order_id}'"
        )
    };
    for order_id in [&first_id, &second_id] {
        stage
            .until("the order is stopped", async |stage| {
                stage.sql_count(&stopped(order_id)).await == 1
            })
            .await;
    }
    stage
        .until("the second attempt is over", async |stage| {
            stage.get_order(&second_id).await["payments"][0]["status"] == "failed"
        })
        .await;
    assert_eq!(starts(stage, &second).await, 0);
    assert_eq!(
        at_cm(stage, &second).await.len(),
        1,
        "no other order is asked for"
    );
    pay(stage, &first).await;
    stage
        .until("the money is on record", async |stage| {
            stage.get_order(&first_id).await["status"] == "paid"
        })
        .await;
    for order_id in [&first_id, &second_id] {
        let order = stage.get_order(order_id).await;
        assert_eq!(order["safe"]["value"], "no", "{order}");
        assert_eq!(stage.shipments(order_id).await, 0);
    }
    let sentence = explained(stage, &first_id).await;
    assert!(sentence.contains("a person must look"), "{sentence}");
    // Others are as ever.
    let (reference, order_id) = redirected(stage).await;
    pay(stage, &reference).await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_18_the_report_of_another_order_stops_the_order_and_moves_nothing() {
    let stage = &Stage::new().await;
    play_all(stage, &["any/wrong_reference"]).await;
    let (reference, order_id) = redirected(stage).await;
    fault(stage, "other_order", "status", 1).await;
    pay(stage, &reference).await;
    let found = format!(
        "SELECT count(*) FROM events WHERE event_type = 'AmountMismatchFound' AND aggregate_id = '{order_id}'"
    );
    stage
        .until("the mix-up is found", async |stage| {
            stage.sql_count(&found).await == 1
        })
        .await;
    // The next report is right again: the money is recorded, and a person has to look before goods leave.
    hook(stage, &format!("{}?id={reference}", stage.hooks_url)).await;
    stage.until_order(&order_id, "paid", "authorized", "no").await;
    assert_eq!(stage.shipments(&order_id).await, 0);
}

/// Orders that were paid while CM was away.
const STRANDED: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_19_after_an_outage_all_is_read_with_limits_and_new_shoppers_do_not_wait_behind_it() {
    let stage = &Stage::new().await;
    let stranded: Vec<(String, String)> = futures::stream::iter(0..STRANDED)
        .map(async |_| redirected(stage).await)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    fault(stage, "psp_503", "any", 100_000).await;
    for (reference, _) in &stranded {
        pay(stage, reference).await;
    }
    // Two hours of it: each look finds CM away, and they are few however many wait.
    let calls = async || {
        let url = format!("{}/sim/ledger", stage.sim_url);
        let text = stage.http_get(&url).await.text().await.expect("rows");
        text.lines()
            .filter(|row| row.contains("\"kind\":\"request\"") && row.contains("\"op\":\"status\""))
            .count()
    };
    // What was under way when it went is over, and nobody calls: some forty orders wait for one to find out.
    let (last, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
    stage
        .until("CM is left alone", async |_| {
            let now = calls().await;
            let same = now >= 8 && last.swap(now, Ordering::Relaxed) == now;
            let looks = if same {
                looks.fetch_add(1, Ordering::Relaxed)
            } else {
                looks.swap(0, Ordering::Relaxed)
            };
            same && looks >= 10
        })
        .await;
    stage.pass("2h").await;
    let (before, began) = (calls().await, Instant::now());
    stage
        .until("CM is looked for again and again", async |_| {
            calls().await >= before + 3
        })
        .await;
    let (tried, seconds) = (calls().await - before, began.elapsed().as_secs());
    // Without a pause it would be every order every two seconds.
    let bound = 4 + usize::try_from(seconds).expect("seconds");
    assert!(
        tried <= bound,
        "{tried} calls in {seconds} s to a CM that is away"
    );
    let safe = "SELECT count(*) FROM events WHERE event_type = 'ConfidenceReachedSafe'";
    assert_eq!(stage.sql_count(safe).await, 0);

    let cleared = reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client")
        .delete(format!("{}/sim/faults", stage.sim_url))
        .send()
        .await
        .expect("it answers");
    assert!(cleared.status().is_success());
    let before = calls().await;
    let back = Instant::now();
    let each = 5_000 / STRANDED;
    for (reference, _) in &stranded {
        let burst = json!({ "order_reference": reference, "times": each });
        stage.sim_post("/sim/notify", &burst).await;
    }
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.until_order(&order_id, "pending", "redirected", "no").await;
    pay(stage, &reference).await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    for (_, order_id) in &stranded {
        stage
            .until("what was paid meanwhile is safe", async |stage| {
                stage.get_order(order_id).await["safe"]["value"] == "yes"
            })
            .await;
    }
    let read = calls().await - before;
    let bound = (STRANDED + 1) * (5 + usize::try_from(back.elapsed().as_secs()).expect("seconds"));
    assert!(
        read <= bound,
        "{read} reads for {} notifications",
        each * STRANDED
    );
    assert_eq!(
        stage.sql_count(safe).await,
        i64::try_from(STRANDED).expect("a few") + 1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p_19_reads_are_taken_by_age_with_a_share_for_the_newest_and_what_fails_goes_behind() {
    let settings = StoreConfig {
        url: world().database().await,
        pool_size: 2,
    };
    let store = Store::connect(settings).await.expect("the store opens");
    let names: Vec<String> = (0..12).map(|n| format!("order-{n:02}")).collect();
    for name in &names {
        store.request_read(name, SHOP).await.expect("it is asked for");
    }
    // Whoever asks again keeps his place.
    store
        .request_read(&names[0], SHOP)
        .await
        .expect("it is asked for");
    let now = store.clock().now();
    let lease = SignedDuration::from_secs(30);
    let take = async |limit| {
        let mut claims = store
            .claim_reads(now, lease, limit)
            .await
            .expect("they are taken");
        claims.sort_by(|a, b| a.order_id.cmp(&b.order_id));
        claims
    };
    let ids = |claims: &[kassa_event_store::ClaimedRead]| -> Vec<String> {
        claims.iter().map(|claim| claim.order_id.clone()).collect()
    };
    let first = take(4).await;
    assert_eq!(ids(&first), ["order-00", "order-01", "order-02", "order-11"]);
    for claim in &first {
        // CM does not answer for them.
        store
            .finish_read(claim, false, now - SignedDuration::from_secs(5))
            .await
            .expect("it is ended");
    }
    let second = take(4).await;
    assert!(
        ids(&second).starts_with(&[
            "order-03".to_owned(),
            "order-04".to_owned(),
            "order-05".to_owned()
        ]),
        "{:?}",
        ids(&second)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_66_an_account_that_is_turned_away_leaves_its_orders_pending_until_it_is_served_again() {
    let stage = &Stage::new().await;
    fault(stage, "psp_401", "create", 1).await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    all_felt(stage).await;
    // Another shopper waits with it, and CM is not asked for him meanwhile.
    let (other, other_id) = stage.create("ideal/success").await;
    stage.start(&other_id).await;
    for id in [&order_id, &other_id] {
        let order = stage.get_order(id).await;
        assert_eq!(order["status"], "pending", "{order}");
        assert_eq!(order["payments"][0]["status"], "started", "{order}");
    }
    assert_eq!(stage.count(&other, "request", "create").await, 0);
    for id in [&order_id, &other_id] {
        stage.until_order(id, "pending", "redirected", "no").await;
    }
    assert_eq!(at_cm(stage, &reference).await, [format!("{reference}~1.2")]);
    nothing_failed(stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_67_cm_is_asked_again_when_it_said_so_and_not_before() {
    let stage = &Stage::new().await;
    let body = json!({ "fault": "psp_429", "operation": "start", "count": 1, "retry_after": 3 });
    stage.sim_post("/sim/faults", &body).await;
    let (reference, order_id) = redirected(stage).await;
    let rows = stage.ledger(&reference).await;
    let at = |kind: &str, n: usize| -> Timestamp {
        let mut rows = rows
            .iter()
            .filter(|row| row["kind"] == kind && row["op"] == "start");
        let row = rows.nth(n).expect("a row");
        row["t"].as_str().expect("a time").parse().expect("rfc 3339")
    };
    let pause = at("request", 1).duration_since(at("answer", 0));
    assert!(pause >= SignedDuration::from_millis(2_990), "{pause:?}");
    play_all(stage, &["any/start_429"]).await;
    pay(stage, &reference).await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    nothing_failed(stage).await;
}
