//! How is the log read back? By stream and version, by part and position, by command.

use jiff::Timestamp;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::{
    append::Touch,
    store::{Store, StoreError, refused},
};

/// An event with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    pub part: i32,
    pub position: i64,
    pub stream_id: Uuid,
    pub version: i64,
    pub event_id: Uuid,
    pub shop: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub event_type: String,
    pub schema_version: i16,
    /// The exact bytes that were appended.
    pub payload: Vec<u8>,
    pub metadata: Vec<u8>,
    pub recorded_at: Timestamp,
}

/// What was decided for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedCommand {
    pub fingerprint: Vec<u8>,
    pub outcome: Vec<u8>,
    pub position: i64,
}

pub(crate) const COLUMNS: &str = "part, position, stream_id, version, event_id, shop, aggregate_type, aggregate_id, event_type, \
     schema_version, payload, metadata, recorded_at";

impl Store {
    /// Events of one stream after a version, in order, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn read_stream(
        &self,
        stream: Uuid,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let client = self.client().await?;
        let sql = format!(
            "SELECT {COLUMNS} FROM events WHERE stream_id = $1 AND version > $2 ORDER BY version LIMIT $3"
        );
        let statement = client.prepare_cached(&sql).await.map_err(refused)?;
        let rows = client
            .query(&statement, &[&stream, &after, &bound(limit)])
            .await
            .map_err(refused)?;
        Ok(rows.iter().map(stored).collect())
    }

    /// Events of one part after a position, in order, at most `limit`. What it does not return is not committed yet and
    /// will have a higher position.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn read_log(
        &self,
        part: i32,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(&log_query()).await.map_err(refused)?;
        let rows = client
            .query(&statement, &[&part, &after, &bound(limit)])
            .await
            .map_err(refused)?;
        Ok(rows.iter().map(stored).collect())
    }

    /// The same on a connection that is at hand: who holds one should not wait for a second.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn read_log_in(
        client: &impl GenericClient,
        part: i32,
        after: i64,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let rows = client
            .query(&log_query(), &[&part, &after, &bound(limit)])
            .await
            .map_err(refused)?;
        Ok(rows.iter().map(stored).collect())
    }

    /// The stream's version; `None` where there is no such stream.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn stream_version(&self, stream: Uuid) -> Result<Option<i64>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("SELECT version FROM streams WHERE stream_id = $1")
            .await
            .map_err(refused)?;
        let row = client.query_opt(&statement, &[&stream]).await.map_err(refused)?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The highest position of a part, if these streams still have the versions that a decision was made on: for one that has
    /// nothing to write.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn head_if_current(&self, part: i32, touches: &[Touch]) -> Result<Option<i64>, StoreError> {
        let (streams, expected): (Vec<_>, Vec<_>) = touches
            .iter()
            .map(|touch| (touch.stream_id, touch.expected))
            .unzip();
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT position FROM log_head
                  WHERE part = $1 AND NOT EXISTS (
                     SELECT FROM unnest($2::uuid[], $3::bigint[]) AS seen(stream_id, expected)
                       LEFT JOIN streams AS s USING (stream_id)
                      WHERE coalesce(s.version, 0) <> seen.expected)",
            )
            .await
            .map_err(refused)?;
        let row = client
            .query_opt(&statement, &[&part, &streams, &expected])
            .await
            .map_err(refused)?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The highest position of a part; 0 while it is empty.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn head(&self, part: i32) -> Result<i64, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("SELECT position FROM log_head WHERE part = $1")
            .await
            .map_err(refused)?;
        let row = client.query_opt(&statement, &[&part]).await.map_err(refused)?;
        Ok(row.map_or(0, |row| row.get(0)))
    }

    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn command(&self, id: Uuid) -> Result<Option<LoggedCommand>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("SELECT fingerprint, outcome, position FROM command_log WHERE command_id = $1")
            .await
            .map_err(refused)?;
        let row = client.query_opt(&statement, &[&id]).await.map_err(refused)?;
        Ok(row.map(|row| LoggedCommand {
            fingerprint: row.get(0),
            outcome: row.get(1),
            position: row.get(2),
        }))
    }

    /// A person's data from the vault, as it was stored; `None` once erased.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn shopper(&self, shopper_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("SELECT data FROM shoppers WHERE shopper_id = $1")
            .await
            .map_err(refused)?;
        let row = client
            .query_opt(&statement, &[&shopper_id])
            .await
            .map_err(refused)?;
        Ok(row.map(|row| row.get(0)))
    }
}

fn log_query() -> String {
    format!("SELECT {COLUMNS} FROM events WHERE part = $1 AND position > $2 ORDER BY position LIMIT $3")
}

pub(crate) fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(crate) fn stored(row: &Row) -> StoredEvent {
    StoredEvent {
        part: row.get(0),
        position: row.get(1),
        stream_id: row.get(2),
        version: row.get(3),
        event_id: row.get(4),
        shop: row.get(5),
        aggregate_type: row.get(6),
        aggregate_id: row.get(7),
        event_type: row.get(8),
        schema_version: row.get(9),
        payload: row.get(10),
        metadata: row.get(11),
        recorded_at: row.get(12),
    }
}
