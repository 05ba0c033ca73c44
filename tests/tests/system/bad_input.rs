//! Bad input over the bus and over HTTP, by the ids of the catalogue: a clear error that names field and rule, nothing stored, nothing
//! called.

use std::time::Duration;

use async_nats::HeaderMap;
use futures::StreamExt as _;
use jiff::SignedDuration;
use kassa_checkout::keys::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    http_api::{Answer, Api},
    stage::{DEADLINE, Stage, order_body},
    world::SHOP,
};

/// Sends raw bytes to a verb, with a key of its own unless headers are given.
async fn send(stage: &Stage, verb: &str, headers: Option<HeaderMap>, body: &[u8]) -> Value {
    let headers = headers.unwrap_or_else(|| {
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", uuid::Uuid::new_v4().to_string().as_str());
        headers
    });
    let prefix = if QUESTIONS.contains(&verb) {
        "kassa.qry"
    } else {
        "kassa.cmd"
    };
    let (message, document) = stage
        .send(&format!("{prefix}.{SHOP}.{verb}"), headers.clone(), body.to_vec())
        .await;
    if COMMANDS.contains(&verb) {
        same_over_http(stage, verb, &headers, body, &document).await;
    }
    let status = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Nats-Service-Error-Code"));
    assert_eq!(
        status.map(ToString::to_string),
        document["status"].as_u64().map(|status| status.to_string())
    );
    document
}

const QUESTIONS: [&str; 5] = [
    "get_order",
    "get_order_events",
    "explain_order",
    "list_orders",
    "list_methods",
];
const COMMANDS: [&str; 3] = ["create_order", "start_payment", "cancel_order"];

/// The same bytes and headers over HTTP get the same answer: the same key makes what was decided a repeat.
async fn same_over_http(stage: &Stage, verb: &str, headers: &HeaderMap, body: &[u8], by_nats: &Value) {
    let Some((path, body)) = address(verb, body) else {
        return;
    };
    let mut request = stage
        .api_post(&path)
        .await
        .header("Content-Type", "application/json");
    for (name, values) in headers.iter() {
        for value in values {
            request = request.header(name.to_string(), value.as_str());
        }
    }
    let response = request.body(body).send().await.expect("it answers");
    let status = response.status().as_u16();
    let document: Value = response.json().await.expect("answers are JSON");
    if let Some(expected) = by_nats["status"].as_u64() {
        assert_eq!(u64::from(status), expected, "{document}");
        for field in ["status", "code", "title", "errors", "order_id"] {
            assert_eq!(document[field], by_nats[field], "{field}: {document}");
        }
    } else {
        assert!([200, 201].contains(&status), "{document}");
        assert_eq!(document["order_id"], by_nats["order_id"]);
    }
}

/// Where a command's body goes over HTTP. Its order stands in the path there, and not in the body; one that names none cannot
/// be sent.
fn address(verb: &str, body: &[u8]) -> Option<(String, Vec<u8>)> {
    let last = match verb {
        "create_order" => return Some(("/v1/orders".to_owned(), body.to_vec())),
        "start_payment" => "payments",
        _ => "cancel",
    };
    let at = |order: &str| format!("/v1/orders/{order}/{last}");
    let Ok(Value::Object(mut fields)) = serde_json::from_slice(body) else {
        // No body at all is one that may be: there need not be a reason.
        let sent = verb != "cancel_order" || !body.is_empty();
        return sent.then(|| (at("ord_x"), body.to_vec()));
    };
    let order = fields.remove("order_id")?;
    Some((at(order.as_str()?), bytes(&Value::Object(fields))))
}

fn refused(document: &Value, status: u16, code: &str, pointer: &str) {
    assert_eq!(
        (&document["status"], &document["code"]),
        (&json!(status), &json!(code)),
        "{document}"
    );
    assert_eq!(document["errors"][0]["pointer"], pointer, "{document}");
    assert!(
        document["hint"].as_str().is_some_and(|hint| !hint.is_empty()),
        "{document}"
    );
}

fn with(pointer: &str, value: Value) -> Value {
    let mut body = order_body("bad", "ideal/success");
    *body.pointer_mut(pointer).expect("the field is there") = value;
    body
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON")
}

