//! How is a read model made anew while it is being read? Beside the one that serves, as rows of a new generation; when it has
//! all that the other has, one row is changed, and everybody reads and writes the new one. The old one's rows are deleted
//! afterwards.
//!
//! A process that dies on the way leaves rows that nobody reads, and a build that nobody touches any more. The next rebuild
//! takes its place, sweeps and begins again: a build that was begun by another version of the code is not gone on with.

use deadpool_postgres::Transaction;
use kassa_event_store::{Found, LogFilter, Store, StoreError, StoredEvent};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    PROJECTIONS,
    projector::{BATCH, NOT_WAITED_FOR, Projection},
};

/// Events in one transaction of a build: most of an order's events are in one, so its row is written once or twice. Nobody
/// waits for the rows; some ten megabytes are in memory.
const STEP: usize = 4_000;

/// Who does not touch its build for as long is gone: a batch takes a fraction of a second, and its statements ten at most.
pub(crate) const LEASE_S: i64 = 20;
/// Rows in one statement of a sweep: enough to get on, few enough to stay short.
const SWEEP: i64 = 5_000;

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("there is no projection {name:?}: known are {known}")]
    Unknown { name: String, known: String },
    #[error(
        "{name} is being built already (generation {generation}), or was until {idle_s} s ago: wait for it to end; one whose process is gone can be replaced {wait_s} s from now"
    )]
    Busy {
        name: &'static str,
        generation: i32,
        idle_s: i64,
        wait_s: i64,
    },
    #[error(
        "another process took over the build of {name} (generation {generation} is not its build any more): this one stood still for too long"
    )]
    TakenOver { name: &'static str, generation: i32 },
    #[error("position {asked} is beyond the end of the log, which is {head}")]
    BeyondTheEnd { asked: i64, head: i64 },
    #[error("stopped before it was done; the projection that served goes on serving")]
    Stopped,
    #[error("{name} could not be built; the projection that served goes on serving")]
    Failed {
        name: &'static str,
        #[source]
        source: anyhow::Error,
    },
}

impl RebuildError {
    pub(crate) fn unknown(name: &str) -> Self {
        Self::Unknown {
            name: name.to_owned(),
            known: PROJECTIONS.join(", "),
        }
    }
}

/// How far a build is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub generation: i32,
    pub position: i64,
    pub head: i64,
}

/// A build serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swapped {
    pub generation: i32,
    /// What it had when it began to serve.
    pub position: i64,
}

pub(crate) async fn rebuild<P: Projection>(
    projection: &P,
    store: &Store,
    part: i32,
    stop: &CancellationToken,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Swapped, RebuildError> {
    let building = Building::begin(projection, store, part).await?;
    let generation = building.generation;
    let swapped = building.to_the_swap(stop, tell).await;
    let position = building.or_abandon(swapped).await?;
    // It serves; what is left of others disturbs nobody, and a sweep that fails is made up for by the next.
    if let Err(error) = sweep::<P>(store, "generation < $1", generation, None).await {
        tracing::warn!(
            projection = P::NAME,
            error = format!("{error:#}"),
            "rows of replaced generations are left; the next rebuild deletes them"
        );
    }
    Ok(Swapped { generation, position })
}

/// Some of the log.
struct Page {
    events: Vec<StoredEvent>,
    /// Up to here everything that is wanted is in it, or was before.
    reached: i64,
    /// Where the log ended, or what was asked for did.
    end: i64,
}

/// A generation that is not served yet.
#[derive(Debug)]
pub(crate) struct Building<'a, P> {
    projection: &'a P,
    store: &'a Store,
    part: i32,
    pub(crate) generation: i32,
}

