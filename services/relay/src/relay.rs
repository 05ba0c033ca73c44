//! How do committed events reach the stream, in order, once?
//!
//! Read where the stream ends, check that it ends with the store's own event, read what the store has after it, append
//! that with the end as a fence, and so on. Nothing is remembered anywhere else, so a crash, a lost answer, a second
//! relay and a stream that is gone all come to the same: read the end again.

use std::time::Duration;

use async_nats::{
    Client,
    connection::State,
    jetstream::{self, Context, ErrorCode, stream::LastRawMessageErrorKind},
};
use kassa_chassis::metrics;
use kassa_event_store::{Store, StoredEvent};
use kassa_events_schema::headers;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    error::RelayError,
    publish::{self, BATCH_BYTES_MAX, BATCH_MAX, Outcome, Outgoing},
    stream::{self, Wanted},
    translate::{TranslateError, Translator},
};

/// How long an event waits when the store's hint got lost.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the stream is compared with what it should be, and with the store, while nothing else makes us look.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How soon a connection that came back is noticed.
const CONNECTION_EVERY: Duration = Duration::from_millis(20);
/// Bounds how often two relays can get in each other's way.
const PAUSE_OVERTAKEN: Duration = Duration::from_millis(10);
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Long enough to spare a server in trouble, short enough that nobody waits once it is well again.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Carries one part of the log to its stream.
#[derive(Debug)]
pub(crate) struct Relay {
    client: Client,
    jetstream: Context,
    store: Store,
    translator: Translator,
    stream: Wanted,
    /// Before the next try; grows until something works.
    pause: Duration,
    /// Nothing was said yet since the start, or since it was held up.
    quiet: bool,
    /// Failures in a row.
    held_up: u32,
}

impl Relay {
    pub(crate) fn new(client: Client, store: Store, translator: Translator, stream: Wanted) -> Self {
        Self {
            jetstream: jetstream::new(client.clone()),
            client,
            store,
            translator,
            stream,
            pause: PAUSE_MIN,
            quiet: true,
            held_up: 0,
        }
    }

