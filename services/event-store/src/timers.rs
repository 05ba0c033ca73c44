//! What is due? Timers are written with the append that wants them; firing one is at least once.

use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    read::bound,
    store::{Store, StoreError, refused},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTimer {
    pub timer_id: Uuid,
    pub kind: String,
    pub stream_id: Uuid,
    pub payload: Vec<u8>,
    /// How often it has fired before.
    pub attempt: i32,
    pub due_at: Timestamp,
}

impl Store {
    /// Timers due at `now`, oldest first. Read without a lock: two that fire one timer meet at its attempt.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn due_timers(
        &self,
        part: i32,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DueTimer>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "SELECT timer_id, kind, stream_id, payload, attempt, due_at FROM timers
                  WHERE part = $1 AND due_at <= $2 ORDER BY due_at LIMIT $3",
            )
            .await
            .map_err(refused)?;
        let rows = client
            .query(&statement, &[&part, &now, &bound(limit)])
            .await
            .map_err(refused)?;
        Ok(rows
            .iter()
            .map(|row| DueTimer {
                timer_id: row.get(0),
                kind: row.get(1),
                stream_id: row.get(2),
                payload: row.get(3),
                attempt: row.get(4),
                due_at: row.get(5),
            })
            .collect())
    }

    /// Sets a fired timer to its next time; `false` when another was first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    pub async fn rearm_timer(
        &self,
        timer_id: Uuid,
        attempt: i32,
        due_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let changed = client
            .execute(
                "UPDATE timers SET attempt = attempt + 1, due_at = $3 WHERE timer_id = $1 AND attempt = $2",
                &[&timer_id, &attempt, &due_at],
            )
            .await
            .map_err(refused)?;
        Ok(changed == 1)
    }

    /// Removes a fired timer; `false` when another was first.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    pub async fn remove_timer(&self, timer_id: Uuid, attempt: i32) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached("DELETE FROM timers WHERE timer_id = $1 AND attempt = $2")
            .await
            .map_err(refused)?;
        let changed = client
            .execute(&statement, &[&timer_id, &attempt])
            .await
            .map_err(refused)?;
        Ok(changed == 1)
    }
}
