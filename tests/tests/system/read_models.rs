//! Are the read models only ever what the log says? Built anew, beside the ones that serve and under load, they are the same;
//! nobody who reads notices, and nobody else hears of it.

use std::{
    collections::HashMap,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_nats::HeaderMap;
use futures::{StreamExt as _, stream};
use kassa_event_store::{Store, StoreConfig};
use kassa_read_models::{PROJECTIONS, Swapped};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    http_api::Api,
    stage::{DEADLINE, Stage, order_body},
    world::SHOP,
};

/// A second instance's store, as on another machine.
async fn another_store(stage: &Stage) -> Store {
    let settings = StoreConfig {
        url: stage.database_url.clone(),
        pool_size: 4,
    };
    Store::connect(settings).await.expect("the store opens")
}

/// A projection's rows, and the position that they are of; `at` a position, or as they are served.
async fn dump(store: &Store, name: &str, at: Option<i64>) -> (i64, String) {
    let (chunks, mut arriving) = tokio::sync::mpsc::channel(4);
    let stop = CancellationToken::new();
    let receiving = async {
        let mut all = Vec::new();
        while let Some(chunk) = arriving.recv().await {
            all.extend(chunk);
        }
        String::from_utf8(all).expect("UTF-8")
    };
    let (dumped, text) = tokio::join!(kassa_read_models::dump(store, name, at, &stop, chunks), receiving);
    dumped.expect("it is dumped");
    let head: Value = serde_json::from_str(text.lines().next().expect("a first line")).expect("JSON");
    assert_eq!(head["projection"], name);
    let position = head["position"].as_str().expect("a text");
    let number = position.strip_prefix("0-").expect("part 0");
    (number.parse().expect("a number"), text)
}

async fn rebuild(store: &Store, name: &str) -> Swapped {
    kassa_read_models::rebuild(store, name, &CancellationToken::new(), &mut |_| {})
        .await
        .expect("it is rebuilt")
}

async fn caught_up(stage: &Stage) {
    stage
        .until("both projections have the whole log", async |s| {
            let lags = kassa_read_models::lag(&s.store).await.expect("it is told");
            lags.len() == 2 && lags.iter().all(|lag| lag.events() == 0 && lag.age.is_zero())
        })
        .await;
}

