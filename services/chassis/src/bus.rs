//! How is a service on the bus? A connection that comes back by itself, and a work loop over a durable pull consumer.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::{
        AckKind, Context, ErrorCode, Message,
        consumer::{self, AckPolicy, Consumer, DeliverPolicy, pull},
        context::{GetStreamError, GetStreamErrorKind},
        stream::Stream,
    },
};
use bytes::Bytes;
use futures::StreamExt as _;
use kassa_events_schema::dead_letter::{self, DeadLetter};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Login, input, trace};

/// Connects, and goes on trying in the background while the server is away.
///
/// # Errors
/// When the address or the login is malformed, or the password file cannot be read.
pub async fn connect(url: &str, login: &Login, name: &str) -> anyhow::Result<async_nats::Client> {
    connect_and_tell(url, login, Told::new(name, url)?).await
}

/// As [`connect`], for what has to hear until `shutdown`: a subject that the server does not permit is asked for again, so
/// that a permission that was taken and given back needs no restart.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to_hear(
    url: &str,
    login: &Login,
    name: &str,
    shutdown: &CancellationToken,
) -> anyhow::Result<async_nats::Client> {
    let told = Told::new(name, url)?;
    let client = connect_and_tell(url, login, told.clone()).await?;
    lock(&HEARING).insert(name.to_owned(), client.clone());
    let (hearing, shutdown) = (client.clone(), shutdown.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = told.hear_again(&hearing) => {}
        }
        lock(&HEARING).remove(&told.name);
        told.forget();
    });
    Ok(client)
}

async fn connect_and_tell(url: &str, login: &Login, told: Arc<Told>) -> anyhow::Result<async_nats::Client> {
    let (name, server) = (told.name.clone(), told.server.clone());
    let options = options(url, login)?
        .name(name)
        .retry_on_initial_connect()
        // A server that is frozen or cut off is noticed within some fifteen seconds.
        .ping_interval(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(5)))
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis((50 * u64::try_from(attempts).unwrap_or(20)).min(1_000))
        })
        .event_callback(move |event| {
            let told = told.clone();
            async move { told.tell(&event) }
        });
    Ok(options.connect(server).await?)
}

/// Between two tries to hear what is not permitted: soon enough for whoever gives the permission back and looks, and no
/// load where it stays away.
const HEAR_AGAIN: Duration = Duration::from_secs(30);
/// After a new connection the server says at once what it does not permit; if it has not by then, it permits it.
const REFUSED_WITHIN: Duration = Duration::from_secs(3);

/// By connection, what its login was not permitted to hear, and does not hear now.
static UNHEARD: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// By name, the connections of this process that have to hear.
static HEARING: Mutex<BTreeMap<String, async_nats::Client>> = Mutex::new(BTreeMap::new());

/// Why a connection does not hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deaf {
    /// The server is away, or was never there.
    NotConnected,
    /// What the server does not permit, in its words.
    Refused(String),
}

