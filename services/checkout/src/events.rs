//! What has happened to a shop's orders? From the log itself: a page as JSON, or everything that fits as NDJSON, streamed
//! without holding more than a step of it.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use kassa_chassis::problem::Problem;
use kassa_domain::ids::{OrderId, Shop};
use kassa_events_schema::Envelope;
use kassa_relay::{Bound, EventFilter, FilterError, FilteredLog, TranslateError};

use crate::{
    PART,
    app::{App, Slot, wrong},
    handlers::{accepts, link},
    keys::Scope,
    query,
    refusal::Refused,
};

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";
/// Events on a page, where nothing else is asked.
const PAGE: usize = 100;
/// Some megabytes of JSON.
const PAGE_MAX: usize = 1_000;

const PARAMETERS: [&str; 9] = [
    "after",
    "type",
    "shop",
    "order",
    "method",
    "from",
    "to",
    "as_known_at",
    "limit",
];

pub(crate) async fn events(
    State(app): State<Arc<App>>,
    RawQuery(asked): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let key = app.caller(&headers, Scope::EventsRead).await?;
    let kind = accepts(&headers, &[JSON, NDJSON])?;
    let given = query::parse(asked.as_deref(), &PARAMETERS)?;
    let (mut filter, limit) = filter(&key.shop, &given)?;
    app.queries.count(&key.shop)?;
    let kept: Vec<_> = given
        .iter()
        .filter(|(name, _)| name != "after")
        .cloned()
        .collect();
    if let Some(order) = &filter.order {
        app.owns(&key.shop, order).await?;
    }
    let head = app
        .store
        .head(PART)
        .await
        .map_err(|_| Problem::store_unavailable())?;
    not_beyond("after", filter.after, head)?;
    let until = filter.until.map_or(head, |until| until.min(head));
    // The end is looked for once: what is stored while this is read belongs to the next page, and is told there.
    filter.until = Some(until);
    let slot = app.readers.enter(&key.key_id)?;
    let mut log = Log::open(app.clone(), filter)
        .await
        .map_err(|error| unreadable(&error))?;
    if kind == NDJSON && limit.is_none() {
        let mut response = (
            [
                (header::CONTENT_TYPE, NDJSON),
                (header::CACHE_CONTROL, "no-store"),
            ],
            Body::from_stream(lines(log, slot)),
        )
            .into_response();
        at(&mut response, until);
        link(&mut response, "/v1/events", &kept, &format!("{PART}-{until}"));
        return Ok(response);
    }
    let limit = limit.unwrap_or(PAGE);
    let mut page: Vec<Envelope> = Vec::new();
    let mut ended = false;
    while page.len() <= limit && !ended {
        match log.next().await.map_err(|error| unreadable(&error))? {
            Some(some) => page.extend(some.into_iter().filter(|envelope| !envelope.is_internal())),
            None => ended = true,
        }
    }
    let more = page.len() > limit;
    page.truncate(limit);
    let last = page
        .last()
        .map(|envelope| i64::try_from(envelope.meta().position).unwrap_or(i64::MAX));
    let reached = if more { last.unwrap_or(until) } else { until };
    let body = if kind == NDJSON {
        ndjson(&page)
    } else {
        serde_json::to_vec(&page).unwrap_or_default()
    };
    let mut response = (
        [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")],
        body,
    )
        .into_response();
    at(&mut response, reached);
    // Also from the end: what happens later is found there.
    link(&mut response, "/v1/events", &kept, &format!("{PART}-{reached}"));
    Ok(response)
}

/// The log, read in turns: whoever reads, and however many do, connections are left for what cannot wait.
pub(crate) struct Log {
    app: Arc<App>,
    log: FilteredLog,
}

impl Log {
    /// # Errors
    /// As [`FilteredLog::open`].
    pub(crate) async fn open(app: Arc<App>, filter: EventFilter) -> Result<Self, TranslateError> {
        let log = {
            // Never closed; and if it were, reading without a turn would be right.
            let _turn = app.turns.acquire().await;
            FilteredLog::open(app.store.clone(), app.live.clone(), filter).await?
        };
        Ok(Self { app, log })
    }

    /// As [`FilteredLog::next`]. A turn is not held while the reader takes what it was given.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<Envelope>>, TranslateError> {
        let _turn = self.app.turns.acquire().await;
        self.log.next().await
    }
}

