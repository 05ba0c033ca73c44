//! What do shoppers and shops notice when PostgreSQL ends, hangs, refuses, runs full, or loses a connection in the middle
//! of a commit? Later, but nothing else.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use futures::future::join_all;
use kassa::Role;
use kassa_harness::{
    fault::edges::after_commit,
    proxy::{At, Cut, Proxy, Side, Upstream},
};
use kassa_infra::servers::{Postgres, ServerError};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, config::Host};

use crate::{
    crashes::{ends_well, stream},
    stage::{DEADLINE, Plan, Stage, order_body},
    world::{SHOP, own_postgres, world},
};

/// A session of somebody else, as the owner of the database.
async fn session(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("it opens");
    tokio::spawn(async move {
        // Its end is seen by whoever uses the client.
        let _ = connection.await;
    });
    client
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("it does not panic")
}

fn on(database: String) -> Plan {
    Plan {
        database: Some(database),
        ..Plan::ordinary()
    }
}

/// Waits until the read model has an order.
async fn known(stage: &Stage, order_id: &str) {
    stage
        .until("the order can be asked for", async |s| {
            s.get_order(order_id).await["order_id"] == json!(order_id)
        })
        .await;
}

/// Sends a command under one key until it is taken; every answer before that has to say that it may be sent again.
async fn until_taken(stage: &Stage, verb: &str, key: &str, body: &Value) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = stage.command_with_key(verb, key, body).await;
        if answer["code"].is_null() {
            return answer;
        }
        assert_eq!(answer["status"], 503, "{answer}");
        assert!(Instant::now() < deadline, "never taken: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_27_the_database_ends_at_once_or_is_killed_in_the_middle_of_payments() {
    let (mut postgres, url) = own_postgres("f_27").await;
    let stage = Stage::planned(on(url)).await;
    type End = fn(&mut Postgres) -> Result<(), ServerError>;
    let ends: [End; 2] = [Postgres::end_immediately, Postgres::kill];
    for end in ends {
        let (reference, order_id) = stage.create("ideal/success").await;
        stage.start(&order_id).await;
        postgres = blocking(move || {
            end(&mut postgres).expect("it is ours to end");
            postgres
        })
        .await;
        // The shopper pays meanwhile; CM's notification finds nobody and comes again.
        stage.press(&reference, "ideal/success").await;
        let body = order_body(&format!("{reference}-2"), "ideal/success");
        let refused = stage.command_with_key("create_order", &reference, &body).await;
        assert_eq!(
            (&refused["code"], &refused["status"]),
            (&json!("store_unavailable"), &json!(503))
        );
        postgres = blocking(move || {
            postgres.restart().expect("it starts again");
            postgres
        })
        .await;
        until_taken(&stage, "create_order", &reference, &body).await;
        ends_well(&stage, &order_id, &reference).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_31_a_forgotten_transaction_on_the_log_holds_up_commands_for_seconds_and_questions_not_at_all() {
    let stage = Stage::new().await;
    let (reference, order_id) = stage.create("ideal/success").await;
    known(&stage, &order_id).await;
    let holder = session(&stage.database_url).await;
    holder
        .batch_execute("BEGIN; SELECT position FROM log_head WHERE part = 0 FOR UPDATE")
        .await
        .expect("it is held");
    let body = json!({ "order_id": order_id, "method": "ideal" });
    let begin = Instant::now();
    let refused = stage.command_with_key("start_payment", "held", &body).await;
    assert_eq!(refused["code"], "store_unavailable", "{refused}");
    // The store gives up after four seconds; a requester's patience is half a minute.
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(stage.get_order(&order_id).await["order_id"], json!(order_id));
    holder.batch_execute("ROLLBACK").await.expect("it is let go");
    until_taken(&stage, "start_payment", "held", &body).await;
    stage.press(&reference, "ideal/success").await;
    ends_well(&stage, &order_id, &reference).await;
}

/// A server that stands still with all its processes, and goes on when this is dropped.
struct Frozen(Vec<String>);

impl Frozen {
    fn new(postgres: &Postgres) -> Self {
        let pid = postgres.pid().to_string();
        let children = Command::new("pgrep").args(["-P", &pid]).output();
        let children = children.expect("pgrep is there").stdout;
        let mut pids: Vec<String> = String::from_utf8_lossy(&children)
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        pids.push(pid);
        let frozen = Self(pids);
        frozen.signal("-STOP");
        frozen
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).args(&self.0).status();
        assert!(
            sent.expect("kill is there").success(),
            "kill {signal} {:?}",
            self.0
        );
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_a_database_that_hangs_is_told_within_seconds_also_to_whoever_is_known() {
    let (postgres, url) = own_postgres("hanging").await;
    let stage = Stage::planned(on(url)).await;
    let post = async |reference: &str| {
        let asked = stage.api_post("/v1/orders").await;
        asked
            .header("Idempotency-Key", reference)
            .json(&order_body(reference, "ideal/success"))
            .send()
            .await
            .expect("it answers")
    };
    let taken = post("before").await;
    assert_eq!(taken.status(), 201, "and its key is known for a moment");
    let frozen = Frozen::new(&postgres);
    let begin = Instant::now();
    let refused = post("meanwhile").await;
    assert_eq!(refused.status(), 503);
    let problem: Value = refused.json().await.expect("JSON");
    assert_eq!(problem["code"], "store_unavailable", "{problem}");
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}: {problem}",
        begin.elapsed()
    );
    drop(frozen);
    stage
        .until("the same request is taken", async |_| {
            post("meanwhile").await.status() == 201
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_33_a_third_of_all_appends_fail_by_deadlock_or_serialization_and_every_payment_ends_well() {
    const ORDERS: usize = 8;
    let stage = Stage::new().await;
    // A sequence is not rolled back, so that each failure is followed by two that go through.
    let sql = "CREATE SEQUENCE thirds;
         GRANT USAGE ON SEQUENCE thirds TO kassa_app;
         CREATE FUNCTION fail_thirds() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE n bigint := nextval('thirds');
             BEGIN
                 IF n % 6 = 0 THEN RAISE 'drill' USING ERRCODE = '40001'; END IF;
                 IF n % 3 = 0 THEN RAISE 'drill' USING ERRCODE = '40P01'; END IF;
                 RETURN NULL;
             END $$;
         CREATE TRIGGER fail_thirds AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION fail_thirds()";
    session(&stage.database_url)
        .await
        .batch_execute(sql)
        .await
        .expect("an operator may");
    join_all((0..ORDERS).map(|_| async {
        let (reference, order_id) = stage.create("ideal/success").await;
        stage.start(&order_id).await;
        stage.press(&reference, "ideal/success").await;
        ends_well(&stage, &order_id, &reference).await;
    }))
    .await;
    let tried = stage.sql_count("SELECT last_value FROM thirds").await;
    assert!(tried >= 6, "both failures were felt: {tried} appends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_33_while_a_transaction_is_held_open_a_hundred_commit_and_all_of_them_reach_stream_and_projection()
{
    const ORDERS: i64 = 100;
    let stage = Stage::new().await;
    // It has a number of its own and sees the log as it was: who reads by "the oldest that still runs" waits for it.
    let holder = session(&stage.database_url).await;
    holder
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id(); SELECT count(*) FROM events",
        )
        .await
        .expect("it is open");
    let made = join_all((0..ORDERS).map(|_| stage.create("ideal/success"))).await;
    assert_eq!(made.len(), 100);
    everything_arrives(&stage, ORDERS).await;
    holder
        .batch_execute("ROLLBACK")
        .await
        .expect("it was open all the time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_36_a_lower_position_that_commits_late_is_skipped_by_nobody() {
    const ORDERS: i64 = 100;
    // Two processes append: one's transaction has its position and does not commit, the other wants the next ones.
    let stage = Stage::planned(Plan::with_process("engine", Role::Engine)).await;
    let sql = "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_advisory_xact_lock_shared(36); RETURN NULL; END $$;
         CREATE TRIGGER wait AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION wait()";
    let holder = session(&stage.database_url).await;
    holder.batch_execute(sql).await.expect("an operator may");
    holder
        .query("SELECT pg_advisory_lock(36)", &[])
        .await
        .expect("it is held");
    let shops = &stage;
    let by_bus = join_all((0..ORDERS / 2).map(|n| async move {
        let body = order_body(&format!("bus-{n}"), "ideal/success");
        until_taken(shops, "create_order", &format!("bus-{n}"), &body).await
    }));
    let by_http = join_all((0..ORDERS / 2).map(|n| async move {
        let request = shops.api_post("/v1/orders").await;
        let request = request.header("Idempotency-Key", format!("http-{n}"));
        let body = order_body(&format!("http-{n}"), "ideal/success");
        loop {
            let again = request.try_clone().expect("a body that is all there");
            let answer = again.json(&body).send().await.expect("an answer");
            if answer.status().is_success() {
                return;
            }
            assert_eq!(answer.status(), 503);
        }
    }));
    let held = async {
        stage
            .until("one that has its position, and one that waits for it", async |s| {
                s.sql_count(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                        AND locktype = 'advisory'",
                )
                .await
                    > 0
                    && s.sql_count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple')").await > 0
            })
            .await;
        assert_eq!(
            stage.sql_count("SELECT count(*) FROM events").await,
            0,
            "nobody sees what is not committed"
        );
        holder
            .query("SELECT pg_advisory_unlock(36)", &[])
            .await
            .expect("it is let go");
    };
    futures::join!(by_bus, by_http, held);
    everything_arrives(&stage, ORDERS).await;
}

/// All positions, without a hole, on the stream under their own numbers, and in the read model.
async fn everything_arrives(stage: &Stage, orders: i64) {
    stage
        .until("every order in the read model", async |s| {
            s.sql_count("SELECT count(*) FROM read_orders").await == orders
        })
        .await;
    let head = stage.store.head(0).await.expect("a head");
    let (count, last) = (
        stage.sql_count("SELECT count(*) FROM events").await,
        stage.sql_count("SELECT max(position) FROM events").await,
    );
    assert_eq!((count, last), (head, head), "no holes");
    let messages = stream(&stage.config.nats.url, &stage.logins, head).await;
    assert_eq!(i64::try_from(messages.len()).expect("few"), head);
    let created = messages.iter().filter(|(_, _, body)| {
        let event: Value = serde_json::from_slice(body).expect("an envelope");
        event["type"] == "kassa.order.created.v1"
    });
    assert_eq!(i64::try_from(created.count()).expect("few"), orders);
}

/// The database behind a proxy: the proxy, and the address by way of it.
fn proxied(url: &str) -> (Proxy, String) {
    let config: tokio_postgres::Config = url.parse().expect("an address");
    let Some(Host::Unix(folder)) = config.get_hosts().first() else {
        panic!("the server of a test has a socket: {url}");
    };
    let proxy = Proxy::start(Upstream::Unix(folder.join(".s.PGSQL.5432"))).expect("a proxy");
    let (user, database) = (
        config.get_user().expect("a user"),
        config.get_dbname().expect("a database"),
    );
    let address = format!(
        "postgresql://{user}@{}/{database}?sslmode=disable",
        proxy.address()
    );
    (proxy, address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_inside_an_append_is_answered_as_it_was_stored_and_stored_once() {
    let (proxy, url) = proxied(&world().database().await);
    let stage = Stage::planned(on(url)).await;
    let piece = |needle: &[u8]| At::PieceWith(needle.to_vec());
    let places = [
        ("committed, and nobody was told", after_commit()),
        ("all of it sent", Cut::new(Side::Up, piece(b"COMMIT"))),
        ("begun", Cut::new(Side::Up, At::Through(b"BEGIN".to_vec()))),
        ("its answer begun", Cut::new(Side::Down, At::Bytes(40))),
    ];
    for (place, cut) in places {
        let deadline = Instant::now() + DEADLINE;
        // Others use the database too, and may be cut in its place.
        loop {
            assert!(Instant::now() < deadline, "{place}: no append was ever cut");
            let reference = format!("cut-{}", uuid::Uuid::new_v4().simple());
            let before = proxy.counts();
            proxy.cut(cut.clone().only(reference.as_bytes()));
            let body = order_body(&reference, "ideal/success");
            let answer = stage.command_with_key("create_order", &reference, &body).await;
            proxy.heal();
            assert_eq!(answer["status"], "open", "{place}: {answer}");
            let repeat = stage.command_with_key("create_order", &reference, &body).await;
            assert_eq!(repeat, answer, "{place}");
            let order_id = answer["order_id"].as_str().expect("an id");
            let sql = format!("SELECT count(*) FROM events WHERE aggregate_id = '{order_id}'");
            assert_eq!(stage.sql_count(&sql).await, 1, "{place}");
            if proxy.counts().since(&before).cuts == 1 {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_09_our_clock_jumps_by_three_minutes_either_way_in_the_middle_of_a_payment() {
    let stage = Stage::new().await;
    for (jump_ms, back_first) in [(180_000, false), (-180_000, true)] {
        let (reference, order_id) = stage.create("ideal/success").await;
        stage.start(&order_id).await;
        let jump = async |offset_ms| {
            let moved = stage.store.set_clock_offset(offset_ms).await;
            moved.expect("the clock moves");
        };
        jump(jump_ms).await;
        stage.press(&reference, "ideal/success").await;
        if back_first {
            // What was put off by the right clock waits for it.
            jump(0).await;
        }
        ends_well(&stage, &order_id, &reference).await;
        jump(0).await;
    }
    let expired = "SELECT count(*) FROM events WHERE event_type IN ('OrderExpired', 'PaymentExpired')";
    assert_eq!(
        stage.sql_count(expired).await,
        0,
        "nothing expires because a clock is wrong"
    );
}

/// A file system of a fixed size, given back at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, and said why, where there is no right to have one.
    fn mount(folder: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "tmpfs"])
            .arg(&folder)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                println!(
                    "skipped, no small disk here: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
                None
            }
            Err(error) => {
                println!("skipped, no small disk here: mount: {error}");
                None
            }
        }
    }
}

/// Takes all the space that is left in a folder.
fn fill(folder: &Path) -> PathBuf {
    use std::io::Write as _;
    let filler = folder.join("filler");
    let mut file = std::fs::File::create(&filler).expect("a file");
    // Smaller and smaller, to the last page.
    for size in [1 << 20, 1 << 12] {
        let zeros = vec![0_u8; size];
        while file.write_all(&zeros).is_ok() {}
    }
    filler
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_23_a_full_disk_refuses_commands_and_takes_them_again_when_there_is_space() {
    let folder = world().folder.join("f_23");
    let Some(disk) = SmallDisk::mount(folder.clone(), "160m") else {
        return;
    };
    let (postgres, url) = own_postgres("f_23/pg").await;
    let stage = Stage::planned(on(url)).await;
    let (first_reference, first) = stage.create("ideal/success").await;
    stage.start(&first).await;
    known(&stage, &first).await;
    let filler = blocking(move || fill(&folder)).await;
    // Pages that were begun take a few more; then there is no room for another.
    let mut taken = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    let (key, body) = loop {
        assert!(Instant::now() < deadline, "the disk never ran full");
        let reference = format!("full-{}", taken.len());
        let body = order_body(&reference, "ideal/success");
        let answer = stage.command_with_key("create_order", &reference, &body).await;
        match answer["order_id"].as_str() {
            Some(order_id) => taken.push(order_id.to_owned()),
            None => {
                assert_eq!(
                    (&answer["code"], &answer["status"]),
                    (&json!("store_unavailable"), &json!(503)),
                    "{answer}"
                );
                break (reference, body);
            }
        }
    };
    std::fs::remove_file(filler).expect("it is ours");
    let answer = until_taken(&stage, "create_order", &key, &body).await;
    taken.push(answer["order_id"].as_str().expect("an id").to_owned());
    for order_id in &taken {
        let sql = format!(
            "SELECT count(*) FROM events WHERE aggregate_id = '{order_id}' AND event_type = 'OrderCreated'"
        );
        assert_eq!(
            stage.sql_count(&sql).await,
            1,
            "nothing that was answered is lost, or there twice"
        );
    }
    stage.press(&first_reference, "ideal/success").await;
    ends_well(&stage, &first, &first_reference).await;
    // The disk is given back when nobody uses it any more.
    drop(stage);
    blocking(move || drop(postgres)).await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_81_a_gateway_told_to_end_with_twenty_calls_under_way_ends_in_order_and_none_is_made_twice() {
    const CALLS: usize = 20;
    let mut stage = Stage::planned(Plan::with_process("cm-gateway", Role::CmGateway)).await;
    let orders = join_all((0..CALLS).map(|n| {
        let stage = &stage;
        async move {
            let (reference, order_id) = stage.create("any/start_slow_1500").await;
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Idempotency-Key", format!("start-{n}"));
            headers.insert("Prefer", "wait=0");
            let body = json!({ "order_id": order_id, "method": "ideal" });
            let body = serde_json::to_vec(&body).expect("JSON");
            stage
                .send(&format!("kassa.cmd.{SHOP}.start_payment"), headers, body)
                .await;
            (reference, order_id)
        }
    }))
    .await;
    stage
        .until("calls under way", async |s| {
            let mut started = 0;
            for (reference, _) in &orders {
                started += s.count(reference, "request", "start").await;
            }
            started > 0
        })
        .await;
    let begin = Instant::now();
    let code = stage.terminate("cm-gateway").await;
    assert_eq!(code, Some(0), "it ends in order");
    assert!(
        begin.elapsed() <= Duration::from_secs(30),
        "{:?}",
        begin.elapsed()
    );
    stage.spawn("cm-gateway");
    for (reference, order_id) in &orders {
        stage
            .until("a link to pay", async |s| {
                s.get_order(order_id).await["next_action"]["url"].is_string()
            })
            .await;
        stage.press(reference, "ideal/success").await;
        ends_well(&stage, order_id, reference).await;
    }
}
