//! How does the log read for who knows `postgres-es`? As its repository expects it: in the schema `postgres_es`, found by
//! search path. For reading only: who writes decides, and that is the engine. Two things to know about that crate: its replay
//! goes by version within an aggregate, not by time, and its snapshots apply events twice, so use neither for money.

use cqrs_es::{
    Aggregate, EventEnvelope, EventStore as _,
    persist::{PersistedEventRepository as _, PersistedEventStore},
};
use postgres_es::PostgresEventRepository;
use sqlx::{
    Pool, Postgres,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// Read by one caller at a time; a stream takes one connection, and a look beside it another.
const CONNECTIONS: u32 = 2;

/// The log behind a database's address.
pub(crate) async fn open(database_url: &str) -> anyhow::Result<Pool<Postgres>> {
    let options: PgConnectOptions = database_url.parse()?;
    let options = options.options([("search_path", "postgres_es")]);
    Ok(PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .connect_with(options)
        .await?)
}

/// One aggregate's events, from the first.
pub(crate) async fn history<A: Aggregate>(
    log: &Pool<Postgres>,
    id: &str,
) -> anyhow::Result<Vec<EventEnvelope<A>>> {
    let repository = PostgresEventRepository::new(log.clone());
    let store = PersistedEventStore::<_, A>::new_event_store(repository);
    store
        .load_events(id)
        .await
        .map_err(|error| anyhow::anyhow!("the events of {id} cannot be read: {error:?}"))
}

/// Every event of a kind of aggregate, one after the other, however many there are.
pub(crate) async fn replay<A: Aggregate>(
    log: &Pool<Postgres>,
    mut each: impl FnMut(EventEnvelope<A>),
) -> anyhow::Result<()> {
    let mut events = PostgresEventRepository::new(log.clone())
        .stream_all_events::<A>()
        .await?;
    while let Some(event) = events.next::<A>(&[]).await {
        each(event?);
    }
    Ok(())
}
