//! What do operators see of a payment? Its numbers, its trace, its log lines; and never a person or a secret.

use std::{collections::BTreeSet, time::Duration};

use async_nats::HeaderMap;
use futures::StreamExt as _;
use kassa::Role;
use kassa_checkout::keys::Scope;
use serde_json::{Value, json};

use crate::{
    stage::{CM_PASSWORD, Plan, Stage, order_body},
    world::{SHOP, own_nats},
};

/// The trace that the shop names in its commands.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The number that every scheme gives to testers.
const CARD: &str = "4111111111111111";
const PHONE: &str = "+31 6 1357 2468";

/// The log of the stage's processes; every line is JSON.
fn log(stage: &Stage) -> (String, Vec<Value>) {
    let text = std::fs::read_to_string(stage.config_file().with_extension("log")).expect("it was written");
    let lines = text
        .lines()
        // The last one may be under way.
        .filter(|line| line.ends_with('}'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not a line of JSON: {line}")))
        .collect();
    (text, lines)
}

/// Where the stage's processes tell of themselves, as they logged it.
async fn admin_listeners(stage: &Stage, processes: usize) -> Vec<String> {
    let found = |stage: &Stage| -> Vec<String> {
        let told = |line: &Value| line["msg"] == "health and metrics are told here";
        let lines = log(stage).1;
        let addresses = lines.iter().filter(|line| told(line));
        addresses
            .filter_map(|line| Some(format!("http://{}", line["address"].as_str()?)))
            .collect()
    };
    stage
        .until("the admin listeners", async |stage| {
            found(stage).len() == processes
        })
        .await;
    found(stage)
}

/// What all of them and this process itself count, as one text.
async fn metrics(stage: &Stage, listeners: &[String]) -> String {
    kassa_chassis::metrics::render() + &processes(stage, listeners).await
}

/// What the stage's processes count.
async fn processes(stage: &Stage, listeners: &[String]) -> String {
    let mut text = String::new();
    for listener in listeners {
        let page = stage.http_get(&format!("{listener}/metrics")).await;
        assert!(page.status().is_success());
        text.push_str(&page.text().await.expect("a body"));
    }
    text
}

/// The sum over all series of a name that have these labels among theirs.
fn counted(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    samples(text)
        .filter(|(found, having, _)| *found == name && labels.iter().all(|l| having.contains(l)))
        .map(|(_, _, value)| value)
        .sum()
}

/// A name, labels that it must have among others, and the least that it must have counted.
type Expected<'e> = (&'e str, &'e [(&'e str, &'e str)], f64);

/// `name{labels} value` lines, taken apart.
fn samples(text: &str) -> impl Iterator<Item = (&str, Vec<(&str, &str)>, f64)> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels
            .trim_end_matches('}')
            .split("\",")
            .filter(|label| !label.is_empty())
            .map(|label| {
                let (name, value) = label.split_once("=\"").expect("a label");
                (name, value.trim_end_matches('"'))
            })
            .collect();
        (name, labels, value.parse().expect("a number"))
    })
}

fn traced(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", key);
    headers.insert("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01").as_str());
    headers.insert("tracestate", "shop=1");
    headers
}

