//! How does a merchant hear that something changed, and what if he does not listen?
//!
//! A GET with the merchant reference and nothing else, after every change of a payment. Anything but 200 is a failed
//! attempt, a redirect too. Every attempt is a ledger row. What waits stands in the state, with its time by the simulator's
//! clock; here it is sent, and whatever else is due happens.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::SignedDuration;
use reqwest::redirect;
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use crate::{
    app::App,
    config::NotificationPolicy,
    job::{Job, Task},
};

/// Calls under way at once: enough for a load test, few enough for a development machine's sockets.
const IN_FLIGHT_MAX: usize = 64;
/// The longest sleep: the machine's own clock may be set meanwhile.
const LOOK: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Notifier {
    client: reqwest::Client,
    policy: NotificationPolicy,
    url: Mutex<Option<String>>,
    in_flight: Arc<Semaphore>,
    /// Rung when something may be due.
    pub(crate) bell: Notify,
    /// Rung when an attempt has ended.
    pub(crate) ended: Notify,
    pub(crate) tasks: TaskTracker,
}

impl Notifier {
    pub(crate) fn new(policy: NotificationPolicy, url: Option<String>) -> io::Result<Self> {
        // reqwest is built without a TLS provider and panics if there is none; a second installation is refused,
        // which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(redirect::Policy::none())
            // The receiver is the machine's own or a test host: a proxy from the environment would swallow the call.
            .no_proxy()
            .timeout(policy.timeout)
            .build()
            .map_err(io::Error::other)?;
        Ok(Self {
            client,
            policy,
            url: Mutex::new(url),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            bell: Notify::new(),
            ended: Notify::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Takes effect from the next attempt on, also for those that wait for a repeat.
    pub(crate) fn set_url(&self, url: Option<String>) {
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }

    fn url_for(&self, reference: &str) -> Option<String> {
        let mut url = self.url.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        url.extend(url::form_urlencoded::byte_serialize(reference.as_bytes()));
        Some(url)
    }
}

impl App {
    /// Lets happen what is due and sends what is to be sent, until the program stops.
    pub(crate) async fn keep_agenda(self: Arc<Self>) {
        loop {
            // The place before the work, so that what is taken can be sent at once.
            let permit = tokio::select! {
                () = self.stop.cancelled() => return,
                permit = self.notifier.in_flight.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            let (job, wait) = {
                let mut state = self.state();
                let now = state.now();
                let job = state.take_notification(now);
                let wait = state.next_due().map_or(LOOK, |due| {
                    Duration::try_from(due.duration_since(now)).unwrap_or_default()
                });
                (job, wait)
            };
            let Some(job) = job else {
                drop(permit);
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.notifier.bell.notified() => {}
                    () = tokio::time::sleep(wait.min(LOOK)) => {}
                }
                continue;
            };
            let app = self.clone();
            self.notifier.tasks.spawn(async move {
                tokio::select! {
                    // It stays in the state: whoever keeps that goes on from there.
                    () = app.stop.cancelled() => {}
                    () = app.deliver(job) => {}
                }
                drop(permit);
                app.notifier.bell.notify_one();
                app.notifier.ended.notify_waiters();
            });
        }
    }

    /// One attempt, and what comes of it.
    async fn deliver(&self, job: Job) {
        let Task::Notify { about, tried, .. } = &job.task else {
            return;
        };
        let policy = self.notifier.policy;
        let number = tried + 1;
        let reference = about.reference.as_deref().unwrap_or_default();
        let undeliverable = about.order_key.as_deref().is_some_and(|key| {
            self.state()
                .order(key)
                .is_some_and(|order| order.scenario.plan().undeliverable)
        });
        let sent_after = self.state().ledger.len();
        let (status, said) = if undeliverable {
            (None, "no connection")
        } else {
            self.attempt(reference).await
        };
        let last = number >= policy.attempts_max;
        let doubled = policy.backoff_first.saturating_mul(1 << (*tried).min(20));
        let pause = doubled.min(policy.backoff_max);
        let (next, again) = match (status == Some(200), last) {
            (true, _) => ("delivered".to_owned(), None),
            (false, true) => (format!("{said}; given up"), None),
            (false, false) => (
                format!("{said}; next in {} ms", pause.as_millis()),
                Some(SignedDuration::try_from(pause).unwrap_or(SignedDuration::ZERO)),
            ),
        };
        let detail = format!("attempt {number} of {}: {next}", policy.attempts_max);
        let mut state = self.state();
        let now = state.now();
        state.tried(now, job, sent_after, (status, detail), again);
    }

    /// The HTTP code, none without an answer, and a word on it.
    async fn attempt(&self, reference: &str) -> (Option<u16>, &'static str) {
        let Some(url) = self.notifier.url_for(reference) else {
            return (None, "no notification url is set");
        };
        // The body is not read: CM asks for a code and nothing else.
        match self.notifier.client.get(url).send().await {
            Ok(response) => (Some(response.status().as_u16()), "not 200"),
            Err(error) if error.is_timeout() => (None, "no answer in time"),
            Err(error) if error.is_connect() => (None, "no connection"),
            Err(_) => (None, "the connection broke"),
        }
    }

    /// Waits until notifications were answered or given up, for as long as a caller can be held.
    pub(crate) async fn told(&self, notifications: &[u64], at_most: Duration) {
        let waiting = async {
            loop {
                let ended = self.notifier.ended.notified();
                tokio::pin!(ended);
                // Registered before the look, so that no ring between the two is missed.
                ended.as_mut().enable();
                if !notifications.iter().any(|id| self.state().is_waiting(*id)) {
                    return;
                }
                ended.await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = tokio::time::timeout(at_most, waiting) => {}
        }
    }
}
