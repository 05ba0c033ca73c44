//! Is what can be replayed all that happened, in order, without a gap?

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use kassa_domain::ids::{OrderId, Shop, ShopperId, event_id};
use kassa_event_store::{Append, NewEvent, Store, StoreConfig, Touch};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    stage::{DEADLINE, Stage},
    world::{SHOP, world},
};

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
    let lines = replay(&stage.database_url, &[]);
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
    let from = |position: &str| replay(&stage.database_url, &["--from", position]).len();
    assert_eq!(from("0-0"), lines.len());
    assert_eq!(from("0-3"), lines.len() - 3);
    assert_eq!(from(&format!("0-{stored}")), 0);
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

fn replay(database_url: &str, arguments: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"))
        .arg("replay")
        .args(arguments)
        .env("DATABASE_URL", database_url)
        .output()
        .expect("the binary starts");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// What a filter says on the command line, and in SQL by somebody who knows only the tables.
const TYPES: [(&str, &str); 6] = [
    ("payment.*", "aggregate_type = 'payment'"),
    ("order.payment_safe", "event_type = 'ConfidenceReachedSafe'"),
    ("payment.started", "event_type = 'PaymentStarted'"),
    ("kassa.order.created.v1", "event_type = 'OrderCreated'"),
    (
        "*.internal",
        "event_type IN ('ProviderOrderRegistered', 'AttemptOpened', 'AttemptClosed', 'ProviderReportObserved',
                        'ProviderCallAttempted', 'ProviderOutcomeResolved')",
    ),
    ("payment.authorized", "event_type = 'PaymentAuthorized'"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_replay_is_what_the_table_counts_for_ten_random_filters() {
    let stage = Stage::new().await;
    let mut orders = Vec::new();
    for scenario in ["ideal/success", "ideal/cancel", "any/amount_short_11"] {
        let (reference, order_id) = stage.create(scenario).await;
        stage.start(&order_id).await;
        stage.press(&reference, scenario).await;
        orders.push(order_id);
    }
    for order_id in &orders {
        stage
            .until("an end", async |s| {
                s.get_order(order_id).await["next_action"]["type"] == "none"
            })
            .await;
    }
    let moments = stage
        .sql_texts(
            "SELECT to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM events ORDER BY 1",
        )
        .await;
    let head = moments.len();
    let mut found = 0;
    for _ in 0..10 {
        let dice = Uuid::new_v4().into_bytes();
        let roll = |n: usize, of: usize| usize::from(dice[n]) % of;
        // One in three, so that most sets have a few and some have all.
        let wanted = |n: usize| dice[n].is_multiple_of(3);
        let (mut arguments, mut conditions) = (Vec::new(), vec!["true".to_owned()]);
        let mut add = |name: &str, value: String, condition: String| {
            arguments.extend([name.to_owned(), value]);
            conditions.push(condition);
        };
        let (mut from, mut to) = (roll(0, head), roll(1, head));
        if from > to {
            (from, to) = (to, from);
        }
        if wanted(2) {
            add("--from", format!("0-{from}"), format!("position > {from}"));
        } else if wanted(3) {
            add(
                "--from",
                moments[from].clone(),
                format!("recorded_at >= '{}'", moments[from]),
            );
        }
        if wanted(4) {
            add(
                "--to",
                moments[to].clone(),
                format!("recorded_at < '{}'", moments[to]),
            );
        } else if wanted(5) {
            add("--to", format!("0-{to}"), format!("position <= {to}"));
        }
        if wanted(6) {
            let (first, second) = (TYPES[roll(12, TYPES.len())], TYPES[roll(13, TYPES.len())]);
            add(
                "--type",
                first.0.to_owned(),
                format!("({} OR {})", first.1, second.1),
            );
            add("--type", second.0.to_owned(), "true".to_owned());
        }
        if wanted(7) {
            let shop = [SHOP, "other-shop"][roll(14, 2)];
            add("--shop", shop.to_owned(), format!("shop = '{shop}'"));
        }
        if wanted(9) {
            add(
                "--method",
                "ideal".to_owned(),
                "aggregate_type = 'payment'".to_owned(),
            );
        }
        if wanted(10) {
            let order = &orders[roll(15, orders.len())];
            let belongs = format!("convert_from(metadata, 'UTF8')::json ->> 'correlation_id' = '{order}'");
            add("--order", order.clone(), belongs);
        }
        if wanted(11) {
            let known = &moments[roll(11, head)];
            add(
                "--as-known-at",
                known.clone(),
                format!("recorded_at <= '{known}'"),
            );
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let lines = replay(&stage.database_url, &arguments);
        let sql = format!("SELECT count(*) FROM events WHERE {}", conditions.join(" AND "));
        let counted = stage.sql_count(&sql).await;
        assert_eq!(
            i64::try_from(lines.len()).expect("few"),
            counted,
            "{arguments:?}\n{sql}"
        );
        found += lines.len();
    }
    assert!(found > 0, "ten sets that find nothing prove nothing");
    // Each kind alone as well, whatever the dice say, and a bound on the number.
    for (pattern, condition) in TYPES {
        let counted = stage
            .sql_count(&format!("SELECT count(*) FROM events WHERE {condition}"))
            .await;
        let lines = replay(&stage.database_url, &["--type", pattern]);
        assert_eq!(i64::try_from(lines.len()).expect("few"), counted, "{pattern}");
        assert!(counted > 0, "{pattern}");
        let few = replay(&stage.database_url, &["--type", pattern, "--limit", "1"]);
        assert_eq!(few, lines[..1], "{pattern}");
    }
    // I-42: whatever was replayed, nothing was added.
    assert_eq!(
        stage.sql_count("SELECT count(*) FROM events").await,
        i64::try_from(head).expect("few")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_at_a_time_stays_what_was_known_when_more_comes() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    let now = stage.store.clock().now().to_string();
    let known = replay(&stage.database_url, &["--as-known-at", &now]);
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    assert!(replay(&stage.database_url, &[]).len() > known.len());
    assert_eq!(replay(&stage.database_url, &["--as-known-at", &now]), known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_enough_ends_a_replay_quietly_and_ctrl_c_ends_it_with_130() {
    let database_url = world().database().await;
    store_orders(&database_url, 400).await;
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_kassa-under-test"))
            .arg("replay")
            .env("DATABASE_URL", &database_url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts")
    };
    let first_line = |child: &mut std::process::Child| {
        let mut reader = BufReader::with_capacity(1, child.stdout.take().expect("it is a pipe"));
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        assert!(line.contains("kassa.order.created.v1"), "{line}");
        reader
    };
    assert_eq!(replay(&database_url, &[]).len(), 400);
    // As `| head -1` does.
    let mut child = start();
    drop(first_line(&mut child));
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0));
    assert!(
        ended.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );

    // A reader that stands still: the pipe is full, and the writer waits.
    let mut child = start();
    let reader = first_line(&mut child);
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill is there");
    assert!(sent.success());
    let deadline = std::time::Instant::now() + DEADLINE;
    let mut look = tokio::time::interval(std::time::Duration::from_millis(20));
    let code = loop {
        look.tick().await;
        if let Some(status) = child.try_wait().expect("it is ours") {
            break status.code();
        }
        assert!(std::time::Instant::now() < deadline, "Ctrl-C was not heard");
    };
    assert_eq!(code, Some(130));
    drop(reader);
}

/// Orders as the engine would store them, in a database in which nobody works: more than a pipe holds.
async fn store_orders(database_url: &str, count: usize) {
    let settings = StoreConfig {
        url: database_url.to_owned(),
        pool_size: 2,
    };
    let store = Store::connect(settings).await.expect("the store opens");
    for n in 0..count {
        let shop = Shop::parse(SHOP).expect("a shop");
        let order = OrderId::new(&shop, &format!("R-{n}"));
        let payload = json!({ "OrderCreated": {
            "order_id": order, "shop": SHOP, "order_reference": format!("R-{n}"), "description": "Dog food, 12 kg",
            "amount": { "value": 4995, "currency": "EUR" }, "country": "NL", "language": "nl",
            "shopper_id": ShopperId::new(order), "return_url": "https://shop.example/return",
        }});
        let metadata = json!({ "causation_id": Uuid::new_v4(), "correlation_id": order, "auth_type": "system",
                               "auth_id": "test" });
        let event = NewEvent {
            stream_id: order.stream(),
            event_id: event_id(order.stream(), 1),
            shop: SHOP.to_owned(),
            aggregate_type: "order".to_owned(),
            aggregate_id: order.to_string(),
            event_type: "OrderCreated".to_owned(),
            schema_version: 1,
            payload: serde_json::to_vec(&payload).expect("JSON"),
            metadata: serde_json::to_vec(&metadata).expect("JSON"),
        };
        let append = Append {
            part: 0,
            command_id: Uuid::new_v4(),
            fingerprint: vec![],
            outcome: vec![],
            touches: vec![Touch {
                stream_id: order.stream(),
                expected: 0,
            }],
            events: vec![event],
            timers: vec![],
            done_timers: vec![],
            vault: vec![],
            reads: vec![],
            recorded_at: store.clock().now(),
        };
        store.append(append).await.expect("it is stored");
    }
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
    for (arguments, reason) in [
        (
            &["--from", "2026-11-02T00:00:00Z", "--to", "2026-11-01T00:00:00Z"][..],
            "after",
        ),
        (&["--from", "0-9", "--to", "0-8"], "after"),
        (&["--to", "2026-13-01T00:00:00Z"], "neither a position nor a time"),
        (&["--as-known-at", "0-9"], "not a time"),
        (&["--type", "payment.autorised"], "payment.authorized"),
        (&["--method", "idael"], "ideal"),
        (&["--order", "T-1"], "--order"),
        (&["--from"], "--from"),
        // B-62: there is nothing that a replay could be aimed at.
        (&["--target", "kassa.cmd.demo-shop.create_order"], "--target"),
    ] {
        let arguments: Vec<&str> = ["replay"].iter().chain(arguments).copied().collect();
        let (code, text) = run(&arguments, &stage.database_url);
        assert_eq!(code, Some(2), "{arguments:?}: {text}");
        assert!(text.contains(reason), "{arguments:?}: {text}");
    }
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
