//! How does a shop learn where its orders stand? One order by id or by the shop's own reference, now or as soon as
//! something has come of it; a page of orders; and what has happened to one.

use std::{collections::BTreeSet, time::Duration};

use async_nats::HeaderMap;
use jiff::Timestamp;
use kassa_chassis::{
    config::Config,
    input,
    micro::{Asked, MicroService, Reply},
    prefer::{Preference, Until},
    problem::{FieldError, Problem},
    rate::RatePerShop,
    requests,
};
use kassa_domain::{
    ids::{OrderId, Shop},
    methods::Catalogue,
};
use kassa_event_store::{PLANNED_ANEW, Store};
use kassa_events_schema::api::{
    ExplainOrder, GetOrder, GetOrderEvents, ListMethods, ListOrders, SafeValue, queries::LIST_MAX,
};
use kassa_relay::{EventFilter, FilteredLog, TranslateError};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tokio_postgres::types::ToSql;
use tokio_util::sync::CancellationToken;

use crate::{PART, cursor, methods, why};

pub(crate) const SERVICE: MicroService = MicroService {
    name: "kassa-queries",
    description: "questions to the payment orchestrator kassa: where does an order stand?",
    version: env!("CARGO_PKG_VERSION"),
    prefix: "kassa.qry",
    verbs: &[
        "get_order",
        "get_order_events",
        "list_orders",
        "list_methods",
        "explain_order",
    ],
};

/// How long a question waits for the projection to have what was stored before it came. After it, an order that is there is
/// told as it is known: late is better than none. But one that is not there may be on its way, and is not called unknown;
/// and one that was safe may not be any more, and is not called so: somebody would ship.
const CATCH_UP: Duration = Duration::from_secs(2);
/// The longest that `Prefer: wait=N` makes a caller wait, as for commands.
const WAIT_MAX_S: u64 = 25;
/// While waiting for an order to change, it is looked at this often even when nothing is heard.
const LOOK: Duration = Duration::from_millis(500);
/// Orders on one page, where nothing else is asked.
const PAGE: i64 = 50;
/// What a list of CloudEvents is called.
const BATCH: &str = "application/cloudevents-batch+json";

/// Answers questions, however they came.
#[derive(Debug)]
pub struct Queries {
    store: Store,
    part: i32,
    shops: BTreeSet<String>,
    /// `None` where the methods' file is not usable, which was told at the start.
    methods: Option<Catalogue>,
    progress: watch::Receiver<i64>,
    /// Shops whose events are about money that exists.
    live: BTreeSet<String>,
    wait_max_s: u64,
    rates: RatePerShop,
    shutdown: CancellationToken,
}

