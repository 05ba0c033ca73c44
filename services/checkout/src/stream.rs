//! What happens, as it happens? Server-sent events from the log: a client that was away says what it saw last and misses
//! nothing, whether NATS is up or not.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use kassa_chassis::{metrics, problem::Problem};
use kassa_domain::ids::OrderId;
use kassa_events_schema::Envelope;
use kassa_relay::{EventFilter, TranslateError};
use tokio::sync::{broadcast::error::RecvError, mpsc};

use crate::{
    PART,
    app::{App, Slot},
    events::{Log, Never, filter, not_beyond, position},
    handlers::accepts,
    keys::{ApiKey, Scope},
    query,
    refusal::Refused,
};

const EVENT_STREAM: &str = "text/event-stream";
/// Shorter than the patience of proxies; it also finds out that a client has gone.
const PING: Duration = Duration::from_secs(15);
/// How often a stream's key is looked up again: one that was revoked or has expired hears nothing more after this.
const KEY: Duration = Duration::from_secs(5);
/// A client that takes nothing for this long is let go: it can come back and resume.
const STUCK: Duration = Duration::from_secs(30);
/// Frames on their way to one client; a slow one is not let far ahead of itself.
const UNDER_WAY: usize = 16;

pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    RawQuery(asked): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let key = app.caller(&headers, Scope::EventsRead).await?;
    accepts(&headers, &[EVENT_STREAM])?;
    let given = query::parse(asked.as_deref(), &["after", "type", "order"])?;
    let (filter, _) = filter(&key.shop, &given)?;
    // A browser that comes back sends what it saw last beside the address that it was given at first.
    let last_seen = headers
        .get("last-event-id")
        .map(|value| value.to_str().unwrap_or_default());
    let (named, after) = match last_seen.filter(|text| !text.is_empty()) {
        Some(text) => ("Last-Event-ID", Some(position("Last-Event-ID", text)?)),
        None => {
            let given = given.iter().any(|(name, _)| name == "after");
            ("after", given.then_some(filter.after))
        }
    };
    app.queries.count(&key.shop)?;
    if let Some(after) = after {
        let head = app.store.head(PART).await;
        not_beyond(named, after, head.map_err(|_| Problem::store_unavailable())?)?;
    }
    if let Some(order) = &filter.order {
        app.owns(&key.shop, order).await?;
    }
    let slot = app.streams.enter(&key.key_id)?;
    let (frames, body) = mpsc::channel(UNDER_WAY);
    tokio::spawn(async move {
        let kind = if filter.order.is_some() { "order" } else { "events" };
        let _counted = metrics::sse_open(kind);
        let teller = Teller {
            order: filter.order.as_ref().map(OrderId::to_string),
            key,
            app,
            filter,
            frames,
            _slot: slot,
        };
        if let Err(Stop::Broken(error)) = teller.tell(after).await {
            tracing::error!(%error, "a live stream ends early");
        }
    });
    let body = stream::unfold(body, |mut frames| async {
        let frame: String = frames.recv().await?;
        Some((Ok::<_, Never>(frame), frames))
    });
    let headers = [
        (header::CONTENT_TYPE, EVENT_STREAM),
        (header::CACHE_CONTROL, "no-store"),
        // Proxies that would collect frames before they pass them on.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// One stream's end of the matter.
struct Teller {
    app: Arc<App>,
    key: ApiKey,
    filter: EventFilter,
    order: Option<String>,
    frames: mpsc::Sender<String>,
    _slot: Slot,
}

/// Why a stream ends.
enum Stop {
    /// The client has gone, or takes nothing any more.
    Gone,
    /// Its key is not valid any more; it is told so when it comes back.
    Refused,
    Broken(TranslateError),
}

impl Teller {
    async fn tell(&self, after: Option<i64>) -> Result<(), Stop> {
        // One order's story is told from its beginning; of a whole shop, what happens from now on.
        let mut seen = after;
        let mut greeted = false;
        loop {
            let (mut told, target) = self.app.feed.join().await;
            if !std::mem::replace(&mut greeted, true) {
                // Nothing that happens after this frame has come is missed.
                self.send("retry: 2000\n\n".to_owned()).await?;
            }
            let from = seen.unwrap_or(if self.order.is_some() { 0 } else { target });
            if self.catch_up(from, target).await? {
                return self.end().await;
            }
            let mut at = from.max(target);
            let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + PING, PING);
            let mut key = tokio::time::interval_at(tokio::time::Instant::now() + KEY, KEY);
            loop {
                tokio::select! {
                    () = self.app.shutdown.cancelled() => return Ok(()),
                    () = self.frames.closed() => return Err(Stop::Gone),
                    _ = ping.tick() => {
                        // With the place, so that a quiet client does not come back with an old one.
                        self.send(format!(": ping\nid: {PART}-{at}\n\n")).await?;
                    }
                    _ = key.tick() => self.allowed().await?,
                    event = told.recv() => match event {
                        Ok(event) if event.position <= at => {}
                        Ok(event) => {
                            at = event.position;
                            if self.is_ours(&event.envelope) && self.one(&event.envelope).await? {
                                return self.end().await;
                            }
                        }
                        // It fell behind what is kept: the log has it.
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return Ok(()),
                    },
                }
            }
            seen = Some(at);
        }
    }

    /// What lies between two positions, from the log; whether the order's story is over. An order's is read from its
    /// beginning, so that it is over also for who has seen the end before.
    async fn catch_up(&self, after: i64, until: i64) -> Result<bool, Stop> {
        let filter = EventFilter {
            after: if self.order.is_some() { 0 } else { after },
            until: Some(until),
            // What ends a story is looked for whatever is to be shown.
            types: if self.order.is_some() {
                vec![]
            } else {
                self.filter.types.clone()
            },
            ..self.filter.clone()
        };
        let opened = Log::open(self.app.clone(), filter).await;
        let mut log = opened.map_err(Stop::Broken)?;
        let mut over = false;
        while let Some(events) = log.next().await.map_err(Stop::Broken)? {
            // Also while there is much to catch up with; it is looked up once a second at most.
            self.allowed().await?;
            for event in events.iter().filter(|event| !event.is_internal()) {
                if number(event) > after {
                    over |= self.one(event).await?;
                } else {
                    over |= self.order.is_some() && ends(event);
                }
            }
        }
        Ok(over)
    }

    async fn allowed(&self) -> Result<(), Stop> {
        match self.app.keys.holds(&self.key).await {
            true => Ok(()),
            false => Err(Stop::Refused),
        }
    }

    fn is_ours(&self, event: &Envelope) -> bool {
        let meta = event.meta();
        self.filter
            .shop
            .as_ref()
            .is_some_and(|shop| shop.as_str() == meta.shop)
            && self
                .order
                .as_ref()
                .is_none_or(|order| *order == meta.correlation_id)
    }

    /// Shows an event if its type is wanted; whether the order's story is over with it.
    async fn one(&self, event: &Envelope) -> Result<bool, Stop> {
        if self.filter.wants(event) {
            self.send(frame(event)).await?;
        }
        Ok(self.order.is_some() && ends(event))
    }

    async fn end(&self) -> Result<(), Stop> {
        self.send("event: end\ndata: {}\n\n".to_owned()).await
    }

    async fn send(&self, frame: String) -> Result<(), Stop> {
        match tokio::time::timeout(STUCK, self.frames.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stop::Gone),
        }
    }
}

