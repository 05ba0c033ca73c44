//! One PostgreSQL for all tests of this binary, a database for each. It ends with the process.

use std::{future::Future, time::Duration};

use kassa_event_store::{Append, NewEvent, Store, StoreConfig, Touch};
use kassa_test_servers::connect;
use tokio_postgres::Client;
use uuid::Uuid;

/// A database of one test's own.
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Database {
    /// Without a schema.
    pub(crate) async fn empty() -> Self {
        let url = kassa_test_servers::empty_database().await;
        let client = connect(&url).await;
        let row = client.query_one("SELECT current_database()::text", &[]).await;
        let name = row.expect("it has a name").get(0);
        Self { name, url }
    }

    /// With the schema. Many are migrated at once here, so that they race for the role that all databases share.
    pub(crate) async fn migrated() -> Self {
        let database = Self::empty().await;
        kassa_migrations::migrate(&mut database.superuser().await)
            .await
            .expect("it is migrated");
        database
    }

    pub(crate) async fn superuser(&self) -> Client {
        connect(&self.url).await
    }

    pub(crate) async fn store(&self) -> Store {
        open(&self.url).await
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let row = self.superuser().await.query_one(sql, &[]).await.expect(sql);
        row.get(0)
    }
}

pub(crate) async fn open(url: &str) -> Store {
    let config = StoreConfig {
        url: url.to_owned(),
        pool_size: 4,
    };
    Store::connect(config).await.expect("the store opens")
}

/// A decision that opens a stream of its own with one event.
pub(crate) fn opening(store: &Store, part: i32) -> Append {
    let stream_id = Uuid::new_v4();
    Append {
        part,
        command_id: Uuid::new_v4(),
        fingerprint: vec![1],
        outcome: b"{}".to_vec(),
        touches: vec![Touch {
            stream_id,
            expected: 0,
        }],
        events: vec![NewEvent {
            stream_id,
            event_id: Uuid::new_v4(),
            shop: "demo-shop".to_owned(),
            aggregate_type: "order".to_owned(),
            aggregate_id: stream_id.to_string(),
            event_type: "OrderCreated".to_owned(),
            schema_version: 1,
            payload: b"{}".to_vec(),
            metadata: b"{}".to_vec(),
        }],
        timers: vec![],
        done_timers: vec![],
        vault: vec![],
        reads: vec![],
        recorded_at: store.clock().now(),
    }
}

/// Fails the test instead of hanging it.
pub(crate) async fn within<F: Future>(seconds: u64, what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(seconds), future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {seconds} s"),
    }
}