impl Queries {
    /// `progress` tells how far the projection of orders is; see [`crate::follow`].
    pub fn new(
        config: &Config,
        store: Store,
        progress: watch::Receiver<i64>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            live: kassa_relay::shops_in_live_mode(config),
            store,
            part: PART,
            shops: config.shops.keys().cloned().collect(),
            methods: methods::catalogue(config)
                .inspect_err(|error| {
                    tracing::error!(error = format!("{error:#}"), "no methods can be listed")
                })
                .ok(),
            progress,
            wait_max_s: WAIT_MAX_S,
            rates: RatePerShop::new(config.shops.keys(), config.rate.queries_per_second),
            shutdown,
        }
    }

    /// The longest that `Prefer: wait=N` can make a caller wait here.
    #[must_use]
    pub fn waiting_at_most(mut self, seconds: u64) -> Self {
        self.wait_max_s = seconds;
        self
    }

    /// The answer to one question, whichever way it came: `verb` is one of the service's, and the headers are named and
    /// meant as on NATS.
    pub async fn answer(&self, asked: &Asked) -> Reply {
        requests::answered(requests::Kind::Query, asked, async {
            let mut reply = self.told(asked).await.unwrap_or_else(Reply::from);
            // That of commands speaks of a key that no question has.
            if let Err(problem) = &mut reply.result
                && problem.code == "validation"
            {
                ASK_AGAIN.clone_into(&mut problem.hint);
            }
            reply
        })
        .await
    }

    /// Counts one question of a shop that is answered elsewhere, such as a look at events.
    ///
    /// # Errors
    /// 429 `rate_limited`.
    pub fn count(&self, shop: &str) -> Result<(), Box<Problem>> {
        self.rates.check(shop)
    }

    async fn told(&self, asked: &Asked) -> Result<Reply, Box<Problem>> {
        if !self.shops.contains(&asked.shop) {
            return Err(Box::new(Problem::unknown_shop()));
        }
        let shop = Shop::parse(&asked.shop).map_err(|_| Problem::unknown_shop())?;
        self.rates.check(&asked.shop)?;
        match asked.verb.as_str() {
            "list_orders" => self.list_orders(&shop, input::decode(&asked.body, rule)?).await,
            "list_methods" => self.list_methods(&input::decode(&asked.body, methods::rule)?),
            "explain_order" => self.explain_order(&shop, input::decode(&asked.body, rule)?).await,
            "get_order_events" => {
                self.get_order_events(&shop, input::decode(&asked.body, rule)?)
                    .await
            }
            "get_order" => {
                let preference = preference(asked.headers.as_ref(), self.wait_max_s)?;
                self.get_order(&shop, input::decode(&asked.body, rule)?, preference)
                    .await
            }
            _ => Err(Box::new(Problem::not_found("question"))),
        }
    }

    async fn get_order(
        &self,
        shop: &Shop,
        body: GetOrder,
        preference: Preference,
    ) -> Result<Reply, Box<Problem>> {
        let order_id = order_of(shop, body.order_id, body.order_reference)?;
        let asked_for = body
            .min_position
            .as_deref()
            .map(|text| self.position(text))
            .transpose()?;
        let deadline = Instant::now() + preference.wait.unwrap_or_default();
        let until = preference.until.unwrap_or(Until::Final);
        let head = self.caught_up(asked_for).await?;
        let mut progress = self.progress.clone();
        let mut before = asked_for;
        loop {
            // Before the document is read: it has at least what was projected then.
            let caught_up = *progress.borrow_and_update() >= head;
            let document = match self.document(shop, order_id).await? {
                Some(document) if caught_up || !says_safe(&document) => document,
                Some(_) => return Err(Box::new(behind())),
                None if caught_up => return Err(Box::new(Problem::not_found("order"))),
                None => return Err(Box::new(behind())),
            };
            let at = document["position"].as_str().unwrap_or_default().to_owned();
            let number = self.position(&at).unwrap_or_default();
            let come =
                number > *before.get_or_insert(number) && until == Until::Change || reached(&document, until);
            let enough = preference.wait.is_none() || come || Instant::now() >= deadline;
            if enough || self.shutdown.is_cancelled() {
                let mut reply = Reply::new(to_bytes(&document)).at(at);
                reply.preference = preference
                    .wait
                    .map(|wait| format!("wait={}; for={}", wait.as_secs(), until.as_str()));
                return Ok(reply);
            }
            let look = deadline.min(Instant::now() + LOOK);
            tokio::select! {
                // Answered with what there is: the shop asks again, and another instance answers.
                () = self.shutdown.cancelled() => {}
                _ = tokio::time::timeout_at(look, progress.changed()) => {}
            }
        }
    }

    fn list_methods(&self, body: &ListMethods) -> Result<Reply, Box<Problem>> {
        let known = self.methods.as_ref().ok_or_else(Problem::store_unavailable)?;
        let list = methods::list(known, body, self.store.clock().now())?;
        Ok(Reply::new(
            serde_json::to_vec(&list).map_err(|_| Box::new(Problem::store_unavailable())),
        ))
    }

    async fn explain_order(&self, shop: &Shop, body: ExplainOrder) -> Result<Reply, Box<Problem>> {
        let order_id = order_of(shop, body.order_id, body.order_reference)?;
        let head = self.caught_up(None).await?;
        let caught_up = *self.progress.borrow() >= head;
        match why::explain_order(&self.store, shop, order_id).await? {
            Some(told) if !caught_up && told.safe == SafeValue::Yes => Err(Box::new(behind())),
            Some(told) => {
                let position = told.position.clone();
                let bytes = serde_json::to_vec(&told).map_err(|_| Problem::store_unavailable())?;
                Ok(Reply::new(Ok(bytes)).at(position))
            }
            None if caught_up => Err(Box::new(Problem::not_found("order"))),
            None => Err(Box::new(behind())),
        }
    }

    async fn get_order_events(&self, shop: &Shop, body: GetOrderEvents) -> Result<Reply, Box<Problem>> {
        let order_id = order_of(shop, Some(body.order_id), None)?;
        // One look for what is another shop's and for what there is not: both are told alike, and as fast.
        let beginning = self.store.read_stream(order_id.stream(), 0, 1).await;
        let beginning = beginning.map_err(|_| Problem::store_unavailable())?;
        if beginning.first().is_none_or(|first| first.shop != shop.as_str()) {
            return Err(Box::new(Problem::not_found("order")));
        }
        let filter = EventFilter {
            part: self.part,
            shop: Some(shop.clone()),
            order: Some(order_id),
            ..EventFilter::default()
        };
        let mut log = FilteredLog::open(self.store.clone(), self.live.clone(), filter)
            .await
            .map_err(untellable)?;
        let mut position = None;
        let mut told = Vec::new();
        while let Some(events) = log.next().await.map_err(untellable)? {
            for event in events {
                position = Some(format!("{}-{}", event.meta().part, event.meta().position));
                // What is our own business has no data, and tells a shop nothing.
                if !event.is_internal() {
                    told.push(event);
                }
            }
        }
        let bytes = serde_json::to_vec(&told).map_err(|_| Problem::store_unavailable())?;
        let mut reply = Reply::new(Ok(bytes));
        reply.content_type = BATCH;
        reply.position = position;
        Ok(reply)
    }

    async fn list_orders(&self, shop: &Shop, body: ListOrders) -> Result<Reply, Box<Problem>> {
        let mut wrong = Vec::new();
        let limit = body.limit.map_or(PAGE, i64::from);
        if !(1..=i64::from(LIST_MAX)).contains(&limit) {
            wrong.push(FieldError::new("/limit", "invalid", rule("/limit")));
        }
        let status = body
            .status
            .as_deref()
            .map(|asked| STATUSES.into_iter().find(|status| *status == asked));
        if status == Some(None) {
            wrong.push(FieldError::new("/status", "invalid", rule("/status")));
        }
        let scope = format!("{shop} {}", body.status.as_deref().unwrap_or_default());
        let after = match body.after.as_deref().map(|text| cursor::read(&scope, text)) {
            None => None,
            Some(Some(place)) => Some(place),
            Some(None) => {
                wrong.push(FieldError::new("/after", "invalid", rule("/after")));
                None
            }
        };
        if !wrong.is_empty() {
            return Err(Box::new(Problem::validation(wrong)));
        }
        let head = self.caught_up(None).await?;
        // Before the rows are read: they have at least what was projected then.
        let projected = *self.progress.borrow();
        let (at, id) = after.unzip();
        let client = self
            .store
            .pool()
            .get()
            .await
            .map_err(|_| Problem::store_unavailable())?;
        let sql = list(status.flatten());
        let statement = client
            .prepare_cached(&sql)
            .await
            .map_err(|_| Problem::store_unavailable())?;
        let (shop_token, many) = (shop.as_str(), limit + 1);
        let params: [&(dyn ToSql + Sync); 4] = [&shop_token, &at, &id, &many];
        let (begun, rows, ended) = futures::join!(
            client.batch_execute(PLANNED_ANEW),
            client.query(&statement, &params),
            client.batch_execute("COMMIT"),
        );
        let rows = begun
            .and(rows)
            .and_then(|rows| ended.map(|()| rows))
            .map_err(|_| Problem::store_unavailable())?;
        let page = usize::try_from(limit).unwrap_or_default();
        let orders: Vec<Value> = rows.iter().take(page).map(|row| row.get(0)).collect();
        if projected < head && orders.iter().any(says_safe) {
            return Err(Box::new(behind()));
        }
        let mut answer = json!({ "orders": orders });
        if rows.len() > page
            && let Some(last) = rows.get(page.saturating_sub(1))
        {
            answer["next"] = cursor::write(&scope, last.get::<_, Timestamp>(1), last.get(2)).into();
        }
        Ok(Reply::new(to_bytes(&answer)).at(format!("{}-{projected}", self.part)))
    }

    async fn document(&self, shop: &Shop, order_id: OrderId) -> Result<Option<Value>, Box<Problem>> {
        let client = self
            .store
            .pool()
            .get()
            .await
            .map_err(|_| Problem::store_unavailable())?;
        let row = client
            .query_opt(
                "SELECT document FROM read_orders WHERE order_id = $1 AND shop = $2",
                &[&order_id.to_string(), &shop.as_str()],
            )
            .await
            .map_err(|_| Problem::store_unavailable())?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Waits until the projection has everything that was stored before this question, at most [`CATCH_UP`]; up to where
    /// that is. Who names a position gets what was there then or later, or is told to ask again: that is what he asked for.
    async fn caught_up(&self, asked_for: Option<i64>) -> Result<i64, Box<Problem>> {
        let head = self.store.head(self.part).await;
        let head = head.map_err(|_| Problem::store_unavailable())?;
        // Waiting for what nobody has written would end in a 503, for a mistake of the caller's.
        if asked_for.is_some_and(|asked| asked > head) {
            return Err(Box::new(Problem::validation(vec![FieldError::new(
                "/min_position",
                "invalid",
                format!(
                    "is beyond the end of the log, {}-{head}: give a position that an answer gave",
                    self.part
                ),
            )])));
        }
        let mut progress = self.progress.clone();
        let _ = tokio::time::timeout(CATCH_UP, progress.wait_for(|position| *position >= head)).await;
        let projected = *progress.borrow();
        match asked_for {
            Some(position) if projected < position => Err(Box::new(behind())),
            Some(_) | None => Ok(head),
        }
    }

    /// `part-number` of our part.
    fn position(&self, text: &str) -> Result<i64, Box<Problem>> {
        kassa_relay::position(text)
            .ok()
            .filter(|(part, _)| *part == self.part)
            .map(|(_, number)| number)
            .ok_or_else(|| {
                let error = FieldError::new("/min_position", "invalid", rule("/min_position"));
                Box::new(Problem::validation(vec![error]))
            })
    }
}

