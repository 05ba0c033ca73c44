//! How far is a projection that another process keeps? Read from its checkpoint, so that questions can be answered by a
//! process that projects nothing itself.

use std::time::Duration;

use kassa_event_store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often it is looked while the projection is behind the log: somebody waits for what he has just written.
const LOOK_BEHIND: Duration = Duration::from_millis(20);
/// How often it is looked at all: hints may be lost.
const LOOK: Duration = Duration::from_millis(250);

/// Tells `progress` where the projection `name` stands, until shutdown.
pub(crate) async fn follow(
    store: &Store,
    name: &str,
    part: i32,
    progress: &watch::Sender<i64>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut hints = store.hints();
    while !shutdown.is_cancelled() {
        hints.mark_unchanged();
        let (position, head) = look(store, name, part).await?;
        progress.send_if_modified(|known| std::mem::replace(known, position) != position);
        let pause = if position < head { LOOK_BEHIND } else { LOOK };
        tokio::select! {
            () = shutdown.cancelled() => {}
            // A hint says that the log has grown. While the projection works on that, only looking tells.
            _ = hints.changed(), if position >= head => {
                // The projection lets more gather before it works: looking sooner would see nothing.
                tokio::time::sleep(LOOK_BEHIND).await;
            }
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}

/// The projection's position and the log's.
async fn look(store: &Store, name: &str, part: i32) -> anyhow::Result<(i64, i64)> {
    let client = store.pool().get().await?;
    let statement = client
        .prepare_cached(
            "SELECT coalesce((SELECT position FROM projections WHERE name = $1 AND part = $2), 0),
                    coalesce((SELECT position FROM log_head WHERE part = $2), 0)",
        )
        .await?;
    let row = client.query_one(&statement, &[&name, &part]).await?;
    Ok((row.get(0), row.get(1)))
}