    /// Until shutdown. A publish that shutdown cuts short is what a crash leaves too: the next start reads the end.
    ///
    /// # Errors
    /// [`RelayError`], when it does not heal by itself.
    pub(crate) async fn run(mut self, shutdown: &CancellationToken) -> Result<(), RelayError> {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            error = self.go_on() => Err(error),
        }
    }

    /// Tries again after everything that time can heal.
    async fn go_on(&mut self) -> RelayError {
        let mut hints = self.store.hints();
        loop {
            let Err(error) = self.follow(&mut hints).await else {
                tracing::debug!(part = self.stream.part, "another relay was faster");
                tokio::time::sleep(PAUSE_OVERTAKEN).await;
                continue;
            };
            if !error.heals() {
                return error;
            }
            self.held_up = self.held_up.saturating_add(1);
            // At its 1st, 2nd, 4th … time in a row: a server may be away for a night.
            if self.held_up.is_power_of_two() {
                tracing::warn!(
                    part = self.stream.part,
                    times = self.held_up,
                    error = chain(&error),
                    pause_ms = u64::try_from(self.pause.as_millis()).unwrap_or(u64::MAX),
                    "the relay is held up"
                );
            }
            self.quiet = true;
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
    }

    /// From the stream's end onwards; comes back when that moved without us.
    async fn follow(&mut self, hints: &mut watch::Receiver<u64>) -> Result<(), RelayError> {
        let mut connection = self.connected().await;
        let mut end = self.end().await?;
        let mut checked = Instant::now();
        metrics::relayed(end);
        if std::mem::take(&mut self.quiet) {
            tracing::info!(
                part = self.stream.part,
                position = end,
                "relaying from where the stream ends"
            );
        }
        loop {
            // Another connection may be to a server that was wiped.
            let current = self.connected().await;
            if current != connection || checked.elapsed() >= CHECK_EVERY {
                connection = current;
                end = self.end().await?;
                checked = Instant::now();
            }
            let events = self.store.read_log(self.stream.part, end, BATCH_MAX).await?;
            if events.is_empty() {
                self.well();
                tokio::select! {
                    () = changed(hints) => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                continue;
            }
            match self.publish(end, &events).await? {
                Some(last) => {
                    end = last;
                    metrics::relayed(end);
                }
                None => return Ok(()),
            }
            self.well();
        }
    }

    fn well(&mut self) {
        self.pause = PAUSE_MIN;
        self.held_up = 0;
    }

    /// Waits for a connection, and tells it from others: what is sent while there is none would only pile up.
    async fn connected(&self) -> (String, u64) {
        while self.client.connection_state() != State::Connected {
            tokio::time::sleep(CONNECTION_EVERY).await;
        }
        let server = self.client.server_info();
        (server.server_id, server.client_id)
    }

    /// The position that the stream ends with: 0, or that of an event which the store has too.
    async fn end(&self) -> Result<i64, RelayError> {
        let name = self.stream.name()?;
        let stream = stream::ensure(&self.jetstream, &self.stream, &self.store).await?;
        let state = &stream.cached_info().state;
        let last = signed(state.last_sequence)?;
        if state.messages == 0 {
            let head = self.store.head(self.stream.part).await?;
            return if last > head {
                Err(RelayError::Ahead {
                    stream: name,
                    last,
                    head,
                })
            } else {
                Ok(last)
            };
        }
        let found = match stream.get_raw_message(state.last_sequence).await {
            Ok(message) => message
                .headers
                .get(headers::MSG_ID)
                .map_or("a message without an id".to_owned(), ToString::to_string),
            Err(error) => match error.kind() {
                LastRawMessageErrorKind::NoMessageFound => "nothing".to_owned(),
                LastRawMessageErrorKind::JetStream(refused)
                    if refused.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
                {
                    "nothing".to_owned()
                }
                _ => return Err(RelayError::bus("reading the stream's last message")(error.into())),
            },
        };
        // Read after the stream: what it holds was committed before.
        let stored = self.store.read_log(self.stream.part, last - 1, 1).await?;
        match stored.first() {
            Some(event) if event.position == last => {
                if event.event_id.to_string() == found {
                    Ok(last)
                } else {
                    Err(RelayError::OtherContent {
                        stream: name,
                        position: last,
                        found,
                        stored: event.event_id,
                    })
                }
            }
            Some(event) => Err(RelayError::Gap {
                after: last - 1,
                found: event.position,
            }),
            None => {
                let head = self.store.head(self.stream.part).await?;
                Err(RelayError::Ahead {
                    stream: name,
                    last,
                    head,
                })
            }
        }
    }

    /// Appends as many of `events` as fit into one batch; the new end, or `None` when the old one had moved.
    async fn publish(&mut self, end: i64, events: &[StoredEvent]) -> Result<Option<i64>, RelayError> {
        let mut messages = Vec::with_capacity(events.len());
        let mut bytes = 0;
        let mut last = end;
        for event in events {
            if event.position != last + 1 {
                return Err(RelayError::Gap {
                    after: last,
                    found: event.position,
                });
            }
            let envelope = self.translator.envelope(event).await?;
            let message = Outgoing::new(&envelope).map_err(|source| TranslateError::Envelope {
                position: event.position,
                source,
            })?;
            bytes += message.bytes();
            if bytes > BATCH_BYTES_MAX && !messages.is_empty() {
                break;
            }
            messages.push(message);
            last = event.position;
        }
        let ack = match publish::publish(&self.client, unsigned(end)?, messages).await? {
            Outcome::Stored(ack) => ack,
            Outcome::EndMoved => return Ok(None),
        };
        let name = self.stream.name()?;
        if ack.stream != name || ack.sequence != unsigned(last)? {
            return Err(RelayError::Misplaced {
                stream: name,
                acknowledged_by: ack.stream,
                position: last,
                sequence: ack.sequence,
            });
        }
        tracing::debug!(part = self.stream.part, from = end + 1, to = last, "published");
        Ok(Some(last))
    }
}

/// For ever, when nobody gives hints any more.
async fn changed(hints: &mut watch::Receiver<u64>) {
    if hints.changed().await.is_err() {
        std::future::pending().await
    }
}

fn chain(error: &RelayError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A position as the stream counts.
pub(crate) fn unsigned(position: i64) -> Result<u64, RelayError> {
    u64::try_from(position).map_err(|_| RelayError::Position(position))
}

fn signed(sequence: u64) -> Result<i64, RelayError> {
    // A stream can be made to begin anywhere; the log cannot be that long.
    i64::try_from(sequence).map_err(|_| RelayError::Position(i64::MAX))
}
