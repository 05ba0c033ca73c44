//! How does an event become rows, once? A batch of events, the rows they change and the checkpoint are one transaction. Rows
//! belong to the generation that serves; when a rebuild has swapped it (`rebuild.rs`), the next batch goes to the new one.

use std::time::Duration;

use anyhow::Context as _;
use deadpool_postgres::Transaction;
use kassa_event_store::{Store, StoredEvent};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Events in one transaction: enough to make its commit cheap, few enough to stay short.
pub(crate) const BATCH: usize = 500;
/// How often it is looked for events even when no hint comes: hints may be lost.
const LOOK: Duration = Duration::from_millis(250);
/// After a batch, for more to gather: a transaction costs more than most of what is in it, and an order that changes five
/// times a second is written once or twice. Where little happens, who asks hardly notices.
const GATHER: Duration = Duration::from_millis(10);
const GATHER_BUSY: Duration = Duration::from_millis(60);
/// Events of one batch from which on it is busy: some hundred payments a minute.
const BUSY: i64 = 16;
/// Rows can be made again, and the checkpoint moves with them: what a crash of the server takes back is projected once more.
/// Not waiting for the disk spares appends, which do, that turn.
pub(crate) const NOT_WAITED_FOR: &str = "SET LOCAL synchronous_commit = off";

/// Rows of all generations, and in which order they are dumped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Unique in a generation.
    pub(crate) key: &'static str,
}

/// One family of rows that is made of events.
pub(crate) trait Projection: Send + Sync + 'static {
    const NAME: &'static str;
    const TABLES: &'static [Table];
    /// The stored event types that change rows; all of them where this is none. Only who reads years of events asks for
    /// less than everything.
    const EVENTS: Option<&'static [&'static str]>;

    /// Changes the rows of a generation as the events say, in order; rows of another are none of its business.
    fn apply(
        &self,
        transaction: &Transaction<'_>,
        generation: i32,
        events: &[StoredEvent],
    ) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Keeps a projection up to date until shutdown; tells `progress` how far it is.
pub(crate) async fn run<P: Projection>(
    projection: &P,
    store: &Store,
    part: i32,
    progress: &watch::Sender<i64>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut hints = store.hints();
    let mut known = None;
    loop {
        hints.mark_unchanged();
        let before = known;
        let (stands, full) = step(projection, store, part, known).await?;
        let Stands { position, .. } = stands;
        known = Some(stands);
        progress.send_replace(position);
        // Catching up may take minutes, and hints never end: neither may hold up the process's end.
        if shutdown.is_cancelled() {
            return Ok(());
        }
        if full {
            continue;
        }
        let came = before.map_or(0, |before| position - before.position);
        if came > 0 {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(if came > BUSY { GATHER_BUSY } else { GATHER }) => {}
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = hints.changed() => {}
            // Nothing came; where it stands is asked again. A crash of the server, or a restore, may have taken it back.
            () = tokio::time::sleep(LOOK) => known = None,
        }
    }
}

/// Where a projection stands, as it was last seen: another process may have moved it since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stands {
    pub(crate) position: i64,
    generation: i32,
}

/// One batch; where the projection stands after it, and whether there may be more. `known` is where it stood, if anybody has
/// looked.
pub(crate) async fn step<P: Projection>(
    projection: &P,
    store: &Store,
    part: i32,
    known: Option<Stands>,
) -> anyhow::Result<(Stands, bool)> {
    // Its connection goes back before the log is read on another: who holds one and waits for a second can wait for others
    // who do the same.
    let known = match known {
        Some(known) => known,
        None => look::<P>(store, part).await?,
    };
    let events = store.read_log(part, known.position, BATCH).await?;
    let Some(last) = events.last().map(|event| event.position) else {
        return Ok((known, false));
    };
    let mut client = store.pool().get().await?;
    let transaction = client.transaction().await?;
    transaction.batch_execute(NOT_WAITED_FOR).await?;
    let statement = transaction
        .prepare_cached(
            "SELECT position, generation FROM projections WHERE name = $1 AND part = $2 FOR UPDATE",
        )
        .await?;
    let row = transaction.query_one(&statement, &[&P::NAME, &part]).await?;
    let locked = Stands {
        position: row.get(0),
        generation: row.get(1),
    };
    if locked != known {
        // Another instance was here, or a rebuild: what was read may not fit any more.
        return Ok((locked, true));
    }
    projection.apply(&transaction, known.generation, &events).await?;
    let statement = transaction
        .prepare_cached("UPDATE projections SET position = $3 WHERE name = $1 AND part = $2")
        .await?;
    transaction.execute(&statement, &[&P::NAME, &part, &last]).await?;
    transaction.commit().await?;
    let stands = Stands {
        position: last,
        ..known
    };
    Ok((stands, events.len() == BATCH))
}

/// Reads where the projection stands; its row is made where there is none.
async fn look<P: Projection>(store: &Store, part: i32) -> anyhow::Result<Stands> {
    let client = store.pool().get().await?;
    let statement = client
        .prepare_cached("SELECT position, generation FROM projections WHERE name = $1 AND part = $2")
        .await?;
    let row = match client.query_opt(&statement, &[&P::NAME, &part]).await? {
        Some(row) => row,
        None => {
            client
                .execute(
                    "INSERT INTO projections (name, part, position) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING",
                    &[&P::NAME, &part],
                )
                .await?;
            client.query_one(&statement, &[&P::NAME, &part]).await?
        }
    };
    Ok(Stands {
        position: row.get(0),
        generation: row.get(1),
    })
}

/// What was stored, as one of the domain's events.
///
/// A provider's word may hold a NUL, which is JSON and which a row cannot keep: one odd answer would stop the projection for
/// all orders. It is shown as what it is, not a character. Before folding, so that a rebuild gives the same rows.
///
/// # Errors
/// When it is none, with its position.
pub(crate) fn read<E: DeserializeOwned>(stored: &StoredEvent) -> anyhow::Result<E> {
    let payload = &stored.payload[..];
    let event = if payload.windows(6).any(|six| six == br"\u0000") {
        serde_json::from_slice(payload)
            .map(without_nul)
            .and_then(serde_json::from_value)
    } else {
        serde_json::from_slice(payload)
    };
    event.with_context(|| {
        format!(
            "the {} at position {}-{} cannot be read: run a version that knows it",
            stored.event_type, stored.part, stored.position
        )
    })
}

fn without_nul(value: Value) -> Value {
    let plain = |text: String| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(text) => Value::String(plain(text)),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (plain(name), without_nul(value)))
            .collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_)) => other,
    }
}