/// What to do about a question that is not valid.
pub const ASK_AGAIN: &str = "correct the fields named in errors and ask again";

pub(crate) const STATUSES: [&str; 6] = ["open", "pending", "partially_paid", "paid", "canceled", "expired"];

/// A page of a shop's orders. The status is one of our own words, and stands in the text: only so can the index of what is
/// not paid be used.
pub(crate) fn list(status: Option<&'static str>) -> String {
    let of_status = match status {
        Some(status) => format!("AND status = '{status}'"),
        None => String::new(),
    };
    format!(
        "SELECT document, created_at, order_id FROM read_orders
          WHERE shop = $1 {of_status} AND ($2::timestamptz IS NULL OR (created_at, order_id) < ($2, $3))
          ORDER BY created_at DESC, order_id DESC LIMIT $4"
    )
}

/// Whether what is waited for has come, or cannot come any more.
fn reached(document: &Value, until: Until) -> bool {
    let status = document["status"].as_str().unwrap_or_default();
    let over = matches!(status, "canceled" | "expired");
    match until {
        Until::Safe => over || matches!(document["safe"]["value"].as_str(), Some("yes" | "lost")),
        Until::Final => over || status == "paid",
        Until::Change => false,
    }
}

fn preference(headers: Option<&HeaderMap>, max_s: u64) -> Result<Preference, Box<Problem>> {
    headers
        .and_then(|headers| headers.get("Prefer"))
        .map_or(Ok(Preference::default()), |value| {
            Preference::parse(value.as_str(), max_s)
        })
}

