//! Is what can be replayed all that happened, in order, without a gap?

use std::process::Command;

use serde_json::Value;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_prints_every_event_once_and_the_stream_has_the_same() {
    let stage = Stage::new().await;
    for scenario in ["ideal/success", "ideal/cancel"] {
        let (reference, order_id) = stage.create(scenario).await;
        stage.start(&order_id).await;
        stage.press(&reference, scenario).await;
        stage
            .until("an end", async |s| {
                s.get_order(&order_id).await["next_action"]["type"] == "none"
            })
            .await;
    }
    stage
        .until("the relay is through", async |s| {
            let stream = stream_messages(s).await;
            i64::try_from(stream).is_ok_and(|count| Some(count) == head(s))
        })
        .await;
    let stored = stage.sql_count("SELECT count(*) FROM events").await;
    let lines = replay(&stage, "0-0");
    assert_eq!(i64::try_from(lines.len()).expect("few"), stored);
    for (n, line) in lines.iter().enumerate() {
        let event: Value = serde_json::from_str(line).expect("a JSON document a line");
        assert_eq!(event["sequence"], format!("{:020}", n + 1).as_str());
        assert!(!line.contains("canary.person"), "personal data in {line}");
        // A shop asks for orders and payments; what became of them is nobody's word but ours.
        let asked = ["kassa.order.created.v1", "kassa.payment.started.v1"]
            .contains(&event["type"].as_str().unwrap_or(""));
        let by = if asked { "api_key" } else { "system" };
        let opened = event["type"] == "kassa.order.internal.v1" && event["authtype"] == "api_key";
        assert!(event["authtype"] == by || opened, "{line}");
    }
    assert_eq!(replay(&stage, "0-3").len(), lines.len() - 3);
    assert_eq!(replay(&stage, &format!("0-{stored}")).len(), 0);
}

fn head(stage: &Stage) -> Option<i64> {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(stage.store.head(0))).ok()
}

async fn stream_messages(stage: &Stage) -> u64 {
    let client = kassa_chassis::bus::connect(&stage.config.nats.url, &stage.logins.relay, "test reader")
        .await
        .expect("NATS answers");
    let jetstream = async_nats::jetstream::new(client);
    match jetstream.get_stream("KASSA_EVENTS").await {
        Ok(mut stream) => stream.info().await.map_or(0, |info| info.state.messages),
        Err(_) => 0,
    }
}

fn replay(stage: &Stage, from: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"))
        .args(["replay", "--from", from])
        .env("DATABASE_URL", &stage.database_url)
        .output()
        .expect("the binary starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .lines()
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_calls_of_the_command_line_end_with_their_code_and_a_reason() {
    let stage = Stage::new().await;
    let run = |args: &[&str], url: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"))
            .args(args)
            .env("DATABASE_URL", url)
            .output()
            .expect("the binary starts");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, text) = run(&["replay", "--from", "yesterday"], &stage.database_url);
    assert_eq!(code, Some(2));
    assert!(text.contains("0-41992"), "{text}");
    let (code, text) = run(
        &["replay", "--from", "0-0"],
        "postgresql://127.0.0.1:1/none?connect_timeout=1",
    );
    assert_eq!(code, Some(69), "{text}");
    let config = stage.config_file().to_str().expect("UTF-8").to_owned();
    let (code, text) = run(
        &[
            "--config",
            &format!("{config}.missing"),
            "serve",
            "--role",
            "relay",
        ],
        "",
    );
    assert_eq!(code, Some(78), "{text}");
}
