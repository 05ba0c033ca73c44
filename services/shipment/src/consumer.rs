//! How is every permission to ship taken from the bus, whatever breaks meanwhile?
//!
//! Per message: judge it; in one transaction, record it in the inbox and let the handler act; commit; only then
//! acknowledge. A crash between any two steps repeats the message, and the inbox knows it.

use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::ConsumerErrorKind;
use async_nats::jetstream::{AckKind, Context, ErrorCode, Message};
use async_nats::{ConnectOptions, HeaderMap, ServerAddr, Subscriber};
use futures::{FutureExt, StreamExt};
use kassa_events_schema::dead_letter::{self, DeadLetter, Redeliver, Redelivered};
use kassa_events_schema::{headers, subject};
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;
use tokio_util::sync::CancellationToken;

use crate::database::{Database, Session};
use crate::inbox::{Admission, Inbox};
use crate::judge::{Instruction, Order, judge};
use crate::stats::Stats;

/// How long the server waits for an acknowledgement before it delivers again.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The most that one message may take, handler and commit together: less than [`ACK_WAIT`], so that a repeat does not run
/// beside the first.
const WORK_MAX: Duration = Duration::from_secs(20);
/// Unacknowledged messages over all instances: several pulls of a few instances, and no more than what a database that
/// comes back can be asked again for at once.
const ACK_PENDING_MAX: i64 = 64;
/// Messages per pull. Few, because those that wait behind a slow handler count against [`ACK_WAIT`].
const PULL_BATCH: usize = 16;
/// A pull is renewed after this; short, so that one that the server forgot is soon replaced.
const PULL_EXPIRES: Duration = Duration::from_secs(10);
/// Twice this without a sign of life, and the durable is looked for again.
const PULL_HEARTBEAT: Duration = Duration::from_secs(1);
/// First and last pause before a bus or database that is away is tried again. A shipment may wait two seconds more for it,
/// and a hundred instances trying every two seconds are no load.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// First and last pause before an event is delivered again to a handler that failed. Repeats never end: giving up on a paid
/// order is for a person, who sees [`Stats::failed`].
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// After so many deliveries, some quarter of an hour, an event that is not acted on is told of in the dead letters, while it
/// goes on coming; and again after twice, four times … as many, because one letter may be lost.
const TOLD_AFTER: u64 = 20;
/// For a dead letter to be stored; beyond it the message comes again.
const BURY_MAX: Duration = Duration::from_secs(3);
/// How long the last acknowledgements get to leave at a shutdown. Lost ones only cost a repeat.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Where to read.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// `nats://host:port`, several separated by commas; user and password go into the connection's options.
    pub url: String,
    /// The stream of a part: [`subject::STREAM`] for part 0, [`subject::stream_name`] for others, one consumer each.
    pub stream: String,
    /// Name of the durable, the same for all instances of one service and for no other service.
    pub durable: String,
    /// Only this shop's orders; else those of every shop that the login may read.
    pub shop: Option<String>,
}

impl Settings {
    /// Part 0, which is all there is on one machine.
    #[must_use]
    pub fn new(url: impl Into<String>, durable: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            stream: subject::STREAM.to_owned(),
            durable: durable.into(),
            shop: None,
        }
    }

    /// One shop's orders, by the durable that `kassa nats setup` makes for it: a login of that shop may use no other.
    #[must_use]
    pub fn for_shop(url: impl Into<String>, shop: impl Into<String>) -> Self {
        let shop = shop.into();
        Self {
            shop: Some(shop.clone()),
            ..Self::new(url, format!("ship-{shop}"))
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the URL: somebody may have put a password into it.
        let Self {
            url: _,
            stream,
            durable,
            shop,
        } = self;
        f.debug_struct("Settings")
            .field("stream", stream)
            .field("durable", durable)
            .field("shop", shop)
            .finish_non_exhaustive()
    }
}