/// Whether this process hears on a connection all that it asked to; for readiness.
///
/// # Errors
/// [`Deaf`]. A server that hangs is seen as away within some fifteen seconds.
pub fn hears(connection: &str) -> Result<(), Deaf> {
    use async_nats::connection::State;
    if let Some(refused) = lock(&UNHEARD).get(connection) {
        return Err(Deaf::Refused(refused.clone()));
    }
    match lock(&HEARING)
        .get(connection)
        .map(async_nats::Client::connection_state)
    {
        Some(State::Connected) => Ok(()),
        Some(State::Pending | State::Disconnected) | None => Err(Deaf::NotConnected),
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

static ENDING: AtomicBool = AtomicBool::new(false);

/// Before this process ends the servers that are its own: from now on it is no news that they are away.
pub fn expect_the_end() {
    ENDING.store(true, Ordering::Relaxed);
}

/// What was said of one connection: a trouble that goes on is told at its 1st, 2nd, 4th, 8th … time.
#[derive(Debug)]
struct Told {
    name: String,
    /// Its address, without a login.
    server: String,
    away: AtomicU32,
    not_permitted: AtomicU32,
    /// How often the server refused a subscription.
    unheard: watch::Sender<u64>,
}

/// What an event of the connection means for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Back,
    /// Ours, at the end.
    Ended,
    /// The server is there and says no to one subject; everything else goes on.
    NotPermitted,
    Away,
}

fn meaning(event: &async_nats::Event) -> Meaning {
    use async_nats::{Event, ServerError};
    match event {
        Event::Connected => Meaning::Back,
        Event::Closed | Event::Draining => Meaning::Ended,
        Event::ServerError(ServerError::Other(text))
            if text.to_ascii_lowercase().contains("permissions violation") =>
        {
            Meaning::NotPermitted
        }
        Event::Disconnected
        | Event::LameDuckMode
        | Event::SlowConsumer(_)
        | Event::ServerError(_)
        | Event::ClientError(_) => Meaning::Away,
    }
}

impl Told {
    fn new(name: &str, url: &str) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            name: name.to_owned(),
            server: without_login(url)?,
            away: AtomicU32::new(0),
            not_permitted: AtomicU32::new(0),
            unheard: watch::Sender::new(0),
        }))
    }

    fn forget(&self) {
        lock(&UNHEARD).remove(&self.name);
    }

    /// A server never takes up again by itself what it refused once: the client, when it connects anew, asks for all.
    async fn hear_again(&self, client: &async_nats::Client) {
        let mut refusals = self.unheard.subscribe();
        while refusals.wait_for(|times| *times > 0).await.is_ok() {
            tokio::time::sleep(HEAR_AGAIN).await;
            let before = *self.unheard.borrow();
            if client.force_reconnect().await.is_err() {
                return;
            }
            tokio::time::sleep(REFUSED_WITHIN).await;
            let connected = client.connection_state() == async_nats::connection::State::Connected;
            let heard = connected
                && self.unheard.send_if_modified(|times| {
                    let same = *times == before;
                    if same {
                        *times = 0;
                    }
                    same
                });
            if heard {
                self.not_permitted.store(0, Ordering::Relaxed);
                self.forget();
                tracing::info!(
                    connection = self.name,
                    server = self.server,
                    "NATS permits again what it did not: everything is heard"
                );
            }
        }
    }

    fn tell(&self, event: &async_nats::Event) {
        let due = |counter: &AtomicU32| {
            let times = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            times.is_power_of_two().then_some(times)
        };
        match meaning(event) {
            Meaning::Back => {
                self.away.store(0, Ordering::Relaxed);
                tracing::info!(connection = self.name, server = self.server, "connected to NATS");
            }
            Meaning::Ended => {}
            Meaning::NotPermitted => {
                let text = event.to_string();
                if text.to_ascii_lowercase().contains("for subscription") {
                    lock(&UNHEARD).insert(self.name.clone(), text);
                    self.unheard.send_modify(|times| *times += 1);
                }
                if let Some(times) = due(&self.not_permitted) {
                    tracing::error!(
                        connection = self.name,
                        server = self.server,
                        %event,
                        times,
                        "NATS does not permit this login a subject: compare its permissions with those that `kassa nats \
                         accounts` prints, and only those: its passwords are new each time; everything else goes on"
                    );
                }
            }
            Meaning::Away if ENDING.load(Ordering::Relaxed) => {}
            Meaning::Away => {
                if let Some(times) = due(&self.away) {
                    tracing::warn!(
                        connection = self.name,
                        server = self.server,
                        %event,
                        times,
                        "NATS is away or refuses this login: nothing is heard or sent until it is back; nothing stored \
                         is lost"
                    );
                }
            }
        }
    }
}

/// Who we are: the login given or, without one, that of the URL, which the client library itself does not look at.
///
/// # Errors
/// When the URL is malformed, or the password file cannot be read.
pub fn options(url: &str, login: &Login) -> anyhow::Result<async_nats::ConnectOptions> {
    let parsed = parse(url)?;
    let options = async_nats::ConnectOptions::new();
    let (user, password) = match (login.resolve()?, parsed.password()) {
        (Some((user, password)), _) => (user, password.expose_secret().to_owned()),
        (None, Some(password)) => (parsed.username().to_owned(), password.to_owned()),
        (None, None) => return Ok(options),
    };
    let options = options.user_and_password(user.clone(), password);
    Ok(match inbox_prefix(&user) {
        Some(prefix) => options.custom_inbox_prefix(prefix),
        None => options,
    })
}

