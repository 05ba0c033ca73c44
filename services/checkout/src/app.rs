//! What is served where? Every route on one screen, and what they share.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    http::HeaderMap,
    middleware,
    routing::{get, post},
};
use kassa_chassis::{
    config::Config,
    problem::{FieldError, Problem},
};
use kassa_engine::Commands;
use kassa_event_store::Store;
use kassa_read_models::Queries;
use tokio_util::sync::CancellationToken;

use crate::{
    events,
    feed::Feed,
    handlers,
    keys::{ApiKey, Keys, Scope},
    pages,
    refusal::{self, Refused},
    stream,
};

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) commands: Commands,
    pub(crate) queries: Queries,
    pub(crate) feed: Feed,
    /// Shops whose events are about money that exists.
    pub(crate) live: BTreeSet<String>,
    pub(crate) streams: Slots,
    pub(crate) shutdown: CancellationToken,
    keys: Keys,
    shops: BTreeSet<String>,
    in_flight: InFlight,
}

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/orders", post(handlers::create_order).get(handlers::orders))
        .route("/v1/orders/{id}", get(handlers::order))
        .route("/v1/orders/{id}/payments", post(handlers::start_payment))
        .route("/v1/orders/{id}/cancel", post(handlers::cancel_order))
        .route("/v1/orders/{id}/events", get(handlers::order_events))
        .route("/v1/orders/{id}/why", get(handlers::why))
        .route("/v1/methods", get(handlers::methods))
        .route("/v1/events", get(events::events))
        .route("/v1/events/stream", get(stream::stream))
        .route("/openapi.json", get(pages::openapi))
        .route("/asyncapi.json", get(pages::asyncapi))
        .route("/docs/api", get(pages::api))
        .route("/problems/{code}", get(pages::problem))
        .route("/schemas/{*path}", get(pages::schema))
        .fallback(async || Refused::from(refusal::no_such_route()))
        .method_not_allowed_fallback(async || Refused::from(refusal::method_not_allowed()))
        .with_state(app)
        .layer(middleware::from_fn(refusal::at_the_edge))
}

impl App {
    pub(crate) fn new(
        config: &Config,
        store: Store,
        commands: Commands,
        queries: Queries,
        shutdown: CancellationToken,
    ) -> Self {
        let live = kassa_relay::shops_in_live_mode(config);
        Self {
            feed: Feed::new(store.clone(), live.clone()),
            keys: Keys::new(store.clone()),
            streams: Slots::new(config.checkout.streams, config.checkout.streams_per_key),
            shops: config.shops.keys().cloned().collect(),
            in_flight: InFlight::default(),
            store,
            commands,
            queries,
            live,
            shutdown,
        }
    }

    /// Who is asking, if he may.
    ///
    /// # Errors
    /// 401, 403 or 503, before anything else of the request is looked at.
    pub(crate) async fn caller(&self, headers: &HeaderMap, scope: Scope) -> Result<ApiKey, Box<Problem>> {
        let mut given = headers.get_all("authorization").iter();
        let (first, second) = (given.next(), given.next());
        let text = first
            .filter(|_| second.is_none())
            .and_then(|value| value.to_str().ok());
        let key = self.keys.recognise(text).await?;
        if !self.shops.contains(&key.shop) {
            return Err(Box::new(Problem::of(
                "forbidden",
                "the shop of this API key is not served here",
                "ask the installation that serves the shop",
            )));
        }
        key.must_have(scope)?;
        Ok(key)
    }

    /// Takes the idempotency key for as long as its request is under way here.
    ///
    /// # Errors
    /// 409 `idempotency_in_flight`.
    pub(crate) fn take(&self, shop: &str, key: &str) -> Result<Taken, Box<Problem>> {
        let name = (shop.to_owned(), key.to_owned());
        let mut names = self.in_flight.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !names.insert(name.clone()) {
            let mut problem = Problem::of(
                "idempotency_in_flight",
                "a request with this Idempotency-Key has not been answered yet",
                "send it again in a second: it is then answered as the first was",
            );
            problem.retry_after_s = Some(1);
            return Err(Box::new(problem));
        }
        Ok(Taken(self.in_flight.clone(), name))
    }
}

/// Idempotency keys whose requests are under way in this process, by shop. Another process decides once as well: the
/// command log sees to it.
#[derive(Debug, Clone, Default)]
struct InFlight(Arc<Mutex<HashSet<(String, String)>>>);

/// One of them; gone when the request is.
#[derive(Debug)]
pub(crate) struct Taken(InFlight, (String, String));

impl Drop for Taken {
    fn drop(&mut self) {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.1);
    }
}

/// Places for live streams, in all and for each API key.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    open: Arc<Mutex<HashMap<String, usize>>>,
    max: usize,
    max_per_key: usize,
}

/// One open stream; leaves its place when it goes.
#[derive(Debug)]
pub(crate) struct Slot(Slots, String);

impl Slots {
    fn new(max: usize, max_per_key: usize) -> Self {
        Self {
            open: Arc::default(),
            max,
            max_per_key,
        }
    }

    /// # Errors
    /// 429 `rate_limited`.
    pub(crate) fn enter(&self, key_id: &str) -> Result<Slot, Box<Problem>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let mine = open.get(key_id).copied().unwrap_or_default();
        if all >= self.max || mine >= self.max_per_key {
            let mut problem = Problem::of(
                "rate_limited",
                format!(
                    "live streams: at most {} for one API key, {} in all",
                    self.max_per_key, self.max
                ),
                "close a stream that nobody reads, or share one",
            );
            problem.retry_after_s = Some(5);
            return Err(Box::new(problem));
        }
        *open.entry(key_id.to_owned()).or_default() += 1;
        Ok(Slot(self.clone(), key_id.to_owned()))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

/// One wrong parameter.
pub(crate) fn wrong(name: &str, detail: impl Into<String>) -> Box<Problem> {
    Box::new(Problem::validation(vec![FieldError::new(
        name, "invalid", detail,
    )]))
}