/// Three orders that have come to their ends, one of them released.
async fn three_ends(stage: &Stage) -> String {
    let mut safe = String::new();
    for scenario in ["ideal/cancel", "any/amount_short_11", "ideal/success"] {
        let (reference, order_id) = stage.create(scenario).await;
        stage.start(&order_id).await;
        stage.press(&reference, scenario).await;
        stage
            .until("an end", async |s| {
                s.get_order(&order_id).await["next_action"]["type"] == "none"
            })
            .await;
        safe = order_id;
    }
    stage.until_order(&safe, "paid", "authorized", "yes").await;
    caught_up(stage).await;
    safe
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_40_rebuilt_from_zero_they_are_what_they_were_also_with_two_instances_at_once() {
    let stage = Stage::new().await;
    three_ends(&stage).await;
    let other = another_store(&stage).await;
    let stop = CancellationToken::new();
    let second = tokio::spawn(kassa_read_models::run(
        stage.config.clone(),
        other.clone(),
        stop.clone(),
    ));
    let mut live = HashMap::new();
    for name in PROJECTIONS {
        let (_, text) = dump(&other, name, None).await;
        let rows = if name == "checkout" { 3 } else { 1 };
        assert_eq!(
            text.lines().count(),
            1 + rows,
            "three orders, one release:\n{text}"
        );
        live.insert(name, text);
    }
    let effects = effects(&stage).await;
    for name in PROJECTIONS {
        assert_eq!(rebuild(&other, name).await.generation, 2);
    }
    caught_up(&stage).await;
    // I-42: nothing was appended, published, or sent to CM.
    assert_eq!(self::effects(&stage).await, effects);
    for name in PROJECTIONS {
        assert_eq!(dump(&other, name, None).await.1, live[name]);
        // Of the old generation nothing is left.
        let table = if name == "checkout" { "orders" } else { "shipping" };
        let old = format!("SELECT count(*) FROM read_{table}_all WHERE generation <> 2");
        assert_eq!(stage.sql_count(&old).await, 0, "{name}");
    }

    // Read again from the middle, as after a restore of the checkpoint alone: nothing changes.
    stage
        .sql_texts("UPDATE projections SET position = position / 2 RETURNING name")
        .await;
    caught_up(&stage).await;
    for name in PROJECTIONS {
        assert_eq!(dump(&other, name, None).await.1, live[name]);
    }
    stop.cancel();
    second.await.expect("no panic").expect("it ends well");
}

/// Whatever somebody else could notice, counted. What the poll ladder does meanwhile is not counted; that a rebuild leaves every
/// other table alone is tested where nobody else works.
async fn effects(stage: &Stage) -> Vec<i64> {
    let mut counted = Vec::new();
    for what in ["events", "streams", "shipment_service.handled"] {
        counted.push(stage.sql_count(&format!("SELECT count(*) FROM {what}")).await);
    }
    counted
}

/// How many payments a second, and how many in all: ten seconds of them.
const RATE: u32 = 50;
const PAYMENTS: usize = 500;
/// In flight at once: more would only show that the machine is slow.
const IN_FLIGHT: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rebuilt_while_fifty_payments_a_second_run_they_are_the_same_without_a_gap_or_an_effect() {
    let stage = Stage::new().await;
    let known = three_ends(&stage).await;
    let other = another_store(&stage).await;
    // Whoever listens hears each event once, however often the tables are built.
    let mut heard = stage
        .checkout
        .subscribe(format!("kassa.live.{SHOP}.>"))
        .await
        .expect("the shop may");
    let before_load = stage.store.head(0).await.expect("it is told");
    let done = CancellationToken::new();

    let load = async {
        let tick = Mutex::new(tokio::time::interval(Duration::from_secs(1) / RATE));
        let (paid, began) = (AtomicUsize::new(0), std::time::Instant::now());
        stream::iter(0..PAYMENTS)
            .then(async |n| {
                tick.lock().await.tick().await;
                n
            })
            .for_each_concurrent(IN_FLIGHT, async |n| {
                pay(&stage, n).await;
                paid.fetch_add(1, Ordering::Relaxed);
            })
            .await;
        done.cancel();
        // Told and not asserted: how fast it goes is the machine's affair, what must hold is not.
        eprintln!(
            "{PAYMENTS} payments at {RATE} a second were through after {:?}",
            began.elapsed()
        );
        paid.into_inner()
    };
    // Again and again, by the library and by the command line.
    let rebuilding = async {
        let mut snapshots = Vec::new();
        let mut rebuilds = 0;
        while !done.is_cancelled() || rebuilds < 2 {
            for name in PROJECTIONS {
                let (position, text) = dump(&other, name, None).await;
                snapshots.push((name, position, text));
                let swapped = rebuild(&other, name).await;
                assert!(swapped.position >= position, "{name} went back");
            }
            by_command_line(&stage, &["rebuild", "shipping"]).await;
            rebuilds += 1;
        }
        snapshots
    };
    // Whoever reads finds what was there, and never less than before.
    let reading = async {
        let (mut looks, mut most, mut position) = (0, 0, 0);
        while !done.is_cancelled() {
            let told = stage.get_order(&known).await;
            // On a busy machine the model may be further behind than is waited for: that is said, and nothing else.
            if told["code"] != "store_unavailable" {
                assert_eq!(told["status"], "paid", "{told}");
            }
            let orders = stage.sql_count("SELECT count(*) FROM read_orders").await;
            assert!(orders >= most, "{orders} orders, there were {most}");
            let released = format!("SELECT count(*) FROM read_shipping WHERE order_id = '{known}'");
            assert_eq!(stage.sql_count(&released).await, 1);
            let now = stage
                .sql_count("SELECT position FROM projections WHERE name = 'checkout'")
                .await;
            assert!(now >= position, "{now}, after {position}");
            (looks, most, position) = (looks + 1, orders, now);
        }
        looks
    };
    let (paid, snapshots, looks) = tokio::join!(load, rebuilding, reading);
    assert_eq!(paid, PAYMENTS);
    assert!(looks > 2, "it was hardly read: {looks}");

    caught_up(&stage).await;
    assert_eq!(
        stage.sql_count("SELECT count(*) FROM read_orders").await,
        3 + i64::try_from(PAYMENTS).expect("few")
    );
    // What was served, at each position at which somebody looked while everything ran, is what the log says at that position.
    let last = snapshots.len() - 1;
    for (n, (name, position, text)) in snapshots.iter().enumerate() {
        // The first and the last two are enough to build once more.
        if n < 2 || n + 2 > last {
            assert_eq!(
                &dump(&other, name, Some(*position)).await.1,
                text,
                "{name} at {position}"
            );
        }
    }
    for name in PROJECTIONS {
        let (position, served) = dump(&other, name, None).await;
        assert_eq!(
            dump(&other, name, Some(position)).await.1,
            served,
            "{name} at {position}"
        );
        if name == "shipping" {
            assert!(served.lines().count() > 2, "none of the load was released");
        }
    }
    // Each event was published once. The stream has the store's numbers, so a second one would be seen there as well.
    let head = stage.store.head(0).await.expect("it is told");
    let mut times: HashMap<String, usize> = HashMap::new();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while times.len() < usize::try_from(head - before_load).expect("few") {
        let message = tokio::time::timeout_at(deadline, heard.next())
            .await
            .expect("every event is heard in time")
            .expect("the bus stays");
        let event: Value = serde_json::from_slice(&message.payload).expect("JSON");
        *times
            .entry(event["id"].as_str().expect("an id").to_owned())
            .or_default() += 1;
    }
    assert!(
        times.values().all(|times| *times == 1),
        "an event was published twice"
    );
}

/// One payment as a shop makes it; every tenth shopper pays at once.
async fn pay(stage: &Stage, n: usize) {
    let reference = format!("L-{}", Uuid::new_v4().simple());
    let created = stage
        .command("create_order", &order_body(&reference, "ideal/success"))
        .await;
    let order_id = created["order_id"].as_str().expect("an id");
    let pays = n.is_multiple_of(10);
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", Uuid::new_v4().to_string());
    headers.insert("Prefer", if pays { "wait=25" } else { "wait=0" });
    let body = serde_json::to_vec(&json!({ "order_id": order_id, "method": "ideal" })).expect("JSON");
    let (_, started) = stage
        .send(&format!("kassa.cmd.{SHOP}.start_payment"), headers, body)
        .await;
    assert!(started["payment_id"].is_string(), "{started}");
    if pays && started["next_action"]["type"] == "redirect" {
        stage.press(&reference, "ideal/success").await;
    }
}

/// What the binary prints; it has to end well.
async fn by_command_line(stage: &Stage, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"));
    command
        .arg("projections")
        .args(arguments)
        .env("DATABASE_URL", &stage.database_url);
    let output = tokio::task::spawn_blocking(move || command.output().expect("the binary starts"))
        .await
        .expect("it does not panic");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_lists_rebuilds_and_dumps_and_says_what_it_cannot() {
    let stage = Stage::new().await;
    three_ends(&stage).await;
    let swapped = by_command_line(&stage, &["rebuild", "checkout"]).await;
    assert!(swapped.contains("generation 2 serves"), "{swapped}");
    let listed = by_command_line(&stage, &["ls", "--format", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!(listed[0]["projection"], "checkout");
    assert_eq!(listed[0]["generation"], 2);
    assert_eq!(listed[0]["lag_events"], 0);
    assert_eq!(listed[1]["projection"], "shipping");
    assert_eq!(listed[1]["generation"], 1);
    assert!(by_command_line(&stage, &["ls"]).await.contains("shipping"));
    let dumped = by_command_line(&stage, &["dump", "checkout"]).await;
    assert_eq!(dumped.lines().count(), 1 + 3, "{dumped}");
    let first: Value = serde_json::from_str(dumped.lines().next().expect("a line")).expect("JSON");
    let at = first["position"].as_str().expect("a text").to_owned();
    assert_eq!(
        by_command_line(&stage, &["dump", "checkout", "--at", &at]).await,
        dumped
    );
    assert!(!dumped.contains("canary.person"), "personal data in {dumped}");
    for (arguments, reason) in [
        (&["rebuild", "orders"][..], "checkout, shipping"),
        (&["dump", "checkout", "--at", "0-9999999"], "beyond the end"),
        (&["dump", "checkout", "--at", "yesterday"], "0-41992"),
        (&["dump", "checkout", "--at", "1-1"], "0-number"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"))
            .arg("projections")
            .args(arguments)
            .env("DATABASE_URL", &stage.database_url)
            .output()
            .expect("the binary starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(reason), "{arguments:?}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_happened_to_an_order_is_told_whole_however_much_it_is() {
    let stage = Stage::new().await;
    let (_, order_id) = stage.create("ideal/success").await;
    let more = 2_100;
    let of = format!("aggregate_id = '{order_id}' AND event_type = 'OrderCreated'");
    let added = stage
        .sql_count(&format!(
            "WITH added AS (
               INSERT INTO events
               SELECT e.part, h.position + n, e.stream_id, s.version + n, gen_random_uuid(), e.shop, e.aggregate_type,
                      e.aggregate_id, e.event_type, e.schema_version, e.payload, e.metadata, e.recorded_at
                 FROM events AS e JOIN log_head AS h USING (part) JOIN streams AS s USING (stream_id),
                      generate_series(1, {more}) AS n
                WHERE {of} RETURNING 1),
             counted AS (UPDATE log_head SET position = position + {more}),
             grown AS (UPDATE streams SET version = version + {more}
                        WHERE stream_id = (SELECT stream_id FROM events WHERE {of}))
             SELECT count(*) FROM added"
        ))
        .await;
    assert_eq!(added, more);
    let api = Api::new(&stage).await;
    let story = api.get(&format!("/v1/orders/{order_id}/events")).await;
    let told = story.body.as_array().map(Vec::len);
    assert_eq!(told, usize::try_from(more + 1).ok(), "of one order");
}