fn body(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_is_counted_traced_and_told_without_a_person_or_a_secret() {
    let roles = [
        ("engine", Role::Engine),
        ("relay", Role::Relay),
        ("cm-gateway", Role::CmGateway),
        ("read-models", Role::ReadModels),
        ("checkout", Role::Checkout),
    ];
    let stage = Stage::planned(Plan {
        processes: roles.to_vec(),
        nats: None,
        database: None,
    })
    .await;
    let mut live = stage
        .checkout
        .subscribe(format!("kassa.live.{SHOP}.>"))
        .await
        .expect("its own shop");
    stage.checkout.flush().await.expect("it is subscribed");

    let reference = "T-telemetry";
    let mut order = order_body(reference, "ideal/success");
    order["shopper"]["phone"] = PHONE.into();
    let commands = format!("kassa.cmd.{SHOP}");
    let (_, made) = stage
        .send(
            &format!("{commands}.create_order"),
            traced("create"),
            body(&order),
        )
        .await;
    let order_id = made["order_id"].as_str().expect("an id").to_owned();
    let start = body(&json!({ "order_id": order_id, "method": "ideal" }));
    stage
        .send(&format!("{commands}.start_payment"), traced("start"), start)
        .await;
    // A card number never belongs here; it is refused, and the refusal does not repeat it.
    order["description"] = format!("paid with {CARD}").into();
    let (_, refused) = stage
        .send(&format!("{commands}.create_order"), traced("card"), body(&order))
        .await;
    assert!(refused["code"].is_string(), "{refused}");
    assert_eq!(refused["trace_id"], TRACE);
    // A key that opens the API, and one that was mistyped.
    let key = stage.api_key(SHOP, &Scope::ALL).await;
    let secret_of_key = key.split('_').nth(3).expect("it has a secret").to_owned();
    stage
        .until("the API answers", async |stage| stage.api_answers().await)
        .await;
    let mut problems = refused.to_string();
    for (key, expected) in [(key.clone(), 422), (format!("{key}0"), 401)] {
        let answer = reqwest::Client::builder()
            .no_proxy()
            .build()
            .expect("a client")
            .post(format!("{}/v1/orders/{order_id}/payments", stage.api_url))
            .bearer_auth(key)
            .header("Idempotency-Key", "start")
            .json(&json!({ "method": "paypal" }))
            .send()
            .await
            .expect("it answers");
        let status = answer.status();
        let problem = answer.text().await.expect("a body");
        assert_eq!(status, expected, "{problem}");
        problems.push_str(&problem);
    }
    stage.press(reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    stage
        .until("the shipment", async |s| s.shipments(&order_id).await == 1)
        .await;

    // The trace: from the command into every event that it caused, over the bus and the gateway.
    let mut seen = BTreeSet::new();
    let mut envelopes = String::new();
    while !seen.contains("payment_safe") {
        let message = tokio::time::timeout(Duration::from_secs(30), live.next())
            .await
            .expect("events are told")
            .expect("the subscription goes on");
        let envelope: Value = serde_json::from_slice(&message.payload).expect("JSON");
        envelopes.push_str(&envelope.to_string());
        let event = message
            .subject
            .split('.')
            .next_back()
            .expect("a token")
            .to_owned();
        let made_in = envelope["traceparent"]
            .as_str()
            .expect("every event is traced")
            .to_owned();
        let headers = message.headers.expect("headers");
        let hop = headers.get("traceparent").expect("a hop").as_str().to_owned();
        assert_eq!(made_in[3..35], hop[3..35], "{event}: one trace");
        assert_ne!(made_in, hop, "{event}: another span");
        if ["created", "started", "redirected"].contains(&event.as_str()) {
            assert_eq!(&made_in[3..35], TRACE, "{event}");
            assert_eq!(envelope["tracestate"], "shop=1", "{event}");
        }
        seen.insert(event);
    }
    assert!(seen.contains("redirected"), "{seen:?}");

    // The numbers.
    let listeners = admin_listeners(&stage, roles.len()).await;
    let shop = ("shop", SHOP);
    let ideal = ("method", "ideal");
    let cm = ("psp", "cm");
    let expected: [Expected<'_>; 13] = [
        ("kassa_orders_created_total", &[shop], 1.0),
        (
            "kassa_payments_total",
            &[shop, ideal, ("outcome", "authorized")],
            1.0,
        ),
        ("kassa_payment_time_to_safe_seconds_count", &[shop, ideal], 1.0),
        (
            // On a busy machine the ladder may be faster than the notification.
            "kassa_status_known_delay_seconds_count",
            &[cm],
            1.0,
        ),
        (
            "kassa_amount_minor_units_total",
            &[shop, ("currency", "EUR"), ("kind", "safe")],
            4995.0,
        ),
        (
            "kassa_commands_total",
            &[("command", "start_payment"), ("result", "ok")],
            1.0,
        ),
        (
            "kassa_command_duration_seconds_count",
            &[("command", "start_payment")],
            1.0,
        ),
        (
            "kassa_psp_requests_total",
            &[cm, ("operation", "start"), ("result", "ok")],
            1.0,
        ),
        (
            "kassa_psp_request_duration_seconds_count",
            &[cm, ("operation", "create")],
            1.0,
        ),
        (
            "kassa_notifications_received_total",
            &[cm, ("result", "stored")],
            1.0,
        ),
        ("kassa_projection_lag_events", &[("projection", "checkout")], 0.0),
        ("kassa_outbox_pending", &[], 0.0),
        ("kassa_livemode", &[], 0.0),
    ];
    stage
        .until("the numbers", async |stage| {
            let text = metrics(stage, &listeners).await;
            // Other tests of this process count as well: at least.
            expected.iter().all(|(name, labels, value)| {
                samples(&text).any(|(found, ..)| found == *name) && counted(&text, name, labels) >= *value
            })
        })
        .await;
    let text = processes(&stage, &listeners).await;
    assert!(
        (counted(&text, "kassa_orders_created_total", &[shop]) - 1.0).abs() < 0.1,
        "counted once"
    );
    for name in [
        "kassa_outbox_oldest_age_seconds",
        "kassa_projection_lag_seconds",
        "kassa_build_info",
    ] {
        assert!(
            samples(&text).any(|(found, ..)| found == name),
            "{name} is missing in\n{text}"
        );
    }
    // Labels are words from lists: no id, reference or amount is among their values.
    for (name, labels, _) in samples(&text) {
        for (label, value) in labels {
            let bounded = ["le", "version", "revision"].contains(&label)
                || value
                    .bytes()
                    .all(|b| b.is_ascii_alphabetic() || b == b'_' || b == b'-');
            assert!(bounded, "{name}: {label} is {value:?}");
        }
    }

    // The lines.
    let (log, lines) = log(&stage);
    for line in &lines {
        for field in ["ts", "level", "target", "msg"] {
            assert!(line[field].is_string(), "{field} is missing in {line}");
        }
    }
    let command = |verb: &str| {
        lines
            .iter()
            .filter(|line| line["msg"] == "command" && line["verb"] == verb && line["trace_id"] == TRACE)
            .collect::<Vec<_>>()
    };
    let told = command("start_payment");
    assert_eq!(told.len(), 1, "one line a command");
    assert_eq!(
        (&told[0]["shop"], &told[0]["order_id"]),
        (&SHOP.into(), &order_id.clone().into())
    );
    assert_eq!(told[0]["level"], "INFO");
    assert_eq!(told[0]["span_id"].as_str().map(str::len), Some(16));
    assert_eq!(command("create_order").len(), 2);

    // Nobody and nothing secret, anywhere.
    let secret = |login: &kassa_chassis::config::Login| {
        use secrecy::ExposeSecret as _;
        login
            .password
            .as_ref()
            .expect("a password")
            .expose_secret()
            .to_owned()
    };
    let logins = &stage.logins;
    let canaries = [
        "canary.person".to_owned(),
        "Canary".to_owned(),
        PHONE.to_owned(),
        CARD.to_owned(),
        CM_PASSWORD.to_owned(),
        secret(&logins.worker),
        secret(&logins.relay),
        secret(&logins.checkout),
        secret_of_key,
    ];
    let places = [
        ("the log", &log),
        ("metrics", &text),
        ("events", &envelopes),
        ("the problem documents", &problems),
    ];
    for canary in &canaries {
        for (place, text) in places {
            let at = text.find(canary.as_str());
            let around = at.map(|at| &text[at.saturating_sub(200)..at]);
            assert_eq!(around, None, "{canary:?} stands in {place}");
        }
    }
    assert!(
        log.contains("DEBUG"),
        "the log was not looked at as closely as it should be"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_that_are_canceled_expire_or_lose_their_safety_are_counted_once() {
    // Every role that decides is a process of its own: what this one counts is of other tests as well.
    let roles = [
        ("engine", Role::Engine),
        ("cm-gateway", Role::CmGateway),
        ("checkout", Role::Checkout),
    ];
    let stage = Stage::planned(Plan {
        processes: roles.to_vec(),
        nats: None,
        database: None,
    })
    .await;
    let (_, canceled) = stage.create("ideal/success").await;
    for _ in 0..2 {
        let answer = stage
            .command("cancel_order", &json!({ "order_id": canceled }))
            .await;
        assert_eq!(answer["status"], "canceled", "{answer}");
    }
    let (_, expired) = stage.create("ideal/success").await;
    let (reference, reversed) = stage.create("any/safe_then_reversed").await;
    stage.start(&reversed).await;
    stage.press(&reference, "any/safe_then_reversed").await;
    stage.until_order(&reversed, "paid", "authorized", "yes").await;
    stage.pass("25h").await;
    stage.until_order(&reversed, "paid", "authorized", "lost").await;
    stage
        .until("the other is expired", async |stage| {
            stage.get_order(&expired).await["status"] == "expired"
        })
        .await;

    let listeners = admin_listeners(&stage, roles.len()).await;
    let shop = ("shop", SHOP);
    let (orders, amounts) = ("kassa_orders_total", "kassa_amount_minor_units_total");
    let expected: [Expected<'_>; 5] = [
        (orders, &[shop, ("outcome", "canceled")], 1.0),
        (orders, &[shop, ("outcome", "expired")], 1.0),
        (orders, &[shop, ("outcome", "safety_lost")], 1.0),
        (
            amounts,
            &[shop, ("currency", "EUR"), ("kind", "safety_lost")],
            4995.0,
        ),
        (amounts, &[shop, ("currency", "EUR"), ("kind", "safe")], 4995.0),
    ];
    stage
        .until("the numbers", async |stage| {
            let text = processes(stage, &listeners).await;
            let told = expected
                .iter()
                .map(|(name, labels, _)| counted(&text, name, labels));
            told.zip(&expected)
                .all(|(told, (_, _, value))| (told - value).abs() < 0.1)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bus_who_needs_it_is_not_ready_and_says_what_becomes_of_orders() {
    let (mut nats, logins) = own_nats("readiness");
    let stage = Stage::planned(Plan {
        processes: vec![
            ("relay", Role::Relay),
            ("cm-gateway", Role::CmGateway),
            ("read-models", Role::ReadModels),
        ],
        nats: Some((nats.url(), logins)),
        database: None,
    })
    .await;
    let listeners = admin_listeners(&stage, 3).await;
    // All, as `(HTTP status, status, of which role)`.
    let standing = async |stage: &Stage| {
        let mut all = Vec::new();
        for listener in &listeners {
            let page = stage.http_get(&format!("{listener}/readyz")).await;
            let code = page.status().as_u16();
            let report: Value = page.json().await.expect("JSON");
            let (role, stands) = report["roles"]
                .as_object()
                .and_then(|roles| roles.iter().next())
                .map(|(role, stands)| (role.clone(), stands.clone()))
                .unwrap_or_default();
            if !stands.is_null() {
                assert_eq!(
                    report["status"], stands,
                    "one role decides for its process: {report}"
                );
            }
            all.push((role, code, stands.as_str().unwrap_or_default().to_owned()));
        }
        all.sort();
        all
    };
    let row = |role: &str, code: u16, stands: &str| (role.to_owned(), code, stands.to_owned());
    let all = |code: u16, stands: &str| {
        ["cm-gateway", "read-models", "relay"]
            .map(|role| row(role, code, stands))
            .to_vec()
    };
    let well = all(200, "ready");
    stage
        .until("all are ready", async |stage| standing(stage).await == well)
        .await;
    assert!(
        stage.sql_count("SELECT count(*) FROM health_probes").await >= 1,
        "a durable write"
    );
    let mut nats = tokio::task::spawn_blocking(move || {
        nats.kill().expect("it is ours to kill");
        nats
    })
    .await
    .expect("it does not panic");
    let without = all(503, "not_ready");
    stage
        .until("none is ready", async |stage| standing(stage).await == without)
        .await;
    for listener in &listeners {
        let page = stage.http_get(&format!("{listener}/readyz")).await;
        let report: Value = page.json().await.expect("JSON");
        let meaning = report["meaning"].as_str().unwrap_or_default();
        assert!(meaning.contains("no payment link is made"), "{report}");
        if report["roles"]["read-models"].is_string() {
            assert_eq!(report["checks"]["nats_hear_queries"]["ok"], false, "{report}");
        }
        for page in ["livez", "startupz"] {
            let page = stage.http_get(&format!("{listener}/{page}")).await;
            assert!(
                page.status().is_success(),
                "a bus that is away is no reason to be restarted"
            );
        }
    }
    let _nats = tokio::task::spawn_blocking(move || {
        nats.restart().expect("it starts again");
        nats
    })
    .await
    .expect("it does not panic");
    stage
        .until("all are ready again", async |stage| standing(stage).await == well)
        .await;
}