/// Why a consumer could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// A name that JetStream does not take.
    #[error("{what} name {name:?} is empty or has a dot, wildcard or space")]
    Name {
        /// Stream or durable.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Not an address.
    #[error("nats url is not of the form nats://host:port, several separated by commas")]
    Url(#[source] std::io::Error),
    /// The client would pass over them and be refused.
    #[error("nats url holds a user or password: give them to the connect options instead")]
    Secret,
    /// NATS is away, or does not let us in.
    #[error("cannot connect to nats")]
    Nats(#[from] async_nats::ConnectError),
    /// Postgres is away, or does not let us in.
    #[error("cannot connect to the shipment database")]
    Database(#[from] tokio_postgres::Error),
}

/// Why a consumer gave up: only what waiting cannot mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumeError {
    /// A durable of this name has other settings; with some, orders would be missed.
    #[error(
        "durable {durable:?} has {setting} {found}, wanted {wanted}: take another name, or delete it, which repeats \
         deliveries and loses none"
    )]
    DurableDiffers {
        /// Its name.
        durable: String,
        /// Which setting.
        setting: &'static str,
        /// As it is.
        found: String,
        /// As it should be.
        wanted: String,
    },
    /// The tables are missing, or this role may not write them.
    #[error(
        "shipment tables cannot be used: call Inbox::prepare, or grant insert and select on schema shipment_service"
    )]
    NotPrepared(#[source] tokio_postgres::Error),
}

