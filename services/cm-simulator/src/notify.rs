//! How does a merchant hear that something changed, and what if he does not listen?
//!
//! A GET with the merchant reference and nothing else, after every change of a payment. Anything but 200 is a failed
//! attempt, a redirect too. Every attempt is a ledger row.

use std::{
    borrow::Cow,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::redirect;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    app::App,
    clock,
    config::NotificationPolicy,
    ledger::{About, Entry, Kind, Op},
};

/// Calls under way at once: enough for a load test, few enough for a development machine's sockets.
const IN_FLIGHT_MAX: usize = 64;
/// Notifications waiting or under way; one costs about 1 KB. Beyond it they are given up at once, which a client must
/// survive anyway.
const PENDING_MAX: usize = 20_000;

#[derive(Debug)]
pub(crate) struct Notifier {
    client: reqwest::Client,
    policy: NotificationPolicy,
    url: Mutex<Option<String>>,
    in_flight: Semaphore,
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
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
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
    /// Notifies as often as the order's scenario says, without waiting for it.
    pub(crate) fn notify(self: &Arc<Self>, op: Op, order_key: &str, payment_id: &str) {
        let (about, copies) = {
            let mut state = self.state();
            let Some(order) = state.order_mut(order_key) else {
                return;
            };
            let copies = order.scenario.notification_copies();
            let about = About {
                payment_id: Some(payment_id.into()),
                ..order.about()
            };
            if self.notifier.url_for("").is_none() {
                return;
            }
            if self.notifier.tasks.len() + copies > PENDING_MAX {
                let detail = "given up at once: too many notifications are waiting";
                state
                    .ledger
                    .push(clock::now(), attempt(op, about, None, Cow::Borrowed(detail)));
                return;
            }
            order.notifications_pending += copies;
            (about, copies)
        };
        for _ in 0..copies {
            let (app, about) = (self.clone(), about.clone());
            self.notifier.tasks.spawn(async move {
                tokio::select! {
                    () = app.stop.cancelled() => {}
                    () = app.deliver(op, &about) => {}
                }
                let mut state = app.state();
                if let Some(order) = about.order_key.as_deref().and_then(|key| state.order_mut(key)) {
                    order.notifications_pending = order.notifications_pending.saturating_sub(1);
                }
            });
        }
    }

    async fn deliver(&self, op: Op, about: &About) {
        let policy = self.notifier.policy;
        let mut pause = policy.backoff_first;
        for number in 1..=policy.attempts_max {
            let (status, said) = self.attempt(about).await;
            let delivered = status == Some(200);
            let last = number == policy.attempts_max;
            let next = match (delivered, last) {
                (true, _) => "delivered".to_owned(),
                (false, true) => format!("{said}; given up"),
                (false, false) => format!("{said}; next in {} ms", pause.as_millis()),
            };
            let detail = format!("attempt {number} of {}: {next}", policy.attempts_max);
            self.state().ledger.push(
                clock::now(),
                attempt(op, about.clone(), status, Cow::Owned(detail)),
            );
            if delivered || last {
                return;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(policy.backoff_max);
        }
    }

    /// The HTTP code, none without an answer, and a word on it.
    async fn attempt(&self, about: &About) -> (Option<u16>, &'static str) {
        let reference = about.reference.as_deref().unwrap_or_default();
        let Some(url) = self.notifier.url_for(reference) else {
            return (None, "no notification url is set");
        };
        let Ok(_permit) = self.notifier.in_flight.acquire().await else {
            return (None, "the simulator stops");
        };
        // The body is not read: CM asks for a code and nothing else.
        match self.notifier.client.get(url).send().await {
            Ok(response) => (Some(response.status().as_u16()), "not 200"),
            Err(error) if error.is_timeout() => (None, "no answer in time"),
            Err(error) if error.is_connect() => (None, "no connection"),
            Err(_) => (None, "the connection broke"),
        }
    }
}

fn attempt(op: Op, about: About, status: Option<u16>, detail: Cow<'static, str>) -> Entry {
    Entry {
        kind: Kind::Notification,
        op,
        about,
        body_sha256: None,
        status,
        detail: Some(detail),
    }
}
