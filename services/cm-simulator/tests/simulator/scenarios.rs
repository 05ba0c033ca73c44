//! Does each scenario have its documented effect on the report and the ledger?

use std::time::Duration;

use kassa_cm_simulator::{Act, SCENARIOS};
use serde_json::{Value, json};

use crate::support::{Sim, answer, order, until};

#[tokio::test]
async fn a_paid_order_is_reported_authorized_captured_and_safe() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    let before = sim.detail(&key).await;
    assert_eq!(before.get("payments"), None);
    assert_eq!(before.get("considered_safe"), None);

    let (status, started) = answer(sim.start_payment(&key).send().await.expect("an answer")).await;
    assert_eq!(status, 201);
    let id = started["id"].as_str().expect("an id");
    assert!(id.starts_with("pid") && id.ends_with('t'), "{id}");
    assert_eq!(started["status"], "REDIRECTED_FOR_AUTHORIZATION");
    let url = &started["urls"][0];
    assert_eq!(url["purpose"], "REDIRECT");
    assert_eq!(url["method"], "GET");
    assert_eq!(url["order"], 1);
    let waiting = sim.detail(&key).await;
    assert_eq!(
        waiting["payments"][0]["authorization"],
        json!({ "amount": 4995, "currency": "EUR", "state": "REDIRECTED_FOR_AUTHORIZATION" })
    );
    assert_eq!(waiting.get("considered_safe"), None);

    let (status, location) = sim.press(url["url"].as_str().expect("a url"), "success").await;
    assert_eq!(status, 303);
    assert_eq!(location, Some(format!("https://shop.example/done?key={key}")));
    let paid = sim.detail(&key).await;
    let since = &paid["considered_safe"]["timestamp"];
    assert!(
        since.as_str().is_some_and(|t| t.len() == 20 && t.ends_with('Z')),
        "{since}"
    );
    assert_eq!(paid["considered_safe"]["level"], "SAFE");
    assert_eq!(
        paid["payments"],
        json!([{
            "id": id,
            "method": "IDEAL",
            "authorization": {
                "amount": 4995, "currency": "EUR", "confidence": "ACQUIRER_APPROVED", "state": "AUTHORIZED",
            },
            "captures": [{
                "amount": 4995, "currency": "EUR", "state": "CAPTURED", "date_last_modified": since,
            }],
        }])
    );
    assert_eq!(paid["order_reference"], "A-1");
    assert_eq!(paid["amount"], 4995);
    assert_eq!(paid["email"], "shopper@example.com");

    let effects = sim.rows(&key, "effect", "bank").await;
    assert_eq!(details(&effects), ["AUTHORIZED", "considered_safe SAFE"]);
    assert_eq!(effects[0]["payment_id"], json!(id));
    sim.quiet(&key).await;
    assert_eq!(
        sim.merchant.queries(),
        ["id=A-1", "id=A-1"],
        "one after start, one after the bank"
    );
}

#[tokio::test]
async fn an_attempt_that_comes_to_nothing_is_reported_with_its_reason_and_leaves_the_order_payable() {
    let sim = Sim::start().await;
    let cases = [
        (
            "cancel",
            "CANCELED",
            "Canceled",
            "https://shop.example/canceled?a=b",
        ),
        (
            "fail",
            "AUTHORIZATION_FAILED",
            "Failed",
            "https://shop.example/error",
        ),
        (
            "expire",
            "CANCELED",
            "Expired",
            "https://shop.example/canceled?a=b",
        ),
    ];
    for (button, state, reason, back) in cases {
        let key = sim.create(button, "ideal/success").await;
        let bank = sim.started(&key).await;
        assert_eq!(sim.press(&bank, button).await, (303, Some(back.to_owned())));
        // The browser's back button: the first decision stands.
        assert_eq!(sim.press(&bank, "success").await, (303, Some(back.to_owned())));
        let report = sim.detail(&key).await;
        assert_eq!(report.get("considered_safe"), None);
        assert_eq!(
            report["payments"][0]["authorization"],
            json!({ "amount": 4995, "currency": "EUR", "state": state, "reason": reason })
        );
        assert_eq!(report["payments"][0]["captures"], json!([]));

        let again = sim.started(&key).await;
        sim.press(&again, "success").await;
        let report = sim.detail(&key).await;
        assert_eq!(report["payments"][1]["authorization"]["state"], "AUTHORIZED");
        assert_eq!(report["considered_safe"]["level"], "SAFE");
    }
}