/// What stopped the reading for now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("shipment database failed")]
    Database(#[from] tokio_postgres::Error),
    #[error("durable cannot be looked up")]
    LookUp(#[source] async_nats::Error),
    #[error("durable cannot be made")]
    Make(#[source] async_nats::Error),
    #[error("pulling from the durable failed")]
    Pull(#[source] async_nats::Error),
    #[error("pulling from the durable ended")]
    Ended,
    #[error("event took longer than {} s", WORK_MAX.as_secs())]
    Slow,
    #[error(transparent)]
    GiveUp(#[from] ConsumeError),
}

/// What became of an attempt to release.
enum Outcome {
    Done,
    Duplicate,
    Overtaken,
    Failed(Box<dyn Error + Send + Sync>),
}

/// Reads `payment_safe` and `payment_safety_lost`: releases each order once, and has it held when that is taken back.
#[derive(Debug)]
pub struct Consumer {
    settings: Settings,
    jetstream: Context,
    database: Database,
    session: Option<Session>,
    stats: Arc<Stats>,
}

impl Consumer {
    /// Connects to both servers once, so that a wrong address or password shows at the start. `options` say who we are
    /// (user, credentials, TLS); how often to reconnect is set here.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        settings: Settings,
        options: ConnectOptions,
        database: Database,
    ) -> Result<Self, ConnectError> {
        for (what, name) in [("stream", &settings.stream), ("durable", &settings.durable)] {
            if name.is_empty()
                || name.contains(|c: char| c.is_whitespace() || matches!(c, '.' | '*' | '>' | '/' | '\\'))
            {
                return Err(ConnectError::Name {
                    what,
                    name: name.clone(),
                });
            }
        }
        let servers = settings
            .url
            .split(',')
            .map(|url| url.trim().parse())
            .collect::<Result<Vec<ServerAddr>, _>>();
        let servers = servers.map_err(ConnectError::Url)?;
        if servers
            .iter()
            .any(|server| server.has_user_pass() || server.password().is_some())
        {
            return Err(ConnectError::Secret);
        }
        let session = database.connect().await?;
        let client = options
            .name(format!("shipment {}", settings.durable))
            .max_reconnects(None)
            .reconnect_delay_callback(pause)
            .connect(servers)
            .await?;
        let jetstream = async_nats::jetstream::new(client);
        Ok(Self {
            settings,
            jetstream,
            database,
            session: Some(session),
            stats: Arc::default(),
        })
    }

    /// The counters; they live on after [`Consumer::run`].
    #[must_use]
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// Releases orders until the shutdown; an event under way is finished first.
    ///
    /// The handler gets the event and the transaction in which it is recorded: what it writes there happens exactly once.
    /// What it does elsewhere must be idempotent by `(order_id, epoch)`. A later epoch of an order lifts its hold: it is not a
    /// second parcel, so keep one job per order. It must neither commit nor roll back; with its
    /// error, or after 20 s, everything is rolled back and the event comes again. Events are handled one at a time, in no
    /// promised order; start several instances for more.
    ///
    /// # Errors
    /// [`ConsumeError`], only for what waiting cannot mend.
    pub async fn run<H, E>(mut self, handler: H, shutdown: CancellationToken) -> Result<(), ConsumeError>
    where
        H: AsyncFn(&Instruction, &Transaction<'_>) -> Result<(), E>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut failures = 0_usize;
        while !shutdown.is_cancelled() {
            let trouble = match self.consume(&handler, &shutdown, &mut failures).await {
                Ok(()) => break,
                Err(Trouble::GiveUp(error)) => return Err(error),
                Err(trouble) => trouble,
            };
            let pause = pause(failures);
            failures = failures.saturating_add(1);
            // At its 1st, 2nd, 4th … time in a row: a server may be away for a night.
            if failures.is_power_of_two() {
                tracing::warn!(
                    error = &trouble as &dyn Error,
                    durable = self.settings.durable,
                    times = failures,
                    pause_ms = pause.as_millis(),
                    "not reading permissions to ship, trying again"
                );
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        }
        match tokio::time::timeout(FLUSH_MAX, self.jetstream.client().flush()).await {
            Ok(Ok(())) => {}
            _ => tracing::warn!("last acknowledgements may not have arrived, their events will come again"),
        }
        Ok(())
    }

    /// Reads until the shutdown (`Ok`) or until something breaks.
    async fn consume<H, E>(
        &mut self,
        handler: &H,
        shutdown: &CancellationToken,
        failures: &mut usize,
    ) -> Result<(), Trouble>
    where
        H: AsyncFn(&Instruction, &Transaction<'_>) -> Result<(), E>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let mut messages = tokio::select! {
            messages = self.open() => messages?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let mut redeliveries = self.redeliveries().await;
        let end = loop {
            let settled = tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                message = messages.next() => match message {
                    Some(Ok(message)) => self.settle(&message, handler).await,
                    Some(Err(error)) => Err(Trouble::Pull(error.into())),
                    None => Err(Trouble::Ended),
                },
                Some(request) = next(&mut redeliveries) => self.redeliver(&request, handler).await,
            };
            match settled {
                Ok(()) => *failures = 0,
                Err(trouble) => break Err(trouble),
            }
        };
        give_back(messages).await;
        end
    }

    /// A connection that works, and a durable to pull from.
    async fn open(&mut self) -> Result<pull::Stream, Trouble> {
        self.session().await?;
        let durable = self.durable().await?;
        durable
            .stream()
            .max_messages_per_batch(PULL_BATCH)
            .expires(PULL_EXPIRES)
            .heartbeat(PULL_HEARTBEAT)
            .messages()
            .await
            .map_err(|error| Trouble::Pull(error.into()))
    }

    async fn session(&mut self) -> Result<&mut Session, Trouble> {
        let open = self.session.take().filter(|session| !session.client.is_closed());
        let session = match open {
            Some(session) => session,
            None => self.database.connect().await?,
        };
        Ok(self.session.insert(session))
    }

    /// Finds the durable or makes it: the stream may have been wiped and refilled, and its consumers with it. It then
    /// delivers everything again, and the inbox sorts it out.
    async fn durable(&self) -> Result<PullConsumer, Trouble> {
        let Settings {
            stream,
            durable,
            shop,
            ..
        } = &self.settings;
        let shop = shop.as_deref();
        let found: Result<PullConsumer, _> = self.jetstream.get_consumer_from_stream(durable, stream).await;
        match found {
            Ok(found) => {
                check(durable, shop, &found.cached_info().config)?;
                return Ok(found);
            }
            Err(error) => match error.kind() {
                ConsumerErrorKind::JetStream(cause)
                    if cause.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {}
                ConsumerErrorKind::InvalidConsumerType => {
                    return Err(differs(durable, "delivery", "push", "pull").into());
                }
                _ => return Err(Trouble::LookUp(error.into())),
            },
        }
        let made = self
            .jetstream
            .create_consumer_strict_on_stream(wanted(durable, shop), stream)
            .await
            .map_err(|error| Trouble::Make(error.into()))?;
        tracing::info!(
            durable,
            stream,
            "made the durable, all events of the stream are delivered"
        );
        Ok(made)
    }

    /// Brings one message to its end: released, known, refused, or to come again.
    async fn settle<H, E>(&mut self, message: &Message, handler: &H) -> Result<(), Trouble>
    where
        H: AsyncFn(&Instruction, &Transaction<'_>) -> Result<(), E>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let (sequence, delivered) = match message.info() {
            Ok(info) => (info.stream_sequence, info.delivered),
            // Not delivered by a consumer: nothing to acknowledge, and nothing to trust.
            Err(error) => {
                self.stats.count_refused();
                tracing::error!(
                    error = &*error as &dyn Error,
                    "message without a sequence refused, not shipped"
                );
                return Ok(());
            }
        };
        let order = match judge(&message.subject, &message.payload) {
            Ok(order) => order,
            Err(refusal) => {
                self.stats.count_refused();
                tracing::error!(
                    error = &refusal as &dyn Error,
                    subject = message.subject.as_str(),
                    sequence,
                    "message refused, not shipped and not delivered again: a person must look"
                );
                let kind = match bury(
                    &self.jetstream,
                    &self.settings.durable,
                    message,
                    &refusal.to_string(),
                )
                .await
                {
                    Ok(()) => AckKind::Term,
                    Err(error) => {
                        tracing::warn!(
                            error = &*error as &dyn Error,
                            sequence,
                            "no dead letter could be written yet, the message comes again"
                        );
                        AckKind::Nak(Some(AGAIN_MAX))
                    }
                };
                reply(message, kind).await;
                return Ok(());
            }
        };
        // It may have waited behind others of its pull: the full time counts from here.
        reply(message, AckKind::Progress).await;
        let order_id = order.instruction.order_id();
        let event_id = order.event_id;
        let again = AckKind::Nak(Some(again_after(delivered)));

        let work = self.act(&order, &message.subject, sequence, handler);
        let result = tokio::time::timeout(WORK_MAX, work)
            .await
            .unwrap_or(Err(Trouble::Slow));
        match result {
            Ok(Outcome::Done) => {
                match &order.instruction {
                    Instruction::Ship(_) => {
                        self.stats.count_released();
                        tracing::info!(order.id = order_id, event.id = %event_id, trace_id = trace_id(message), sequence, "order released");
                    }
                    Instruction::Hold(_) => {
                        self.stats.count_held();
                        tracing::warn!(order.id = order_id, event.id = %event_id, trace_id = trace_id(message), sequence, "order held: its money was lost");
                    }
                }
                reply(message, AckKind::Ack).await;
            }
            Ok(Outcome::Overtaken) => {
                self.stats.count_duplicate();
                tracing::warn!(order.id = order_id, event.id = %event_id, sequence, "order not released: its hold or a later release came first");
                reply(message, AckKind::Ack).await;
            }
            Ok(Outcome::Duplicate) => {
                self.stats.count_duplicate();
                tracing::info!(order.id = order_id, event.id = %event_id, sequence, "event was acted on before");
                reply(message, AckKind::Ack).await;
            }
            Ok(Outcome::Failed(error)) => {
                self.stats.count_failed();
                self.tell(message, delivered, &*error).await;
                tracing::warn!(
                    error = &*error as &dyn Error,
                    order.id = order_id,
                    event.id = %event_id,
                    sequence,
                    delivered,
                    "event not acted on, it comes again"
                );
                reply(message, again).await;
            }
            Err(trouble) => {
                self.stats.count_failed();
                // Whatever the transaction was in the middle of ends with its connection, or has committed; the repeat tells.
                self.session = None;
                // Too slow, or refused at the commit: it may be this event's own doing, every time.
                self.tell(message, delivered, &trouble).await;
                reply(message, again).await;
                return Err(trouble);
            }
        }
        Ok(())
    }

    /// Tells a person of an event that keeps failing. A paid order is not forgotten: it goes on coming.
    async fn tell(&self, message: &Message, delivered: i64, why: &(dyn Error + Send + Sync)) {
        if !is_told(delivered) {
            return;
        }
        let buried = bury(&self.jetstream, &self.settings.durable, message, &why.to_string()).await;
        if let Err(error) = buried {
            tracing::warn!(
                error = &*error as &dyn Error,
                delivered,
                "no dead letter could be written, a later delivery writes it"
            );
        }
    }

    /// Requests to do an event again that went to the dead letters. A login of one shop may not hear them.
    async fn redeliveries(&self) -> Option<Subscriber> {
        let Settings {
            stream,
            durable,
            shop,
            ..
        } = &self.settings;
        if shop.is_some() {
            return None;
        }
        let subject = dead_letter::redeliver_subject(durable, stream);
        let client = self.jetstream.client();
        match client.queue_subscribe(subject, durable.clone()).await {
            Ok(subscriber) => Some(subscriber),
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "dead letters cannot be done again");
                None
            }
        }
    }

    /// Does an event again that was given up. It is read from the stream: whoever asks cannot make one up.
    async fn redeliver<H, E>(&mut self, request: &async_nats::Message, handler: &H) -> Result<(), Trouble>
    where
        H: AsyncFn(&Instruction, &Transaction<'_>) -> Result<(), E>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let Some(reply) = request.reply.clone() else {
            return Ok(());
        };
        let result = tokio::time::timeout(WORK_MAX, self.again(&request.payload, handler))
            .await
            .unwrap_or(Err(Trouble::Slow));
        let (settled, detail, trouble) = match result {
            Ok(Outcome::Done) => (true, "acted on".to_owned(), None),
            Ok(Outcome::Duplicate) => {
                self.stats.count_duplicate();
                (true, "it was acted on before".to_owned(), None)
            }
            Ok(Outcome::Overtaken) => {
                self.stats.count_duplicate();
                (
                    true,
                    "its hold or a later release came first: not released".to_owned(),
                    None,
                )
            }
            Ok(Outcome::Failed(error)) => (false, error.to_string(), None),
            Err(trouble) => {
                // As in `settle`: the transaction ends with its connection, or has committed.
                self.session = None;
                (false, trouble.to_string(), Some(trouble))
            }
        };
        tracing::info!(settled, detail, "an event of the dead letters was done again");
        let answer = serde_json::to_vec(&Redelivered { settled, detail }).unwrap_or_default();
        if let Err(error) = self.jetstream.client().publish(reply, answer.into()).await {
            tracing::warn!(
                error = &error as &dyn Error,
                "an answer was not sent; the letter stays"
            );
        }
        trouble.map_or(Ok(()), Err)
    }

    async fn again<H, E>(&mut self, request: &[u8], handler: &H) -> Result<Outcome, Trouble>
    where
        H: AsyncFn(&Instruction, &Transaction<'_>) -> Result<(), E>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let Redeliver { sequence } = match serde_json::from_slice(request) {
            Ok(request) => request,
            Err(error) => return Ok(Outcome::Failed(error.into())),
        };
        let found = async {
            let stream = self.jetstream.get_stream(&self.settings.stream).await?;
            Ok::<_, async_nats::Error>(stream.get_raw_message(sequence).await?)
        };
        let event = match found.await {
            Ok(event) => event,
            Err(error) => return Ok(Outcome::Failed(error)),
        };
        match judge(&event.subject, &event.payload) {
            Ok(order) => {
                let outcome = self.act(&order, &event.subject, sequence, handler).await?;
                if matches!(outcome, Outcome::Done) {
                    match order.instruction {
                        Instruction::Ship(_) => self.stats.count_released(),
                        Instruction::Hold(_) => self.stats.count_held(),
                    }
                }
                Ok(outcome)
            }
            Err(refusal) => Ok(Outcome::Failed(refusal.into())),
        }
    }

    /// One transaction: seen, recorded and acted upon together, or none of it.
    async fn act<H, E>(
        &mut self,
        order: &Order,
        subject: &str,
        sequence: u64,
        handler: &H,
    ) -> Result<Outcome, Trouble>
    where
        H: AsyncFn(&Instruction, &Transaction<'_>) -> Result<(), E>,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        let sequence = i64::try_from(sequence).unwrap_or(i64::MAX);
        let transaction = self.session().await?.client.transaction().await?;
        let admission = Inbox::admit(&transaction, order, subject, sequence)
            .await
            .map_err(ours)?;
        let passed_over = match admission {
            Admission::New => None,
            Admission::Known => Some(Outcome::Duplicate),
            Admission::Overtaken => Some(Outcome::Overtaken),
        };
        if let Some(outcome) = passed_over {
            // An event id that is new for something that is not stays recorded.
            transaction.commit().await?;
            return Ok(outcome);
        }
        if let Err(error) = handler(&order.instruction, &transaction).await {
            transaction.rollback().await?;
            return Ok(Outcome::Failed(error.into()));
        }
        match Inbox::still_holds(&transaction, order).await {
            Ok(true) => {}
            Ok(false) => {
                return Ok(Outcome::Failed(
                    "handler ended the transaction, it must not".into(),
                ));
            }
            Err(error) if error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
                transaction.rollback().await?;
                return Ok(Outcome::Failed(
                    "handler passed over a statement that failed".into(),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        transaction.commit().await?;
        Ok(Outcome::Done)
    }
}

/// An error of a statement of ours: missing tables are not mended by waiting.
fn ours(error: tokio_postgres::Error) -> Trouble {
    const MISSING: [&SqlState; 4] = [
        &SqlState::UNDEFINED_TABLE,
        &SqlState::INVALID_SCHEMA_NAME,
        &SqlState::UNDEFINED_COLUMN,
        &SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    if error.code().is_some_and(|code| MISSING.contains(&code)) {
        ConsumeError::NotPrepared(error).into()
    } else {
        error.into()
    }
}

/// Answers the server. A lost answer costs a repeat, which the inbox knows, so it is no reason to stop.
/// In whose trace the order became safe: the second field of the W3C trace context. `None` where nobody traced.
fn trace_id(message: &Message) -> Option<&str> {
    let traceparent = message.headers.as_ref()?.get(headers::TRACEPARENT)?;
    traceparent.as_str().split('-').nth(1)
}

async fn reply(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        tracing::warn!(
            error = &*error as &dyn Error,
            ?kind,
            "answer to the bus was not sent, the event comes again"
        );
    }
}

/// For ever, where nobody may ask.
async fn next(requests: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match requests {
        Some(requests) => requests.next().await,
        None => std::future::pending().await,
    }
}

/// Copies a message to the dead letters, for a person.
async fn bury(
    jetstream: &Context,
    durable: &str,
    message: &Message,
    why: &str,
) -> Result<(), async_nats::Error> {
    let info = message.info()?;
    let letter = DeadLetter {
        consumer: durable,
        error: why,
        deliveries: info.delivered,
        stream: info.stream,
        sequence: info.stream_sequence,
        subject: message.subject.as_str(),
        time: info.published.unix_timestamp(),
    };
    let of_message = message.headers.iter().flat_map(HeaderMap::iter);
    let of_message =
        of_message.flat_map(|(name, values)| values.iter().map(move |value| (name.as_ref(), value.as_str())));
    let mut headers = HeaderMap::new();
    for (name, value) in letter.headers(of_message) {
        headers.append(name, value);
    }
    let subject = letter.dead_subject();
    let stored = async {
        jetstream
            .publish_with_headers(subject, headers, message.payload.clone())
            .await?
            .await?;
        Ok(())
    };
    tokio::time::timeout(BURY_MAX, stored).await?
}

/// What was pulled and not begun goes back at once, for whoever pulls next; otherwise it would wait for [`ACK_WAIT`].
async fn give_back(mut messages: pull::Stream) {
    let mut pulled = Vec::new();
    // The next pull is asked for when half of the last one is used, so two may be here.
    while pulled.len() < 2 * PULL_BATCH {
        let Some(Some(Ok(message))) = messages.next().now_or_never() else {
            break;
        };
        pulled.push(message);
    }
    // First stop pulling, or they would come straight back to us.
    drop(messages);
    for message in &pulled {
        reply(message, AckKind::Nak(None)).await;
    }
}

/// What the durable is to be like; for one shop, or for all.
#[must_use]
pub fn wanted(durable: &str, shop: Option<&str>) -> pull::Config {
    pull::Config {
        durable_name: Some(durable.to_owned()),
        description: Some("orders to ship, each once, and to hold".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: ACK_WAIT,
        filter_subjects: match shop {
            Some(shop) => ["payment_safe", "payment_safety_lost"]
                .map(|event| format!("kassa.evt.*.{shop}.order.*.{event}"))
                .to_vec(),
            None => vec![subject::SHIP.to_owned(), subject::HOLD.to_owned()],
        },
        max_ack_pending: ACK_PENDING_MAX,
        // No end: see AGAIN_MAX.
        max_deliver: -1,
        ..pull::Config::default()
    }
}

fn differs(
    durable: &str,
    setting: &'static str,
    found: impl ToString,
    wanted: impl ToString,
) -> ConsumeError {
    ConsumeError::DurableDiffers {
        durable: durable.to_owned(),
        setting,
        found: found.to_string(),
        wanted: wanted.to_string(),
    }
}

/// Whether a durable that was found is the one that we would have made, in all that decides which orders are seen.
fn check(durable: &str, shop: Option<&str>, found: &consumer::Config) -> Result<(), ConsumeError> {
    let wanted = wanted(durable, shop);
    // The server tells of one filter in either field, and of several in any order.
    let filters = |config: &[String], one: &str| {
        let mut several: Vec<&str> = config.iter().map(String::as_str).collect();
        several.extend((!one.is_empty()).then_some(one));
        several.sort_unstable();
        several.join(" ")
    };
    let (filters, wanted_filters) = (
        filters(&found.filter_subjects, &found.filter_subject),
        filters(&wanted.filter_subjects, &wanted.filter_subject),
    );
    // Zero and below both mean without end.
    let max_deliver = if found.max_deliver <= 0 {
        -1
    } else {
        found.max_deliver
    };
    for (setting, found, wanted) in [
        ("filter", filters, wanted_filters),
        (
            "deliver_policy",
            format!("{:?}", found.deliver_policy),
            format!("{:?}", wanted.deliver_policy),
        ),
        (
            "ack_policy",
            format!("{:?}", found.ack_policy),
            format!("{:?}", wanted.ack_policy),
        ),
        (
            "ack_wait",
            format!("{:?}", found.ack_wait),
            format!("{:?}", wanted.ack_wait),
        ),
        (
            "max_ack_pending",
            found.max_ack_pending.to_string(),
            wanted.max_ack_pending.to_string(),
        ),
        (
            "max_deliver",
            max_deliver.to_string(),
            wanted.max_deliver.to_string(),
        ),
        (
            "headers_only",
            found.headers_only.to_string(),
            wanted.headers_only.to_string(),
        ),
    ] {
        if found != wanted {
            return Err(differs(durable, setting, found, wanted));
        }
    }
    Ok(())
}

/// Pause before the next try, after so many failures in a row: doubles from [`PAUSE_MIN`] to [`PAUSE_MAX`], less up to a
/// half by chance, so that instances that lost a server together do not come back together.
fn pause(failures: usize) -> Duration {
    let full = doubled(PAUSE_MIN, PAUSE_MAX, failures);
    let half = full / 2;
    let chance = RandomState::new().hash_one(failures);
    half + Duration::from_millis(chance % u64::try_from(half.as_millis()).unwrap_or(1).max(1))
}

/// Pause before an event is delivered again; `delivered` counts from 1.
fn again_after(delivered: i64) -> Duration {
    doubled(
        AGAIN_MIN,
        AGAIN_MAX,
        usize::try_from(delivered.saturating_sub(1)).unwrap_or(0),
    )
}

/// `delivered` counts from 1; true at 1, 2, 4 … times [`TOLD_AFTER`].
fn is_told(delivered: i64) -> bool {
    u64::try_from(delivered).is_ok_and(|delivered| {
        delivered.is_multiple_of(TOLD_AFTER) && (delivered / TOLD_AFTER).is_power_of_two()
    })
}

fn doubled(first: Duration, last: Duration, times: usize) -> Duration {
    let factor = u32::try_from(times)
        .ok()
        .and_then(|times| 2_u32.checked_pow(times))
        .unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(last)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use async_nats::jetstream::consumer::IntoConsumerConfig;
    use tokio_postgres::NoTls;

    use super::*;

    #[test]
    fn pauses_grow_and_have_a_bound() {
        for failures in [0, 1, 2, 5, 31, 32, 63, 64, usize::MAX] {
            for _ in 0..100 {
                assert!(
                    (PAUSE_MIN / 2..PAUSE_MAX).contains(&pause(failures)),
                    "{failures}"
                );
            }
        }
        assert!(pause(10) >= PAUSE_MAX / 2);
        assert_eq!(again_after(1), AGAIN_MIN);
        assert_eq!(again_after(3), AGAIN_MIN * 4);
        assert_eq!([again_after(7), again_after(i64::MAX)], [AGAIN_MAX; 2]);
        assert_eq!([again_after(0), again_after(i64::MIN)], [AGAIN_MIN; 2]);
    }

    #[test]
    fn a_person_is_told_again_of_what_goes_on_failing_and_not_at_every_delivery() {
        let told: Vec<i64> = (i64::MIN..i64::MIN + 9)
            .chain(-40..=1_000)
            .filter(|delivered| is_told(*delivered))
            .collect();
        assert_eq!(told, [20, 40, 80, 160, 320, 640]);
    }

    #[test]
    fn a_handler_is_stopped_before_its_event_is_delivered_again() {
        assert!(WORK_MAX < ACK_WAIT && PULL_HEARTBEAT * 2 < PULL_EXPIRES);
        assert!(u64::try_from(ACK_PENDING_MAX).unwrap() >= PULL_BATCH as u64);
    }

    #[test]
    fn a_durable_that_would_miss_orders_is_not_used() {
        let ours = || wanted("shipment", None).into_consumer_config();
        assert!(check("shipment", None, &ours()).is_ok());
        assert!(
            check(
                "shipment",
                None,
                &consumer::Config {
                    max_deliver: 0,
                    ..ours()
                }
            )
            .is_ok()
        );
        let other_order = consumer::Config {
            filter_subjects: vec![subject::HOLD.to_owned(), subject::SHIP.to_owned()],
            ..ours()
        };
        assert!(check("shipment", None, &other_order).is_ok());
        for (setting, other) in [
            (
                "filter",
                consumer::Config {
                    filter_subjects: vec![subject::ORDERS.to_owned()],
                    ..ours()
                },
            ),
            (
                // It would never hear that goods are to be held.
                "filter",
                consumer::Config {
                    filter_subjects: vec![],
                    filter_subject: subject::SHIP.to_owned(),
                    ..ours()
                },
            ),
            (
                "filter",
                consumer::Config {
                    filter_subjects: vec![],
                    ..ours()
                },
            ),
            (
                "deliver_policy",
                consumer::Config {
                    deliver_policy: DeliverPolicy::New,
                    ..ours()
                },
            ),
            (
                "ack_policy",
                consumer::Config {
                    ack_policy: AckPolicy::None,
                    ..ours()
                },
            ),
            (
                "ack_wait",
                consumer::Config {
                    ack_wait: Duration::from_secs(1),
                    ..ours()
                },
            ),
            (
                "max_ack_pending",
                consumer::Config {
                    max_ack_pending: 1,
                    ..ours()
                },
            ),
            (
                "max_deliver",
                consumer::Config {
                    max_deliver: 5,
                    ..ours()
                },
            ),
            (
                "headers_only",
                consumer::Config {
                    headers_only: true,
                    ..ours()
                },
            ),
        ] {
            let Err(ConsumeError::DurableDiffers { setting: named, .. }) = check("shipment", None, &other)
            else {
                panic!("a durable with another {setting} was taken")
            };
            assert_eq!(named, setting);
        }
    }

    #[tokio::test]
    async fn a_name_that_jetstream_does_not_take_is_refused_before_anything_is_called() {
        let database = Database::new(tokio_postgres::Config::new(), NoTls);
        for name in ["", "a.b", "a b", "a*", ">", "a/b"] {
            let settings = Settings::new("nats://127.0.0.1:1", name);
            let made = Consumer::connect(settings, ConnectOptions::new(), database.clone()).await;
            assert!(
                matches!(made, Err(ConnectError::Name { what: "durable", .. })),
                "{name:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_url_with_a_password_is_refused_and_not_shown() {
        let database = Database::new(tokio_postgres::Config::new(), NoTls);
        for (url, secret) in [
            ("nats://shop:hidden@127.0.0.1:1", true),
            ("nats://a:1,nats://:hidden@b:1", true),
            (":", false),
        ] {
            let settings = Settings::new(url, "shipment");
            assert!(!format!("{settings:?}").contains("hidden"));
            let error = Consumer::connect(settings, ConnectOptions::new(), database.clone())
                .await
                .unwrap_err();
            let refused = if secret {
                matches!(error, ConnectError::Secret)
            } else {
                matches!(error, ConnectError::Url(_))
            };
            assert!(refused && !error.to_string().contains("hidden"), "{url}: {error}");
        }
    }

    /// Held by the compiler: a service may run the consumer on a task of its own.
    #[expect(dead_code, reason = "it only has to compile")]
    fn a_consumer_runs_on_a_task_of_its_own(consumer: Consumer) {
        let orders = Arc::new(std::sync::Mutex::new(Vec::new()));
        tokio::spawn(consumer.run(
            async move |instruction: &Instruction, transaction: &Transaction<'_>| {
                transaction.execute("SELECT 1", &[]).await.ok();
                orders.lock().unwrap().push(instruction.order_id().to_owned());
                Ok::<_, Infallible>(())
            },
            CancellationToken::new(),
        ));
    }
}