async fn nothing_happened(stage: &Stage) {
    for table in ["events", "command_log", "shoppers", "timers", "provider_reads"] {
        assert_eq!(
            stage.sql_count(&format!("SELECT count(*) FROM {table}")).await,
            0,
            "{table}"
        );
    }
    let ledger = stage
        .http_get(&format!("{}/sim/ledger", stage.sim_url))
        .await
        .text()
        .await
        .expect("a body");
    assert_eq!(ledger, "", "CM was called");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_01_what_is_not_json_is_refused_whole() {
    let stage = Stage::new().await;
    let good = bytes(&order_body("b-01", "ideal/success"));
    let text = String::from_utf8(good.clone()).expect("UTF-8");
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut invalid = good.clone();
    invalid[5] = 0xff;
    for verb in COMMANDS.into_iter().chain(QUESTIONS) {
        for body in [
            b"".to_vec(),
            b"order".to_vec(),
            good[..good.len() / 2].to_vec(),
            [b"\xef\xbb\xbf".as_slice(), &good].concat(),
            utf16.clone(),
            invalid.clone(),
            br#"{"order_reference":"\ud800"}"#.to_vec(),
            vec![b'['; 50_000],
            [good.as_slice(), b" {}"].concat(),
        ] {
            let document = send(&stage, verb, None, &body).await;
            assert_eq!(document["code"], "validation", "{verb}: {document}");
            assert_eq!(document["status"], 400);
        }
        refused(&send(&stage, verb, None, b"[]").await, 400, "validation", "");
        // Too deep, and more than is read at all.
        let document = send(&stage, verb, None, &vec![b'['; 100_000]).await;
        assert_eq!(document["code"], "payload_too_large", "{verb}: {document}");
    }
    let doubled = text.replacen('{', r#"{"order_reference":"x","#, 1);
    refused(
        &send(&stage, "create_order", None, doubled.as_bytes()).await,
        400,
        "validation",
        "/order_reference",
    );
    let nested = text.replace(r#""sim_scenario":"#, r#""sim_scenario":"x","sim_scenario":"#);
    let document = send(&stage, "create_order", None, nested.as_bytes()).await;
    assert_eq!(document["code"], "validation", "{document}");
    // By the order of their fields, arrays would do for serde.
    for (pointer, array) in [
        ("/amount", json!([4995, "EUR"])),
        ("/shopper", json!(["canary.person@example.org"])),
    ] {
        let document = send(&stage, "create_order", None, &bytes(&with(pointer, array))).await;
        refused(&document, 400, "validation", pointer);
    }
    nothing_happened(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_02_too_large_and_compressed_bodies_are_refused_before_they_are_read() {
    let stage = Stage::new().await;
    // The limit is 64 KiB on both ways, far below the megabyte that the bus itself would carry: one rule for all.
    for verb in COMMANDS.into_iter().chain(QUESTIONS) {
        for size in [64 * 1024 + 1, 1_000_000] {
            let document = send(&stage, verb, None, &vec![b' '; size]).await;
            assert_eq!(
                (&document["status"], &document["code"]),
                (&json!(413), &json!("payload_too_large"))
            );
        }
    }
    // More than the bus carries does not even leave.
    let more = vec![b' '; 1_048_577].into();
    let sent = stage
        .checkout
        .request(format!("kassa.cmd.{SHOP}.create_order"), more)
        .await;
    assert!(sent.is_err(), "{sent:?}");
    // A megabyte of zeros in a thousandth of it, and what only says so; nothing is unpacked.
    let bomb = [b"\x1f\x8b\x08\x00\x00\x00\x00\x00".as_slice(), &[0xed; 1_000]].concat();
    for verb in COMMANDS {
        for (encoding, body) in [("gzip", &bomb[..]), ("br", b"\x1f\x8b"), ("deflate", b"{}")] {
            let mut headers = HeaderMap::new();
            headers.insert("Idempotency-Key", "k");
            headers.insert("Content-Encoding", encoding);
            let document = send(&stage, verb, Some(headers), body).await;
            assert_eq!(
                (&document["status"], &document["code"]),
                (&json!(415), &json!("unsupported_encoding"))
            );
        }
    }
    nothing_happened(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_03_an_amount_is_a_whole_number_of_minor_units() {
    let stage = Stage::new().await;
    let template = String::from_utf8(bytes(&order_body("b-03", "ideal/success"))).expect("UTF-8");
    for wrong in [
        "\"10.00\"",
        "10.005",
        "1e3",
        "-0",
        "-1",
        "0",
        "2147483648",
        "9223372036854775808",
        "null",
        "[1]",
        "true",
        "\"１０\"",
    ] {
        let body = template.replace("4995", wrong);
        let document = send(&stage, "create_order", None, body.as_bytes()).await;
        refused(&document, 400, "validation", "/amount/value");
        let detail = document["errors"][0]["detail"].as_str().unwrap_or_default();
        assert!(
            detail.contains("minor units") && detail.contains("2147483647"),
            "{wrong}: {document}"
        );
    }
    nothing_happened(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_04_only_proven_currencies_are_taken() {
    let stage = Stage::new().await;
    for wrong in ["eur", "EU", "EURO", "XXX", "BTC", "JPY", "KWD", ""] {
        let document = send(
            &stage,
            "create_order",
            None,
            &bytes(&with("/amount/currency", json!(wrong))),
        )
        .await;
        refused(&document, 422, "currency_not_supported", "/amount/currency");
        assert!(
            document["detail"]
                .as_str()
                .is_some_and(|text| text.contains("EUR")),
            "{document}"
        );
    }
    nothing_happened(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_05_lines_are_no_part_of_this_command_yet_and_are_not_silently_dropped() {
    let stage = Stage::new().await;
    // What is to hold of sums, products and numbers of lines is for the version of the command that has them.
    let mut body = order_body("b-05", "ideal/success");
    body["lines"] = json!([{ "name": "dog food", "amount": 1 }]);
    refused(
        &send(&stage, "create_order", None, &bytes(&body)).await,
        400,
        "validation",
        "/lines",
    );
    nothing_happened(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_06_a_reference_survives_every_place_that_it_travels_through() {
    let stage = Stage::new().await;
    for wrong in [
        String::new(),
        "x".repeat(256),
        "a\nb".to_owned(),
        "a\0b".to_owned(),
        "<script>".to_owned(),
        "a*".to_owned(),
        "a>".to_owned(),
        "a b".to_owned(),
        "order 🐕".to_owned(),
        "a\u{200f}b".to_owned(),
    ] {
        let document = send(
            &stage,
            "create_order",
            None,
            &bytes(&with("/order_reference", json!(wrong))),
        )
        .await;
        refused(&document, 400, "validation", "/order_reference");
    }
    nothing_happened(&stage).await;
    let mut live = stage
        .checkout
        .subscribe(format!("kassa.live.{SHOP}.>"))
        .await
        .expect("it may");
    stage.checkout.flush().await.expect("NATS answers");
    // What looks odd and does no harm is taken, and is never a token of a subject.
    for odd in ["../", ".", "a.b"] {
        let document = send(
            &stage,
            "create_order",
            None,
            &bytes(&with("/order_reference", json!(odd))),
        )
        .await;
        assert_eq!(document["status"], "open", "{document}");
        let again = send(
            &stage,
            "create_order",
            None,
            &bytes(&with("/order_reference", json!(odd))),
        )
        .await;
        refused(&again, 409, "order_reference_taken", "/order_reference");
        assert_eq!(again["order_id"], document["order_id"]);
        let mut dearer = with("/amount/value", json!(5000));
        dearer["order_reference"] = json!(odd);
        let again = send(&stage, "create_order", None, &bytes(&dearer)).await;
        refused(&again, 409, "order_reference_taken", "/order_reference");
        assert_eq!(again["order_id"], document["order_id"]);
        let told = tokio::time::timeout(DEADLINE, live.next()).await;
        let told = told.expect("it is told").expect("the subscription lives");
        let order_id = document["order_id"].as_str().expect("an id");
        assert_eq!(
            told.subject.as_str(),
            format!("kassa.live.{SHOP}.order.{order_id}.created")
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_07_a_return_url_is_on_the_shops_own_origins() {
    let stage = Stage::new().await;
    for wrong in [
        "http://shop.example/",
        "javascript:alert(1)",
        "data:text/html,evil",
        "//shop.example/",
        "//evil.example/",
        "https://shop.example@evil.example/",
        "https://shop.example:x@shop.example/",
        "https://shop.example.evil.example/",
        "https://shop.example\\@evil.example/",
        "https:\\\\shop.example/",
        // The o is one of another alphabet.
        "https://sh\u{43e}p.example/",
        "https://shop.example/\n",
        &format!("https://shop.example/{}", "x".repeat(5_000)),
        "https://evil.example/#https://shop.example",
        "https://shop.example:22/",
        "https://127.0.0.1/",
        "not a url",
    ] {
        let document = send(
            &stage,
            "create_order",
            None,
            &bytes(&with("/return_url", json!(wrong))),
        )
        .await;
        refused(&document, 422, "return_url_not_allowed", "/return_url");
        assert!(
            !document.to_string().contains("evil"),
            "the value is echoed: {document}"
        );
    }
    nothing_happened(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_08_an_unknown_country_is_refused_and_an_unknown_language_is_not() {
    let stage = Stage::new().await;
    for wrong in ["XK", "nl", "NLD", ""] {
        let document = send(
            &stage,
            "create_order",
            None,
            &bytes(&with("/country", json!(wrong))),
        )
        .await;
        refused(&document, 400, "validation", "/country");
    }
    nothing_happened(&stage).await;
    let document = send(
        &stage,
        "create_order",
        None,
        &bytes(&with("/language", json!("xx"))),
    )
    .await;
    assert_eq!(document["status"], "open", "{document}");
    let order_id = document["order_id"].as_str().expect("an id");
    assert_eq!(told_language(&stage, order_id).await, "en");
}

/// The language in which the shopper will be spoken to, as the order's first event has it.
async fn told_language(stage: &Stage, order_id: &str) -> Value {
    let question = bytes(&json!({ "order_id": order_id }));
    let subject = format!("kassa.qry.{SHOP}.get_order_events");
    let (_, events) = stage.send(&subject, HeaderMap::new(), question).await;
    events[0]["data"]["language"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_09_unknown_fields_are_named_with_a_suggestion() {
    let stage = Stage::new().await;
    for (field, value) in [
        ("amuont", json!({})),
        ("status", json!("paid")),
        ("safe", json!(true)),
        ("captured_amount", json!(1)),
    ] {
        let mut body = order_body("b-09", "ideal/success");
        body[field] = value;
        let document = send(&stage, "create_order", None, &bytes(&body)).await;
        refused(&document, 400, "validation", &format!("/{field}"));
        assert_eq!(document["errors"][0]["code"], "unknown_field");
        if field == "amuont" {
            assert!(
                document["detail"]
                    .as_str()
                    .is_some_and(|text| text.contains("did you mean amount?")),
                "{document}"
            );
        }
    }
    for (object, field) in [("/amount", "pirce"), ("/shopper", "status"), ("/shopper", "safe")] {
        let mut body = order_body("b-09", "ideal/success");
        body.pointer_mut(object).expect("it is there")[field] = json!(1);
        let document = send(&stage, "create_order", None, &bytes(&body)).await;
        refused(&document, 400, "validation", &format!("{object}/{field}"));
        assert_eq!(document["errors"][0]["code"], "unknown_field");
    }
    for (verb, mut body) in [
        ("start_payment", json!({ "order_id": "ord_x", "method": "ideal" })),
        ("cancel_order", json!({ "order_id": "ord_x" })),
        ("get_order", json!({ "order_id": "ord_x" })),
        ("list_orders", json!({})),
    ] {
        for field in ["pirce", "safe", "captured_amount", "amuont"] {
            body[field] = json!(1);
            let document = send(&stage, verb, None, &bytes(&body)).await;
            refused(&document, 400, "validation", &format!("/{field}"));
            assert_eq!(document["errors"][0]["code"], "unknown_field");
            body.as_object_mut().expect("an object").remove(field);
        }
    }
    let query = json!({ "order_id": "ord_x", "shop": "other-shop" });
    refused(
        &send(&stage, "get_order", None, &bytes(&query)).await,
        400,
        "validation",
        "/shop",
    );
    let missing = json!({ "order_reference": "b-09" });
    let document = send(&stage, "create_order", None, &bytes(&missing)).await;
    assert_eq!(
        (&document["code"], &document["errors"][0]["code"]),
        (&json!("validation"), &json!("required"))
    );
    nothing_happened(&stage).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_10_a_command_needs_one_printable_key() {
    let stage = Stage::new().await;
    let body = bytes(&order_body("b-10", "ideal/success"));
    for verb in COMMANDS {
        let document = send(&stage, verb, Some(HeaderMap::new()), &body).await;
        assert_eq!(
            (&document["status"], &document["code"]),
            (&json!(400), &json!("idempotency_key_missing"))
        );
        for wrong in [
            "",
            &"k".repeat(65),
            "with space",
            "schlüssel",
            &"k".repeat(60_000),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("Idempotency-Key", wrong);
            let document = send(&stage, verb, Some(headers), &body).await;
            refused(&document, 400, "validation", "Idempotency-Key");
            let detail = document["errors"][0]["detail"].as_str().unwrap_or_default();
            assert!(detail.contains("1 to 64"), "{document}");
        }
    }
    let mut twice = HeaderMap::new();
    twice.append("Idempotency-Key", "a");
    twice.append("Idempotency-Key", "b");
    refused(
        &send(&stage, "create_order", Some(twice), &body).await,
        400,
        "validation",
        "Idempotency-Key",
    );
    let mut prefer = HeaderMap::new();
    prefer.insert("Idempotency-Key", "a");
    prefer.insert("Prefer", "wait=soon");
    refused(
        &send(&stage, "create_order", Some(prefer), &body).await,
        400,
        "validation",
        "Prefer",
    );
    nothing_happened(&stage).await;
    // Fifty at once with one key: one order, and the same answer for all.
    let answers = futures::future::join_all((0..50).map(|_| async {
        stage
            .command_with_key("create_order", "the-key", &order_body("b-10", "ideal/success"))
            .await
    }))
    .await;
    assert!(
        answers
            .iter()
            .all(|answer| answer["order_id"] == answers[0]["order_id"] && answer["status"] == "open")
    );
    assert_eq!(stage.sql_count("SELECT count(*) FROM events").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_10_a_key_is_known_after_a_day_and_after_forty() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let body = order_body("b-10", "ideal/success");
    let mut other = body.clone();
    other["amount"]["value"] = json!(5000);
    let first = stage.command_with_key("create_order", "the-key", &body).await;
    assert_eq!(first["status"], "open", "{first}");
    // No key is ever forgotten: the command log is as old as the events that it led to.
    for time in ["1s", "24h", "40d"] {
        stage.pass(time).await;
        let by_nats = stage.command_with_key("create_order", "the-key", &body).await;
        assert_eq!(by_nats["order_id"], first["order_id"], "{time}: {by_nats}");
        let by_http = api.post_with_key("/v1/orders", "the-key", &body).await;
        assert_eq!(
            (by_http.status, &by_http.body["order_id"]),
            (201, &first["order_id"])
        );
        assert_eq!(
            by_http.header("idempotent-replayed"),
            "true",
            "{time}: {by_http:?}"
        );
        let reused = stage.command_with_key("create_order", "the-key", &other).await;
        assert_eq!(
            (&reused["status"], &reused["code"]),
            (&json!(422), &json!("idempotency_key_reused")),
            "{time}"
        );
        api.post_with_key("/v1/orders", "the-key", &other)
            .await
            .refused(422, "idempotency_key_reused");
        // Another verb is another intention, whatever its body.
        let path = format!("/v1/orders/{}/cancel", first["order_id"].as_str().expect("an id"));
        api.post_with_key(&path, "the-key", &json!({}))
            .await
            .refused(422, "idempotency_key_reused");
    }
    let made = "SELECT count(*) FROM events WHERE event_type = 'OrderCreated'";
    assert_eq!(stage.sql_count(made).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_12_card_numbers_never_enter_and_are_not_echoed() {
    let stage = Stage::new().await;
    let card = "4111 1111 1111 1111";
    // Any field but references and ids: one in ten numbers of the right length has a card's sum by chance, and a shop that
    // counts its orders so would lose them.
    for pointer in [
        "/description",
        "/amount/value",
        "/amount/currency",
        "/country",
        "/language",
        "/shopper/first_name",
        "/shopper/email",
        "/metadata/sim_scenario",
        "/return_url",
    ] {
        let document = send(&stage, "create_order", None, &bytes(&with(pointer, json!(card)))).await;
        assert_eq!(
            (&document["status"], &document["code"]),
            (&json!(422), &json!("card_data_refused")),
            "{pointer}"
        );
        assert!(
            !document.to_string().contains("1111"),
            "the number is echoed: {document}"
        );
    }
    let mut named = order_body("b-12", "ideal/success");
    named["4111111111111111"] = json!("x");
    let document = send(&stage, "create_order", None, &bytes(&named)).await;
    assert!(
        !document.to_string().contains("1111"),
        "the number is echoed: {document}"
    );
    // As a number it is no text, and no better.
    let number = with("/amount/value", json!(4_111_111_111_111_111_i64));
    let document = send(&stage, "create_order", None, &bytes(&number)).await;
    assert_eq!(document["code"], "card_data_refused", "{document}");
    for (verb, body) in [
        ("start_payment", json!({ "order_id": "ord_x", "method": card })),
        (
            "start_payment",
            json!({ "order_id": "ord_x", "method": "ideal", "issuer": card }),
        ),
        ("cancel_order", json!({ "order_id": "ord_x", "reason": card })),
        ("list_orders", json!({ "after": card })),
        ("list_methods", json!({ "country": card, "currency": "EUR" })),
    ] {
        let document = send(&stage, verb, None, &bytes(&body)).await;
        refused_card(&document);
    }
    let api = Api::new(&stage).await;
    let asked = api.get("/v1/orders?status=4111%201111%201111%201111").await;
    refused_card(&asked.body);
    nothing_happened(&stage).await;
}

fn refused_card(document: &Value) {
    assert_eq!(
        (&document["status"], &document["code"]),
        (&json!(422), &json!("card_data_refused")),
        "{document}"
    );
    assert!(
        !document.to_string().contains("1111"),
        "the number is echoed: {document}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_13_what_cannot_be_answered_or_is_another_shops_is_not_processed() {
    let stage = Stage::new().await;
    let body = bytes(&order_body("b-13", "ideal/success"));
    let subject = format!("kassa.cmd.{SHOP}.create_order");
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", "k");
    // Nobody is waiting, or somebody who may not be spoken to.
    let before = turned_away();
    let publish = stage
        .checkout
        .publish_with_headers(subject.clone(), headers.clone(), body.clone().into());
    publish.await.expect("it is sent");
    for reply in [
        "kassa.evt.0.demo-shop.order.ord_x.payment_safe",
        "kassa.live.demo-shop.order.ord_x.payment_safe",
        "$JS.API.STREAM.DELETE.KASSA_EVENTS",
    ] {
        let publish = stage.checkout.publish_with_reply_and_headers(
            subject.clone(),
            reply,
            headers.clone(),
            body.clone().into(),
        );
        publish.await.expect("it is sent");
    }
    stage
        .until("all four are turned away", async |_| {
            turned_away() >= before + 4.0
        })
        .await;
    // A shop that is not the caller's: the server does not let it pass.
    for theirs in [
        "kassa.cmd.third-shop.create_order",
        "kassa.inbox.third-shop.create_order",
    ] {
        let asked = stage.checkout.send_request(
            theirs,
            async_nats::Request::new()
                .headers(headers.clone())
                .payload(body.clone().into()),
        );
        let answer = tokio::time::timeout(Duration::from_millis(300), asked).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{theirs} was answered");
    }
    // Headers have the limit that they have over HTTP.
    let mut heavy = headers.clone();
    heavy.insert("X-Note", "x".repeat(65_536).as_str());
    for verb in COMMANDS {
        let (_, document) = stage
            .send(&format!("kassa.cmd.{SHOP}.{verb}"), heavy.clone(), body.clone())
            .await;
        assert_eq!(
            (&document["status"], &document["code"]),
            (&json!(431), &json!("headers_too_large")),
            "{document}"
        );
    }
    let request = stage
        .api_post("/v1/orders")
        .await
        .header("X-Note", "x".repeat(65_536));
    Answer::of(request.body(body.clone()))
        .await
        .refused(431, "headers_too_large");
    nothing_happened(&stage).await;
}

/// Requests that this process has turned away because their answer had nowhere to go.
fn turned_away() -> f64 {
    kassa_chassis::metrics::render()
        .lines()
        .filter(|line| line.starts_with("kassa_commands_total{") && line.contains("no_reply_subject"))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_14_unknown_verbs_and_newer_versions_are_told_apart() {
    let stage = Stage::new().await;
    let body = bytes(&order_body("b-14", "ideal/success"));
    let document = send(&stage, "create_ordre", None, &body).await;
    assert_eq!(
        (&document["status"], &document["code"]),
        (&json!(404), &json!("not_found"))
    );
    assert!(
        document["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("create_order")),
        "{document}"
    );
    let (answer, document) = stage
        .send(
            &format!("kassa.qry.{SHOP}.get_ordre"),
            HeaderMap::new(),
            b"{}".to_vec(),
        )
        .await;
    assert_eq!(document["code"], "not_found");
    let code = answer
        .headers
        .expect("headers")
        .get("Nats-Service-Error-Code")
        .cloned();
    assert_eq!(code.expect("the code").as_str(), "404");
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", "k");
    headers.insert("Kassa-Command-Version", "2");
    let document = send(&stage, "create_order", Some(headers.clone()), &body).await;
    assert_eq!(
        (&document["status"], &document["code"]),
        (&json!(422), &json!("command_version_unknown"))
    );
    assert!(
        document["detail"]
            .as_str()
            .is_some_and(|text| text.contains("is 1")),
        "{document}"
    );
    nothing_happened(&stage).await;
    headers.insert("Kassa-Command-Version", "1");
    assert_eq!(
        send(&stage, "create_order", Some(headers), &body).await["status"],
        "open"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_16_orders_that_are_not_there_have_one_answer_whatever_the_reason() {
    let stage = Stage::new().await;
    let (_, order_id) = stage.create("ideal/success").await;
    let unknown = "ord_p6rg29pzj1vn6a4282w39drs9b20";
    // The same stream under another bucket would be a second name for one order.
    let first = if order_id.starts_with("ord_0") { "1" } else { "0" };
    let renamed = format!("ord_{first}{}", &order_id[5..]);
    let mut answers = Vec::new();
    for id in [unknown, &renamed, "ord_", "pay_p6rg29pzj1vn6a4282w39drs9b20", "x"] {
        answers.push(
            stage
                .command("start_payment", &json!({ "order_id": id, "method": "ideal" }))
                .await,
        );
        answers.push(stage.get_order(id).await);
    }
    // What is different in every answer says nothing about the order.
    for answer in &mut answers {
        answer.as_object_mut().expect("a problem").remove("trace_id");
    }
    assert!(
        answers
            .iter()
            .all(|answer| answer["code"] == "not_found" && answer == &answers[0] || answer == &answers[1])
    );
    // Nor does another shop learn of it, or pay it.
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", "theirs");
    let start = bytes(&json!({ "order_id": order_id, "method": "ideal" }));
    let (_, started) = stage
        .send("kassa.cmd.other-shop.start_payment", headers, start)
        .await;
    assert_eq!(started["code"], "not_found", "{started}");
    let question = bytes(&json!({ "order_id": order_id }));
    let (_, found) = stage
        .send("kassa.qry.other-shop.get_order", HeaderMap::new(), question)
        .await;
    assert_eq!(found["code"], "not_found", "{found}");
    let neither = send(&stage, "get_order", None, b"{}").await;
    assert_eq!(neither["code"], "validation", "{neither}");
    let both = json!({ "order_id": order_id, "order_reference": "x" });
    assert_eq!(
        send(&stage, "get_order", None, &bytes(&both)).await["code"],
        "validation"
    );
    let start = json!({ "order_id": order_id, "method": "card" });
    refused(
        &send(&stage, "start_payment", None, &bytes(&start)).await,
        422,
        "method_not_available",
        "/method",
    );
}

/// How often each question is asked, by turns, before their times are compared.
const ASKED: u32 = 200;
/// A difference from which somebody could learn which orders there are.
const TELLING: SignedDuration = SignedDuration::from_millis(5);
/// What disturbs one round on a busy machine does not disturb each of them; what tells of an order does.
const ROUNDS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_16_another_shops_order_an_unknown_one_and_nonsense_are_answered_alike_and_as_fast() {
    let stage = Stage::new().await;
    let theirs = Api::of(&stage, "other-shop", &Scope::ALL).await;
    let (_, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let ids = [order_id.as_str(), "ord_p6rg29pzj1vn6a4282w39drs9b20", "x"];
    for (verb, rest) in [
        ("get_order", json!({})),
        ("get_order_events", json!({})),
        ("explain_order", json!({})),
        ("start_payment", json!({ "method": "ideal" })),
        ("cancel_order", json!({})),
    ] {
        let mut answers = Vec::new();
        for id in ids {
            answers.push(absent_by_nats(&stage, verb, id, &rest).await);
        }
        assert_eq!(answers[0], answers[1], "{verb}");
        assert_eq!(answers[0], answers[2], "{verb}");
        assert_eq!(answers[0].0["code"], "not_found");
    }
    for path in ["", "/events", "/why", "/payments", "/cancel"] {
        let mut answers = Vec::new();
        for id in ids {
            answers.push(absent_by_http(&theirs, &format!("/v1/orders/{id}{path}")).await);
        }
        assert_eq!(answers[0], answers[1], "{path}");
        assert_eq!(answers[0], answers[2], "{path}");
        assert_eq!(answers[0].0["code"], "not_found");
    }
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let mut means = [[SignedDuration::ZERO; 3]; 2];
        for _ in 0..ASKED {
            for (n, id) in ids.into_iter().enumerate() {
                let began = tokio::time::Instant::now();
                absent_by_nats(&stage, "get_order", id, &json!({})).await;
                let by_nats = began.elapsed();
                absent_by_http(&theirs, &format!("/v1/orders/{id}")).await;
                let by_http = began.elapsed().saturating_sub(by_nats);
                for (sum, took) in means.iter_mut().zip([by_nats, by_http]) {
                    sum[n] +=
                        SignedDuration::try_from(took).expect("short") / i32::try_from(ASKED).expect("few");
                }
            }
        }
        let apart = |way: &[SignedDuration; 3]| {
            let (most, least) = (way.iter().max(), way.iter().min());
            *most.expect("three") - *least.expect("three")
        };
        seen.push(means);
        if means.iter().all(|way| apart(way) <= TELLING) {
            return;
        }
    }
    panic!("by how long the answer takes, one knows which order there is: {seen:?}");
}

/// What one is told of an order that is not one's own, without what is different in every answer.
async fn absent_by_nats(stage: &Stage, verb: &str, id: &str, rest: &Value) -> (Value, String) {
    let mut body = rest.clone();
    body["order_id"] = json!(id);
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", uuid::Uuid::new_v4().to_string().as_str());
    let family = if COMMANDS.contains(&verb) { "cmd" } else { "qry" };
    let (answer, mut document) = stage
        .send(
            &format!("kassa.{family}.other-shop.{verb}"),
            headers,
            bytes(&body),
        )
        .await;
    document.as_object_mut().expect("a problem").remove("trace_id");
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .flat_map(HeaderMap::iter)
        .map(|(name, values)| format!("{name}: {values:?}"))
        .collect();
    headers.sort();
    (document, headers.join("\n"))
}

/// The same over HTTP; there the path that was asked stands in the answer, and its caller knows it.
async fn absent_by_http(api: &Api<'_>, path: &str) -> (Value, String) {
    let request = if path.ends_with("/payments") || path.ends_with("/cancel") {
        api.request(Method::POST, path)
            .header("Idempotency-Key", uuid::Uuid::new_v4().to_string())
            .json(&json!({ "method": "ideal" }))
    } else {
        api.request(Method::GET, path)
    };
    // A cancellation has no method.
    let request = if path.ends_with("/cancel") {
        request.body("{}")
    } else {
        request
    };
    let mut answer = Answer::of(request).await;
    let document = answer.body.as_object_mut().expect("a problem");
    document.remove("trace_id");
    document.remove("instance");
    let mut headers = answer.headers_without(&["date", "trace-id", "content-length"]);
    headers.sort();
    (answer.body, headers.join("\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_17_a_cursor_fits_the_question_that_it_came_from_and_no_other() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    for _ in 0..3 {
        stage.create("ideal/success").await;
    }
    let page = ask(&stage, SHOP, &json!({ "limit": 2 })).await;
    let cursor = page["next"].as_str().expect("there is more").to_owned();
    // Cursors hold a place in the list and no time, so that they do not expire.
    stage.pass("40d").await;
    let rest = ask(&stage, SHOP, &json!({ "limit": 2, "after": cursor })).await;
    assert_eq!(rest["orders"].as_array().map(Vec::len), Some(1), "{rest}");
    let mut forged = cursor.clone();
    let last = forged.pop().expect("a letter");
    forged.push(if last == 'A' { 'B' } else { 'A' });
    for (question, pointer, limit) in [
        (json!({ "after": forged }), "/after", "the page before"),
        (json!({ "after": "" }), "/after", "the page before"),
        (json!({ "after": "x" }), "/after", "the page before"),
        (
            json!({ "after": "A".repeat(10_000) }),
            "/after",
            "the page before",
        ),
        (
            json!({ "after": cursor, "status": "open" }),
            "/after",
            "the page before",
        ),
        (json!({ "limit": 0 }), "/limit", "1 to 200"),
        (json!({ "limit": -1 }), "/limit", "1 to 200"),
        (json!({ "limit": 201 }), "/limit", "1 to 200"),
        // Not cut to what is possible: who asks for so much would take the page for all there is.
        (json!({ "limit": 1_000_000_000 }), "/limit", "1 to 200"),
        (json!({ "status": "payed" }), "/status", "one of open"),
    ] {
        let document = ask(&stage, SHOP, &question).await;
        refused(&document, 400, "validation", pointer);
        let detail = document["errors"][0]["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(limit), "{document}");
        let query: Vec<String> = question
            .as_object()
            .expect("an object")
            .iter()
            .map(|(name, value)| {
                format!(
                    "{name}={}",
                    value.as_str().map_or(value.to_string(), str::to_owned)
                )
            })
            .collect();
        let query = query.join("&");
        let answer = api.get(&format!("/v1/orders?{query}")).await;
        if query.len() > 4_096 {
            answer.refused(414, "uri_too_long");
        } else {
            answer.refused(400, "validation");
            assert_eq!(answer.body["errors"], document["errors"], "{answer:?}");
        }
    }
    // Nor does it open another shop's list.
    let document = ask(&stage, "other-shop", &json!({ "after": cursor })).await;
    refused(&document, 400, "validation", "/after");
}

/// A page of a shop's orders.
async fn ask(stage: &Stage, shop: &str, question: &Value) -> Value {
    let subject = format!("kassa.qry.{shop}.list_orders");
    stage.send(&subject, HeaderMap::new(), bytes(question)).await.1
}
