//! What does a projection hold at a position? Its rows as text that can be compared: in one snapshot, in the order of their
//! keys, without what differs between two builds of the same.

use futures::TryStreamExt as _;
use kassa_event_store::Store;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_postgres::IsolationLevel;
use tokio_util::sync::CancellationToken;

use crate::{
    projector::Projection,
    rebuild::{Building, RebuildError, failed, sweep},
};

/// Rows in one chunk: memory stays small, whatever the table.
const CHUNK: i32 = 500;

pub(crate) async fn dump<P: Projection>(
    projection: &P,
    store: &Store,
    part: i32,
    at: Option<i64>,
    stop: &CancellationToken,
    out: mpsc::Sender<Vec<u8>>,
) -> Result<(), RebuildError> {
    let Some(at) = at else {
        return rows::<P>(store, part, None, &out).await;
    };
    let head = store.head(part).await.map_err(failed::<P>)?;
    if at > head {
        return Err(RebuildError::BeyondTheEnd { asked: at, head });
    }
    let building = Building::begin(projection, store, part).await?;
    let built = building.up_to(at, stop).await;
    building.or_abandon(built).await?;
    let dumped = rows::<P>(store, part, Some((building.generation, at)), &out).await;
    building.abandon().await.map_err(failed::<P>)?;
    sweep::<P>(store, "generation = $1", building.generation, None).await?;
    dumped
}

/// Of a generation that stands at a position, or of the one that serves.
async fn rows<P: Projection>(
    store: &Store,
    part: i32,
    of: Option<(i32, i64)>,
    out: &mpsc::Sender<Vec<u8>>,
) -> Result<(), RebuildError> {
    let mut client = store.pool().get().await.map_err(failed::<P>)?;
    let snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(failed::<P>)?;
    // Whoever reads the dump may take his time; nothing is locked.
    snapshot
        .batch_execute("SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        .await
        .map_err(failed::<P>)?;
    let (generation, position) = match of {
        Some(of) => of,
        None => {
            let row = snapshot
                .query_one(
                    "SELECT generation, position FROM projections WHERE name = $1 AND part = $2",
                    &[&P::NAME, &part],
                )
                .await
                .map_err(failed::<P>)?;
            (row.get(0), row.get(1))
        }
    };
    let mut head = json!({ "projection": P::NAME, "position": format!("{part}-{position}") })
        .to_string()
        .into_bytes();
    head.push(b'\n');
    if out.send(head).await.is_err() {
        return Ok(());
    }
    for table in P::TABLES {
        // Keys in the order of their bytes, which is the same in every database.
        let sql = format!(
            "SELECT (to_jsonb(t) - 'generation')::text FROM {} AS t WHERE generation = $1 AND part = $2
              ORDER BY {}",
            table.name, table.key
        );
        let statement = snapshot.prepare(&sql).await.map_err(failed::<P>)?;
        let portal = snapshot
            .bind(&statement, &[&generation, &part])
            .await
            .map_err(failed::<P>)?;
        loop {
            let mut chunk = Vec::new();
            let mut found = std::pin::pin!(
                snapshot
                    .query_portal_raw(&portal, CHUNK)
                    .await
                    .map_err(failed::<P>)?
            );
            while let Some(row) = found.try_next().await.map_err(failed::<P>)? {
                chunk.extend_from_slice(row.get::<_, &str>(0).as_bytes());
                chunk.push(b'\n');
            }
            if chunk.is_empty() {
                break;
            }
            if out.send(chunk).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
