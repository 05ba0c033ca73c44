//! Is a merchant that does not listen told again, and is each attempt on record?

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Sim;

#[tokio::test]
async fn a_notification_is_repeated_until_it_gets_a_200() {
    let sim = Sim::start_with(|config| config.notifications.backoff_first = Duration::from_millis(20)).await;
    sim.merchant.answer_first_with(&[500, 503]);
    let key = sim.create("A-1", "ideal/success").await;
    sim.started(&key).await;
    sim.quiet(&key).await;
    assert_eq!(sim.merchant.queries(), ["id=A-1"; 3]);
    let rows = sim.rows(&key, "notification", "start").await;
    let codes: Vec<_> = rows.iter().map(|row| row["status"].as_u64()).collect();
    assert_eq!(codes, [Some(500), Some(503), Some(200)]);
    assert_eq!(rows[0]["detail"], "attempt 1 of 10: not 200; next in 20 ms");
    assert_eq!(rows[1]["detail"], "attempt 2 of 10: not 200; next in 40 ms");
    assert_eq!(rows[2]["detail"], "attempt 3 of 10: delivered");
    assert_eq!(rows[0]["reference"], "A-1");
    assert_eq!(rows[0]["payment_id"], sim.order(&key).await["payments"][0]["id"]);
}

#[tokio::test]
async fn no_other_code_than_200_counts_not_even_another_2xx_and_no_redirect_is_followed() {
    let sim = Sim::start_with(|config| config.notifications.backoff_first = Duration::from_millis(1)).await;
    sim.merchant.answer_first_with(&[204, 302, 404]);
    let key = sim.create("A-1", "ideal/success").await;
    sim.started(&key).await;
    sim.quiet(&key).await;
    assert_eq!(sim.merchant.queries(), ["id=A-1"; 4]);
}

#[tokio::test]
async fn a_deaf_merchant_is_given_up_after_the_last_attempt() {
    let sim = Sim::start_with(|config| {
        config.notifications.attempts_max = 3;
        config.notifications.backoff_first = Duration::from_millis(1);
    })
    .await;
    sim.merchant.answer_first_with(&[500; 3]);
    let key = sim.create("A-1", "ideal/success").await;
    sim.started(&key).await;
    sim.quiet(&key).await;
    let rows = sim.rows(&key, "notification", "start").await;
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[2]["detail"], "attempt 3 of 3: not 200; given up");
    assert_eq!(sim.merchant.queries().len(), 3);
}

#[tokio::test]
async fn a_merchant_that_is_not_there_is_a_failed_attempt_without_a_code() {
    // A port that was free a moment ago and that nobody listens on.
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("bound");
    let mut config = kassa_cm_simulator::SimConfig::new("key", "account", "password".into());
    config.notification_url = Some(format!("http://{free}/hook?id="));
    config.notifications.attempts_max = 2;
    config.notifications.backoff_first = Duration::from_millis(1);
    let simulator = kassa_cm_simulator::Simulator::bind(config)
        .await
        .expect("a free port");
    let (base, rest) = (simulator.base_url().to_owned(), simulator.rest_url());
    let shutdown = tokio_util::sync::CancellationToken::new();
    let _stop = shutdown.clone().drop_guard();
    tokio::spawn(simulator.serve(shutdown));

    let client = crate::support::client(Duration::from_secs(20));
    let post = |path: &str, body: &Value| {
        client
            .post(format!("{rest}{path}"))
            .basic_auth("account", Some("password"))
            .json(body)
            .send()
    };
    let made = post("/orders", &crate::support::order("A-1"))
        .await
        .expect("an answer");
    let made: Value = made.json().await.expect("json");
    let path = format!("/orders/{}/payments", made["order_key"].as_str().expect("a key"));
    post(&path, &json!({ "method": "IDEAL" }))
        .await
        .expect("an answer");
    let attempts = async || {
        let text = client
            .get(format!("{base}/sim/ledger"))
            .send()
            .await
            .expect("rows")
            .text()
            .await
            .expect("text");
        let rows = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("a row"));
        rows.filter(|row| row["kind"] == "notification")
            .collect::<Vec<_>>()
    };
    crate::support::until("two attempts were made", async || attempts().await.len() == 2).await;
    let last = &attempts().await[1];
    assert_eq!(last["status"], Value::Null);
    assert_eq!(last["detail"], "attempt 2 of 2: no connection; given up");
}

#[tokio::test]
async fn the_reference_is_url_encoded_behind_the_equals_sign() {
    let sim = Sim::start().await;
    let key = sim.create("A&b=c/é 1", "ideal/success").await;
    sim.started(&key).await;
    sim.quiet(&key).await;
    assert_eq!(sim.merchant.queries(), ["id=A%26b%3Dc%2F%C3%A9+1"]);
}
