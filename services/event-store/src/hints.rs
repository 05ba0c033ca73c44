//! How does one process hear that another has appended? By NOTIFY, on a connection of its own that comes back. Never more
//! than a hint: what is lost here is found by looking.
//!
//! A hint names the streams that were written, so that who waits for one of them does not look whenever anything happens:
//! a hundred shoppers who wait for their redirects would read the log a hundred times an append.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::{Notify, mpsc, watch};
use tokio_postgres::{AsyncMessage, NoTls};
use uuid::Uuid;

use crate::{
    batcher::Waiting,
    clock::Clock,
    store::{address, read_offset},
};

/// Streams that one hint names; the server takes 8,000 bytes. One that would name more names none, and everybody looks.
const NAMED_MAX: usize = 200;

/// Two counters that only ever go up, and who waits for which stream.
#[derive(Debug, Clone)]
pub(crate) struct Bells {
    log: watch::Sender<u64>,
    reads: watch::Sender<u64>,
    waiting: Arc<Mutex<Waiters>>,
    /// By which this process knows its own hints again: it has rung already.
    process: Arc<str>,
}

#[derive(Debug, Default)]
struct Waiters {
    next: u64,
    by_stream: HashMap<Uuid, Vec<(u64, Arc<Bell>)>>,
}

/// One waiter's.
#[derive(Debug, Default)]
struct Bell {
    rung: Notify,
    /// By another process: what this one remembers may be older.
    elsewhere: AtomicBool,
}

impl Waiters {
    fn wake(&self, written: &Written, elsewhere: bool) {
        let wake = |waiting: &Vec<(u64, Arc<Bell>)>| {
            for (_, bell) in waiting {
                if elsewhere {
                    bell.elsewhere.store(true, Ordering::Release);
                }
                bell.rung.notify_one();
            }
        };
        match written {
            Written::Nothing => {}
            Written::Streams(streams) => streams
                .iter()
                .filter_map(|id| self.by_stream.get(id))
                .for_each(wake),
            Written::Anything => self.by_stream.values().for_each(wake),
        }
    }
}

/// What was appended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Nothing,
    Streams(Vec<Uuid>),
    /// Too much to name, or nobody said what.
    Anything,
}

impl Bells {
    pub(crate) fn new() -> Self {
        let process = Uuid::new_v4().simple().to_string();
        Self {
            log: watch::Sender::new(0),
            reads: watch::Sender::new(0),
            waiting: Arc::default(),
            process: process[..8].into(),
        }
    }

    /// Rings for everybody but those who wait for a stream: see [`Self::ring_here`].
    pub(crate) fn ring(&self, written: &Written, reads: bool) {
        if *written != Written::Nothing {
            self.log.send_modify(|count| *count += 1);
        }
        if reads {
            self.reads.send_modify(|count| *count += 1);
        }
    }

    /// Wakes those who wait for streams that this process has written, once it remembers what it wrote.
    pub(crate) fn ring_here(&self, streams: Vec<Uuid>) {
        self.waiters().wake(&Written::Streams(streams), false);
    }

    pub(crate) fn log(&self) -> watch::Receiver<u64> {
        self.log.subscribe()
    }

    pub(crate) fn reads(&self) -> watch::Receiver<u64> {
        self.reads.subscribe()
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        // A panic while it was held left it usable: a waiter that is missed looks after its pause.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The statement that tells other processes; nothing where there is nothing to tell.
    pub(crate) fn notify(&self, written: &Written, reads: bool) -> String {
        let mut statement = match written {
            Written::Nothing => String::new(),
            Written::Streams(streams) if streams.len() <= NAMED_MAX => {
                let mut text = format!("NOTIFY kassa_log, '{}", self.process);
                for stream in streams {
                    text.push(' ');
                    text.push_str(stream.simple().encode_lower(&mut Uuid::encode_buffer()));
                }
                text + "';"
            }
            Written::Streams(_) | Written::Anything => format!("NOTIFY kassa_log, '{}';", self.process),
        };
        if reads {
            statement += &format!("NOTIFY kassa_reads, '{}'", self.process);
        }
        statement
    }

    /// Rings for what another process has told. Our own hints come back, too.
    fn hear(&self, channel: &str, payload: &str) {
        let mut words = payload.split(' ');
        if words.next() == Some(&*self.process) {
            return;
        }
        if channel == "kassa_reads" {
            return self.ring(&Written::Nothing, true);
        }
        let streams: Option<Vec<Uuid>> = words.map(|word| Uuid::try_parse(word).ok()).collect();
        // Without names, or in a newer version's words.
        let written = streams
            .filter(|streams| !streams.is_empty())
            .map_or(Written::Anything, Written::Streams);
        self.ring(&written, false);
        self.waiters().wake(&written, true);
    }
}

/// Hears when some streams may have been written to, as long as it lives. Only a hint: look as well.
#[derive(Debug)]
pub struct Heard {
    bells: Bells,
    id: u64,
    streams: Vec<Uuid>,
    bell: Arc<Bell>,
}

impl Heard {
    pub(crate) fn new(bells: &Bells, streams: Vec<Uuid>) -> Self {
        let bell = Arc::new(Bell::default());
        let mut waiters = bells.waiters();
        waiters.next += 1;
        let id = waiters.next;
        for stream in &streams {
            let waiting = waiters.by_stream.entry(*stream).or_default();
            waiting.push((id, bell.clone()));
        }
        drop(waiters);
        Self {
            bells: bells.clone(),
            id,
            streams,
            bell,
        }
    }

