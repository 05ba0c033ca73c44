//! Does `kassa doctor` name what is wrong, and the remedy? Ten faults and more are planted; a sound installation has none.

use std::time::Duration;

use kassa::Role;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};

use crate::{
    command_line::{Said, run},
    stage::{DEADLINE, Plan, Stage},
    world::{SHOP, world},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_installation_has_nothing_wrong() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    let file = stage.config_file().to_str().expect("UTF-8");
    let deadline = Instant::now() + DEADLINE;
    let said = loop {
        // What was stored a moment ago is published and projected a moment later.
        let said = examine(file, &[]).await;
        if said.code == Some(0) {
            break said;
        }
        assert!(Instant::now() < deadline, "{}\n{}", said.out, said.err);
    };
    assert!(said.out.contains("login relay"), "{}", said.out);
    for good in [
        "cm-gateway is read from",
        "engine-inbox is read from",
        "kassa-queries answers",
    ] {
        assert!(said.out.contains(good), "{good} is not in {}", said.out);
    }
    // Nobody has run kassa nats setup here: what it would make is named, and is nobody's fault.
    let shipments = format!("consumer KASSA_EVENTS/ship-{SHOP}");
    assert!(said.out.contains(&shipments), "{}", said.out);
    assert!(!said.out.contains("secret"), "a password is told: {}", said.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_fault_is_named_with_its_remedy() {
    let mut plan = Plan::with_process("relay", Role::Relay);
    plan.processes.push(("read-models", Role::ReadModels));
    plan.processes.push(("engine", Role::Engine));
    plan.processes.push(("cm-gateway", Role::CmGateway));
    let mut stage = Stage::planned(plan).await;
    stage.create("ideal/success").await;
    stage
        .until("the stream is there", async |s| {
            stream(s, "INFO.KASSA_EVENTS", "").await["config"].is_object()
        })
        .await;

    // The relay and the projector stand still, with something to do.
    stage.kill("relay");
    stage.kill("read-models");
    stage.create("ideal/success").await;
    stage.kill("engine");
    stage.kill("cm-gateway");
    let file = stage.config_file().to_str().expect("UTF-8").to_owned();
    let away = [
        ("services", "nobody reads from cm-gateway", "--role cm-gateway"),
        ("services", "nobody reads from engine-inbox", "--role engine"),
        ("services", "kassa-commands does not answer", "--role engine"),
        ("services", "kassa-queries does not answer", "--role read-models"),
    ];
    stage
        .until("every role that is away is named", async |_| {
            let said = examine(&file, &[]).await;
            away.iter().all(|fault| names(&said, fault))
        })
        .await;
    // Stream limits, changed by hand.
    let mut config = stream(&stage, "INFO.KASSA_EVENTS", "").await["config"].clone();
    config["max_msgs"] = 5.into();
    let changed = stream(&stage, "UPDATE.KASSA_EVENTS", &config.to_string()).await;
    assert!(changed["error"].is_null(), "{changed}");
    // A database that does not keep what it acknowledges, is behind, was moved in time and lets the log be changed.
    let database = stage
        .database_url
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .split('?')
        .next()
        .unwrap_or_default();
    for sql in [
        format!("ALTER DATABASE {database} SET synchronous_commit = off"),
        "DELETE FROM refinery_schema_history WHERE version = (SELECT max(version) FROM refinery_schema_history)".to_owned(),
        "UPDATE clock SET offset_ms = 86400000".to_owned(),
        "GRANT UPDATE ON events TO kassa_app".to_owned(),
    ] {
        execute(&stage.database_url, &sql).await;
    }
    let worker = stage.logins.checkout.user.clone().unwrap_or_default();
    let environment = [
        // A login that gets in and lacks what a worker must be able to do.
        ("KASSA_NATS__WORKER__USER", worker.as_str()),
        ("KASSA_NATS__WORKER__PASSWORD", &format!("{worker}-secret")),
        (
            "KASSA_SIMULATOR__NOTIFICATION_URL",
            "http://127.0.0.1:1/hooks/cm/demo-shop",
        ),
        ("KASSA_SHOPS__DEMO_SHOP__CM__REST_URL", "http://127.0.0.1:1"),
        ("KASSA_POLL__LADDER__IDEAL", "0s"),
    ];
    let planted = [
        ("configuration", "poll.ladder.ideal", "kassa config check"),
        ("database", "synchronous_commit is off", "ALTER DATABASE"),
        ("database", "the schema is at step", "kassa migrate"),
        ("database", "kassa_app may UPDATE on events", "REVOKE UPDATE"),
        ("clock", "was moved by 86400000 ms", "offset_ms = 0"),
        ("projections", "checkout is", "--role read-models"),
        (
            "permissions",
            "login worker may not subscribe kassa.cmd.>",
            "kassa nats accounts",
        ),
        ("streams", "max_msgs is 5", "kassa nats setup"),
        ("outbox", "are not published", "--role relay"),
        ("addresses", "notification_url", "?id="),
        (
            "addresses",
            "shops.demo-shop.cm.rest_url leads to",
            "start what should listen",
        ),
    ];
    stage
        .until("every planted fault is named", async |_| {
            let said = examine(&file, &environment).await;
            assert_eq!(said.code, Some(1), "{}\n{}", said.out, said.err);
            planted.iter().all(|fault| {
                let named = names(&said, fault);
                if !named {
                    eprintln!("not named yet: {fault:?}");
                }
                named
            })
        })
        .await;

    // What cannot stand beside those: nobody is let in, no stream is there, the server is old.
    let said = examine(&file, &[("KASSA_NATS__RELAY__PASSWORD", "guess")]).await;
    assert!(
        names(&said, &("nats", "login relay: ", "nats.relay.password_file")),
        "{}",
        said.out
    );
    let other = world().logins();
    let user = other.relay.user.clone().unwrap_or_default();
    let environment = [
        ("KASSA_NATS__RELAY__USER", user.as_str()),
        ("KASSA_NATS__RELAY__PASSWORD", &format!("{user}-secret")),
    ];
    let said = examine(&file, &environment).await;
    assert!(
        names(&said, &("streams", "there is no stream", "--role relay")),
        "{}",
        said.out
    );
    let old = old_server().await;
    let said = examine(&file, &[("NATS_URL", &old)]).await;
    assert!(
        names(&said, &("nats", "nats-server 2.9.0 is too old", "2.12.6")),
        "{}",
        said.out
    );
    let said = examine(
        &file,
        &[
            ("DATABASE_URL", "postgresql://127.0.0.1:1/x"),
            ("NATS_URL", "nats://127.0.0.1:1"),
        ],
    )
    .await;
    for fault in [
        ("database", "it cannot be reached: Connection refused", "start it"),
        ("nats", "cannot be reached", "start nats-server"),
    ] {
        assert!(names(&said, &fault), "{fault:?} is not in {}", said.out);
    }
}

async fn examine(file: &str, environment: &[(&str, &str)]) -> Said {
    // Short, so that what stands still is seen to.
    let args = ["--config", file, "doctor", "--lag-max", "1s", "--format", "json"];
    run(&args, environment).await
}

/// Whether one finding that is wrong has the area, the words and the remedy.
fn names(said: &Said, (area, what, remedy): &(&str, &str, &str)) -> bool {
    let document: Value = serde_json::from_str(&said.out).unwrap_or_default();
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    document["findings"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|finding| {
            finding["level"] == "wrong"
                && text(finding, "area") == *area
                && text(finding, "what").contains(what)
                && text(finding, "remedy").contains(remedy)
                && !text(finding, "why").is_empty()
        })
}

/// What JetStream says to the relay's login.
async fn stream(stage: &Stage, verb: &str, body: &str) -> Value {
    let client = kassa_chassis::bus::connect(&stage.config.nats.url, &stage.logins.relay, "test operator")
        .await
        .expect("NATS answers");
    let subject = format!("$JS.API.STREAM.{verb}");
    match client.request(subject, body.to_owned().into()).await {
        Ok(answer) => serde_json::from_slice(&answer.payload).expect("JSON"),
        Err(_) => Value::Null,
    }
}

async fn execute(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .expect("it opens");
    let driving = tokio::spawn(connection);
    client.batch_execute(sql).await.expect(sql);
    drop(client);
    let _ = driving.await;
}

/// Something that greets as a nats-server of long ago does, and answers pings.
async fn old_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let greeting = serde_json::json!({ "server_id": "OLD", "server_name": "old", "version": "2.9.0", "go": "go1.19",
                    "host": "127.0.0.1", "port": 4222, "headers": true, "max_payload": 1_048_576, "proto": 1 });
                let _ = stream.write_all(format!("INFO {greeting}\r\n").as_bytes()).await;
                let mut heard = [0; 4096];
                while let Ok(Ok(count)) =
                    tokio::time::timeout(Duration::from_secs(30), stream.read(&mut heard)).await
                {
                    if count == 0 {
                        return;
                    }
                    if String::from_utf8_lossy(&heard[..count]).contains("PING") {
                        let _ = stream.write_all(b"PONG\r\n").await;
                    }
                }
            });
        }
    });
    url
}
