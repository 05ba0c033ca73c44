//! How does one process hear that another has appended? By NOTIFY, on a connection of its own that comes back. Never more
//! than a hint: what is lost here is found by looking.

use std::{sync::Weak, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::{
    clock::Clock,
    store::{address, read_offset},
};

/// Two counters that only ever go up.
#[derive(Debug, Clone)]
pub(crate) struct Bells {
    log: watch::Sender<u64>,
    reads: watch::Sender<u64>,
}

impl Bells {
    pub(crate) fn new() -> Self {
        Self {
            log: watch::Sender::new(0),
            reads: watch::Sender::new(0),
        }
    }

    pub(crate) fn ring(&self, log: bool, reads: bool) {
        if log {
            self.log.send_modify(|count| *count += 1);
        }
        if reads {
            self.reads.send_modify(|count| *count += 1);
        }
    }

    pub(crate) fn log(&self) -> watch::Receiver<u64> {
        self.log.subscribe()
    }

    pub(crate) fn reads(&self) -> watch::Receiver<u64> {
        self.reads.subscribe()
    }
}

/// Listens until the store is gone.
pub(crate) async fn listen(url: String, bells: Bells, clock: Clock, store: Weak<()>) {
    while store.upgrade().is_some() {
        if let Err(error) = session(&url, &bells, &clock, &store).await {
            tracing::debug!(%error, "hints are not heard; it is tried again");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn session(
    url: &str,
    bells: &Bells,
    clock: &Clock,
    store: &Weak<()>,
) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = address(url, "kassa hints")?.connect(NoTls).await?;
    let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context)).fuse();
    let setup = async {
        client
            .batch_execute("LISTEN kassa_log; LISTEN kassa_reads; LISTEN kassa_clock")
            .await?;
        read_offset(&client).await
    }
    .fuse();
    futures::pin_mut!(setup);
    let offset = loop {
        futures::select! {
            offset = setup => break offset?,
            message = messages.next() => match message {
                Some(message) => { message?; }
                None => return Ok(()),
            },
        }
    };
    clock.set_offset(offset);
    // Whatever happened while nobody listened.
    bells.ring(true, true);
    loop {
        let message = tokio::time::timeout(Duration::from_secs(1), messages.next()).await;
        match message {
            Err(_) if store.upgrade().is_none() => return Ok(()),
            Err(_) => {}
            Ok(None) => return Ok(()),
            Ok(Some(message)) => match message? {
                AsyncMessage::Notification(note) if note.channel() == "kassa_log" => bells.ring(true, false),
                AsyncMessage::Notification(note) if note.channel() == "kassa_reads" => {
                    bells.ring(false, true)
                }
                // The new offset is read by a new session: this one can only listen.
                AsyncMessage::Notification(_) => return Ok(()),
                _ => {}
            },
        }
    }
}