    /// When one of them may have been written to since the last time; at once, if that was meanwhile. Whether it may have
    /// been by another process: if not, what this one remembers of its own appends is all there is.
    pub async fn changed(&self) -> bool {
        self.bell.rung.notified().await;
        self.bell.elsewhere.swap(false, Ordering::Acquire)
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        let mut waiters = self.bells.waiters();
        for stream in &self.streams {
            if let Some(waiting) = waiters.by_stream.get_mut(stream) {
                waiting.retain(|(id, _)| *id != self.id);
                if waiting.is_empty() {
                    waiters.by_stream.remove(stream);
                }
            }
        }
    }
}

/// Listens until the store is gone.
pub(crate) async fn listen(url: String, bells: Bells, clock: Clock, store: mpsc::WeakSender<Waiting>) {
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
    store: &mpsc::WeakSender<Waiting>,
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
    bells.ring(&Written::Anything, true);
    bells.waiters().wake(&Written::Anything, true);
    loop {
        let message = tokio::time::timeout(Duration::from_secs(1), messages.next()).await;
        match message {
            Err(_) if store.upgrade().is_none() => return Ok(()),
            Err(_) => {}
            Ok(None) => return Ok(()),
            Ok(Some(message)) => match message? {
                AsyncMessage::Notification(note) if note.channel() != "kassa_clock" => {
                    bells.hear(note.channel(), note.payload());
                }
                // The new offset is read by a new session: this one can only listen.
                AsyncMessage::Notification(_) => return Ok(()),
                _ => {}
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_told(heard: &Heard) -> bool {
        heard.changed().now_or_never() == Some(true)
    }

    #[test]
    fn a_hint_wakes_those_who_wait_for_its_streams_and_nobody_else() {
        let (ours, theirs) = (Bells::new(), Bells::new());
        let [one, other] = [1, 2].map(Uuid::from_u128);
        let waiting = [Heard::new(&ours, vec![one]), Heard::new(&ours, vec![other])];
        let hint = |written: &Written| {
            let statement = theirs.notify(written, false);
            let payload = statement.split('\'').nth(1).expect("it has a payload").to_owned();
            ours.hear("kassa_log", &payload);
            theirs.hear("kassa_log", &payload);
            waiting.iter().map(is_told).collect::<Vec<_>>()
        };
        assert_eq!(hint(&Written::Streams(vec![one])), [true, false]);
        assert_eq!(hint(&Written::Streams(vec![one, other])), [true, true]);
        assert_eq!(hint(&Written::Anything), [true, true]);
        let many = (10..10 + NAMED_MAX as u128 + 1).map(Uuid::from_u128).collect();
        assert_eq!(hint(&Written::Streams(many)), [true, true], "too many to name");
        assert!(
            !theirs.log().has_changed().expect("it is there"),
            "who has told has rung already"
        );
        // An older version names nothing, a newer one may say what we do not know.
        for payload in ["", "12345678 what"] {
            ours.hear("kassa_log", payload);
            assert!(waiting.iter().all(is_told), "{payload:?}");
        }
        // What this process wrote itself, it remembers.
        ours.ring_here(vec![one]);
        assert_eq!(waiting[0].changed().now_or_never(), Some(false));
        assert_eq!(waiting[1].changed().now_or_never(), None);
        drop(waiting);
        assert!(ours.waiters().by_stream.is_empty(), "who left is forgotten");
    }
}