/// Under which subjects a user hears answers: each under its own, so that nobody hears another's. `None` for a name that
/// cannot stand in a subject, which no user of ours has.
pub fn inbox_prefix(user: &str) -> Option<String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    (!user.is_empty() && user.bytes().all(token)).then(|| format!("_INBOX_{user}"))
}

/// The address alone.
///
/// # Errors
/// When the URL is malformed.
pub fn without_login(url: &str) -> anyhow::Result<String> {
    let mut parsed = parse(url)?;
    let cleared = parsed.set_username("").and_then(|()| parsed.set_password(None));
    cleared.map_err(|()| anyhow::anyhow!("nats.url has no host"))?;
    Ok(parsed.to_string())
}

fn parse(url: &str) -> anyhow::Result<url::Url> {
    // The text may hold a password: it stays out of the error.
    url::Url::parse(url)
        .map_err(|error| anyhow::anyhow!("nats.url is not a URL such as nats://host:4222: {error}"))
}

/// What the bus should do with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Done, or nothing to do.
    Settle,
    RetryAfter(Duration),
    /// Failed, says why, and may succeed: it comes again after a pause that grows, and is parked after
    /// [`Work::deliveries_max`].
    Failed(String),
    /// Can never succeed: it goes to the dead letters with this reason, for a person, and does not come again.
    Park(String),
    /// As [`Disposition::Park`], of what could not be read: it may hold anything, so its body is not kept, only its length
    /// and hash.
    ParkUnread(String),
}

/// For a relay that was started together with a reader.
const STREAM_MADE_WITHIN: Duration = Duration::from_secs(5);
const STREAM_LOOK: Duration = Duration::from_millis(200);
/// First and last pause after [`Disposition::Failed`].
const AGAIN_MIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Before a dead letter that could not be written is tried again; until then the message is still where it was.
const BURY_AGAIN: Duration = Duration::from_secs(5);
/// For a dead letter to be stored: a worker's place is not held for longer by a stream that is away.
const BURY_MAX: Duration = Duration::from_secs(3);

/// Which messages a worker takes, and how many at once.
#[derive(Debug, Clone)]
pub struct Work {
    pub stream: String,
    /// The durable's name: the crate that reads it.
    pub durable: String,
    pub filter: String,
    /// How long a message waits for another worker when the one that had it is gone; progress is acknowledged three times
    /// as often.
    pub ack_wait: Duration,
    /// Messages in the handler at once.
    pub concurrency: usize,
    /// Where to begin when the durable does not exist: the worker's own low-water mark, plus one.
    pub start_sequence: u64,
    /// After so many deliveries a message goes to the dead letters; `None` where giving up on it would give up on a
    /// payment. The server itself never gives up: it would tell nobody for certain.
    pub deliveries_max: Option<i64>,
}

impl Work {
    /// The durable, as it is made.
    pub fn consumer(&self) -> pull::Config {
        pull::Config {
            durable_name: Some(self.durable.clone()),
            filter_subject: self.filter.clone(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            // See `deliveries_max`: what the server gave up on would lie in the stream and be nobody's.
            max_deliver: -1,
            max_ack_pending: i64::try_from(self.concurrency * 4).unwrap_or(i64::MAX),
            // From the beginning is the only policy that a work queue takes.
            deliver_policy: match self.start_sequence {
                0 | 1 => DeliverPolicy::All,
                start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
            },
            ..Default::default()
        }
    }
}

/// A durable with which messages would be missed, or be done twice at once.
#[derive(Debug, thiserror::Error)]
#[error(
    "durable {durable} of {stream} has another {setting}, which cannot be changed in place: delete it (nats consumer rm {stream} \
     {durable}); it is made again, and repeats deliveries at most"
)]
struct DurableDiffers {
    stream: String,
    durable: String,
    setting: String,
}

impl DurableDiffers {
    fn of(work: &Work, setting: impl Into<String>) -> Self {
        Self {
            stream: work.stream.clone(),
            durable: work.durable.clone(),
            setting: setting.into(),
        }
    }
}

