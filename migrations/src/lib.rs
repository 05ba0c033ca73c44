#![doc = include_str!("../README.md")]

use tokio_postgres::Client;

mod parts;

pub use parts::add_parts;

mod embedded {
    refinery::embed_migrations!("sql");
}

/// The schema that this build needs: the number of its newest step.
pub const NEEDED: i64 = 12;

/// Any number that no other program locks.
const LOCK: i64 = 0x006b_6173_7361;

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("the database does not answer as it should while it is migrated")]
    Database(#[from] tokio_postgres::Error),
    #[error("a step of the migration failed; nothing of it was kept")]
    Step(#[source] Box<refinery::Error>),
}

/// Brings the schema up to date; a second run, or a second node at the same time, finds nothing to do.
/// Returns the number of steps that were taken.
///
/// # Errors
/// [`MigrateError`]; steps that were taken stay, and a later run goes on from there.
pub async fn migrate(client: &mut Client) -> Result<usize, MigrateError> {
    // Another node may take its time; in front of traffic, a step never waits for long.
    client
        .batch_execute(&format!(
            "SET lock_timeout = '60s'; SELECT pg_advisory_lock({LOCK}); SET lock_timeout = '2s'"
        ))
        .await?;
    let result = embedded::migrations::runner().run_async(client).await;
    let unlocked = client
        .batch_execute(&format!("SELECT pg_advisory_unlock({LOCK}); RESET lock_timeout"))
        .await;
    // Why a step failed says more than that its connection is gone as well, and with it the lock.
    let report = result.map_err(|error| MigrateError::Step(Box::new(error)))?;
    unlocked?;
    for step in report.applied_migrations() {
        tracing::info!(step = %step, "migrated");
    }
    Ok(report.applied_migrations().len())
}

/// The number of the newest step that a database has; `None` where it was never migrated.
///
/// # Errors
/// When the database cannot be read.
pub async fn schema_version(client: &Client) -> Result<Option<i64>, tokio_postgres::Error> {
    let known = client
        .query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[])
        .await?;
    if !known.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client
        .query_one("SELECT max(version)::bigint FROM refinery_schema_history", &[])
        .await?;
    Ok(row.get(0))
}
