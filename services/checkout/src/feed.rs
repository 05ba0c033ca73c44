//! What has just been stored? The tail of the log is read and translated once, for all live streams together. Who falls
//! behind what is kept here reads the log himself.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kassa_chassis::supervise::keep_running;
use kassa_event_store::Store;
use kassa_events_schema::Envelope;
use kassa_relay::Translator;
use tokio::sync::{Mutex, broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::PART;

/// Events that a stream may be behind before it has to read the log: some seconds of a busy day, some megabytes.
const KEPT: usize = 4_096;
/// Events read at once.
const STEP: usize = 500;
/// How often it is looked even when no hint comes: hints may be lost.
const LOOK: Duration = Duration::from_millis(250);
/// Before the end of the log was looked for.
const NOWHERE: i64 = -1;

/// One event that others may see.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) position: i64,
    pub(crate) envelope: Envelope,
}

#[derive(Debug)]
pub(crate) struct Feed {
    translator: Mutex<Translator>,
    told: broadcast::Sender<Arc<Told>>,
    position: watch::Sender<i64>,
}

impl Feed {
    pub(crate) fn new(store: Store, live: BTreeSet<String>) -> Self {
        Self {
            translator: Mutex::new(Translator::new(store, live)),
            told: broadcast::Sender::new(KEPT),
            position: watch::Sender::new(NOWHERE),
        }
    }

    /// Reads on until shutdown.
    pub(crate) async fn run(&self, store: &Store, shutdown: &CancellationToken) {
        keep_running("event feed", shutdown, || self.follow(store, shutdown)).await;
    }

    /// What is told from now on, and the position up to which it is not told here: read that from the log.
    pub(crate) async fn join(&self) -> (broadcast::Receiver<Arc<Told>>, i64) {
        let receiver = self.told.subscribe();
        // After subscribing, and the feed moves its position before it tells: nothing lies between the two.
        let mut position = self.position.subscribe();
        let at = position.wait_for(|at| *at != NOWHERE).await.map_or(0, |at| *at);
        (receiver, at)
    }

    async fn follow(&self, store: &Store, shutdown: &CancellationToken) -> anyhow::Result<()> {
        let mut at = *self.position.borrow();
        if at == NOWHERE {
            at = store.head(PART).await?;
            self.position.send_replace(at);
        }
        let mut translator = self.translator.lock().await;
        let mut hints = store.hints();
        while !shutdown.is_cancelled() {
            hints.mark_unchanged();
            let events = store.read_log(PART, at, STEP).await?;
            for stored in &events {
                // One that cannot be read stops the feed, as it stops the relay: passing over it would be a hole.
                let envelope = translator.envelope(stored).await?;
                at = stored.position;
                self.position.send_replace(at);
                if !envelope.is_internal() {
                    // Nobody may be listening.
                    let _ = self.told.send(Arc::new(Told {
                        position: at,
                        envelope,
                    }));
                }
            }
            if events.len() < STEP {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = hints.changed() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        }
        Ok(())
    }
}
