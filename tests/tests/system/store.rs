//! The append, case by case, on real PostgreSQL: what the statement promises, and what happens when its connection goes.

use std::sync::Arc;

use futures::future::join_all;
use kassa_event_store::{
    Append, AppendError, Appended, NewEvent, NewTimer, ReadRequest, Store, StoreConfig, Touch, VaultRow,
};
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::world::world;

struct Fixture {
    store: Store,
    url: String,
}

impl Fixture {
    async fn new() -> Self {
        let url = world().database().await;
        Self {
            store: open(&url).await,
            url,
        }
    }

    async fn sql(&self, sql: &str) -> Result<i64, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.expect("it opens");
        let driving = tokio::spawn(connection);
        let result = client
            .query_opt(sql, &[])
            .await
            .map(|row| row.map_or(0, |row| row.get(0)));
        drop(client);
        let _ = driving.await;
        result
    }

    fn decision(&self, touches: &[(Uuid, i64)], events: &[(Uuid, &str)]) -> Append {
        Append {
            part: 0,
            command_id: Uuid::new_v4(),
            fingerprint: b"fingerprint".to_vec(),
            outcome: b"{}".to_vec(),
            touches: touches
                .iter()
                .map(|(stream_id, expected)| Touch {
                    stream_id: *stream_id,
                    expected: *expected,
                })
                .collect(),
            events: events.iter().map(|(stream, name)| event(*stream, name)).collect(),
            timers: vec![],
            done_timers: vec![],
            vault: vec![],
            reads: vec![],
            recorded_at: self.store.clock().now(),
        }
    }

    async fn gap_free(&self) -> i64 {
        let head = self.store.head(0).await.expect("a head");
        let count = self.sql("SELECT count(*) FROM events").await.expect("a count");
        let highest = self
            .sql("SELECT coalesce(max(position), 0) FROM events")
            .await
            .expect("a count");
        assert_eq!((count, highest), (head, head), "positions have a gap");
        head
    }
}

async fn open(url: &str) -> Store {
    Store::connect(StoreConfig {
        url: url.to_owned(),
        pool_size: 4,
    })
    .await
    .expect("the store opens")
}

