//! How does a shipment service hear of safe orders? A durable pull consumer: read, store with the effect, acknowledge.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    self, AckKind, Message,
    consumer::{AckPolicy, Consumer as NatsConsumer, DeliverPolicy, pull},
};
use futures::StreamExt as _;
use kassa_events_schema::{
    envelope::Envelope,
    event::PublishedEvent,
    order::PaymentSafe,
    subject::{SHIP, STREAM},
};
use tokio_postgres::{Client, NoTls, Transaction};
use tokio_util::sync::CancellationToken;

use crate::inbox;

/// Longer than a handler and a commit take.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Fetched ahead: a slow shop must not hold thousands of messages that another instance could take.
const IN_FLIGHT: i64 = 256;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What the consumer has done so far.
#[derive(Debug, Default)]
pub struct Stats {
    released: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
}

impl Stats {
    /// Orders released to the handler and committed.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    /// Deliveries of what was released before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Messages that could not be read, or contradicted themselves: never shipped.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// What the shop does with a safe order, inside the inbox's transaction. An error undoes it all, and it is tried again.
pub trait Release: Send + Sync {
    fn release(
        &self,
        safe: &PaymentSafe,
        transaction: &Transaction<'_>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;
}

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A consumer that has not begun yet.
#[derive(Debug, Clone)]
pub struct Consumer {
    /// With the shipment login.
    nats: async_nats::Client,
    /// The shop's own database.
    database: String,
    durable: String,
    stats: Arc<Stats>,
}

#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("the shop's database: {0}")]
    Database(#[from] tokio_postgres::Error),
    #[error("NATS: {0}")]
    Nats(BoxError),
    #[error("the shop's handler: {0}")]
    Handler(BoxError),
}

impl Consumer {
    /// `durable` names this service on the bus: two instances under one name share the work.
    pub fn new(nats: async_nats::Client, database: impl Into<String>, durable: impl Into<String>) -> Self {
        Self { nats, database: database.into(), durable: durable.into(), stats: Arc::default() }
    }

    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Consumes until `shutdown`; goes on by itself after any interruption.
    pub async fn run(&self, handler: &impl Release, shutdown: CancellationToken) {
        let mut pause = PAUSE_MIN;
        while !shutdown.is_cancelled() {
            let began = std::time::Instant::now();
            match self.session(handler, &shutdown).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(durable = self.durable, %error, "interrupted; it goes on shortly"),
            }
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE_MIN;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn session(&self, handler: &impl Release, shutdown: &CancellationToken) -> Result<(), Interrupted> {
        let (mut client, connection) = tokio_postgres::connect(&self.database, NoTls).await?;
        // Ends with the client.
        tokio::spawn(connection);
        inbox::prepare(&mut client).await?;
        let jetstream = jetstream::new(self.nats.clone());
        let stream = jetstream.get_stream_no_info(STREAM).await.map_err(|error| Interrupted::Nats(error.into()))?;
        let wanted = pull::Config {
            durable_name: Some(self.durable.clone()),
            filter_subject: SHIP.to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: IN_FLIGHT,
            // From the beginning, also when the stream was made anew: the inbox knows what was released.
            deliver_policy: DeliverPolicy::All,
            ..Default::default()
        };
        let consumer: NatsConsumer<pull::Config> = stream
            .get_or_create_consumer(&self.durable, wanted)
            .await
            .map_err(|error| Interrupted::Nats(error.into()))?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(usize::try_from(IN_FLIGHT).unwrap_or(1))
            // A lost server or consumer is noticed after two missed heartbeats.
            .heartbeat(Duration::from_millis(500))
            .expires(Duration::from_secs(5))
            .messages()
            .await
            .map_err(|error| Interrupted::Nats(error.into()))?;
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                message = messages.next() => match message {
                    Some(Ok(message)) => message,
                    Some(Err(error)) => return Err(Interrupted::Nats(error.into())),
                    None => return Err(Interrupted::Nats("the consumer ended".into())),
                },
            };
            self.take(&mut client, handler, &message).await?;
        }
    }

    async fn take(&self, client: &mut Client, handler: &impl Release, message: &Message) -> Result<(), Interrupted> {
        let sequence = message.info().map(|info| info.stream_sequence).map_err(Interrupted::Nats)?;
        let Some((envelope, safe)) = read(message) else {
            self.stats.refused.fetch_add(1, Ordering::Relaxed);
            tracing::error!(sequence, "a message on the shipment subject cannot be trusted; it is not shipped");
            return settle(message, AckKind::Term).await;
        };
        let transaction = client.transaction().await?;
        if inbox::admit(&transaction, &envelope, &safe, sequence).await? {
            handler.release(&safe, &transaction).await.map_err(Interrupted::Handler)?;
            transaction.commit().await?;
            self.stats.released.fetch_add(1, Ordering::Relaxed);
        } else {
            transaction.commit().await?;
            self.stats.duplicates.fetch_add(1, Ordering::Relaxed);
        }
        settle(message, AckKind::Ack).await
    }
}

async fn settle(message: &Message, kind: AckKind) -> Result<(), Interrupted> {
    // A lost acknowledgement costs a second delivery, which the inbox recognises.
    message.ack_with(kind).await.map_err(Interrupted::Nats)
}

/// The body is what counts, and it has to agree with where it came from.
fn read(message: &Message) -> Option<(Envelope, PaymentSafe)> {
    let envelope = Envelope::parse(&message.payload).ok()?;
    if envelope.nats_subject().to_string() != message.subject.as_str() {
        return None;
    }
    match envelope.decode() {
        Ok(Some(PublishedEvent::OrderPaymentSafe(safe))) => Some((envelope, safe)),
        Ok(_) | Err(_) => None,
    }
}
