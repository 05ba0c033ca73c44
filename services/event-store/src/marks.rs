//! How far has a worker with effects outside come? Kept in the database, so that a stream that was wiped and refilled is not
//! history worked again.

use crate::store::{Store, StoreError, refused};

impl Store {
    /// The position up to which everything is done; 0 for a new worker.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be read.
    pub async fn work_mark(&self, worker: &str, part: i32) -> Result<i64, StoreError> {
        let client = self.client().await?;
        let row = client
            .query_opt(
                "SELECT position FROM work_marks WHERE worker = $1 AND part = $2",
                &[&worker, &part],
            )
            .await
            .map_err(refused)?;
        Ok(row.map_or(0, |row| row.get(0)))
    }

    /// Moves the mark forward, never back.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    pub async fn advance_work_mark(&self, worker: &str, part: i32, position: i64) -> Result<(), StoreError> {
        let client = self.client().await?;
        client
            .execute(
                "INSERT INTO work_marks AS known VALUES ($1, $2, $3)
                 ON CONFLICT (worker, part) DO UPDATE SET position = greatest(known.position, excluded.position)",
                &[&worker, &part, &position],
            )
            .await
            .map_err(refused)?;
        Ok(())
    }
}
