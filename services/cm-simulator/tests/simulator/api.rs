//! Are REST calls admitted, checked and refused as CM does, and is each on record?

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{ACCOUNT, MERCHANT_KEY, PASSWORD, Sim, answer, order};

#[tokio::test]
async fn a_call_without_the_right_password_is_refused_and_changes_nothing() {
    let sim = Sim::start().await;
    let url = format!("{}/ps/api/public/v1/merchants/{MERCHANT_KEY}/orders", sim.base);
    let body = order("A-1");
    let calls = [
        sim.client.post(&url).json(&body),
        sim.client
            .post(&url)
            .json(&body)
            .basic_auth(ACCOUNT, Some("wrong")),
        sim.client
            .post(&url)
            .json(&body)
            .basic_auth("other", Some(PASSWORD)),
        sim.client.post(&url).json(&body).bearer_auth(PASSWORD),
        sim.client
            .post(&url)
            .json(&body)
            .header("authorization", "Basic !"),
    ];
    for call in calls {
        let response = call.send().await.expect("an answer");
        assert!(
            response.headers()["www-authenticate"]
                .to_str()
                .expect("ascii")
                .starts_with("Basic")
        );
        let (status, body) = answer(response).await;
        assert_eq!((status, messages(&body)), (401, 1));
    }
    assert_eq!(sim.sim_get("/sim/orders").await.1, json!([]));
    let rows = sim.ledger("?reference=A-1").await;
    let of = |kind: &str| rows.iter().filter(|row| row["kind"] == kind).count();
    assert_eq!((of("request"), of("answer"), of("effect")), (5, 5, 0));
}

#[tokio::test]
async fn an_unknown_merchant_an_unknown_order_and_an_unknown_path_are_not_found() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    let other = format!("{}/ps/api/public/v1/merchants/another/orders/{key}", sim.base);
    let other = sim
        .client
        .get(other)
        .basic_auth(ACCOUNT, Some(PASSWORD))
        .send()
        .await
        .expect("an answer");
    assert_eq!(other.status(), 404);
    let (status, body) = answer(sim.get("/orders/0123").send().await.expect("an answer")).await;
    assert_eq!(status, 404);
    assert_eq!(
        body,
        json!({ "messages": ["Order could not be found with the given key."] })
    );
    let (status, _) = answer(sim.start_payment("0123").send().await.expect("an answer")).await;
    assert_eq!(status, 404);
    let (status, body) = answer(sim.get("/refunds").send().await.expect("an answer")).await;
    assert_eq!((status, messages(&body)), (404, 1));
}

#[tokio::test]
async fn a_wrong_body_is_refused_with_every_wrong_field_named() {
    let sim = Sim::start().await;
    let mut body = order("A-1");
    body["amount"] = json!("4995");
    body["country"] = json!("Holland");
    body.as_object_mut().expect("an object").remove("email");
    let (status, refused) = answer(sim.post("/orders", &body).send().await.expect("an answer")).await;
    let text = refused.to_string();
    assert_eq!((status, messages(&refused)), (400, 3), "{text}");
    for field in ["'amount'", "'country'", "'email'"] {
        assert!(text.contains(field), "{text}");
    }

    for (content_type, raw, word) in [
        ("text/plain", order("A-2").to_string(), "Content-Type"),
        ("application/json", "{\"order_reference\":".to_owned(), "JSON"),
        ("application/json; charset=utf-8", "[]".to_owned(), "object"),
    ] {
        let url = format!("{}/ps/api/public/v1/merchants/{MERCHANT_KEY}/orders", sim.base);
        let call = sim.client.post(url).basic_auth(ACCOUNT, Some(PASSWORD));
        let call = call.header("content-type", content_type).body(raw);
        let (status, refused) = answer(call.send().await.expect("an answer")).await;
        assert_eq!(status, 400);
        assert!(
            refused["messages"][0].as_str().expect("text").contains(word),
            "{refused}"
        );
    }
    assert_eq!(sim.sim_get("/sim/orders").await.1, json!([]));
}

