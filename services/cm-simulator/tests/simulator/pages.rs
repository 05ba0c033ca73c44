//! Can a shopper pay with plain forms, and does nothing from outside become markup?

use serde_json::json;

use crate::support::{Sim, answer, order, redirect_of};

#[tokio::test]
async fn a_shopper_pays_through_the_menu_and_is_sent_back_from_then_on() {
    let sim = Sim::start().await;
    let made = answer(
        sim.post("/orders", &order("A-1"))
            .send()
            .await
            .expect("an answer"),
    )
    .await
    .1;
    let (key, menu) = (
        made["order_key"].as_str().expect("a key"),
        made["url"].as_str().expect("a url"),
    );
    assert!(
        menu.contains("merchant_name=kassa_test&client_language=NL&payment_cluster_key="),
        "{menu}"
    );
    let page = text(&sim, menu).await;
    for part in [
        "Dog food",
        "A-1",
        "49.95 EUR",
        "Pay with iDEAL | Wero",
        "Pay with PayPal",
        key,
        "https://shop.example/canceled?a=b",
    ] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }

    // The first attempt is canceled, so the menu shows it and offers another.
    let (status, bank) = pay(&sim, key).await;
    assert_eq!(status, 303);
    let bank = bank.expect("a bank url");
    sim.press(&bank, "cancel").await;
    assert!(text(&sim, menu).await.contains("CANCELED"));

    let (_, bank) = pay(&sim, key).await;
    let bank = bank.expect("a bank url");
    let page = text(&sim, &bank).await;
    for button in [
        "success",
        "cancel",
        "fail",
        "expire",
        "ideal/no_notification",
        "any/amount_short_11",
    ] {
        assert!(
            page.contains(&format!("name=\"result\" value=\"{button}\"")),
            "{button} is missing in {page}"
        );
    }
    let back = (303, Some(format!("https://shop.example/done?key={key}")));
    assert_eq!(sim.press(&bank, "success").await, back);
    assert!(text(&sim, &bank).await.contains("has ended: AUTHORIZED"));
    assert_eq!(
        redirect_of(sim.client.get(menu).send().await.expect("an answer")),
        back
    );
    assert_eq!(pay(&sim, key).await, back);

    assert_eq!(sim.rows(key, "effect", "menu_start").await.len(), 2);
    assert_eq!(sim.rows(key, "request", "start").await.len(), 0);
    assert_eq!(sim.order(key).await["payments"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_scenario_button_at_the_bank_puts_the_order_in_that_scenario() {
    let sim = Sim::start().await;
    let key = sim.create("A-1", "ideal/success").await;
    let bank = sim.started(&key).await;
    assert_eq!(sim.press(&bank, "ideal/nothing").await.0, 400);
    assert_eq!(sim.press(&bank, "any/amount_short_11").await.0, 303);
    assert_eq!(sim.order(&key).await["authorized"], 4984);
}

#[tokio::test]
async fn a_shop_without_return_urls_gets_a_page_that_ends_it() {
    let sim = Sim::start().await;
    let mut body = order("A-1");
    body.as_object_mut().expect("an object").remove("return_urls");
    let made = answer(sim.post("/orders", &body).send().await.expect("an answer"))
        .await
        .1;
    let bank = sim.started(made["order_key"].as_str().expect("a key")).await;
    assert_eq!(sim.press(&bank, "success").await, (200, None));
    assert!(
        text(&sim, made["url"].as_str().expect("a url"))
            .await
            .contains("<h1>Done</h1>")
    );
}

#[tokio::test]
async fn nothing_from_outside_becomes_markup() {
    let sim = Sim::start().await;
    let mut body = order("\"><img src=x onerror=alert(1)>");
    body["description"] = json!("<script>alert('1')</script>");
    body["return_urls"]["canceled"] = json!("https://shop.example/?a='&b=\"><script>");
    let made = answer(sim.post("/orders", &body).send().await.expect("an answer"))
        .await
        .1;
    let bank = sim.started(made["order_key"].as_str().expect("a key")).await;
    for url in [made["url"].as_str().expect("a url"), &bank] {
        let page = text(&sim, url).await;
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert!(
            page.contains("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;"),
            "{page}"
        );
        assert!(
            page.contains("&quot;&gt;&lt;img src=x onerror=alert(1)&gt;"),
            "{page}"
        );
    }
}

#[tokio::test]
async fn pages_for_what_is_not_there_say_nothing_about_it() {
    let sim = Sim::start().await;
    let paths = [
        "/ps/menu?payment_cluster_key=%3Cscript%3E",
        "/ps/menu",
        "/ps_sim/ideal?trxid=1",
        "/ps_sim/ideal",
        "/nowhere",
    ];
    for path in paths {
        let response = sim
            .client
            .get(format!("{}{path}", sim.base))
            .send()
            .await
            .expect("an answer");
        assert_eq!(response.status(), 404, "{path}");
        let policy = response.headers()["content-security-policy"]
            .to_str()
            .expect("ascii")
            .to_owned();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let page = response.text().await.expect("a page");
        assert!(
            page.contains("There is nothing to pay at this address") && !page.contains("script"),
            "{page}"
        );
    }
    assert_eq!(pay(&sim, "0123").await, (404, None));
    assert_eq!(sim.press("trxid=0123", "success").await, (404, None));
    assert_eq!(sim.ledger("").await.len(), 0);
}

async fn text(sim: &Sim, url: &str) -> String {
    let response = sim.client.get(url).send().await.expect("an answer");
    assert_eq!(response.status(), 200, "{url}");
    response.text().await.expect("a page")
}

async fn pay(sim: &Sim, key: &str) -> (u16, Option<String>) {
    let form = [("payment_cluster_key", key), ("method", "IDEAL")];
    redirect_of(
        sim.client
            .post(format!("{}/ps/menu", sim.base))
            .form(&form)
            .send()
            .await
            .expect("an answer"),
    )
}
