//! Which of all that happened is wanted? One filter in the words of the contract, for the command line and for HTTP alike.

use std::{collections::BTreeSet, str::FromStr};

use jiff::Timestamp;
use kassa_domain::{
    ids::{OrderId, PaymentId, Shop},
    payment::Method,
};
use kassa_event_store::{Found, LogFilter, Store, StoreError};
use kassa_events_schema::{CATALOGUE, Envelope, INTERNAL};
use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;

use crate::{TranslateError, Translator};

/// Events that are read at first: many want no more. A few hundred kilobytes.
const FIRST: usize = 500;
/// Events that are read at once by who goes on, and then more are read while these are translated: some megabytes. With
/// fewer, asking takes longer than answering.
const STEP: usize = 2_000;
/// Events of an order's own stream that are looked through for its payments, a step: more than an order has.
const ORDER_STEP: usize = 1_000;

/// Only what all that is given says; everything where nothing is.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    pub part: i32,
    /// Only what comes after this position.
    pub after: i64,
    /// Up to this position; without it, up to the end as it is when reading begins.
    pub until: Option<i64>,
    /// Any of these; empty means all.
    pub types: Vec<TypePattern>,
    pub shop: Option<Shop>,
    /// Only payments by this method; an order has none.
    pub method: Option<Method>,
    /// This order and its payments.
    pub order: Option<OrderId>,
    /// By the event's `time`: the first moment that is wanted.
    pub from: Option<Timestamp>,
    /// By the event's `time`: the first moment that is not wanted any more.
    pub to: Option<Timestamp>,
    /// Only what we knew at that moment, by `recordedtime`.
    pub as_known_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("{0:?} is neither a position nor a time: write 0-41992, or 2026-11-01T00:00:00Z")]
    Bound(String),
    #[error("{0:?} is not a time: write it with date, time and offset, such as 2026-11-01T00:00:00Z")]
    Time(String),
    #[error("{0:?} is not a position: write part-number, such as 0-41992; 0-0 is the beginning")]
    Position(String),
    #[error("{0:?} is not an event type: write payment.*, order.payment_safe or *.internal")]
    Pattern(String),
    #[error("no event has the type {asked:?}: known are {known}")]
    UnknownType { asked: String, known: String },
    #[error("there is no method {asked:?}: known are {known}")]
    UnknownMethod { asked: String, known: String },
    #[error("from is after to: nothing can be between them")]
    Backwards,
    #[error("from and to are positions of two parts of the log: ask for one part")]
    TwoParts,
}

/// A position or a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Position { part: i32, number: i64 },
    Time(Timestamp),
}

impl FromStr for Bound {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        if let Ok((part, number)) = position(text) {
            return Ok(Self::Position { part, number });
        }
        time(text)
            .map(Self::Time)
            .map_err(|_| FilterError::Bound(text.to_owned()))
    }
}

/// `0-41992` → part 0, position 41992.
///
/// # Errors
/// [`FilterError::Position`].
pub fn position(text: &str) -> Result<(i32, i64), FilterError> {
    let parsed = text.split_once('-').and_then(|(part, at)| {
        let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        (plain(part) && plain(at)).then_some(())?;
        Some((part.parse().ok()?, at.parse().ok()?))
    });
    parsed.ok_or_else(|| FilterError::Position(text.to_owned()))
}

/// A moment as RFC 3339 writes it; seconds may be left out.
///
/// # Errors
/// [`FilterError::Time`].
pub fn time(text: &str) -> Result<Timestamp, FilterError> {
    text.parse().map_err(|_| FilterError::Time(text.to_owned()))
}

