//! How is a service on the bus? A connection that comes back by itself, and a work loop over a durable pull consumer.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{
    AckKind, Context,
    consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
};
use futures::StreamExt as _;
use secrecy::ExposeSecret as _;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config::Login, trace};

/// Connects, and goes on trying in the background while the server is away.
///
/// # Errors
/// When the address or the login is malformed, or the password file cannot be read.
pub async fn connect(url: &str, login: &Login, name: &str) -> anyhow::Result<async_nats::Client> {
    let options = options(url, login)?
        .name(name)
        .retry_on_initial_connect()
        // A server that is frozen or cut off is noticed within some fifteen seconds.
        .ping_interval(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(5)))
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis((50 * u64::try_from(attempts).unwrap_or(20)).min(1_000))
        })
        .event_callback({
            let failures = Arc::new(AtomicU32::new(0));
            move |event| {
                let failures = failures.clone();
                async move { tell(&event, &failures) }
            }
        });
    Ok(options.connect(without_login(url)?).await?)
}

/// What an event of the connection means; a failure that goes on is told at its 1st, 2nd, 4th, 8th … time.
fn tell(event: &async_nats::Event, failures: &AtomicU32) {
    match event {
        async_nats::Event::Connected => {
            failures.store(0, Ordering::Relaxed);
            tracing::info!("connected to NATS");
        }
        // Ours, at the end.
        async_nats::Event::Closed | async_nats::Event::Draining => {}
        other => {
            let before = failures.fetch_add(1, Ordering::Relaxed);
            if (before + 1).is_power_of_two() {
                tracing::warn!(
                    event = %other,
                    times = before + 1,
                    "NATS is away or refuses this login: nothing is heard or sent until it is back; nothing stored is lost"
                );
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
    Ok(match (login.resolve()?, parsed.password()) {
        (Some((user, password)), _) => options.user_and_password(user, password.expose_secret().to_owned()),
        (None, Some(password)) => {
            options.user_and_password(parsed.username().to_owned(), password.to_owned())
        }
        (None, None) => options,
    })
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Done, or nothing to do.
    Settle,
    RetryAfter(Duration),
    /// Can never succeed; it was logged, and does not come again.
    Park,
}

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
}

impl Work {
    fn consumer(&self) -> pull::Config {
        pull::Config {
            durable_name: Some(self.durable.clone()),
            filter_subject: self.filter.clone(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.ack_wait,
            // Deliveries are not bounded here: giving up on a message would give up on a payment, and the handler
            // itself ends what it cannot finish.
            max_deliver: -1,
            max_ack_pending: i64::try_from(self.concurrency * 4).unwrap_or(i64::MAX),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: self.start_sequence.max(1),
            },
            ..Default::default()
        }
    }
}

/// The durable's messages; it is made where it is missing.
async fn pull(jetstream: &Context, work: &Work) -> anyhow::Result<pull::Stream> {
    let stream = jetstream.get_stream(&work.stream).await?;
    let consumer: Consumer<pull::Config> = stream
        .get_or_create_consumer(&work.durable, work.consumer())
        .await?;
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
    handle: impl Fn(async_nats::jetstream::Message) -> F,
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
        let (_, acker) = message.clone().split();
        let span = trace::consumed(&message, &work.durable);
        let done = span.run(handle(message));
        let beat = work.ack_wait / 3;
        under_way.spawn(async move {
            let _permit = permit;
            tokio::pin!(done);
            let disposition = loop {
                tokio::select! {
                    disposition = &mut done => break disposition,
                    () = tokio::time::sleep(beat) => {
                        // A lost progress mark costs a second delivery, which the handler recognises.
                        let _ = acker.ack_with(AckKind::Progress).await;
                    }
                }
            };
            let kind = match disposition {
                Disposition::Settle => AckKind::Ack,
                Disposition::RetryAfter(delay) => AckKind::Nak(Some(delay)),
                Disposition::Park => AckKind::Term,
            };
            let _ = acker.ack_with(kind).await;
        });
    };
    under_way.close();
    under_way.wait().await;
    result
}
