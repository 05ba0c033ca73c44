//! What is left when a rebuild ends halfway, and what does a projector do whose tables are swapped under it?

use tokio_util::sync::CancellationToken;

use super::{
    project,
    server::{Database, created, order, reported},
};
use crate::{
    PART, RebuildError,
    checkout::Checkout,
    projector,
    rebuild::{self, Building},
    shipping::Shipping,
};

/// Three orders with a report each.
async fn filled() -> Database {
    let database = Database::new(4).await;
    for reference in ["A-1", "A-2", "A-3"] {
        let events = [created(reference), reported(reference, "FAST")];
        database.append(order(reference), 0, &events).await;
    }
    assert_eq!(project(&Checkout, &database.store).await.expect("it goes on"), 6);
    database
}

async fn rebuilt(database: &Database) -> Result<i32, RebuildError> {
    let stop = CancellationToken::new();
    let swapped = rebuild::rebuild(&Checkout, &database.store, PART, &stop, &mut |_| {}).await?;
    Ok(swapped.generation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_dies_in_the_middle_of_a_rebuild_leaves_what_serves_alone_and_the_next_begins_again() {
    let database = filled().await;
    let dead = Building::begin(&Checkout, &database.store, PART)
        .await
        .expect("there is a place");
    dead.up_to(3, &CancellationToken::new())
        .await
        .expect("it is halfway");
    assert_eq!(
        database.number("SELECT count(*) FROM read_orders_all").await,
        3 + 2
    );
    assert_eq!(database.number("SELECT count(*) FROM read_orders").await, 3);
    let lag = crate::lag(&database.store).await.expect("it is told");
    let build = lag[0].build.as_ref().expect("a build is under way");
    assert_eq!((build.generation, build.position, build.alive), (2, 3, true));

    // Nobody knows yet that it is dead.
    let refused = rebuilt(&database).await.expect_err("one at a time");
    assert!(
        matches!(refused, RebuildError::Busy { generation: 2, .. }),
        "{refused}"
    );
    // Another projection is another matter.
    let stop = CancellationToken::new();
    rebuild::rebuild(&Shipping, &database.store, PART, &stop, &mut |_| {})
        .await
        .expect("it is rebuilt");

    database
        .run("UPDATE projection_builds SET touched_at = touched_at - interval '1 hour'")
        .await;
    let lag = crate::lag(&database.store).await.expect("it is told");
    assert!(!lag[0].build.as_ref().expect("it is still there").alive);
    assert_eq!(rebuilt(&database).await.expect("it takes the place"), 3);
    assert_eq!(database.number("SELECT count(*) FROM read_orders").await, 3);
    assert_eq!(database.number("SELECT count(*) FROM read_orders_all").await, 3);
    // It only stood still, and wakes up.
    let late = dead
        .up_to(6, &CancellationToken::new())
        .await
        .expect_err("its place is gone");
    assert!(
        matches!(late, RebuildError::TakenOver { generation: 2, .. }),
        "{late}"
    );
    assert_eq!(database.number("SELECT count(*) FROM read_orders_all").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_projector_goes_on_in_the_generation_that_serves() {
    let database = filled().await;
    // Events that only the rebuild has seen, and then some that nobody has.
    database.append(order("A-4"), 0, &[created("A-4")]).await;
    assert_eq!(rebuilt(&database).await.expect("it is rebuilt"), 2);
    assert_eq!(database.number("SELECT count(*) FROM read_orders").await, 4);
    database.append(order("A-5"), 0, &[created("A-5")]).await;
    assert_eq!(project(&Checkout, &database.store).await.expect("it goes on"), 8);
    assert_eq!(database.number("SELECT count(*) FROM read_orders").await, 5);
    assert_eq!(database.number("SELECT count(*) FROM read_orders_all").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_projector_did_between_the_last_look_and_the_swap_is_not_missing() {
    let database = filled().await;
    let building = Building::begin(&Checkout, &database.store, PART)
        .await
        .expect("there is a place");
    building
        .up_to(5, &CancellationToken::new())
        .await
        .expect("it is built");
    // The projector is one event ahead, as under load.
    let swapped_at = building.swap(5).await.expect("it is swapped");
    assert_eq!(swapped_at, Some(6));
    assert_eq!(
        database
            .number("SELECT count(*) FROM read_orders WHERE position = 6 AND generation = 2")
            .await,
        1
    );
    let (stands, full) = projector::step(&Checkout, &database.store, PART, None)
        .await
        .expect("it goes on");
    assert_eq!((stands.position, full), (6, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_42_a_rebuild_touches_no_table_but_its_own() {
    let database = filled().await;
    // A fingerprint of all that is in each table of others.
    let prints = async || {
        let mut all = Vec::new();
        for table in [
            "events",
            "log_head",
            "streams",
            "buckets",
            "command_log",
            "timers",
            "clock",
            "provider_reads",
            "shoppers",
            "notifications",
            "work_marks",
            "read_shipping_all",
        ] {
            // xmin changes with every write, also with one that changes nothing.
            let sql = format!(
                "SELECT hashtextextended(coalesce(string_agg(t.xmin::text || t::text, ',' ORDER BY t::text), ''), 0) FROM {table} AS t"
            );
            all.push((table, database.number(&sql).await));
        }
        all
    };
    let before = prints().await;
    assert_eq!(rebuilt(&database).await.expect("it is rebuilt"), 2);
    assert_eq!(prints().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_that_is_stopped_frees_its_place() {
    let database = filled().await;
    let stop = CancellationToken::new();
    stop.cancel();
    let ended = rebuild::rebuild(&Checkout, &database.store, PART, &stop, &mut |_| {}).await;
    assert!(matches!(ended, Err(RebuildError::Stopped)));
    assert_eq!(database.number("SELECT count(*) FROM projection_builds").await, 0);
    assert_eq!(rebuilt(&database).await.expect("there is a place"), 3);
    // One connection is enough for all of it.
    let narrow = database.narrow().await;
    rebuild::rebuild(&Checkout, &narrow, PART, &CancellationToken::new(), &mut |_| {})
        .await
        .expect("it is rebuilt");
}