/// A method by its name.
///
/// # Errors
/// [`FilterError::UnknownMethod`].
pub fn method(text: &str) -> Result<Method, FilterError> {
    Method::parse(text).ok_or_else(|| FilterError::UnknownMethod {
        asked: text.to_owned(),
        known: Method::ALL
            .iter()
            .map(Method::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// `payment.*`, `order.payment_safe`, `*.internal`; the whole type (`kassa.order.payment_safe.v1`) is understood as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypePattern {
    aggregate: Option<String>,
    token: Option<String>,
    version: Option<u16>,
}

impl TypePattern {
    fn matches(&self, aggregate: &str, token: &str, version: u16) -> bool {
        self.aggregate.as_deref().is_none_or(|wanted| wanted == aggregate)
            && self.token.as_deref().is_none_or(|wanted| wanted == token)
            && self.version.is_none_or(|wanted| wanted == version)
    }
}

impl TypePattern {
    /// Whether an event's whole type, such as `kassa.order.paid.v1`, is one of these.
    pub fn matches_type(&self, event_type: &str) -> bool {
        let mut words = event_type.split('.').skip(1);
        let (Some(aggregate), Some(token), Some(version)) = (words.next(), words.next(), words.next()) else {
            return false;
        };
        let version = version.strip_prefix('v').and_then(|number| number.parse().ok());
        version.is_some_and(|version| self.matches(aggregate, token, version))
    }

    /// Whether what is ours alone is asked for by name.
    pub fn is_internal(&self) -> bool {
        self.token.as_deref() == Some(INTERNAL)
    }
}

impl FromStr for TypePattern {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let wrong = || FilterError::Pattern(text.to_owned());
        let plain = text.strip_prefix("kassa.").unwrap_or(text);
        let mut words = plain.split('.');
        let (Some(aggregate), Some(token)) = (words.next(), words.next()) else {
            return Err(wrong());
        };
        let version = words
            .next()
            .map(|word| {
                word.strip_prefix('v')
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(wrong)
            })
            .transpose()?;
        if words.next().is_some() {
            return Err(wrong());
        }
        let any = |word: &str| (word != "*").then(|| word.to_owned());
        let pattern = Self {
            aggregate: any(aggregate),
            token: any(token),
            version,
        };
        // A word that nothing has would find nothing, and look like an answer.
        let mut known: Vec<(&str, &str, u16)> = CATALOGUE
            .iter()
            .map(|entry| (entry.aggregate, entry.token, entry.version))
            .collect();
        known.extend(["order", "payment"].map(|aggregate| (aggregate, INTERNAL, 1)));
        if !known
            .iter()
            .any(|(aggregate, token, version)| pattern.matches(aggregate, token, *version))
        {
            let known: BTreeSet<String> = known
                .iter()
                .map(|(aggregate, token, _)| format!("{aggregate}.{token}"))
                .collect();
            return Err(FilterError::UnknownType {
                asked: text.to_owned(),
                known: known.into_iter().collect::<Vec<_>>().join(", "),
            });
        }
        Ok(pattern)
    }
}

impl EventFilter {
    /// From where on: after a position, or from a moment on.
    pub fn set_from(&mut self, bound: Bound) {
        match bound {
            Bound::Position { part, number } => {
                self.part = part;
                self.after = number;
            }
            Bound::Time(moment) => self.from = Some(moment),
        }
    }

    /// How far: up to a position, which is included, or to a moment, which is not.
    ///
    /// # Errors
    /// [`FilterError::TwoParts`].
    pub fn set_to(&mut self, bound: Bound) -> Result<(), FilterError> {
        match bound {
            Bound::Position { part, number } => {
                if self.after > 0 && part != self.part {
                    return Err(FilterError::TwoParts);
                }
                self.part = part;
                self.until = Some(number);
            }
            Bound::Time(moment) => self.to = Some(moment),
        }
        Ok(())
    }

    /// # Errors
    /// [`FilterError::Backwards`].
    pub fn check(&self) -> Result<(), FilterError> {
        let positions = self.until.is_some_and(|until| self.after > until);
        let times = matches!((self.from, self.to), (Some(from), Some(to)) if from > to);
        if positions || times {
            return Err(FilterError::Backwards);
        }
        Ok(())
    }

    /// Whether an event is of a wanted type; who reads live compares the rest himself.
    pub fn wants(&self, envelope: &Envelope) -> bool {
        let aggregate = envelope.meta().aggregate.as_str();
        self.types.is_empty()
            || self
                .types
                .iter()
                .any(|pattern| pattern.matches(aggregate, envelope.event(), envelope.version()))
    }
}

/// The events that a filter lets through, as others see them, in order and without holding more than one step of them.
#[derive(Debug)]
pub struct FilteredLog {
    store: Store,
    translator: Translator,
    filter: EventFilter,
    stored: LogFilter,
    after: i64,
    until: i64,
    /// More than the first step is wanted.
    goes_on: bool,
    /// What comes after that position is being read, while what came before is translated.
    ahead: Option<(i64, AbortOnDropHandle<Result<Found, StoreError>>)>,
}

impl FilteredLog {
    /// `live` are the shops whose events are about money that exists.
    ///
    /// # Errors
    /// [`TranslateError::Store`] when the database cannot be read.
    pub async fn open(
        store: Store,
        live: BTreeSet<String>,
        filter: EventFilter,
    ) -> Result<Self, TranslateError> {
        let head = store.head(filter.part).await?;
        let until = filter.until.map_or(head, |until| until.min(head));
        // After the head: a payment is opened on its order in the same append, so none up to there is missed.
        let streams = match &filter.order {
            Some(order) => Some(streams_of(&store, order).await?),
            None => None,
        };
        let without = FACES
            .iter()
            .filter(|(aggregate, _, token)| {
                !filter.types.is_empty()
                    && !filter.types.iter().any(|pattern| {
                        // Versions are compared when the event has been translated.
                        pattern
                            .aggregate
                            .as_deref()
                            .is_none_or(|wanted| wanted == *aggregate)
                            && pattern.token.as_deref().is_none_or(|wanted| wanted == *token)
                    })
            })
            .map(|(_, stored, _)| (*stored).to_owned())
            .collect();
        let stored = LogFilter {
            part: filter.part,
            shop: filter.shop.as_ref().map(|shop| shop.as_str().to_owned()),
            streams,
            only: None,
            without,
            beginning: filter.method.map(|method| {
                (
                    vec!["PaymentStarted".to_owned(), "method".to_owned()],
                    method.as_str().to_owned(),
                )
            }),
            // An event's time is when it was recorded, as long as no event brings a time of its own.
            recorded_from: filter.from,
            recorded_before: filter.to,
            recorded_until: filter.as_known_at,
        };
        Ok(Self {
            translator: Translator::new(store.clone(), live),
            store,
            after: filter.after,
            until,
            filter,
            stored,
            goes_on: false,
            ahead: None,
        })
    }

    /// Some of the next events; `None` at the end. Never an empty list.
    ///
    /// # Errors
    /// [`TranslateError`]: passing over an event that cannot be read would be a hole.
    pub async fn next(&mut self) -> Result<Option<Vec<Envelope>>, TranslateError> {
        while self.after < self.until {
            let found = self.found().await?;
            let mut wanted = Vec::with_capacity(found.events.len());
            for event in &found.events {
                let envelope = self.translator.envelope(event).await?;
                if self.filter.wants(&envelope) {
                    wanted.push(envelope);
                }
            }
            self.after = found.looked_until;
            if !wanted.is_empty() {
                return Ok(Some(wanted));
            }
        }
        Ok(None)
    }

    /// The next step, of which the reading may have begun; reading of the one after it begins.
    async fn found(&mut self) -> Result<Found, TranslateError> {
        let limit = if self.goes_on { STEP } else { FIRST };
        // What was read ahead is of no use to a call after one that was given up.
        let reading = match self.ahead.take() {
            Some((after, reading)) if after == self.after => reading,
            Some(_) | None => self.read(self.after, limit),
        };
        let ended = |_| StoreError::Unreachable("reading the log was cut short".to_owned());
        let found = reading.await.map_err(ended)??;
        if self.goes_on && found.looked_until < self.until {
            self.ahead = Some((found.looked_until, self.read(found.looked_until, STEP)));
        }
        self.goes_on = true;
        Ok(found)
    }

    fn read(&self, after: i64, limit: usize) -> AbortOnDropHandle<Result<Found, StoreError>> {
        let (store, stored, until) = (self.store.clone(), self.stored.clone(), self.until);
        AbortOnDropHandle::new(tokio::spawn(async move {
            store.find(&stored, after, until, limit).await
        }))
    }

    /// Up to where it was looked: the position to go on from.
    pub fn position(&self) -> (i32, i64) {
        (self.filter.part, self.after)
    }
}

/// An order's stream, and those of the payments that were opened on it.
async fn streams_of(store: &Store, order: &OrderId) -> Result<Vec<uuid::Uuid>, TranslateError> {
    /// As `AttemptOpened` is stored.
    #[derive(Deserialize)]
    struct Opened {
        #[serde(rename = "AttemptOpened")]
        opened: Attempt,
    }
    #[derive(Deserialize)]
    struct Attempt {
        payment_id: PaymentId,
    }
    let mut streams = vec![order.stream()];
    let mut version = 0;
    loop {
        let events = store.read_stream(order.stream(), version, ORDER_STEP).await?;
        let Some(last) = events.last() else {
            return Ok(streams);
        };
        version = last.version;
        for event in events.iter().filter(|event| event.event_type == "AttemptOpened") {
            let opened: Opened =
                serde_json::from_slice(&event.payload).map_err(|source| TranslateError::Unreadable {
                    position: event.position,
                    event_type: event.event_type.clone(),
                    source,
                })?;
            streams.push(opened.opened.payment_id.stream());
        }
    }
}

/// What stored events are called outside, so that the database can pass over those that are not wanted, and those without a
/// public face need not be read. What is missing here costs time and no event. A test keeps the rest true.
const FACES: &[(&str, &str, &str)] = &[
    ("order", "OrderCreated", "created"),
    ("order", "ProviderOrderRegistered", INTERNAL),
    ("order", "AttemptOpened", INTERNAL),
    ("order", "AttemptClosed", INTERNAL),
    ("order", "ProviderReportObserved", INTERNAL),
    ("order", "OrderPartiallyPaid", "partially_paid"),
    ("order", "OrderPaid", "paid"),
    ("order", "AmountMismatchFound", "amount_mismatch_found"),
    ("order", "ConfidenceReachedSafe", "payment_safe"),
    ("order", "SafetyLost", "payment_safety_lost"),
    ("order", "OrderCanceled", "canceled"),
    ("order", "OrderExpired", "expired"),
    ("payment", "PaymentStarted", "started"),
    ("payment", "ProviderCallAttempted", INTERNAL),
    ("payment", "ProviderOutcomeUnknown", "outcome_unknown"),
    ("payment", "ProviderOutcomeResolved", INTERNAL),
    ("payment", "PaymentRedirected", "redirected"),
    ("payment", "PaymentAuthorized", "authorized"),
    ("payment", "PaymentFailed", "failed"),
    ("payment", "PaymentCanceled", "canceled"),
    ("payment", "PaymentExpired", "expired"),
];

/// What a stored event is called outside, as far as the filter knows.
pub(crate) fn face(aggregate: &str, stored: &str) -> Option<&'static str> {
    let found = FACES
        .iter()
        .find(|(of, name, _)| *of == aggregate && *name == stored);
    found.map(|(_, _, token)| *token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_a_position_or_a_moment() {
        assert_eq!("0-0".parse(), Ok(Bound::Position { part: 0, number: 0 }));
        assert_eq!(
            "3-41992".parse(),
            Ok(Bound::Position {
                part: 3,
                number: 41_992
            })
        );
        let midnight: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        for text in [
            "2026-11-01T00:00:00Z",
            "2026-11-01T00:00Z",
            "2026-11-01T01:00:00+01:00",
        ] {
            assert_eq!(text.parse(), Ok(Bound::Time(midnight)), "{text}");
        }
        for wrong in [
            "",
            "0",
            "-1",
            "0-",
            "0--1",
            "a-1",
            "0-1-2",
            "0-99999999999999999999",
            "yesterday",
            "2026-11-01",
            "2026-11-01T00:00:00",
            "2026-13-01T00:00:00Z",
        ] {
            assert!(wrong.parse::<Bound>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_names_what_can_happen() {
        let payments: TypePattern = "payment.*".parse().unwrap();
        assert!(payments.matches("payment", "started", 1) && payments.matches("payment", INTERNAL, 1));
        assert!(!payments.matches("order", "created", 1));
        let safe: TypePattern = "kassa.order.payment_safe.v1".parse().unwrap();
        assert!(safe.matches("order", "payment_safe", 1));
        assert!(!safe.matches("order", "payment_safe", 2) && !safe.matches("order", "paid", 1));
        let canceled: TypePattern = "*.canceled".parse().unwrap();
        assert!(canceled.matches("payment", "canceled", 1));
        for wrong in ["", "payment", "payment.", "payment.x.y.z", "payment.started.1"] {
            assert!(wrong.parse::<TypePattern>().is_err(), "{wrong}");
        }
        let typo = "order.payment_save".parse::<TypePattern>().unwrap_err();
        assert!(typo.to_string().contains("order.payment_safe"), "{typo}");
    }

    #[test]
    fn what_ends_before_it_begins_is_refused() {
        let mut filter = EventFilter::default();
        filter.set_from("0-9".parse().unwrap());
        filter.set_to("0-8".parse().unwrap()).unwrap();
        assert_eq!(filter.check(), Err(FilterError::Backwards));
        assert_eq!(filter.set_to("1-10".parse().unwrap()), Err(FilterError::TwoParts));
        let mut filter = EventFilter::default();
        filter.set_from("2026-11-02T00:00:00Z".parse().unwrap());
        filter.set_to("2026-11-01T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(filter.check(), Err(FilterError::Backwards));
        filter.set_to("2026-11-02T00:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(filter.check(), Ok(()));
    }
}
