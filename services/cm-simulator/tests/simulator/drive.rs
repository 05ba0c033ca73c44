//! Can a test driver move the clock, let calls go wrong, and play a shopper who takes his time?

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Sim, answer, until};

#[tokio::test]
async fn a_shopper_who_takes_his_time_pays_when_the_clock_gets_there() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    sim.started(&key).await;
    let body = json!({ "order_key": key, "delay": "90s" });
    let (status, later) = sim.sim_post("/sim/pay", &body).await;
    assert_eq!((status, &later["pressed"]), (200, &json!("success")), "{later}");
    assert_eq!(later["state"], "REDIRECTED_FOR_AUTHORIZATION");
    advance(&sim, "80s").await;
    assert_eq!(sim.detail(&key).await.get("considered_safe"), None);
    advance(&sim, "10s").await;
    assert_eq!(sim.detail(&key).await["considered_safe"]["level"], "SAFE");
    until("both changes are told", async || {
        sim.merchant.queries().len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_notification_that_waits_is_tried_again_when_the_clock_gets_there() {
    let sim = Sim::start_with(|config| {
        config.notifications.backoff_first = Duration::from_secs(3_600);
        config.notifications.backoff_max = Duration::from_secs(36_000);
    })
    .await;
    sim.merchant.answer_first_with(&[500, 500]);
    let key = sim.create("A-1", "ideal/success").await;
    sim.started(&key).await;
    for (attempts, time) in [(1, "1h"), (2, "2h")] {
        until("an attempt has failed", async || {
            sim.rows(&key, "notification", "start").await.len() == attempts
        })
        .await;
        advance(&sim, time).await;
    }
    sim.quiet(&key).await;
    assert_eq!(sim.merchant.queries().len(), 3);
}

#[tokio::test]
async fn an_order_expires_by_the_simulators_clock_and_the_menu_says_so() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    advance(&sim, "22d").await;
    let (status, refused) = answer(sim.start_payment(&key).send().await.expect("an answer")).await;
    assert_eq!(status, 400, "{refused}");
    let form = [("payment_cluster_key", key.as_str()), ("method", "PAYPAL")];
    let menu = format!("{}/ps/menu", sim.base);
    let page = sim.client.post(menu).form(&form).send().await.expect("a page");
    assert_eq!(page.status(), 410);
}

#[tokio::test]
async fn the_clock_refuses_what_makes_no_sense_and_stays_where_it_is() {
    let sim = Sim::start().await;
    for body in [
        json!({}),
        json!({ "advance": "3" }),
        json!({ "advance": "-3d" }),
        json!({ "advance": "9000d" }),
        json!({ "set": "2001-01-01T00:00:00Z" }),
        json!({ "set": "tomorrow" }),
        json!({ "advance": "1d", "set": "2100-01-01T00:00:00Z" }),
        json!({ "advance": "1d", "back": true }),
    ] {
        let (status, refused) = sim.sim_post("/sim/clock", &body).await;
        assert!(status == 400 || status == 422, "{body}: {status} {refused}");
    }
    assert_eq!(sim.sim_get("/sim/clock").await.1["offset_ms"], 0);
}

#[tokio::test]
async fn a_fault_hits_as_many_calls_of_its_operation_as_was_asked_and_no_other() {
    let sim = Sim::start().await;
    let fault = json!({ "fault": "psp_503", "operation": "start", "count": 2 });
    let (status, waiting) = sim.sim_post("/sim/faults", &fault).await;
    assert_eq!((status, &waiting["faults"][0]["left"]), (200, &json!(2)));
    let key = sim.create("A-1", "ideal/success").await;
    let mut codes = Vec::new();
    for _ in 0..3 {
        let response = sim.start_payment(&key).send().await.expect("an answer");
        codes.push(response.status().as_u16());
    }
    assert_eq!(codes, [503, 503, 201]);
    assert_eq!(
        sim.rows(&key, "effect", "start").await.len(),
        1,
        "503 before any effect"
    );

    let fault = json!({ "fault": "psp_503_after_effect", "operation": "start" });
    sim.sim_post("/sim/faults", &fault).await;
    assert_eq!(
        sim.start_payment(&key).send().await.expect("an answer").status(),
        503
    );
    assert_eq!(
        sim.rows(&key, "effect", "start").await.len(),
        2,
        "503 after the effect"
    );

    sim.sim_post("/sim/faults", &json!({ "latency": "60s", "count": 1_000 }))
        .await;
    let cleared = sim.client.delete(format!("{}/sim/faults", sim.base)).send();
    assert_eq!(
        answer(cleared.await.expect("an answer")).await.1["faults"],
        json!([])
    );
    sim.detail(&key).await;
}

#[tokio::test]
async fn faults_and_floods_have_bounds() {
    let sim = Sim::start().await;
    for body in [
        json!({}),
        json!({ "fault": "latency" }),
        json!({ "fault": "psp_500" }),
        json!({ "fault": "psp_503", "count": 0 }),
        json!({ "fault": "psp_503", "count": 100_001 }),
        json!({ "latency": "61s" }),
    ] {
        let (status, refused) = sim.sim_post("/sim/faults", &body).await;
        assert!(status == 400 || status == 422, "{body}: {status} {refused}");
    }
    for _ in 0..20 {
        sim.sim_post(
            "/sim/faults",
            &json!({ "fault": "psp_503", "operation": "status" }),
        )
        .await;
    }
    let (status, _) = sim.sim_post("/sim/faults", &json!({ "fault": "psp_503" })).await;
    assert_eq!(status, 409);

    let key = sim.create("A-1", "ideal/no_notification").await;
    let too_many = json!({ "order_key": key, "times": 1_001 });
    assert_eq!(sim.sim_post("/sim/notify", &too_many).await.0, 400);
    let (status, sent) = sim
        .sim_post("/sim/notify", &json!({ "order_key": key, "times": 3 }))
        .await;
    assert_eq!((status, &sent["notifications"]), (202, &json!(3)));
    sim.quiet(&key).await;
    assert_eq!(
        sim.merchant.queries(),
        ["id=A-1"; 3],
        "told although the scenario is silent"
    );
}

#[tokio::test]
async fn paypal_has_its_own_page_and_a_review_ends_a_day_later() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "paypal/success").await;
    let call = sim.post(&format!("/orders/{key}/payments"), &json!({ "method": "PAYPAL" }));
    let (status, started) = answer(call.send().await.expect("an answer")).await;
    assert_eq!(status, 201, "{started}");
    let url = started["urls"][0]["url"].as_str().expect("a url");
    assert!(url.contains("/ps_sim/paypal?"), "{url}");
    let page = sim
        .client
        .get(url)
        .send()
        .await
        .expect("a page")
        .text()
        .await
        .expect("text");
    for button in ["success", "cancel", "review"] {
        let button = format!("name=\"result\" value=\"{button}\"");
        assert!(page.contains(&button), "{button} is missing in {page}");
    }
    assert!(!page.contains("value=\"fail\""), "{page}");
    let back = (303, Some("https://shop.example/pending".to_owned()));
    assert_eq!(sim.press(url, "review").await, back);
    let report = sim.detail(&key).await;
    assert_eq!(report["payments"][0]["method"], "PAYPAL");
    assert_eq!(
        report["payments"][0]["authorization"]["state"],
        "AUTHORIZATION_REQUESTED"
    );
    assert_eq!(report.get("considered_safe"), None);
    advance(&sim, "1d").await;
    let report = sim.detail(&key).await;
    assert_eq!(report["payments"][0]["authorization"]["state"], "AUTHORIZED");
    assert_eq!(report["considered_safe"]["level"], "SAFE");
}

async fn advance(sim: &Sim, time: &str) -> Value {
    let (status, clock) = sim.sim_post("/sim/clock", &json!({ "advance": time })).await;
    assert_eq!(status, 200, "{clock}");
    clock
}