#[tokio::test]
async fn a_body_beyond_64_kib_is_not_read() {
    let sim = Sim::start().await;
    let mut body = order("A-1");
    body["description"] = json!("x".repeat(64 * 1024));
    let response = sim.post("/orders", &body).send().await.expect("an answer");
    assert_eq!(response.status(), 413);
    assert_eq!(sim.sim_get("/sim/orders").await.1, json!([]));
}

#[tokio::test]
async fn a_reference_can_be_used_once() {
    let sim = Sim::start().await;
    sim.create("A-1", "ideal/success").await;
    let (status, body) = answer(
        sim.post("/orders", &order("A-1"))
            .send()
            .await
            .expect("an answer"),
    )
    .await;
    assert_eq!(status, 400);
    assert_eq!(
        body,
        json!({ "messages": ["Merchant order reference is not unique."] })
    );
    let creates = sim.ledger("?reference=A-1").await;
    assert_eq!(creates.iter().filter(|row| row["kind"] == "effect").count(), 1);
}

#[tokio::test]
async fn only_ideal_and_paypal_can_be_started() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    for body in [json!({ "method": "VISA" }), json!({}), json!({ "method": 1 })] {
        let call = sim.post(&format!("/orders/{key}/payments"), &body);
        let (status, refused) = answer(call.send().await.expect("an answer")).await;
        assert_eq!(status, 400);
        assert!(
            refused["messages"][0]
                .as_str()
                .expect("text")
                .contains("'method'"),
            "{refused}"
        );
    }
    assert_eq!(sim.detail(&key).await.get("payments"), None);
}

#[tokio::test]
async fn a_scenario_that_does_not_exist_makes_no_order() {
    let sim = Sim::start().await;
    let call = sim
        .post("/orders", &order("A-1"))
        .header("x-sim-scenario", "ideal/sucess");
    let (status, body) = answer(call.send().await.expect("an answer")).await;
    assert_eq!(status, 400);
    assert!(
        body["messages"][0]
            .as_str()
            .expect("text")
            .contains("'ideal/sucess'"),
        "{body}"
    );
    assert_eq!(sim.sim_get("/sim/orders").await.1, json!([]));
}

#[tokio::test]
async fn orders_of_a_day_are_listed_and_a_day_is_required() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    let made = sim.detail(&key).await;
    let day = &made["timestamp"].as_str().expect("a time")[..10];
    let list =
        async |query: &str| answer(sim.get(&format!("/orders{query}")).send().await.expect("rows")).await;
    let (status, orders) = list(&format!("?date={day}")).await;
    assert_eq!((status, orders.as_array().map(Vec::len)), (200, Some(1)));
    assert_eq!(orders[0]["order_key"], json!(key));
    assert_eq!(orders[0]["order_reference"], "A-1");
    assert_eq!(list("?date=2020-02-29").await, (200, json!([])));
    assert_eq!(list("").await.0, 400);
    assert_eq!(list("?date=yesterday").await.0, 400);
}

#[tokio::test]
async fn the_ledger_tells_what_is_true_and_what_was_said() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "any/wrong_reference").await;
    let bank = sim.started(&key).await;
    sim.press(&bank, "success").await;
    sim.detail(&key).await;
    let effects = sim.rows(&key, "effect", "bank").await;
    let truth = &effects.last().expect("it was considered safe")["shows"];
    assert_eq!(truth["reference"], "A-1");
    assert_eq!(truth["level"], "SAFE");
    assert_eq!(truth["payments"][0]["amount"], 4995);
    assert_eq!(truth["payments"][0]["state"], "AUTHORIZED");
    let said = &sim.rows(&key, "answer", "status").await[0]["shows"];
    assert_eq!(said["reference"], "another-shoppers-order");
    assert_eq!(said["payments"][0]["captured"], 4995);
    assert_eq!(said["payments"][0]["returned"], 0);
}