#[tokio::test]
async fn a_start_that_never_answers_has_happened_and_the_order_is_paid_through_the_menu() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "any/psp_timeout_after_effect").await;
    let waiting = tokio::spawn(sim.start_payment(&key).send());
    until("the payment exists", async || {
        !sim.rows(&key, "effect", "start").await.is_empty()
    })
    .await;
    assert_eq!(
        details(&sim.rows(&key, "effect", "start").await),
        ["REDIRECTED_FOR_AUTHORIZATION"]
    );
    assert_eq!(sim.rows(&key, "answer", "start").await.len(), 0);
    waiting.abort();
    assert!(waiting.await.expect_err("the client left").is_cancelled());
    until("the client's leaving is on record", async || {
        !sim.rows(&key, "answer", "start").await.is_empty()
    })
    .await;
    let cut = &sim.rows(&key, "answer", "start").await[0];
    assert_eq!(cut["status"], Value::Null);
    assert_eq!(cut["detail"], "cut without an answer");
    sim.quiet(&key).await;
    assert_eq!(
        sim.merchant.queries(),
        ["id=A-1"],
        "the effect is notified as usual"
    );

    let (status, paid) = sim
        .sim_post("/sim/pay", &json!({ "order_reference": "A-1" }))
        .await;
    assert_eq!(status, 200, "{paid}");
    assert_eq!(paid["via"], "menu");
    assert_eq!(paid["state"], "AUTHORIZED");
    assert_eq!(sim.detail(&key).await["considered_safe"]["level"], "SAFE");
    assert_eq!(sim.rows(&key, "request", "start").await.len(), 1);
    assert_eq!(sim.rows(&key, "request", "menu_start").await.len(), 1);
    assert_eq!(sim.rows(&key, "effect", "menu_start").await.len(), 1);
}

#[tokio::test]
async fn a_held_call_is_hung_up_in_the_end_without_a_byte_of_an_answer() {
    let sim = Sim::start_with(|config| config.hold_max = Duration::from_millis(100)).await;
    let key = sim.create("A-1", "any/psp_timeout_after_effect").await;
    let error = sim.start_payment(&key).send().await.expect_err("no answer");
    assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
    assert_eq!(sim.rows(&key, "answer", "start").await[0]["status"], Value::Null);
    assert_eq!(
        sim.order(&key).await["payments"].as_array().map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn without_notification_the_report_is_the_only_witness() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/no_notification").await;
    let bank = sim.started(&key).await;
    sim.press(&bank, "success").await;
    assert_eq!(sim.detail(&key).await["considered_safe"]["level"], "SAFE");
    // Notifications are counted when the change is made, so none pending now means none ever.
    assert_eq!(sim.order(&key).await["notifications_pending"], 0);
    assert_eq!(sim.merchant.queries(), Vec::<String>::new());
    let rows = sim.ledger("").await;
    assert!(rows.iter().all(|row| row["kind"] != "notification"));
}

#[tokio::test]
async fn a_double_notification_comes_twice_for_each_change() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/double_notification").await;
    let bank = sim.started(&key).await;
    sim.press(&bank, "success").await;
    sim.quiet(&key).await;
    assert_eq!(sim.merchant.queries(), ["id=A-1"; 4]);
    assert_eq!(sim.rows(&key, "notification", "start").await.len(), 2);
    assert_eq!(sim.rows(&key, "notification", "bank").await.len(), 2);
}

#[tokio::test]
async fn a_short_authorization_is_called_safe_all_the_same() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "any/amount_short_11").await;
    let bank = sim.started(&key).await;
    sim.press(&bank, "success").await;
    let report = sim.detail(&key).await;
    assert_eq!(report["amount"], 4995);
    assert_eq!(report["payments"][0]["authorization"]["amount"], 4984);
    assert_eq!(report["payments"][0]["captures"][0]["amount"], 4984);
    assert_eq!(report["considered_safe"]["level"], "SAFE");
    assert_eq!(sim.rows(&key, "effect", "bank").await[0]["amount"], 4984);
}

#[tokio::test]
async fn a_503_on_start_may_or_may_not_have_had_an_effect() {
    let sim = Sim::start().await;
    for (scenario, effects) in [("any/psp_503_before_effect", 0), ("any/psp_503_after_effect", 1)] {
        let key = sim.create(scenario, scenario).await;
        let (status, body) = answer(sim.start_payment(&key).send().await.expect("an answer")).await;
        assert_eq!(
            (status, body["messages"].as_array().map(Vec::len)),
            (503, Some(1))
        );
        assert_eq!(
            sim.rows(&key, "effect", "start").await.len(),
            effects,
            "{scenario}"
        );

        // It heals when told to.
        let (status, _) = sim
            .sim_post(
                &format!("/sim/orders/{key}/scenario"),
                &json!({ "scenario": "ideal/success" }),
            )
            .await;
        assert_eq!(status, 200);
        sim.started(&key).await;
    }
}