impl<'a, P: Projection> Building<'a, P> {
    /// Takes the one place there is for a build, and sweeps what builds before it have left.
    pub(crate) async fn begin(
        projection: &'a P,
        store: &'a Store,
        part: i32,
    ) -> Result<Building<'a, P>, RebuildError> {
        let generation = take_place::<P>(store, part).await?;
        let building = Building {
            projection,
            store,
            part,
            generation,
        };
        let swept = building.sweep_leftovers().await;
        building.or_abandon(swept).await?;
        Ok(building)
    }

    async fn sweep_leftovers(&self) -> Result<(), RebuildError> {
        let condition = format!(
            "generation < $1 AND generation <> (SELECT generation FROM projections WHERE name = '{}' AND part = {})",
            P::NAME,
            self.part
        );
        sweep::<P>(
            self.store,
            &condition,
            self.generation,
            Some((self.part, self.generation)),
        )
        .await
    }

    /// Everything up to the end of the log, however it grows meanwhile, and then the swap.
    async fn to_the_swap(
        &self,
        stop: &CancellationToken,
        tell: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<i64, RebuildError> {
        let mut reading = self.read(0, i64::MAX);
        loop {
            if stop.is_cancelled() {
                return Err(RebuildError::Stopped);
            }
            let page = self.page(reading).await?;
            // While these become rows, the next ones are read.
            reading = self.read(page.reached, i64::MAX);
            self.store_rows(&page).await?;
            tell(Progress {
                generation: self.generation,
                position: page.reached,
                head: page.end,
            });
            if page.reached >= page.end
                && let Some(swapped_at) = self.swap(page.reached).await?
            {
                return Ok(swapped_at);
            }
        }
    }

    /// Everything up to this position, and nothing after it.
    pub(crate) async fn up_to(&self, until: i64, stop: &CancellationToken) -> Result<(), RebuildError> {
        let mut position = 0;
        while position < until {
            if stop.is_cancelled() {
                return Err(RebuildError::Stopped);
            }
            let page = self.page(self.read(position, until)).await?;
            self.store_rows(&page).await?;
            position = page.reached;
        }
        Ok(())
    }

    /// Begins to read what comes after a position, up to another or the end of the log.
    fn read(&self, after: i64, until: i64) -> AbortOnDropHandle<Result<Page, StoreError>> {
        let (store, part) = (self.store.clone(), self.part);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let end = store.head(part).await?.min(until);
            let filter = LogFilter {
                part,
                only: P::EVENTS.map(|types| types.iter().map(|one| (*one).to_owned()).collect()),
                ..LogFilter::default()
            };
            let found = if after < end {
                store.find(&filter, after, end, STEP).await?
            } else {
                Found {
                    events: vec![],
                    looked_until: after,
                }
            };
            Ok(Page {
                events: found.events,
                reached: found.looked_until,
                end,
            })
        }))
    }

    async fn page(&self, reading: AbortOnDropHandle<Result<Page, StoreError>>) -> Result<Page, RebuildError> {
        reading.await.map_err(failed::<P>)?.map_err(failed::<P>)
    }

    async fn store_rows(&self, page: &Page) -> Result<(), RebuildError> {
        let mut client = self.store.pool().get().await.map_err(failed::<P>)?;
        let transaction = client.transaction().await.map_err(failed::<P>)?;
        // The swap waits for the disk, and so for all that was written before it.
        transaction
            .batch_execute(NOT_WAITED_FOR)
            .await
            .map_err(failed::<P>)?;
        touch::<P>(&transaction, self.part, self.generation, Some(page.reached)).await?;
        self.projection
            .apply(&transaction, self.generation, &page.events)
            .await
            .map_err(|source| RebuildError::Failed {
                name: P::NAME,
                source,
            })?;
        transaction.commit().await.map_err(failed::<P>)
    }

    /// From now on this generation serves, if it can be brought to where the other one is within a moment; else `None`.
    pub(crate) async fn swap(&self, position: i64) -> Result<Option<i64>, RebuildError> {
        let mut client = self.store.pool().get().await.map_err(failed::<P>)?;
        let transaction = client.transaction().await.map_err(failed::<P>)?;
        patient::<P>(&transaction).await?;
        touch::<P>(&transaction, self.part, self.generation, None).await?;
        let row = transaction
            .query_one(
                "SELECT position FROM projections WHERE name = $1 AND part = $2 FOR UPDATE",
                &[&P::NAME, &self.part],
            )
            .await
            .map_err(failed::<P>)?;
        let serving: i64 = row.get(0);
        // It stands still while its checkpoint is locked: what is missing now is all that is missing. Nobody who has read a
        // position finds the projection behind it afterwards.
        let missing = usize::try_from(serving - position).unwrap_or(0);
        if missing > BATCH {
            return Ok(None);
        }
        if missing > 0 {
            let events = Store::read_log_in(&*transaction, self.part, position, missing)
                .await
                .map_err(failed::<P>)?;
            self.projection
                .apply(&transaction, self.generation, &events)
                .await
                .map_err(|source| RebuildError::Failed {
                    name: P::NAME,
                    source,
                })?;
        }
        let reached = serving.max(position);
        transaction
            .execute(
                "UPDATE projections SET generation = $3, position = $4 WHERE name = $1 AND part = $2",
                &[&P::NAME, &self.part, &self.generation, &reached],
            )
            .await
            .map_err(failed::<P>)?;
        transaction
            .execute(
                "DELETE FROM projection_builds WHERE name = $1 AND part = $2",
                &[&P::NAME, &self.part],
            )
            .await
            .map_err(failed::<P>)?;
        transaction.commit().await.map_err(failed::<P>)?;
        Ok(Some(reached))
    }

    /// Passes a result on; after an error the place is free for the next.
    pub(crate) async fn or_abandon<T>(&self, result: Result<T, RebuildError>) -> Result<T, RebuildError> {
        if result.is_err()
            && let Err(error) = self.abandon().await
        {
            tracing::debug!(
                projection = P::NAME,
                error = format!("{error:#}"),
                "the place of a build was not freed; it frees itself after a while"
            );
        }
        result
    }

    /// Gives up the place; its rows are swept by the next.
    pub(crate) async fn abandon(&self) -> anyhow::Result<()> {
        self.store
            .pool()
            .get()
            .await?
            .execute(
                "DELETE FROM projection_builds WHERE name = $1 AND part = $2 AND generation = $3",
                &[&P::NAME, &self.part, &self.generation],
            )
            .await?;
        Ok(())
    }
}

