//! What becomes of commands that wait for nobody, and of messages that no repeat will settle?

use std::{process::Command, time::Duration};

use async_nats::{HeaderMap, jetstream};
use futures::StreamExt as _;
use kassa::Role;
use kassa_chassis::{bus, config::Login};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::{
    stage::{DEADLINE, Plan, Stage, order_body},
    world::SHOP,
};

fn headers(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", key);
    headers.insert(
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    );
    headers
}

/// Stored, or the test ends.
async fn put(stage: &Stage, verb: &str, key: &str, body: &[u8]) {
    let publish = async || {
        jetstream::new(stage.checkout.clone())
            .publish_with_headers(
                format!("kassa.inbox.{SHOP}.{verb}"),
                headers(key),
                body.to_vec().into(),
            )
            .await?
            .await
    };
    stage
        .until("the inbox takes it", async |_| publish().await.is_ok())
        .await;
}

/// The binary, as a user of the bus; exit code and what it printed.
pub(crate) async fn kassa(stage: &Stage, login: &Login, args: &[&str]) -> (i32, String) {
    let url = stage.config.nats.url.replace(
        "nats://",
        &format!(
            "nats://{}:{}@",
            login.user.as_deref().unwrap_or_default(),
            login
                .password
                .as_ref()
                .map_or("", |password| password.expose_secret())
        ),
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"));
    command
        .arg("--config")
        .arg(stage.config_file())
        .args(args)
        .args(["--nats-url", &url]);
    let output = tokio::task::spawn_blocking(move || command.output().expect("the binary starts"))
        .await
        .expect("it does not panic");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = output.status.code().unwrap_or(-1);
    if code != 0 && text.is_empty() {
        return (code, String::from_utf8_lossy(&output.stderr).into_owned());
    }
    (code, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_the_inbox_has_its_effect_once_and_a_refusal_is_heard() {
    let stage = Stage::new().await;
    let mut refusals = stage
        .checkout
        .subscribe(format!("kassa.rejected.{SHOP}.>"))
        .await
        .expect("NATS answers");
    stage.checkout.flush().await.expect("NATS answers");

    let reference = "inbox-1";
    let body = serde_json::to_vec(&order_body(reference, "ideal/success")).expect("JSON");
    for _ in 0..3 {
        put(&stage, "create_order", "inbox-key", &body).await;
    }
    // Refused: the amount is not one, and the verb does not exist.
    let mut wrong = order_body("inbox-2", "ideal/success");
    wrong["amount"]["value"] = json!(-1);
    let wrong = serde_json::to_vec(&wrong).expect("JSON");
    for (verb, key, body, code) in [
        ("create_order", "wrong-key", &wrong, "validation"),
        ("observe_report", "forged-key", &body, "not_found"),
    ] {
        put(&stage, verb, key, body).await;
        let refusal = tokio::time::timeout(DEADLINE, refusals.next())
            .await
            .expect("the refusal is heard")
            .expect("the subscription lives");
        assert_eq!(refusal.subject.as_str(), format!("kassa.rejected.{SHOP}.{verb}"));
        let problem: Value = serde_json::from_slice(&refusal.payload).expect("JSON");
        assert_eq!(problem["code"], code, "{problem}");
        let has = refusal.headers.expect("headers");
        assert_eq!(has.get("Idempotency-Key").map(|value| value.as_str()), Some(key));
        assert!(has.get("traceparent").is_some());
    }

    let found = async |reference: &str| {
        let body = serde_json::to_vec(&json!({ "order_reference": reference })).expect("JSON");
        let subject = format!("kassa.qry.{SHOP}.get_order");
        stage.send(&subject, HeaderMap::new(), body).await.1
    };
    stage
        .until("the order is there", async |_| {
            found(reference).await["status"] == "open"
        })
        .await;
    let order_id = found(reference).await["order_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    // A start by the inbox: nobody waits for the redirect, and there is one.
    let start = serde_json::to_vec(&json!({ "order_id": order_id, "method": "ideal" })).expect("JSON");
    put(&stage, "start_payment", "inbox-start", &start).await;
    put(&stage, "start_payment", "inbox-start", &start).await;
    stage
        .until("the shopper can go to the bank", async |stage| {
            let sql = "SELECT count(*) FROM events WHERE event_type = 'PaymentRedirected'";
            stage.sql_count(sql).await == 1
        })
        .await;
    stage.press(reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    let orders = "SELECT count(*) FROM events WHERE event_type = 'OrderCreated'";
    assert_eq!(
        stage.sql_count(orders).await,
        1,
        "one order, however often it was sent"
    );
    let starts = "SELECT count(*) FROM events WHERE event_type = 'PaymentStarted'";
    assert_eq!(stage.sql_count(starts).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_waits_for_a_person_without_its_body() {
    let stage = Stage::new().await;
    let operator = stage.logins.of("operator");
    put(&stage, "create_order", "broken-key", b"{\"order_reference\": ").await;
    let listed = async || {
        let (code, text) = kassa(&stage, &operator, &["dlq", "ls", "--format", "ndjson"]).await;
        assert_eq!(code, 0, "{text}");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("NDJSON"))
            .collect();
        lines
    };
    stage
        .until("it is a dead letter", async |_| listed().await.len() == 1)
        .await;
    let letter = listed().await.remove(0);
    assert_eq!(letter["consumer"], "engine-inbox");
    assert_eq!(letter["subject"], format!("kassa.inbox.{SHOP}.create_order"));
    assert!(
        letter["error"]
            .as_str()
            .expect("a text")
            .starts_with("validation"),
        "{letter}"
    );
    let number = letter["number"].to_string();

    let (code, shown) = kassa(&stage, &operator, &["dlq", "show", &number]).await;
    assert_eq!(code, 0, "{shown}");
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["headers"]["Idempotency-Key"], "broken-key");
    // It may hold anything: it is known again by its hash, and the shop has it.
    assert_eq!((&shown["body"], &shown["body_bytes"]), (&Value::Null, &json!(20)));
    assert_eq!(shown["body_sha256"].as_str().map(str::len), Some(64), "{shown}");
    let (code, text) = kassa(&stage, &operator, &["dlq", "replay", &number]).await;
    assert!(code == 1 && text.contains("send the command again"), "{text}");
    let (code, text) = kassa(&stage, &operator, &["dlq", "drop", &number]).await;
    assert_eq!(code, 0, "{text}");
    assert!(listed().await.is_empty());
    let (code, _) = kassa(&stage, &operator, &["dlq", "show", &number]).await;
    assert_eq!(code, 5);
    // A checkout has no business there.
    let (code, text) = kassa(&stage, &stage.logins.checkout, &["dlq", "ls"]).await;
    assert_eq!(code, 77, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_replayed_for_who_gave_it_up_and_never_for_another_who_says_so() {
    let stage = Stage::new().await;
    let operator = stage.logins.of("operator");
    let body = serde_json::to_vec(&order_body("replayed", "ideal/success")).expect("JSON");
    let bury = async |login: &Login, consumer: &str, kept: &str| {
        let client = bus::connect(&stage.config.nats.url, login, "test")
            .await
            .expect("NATS answers");
        let mut headers = headers(kept);
        for (name, value) in [
            ("Kassa-Consumer", consumer),
            ("Kassa-Stream", "KASSA_INBOX"),
            ("Kassa-Subject", &format!("kassa.inbox.{SHOP}.create_order")),
            ("Kassa-Sequence", "1"),
        ] {
            headers.insert(name, value);
        }
        let stored = jetstream::new(client)
            .publish_with_headers(kept.to_owned(), headers, body.clone().into())
            .await
            .expect("it is sent")
            .await
            .expect("it is kept");
        stored.sequence.to_string()
    };
    let orders = "SELECT count(*) FROM events WHERE event_type = 'OrderCreated'";
    // A shipment service may write letters, of orders; the operator that replays them may send commands.
    for consumer in ["engine-inbox", "mine"] {
        let kept = format!("kassa.dlq.mine.{SHOP}.order.ord_1");
        let forged = bury(&stage.logins.shipment, consumer, &kept).await;
        let (code, text) = kassa(&stage, &operator, &["dlq", "replay", &forged]).await;
        assert!(code == 1 && text.contains("is not replayed"), "{code} {text}");
    }
    assert_eq!(stage.sql_count(orders).await, 0);
    let kept = format!("kassa.dlq.engine-inbox.{SHOP}.command.create_order");
    let number = bury(&stage.logins.worker, "engine-inbox", &kept).await;
    let (code, text) = kassa(&stage, &operator, &["dlq", "replay", &number]).await;
    assert_eq!(code, 0, "{text}");
    stage
        .until("the command is done", async |stage| {
            stage.sql_count(orders).await == 1
        })
        .await;
    let (code, _) = kassa(&stage, &operator, &["dlq", "show", &number]).await;
    assert_eq!(code, 5, "what was replayed is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_difference_on_the_bus_is_named_and_set_right_and_then_there_is_none() {
    let stage = Stage::new().await;
    let deploy = stage.logins.of("deploy");
    let setup = async |dry: bool| {
        let mut args = vec!["nats", "setup", "--format", "ndjson"];
        if dry {
            args.push("--dry-run");
        }
        kassa(&stage, &deploy, &args).await
    };
    let (code, text) = setup(true).await;
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains(&format!("consumer KASSA_EVENTS/ship-{SHOP}")) && text.contains("stream KASSA_PROBE"),
        "{text}"
    );
    let (code, text) = setup(false).await;
    assert_eq!((code, text.as_str()), (0, ""));
    assert_eq!(setup(true).await, (0, String::new()));

    // By hand, as somebody with a tool would.
    let client = bus::connect(&stage.config.nats.url, &deploy, "test")
        .await
        .expect("NATS answers");
    let bus = jetstream::new(client);
    let mut config = bus
        .get_stream("KASSA_DLQ")
        .await
        .expect("it is there")
        .cached_info()
        .config
        .clone();
    config.max_age = Duration::from_hours(1);
    bus.update_stream(config).await.expect("it may");
    let (code, text) = setup(true).await;
    assert_eq!(code, 1);
    let line: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("NDJSON");
    assert_eq!(
        (line["what"].as_str(), line["setting"].as_str()),
        (Some("stream KASSA_DLQ"), Some("max_age"))
    );
    assert_eq!(setup(false).await.0, 0);
    assert_eq!(setup(true).await.0, 0);
    // Its own durable serves the shop alone, and analysts have their copy.
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    for (role, stream, durable) in [
        (format!("ship-{SHOP}"), "KASSA_EVENTS", format!("ship-{SHOP}")),
        ("analyst".to_owned(), "KASSA_ANALYTICS", "analyst".to_owned()),
    ] {
        let client = bus::connect(&stage.config.nats.url, &stage.logins.of(&role), "test")
            .await
            .expect("NATS answers");
        let consumer: jetstream::consumer::PullConsumer = jetstream::new(client)
            .get_consumer_from_stream(durable, stream)
            .await
            .expect("it is there");
        let mut messages = consumer
            .fetch()
            .max_messages(1)
            .expires(DEADLINE)
            .messages()
            .await
            .expect("it may");
        let message = messages.next().await.expect("an event").expect("an event");
        assert!(
            message.subject.as_str().starts_with("kassa.evt.0."),
            "{}",
            message.subject
        );
        message.ack().await.expect("it may");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_done_again_is_read_from_the_stream_and_ships_nothing_twice() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/success").await;
    stage
        .until("it is shipped", async |stage| {
            stage.shipments(&order_id).await == 1
        })
        .await;
    let operator = bus::connect(&stage.config.nats.url, &stage.logins.of("operator"), "test")
        .await
        .expect("NATS answers");
    let again = async |sequence: i64| {
        let body = serde_json::to_vec(&json!({ "sequence": sequence })).expect("JSON");
        let answer = operator
            .request("kassa.redeliver.test-shipment.KASSA_EVENTS", body.into())
            .await
            .expect("the shipment service answers");
        serde_json::from_slice::<Value>(&answer.payload).expect("JSON")
    };
    let safe = "SELECT position FROM events WHERE event_type = 'ConfidenceReachedSafe'";
    let answer = again(stage.sql_count(safe).await).await;
    assert_eq!(answer["settled"], true, "{answer}");
    // Neither another event nor none at all is a permission to ship.
    for sequence in [1, 1_000_000] {
        let answer = again(sequence).await;
        assert_eq!(answer["settled"], false, "{answer}");
    }
    assert_eq!(stage.shipments(&order_id).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_sets_a_durable_right_by_which_it_would_hear_of_no_payment() {
    let mut stage = Stage::planned(Plan::with_process("cm-gateway", Role::CmGateway)).await;
    let deploy = bus::connect(&stage.config.nats.url, &stage.logins.of("deploy"), "test")
        .await
        .expect("NATS answers");
    let jetstream = jetstream::new(deploy);
    let settings = async || {
        let found: Result<jetstream::consumer::PullConsumer, _> = jetstream
            .get_consumer_from_stream("cm-gateway", "KASSA_EVENTS")
            .await;
        found.ok().map(|found| {
            let config = found.cached_info().config.clone();
            (config.filter_subject, config.ack_wait, config.max_ack_pending)
        })
    };
    stage
        .until("the durable is made", async |_| settings().await.is_some())
        .await;
    let right = settings().await;
    stage.kill("cm-gateway");
    // By hand, as somebody with a tool would.
    let wrong = jetstream::consumer::pull::Config {
        durable_name: Some("cm-gateway".to_owned()),
        filter_subject: "kassa.evt.*.nobody.>".to_owned(),
        ack_policy: jetstream::consumer::AckPolicy::Explicit,
        ack_wait: Duration::from_secs(1),
        max_ack_pending: 1,
        ..Default::default()
    };
    jetstream
        .create_consumer_on_stream(wrong, "KASSA_EVENTS")
        .await
        .expect("it may");
    assert_ne!(settings().await, right);
    stage.spawn("cm-gateway");
    stage
        .until("the durable is right again", async |_| settings().await == right)
        .await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_01_b_02_what_the_inbox_cannot_read_is_refused_and_kept_for_a_person() {
    let stage = Stage::new().await;
    let good = serde_json::to_vec(&order_body("b-01", "ideal/success")).expect("JSON");
    let text = String::from_utf8(good.clone()).expect("UTF-8");
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut invalid = good.clone();
    invalid[5] = 0xff;
    let unreadable = [
        (b"".to_vec(), "validation"),
        (b"order".to_vec(), "validation"),
        (good[..good.len() / 2].to_vec(), "validation"),
        ([b"\xef\xbb\xbf".as_slice(), &good].concat(), "validation"),
        (utf16, "validation"),
        (invalid, "validation"),
        (br#"{"order_reference":"\ud800"}"#.to_vec(), "validation"),
        (vec![b'['; 50_000], "validation"),
        (vec![b'['; 64 * 1024 + 1], "payload_too_large"),
    ];
    let mut refusals = refusals(&stage).await;
    for (n, (body, code)) in unreadable.iter().enumerate() {
        put(&stage, "create_order", &format!("b-01-{n}"), body).await;
        let problem = next(&mut refusals).await;
        assert_eq!(problem["code"], *code, "{problem}");
        if *code == "validation" {
            assert_eq!(
                (&problem["status"], &problem["errors"][0]["pointer"]),
                (&json!(400), &json!("")),
                "{problem}"
            );
        }
    }
    let all = i64::try_from(unreadable.len()).expect("few");
    stage
        .until("all of them are dead letters", async |stage| {
            letters(stage).await == all
        })
        .await;
    // What can be read and is wrong is the shop's own affair: it is told, and nobody has to look at it.
    let doubled = text.replacen('{', r#"{"order_reference":"x","#, 1);
    put(&stage, "create_order", "b-01-doubled", doubled.as_bytes()).await;
    let problem = next(&mut refusals).await;
    assert_eq!(
        (&problem["code"], &problem["errors"][0]["pointer"]),
        (&json!("validation"), &json!("/order_reference"))
    );
    // B-12: nor is a card number kept, whatever else is wrong with what holds it.
    for body in [
        text.replace("Dog food, 12 kg", "4111 1111 1111 1111"),
        "{\"description\": \"4111111111111111".to_owned(),
    ] {
        put(
            &stage,
            "create_order",
            &uuid::Uuid::new_v4().to_string(),
            body.as_bytes(),
        )
        .await;
        let problem = next(&mut refusals).await;
        assert_eq!(problem["code"], "card_data_refused", "{problem}");
        assert!(
            !problem.to_string().contains("1111"),
            "the number is echoed: {problem}"
        );
    }
    // B-13: no key, no command.
    jetstream::new(stage.checkout.clone())
        .publish(format!("kassa.inbox.{SHOP}.create_order"), good.into())
        .await
        .expect("it is sent")
        .await
        .expect("it is stored");
    assert_eq!(next(&mut refusals).await["code"], "idempotency_key_missing");
    assert_eq!(letters(&stage).await, all);
    assert_eq!(stage.sql_count("SELECT count(*) FROM events").await, 0);
}

async fn refusals(stage: &Stage) -> async_nats::Subscriber {
    let subject = format!("kassa.rejected.{SHOP}.>");
    let subscribed = stage.checkout.subscribe(subject).await.expect("NATS answers");
    stage.checkout.flush().await.expect("NATS answers");
    subscribed
}

async fn next(refusals: &mut async_nats::Subscriber) -> Value {
    let refusal = tokio::time::timeout(DEADLINE, refusals.next()).await;
    let refusal = refusal
        .expect("the refusal is heard")
        .expect("the subscription lives");
    serde_json::from_slice(&refusal.payload).expect("JSON")
}

/// How many dead letters there are.
async fn letters(stage: &Stage) -> i64 {
    let operator = stage.logins.of("operator");
    let (code, text) = kassa(stage, &operator, &["dlq", "ls", "--format", "ndjson"]).await;
    assert_eq!(code, 0, "{text}");
    i64::try_from(text.lines().count()).expect("few")
}