#[tokio::test]
async fn a_slow_start_takes_effect_at_once_and_answers_later() {
    let sim = Sim::start().await;
    let response = sim
        .post("/orders", &order("A-1"))
        .header("x-sim-scenario", "any/start_slow")
        .header("x-sim-delay-ms", "700")
        .send()
        .await
        .expect("an answer");
    let key = answer(response).await.1["order_key"]
        .as_str()
        .expect("a key")
        .to_owned();
    sim.started(&key).await;
    let at = async |kind| -> jiff::Timestamp {
        let row = &sim.rows(&key, kind, "start").await[0];
        row["t"].as_str().expect("a time").parse().expect("rfc 3339")
    };
    let held = at("answer").await.duration_since(at("effect").await);
    // Both times are cut to milliseconds.
    assert!(held >= jiff::SignedDuration::from_millis(699), "{held:?}");
}

#[tokio::test]
async fn a_create_that_never_answers_has_happened_and_a_second_reference_works() {
    let sim = Sim::start_with(|config| config.hold_max = Duration::from_millis(100)).await;
    let create = async |reference: &str| {
        let call = sim.post("/orders", &order(reference));
        call.header("x-sim-scenario", "any/create_timeout_after_effect")
            .send()
            .await
    };
    create("A-1").await.expect_err("no answer");
    let (status, body) = answer(create("A-1").await.expect("an answer")).await;
    assert_eq!(status, 400, "{body}");
    let (status, body) = answer(create("A-1-2").await.expect("an answer")).await;
    assert_eq!(status, 201, "{body}");
    let effects = sim.ledger("?reference=A-1").await;
    assert_eq!(effects.iter().filter(|row| row["kind"] == "effect").count(), 1);
    sim.started(body["order_key"].as_str().expect("a key")).await;
}

#[tokio::test]
async fn every_scenario_leaves_the_report_that_its_end_needs() {
    let sim = Sim::start_with(|config| config.hold_max = Duration::from_millis(50)).await;
    let (status, listed) = sim.sim_get("/sim/scenarios").await;
    assert_eq!(status, 200);
    assert_eq!(listed, serde_json::to_value(SCENARIOS).expect("plain"));
    for doc in SCENARIOS {
        let reference = format!("{}-1", doc.name);
        let call = sim.post("/orders", &order(&reference));
        let call = call
            .header("x-sim-scenario", doc.name)
            .header("x-sim-delay-ms", "50");
        let made = async |response: reqwest::Response| {
            let made = response.status() == 201;
            let body: Value = response.json().await.unwrap_or_default();
            let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
            made && text("order_key").chars().all(|c| !c.is_lowercase()) && text("url").starts_with("http")
        };
        let answered = match call.send().await {
            Ok(response) => made(response).await,
            Err(_) => false,
        };
        let reference = match answered {
            true => reference,
            false => {
                let again = format!("{reference}-2");
                sim.create(&again, doc.name).await;
                again
            }
        };
        let (_, found) = sim.sim_get(&format!("/sim/orders?reference={reference}")).await;
        let key = found[0]["order_key"].as_str().expect("a key").to_owned();
        // Some scenarios answer, some do not: the shopper finds a way in each.
        let mut answered = false;
        for step in doc.steps {
            match step.act {
                Act::Start => {
                    let body = json!({ "method": doc.method.to_uppercase() });
                    let path = format!("/orders/{key}/payments");
                    answered = started(&sim, &path, &body).await;
                    if !answered && doc.end.provider_calls.start == 2 {
                        answered = started(&sim, &path, &body).await;
                    }
                }
                Act::Pay => {
                    let (status, paid) = sim.sim_post("/sim/pay", &json!({ "order_key": key })).await;
                    assert_eq!(status, 200, "{}: {paid}", doc.name);
                    let via = if answered { "start" } else { "menu" };
                    assert_eq!(paid["via"], via, "{}", doc.name);
                }
                Act::Wait { time } => {
                    let (status, moved) = sim.sim_post("/sim/clock", &json!({ "advance": time })).await;
                    assert_eq!(status, 200, "{}: {moved}", doc.name);
                }
            }
        }

        let order = sim.order(&key).await;
        let authorized = order["authorized"].as_i64().expect("minor units");
        let payments = order["payments"].as_array().expect("a list");
        let report = readable(&sim, &key).await;
        let end = doc.end.stand;
        if payments.is_empty() {
            assert_eq!(end.payment, "failed", "{}: nothing was started", doc.name);
            continue;
        }
        let decided = payments.last().expect("one was made");
        let expected = match end.payment {
            // Nobody pressed anything, or what was pressed is in no report of this order.
            "expired" => "REDIRECTED_FOR_AUTHORIZATION",
            "redirected" | "authorized" => "AUTHORIZED",
            "failed" => "AUTHORIZATION_FAILED",
            "canceled" => "CANCELED",
            other => panic!("{}: {other}", doc.name),
        };
        assert_eq!(decided["state"], expected, "{}", doc.name);
        assert_eq!(
            report.get("considered_safe").is_some(),
            expected == "AUTHORIZED",
            "{}",
            doc.name
        );
        let back = !report["payments"][0]["chargebacks"].is_null();
        assert_eq!(back, end.safe == "lost", "{}", doc.name);
        let ours = report["order_reference"] == reference.as_str();
        assert_eq!(
            ours,
            end.payment != "redirected",
            "{}: whose report is it?",
            doc.name
        );
        if end.safe == "yes" {
            let within = (4_985..=5_005).contains(&authorized);
            assert!(
                within && report["considered_safe"]["level"] == "SAFE",
                "{}",
                doc.name
            );
        }
        let rows = sim.ledger("").await;
        for (op, calls) in [
            ("create", doc.end.provider_calls.create),
            ("start", doc.end.provider_calls.start),
        ] {
            let made = rows.iter().filter(|row| {
                let about = row["reference"].as_str().unwrap_or_default();
                row["kind"] == "request" && row["op"] == op && about.starts_with(&format!("{}-1", doc.name))
            });
            assert_eq!(made.count(), calls as usize, "{}: {op}", doc.name);
        }
    }
}

