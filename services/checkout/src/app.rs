//! What is served where? Every route on one screen, and what they share.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    http::HeaderMap,
    middleware,
    routing::{MethodRouter, get, post},
};
use kassa_chassis::{
    config::{Config, Mode},
    problem::{FieldError, Problem},
};
use kassa_engine::Commands;
use kassa_event_store::Store;
use kassa_read_models::Queries;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    events,
    feed::Feed,
    handlers,
    keys::{self, ApiKey, Keys, Scope},
    pages,
    refusal::{self, Refused},
    stream,
};

/// Answers made of past events that are under way at once: each holds a step of the log, some megabytes at most.
const READERS: usize = 64;
/// For one API key: enough for a reader by hand beside a nightly one, and a small part of all.
const READERS_PER_KEY: usize = 4;
/// Of the pool's connections, one in so many may read steps of the log, for readers and for streams that catch up: the
/// others are left to look up keys and to decide commands, whatever is being read.
const READING: usize = 2;

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
    pub(crate) readers: Slots,
    /// A turn at the log, taken for one step of reading.
    pub(crate) turns: Semaphore,
    pub(crate) shutdown: CancellationToken,
    pub(crate) keys: Keys,
    shops: BTreeMap<String, Mode>,
    in_flight: InFlight,
}

/// A method and address, and what answers it.
type Route = (&'static str, &'static str, MethodRouter<Arc<App>>);

/// Everything that is answered. A test holds it against the contract, in both directions.
fn routes() -> [Route; 15] {
    [
        ("post", "/v1/orders", post(handlers::create_order)),
        ("get", "/v1/orders", get(handlers::orders)),
        ("get", "/v1/orders/{order_id}", get(handlers::order)),
        (
            "post",
            "/v1/orders/{order_id}/payments",
            post(handlers::start_payment),
        ),
        (
            "post",
            "/v1/orders/{order_id}/cancel",
            post(handlers::cancel_order),
        ),
        ("get", "/v1/orders/{order_id}/events", get(handlers::order_events)),
        ("get", "/v1/orders/{order_id}/why", get(handlers::why)),
        ("get", "/v1/methods", get(handlers::methods)),
        ("get", "/v1/events", get(events::events)),
        ("get", "/v1/events/stream", get(stream::stream)),
        ("get", "/openapi.json", get(pages::openapi)),
        ("get", "/asyncapi.json", get(pages::asyncapi)),
        ("get", "/docs/api", get(pages::api)),
        ("get", "/problems/{code}", get(pages::problem)),
        ("get", "/schemas/{*path}", get(pages::schema)),
    ]
}

pub(crate) fn router(app: Arc<App>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (_, path, answers)| {
            router.route(path, answers)
        })
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
            streams: Slots::new(
                "live streams",
                config.checkout.streams,
                config.checkout.streams_per_key,
            ),
            readers: Slots::new("readers of past events", READERS, READERS_PER_KEY),
            turns: Semaphore::new((config.database.max_connections / READING).max(1)),
            shops: config
                .shops
                .iter()
                .map(|(shop, of)| (shop.clone(), of.cm.mode))
                .collect(),
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
        let Some(mode) = self.shops.get(&key.shop) else {
            return Err(Box::new(Problem::of(
                "forbidden",
                "the shop of this API key is not served here",
                "ask the installation that serves the shop",
            )));
        };
        // A key that was passed around while money did not exist must not open the shop once it does.
        if key.mode != mode_of(*mode) {
            return Err(keys::refused());
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

/// Places for what is kept open, in all and for each API key.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    /// What has its places here, in the plural.
    what: &'static str,
    open: Arc<Mutex<HashMap<String, usize>>>,
    max: usize,
    max_per_key: usize,
}

/// One place; it is free again when this goes.
#[derive(Debug)]
pub(crate) struct Slot(Slots, String);

impl Slots {
    fn new(what: &'static str, max: usize, max_per_key: usize) -> Self {
        Self {
            what,
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
                    "{}: at most {} for one API key, {} in all",
                    self.what, self.max_per_key, self.max
                ),
                "close one that nobody reads, or wait until one has ended",
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

/// As a key's text says it.
fn mode_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Sim => "sim",
        Mode::Test => "test",
        Mode::Live => "live",
    }
}

/// One wrong parameter.
pub(crate) fn wrong(name: &str, detail: impl Into<String>) -> Box<Problem> {
    Box::new(Problem::validation(vec![FieldError::new(
        name, "invalid", detail,
    )]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_is_what_the_contract_says_and_the_other_way_round() {
        let document: serde_json::Value = serde_json::from_str(pages::OPENAPI).expect("the contract is JSON");
        let paths = document["paths"].as_object().expect("paths");
        let documented: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, operations)| {
                let methods = operations.as_object().into_iter().flatten();
                methods.map(|(method, _)| (method.clone(), path.clone()))
            })
            .collect();
        let answered: BTreeSet<(String, String)> = routes()
            .into_iter()
            // One parameter for several segments is what OpenAPI cannot write.
            .map(|(method, path, _)| (method.to_owned(), path.replace("{*", "{")))
            .collect();
        assert_eq!(answered, documented);
    }

    #[test]
    fn places_are_few_for_one_key_and_free_again_when_they_are_left() {
        let slots = Slots::new("readers", 3, 2);
        let held = [slots.enter("a"), slots.enter("a")];
        assert!(held.iter().all(Result::is_ok));
        let refused = slots.enter("a").expect_err("two are held");
        assert_eq!((refused.status, refused.code.as_str()), (429, "rate_limited"));
        assert!(refused.detail.starts_with("readers: at most 2"), "{refused:?}");
        let other = slots.enter("b").expect("another key has places");
        assert!(slots.enter("c").is_err(), "there are three in all");
        drop(other);
        assert!(slots.enter("c").is_ok());
        drop(held);
        assert!(slots.enter("a").is_ok());
    }
}