fn at(response: &mut Response, position: i64) {
    if let Ok(value) = HeaderValue::from_str(&format!("{PART}-{position}")) {
        response.headers_mut().insert("Kassa-Position", value);
    }
}

/// Step by step to the end; an event that cannot be read ends it early, and the connection with it, so that the reader
/// sees that it is not whole.
fn lines(log: Log, slot: Slot) -> impl stream::Stream<Item = Result<Vec<u8>, TranslateError>> {
    stream::unfold(Some((log, slot)), |state| async {
        let (mut log, slot) = state?;
        loop {
            match log.next().await {
                Ok(Some(events)) => {
                    let shown: Vec<_> = events.into_iter().filter(|event| !event.is_internal()).collect();
                    if !shown.is_empty() {
                        return Some((Ok(ndjson(&shown)), Some((log, slot))));
                    }
                }
                Ok(None) => return None,
                Err(error) => {
                    tracing::error!(%error, "events cannot be told");
                    return Some((Err(error), None));
                }
            }
        }
    })
}

fn ndjson(events: &[Envelope]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        bytes.extend(serde_json::to_vec(event).unwrap_or_default());
        bytes.push(b'\n');
    }
    bytes
}

/// The filter that the parameters say, for one shop, and the limit.
pub(crate) fn filter(
    shop: &str,
    given: &[(String, String)],
) -> Result<(EventFilter, Option<usize>), Box<Problem>> {
    let mut filter = EventFilter {
        part: PART,
        shop: Some(Shop::parse(shop).map_err(|_| Problem::unknown_shop())?),
        ..EventFilter::default()
    };
    let mut limit = None;
    for (name, text) in given {
        let because = |error: FilterError| wrong(name, error.to_string());
        match name.as_str() {
            "after" => filter.after = position(name, text)?,
            "type" => {
                let patterns: Result<_, _> = text.split(',').map(str::parse).collect();
                filter.types = patterns.map_err(because)?;
            }
            "shop" if text == shop => {}
            // As for another shop's orders: whether there is such a shop is not said.
            "shop" => return Err(Box::new(Problem::not_found("shop"))),
            "order" => {
                filter.order = Some(OrderId::parse(text).map_err(|_| Problem::not_found("order"))?);
            }
            "method" => filter.method = Some(kassa_relay::method(text).map_err(because)?),
            "from" => filter.from = Some(kassa_relay::time(text).map_err(because)?),
            "to" => match text.parse::<Bound>().map_err(because)? {
                Bound::Time(moment) => filter.to = Some(moment),
                Bound::Position { .. } => filter.until = Some(position(name, text)?),
            },
            "as_known_at" => filter.as_known_at = Some(kassa_relay::time(text).map_err(because)?),
            "limit" => {
                let number = text
                    .bytes()
                    .all(|b| b.is_ascii_digit())
                    .then(|| text.parse::<usize>().ok());
                let fits = number.flatten().filter(|number| (1..=PAGE_MAX).contains(number));
                let rule = || wrong("limit", format!("must be a whole number, 1 to {PAGE_MAX}"));
                limit = Some(fits.ok_or_else(rule)?);
            }
            _ => {}
        }
    }
    filter.check().map_err(|error| wrong("to", error.to_string()))?;
    Ok((filter, limit))
}

/// A position of our part.
pub(crate) fn position(name: &str, text: &str) -> Result<i64, Box<Problem>> {
    match kassa_relay::position(text) {
        Ok((PART, number)) => Ok(number),
        Ok(_) => Err(wrong(name, format!("there is one part: write {PART}-number"))),
        Err(error) => Err(wrong(name, error.to_string())),
    }
}

/// Where nothing has happened yet, nothing can have been seen: after a backup was put back, or with another installation's
/// position, a reader would be deaf to what comes in between.
pub(crate) fn not_beyond(name: &str, after: i64, head: i64) -> Result<(), Box<Problem>> {
    if after <= head {
        return Ok(());
    }
    let detail =
        format!("is beyond the end of the log, {PART}-{head}: read again from a position that was reached");
    Err(wrong(name, detail))
}

pub(crate) fn unreadable(error: &TranslateError) -> Box<Problem> {
    tracing::error!(%error, "events cannot be told");
    Box::new(Problem::store_unavailable())
}

/// For bodies that cannot fail.
pub(crate) type Never = Infallible;