#[tokio::test]
async fn paying_for_a_shopper_says_why_it_cannot() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    let pay = async |body: Value| {
        let (status, body) = sim.sim_post("/sim/pay", &body).await;
        (
            status,
            body["messages"][0].as_str().unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(pay(json!({ "order_reference": "A-2" })).await.0, 404);
    assert_eq!(pay(json!({})).await.0, 400);
    assert_eq!(
        pay(json!({ "order_reference": "A-1", "order_key": key })).await.0,
        400
    );
    let (status, why) = pay(json!({ "order_key": key, "scenario": "ideal/nothing" })).await;
    assert!(status == 400 && why.contains("ideal/nothing"), "{status} {why}");
    assert_eq!(sim.detail(&key).await.get("payments"), None);
    assert_eq!(
        pay(json!({ "order_key": key, "scenario": "ideal/success" }))
            .await
            .0,
        200
    );
    assert_eq!(pay(json!({ "order_key": key })).await.0, 409);
    assert_eq!(sim.order(&key).await["authorized"], 4995);
}

#[tokio::test]
async fn a_scenario_given_with_the_payment_takes_the_place_of_the_orders_own() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    sim.started(&key).await;
    let (_, paid) = sim
        .sim_post(
            "/sim/pay",
            &json!({ "order_key": key, "scenario": "ideal/cancel" }),
        )
        .await;
    assert_eq!(
        (&paid["via"], &paid["state"]),
        (&json!("start"), &json!("CANCELED"))
    );
    assert_eq!(paid["return_url"], "https://shop.example/canceled?a=b");
    assert_eq!(sim.order(&key).await["scenario"], "ideal/cancel");
}

/// Whether a start was answered with a page to go to.
async fn started(sim: &Sim, path: &str, body: &Value) -> bool {
    // Long enough for a start that waits for a hundred notifications on a busy machine.
    let Ok(response) = sim.post(path, body).timeout(Duration::from_secs(2)).send().await else {
        return false;
    };
    let made = response.status() == 201;
    let body: Value = response.json().await.unwrap_or_default();
    made && body["messages"].is_null()
        && body["urls"][0]["url"]
            .as_str()
            .is_some_and(|url| url.starts_with("http"))
}

/// The report, once it can be read.
async fn readable(sim: &Sim, key: &str) -> Value {
    for _ in 0..10 {
        let asked = sim
            .get(&format!("/orders/{key}"))
            .timeout(Duration::from_millis(500));
        if let Ok(response) = asked.send().await
            && response.status() == 200
            && let Ok(body) = response.json().await
        {
            return body;
        }
    }
    panic!("the report of {key} cannot be read");
}

fn details(rows: &[Value]) -> Vec<&str> {
    rows.iter()
        .map(|row| row["detail"].as_str().expect("a detail"))
        .collect()
}
