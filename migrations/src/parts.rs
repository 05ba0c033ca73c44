//! How is the log given more parts?

use tokio_postgres::Client;

/// Sees to it that parts `0..parts` are there, each with a table and a head of its own. No bucket is given to a new part:
/// nothing new goes there before somebody decides so, and the relay and the read models serve part 0 alone today.
///
/// # Errors
/// As the database says; nothing was made then.
pub async fn add_parts(client: &mut Client, parts: i32) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    for part in 1..parts {
        let leaf = format!("events_p{part}");
        transaction
            .batch_execute(&format!(
                "CREATE TABLE IF NOT EXISTS {leaf} PARTITION OF events FOR VALUES IN ({part});
                 CREATE UNIQUE INDEX IF NOT EXISTS {leaf}_stream ON {leaf} (stream_id, version);
                 CREATE UNIQUE INDEX IF NOT EXISTS {leaf}_epoch ON {leaf} (event_id)
                     WHERE event_type IN ('ConfidenceReachedSafe', 'SafetyLost');
                 INSERT INTO log_head VALUES ({part}, 0) ON CONFLICT (part) DO NOTHING"
            ))
            .await?;
    }
    transaction.commit().await
}