/// The settings of a durable that are to be set right.
///
/// # Errors
/// [`DurableDiffers`] for one that no server changes.
fn differing(work: &Work, found: &consumer::Config) -> Result<Vec<&'static str>, DurableDiffers> {
    let wanted = work.consumer();
    for (setting, same) in [
        ("ack_policy", found.ack_policy == wanted.ack_policy),
        ("deliver_subject", found.deliver_subject.is_none()),
    ] {
        if !same {
            return Err(DurableDiffers::of(work, setting));
        }
    }
    // The server tells of one filter in either field.
    let filters: Vec<&str> = found
        .filter_subjects
        .iter()
        .chain((!found.filter_subject.is_empty()).then_some(&found.filter_subject))
        .map(String::as_str)
        .collect();
    let differing = [
        ("filter", filters == [wanted.filter_subject.as_str()]),
        ("ack_wait", found.ack_wait == wanted.ack_wait),
        ("max_ack_pending", found.max_ack_pending == wanted.max_ack_pending),
        // Zero and below both mean without end.
        ("max_deliver", found.max_deliver <= 0),
        ("headers_only", !found.headers_only),
    ];
    Ok(differing
        .into_iter()
        .filter_map(|(setting, same)| (!same).then_some(setting))
        .collect())
}

/// The stream, which the relay makes: where all are started at once it is there a moment later, and nothing is wrong.
async fn stream(jetstream: &Context, work: &Work) -> anyhow::Result<Stream> {
    let began = tokio::time::Instant::now();
    loop {
        match jetstream.get_stream(&work.stream).await {
            Ok(stream) => return Ok(stream),
            Err(error) if !is_missing(&error) => return Err(error.into()),
            Err(_) if began.elapsed() < STREAM_MADE_WITHIN => {}
            Err(error) => {
                let text = format!("waiting for the relay to make {}", work.stream);
                return Err(anyhow::Error::from(error).context(text));
            }
        }
        tokio::time::sleep(STREAM_LOOK).await;
    }
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(refused) if refused.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// The durable's messages; it is made where it is missing, and set right where it differs in what can be changed.
async fn pull(jetstream: &Context, work: &Work) -> anyhow::Result<pull::Stream> {
    let stream = stream(jetstream, work).await?;
    let wanted = work.consumer();
    let mut consumer: Consumer<pull::Config> = stream
        .get_or_create_consumer(&work.durable, wanted.clone())
        .await?;
    let found = consumer.cached_info().config.clone();
    let differing = differing(work, &found)?;
    if !differing.is_empty() {
        tracing::warn!(
            durable = work.durable,
            settings = differing.join(" "),
            "the durable had other settings; they are set right"
        );
        // Where it begins cannot be changed, and says nothing any more.
        let settings = pull::Config {
            deliver_policy: found.deliver_policy,
            ..wanted
        };
        consumer = stream.update_consumer(settings).await?;
        // Servers drop what they do not know without a word.
        let left = self::differing(work, &consumer.cached_info().config)?;
        if !left.is_empty() {
            return Err(DurableDiffers::of(work, left.join(" ")).into());
        }
    }
    let messages = consumer
        .stream()
        .max_messages_per_batch(work.concurrency)
        // Noticing a lost server or consumer takes two missed heartbeats.
        .heartbeat(Duration::from_millis(500))
        .expires(Duration::from_secs(5))
        .messages()
        .await?;
    Ok(messages)
}

/// Hands messages to `handle` until shutdown; then waits for those under way.
///
/// # Errors
/// When the stream or the consumer is gone or cannot be read; the caller runs it again.
pub async fn consume<F>(
    jetstream: &Context,
    work: &Work,
    shutdown: &CancellationToken,
    handle: impl Fn(Message) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = Disposition> + Send + 'static,
{
    let mut messages = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        messages = pull(jetstream, work) => messages?,
    };
    let permits = Arc::new(Semaphore::new(work.concurrency));
    let under_way = TaskTracker::new();
    let result = loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            permit = permits.clone().acquire_owned() => permit?,
        };
        let message = tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            message = messages.next() => match message {
                Some(Ok(message)) => message,
                Some(Err(error)) => break Err(error.into()),
                None => break Err(anyhow::anyhow!("the consumer {} ended", work.durable)),
            },
        };
        let acker = message.clone();
        let delivered = message.info().map_or(1, |info| info.delivered);
        let spent = work.deliveries_max.filter(|max| delivered > *max);
        // Not begun when it was delivered too often: it may be what takes the worker down.
        let span = trace::consumed(&message, &work.durable);
        let done = spent.is_none().then(|| span.run(handle(message)));
        let (jetstream, work) = (jetstream.clone(), work.clone());
        under_way.spawn(async move {
            let _permit = permit;
            let disposition = match done {
                Some(done) => {
                    tokio::pin!(done);
                    loop {
                        tokio::select! {
                            disposition = &mut done => break disposition,
                            () = tokio::time::sleep(work.ack_wait / 3) => {
                                // A lost progress mark costs a second delivery, which the handler recognises.
                                let _ = acker.ack_with(AckKind::Progress).await;
                            }
                        }
                    }
                }
                None => Disposition::Park(format!(
                    "its handler did not come to an end in {} deliveries",
                    delivered - 1
                )),
            };
            let parked = match disposition {
                Disposition::Failed(why) if work.deliveries_max.is_some_and(|max| delivered >= max) => {
                    Some((why, true))
                }
                Disposition::Park(why) => Some((why, true)),
                Disposition::ParkUnread(why) => Some((why, false)),
                Disposition::Settle => {
                    let _ = acker.ack().await;
                    None
                }
                Disposition::RetryAfter(delay) => {
                    let _ = acker.ack_with(AckKind::Nak(Some(delay))).await;
                    None
                }
                Disposition::Failed(why) => {
                    let pause = again_after(delivered);
                    tracing::warn!(
                        durable = work.durable,
                        delivered,
                        error = why,
                        pause_s = pause.as_secs(),
                        "a message failed; it comes again"
                    );
                    let _ = acker.ack_with(AckKind::Nak(Some(pause))).await;
                    None
                }
            };
            let Some((why, keep_body)) = parked else {
                return;
            };
            let kind = match bury(&jetstream, &work.durable, &acker, &why, keep_body).await {
                Ok(()) => AckKind::Term,
                Err(error) => {
                    tracing::error!(
                        durable = work.durable,
                        error = format!("{error:#}"),
                        "a dead letter could not be written yet"
                    );
                    AckKind::Nak(Some(BURY_AGAIN))
                }
            };
            let _ = acker.ack_with(kind).await;
        });
    };
    under_way.close();
    under_way.wait().await;
    result
}

