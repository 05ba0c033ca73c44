//! Bad input over the bus and over HTTP, by the ids of the catalogue: a clear error that names field and rule, nothing stored, nothing
//! called.

use async_nats::HeaderMap;
use serde_json::{Value, json};

use crate::{
    stage::{Stage, order_body},
    world::SHOP,
};

/// Sends raw bytes to a verb, with a key of its own unless headers are given.
async fn send(stage: &Stage, verb: &str, headers: Option<HeaderMap>, body: &[u8]) -> Value {
    let headers = headers.unwrap_or_else(|| {
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", uuid::Uuid::new_v4().to_string().as_str());
        headers
    });
    let prefix = if verb == "get_order" {
        "kassa.qry"
    } else {
        "kassa.cmd"
    };
    let (message, document) = stage
        .send(&format!("{prefix}.{SHOP}.{verb}"), headers.clone(), body.to_vec())
        .await;
    if verb == "create_order" {
        same_over_http(stage, &headers, body, &document).await;
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

/// The same bytes and headers over HTTP get the same answer: the same key makes what was decided a repeat.
async fn same_over_http(stage: &Stage, headers: &HeaderMap, body: &[u8], by_nats: &Value) {
    let mut request = stage
        .api_post("/v1/orders")
        .await
        .header("Content-Type", "application/json");
    for (name, values) in headers.iter() {
        for value in values {
            request = request.header(name.to_string(), value.as_str());
        }
    }
    let response = request.body(body.to_vec()).send().await.expect("it answers");
    let status = response.status().as_u16();
    let document: Value = response.json().await.expect("answers are JSON");
    if let Some(expected) = by_nats["status"].as_u64() {
        assert_eq!(u64::from(status), expected, "{document}");
        for field in ["status", "code", "title", "errors", "order_id"] {
            assert_eq!(document[field], by_nats[field], "{field}: {document}");
        }
    } else {
        assert_eq!(status, 201, "{document}");
        assert_eq!(document["order_id"], by_nats["order_id"]);
    }
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
    for verb in ["create_order", "start_payment", "get_order"] {
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
    for verb in ["create_order", "start_payment", "get_order"] {
        let document = send(&stage, verb, None, &vec![b' '; 64 * 1024 + 1]).await;
        assert_eq!(
            (&document["status"], &document["code"]),
            (&json!(413), &json!("payload_too_large"))
        );
    }
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", "k");
    headers.insert("Content-Encoding", "gzip");
    let document = send(&stage, "create_order", Some(headers), b"\x1f\x8b").await;
    assert_eq!(
        (&document["status"], &document["code"]),
        (&json!(415), &json!("unsupported_encoding"))
    );
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
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_07_a_return_url_is_on_the_shops_own_origins() {
    let stage = Stage::new().await;
    for wrong in [
        "http://shop.example/",
        "javascript:alert(1)",
        "//shop.example/",
        "https://shop.example@evil.example/",
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
    let start = json!({ "order_id": "ord_x", "method": "ideal", "amount": 1 });
    refused(
        &send(&stage, "start_payment", None, &bytes(&start)).await,
        400,
        "validation",
        "/amount",
    );
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
    for verb in ["create_order", "start_payment"] {
        let document = send(&stage, verb, Some(HeaderMap::new()), &body).await;
        assert_eq!(
            (&document["status"], &document["code"]),
            (&json!(400), &json!("idempotency_key_missing"))
        );
        for wrong in ["", &"k".repeat(65), "with space", "schlüssel"] {
            let mut headers = HeaderMap::new();
            headers.insert("Idempotency-Key", wrong);
            let document = send(&stage, verb, Some(headers), &body).await;
            assert_eq!(document["status"], 400, "{wrong:?}: {document}");
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
async fn b_12_card_numbers_never_enter_and_are_not_echoed() {
    let stage = Stage::new().await;
    let card = "4111 1111 1111 1111";
    for pointer in [
        "/description",
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
    let start = json!({ "order_id": "ord_x", "method": card });
    let document = send(&stage, "start_payment", None, &bytes(&start)).await;
    assert_eq!(document["code"], "card_data_refused");
    nothing_happened(&stage).await;
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
async fn orders_that_are_not_there_have_one_answer_whatever_the_reason() {
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
