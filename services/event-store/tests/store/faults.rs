//! A server that does not answer, a lock that is not let go, a neighbour's mistake, an operator's.

use std::{process::Command, time::Instant};

use futures::future::join_all;
use jiff::SignedDuration;
use kassa_event_store::{AppendError, Appended, ReadRequest, StoreConfig};

use crate::server::{Database, opening, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_is_not_there_is_refused_and_nothing_of_it_is_kept() {
    let database = Database::migrated().await;
    let store = database.store().await;
    let decision = opening(&store, 7);
    let stream = decision.touches[0].stream_id;
    let error = store.append(decision).await.expect_err("there is no part 7");
    assert!(matches!(error, AppendError::WrongPart { part: 7 }), "{error}");
    assert_eq!(store.stream_version(stream).await.expect("it is read"), None);
}

/// Runs a backend again when the test ends in any way: the server could not stop otherwise.
struct Frozen(String);

impl Frozen {
    fn new(pid: i64) -> Self {
        let frozen = Self(pid.to_string());
        frozen.signal("-STOP");
        frozen
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0]).status();
        assert!(
            status.expect("kill is there").success(),
            "kill {signal} {}",
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
async fn a_server_that_stops_answering_does_not_hang_its_callers() {
    let database = Database::migrated().await;
    let store = database.store().await;
    store.append(opening(&store, 0)).await.expect("it wins");
    let pid = database
        .number(
            "SELECT pid::bigint FROM pg_stat_activity WHERE datname = current_database()
                AND application_name = 'kassa' AND (query = 'COMMIT' OR query LIKE 'NOTIFY kassa_log%')",
        )
        .await;
    let frozen = Frozen::new(pid);
    let lost = opening(&store, 0);
    let answer = within(20, "an answer", store.append(lost.clone())).await;
    assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
    drop(frozen);
    // A repeat finds out what became of it, whether or not the thawed backend still stored it.
    let deadline = Instant::now() + std::time::Duration::from_secs(20);
    loop {
        match store.append(lost.clone()).await {
            Ok(_) => break,
            Err(AppendError::Unavailable(_)) if Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(database.number("SELECT count(*) FROM events").await, 2);
    assert_eq!(store.head(0).await.expect("it is read"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_head_keeps_a_full_queue_waiting_for_seconds_only() {
    let database = Database::migrated().await;
    let store = database.store().await;
    let holder = database.superuser().await;
    holder
        .batch_execute("BEGIN; SELECT position FROM log_head WHERE part = 0 FOR UPDATE")
        .await
        .expect("it is held");
    let appends = join_all((0..4_000).map(|_| store.append(opening(&store, 0))));
    let answers = within(10, "four thousand answers", appends).await;
    for answer in answers {
        assert!(
            matches!(answer, Err(AppendError::Unavailable(_) | AppendError::Overloaded)),
            "{answer:?}"
        );
    }
    holder.batch_execute("ROLLBACK").await.expect("it is let go");
    store.append(opening(&store, 0)).await.expect("it wins again");
    assert_eq!(database.number("SELECT count(*) FROM events").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_one_orders_row_holds_up_that_order_alone() {
    let database = Database::migrated().await;
    let store = database.store().await;
    store
        .request_read("ord_held", "demo-shop")
        .await
        .expect("it is counted");
    let holder = database.superuser().await;
    holder
        .batch_execute("BEGIN; SELECT FROM provider_reads WHERE order_id = 'ord_held' FOR UPDATE")
        .await
        .expect("it is held");
    let mut decisions: Vec<_> = (0..50).map(|_| opening(&store, 0)).collect();
    let held = decisions[20].command_id;
    decisions[20].reads.push(ReadRequest {
        order_id: "ord_held".to_owned(),
        shop: "demo-shop".to_owned(),
    });
    let appends = decisions.into_iter().map(|decision| {
        let store = store.clone();
        async move { (decision.command_id, store.append(decision).await) }
    });
    for (command, answer) in within(20, "all answers", join_all(appends)).await {
        if command == held {
            assert!(matches!(answer, Err(AppendError::Unavailable(_))), "{answer:?}");
        } else {
            assert!(matches!(answer, Ok(Appended::Stored { .. })), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_refuses_does_not_fail_its_neighbours() {
    let database = Database::migrated().await;
    let store = database.store().await;
    // A second fact of one epoch: goods would be shipped twice.
    let safe = || {
        let mut decision = opening(&store, 0);
        decision.events[0].event_type = "ConfidenceReachedSafe".to_owned();
        decision
    };
    let first = safe();
    let taken = first.events[0].event_id;
    store.append(first).await.expect("it wins");
    let mut decisions: Vec<_> = (0..50).map(|_| opening(&store, 0)).collect();
    decisions[20] = safe();
    decisions[20].events[0].event_id = taken;
    let answers = join_all(decisions.into_iter().map(|decision| store.append(decision))).await;
    for (n, answer) in answers.iter().enumerate() {
        if n == 20 {
            assert!(matches!(answer, Err(AppendError::Refused(_))), "{answer:?}");
        } else {
            assert!(matches!(answer, Ok(Appended::Stored { .. })), "{answer:?}");
        }
    }
    assert_eq!(store.head(0).await.expect("it is read"), 50);
    assert_eq!(database.number("SELECT count(*) FROM events").await, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_stay_durable_when_the_setting_is_changed_meanwhile() {
    let database = Database::migrated().await;
    let store = database.store().await;
    store.append(opening(&store, 0)).await.expect("it wins");
    let name = &database.name;
    let cut = format!(
        "CREATE TABLE seen (setting text);
         GRANT INSERT ON seen TO kassa_app;
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
         CREATE TRIGGER see AFTER INSERT ON events EXECUTE FUNCTION see();
         ALTER DATABASE {name} SET synchronous_commit = off;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    );
    database
        .superuser()
        .await
        .batch_execute(&cut)
        .await
        .expect("an operator may");
    store
        .append(opening(&store, 0))
        .await
        .expect("it is carried over");
    assert_eq!(
        database
            .number("SELECT count(*) FROM seen WHERE setting <> 'on'")
            .await,
        0
    );
    assert_eq!(database.number("SELECT count(*) FROM seen").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_was_put_off_waits_for_its_time() {
    let database = Database::migrated().await;
    let store = database.store().await;
    let lease = SignedDuration::from_secs(60);
    let now = store.clock().now();
    let after = |millis| now + SignedDuration::from_millis(millis);
    store
        .request_read("ord_1", "demo-shop")
        .await
        .expect("it is counted");
    let claims = store.claim_reads(now, lease, 10).await.expect("claims");
    store
        .finish_read(&claims[0], false, after(5_000))
        .await
        .expect("it ends");
    let early = store.claim_reads(after(4_999), lease, 10).await.expect("claims");
    assert_eq!(early, [], "before its time");
    let due = store.claim_reads(after(5_000), lease, 10).await.expect("claims");
    assert_eq!((due.len(), due[0].read_no), (1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_09_a_clock_that_goes_back_by_an_hour_keeps_no_report_from_being_read() {
    let database = Database::migrated().await;
    let store = database.store().await;
    let lease = SignedDuration::from_secs(10);
    let fast = store.clock().now();
    let right = fast - SignedDuration::from_hours(1);
    for order in ["ord_held", "ord_done"] {
        store
            .request_read(order, "demo-shop")
            .await
            .expect("it is counted");
    }
    let claims = store.claim_reads(fast, lease, 10).await.expect("claims");
    let done = claims
        .iter()
        .find(|claim| claim.order_id == "ord_done")
        .expect("it was asked for");
    store.finish_read(done, true, fast).await.expect("it ends");
    store
        .request_read("ord_done", "demo-shop")
        .await
        .expect("it is counted");

    let again = store.claim_reads(right, lease, 10).await.expect("claims");
    let mut taken: Vec<_> = again
        .iter()
        .map(|claim| (claim.order_id.as_str(), claim.read_no))
        .collect();
    taken.sort_unstable();
    assert_eq!(taken, [("ord_done", 2), ("ord_held", 2)]);
    let held = store.claim_reads(right, lease, 10).await.expect("claims");
    assert_eq!(held, [], "by a lease of the clock that is right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_whose_lease_ran_out_is_anothers_and_a_late_answer_ends_nothing() {
    let database = Database::migrated().await;
    let store = database.store().await;
    let now = store.clock().now();
    let lease = SignedDuration::from_secs(10);
    store
        .request_read("ord_1", "demo-shop")
        .await
        .expect("it is counted");
    let slow = store.claim_reads(now, lease, 10).await.expect("claims");
    let later = now + SignedDuration::from_secs(11);
    let next = store.claim_reads(later, lease, 10).await.expect("claims");
    assert_eq!((next.len(), next[0].read_no), (1, 2));
    store
        .finish_read(&slow[0], true, later)
        .await
        .expect("it is ignored");
    let much_later = later + SignedDuration::from_secs(11);
    let third = store.claim_reads(much_later, lease, 10).await.expect("claims");
    assert_eq!(
        (third.len(), third[0].read_no),
        (1, 3),
        "the late answer served nothing"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_hears_of_an_append_and_of_a_read() {
    let database = Database::migrated().await;
    let (store, other) = (database.store().await, database.store().await);
    let (mut log, mut reads) = (other.hints(), other.read_hints());
    // The first one says that it is listening now.
    within(10, "listening", log.changed())
        .await
        .expect("the store is there");
    within(10, "listening", reads.changed())
        .await
        .expect("the store is there");
    let mut decision = opening(&store, 0);
    decision.reads.push(ReadRequest {
        order_id: "ord_1".to_owned(),
        shop: "demo-shop".to_owned(),
    });
    store.append(decision).await.expect("it wins");
    within(10, "a hint of the append", log.changed())
        .await
        .expect("the store is there");
    within(10, "a hint of the read", reads.changed())
        .await
        .expect("the store is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absurd_clock_offset_stops_nobody() {
    let database = Database::migrated().await;
    for offset in [i64::MAX, i64::MIN] {
        let sql = format!("UPDATE clock SET offset_ms = {offset}");
        database
            .superuser()
            .await
            .batch_execute(&sql)
            .await
            .expect("an operator may");
        let store = database.store().await;
        store
            .append(opening(&store, 0))
            .await
            .expect("it is stored, whatever the time");
    }
}

#[test]
fn the_databases_password_is_not_shown() {
    let config = StoreConfig {
        url: "postgresql://kassa:hunter2@db/kassa".to_owned(),
        pool_size: 1,
    };
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_true_once_in_an_epoch_is_stored_once_in_every_part() {
    let database = Database::migrated().await;
    let mut superuser = database.superuser().await;
    kassa_migrations::add_parts(&mut superuser, 2)
        .await
        .expect("they are made");
    let store = database.store().await;
    for part in [0, 1] {
        for kind in ["ConfidenceReachedSafe", "SafetyLost"] {
            let fact = || {
                let mut decision = opening(&store, part);
                kind.clone_into(&mut decision.events[0].event_type);
                decision
            };
            let (first, mut second) = (fact(), fact());
            second.events[0].event_id = first.events[0].event_id;
            store.append(first).await.expect("it wins");
            let answer = store.append(second).await;
            assert!(
                matches!(answer, Err(AppendError::Refused(_))),
                "{kind} in part {part}: {answer:?}"
            );
        }
    }
}