/// Copies a message to the dead letters; returns when it is stored there. A body that holds a card number is never kept.
async fn bury(
    jetstream: &Context,
    consumer: &str,
    message: &Message,
    why: &str,
    keep_body: bool,
) -> anyhow::Result<()> {
    let info = message.info().map_err(anyhow::Error::from_boxed)?;
    let letter = DeadLetter {
        consumer,
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
    let mut body = message.payload.clone();
    let has_card = input::holds_card(&body);
    if !keep_body || has_card {
        headers.insert(dead_letter::BODY_BYTES, body.len().to_string());
        if !has_card {
            let hash = format!("{:x}", Sha256::digest(&body));
            headers.insert(dead_letter::BODY_SHA256, hash);
        }
        body = Bytes::new();
    }
    let stored = async {
        jetstream
            .publish_with_headers(letter.dead_subject(), headers, body)
            .await?
            .await?;
        anyhow::Ok(())
    };
    tokio::time::timeout(BURY_MAX, stored).await??;
    tracing::error!(
        durable = consumer,
        stream = letter.stream,
        sequence = letter.sequence,
        deliveries = letter.deliveries,
        error = why,
        "a message was given up and waits for a person: `kassa dlq ls`"
    );
    Ok(())
}

/// `delivered` counts from 1; doubles from [`AGAIN_MIN`] to [`AGAIN_MAX`].
fn again_after(delivered: i64) -> Duration {
    let doublings = delivered.saturating_sub(1).clamp(0, 16);
    AGAIN_MIN.saturating_mul(1 << doublings).min(AGAIN_MAX)
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::consumer::IntoConsumerConfig as _;

    use super::*;
    use crate::logged::Log;

    #[test]
    fn a_refused_subject_is_not_taken_for_a_server_that_is_away() {
        use async_nats::{Event, ServerError};
        let refused = "Permissions Violation for Publish to \"kassa.evt.0.x\"".to_owned();
        assert_eq!(
            meaning(&Event::ServerError(ServerError::Other(refused))),
            Meaning::NotPermitted
        );
        for away in [
            Event::Disconnected,
            Event::ServerError(ServerError::AuthorizationViolation),
        ] {
            assert_eq!(meaning(&away), Meaning::Away);
        }
        assert_eq!(meaning(&Event::Connected), Meaning::Back);
    }

    #[test]
    fn a_line_of_an_outage_says_whose_connection_and_where_until_the_end_is_expected() {
        let (log, _kept) = Log::here();
        let told = Told::new("engine", "nats://worker:secret@10.0.0.7:4222").expect("an address");
        for event in [async_nats::Event::Disconnected, async_nats::Event::Connected] {
            told.tell(&event);
        }
        let text = log.text();
        let whole = r#"connection="engine" server="nats://10.0.0.7:4222""#;
        assert_eq!(text.matches(whole).count(), 2, "{text}");
        assert!(!text.contains("secret"), "{text}");
        expect_the_end();
        told.tell(&async_nats::Event::Disconnected);
        assert_eq!(log.text(), text, "our own servers may go");
    }

    #[tokio::test]
    async fn a_connection_that_was_never_made_hears_nothing() {
        assert_eq!(hears("nobody"), Err(Deaf::NotConnected));
        let shutdown = CancellationToken::new();
        let nowhere = connect_to_hear("nats://127.0.0.1:1", &Login::default(), "unmade", &shutdown).await;
        assert!(nowhere.is_ok(), "it goes on trying");
        assert_eq!(hears("unmade"), Err(Deaf::NotConnected));
        shutdown.cancel();
    }

    #[test]
    fn pauses_between_deliveries_grow_and_have_a_bound() {
        assert_eq!(again_after(1), AGAIN_MIN);
        assert_eq!(again_after(3), AGAIN_MIN * 4);
        assert_eq!([again_after(7), again_after(i64::MAX)], [AGAIN_MAX; 2]);
        assert_eq!([again_after(0), again_after(i64::MIN)], [AGAIN_MIN; 2]);
    }

    #[test]
    fn a_durable_is_set_right_or_refused_with_what_to_do() {
        let work = Work {
            stream: "KASSA_EVENTS".to_owned(),
            durable: "cm-gateway".to_owned(),
            filter: "kassa.evt.>".to_owned(),
            ack_wait: Duration::from_secs(6),
            concurrency: 4,
            start_sequence: 7,
            deliveries_max: None,
        };
        let ours = || work.consumer().into_consumer_config();
        let started_elsewhere = consumer::Config {
            deliver_policy: DeliverPolicy::All,
            max_deliver: 0,
            filter_subject: String::new(),
            filter_subjects: vec![work.filter.clone()],
            ..ours()
        };
        for same in [ours(), started_elsewhere] {
            assert!(differing(&work, &same).is_ok_and(|all| all.is_empty()));
        }
        type Change = fn(&mut consumer::Config);
        let other = |change: Change| {
            let mut found = ours();
            change(&mut found);
            differing(&work, &found)
        };
        let changes: [(&str, Change); 5] = [
            ("filter", |found| found.filter_subject.clear()),
            ("ack_wait", |found| found.ack_wait = Duration::from_secs(1)),
            ("max_ack_pending", |found| found.max_ack_pending = 1),
            ("max_deliver", |found| found.max_deliver = 5),
            ("headers_only", |found| found.headers_only = true),
        ];
        for (setting, change) in changes {
            assert_eq!(other(change).expect("it can be set right"), [setting]);
        }
        let refused = other(|found| found.ack_policy = AckPolicy::None).expect_err("no server changes that");
        assert_eq!(
            refused.to_string(),
            "durable cm-gateway of KASSA_EVENTS has another ack_policy, which cannot be changed in place: delete it (nats consumer \
             rm KASSA_EVENTS cm-gateway); it is made again, and repeats deliveries at most"
        );
        assert!(other(|found| found.deliver_subject = Some("elsewhere".to_owned())).is_err());
    }

    #[test]
    fn a_name_that_could_listen_to_others_gets_no_prefix_of_its_own() {
        assert_eq!(inbox_prefix("ship-a").as_deref(), Some("_INBOX_ship-a"));
        for name in ["", "a.b", "*", ">", "a b"] {
            assert_eq!(inbox_prefix(name), None, "{name:?}");
        }
    }
}