fn event(stream_id: Uuid, name: &str) -> NewEvent {
    NewEvent {
        stream_id,
        event_id: Uuid::new_v4(),
        shop: "demo-shop".to_owned(),
        aggregate_type: "order".to_owned(),
        aggregate_id: format!("ord_{}", stream_id.simple()),
        event_type: name.to_owned(),
        schema_version: 1,
        payload: format!("{{\"{name}\":{{}}}}").into_bytes(),
        metadata: b"{}".to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_streams_in_one_decision_get_their_positions_in_order() {
    let fixture = Fixture::new().await;
    let (order, payment) = (Uuid::new_v4(), Uuid::new_v4());
    let decision = fixture.decision(
        &[(order, 0), (payment, 0)],
        &[(order, "Opened"), (payment, "Started"), (order, "Noted")],
    );
    assert_eq!(
        fixture.store.append(decision).await.expect("it wins"),
        Appended::Stored { position: 3 }
    );
    let log = fixture.store.read_log(0, 0, 10).await.expect("a log");
    let places: Vec<_> = log
        .iter()
        .map(|e| (e.position, e.event_type.as_str(), e.version))
        .collect();
    assert_eq!(places, [(1, "Opened", 1), (2, "Started", 1), (3, "Noted", 2)]);
    assert_eq!(
        fixture.store.stream_version(order).await.expect("it is read"),
        Some(2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_decided_is_told_what_was_stored() {
    let fixture = Fixture::new().await;
    let stream = Uuid::new_v4();
    let decision = fixture.decision(&[(stream, 0)], &[(stream, "Opened")]);
    fixture.store.append(decision.clone()).await.expect("it wins");
    let mut repeat = decision.clone();
    repeat.outcome = b"another".to_vec();
    repeat.fingerprint = b"other".to_vec();
    let stored = Appended::Duplicate {
        fingerprint: b"fingerprint".to_vec(),
        outcome: b"{}".to_vec(),
        position: 1,
    };
    assert_eq!(
        fixture.store.append(repeat).await.expect("it is answered"),
        stored
    );
    // Many at once, also while the first is in flight.
    let fresh = Uuid::new_v4();
    let decision = fixture.decision(&[(fresh, 0)], &[(fresh, "Opened")]);
    let answers = join_all((0..20).map(|_| fixture.store.append(decision.clone()))).await;
    let won = answers
        .iter()
        .filter(|a| matches!(a, Ok(Appended::Stored { .. })))
        .count();
    assert_eq!((won, fixture.gap_free().await), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_decisions_on_one_version_one_wins_and_a_half_conflict_stores_nothing() {
    let fixture = Fixture::new().await;
    let (order, payment) = (Uuid::new_v4(), Uuid::new_v4());
    let first = fixture.decision(&[(order, 0)], &[(order, "Opened")]);
    fixture.store.append(first).await.expect("it wins");
    let half = fixture.decision(
        &[(order, 0), (payment, 0)],
        &[(order, "Again"), (payment, "Started")],
    );
    let command = half.command_id;
    assert!(matches!(
        fixture.store.append(half).await,
        Err(AppendError::Conflict)
    ));
    assert_eq!(
        fixture.store.stream_version(payment).await.expect("it is read"),
        None
    );
    assert_eq!(fixture.store.command(command).await.expect("it is read"), None);
    let racing = join_all((0..20).map(|n| {
        let name = if n % 2 == 0 { "Even" } else { "Odd" };
        fixture
            .store
            .append(fixture.decision(&[(order, 1)], &[(order, name)]))
    }))
    .await;
    assert_eq!(racing.iter().filter(|a| a.is_ok()).count(), 1);
    assert_eq!(fixture.gap_free().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_stored_on_current_versions_and_a_stale_one_is_not() {
    let fixture = Fixture::new().await;
    let stream = Uuid::new_v4();
    fixture
        .store
        .append(fixture.decision(&[(stream, 0)], &[(stream, "Opened")]))
        .await
        .expect("it wins");
    let refusal = fixture.decision(&[(stream, 1)], &[]);
    let command = refusal.command_id;
    assert_eq!(
        fixture.store.append(refusal).await.expect("it is stored"),
        Appended::Stored { position: 1 }
    );
    assert!(
        fixture
            .store
            .command(command)
            .await
            .expect("it is read")
            .is_some()
    );
    let stale = fixture.decision(&[(stream, 0)], &[]);
    let command = stale.command_id;
    assert!(
        matches!(fixture.store.append(stale).await, Err(AppendError::Conflict)),
        "a stale cache may not refuse"
    );
    assert_eq!(fixture.store.command(command).await.expect("it is read"), None);
    // The same of a stream that was there, and has gone on.
    fixture
        .store
        .append(fixture.decision(&[(stream, 1)], &[(stream, "Noted")]))
        .await
        .expect("it wins");
    let stale = fixture.decision(&[(stream, 1)], &[]);
    assert!(
        matches!(fixture.store.append(stale).await, Err(AppendError::Conflict)),
        "a stale cache may not refuse what has gone on"
    );
    assert_eq!(fixture.gap_free().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_another_part_is_not_written_here() {
    let fixture = Fixture::new().await;
    let stream = Uuid::new_v4();
    fixture
        .sql(&format!(
            "INSERT INTO streams VALUES ('{stream}', 7, 3) RETURNING version"
        ))
        .await
        .expect("it is put there");
    let decision = fixture.decision(&[(stream, 3)], &[(stream, "Noted")]);
    assert!(matches!(
        fixture.store.append(decision).await,
        Err(AppendError::Conflict)
    ));
    assert_eq!(fixture.gap_free().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_with_a_decision_shares_its_fate() {
    let fixture = Fixture::new().await;
    let stream = Uuid::new_v4();
    let with_rest = |expected| {
        let mut decision = fixture.decision(&[(stream, expected)], &[(stream, "Opened")]);
        decision.timers.push(NewTimer {
            timer_id: Uuid::new_v4(),
            due_at: decision.recorded_at,
            kind: "poll".to_owned(),
            stream_id: stream,
            payload: vec![1],
        });
        decision.vault.push(VaultRow {
            shopper_id: format!("shp_{expected}"),
            shop: "s".to_owned(),
            data: vec![2],
        });
        decision.reads.push(ReadRequest {
            order_id: "ord_1".to_owned(),
            shop: "s".to_owned(),
        });
        decision
    };
    assert!(matches!(
        fixture.store.append(with_rest(5)).await,
        Err(AppendError::Conflict)
    ));
    for table in ["timers", "shoppers", "provider_reads"] {
        assert_eq!(
            fixture
                .sql(&format!("SELECT count(*) FROM {table}"))
                .await
                .expect("a count"),
            0,
            "{table}"
        );
    }
    fixture.store.append(with_rest(0)).await.expect("it wins");
    for table in ["timers", "shoppers", "provider_reads"] {
        assert_eq!(
            fixture
                .sql(&format!("SELECT count(*) FROM {table}"))
                .await
                .expect("a count"),
            1,
            "{table}"
        );
    }
    let due = fixture
        .store
        .due_timers(0, fixture.store.clock().now(), 10)
        .await
        .expect("timers");
    assert!(
        fixture
            .store
            .rearm_timer(due[0].timer_id, 0, due[0].due_at)
            .await
            .expect("it is set")
    );
    assert!(
        !fixture
            .store
            .rearm_timer(due[0].timer_id, 0, due[0].due_at)
            .await
            .expect("another was first")
    );
    let mut done = fixture.decision(&[(stream, 1)], &[]);
    done.done_timers.push(due[0].timer_id);
    fixture.store.append(done).await.expect("it wins");
    assert_eq!(
        fixture.sql("SELECT count(*) FROM timers").await.expect("a count"),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_append_at_once_with_conflicts_and_positions_have_no_gap() {
    let fixture = Fixture::new().await;
    let other = open(&fixture.url).await;
    let stores = [fixture.store.clone(), other];
    let streams: Arc<Vec<Uuid>> = Arc::new((0..5).map(|_| Uuid::new_v4()).collect());
    let fixture = Arc::new(fixture);
    let writers = (0..40_usize).map(|n| {
        let (fixture, streams, store) = (fixture.clone(), streams.clone(), stores[n % 2].clone());
        tokio::spawn(async move {
            let (mut won, mut lost) = (0_usize, 0_usize);
            for round in 0..25 {
                let stream = streams[(n + round) % streams.len()];
                let version = store
                    .stream_version(stream)
                    .await
                    .expect("it is read")
                    .unwrap_or(0);
                match store
                    .append(fixture.decision(&[(stream, version)], &[(stream, "Noted"), (stream, "Noted")]))
                    .await
                {
                    Ok(_) => won += 1,
                    Err(AppendError::Conflict) => lost += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            (won, lost)
        })
    });
    let results: Vec<_> = join_all(writers)
        .await
        .into_iter()
        .map(|r| r.expect("no panic"))
        .collect();
    let won: usize = results.iter().map(|r| r.0).sum();
    let lost: usize = results.iter().map(|r| r.1).sum();
    assert!(lost > 0, "the race was not exercised");
    assert_eq!(fixture.gap_free().await, i64::try_from(won * 2).expect("few"));
    for stream in streams.iter() {
        let events = fixture
            .store
            .read_stream(*stream, 0, 10_000)
            .await
            .expect("it is read");
        let versions: Vec<i64> = events.iter().map(|e| e.version).collect();
        assert_eq!(
            versions,
            (1..=i64::try_from(events.len()).expect("few")).collect::<Vec<_>>()
        );
        assert!(events.is_sorted_by_key(|e| e.position));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_are_cut_in_the_middle_lose_and_double_nothing() {
    let fixture = Arc::new(Fixture::new().await);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..16)
        .map(|_| {
            let fixture = fixture.clone();
            tokio::spawn(async move {
                let mut stored = 0_i64;
                for _ in 0..60 {
                    let stream = Uuid::new_v4();
                    let decision = fixture.decision(&[(stream, 0)], &[(stream, "Opened")]);
                    // A caller's own repeat, as the engine's callers do.
                    let mut answer = fixture.store.append(decision.clone()).await;
                    while let Err(AppendError::Unavailable(_)) = answer {
                        answer = fixture.store.append(decision.clone()).await;
                    }
                    answer.expect("a stream of its own never conflicts");
                    assert_eq!(
                        fixture.store.stream_version(stream).await.unwrap_or(Some(1)),
                        Some(1)
                    );
                    stored += 1;
                }
                stored
            })
        })
        .collect();
    let cutter = {
        let (fixture, done) = (fixture.clone(), done.clone());
        tokio::spawn(async move {
            let mut cuts = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'kassa' AND query LIKE '%log_head%'
                       OR datname = current_database() AND application_name = 'kassa' AND query IN ('BEGIN', 'COMMIT')";
                cuts += fixture.sql(cut).await.unwrap_or(0);
            }
            cuts
        })
    };
    let mut stored = 0;
    for writer in writers {
        stored += writer.await.expect("no panic");
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    let cuts = cutter.await.expect("no panic");
    assert!(cuts > 0, "no connection was cut: the fault was not exercised");
    assert_eq!(fixture.gap_free().await, stored, "after {cuts} cuts");
    assert_eq!(
        fixture
            .sql("SELECT count(*) FROM command_log")
            .await
            .expect("a count"),
        stored
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_holds_its_commit_open_is_not_overtaken_by_a_higher_position() {
    let fixture = Fixture::new().await;
    let (client, connection) = tokio_postgres::connect(&fixture.url, NoTls)
        .await
        .expect("it opens");
    tokio::spawn(connection);
    // Another writer, in the middle of its append: it has the head, and has not committed.
    client
        .batch_execute("BEGIN; SELECT position FROM log_head WHERE part = 0 FOR UPDATE; UPDATE log_head SET position = 1")
        .await
        .expect("it holds the head");
    let appends = join_all((0..100).map(|_| {
        let stream = Uuid::new_v4();
        fixture
            .store
            .append(fixture.decision(&[(stream, 0)], &[(stream, "Opened")]))
    }));
    tokio::pin!(appends);
    assert!(
        tokio::time::timeout(std::time::Duration::from_millis(300), &mut appends)
            .await
            .is_err(),
        "a hundred appends did not wait for the head"
    );
    assert!(fixture.store.read_log(0, 0, 10).await.expect("a log").is_empty());
    client.batch_execute("ROLLBACK").await.expect("it lets go");
    assert!(appends.await.iter().all(Result::is_ok));
    assert_eq!(fixture.gap_free().await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_services_role_cannot_change_what_was_written() {
    let fixture = Fixture::new().await;
    let stream = Uuid::new_v4();
    fixture
        .store
        .append(fixture.decision(&[(stream, 0)], &[(stream, "Opened")]))
        .await
        .expect("it wins");
    let client = fixture.store.pool().get().await.expect("a connection");
    for sql in [
        "UPDATE events SET payload = ''",
        "DELETE FROM events",
        "TRUNCATE events",
        "UPDATE events_p0 SET payload = ''",
        "UPDATE command_log SET outcome = ''",
        "DELETE FROM command_log",
        "UPDATE clock SET offset_ms = 1",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(
            error.code().map(tokio_postgres::error::SqlState::code),
            Some("42501"),
            "{sql}: {error}"
        );
    }
    assert_eq!(fixture.gap_free().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_coalesced_to_one_under_way_and_one_waiting() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let lease = jiff::SignedDuration::from_secs(60);
    for _ in 0..1_000 {
        store
            .request_read("ord_1", "demo-shop")
            .await
            .expect("it is counted");
    }
    let first = store
        .claim_reads(store.clock().now(), lease, 10)
        .await
        .expect("claims");
    assert_eq!((first.len(), first[0].read_no), (1, 1));
    store
        .request_read("ord_1", "demo-shop")
        .await
        .expect("it is counted");
    assert!(
        store
            .claim_reads(store.clock().now(), lease, 10)
            .await
            .expect("claims")
            .is_empty(),
        "one under way"
    );
    store
        .finish_read(&first[0], true, store.clock().now())
        .await
        .expect("it ends");
    let second = store
        .claim_reads(store.clock().now(), lease, 10)
        .await
        .expect("claims");
    assert_eq!(
        (second.len(), second[0].read_no),
        (1, 2),
        "the one that came meanwhile"
    );
    store
        .finish_read(&second[0], true, store.clock().now())
        .await
        .expect("it ends");
    assert!(
        store
            .claim_reads(store.clock().now(), lease, 10)
            .await
            .expect("claims")
            .is_empty()
    );
    // A storm: three at once, then one a second.
    let now = store.clock().now();
    let mut claimed = 0;
    for tick in 0..100 {
        store
            .request_read("ord_2", "demo-shop")
            .await
            .expect("it is counted");
        let at = now + jiff::SignedDuration::from_millis(tick * 50);
        for claim in store.claim_reads(at, lease, 10).await.expect("claims") {
            claimed += 1;
            store.finish_read(&claim, true, at).await.expect("it ends");
        }
    }
    assert!((6..=8).contains(&claimed), "{claimed} reads in five seconds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_keep_what_it_acknowledges_is_refused() {
    let fixture = Fixture::new().await;
    let name = fixture
        .url
        .split('/')
        .nth(3)
        .and_then(|rest| rest.split('?').next())
        .expect("a name")
        .to_owned();
    fixture
        .sql(&format!("ALTER DATABASE {name} SET synchronous_commit = off"))
        .await
        .expect("the setting is changed");
    let error = Store::connect(StoreConfig {
        url: fixture.url.clone(),
        pool_size: 1,
    })
    .await
    .expect_err("it is unsafe");
    assert!(error.to_string().contains("synchronous_commit"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_postgres_es_reads_the_log_as_that_crate_expects_it() {
    let fixture = Fixture::new().await;
    let stream = Uuid::new_v4();
    let decision = fixture.decision(&[(stream, 0)], &[(stream, "Opened"), (stream, "Noted")]);
    fixture.store.append(decision).await.expect("it wins");
    // The text of the crate's own query (version 0.5), on its own search path.
    let read = "SELECT count(*) FROM (SELECT aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata
        FROM events WHERE aggregate_type = 'order' AND aggregate_id = 'ord_STREAM' ORDER BY sequence) AS known
        WHERE json_typeof(payload) = 'object' AND sequence > 0"
        .replace("STREAM", &stream.simple().to_string());
    let (client, connection) = tokio_postgres::connect(&fixture.url, NoTls)
        .await
        .expect("it opens");
    tokio::spawn(connection);
    client
        .batch_execute("SET search_path = postgres_es")
        .await
        .expect("it is set");
    assert_eq!(
        client
            .query_one(&read, &[])
            .await
            .expect("it is read")
            .get::<_, i64>(0),
        2
    );
}
