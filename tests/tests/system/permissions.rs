//! What may each login do on the bus? A checkout can command, and cannot make anything true.

use std::{process::Stdio, time::Duration};

use async_nats::HeaderMap;
use kassa::Role;
use kassa_chassis::bus;
use serde_json::{Value, json};

use crate::{
    command_line::kassa,
    stage::{Plan, Stage},
    world::{SHOP, own_nats, world},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkout_cannot_publish_events_nor_send_what_makes_an_order_safe() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let forged = serde_json::to_vec(&json!({ "order_id": order_id, "considered_safe": { "level": "SAFE" } }))
        .expect("JSON");
    for subject in [
        format!("kassa.evt.0.{SHOP}.order.{order_id}.payment_safe"),
        format!("kassa.live.{SHOP}.order.{order_id}.payment_safe"),
        "$JS.API.STREAM.DELETE.KASSA_EVENTS".to_owned(),
        "$JS.API.STREAM.PURGE.KASSA_EVENTS".to_owned(),
    ] {
        let answer = tokio::time::timeout(
            Duration::from_millis(300),
            stage.checkout.request(subject.clone(), forged.clone().into()),
        )
        .await;
        assert!(!matches!(answer, Ok(Ok(_))), "{subject} was answered");
    }
    // No verb takes an observation, a report or an authorization.
    for verb in [
        "observe_report",
        "record_call",
        "authorize",
        "confirm_safe",
        "register_provider_order",
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", "forged");
        let (answer, document) = stage
            .send(&format!("kassa.cmd.{SHOP}.{verb}"), headers, forged.clone())
            .await;
        assert_eq!(document["code"], "not_found", "{verb}");
        let code = answer
            .headers
            .and_then(|h| h.get("Nats-Service-Error-Code").map(ToString::to_string));
        assert_eq!(code.as_deref(), Some("404"));
    }
    let money = "SELECT count(*) FROM events
        WHERE event_type IN ('PaymentAuthorized', 'OrderPaid', 'OrderPartiallyPaid', 'ConfidenceReachedSafe')";
    assert_eq!(stage.sql_count(money).await, 0, "nothing of it was believed");
    assert_eq!(stage.get_order(&order_id).await["safe"]["value"], "no");
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shipment_service_hears_and_cannot_speak() {
    let stage = Stage::new().await;
    let shipment = bus::connect(&stage.config.nats.url, &stage.logins.shipment, "test")
        .await
        .expect("NATS answers");
    let (_, order_id) = stage.create("ideal/success").await;
    let answer = tokio::time::timeout(
        Duration::from_millis(300),
        shipment.request(format!("kassa.cmd.{SHOP}.start_payment"), "{}".into()),
    )
    .await;
    assert!(
        !matches!(answer, Ok(Ok(_))),
        "a shipment service may not start payments"
    );
    assert_eq!(stage.get_order(&order_id).await["status"], "open");
    // Nor take, settle or remove what our own worker has to do.
    for verb in ["MSG.NEXT", "DELETE", "INFO"] {
        let subject = format!("$JS.API.CONSUMER.{verb}.KASSA_EVENTS.cm-gateway");
        let answer =
            tokio::time::timeout(Duration::from_millis(200), shipment.request(subject, "".into())).await;
        assert!(!matches!(answer, Ok(Ok(_))), "{verb} of the gateway's durable");
    }
    assert_eq!(stage.start(&order_id).await["next_action"]["type"], "redirect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_are_found_by_any_nats_client() {
    let stage = Stage::new().await;
    for (name, verb) in [("kassa-commands", "create_order"), ("kassa-queries", "get_order")] {
        let answer = stage
            .checkout
            .request(format!("$SRV.INFO.{name}"), "".into())
            .await
            .expect("it is there");
        let info: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
        assert_eq!(info["name"], name);
        let verbs: Vec<_> = info["endpoints"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|e| &e["name"])
            .collect();
        assert!(verbs.contains(&&json!(verb)), "{info}");
        for key in ["asyncapi", "docs", "livemode", "revision"] {
            assert!(info["metadata"][key].is_string(), "{key}: {info}");
        }
        let endpoint = info["endpoints"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|endpoint| endpoint["name"] == verb)
            .expect("it is there");
        let metadata = &endpoint["metadata"];
        let schema = |field: &str| metadata[field].as_str().unwrap_or_default().to_owned();
        assert!(
            schema("request_schema").ends_with(&format!("/{verb}.v1.json")),
            "{metadata}"
        );
        assert!(
            schema("response_schema").ends_with(&format!("/{verb}_answer.v1.json")),
            "{metadata}"
        );
        assert_eq!(metadata["idempotent"], "true");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_13_an_answer_that_was_sent_to_the_events_does_not_arrive_there() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let forged = format!("kassa.evt.0.{SHOP}.order.{order_id}.payment_safe");
    for role in ["shipment", "worker", "operator", "analyst", "checkout"] {
        let client = bus::connect(&stage.config.nats.url, &stage.logins.of(role), "test")
            .await
            .expect("NATS answers");
        for subject in [
            "$JS.API.INFO".to_owned(),
            "$JS.API.STREAM.INFO.KASSA_EVENTS".to_owned(),
            "$JS.API.STREAM.INFO.KASSA_DLQ".to_owned(),
            "$JS.API.STREAM.INFO.KASSA_ANALYTICS".to_owned(),
            "$JS.API.CONSUMER.INFO.KASSA_EVENTS.test-shipment".to_owned(),
            // Commands are answered by the worker, the inbox by its stream.
            format!("kassa.cmd.{SHOP}.create_order"),
            format!("kassa.inbox.{SHOP}.create_order"),
        ] {
            client
                .publish_with_reply(subject, forged.clone(), "".into())
                .await
                .expect("it is sent, or refused without a word");
        }
        client.flush().await.expect("NATS answers");
    }
    // The relay stops where it finds in the stream what the store does not know: here it goes on to the end.
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    stage
        .until("it is shipped", async |stage| {
            stage.shipments(&order_id).await == 1
        })
        .await;
    let relay = bus::connect(&stage.config.nats.url, &stage.logins.relay, "test")
        .await
        .expect("NATS answers");
    let stream = async_nats::jetstream::new(relay)
        .get_stream("KASSA_EVENTS")
        .await
        .expect("it is there");
    let last = stream.cached_info().state.last_sequence;
    assert!(i64::try_from(last).expect("small") <= stage.sql_count("SELECT max(position) FROM events").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_lost_a_permission_says_so_and_hears_again_once_it_is_given_back() {
    let (nats, logins) = own_nats("lost-permission");
    let file = world().folder.join("lost-permission").join("nats.conf");
    let sound = std::fs::read_to_string(&file).expect("the server's configuration");
    let pid = nats.pid().to_string();
    let reload = |text: &str| {
        std::fs::write(&file, text).expect("the folder can be written");
        let sent = std::process::Command::new("kill").args(["-HUP", &pid]).status();
        assert!(sent.expect("kill is there").success());
    };
    let mut stage = Stage::planned(Plan {
        processes: vec![("engine", Role::Engine)],
        nats: Some((nats.url(), logins)),
        database: None,
    })
    .await;
    stage.kill("engine");
    let admin = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|free| free.local_addr())
        .expect("a port")
        .to_string();
    let _engine = kassa(
        &[
            "--config",
            stage.config_file().to_str().expect("UTF-8"),
            "serve",
            "--role",
            "engine",
        ],
        &[("KASSA_HTTP__ADMIN_LISTEN", &admin)],
    )
    .stdout(Stdio::null())
    .stderr(Stdio::null())
    .spawn()
    .map(Killed)
    .expect("the binary starts");
    let ready = format!("http://{admin}/readyz");
    let hears = async |stage: &Stage| {
        let subject = format!("kassa.cmd.{SHOP}.create_order");
        stage.checkout.request(subject, "{}".into()).await.is_ok()
    };
    let report = async || {
        let answer = reqwest::Client::builder().no_proxy().build().expect("a client");
        match answer.get(&ready).send().await {
            Ok(answer) => answer.json::<Value>().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    };
    stage
        .until("the engine hears and is ready", async |stage| {
            hears(stage).await && report().await["status"] == "ready"
        })
        .await;

    let lost = sound.replace("\"kassa.cmd.>\", ", "");
    assert_ne!(lost, sound, "the worker may hear commands");
    reload(&lost);
    stage
        .until("the engine is deaf and says so", async |stage| {
            let report = report().await;
            let check = &report["checks"]["nats_hear_commands"];
            let told = check["error"].as_str().unwrap_or_default().to_owned();
            !hears(stage).await && report["status"] == "not_ready" && told.contains("kassa nats accounts")
        })
        .await;
    reload(&sound);
    stage
        .until("the engine hears again and is ready", async |stage| {
            hears(stage).await && report().await["status"] == "ready"
        })
        .await;
}

/// A process that does not outlive its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
