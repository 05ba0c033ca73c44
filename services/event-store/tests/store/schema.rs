//! How does the schema get into a database, and what may the services' role do there?

use kassa_test_servers::connect;
use tokio_postgres::error::SqlState;

use crate::server::{Database, open, opening};

/// How many there are; a number may be missing where somebody reserved it and did not need it.
fn steps() -> i64 {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/sql");
    let files = std::fs::read_dir(folder).expect("the steps are there");
    i64::try_from(files.count()).expect("few")
}

#[tokio::test]
async fn a_second_migration_finds_nothing_to_do() {
    let database = Database::empty().await;
    let mut client = database.superuser().await;
    assert_eq!(
        kassa_migrations::schema_version(&client)
            .await
            .expect("it is read"),
        None
    );
    let first = kassa_migrations::migrate(&mut client)
        .await
        .expect("it is migrated");
    let second = kassa_migrations::migrate(&mut client)
        .await
        .expect("it is migrated");
    assert_eq!((i64::try_from(first).expect("few"), second), (steps(), 0));
    assert_eq!(
        kassa_migrations::schema_version(&client)
            .await
            .expect("it is read"),
        Some(kassa_migrations::NEEDED)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_that_migrate_at_once_each_step_is_taken_by_one() {
    let database = Database::empty().await;
    let (mut one, mut other) = (database.superuser().await, database.superuser().await);
    let (first, second) = tokio::join!(
        kassa_migrations::migrate(&mut one),
        kassa_migrations::migrate(&mut other)
    );
    let taken = first.expect("it is migrated") + second.expect("it is migrated");
    assert_eq!(i64::try_from(taken).expect("few"), steps());
}

/// On managed servers an administrator makes the role and lets the owner of the database act as it, but not pass it on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_an_administrator_made_gets_its_rights_too() {
    // The race for the role is over once another database has been migrated.
    let with_role = Database::migrated().await;
    let database = Database::empty().await;
    let owner = format!("owner_of_{}", database.name);
    with_role
        .superuser()
        .await
        .batch_execute(&format!(
            "CREATE ROLE {owner} LOGIN; GRANT kassa_app TO {owner}; ALTER DATABASE {} OWNER TO {owner}",
            database.name
        ))
        .await
        .expect("an administrator may");
    let url = database.url.replace("user=kassa", &format!("user={owner}"));
    kassa_migrations::migrate(&mut connect(&url).await)
        .await
        .expect("it is migrated");

    let store = open(&url).await;
    store
        .append(opening(&store, 0))
        .await
        .expect("the role may append");
    let client = store.pool().get().await.expect("a connection");
    let error = client
        .batch_execute("DELETE FROM events")
        .await
        .expect_err("the role may not change the log");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_are_migrated_at_once_all_let_the_role_work() {
    let databases = futures::future::join_all((0..6).map(|_| Database::migrated())).await;
    for database in databases {
        let store = database.store().await;
        store
            .append(opening(&store, 0))
            .await
            .expect("the role may append");
    }
}