/// Waits for the checkpoint longer than the projector keeps it for one batch, also on a busy machine.
async fn patient<P: Projection>(transaction: &Transaction<'_>) -> Result<(), RebuildError> {
    transaction
        .batch_execute("SET LOCAL lock_timeout = '8s'; SET LOCAL statement_timeout = '10s'")
        .await
        .map_err(failed::<P>)
}

/// The number of a new generation, which nobody else builds.
async fn take_place<P: Projection>(store: &Store, part: i32) -> Result<i32, RebuildError> {
    let mut client = store.pool().get().await.map_err(failed::<P>)?;
    let transaction = client.transaction().await.map_err(failed::<P>)?;
    patient::<P>(&transaction).await?;
    transaction
        .execute(
            "INSERT INTO projection_builds VALUES ($1, $2, 0, 0, clock_timestamp(), '-infinity') ON CONFLICT DO NOTHING",
            &[&P::NAME, &part],
        )
        .await
        .map_err(failed::<P>)?;
    let row = transaction
        .query_one(
            "SELECT generation, touched_at > clock_timestamp() - make_interval(secs => $3::bigint),
                    CASE WHEN isfinite(touched_at)
                         THEN extract(epoch FROM clock_timestamp() - touched_at)::bigint ELSE 0 END
               FROM projection_builds WHERE name = $1 AND part = $2 FOR UPDATE",
            &[&P::NAME, &part, &LEASE_S],
        )
        .await
        .map_err(failed::<P>)?;
    if row.get(1) {
        let idle_s: i64 = row.get(2);
        return Err(RebuildError::Busy {
            name: P::NAME,
            generation: row.get(0),
            idle_s,
            wait_s: (LEASE_S - idle_s).max(1),
        });
    }
    let row = transaction
        .query_one(
            "UPDATE projections SET generations_made = generations_made + 1 WHERE name = $1 AND part = $2
             RETURNING generations_made",
            &[&P::NAME, &part],
        )
        .await
        .map_err(failed::<P>)?;
    let generation: i32 = row.get(0);
    transaction
        .execute(
            "UPDATE projection_builds
                SET generation = $3, position = 0, started_at = clock_timestamp(), touched_at = clock_timestamp()
              WHERE name = $1 AND part = $2",
            &[&P::NAME, &part, &generation],
        )
        .await
        .map_err(failed::<P>)?;
    transaction.commit().await.map_err(failed::<P>)?;
    Ok(generation)
}

/// Says that this build lives, and how far it is; locks it, so that nobody takes over in this transaction.
async fn touch<P: Projection>(
    transaction: &Transaction<'_>,
    part: i32,
    generation: i32,
    position: Option<i64>,
) -> Result<(), RebuildError> {
    let touched = transaction
        .execute(
            "UPDATE projection_builds SET touched_at = clock_timestamp(), position = coalesce($4, position)
              WHERE name = $1 AND part = $2 AND generation = $3",
            &[&P::NAME, &part, &generation, &position],
        )
        .await
        .map_err(failed::<P>)?;
    if touched == 0 {
        return Err(RebuildError::TakenOver {
            name: P::NAME,
            generation,
        });
    }
    Ok(())
}

/// Deletes rows of generations, some at a time, keeping a build alive meanwhile.
pub(crate) async fn sweep<P: Projection>(
    store: &Store,
    condition: &str,
    generation: i32,
    alive: Option<(i32, i32)>,
) -> Result<(), RebuildError> {
    for table in P::TABLES {
        let name = table.name;
        let sql = format!(
            "DELETE FROM {name} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {name} WHERE {condition} LIMIT {SWEEP}))"
        );
        loop {
            let mut client = store.pool().get().await.map_err(failed::<P>)?;
            let transaction = client.transaction().await.map_err(failed::<P>)?;
            if let Some((part, building)) = alive {
                touch::<P>(&transaction, part, building, None).await?;
            }
            let deleted = transaction
                .execute(&sql, &[&generation])
                .await
                .map_err(failed::<P>)?;
            transaction.commit().await.map_err(failed::<P>)?;
            if deleted == 0 {
                break;
            }
        }
    }
    Ok(())
}

pub(crate) fn failed<P: Projection>(error: impl Into<anyhow::Error>) -> RebuildError {
    RebuildError::Failed {
        name: P::NAME,
        source: error.into(),
    }
}
