//! What do the projections do with what should not be, and what is a shop told meanwhile? That they are rebuilt as they
//! were, also by two at once, is tested with the whole system.

mod rebuild;
mod server;

use kassa_chassis::{
    config::{Cm, Config, Mode, Shop},
    micro::Asked,
};
use kassa_event_store::Store;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::server::{Database, SHOP, created, lost, order, reported, safe};
use crate::{
    PART,
    checkout::Checkout,
    projector::{self, Projection},
    queries::{self, Queries, STATUSES},
    shipping::Shipping,
};

/// One shop; nothing is called in these tests.
fn config() -> Config {
    let mut config = Config::default();
    let cm = Cm {
        mode: Mode::Sim,
        rest_url: "http://127.0.0.1:9".to_owned(),
        account: String::new(),
        password: None,
        password_file: None,
        merchant_key: String::new(),
        timeout: jiff::SignedDuration::from_secs(1),
    };
    let shop = Shop {
        cm,
        return_url_origins: vec![],
    };
    config.shops.insert(SHOP.to_owned(), shop);
    config
}

/// As `get_order` answers: the document, or the problem's status and code.
async fn get_order(store: &Store, projected: i64, body: &str) -> Result<Value, (u16, String)> {
    ask(store, projected, "get_order", body).await
}

async fn ask(store: &Store, projected: i64, verb: &str, body: &str) -> Result<Value, (u16, String)> {
    let (_keep, progress) = watch::channel(projected);
    let queries = Queries::new(&config(), store.clone(), progress, CancellationToken::new());
    let asked = Asked {
        shop: SHOP.to_owned(),
        verb: verb.to_owned(),
        headers: None,
        body: body.to_owned().into_bytes().into(),
    };
    match queries.answer(&asked).await.result {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).expect("a document is JSON")),
        Err(problem) => Err((problem.status, problem.code)),
    }
}

/// Until there is nothing more; where the projection stands then.
async fn project<P: Projection>(projection: &P, store: &Store) -> anyhow::Result<i64> {
    loop {
        if let (stands, false) = projector::step(projection, store, PART, None).await? {
            return Ok(stands.position);
        }
    }
}

