//! How far is each projection behind the log? As data, for the command line and for metrics.

use std::time::Duration;

use jiff::Timestamp;
use kassa_event_store::Store;

use crate::rebuild::LEASE_S;

/// A projection, and what it has not seen yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    pub projection: String,
    pub part: i32,
    /// Which of its builds serves.
    pub generation: i32,
    pub position: i64,
    /// Of the log.
    pub head: i64,
    /// How long the oldest event that it has not seen has waited; zero when there is none.
    pub age: Duration,
    pub build: Option<Build>,
}

/// A build that is to take over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub generation: i32,
    pub position: i64,
    pub started_at: Timestamp,
    /// False when nobody has worked at it for some time: its process is gone, and a rebuild may begin again.
    pub alive: bool,
}

impl Lag {
    /// Events that it has not seen.
    pub fn events(&self) -> i64 {
        (self.head - self.position).max(0)
    }
}

/// All projections, by name.
///
/// # Errors
/// When the database cannot be read.
pub async fn lag(store: &Store) -> anyhow::Result<Vec<Lag>> {
    let client = store.pool().get().await?;
    let statement = client
        .prepare_cached(
            "SELECT p.name, p.part, p.generation, p.position, h.position,
                    (SELECT e.recorded_at FROM events AS e WHERE e.part = p.part AND e.position = p.position + 1),
                    b.generation, b.position, b.started_at,
                    b.touched_at > clock_timestamp() - make_interval(secs => $1::bigint)
               FROM projections AS p
               JOIN log_head AS h ON h.part = p.part
               LEFT JOIN projection_builds AS b ON b.name = p.name AND b.part = p.part
              ORDER BY p.name, p.part",
        )
        .await?;
    let now = store.clock().now();
    let rows = client.query(&statement, &[&LEASE_S]).await?;
    let lags = rows.iter().map(|row| {
        let waiting: Option<Timestamp> = row.get(5);
        let age = waiting.map_or(Duration::ZERO, |since| {
            Duration::try_from(now.duration_since(since)).unwrap_or_default()
        });
        let building: Option<i32> = row.get(6);
        Lag {
            projection: row.get(0),
            part: row.get(1),
            generation: row.get(2),
            position: row.get(3),
            head: row.get(4),
            age,
            build: building.map(|generation| Build {
                generation,
                position: row.get(7),
                started_at: row.get(8),
                alive: row.get(9),
            }),
        }
    });
    Ok(lags.collect())
}