/// The order that is meant. A malformed id and an id of another shop get one answer.
fn order_of(shop: &Shop, id: Option<String>, reference: Option<String>) -> Result<OrderId, Box<Problem>> {
    match (id, reference) {
        // What is no id at all is looked for as well, under a reference that no order can have: it takes as long to say no.
        (Some(id), None) => {
            Ok(OrderId::parse(&id).unwrap_or_else(|_| OrderId::new(shop, &format!("\0{id}"))))
        }
        (None, Some(reference)) => Ok(OrderId::new(shop, &reference)),
        (Some(_), Some(_)) | (None, None) => {
            let error = |pointer: &str| {
                FieldError::new(
                    pointer,
                    "one_of",
                    "give either order_id or order_reference, and not both",
                )
            };
            Err(Box::new(Problem::validation(vec![
                error("/order_id"),
                error("/order_reference"),
            ])))
        }
    }
}

fn untellable(error: TranslateError) -> Box<Problem> {
    if !matches!(error, TranslateError::Store(_)) {
        tracing::error!(%error, "an event cannot be told");
    }
    Box::new(Problem::store_unavailable())
}

fn to_bytes(document: &Value) -> Result<Vec<u8>, Box<Problem>> {
    serde_json::to_vec(document).map_err(|_| Box::new(Problem::store_unavailable()))
}

fn says_safe(document: &Value) -> bool {
    document["safe"]["value"] == "yes"
}

/// The same for every shop and id: whether it is an order is what nobody knows yet.
fn behind() -> Problem {
    let mut problem = Problem::of(
        "store_unavailable",
        "orders are being read in, and what has become of this one is not known yet",
        "ask again a little later",
    );
    problem.retry_after_s = Some(1);
    problem
}

fn rule(pointer: &str) -> &'static str {
    match pointer {
        "/order_id" => "must be the order_id that create_order gave",
        "/order_reference" => "must be the shop's own reference, as a text",
        "/min_position" => "must be a position that an earlier answer gave, such as 0-41992",
        "/status" => "must be one of open, pending, partially_paid, paid, canceled, expired",
        "/limit" => "must be a whole number, 1 to 200",
        "/after" => "must be the next of the page before, asked with the same status",
        _ => "must be a JSON object with what is asked",
    }
}