fn by_reference(reference: &str) -> String {
    format!(r#"{{"order_reference":"{reference}"}}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_character_that_the_database_cannot_keep_stops_no_ones_orders() {
    let database = Database::new(4).await;
    let events = [created("A-1"), reported("A-1", "SA\0FE \\u0000")];
    database.append(order("A-1"), 0, &events).await;
    database.append(order("A-2"), 0, &[created("A-2")]).await;
    let position = project(&Checkout, &database.store).await.expect("it goes on");
    assert_eq!(position, 3);
    let document = get_order(&database.store, position, &by_reference("A-1"))
        .await
        .expect("it is there");
    assert_eq!(document["safe"]["reasons"][0]["level"], "SA\u{fffd}FE \\u0000");
    assert!(
        get_order(&database.store, position, &by_reference("A-2"))
            .await
            .is_ok()
    );
    // Folded on from what was stored, as from zero.
    database.append(order("A-1"), 2, &[reported("A-1", "\0")]).await;
    assert_eq!(project(&Checkout, &database.store).await.expect("it goes on"), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_be_applied_leaves_neither_rows_nor_a_checkpoint() {
    let database = Database::new(4).await;
    database.append(order("A-1"), 0, &[created("A-1")]).await;
    assert_eq!(project(&Checkout, &database.store).await.expect("it goes on"), 1);
    database.append(order("A-2"), 0, &[created("A-2")]).await;
    let unreadable = vec![("OrderCreated".to_owned(), b"{}".to_vec())];
    database.append_bytes(order("A-3"), 0, unreadable).await;
    let error = projector::step(&Checkout, &database.store, PART, None)
        .await
        .expect_err("it is not an event");
    assert!(
        format!("{error:#}").contains("0-3"),
        "the place is not told: {error:#}"
    );
    assert_eq!(database.number("SELECT count(*) FROM read_orders").await, 1);
    assert_eq!(
        database
            .number("SELECT position FROM projections WHERE name = 'checkout'")
            .await,
        1
    );
    // Another projection does not need it, and goes on.
    assert_eq!(project(&Shipping, &database.store).await.expect("it goes on"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_07_a_projector_that_another_overtook_does_not_go_back() {
    let database = Database::new(4).await;
    database.append(order("A-1"), 0, &[created("A-1")]).await;
    assert_eq!(project(&Checkout, &database.store).await.expect("it goes on"), 1);
    database.append(order("A-2"), 0, &[created("A-2")]).await;
    // The other one has the checkpoint while this one has read what comes after it.
    let mut other = database.store.pool().get().await.expect("a connection");
    let transaction = other.transaction().await.expect("it begins");
    transaction
        .execute("SELECT FROM projections WHERE name = 'checkout' FOR UPDATE", &[])
        .await
        .expect("it is free");
    let store = database.store.clone();
    let slow = tokio::spawn(async move { projector::step(&Checkout, &store, PART, None).await });
    database
        .until(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            1,
        )
        .await;
    database
        .append(
            order("A-2"),
            1,
            &[reported("A-2", "FAST"), reported("A-2", "SAFE")],
        )
        .await;
    let events = database.store.read_log(PART, 1, 10).await.expect("it is read");
    Checkout
        .apply(&transaction, 1, &events)
        .await
        .expect("it applies");
    transaction
        .execute("UPDATE projections SET position = 4 WHERE name = 'checkout'", &[])
        .await
        .expect("it moves");
    transaction.commit().await.expect("it is committed");
    let (stands, full) = slow.await.expect("it does not panic").expect("it goes on");
    assert_eq!(
        (stands.position, full),
        (4, true),
        "it looks again, from where the other has come to"
    );
    assert_eq!(
        database
            .number("SELECT position FROM projections WHERE name = 'checkout'")
            .await,
        4
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_is_stored_and_not_yet_projected_is_not_called_unknown() {
    let database = Database::new(4).await;
    database.append(order("A-1"), 0, &[created("A-1")]).await;
    let (status, code) = get_order(&database.store, 0, &by_reference("A-1"))
        .await
        .expect_err("nothing was projected");
    assert_eq!((status, code.as_str()), (503, "store_unavailable"));
    let position = project(&Checkout, &database.store).await.expect("it goes on");
    assert!(
        get_order(&database.store, position, &by_reference("A-1"))
            .await
            .is_ok()
    );
    for nobodys in [
        by_reference("A-2"),
        r#"{"order_id":"x"}"#.to_owned(),
        format!(r#"{{"order_id":"{}"}}"#, order("A-2")),
    ] {
        let (status, code) = get_order(&database.store, position, &nobodys)
            .await
            .expect_err("it is nobody's");
        assert_eq!((status, code.as_str()), (404, "not_found"), "{nobodys}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_lost_its_safety_is_not_called_safe() {
    let database = Database::new(4).await;
    let store = &database.store;
    database.append(order("A-1"), 0, &[created("A-1"), safe()]).await;
    let safe_at = project(&Checkout, store).await.expect("it goes on");
    let one = by_reference("A-1");
    let from_there = format!(r#"{{"order_reference":"A-1","min_position":"0-{safe_at}"}}"#);
    let questions = [
        ("get_order", one.as_str()),
        ("get_order", from_there.as_str()),
        ("explain_order", one.as_str()),
        ("list_orders", "{}"),
    ];
    for (verb, body) in questions {
        let told = ask(store, safe_at, verb, body).await.expect("all is known");
        assert!(told.to_string().contains(r#""yes""#), "{verb}: {told}");
    }
    database.append(order("A-1"), 2, &[lost()]).await;
    for (verb, body) in questions {
        let (status, code) = ask(store, safe_at, verb, body)
            .await
            .expect_err("its end is not projected");
        assert_eq!(
            (status, code.as_str()),
            (503, "store_unavailable"),
            "{verb} {body}"
        );
    }
    let lost_at = project(&Checkout, store).await.expect("it goes on");
    // Behind again, and with nothing in it that anyone would ship: late is better than none.
    database.append(order("A-2"), 0, &[created("A-2")]).await;
    for (verb, body) in questions {
        let told = ask(store, lost_at, verb, body).await.expect("late, and told");
        assert!(told.to_string().contains(r#""lost""#), "{verb}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_is_enough() {
    let database = Database::new(1).await;
    database.append(order("A-1"), 0, &[created("A-1")]).await;
    assert_eq!(project(&Checkout, &database.store).await.expect("it goes on"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_does_not_wait_for_the_whole_log() {
    let database = Database::new(4).await;
    for n in 0..3 {
        let reference = format!("A-{n}");
        let mut events = vec![created(&reference)];
        events.extend((0..199).map(|_| reported(&reference, "FAST")));
        database.append(order(&reference), 0, &events).await;
    }
    let stop = CancellationToken::new();
    stop.cancel();
    let (progress, reached) = watch::channel(0);
    projector::run(&Checkout, &database.store, PART, &progress, &stop)
        .await
        .expect("it ends well");
    let reached = *reached.borrow();
    assert!(
        reached < 600,
        "all {reached} events were projected after the shutdown"
    );
}

#[tokio::test]
async fn the_few_orders_that_are_not_paid_are_found_by_an_index_of_their_own() {
    let database = Database::new(2).await;
    let client = database.store.pool().get().await.expect("it is there");
    // With so few rows any way is fast; without these it would look at all of them, or sort.
    client
        .batch_execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        .await
        .expect("they are set");
    for status in STATUSES {
        let sql = queries::list(Some(status))
            .replace("$1", "'demo-shop'")
            .replace("$2", "NULL")
            .replace("$3", "NULL")
            .replace("$4", "51");
        let plan = client
            .query(&format!("EXPLAIN {sql}"), &[])
            .await
            .expect("it is planned");
        let plan: Vec<&str> = plan.iter().map(|row| row.get(0)).collect();
        let by_it = plan.iter().any(|line| line.contains("read_orders_all_not_paid"));
        assert_eq!(by_it, status != "paid", "{status}: {plan:#?}");
    }
}
