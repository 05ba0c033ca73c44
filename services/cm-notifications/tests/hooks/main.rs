//! What can strangers, early notifications and a database that does not answer do to those who are real? Answers as such
//! are tested with the whole system.

mod server;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, task::JoinSet};

use crate::server::{Hook, SHOP, within};

/// More than are looked at in one sweep, several times over.
const STRANGERS: i64 = 5_000;
/// The bound that the README names.
const PARKED_MAX: i64 = 100_000;

async fn park(hook: &Hook, strangers: i64) {
    let sql = format!(
        "INSERT INTO notifications (shop, reference, state, first_at, last_at, count)
         SELECT '{SHOP}', 'stranger-' || n, 'parked', now(), now(), 1 FROM generate_series(1, {strangers}) AS n"
    );
    hook.superuser()
        .await
        .batch_execute(&sql)
        .await
        .expect("they are parked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_reference_is_found_however_many_strangers_came_after_it() {
    let hook = Hook::new().await;
    assert_eq!(hook.call("A-1").await, 200);
    park(&hook, STRANGERS).await;
    let order = hook.create("A-1").await;
    hook.until("SELECT count(*) FROM notifications WHERE state = 'known'", 1)
        .await;
    assert_eq!(hook.requests(order).await, 1);
    assert_eq!(
        hook.number("SELECT count FROM notifications WHERE reference = 'A-1'")
            .await,
        1,
        "our own look is not a notification"
    );
    assert_eq!(
        hook.number("SELECT count(*) FROM provider_reads").await,
        1,
        "strangers cost no read"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suffix_of_a_repeated_create_leads_to_the_shops_own_order() {
    let hook = Hook::new().await;
    let order = hook.create("A-1").await;
    assert_eq!(hook.call("A-1~2.1").await, 200);
    assert_eq!(hook.requests(order).await, 1);
    assert_eq!(hook.call("A-1").await, 200);
    assert_eq!(hook.requests(order).await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_bound_strangers_are_answered_and_not_kept_and_real_ones_are_kept() {
    let hook = Hook::new().await;
    let order = hook.create("A-1").await;
    park(&hook, PARKED_MAX).await;
    within("strangers are no longer kept", async {
        let mut n = 0;
        let kept = "SELECT count(*) FROM notifications WHERE reference LIKE 'late-%'";
        loop {
            n += 1;
            let before = hook.number(kept).await;
            assert_eq!(hook.call(&format!("late-{n}")).await, 200);
            if hook.number(kept).await == before {
                break;
            }
        }
    })
    .await;
    assert_eq!(hook.call("A-1").await, 200);
    assert_eq!(hook.requests(order).await, 1);
    // A row that is there already costs no place.
    assert_eq!(hook.call("stranger-1").await, 200);
    assert_eq!(
        hook.number("SELECT count FROM notifications WHERE reference = 'stranger-1'")
            .await,
        2
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_parked_for_an_hour_is_nobodys() {
    let hook = Hook::new().await;
    park(&hook, 3).await;
    hook.superuser()
        .await
        .batch_execute(
            "UPDATE notifications SET first_at = first_at - interval '61 minutes' WHERE reference = 'stranger-2'",
        )
        .await
        .expect("time passes");
    hook.until("SELECT count(*) FROM notifications", 2).await;
    assert_eq!(
        hook.number("SELECT count(*) FROM notifications WHERE reference = 'stranger-2'")
            .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_encoded_twice_and_a_body_without_a_length_that_is_too_long_are_refused() {
    let hook = Hook::new().await;
    for id in ["A%252D1", "A%250Ab", "%2525"] {
        assert_eq!(hook.call(id).await, 400, "{id}");
    }
    let chunk = "x".repeat(2_000);
    let chunked = format!(
        "POST /hooks/cm/{SHOP}?id=a HTTP/1.1\r\nHost: kassa\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         7d0\r\n{chunk}\r\n0\r\n\r\n"
    );
    assert_eq!(hook.send(&chunked).await, 413);
    assert_eq!(hook.number("SELECT count(*) FROM notifications").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_for_one_order_that_come_together_share_transactions_and_all_are_counted() {
    const CALLS: usize = 200;
    let hook = Hook::new().await;
    let order = hook.create("A-1").await;
    let mut callers = JoinSet::new();
    for _ in 0..CALLS {
        let address = hook.address;
        callers.spawn(async move { server::call(address, "A-1").await });
    }
    let answers = within("all are answered", callers.join_all()).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(
        hook.number("SELECT count FROM notifications").await,
        i64::try_from(CALLS).expect("few")
    );
    let transactions = hook.requests(order).await;
    assert!(
        (1..=100).contains(&transactions),
        "{transactions} transactions for {CALLS} calls"
    );
    // The place is given back: the next one is stored as well.
    assert_eq!(hook.call("A-1").await, 200);
    assert_eq!(hook.requests(order).await, transactions + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_do_not_keep_out_those_that_do() {
    let hook = Hook::new().await;
    let order = hook.create("A-1").await;
    let mut idle = Vec::new();
    // As many as the usual limit of open files lets one process hold at both ends.
    for _ in 0..300 {
        idle.push(TcpStream::connect(hook.address).await.expect("it listens"));
    }
    let began = Instant::now();
    assert_eq!(hook.call("A-1").await, 200);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(hook.requests(order).await, 1);
    drop(idle);
}

/// Runs processes again when the test ends in any way: the server could not stop otherwise.
struct Frozen(Vec<String>);

impl Frozen {
    fn new(pids: Vec<String>) -> Self {
        let frozen = Self(pids);
        frozen.signal("-STOP");
        frozen
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).args(&self.0).status();
        assert!(
            status.expect("kill is there").success(),
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
async fn while_the_database_hangs_cm_is_told_to_come_back() {
    let hook = Hook::new().await;
    assert_eq!(hook.call("A-1").await, 200);
    let client = hook.superuser().await;
    let rows = client
        .query(
            "SELECT pid::text FROM pg_stat_activity
              WHERE datname = current_database() AND pid <> pg_backend_pid()",
            &[],
        )
        .await
        .expect("it is told");
    let frozen = Frozen::new(rows.iter().map(|row| row.get(0)).collect());
    assert_eq!(hook.call("A-2").await, 503);
    drop(frozen);
    assert_eq!(hook.call("A-2").await, 200);
}
