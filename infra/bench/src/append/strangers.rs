//! How fast is `postgres-es` as it is shipped? Its own table, through its own framework: load, decide, insert one by one,
//! commit; no command log, no positions.

use std::{collections::HashMap, sync::Arc, time::Instant};

use cqrs_es::{Aggregate, DomainEvent, event_sink::EventSink};
use postgres_es::{PostgresCqrs, postgres_cqrs};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;

use super::{
    slice::{Slice, Tally, Window, crowd},
    work::{Happened, Numbers},
};

/// As in that crate's `db/init.sql`.
const TABLE: &str = "CREATE TABLE events
(
    aggregate_type text                         NOT NULL,
    aggregate_id   text                         NOT NULL,
    sequence       bigint CHECK (sequence >= 0) NOT NULL,
    event_type     text                         NOT NULL,
    event_version  text                         NOT NULL,
    payload        json                         NOT NULL,
    metadata       json                         NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, sequence)
)";

#[derive(Debug, Default, Serialize, Deserialize)]
struct Order;

#[derive(Debug, thiserror::Error)]
#[error("nothing is refused here")]
struct Never;

impl DomainEvent for Happened {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    type Command = [Happened; 2];
    type Event = Happened;
    type Error = Never;
    type Services = ();

    async fn handle(
        &mut self,
        command: Self::Command,
        (): &Self::Services,
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        for event in command {
            sink.write(event, self).await;
        }
        Ok(())
    }

    fn apply(&mut self, _event: Self::Event) {}
}

pub(super) struct Strangers {
    url: String,
    pool: u32,
    cqrs: Arc<PostgresCqrs<Order>>,
    sqlx: sqlx::PgPool,
}

impl Strangers {
    pub(super) async fn new(url: String, pool: u32) -> anyhow::Result<Self> {
        let client = super::connect(&url).await?;
        client.batch_execute(TABLE).await?;
        let (cqrs, sqlx) = open(&url, pool).await?;
        Ok(Self {
            url,
            pool,
            cqrs,
            sqlx,
        })
    }

    pub(super) fn pool(&self) -> u32 {
        self.pool
    }

    /// Another number of connections.
    pub(super) async fn resize(&mut self, pool: u32) -> anyhow::Result<()> {
        self.sqlx.close().await;
        (self.cqrs, self.sqlx) = open(&self.url, pool).await?;
        self.pool = pool;
        Ok(())
    }

    pub(super) async fn slice(&self, callers: usize, window: Window) -> anyhow::Result<Slice> {
        crowd(callers, window, |_| {
            let cqrs = Arc::clone(&self.cqrs);
            async move {
                let (mut numbers, mut tally) = (Numbers::new(), Tally::default());
                while !window.is_over() {
                    let work = numbers.work();
                    let metadata: HashMap<String, String> = work
                        .metadata()
                        .into_iter()
                        .map(|(key, value)| (key.to_owned(), value))
                        .collect();
                    let asked = Instant::now();
                    cqrs.execute_with_metadata(&work.aggregate_id, work.events, metadata)
                        .await?;
                    tally.answered(window, asked, 1);
                }
                Ok(tally)
            }
        })
        .await
    }
}

async fn open(url: &str, pool: u32) -> anyhow::Result<(Arc<PostgresCqrs<Order>>, sqlx::PgPool)> {
    let sqlx = PgPoolOptions::new()
        .min_connections(pool)
        .max_connections(pool)
        .connect(url)
        .await?;
    Ok((Arc::new(postgres_cqrs(sqlx.clone(), vec![], ())), sqlx))
}