/// After these, a shop that waits for an order has what it waited for.
fn ends(event: &Envelope) -> bool {
    event.meta().aggregate.as_str() == "order"
        && matches!(
            event.event(),
            "payment_safe" | "payment_safety_lost" | "canceled" | "expired"
        )
}

fn number(event: &Envelope) -> i64 {
    i64::try_from(event.meta().position).unwrap_or(i64::MAX)
}

/// JSON has no line breaks of its own, so the data is one line.
fn frame(event: &Envelope) -> String {
    let data = serde_json::to_string(event).unwrap_or_default();
    let meta = event.meta();
    format!(
        "id: {}-{}\nevent: {}.{}\ndata: {data}\n\n",
        meta.part,
        meta.position,
        meta.aggregate.as_str(),
        event.event()
    )
}

impl App {
    /// # Errors
    /// 404 where the order is not this shop's, whatever the reason; 503 when it cannot be looked up.
    pub(crate) async fn owns(&self, shop: &str, order: &OrderId) -> Result<(), Box<Problem>> {
        let found = self.store.read_stream(order.stream(), 0, 1).await;
        let first = found.map_err(|_| Problem::store_unavailable())?;
        let owned = first
            .first()
            .is_some_and(|first| first.shop == shop && first.aggregate_id == order.to_string());
        if owned {
            Ok(())
        } else {
            Err(Box::new(Problem::not_found("order")))
        }
    }
}