#[tokio::test]
async fn the_ledger_has_a_request_an_effect_and_an_answer_in_order_and_without_gaps() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    let rows = sim.ledger("").await;
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row["kind"].as_str(), row["op"].as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (Some("request"), Some("create")),
            (Some("effect"), Some("create")),
            (Some("answer"), Some("create")),
        ]
    );
    assert_eq!(rows[0]["reference"], "A-1");
    assert_eq!(rows[0]["amount"], 4995);
    assert_eq!(rows[0]["order_key"], Value::Null);
    assert_eq!(rows[0]["body_sha256"].as_str().expect("a digest").len(), 64);
    assert_eq!(rows[1]["order_key"], json!(key));
    assert_eq!(rows[2]["status"], 201);
    assert_eq!(rows[2]["request"], rows[0]["n"]);

    // More than one chunk of the answer.
    for _ in 0..600 {
        sim.detail(&key).await;
    }
    let rows = sim.ledger("").await;
    assert_eq!(rows.len(), 3 + 2 * 600);
    assert!(rows.iter().zip(1..).all(|(row, n)| row["n"] == n));
    assert_eq!(sim.ledger(&format!("?order_key={key}")).await.len(), 2 + 2 * 600);
    assert_eq!(sim.ledger("?reference=A-2").await.len(), 0);
}

#[tokio::test]
async fn a_full_simulator_refuses_new_orders_and_serves_the_old() {
    let sim = Sim::start_with(|config| config.bounds.orders_max = 1).await;
    let key = sim.create("A-1", "ideal/success").await;
    let (status, body) = answer(
        sim.post("/orders", &order("A-2"))
            .send()
            .await
            .expect("an answer"),
    )
    .await;
    assert_eq!((status, messages(&body)), (503, 1));
    sim.started(&key).await;
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_happen() {
    let sim = Sim::start_with(|config| config.bounds.ledger_rows_max = 10).await;
    let key = sim.create("A-1", "ideal/no_notification").await;
    for _ in 0..4 {
        sim.detail(&key).await;
    }
    // 11 rows of 10 and a tenth.
    assert_eq!(sim.ledger("").await.len(), 11);
    let response = sim.start_payment(&key).send().await.expect("an answer");
    assert_eq!(response.status(), 503);
    assert_eq!(sim.ledger("").await.len(), 11);
    assert_eq!(sim.order(&key).await["payments"], json!([]));
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_before_anything_listens() {
    use kassa_cm_simulator::{SimConfig, Simulator};
    let refused = async |change: fn(&mut SimConfig)| {
        let mut config = SimConfig::new(MERCHANT_KEY, ACCOUNT, PASSWORD.into());
        change(&mut config);
        Simulator::bind(config).await.expect_err("refused").to_string()
    };
    let url = refused(|config| config.notification_url = Some("http://shop.example/hook".into())).await;
    assert!(
        url.contains("notification_url") && url.contains("ends in '='"),
        "{url}"
    );
    assert!(
        refused(|config| config.account = "a:b".into())
            .await
            .contains("account")
    );
    assert!(
        refused(|config| config.merchant_key = "a/b".into())
            .await
            .contains("merchant_key")
    );
    assert!(
        refused(|config| config.public_url = Some("http://x.example/".into()))
            .await
            .contains("public_url")
    );
}

#[tokio::test]
async fn stopping_ends_held_calls_and_waiting_notifications() {
    let sim = Sim::start_with(|config| config.notifications.backoff_first = Duration::from_secs(60)).await;
    sim.merchant.answer_first_with(&[500]);
    let key = sim.create("A-1", "any/psp_timeout_after_effect").await;
    let held = tokio::spawn(sim.start_payment(&key).send());
    crate::support::until("the first attempt has failed", async || {
        !sim.rows(&key, "notification", "start").await.is_empty()
    })
    .await;
    sim.shutdown.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(10), sim.serving).await;
    stopped
        .expect("within ten seconds")
        .expect("no panic")
        .expect("no error");
    assert!(held.await.expect("no panic").is_err(), "a cut call has no answer");
}

fn messages(body: &Value) -> usize {
    body["messages"].as_array().expect("a list of messages").len()
}
