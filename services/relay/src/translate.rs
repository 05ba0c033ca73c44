//! What do others see of a stored event?
//!
//! One exhaustive match: a new stored event breaks the build here, where somebody must decide whether it is public. The
//! same event gives the same bytes for ever, so that a stream that was lost comes back as it was; the one thing from
//! outside the log is whether the shop is in live mode.

use std::{
    collections::BTreeSet,
    num::{NonZeroU32, NonZeroUsize},
};

use cqrs_es::{Aggregate as _, DomainEvent as _};
use kassa_domain::{
    money,
    order::{self, Order, OrderEvent},
    payment::{self, LossClass, Method, Payment, PaymentEvent},
    report, safety,
};
use kassa_event_store::{Store, StoreError, StoredEvent};
use kassa_events_schema::{
    Aggregate, AuthType, Envelope, EnvelopeError, EventMeta, Money, PublishedEvent, Trace,
    order::{
        self as wire, AmountMismatchFound, Created, Evidence, EvidencePayment, LossReason, Paid,
        PartiallyPaid, PaymentSafe, PaymentSafetyLost,
    },
    payment::{Authorized, Canceled, Expired, Failed, OutcomeUnknown, Redirected, Started},
    words::{Confidence, Mismatch, Operation, Route, SafetyLevel, Uncertainty},
};
use lru::LruCache;
use serde::Deserialize;
use uuid::Uuid;

use crate::filter;

/// Streams whose beginning is remembered: an order and its attempts are done within an hour, so this holds some ten
/// orders a second, in about 15 MB. A miss costs one read.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).expect("it is not zero");

/// Why an event cannot be shown to others. Passing over it would be a hole, so nothing after it is published either.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    #[error("the beginning of a stream cannot be read")]
    Store(#[from] StoreError),
    #[error(
        "event at position {position} is about a {aggregate:?}, which this version of kassa does not know: update the relay"
    )]
    UnknownAggregate { position: i64, aggregate: String },
    #[error(
        "event at position {position} cannot be read as {event_type}: update the relay if a newer version of kassa wrote it"
    )]
    Unreadable {
        position: i64,
        event_type: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "event at position {position} has schema version {found}, this version of kassa knows {known}: update the relay"
    )]
    SchemaVersion {
        position: i64,
        found: i16,
        known: String,
    },
    #[error("metadata of the event at position {position} cannot be read")]
    Metadata {
        position: i64,
        #[source]
        source: serde_json::Error,
    },
    #[error("stream {stream} of the event at position {position} does not begin with its order or payment")]
    NoBeginning { position: i64, stream: Uuid },
    #[error("amounts of the event at position {position} do not make a sum")]
    Sum {
        position: i64,
        #[source]
        source: money::MoneyError,
    },
    #[error("event at position {position} has {field} = {found}, which cannot be published")]
    OutOfRange {
        position: i64,
        field: &'static str,
        found: i64,
    },
    #[error("event at position {position} cannot be put into an envelope")]
    Envelope {
        position: i64,
        #[source]
        source: EnvelopeError,
    },
}

/// Turns stored events into what is published, reading the beginning of their streams where it must.
#[derive(Debug)]
pub struct Translator {
    store: Store,
    live: BTreeSet<String>,
    beginnings: LruCache<Uuid, Beginning>,
}

/// What every event of a stream needs from its first one.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Beginning {
    Order(OrderBeginning),
    Payment(PaymentBeginning),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OrderBeginning {
    order_reference: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PaymentBeginning {
    order_id: String,
    method: Method,
}

/// A stored event, read.
#[derive(Debug)]
enum Recorded {
    Order(OrderEvent),
    Payment(PaymentEvent),
}

/// A stored event with all that is needed to tell it to others.
#[derive(Debug)]
enum Tellable {
    Order(OrderEvent, OrderBeginning),
    Payment(PaymentEvent, PaymentBeginning),
}

/// Beside the payload, as the engine writes it.
#[derive(Debug, Deserialize)]
struct Metadata {
    causation_id: String,
    correlation_id: String,
    auth_type: String,
    auth_id: String,
    #[serde(default)]
    traceparent: Option<String>,
    #[serde(default)]
    tracestate: Option<String>,
}

impl Translator {
    /// `live` are the shops whose events are about money that exists.
    pub fn new(store: Store, live: BTreeSet<String>) -> Self {
        Self {
            store,
            live,
            beginnings: LruCache::new(REMEMBERED),
        }
    }

    /// The event as others see it; internal ones without data.
    ///
    /// # Errors
    /// [`TranslateError`]; only [`TranslateError::Store`] may go away by itself.
    pub async fn envelope(&mut self, stored: &StoredEvent) -> Result<Envelope, TranslateError> {
        if is_internal(stored) {
            return envelope(stored, None, self.live.contains(&stored.shop));
        }
        let recorded = Recorded::read(stored)?;
        let beginning = self.beginning(stored, &recorded).await?;
        let tellable = recorded.with(beginning).ok_or_else(|| no_beginning(stored))?;
        let published = published(stored, tellable)?;
        envelope(stored, published.as_ref(), self.live.contains(&stored.shop))
    }

    async fn beginning(
        &mut self,
        stored: &StoredEvent,
        recorded: &Recorded,
    ) -> Result<Beginning, TranslateError> {
        if let Some(known) = self.beginnings.get(&stored.stream_id) {
            return Ok(known.clone());
        }
        let beginning = match recorded.beginning() {
            Some(beginning) => Some(beginning),
            None => match self.store.read_stream(stored.stream_id, 0, 1).await?.first() {
                Some(first) => Recorded::read(first)?.beginning(),
                None => None,
            },
        };
        let beginning = beginning.ok_or_else(|| no_beginning(stored))?;
        self.beginnings.put(stored.stream_id, beginning.clone());
        Ok(beginning)
    }
}

impl Recorded {
    fn read(stored: &StoredEvent) -> Result<Self, TranslateError> {
        let unreadable = |source| TranslateError::Unreadable {
            position: stored.position,
            event_type: stored.event_type.clone(),
            source,
        };
        let (recorded, known) = if stored.aggregate_type == Order::TYPE {
            let event: OrderEvent = serde_json::from_slice(&stored.payload).map_err(unreadable)?;
            let known = event.event_version();
            (Self::Order(event), known)
        } else if stored.aggregate_type == Payment::TYPE {
            let event: PaymentEvent = serde_json::from_slice(&stored.payload).map_err(unreadable)?;
            let known = event.event_version();
            (Self::Payment(event), known)
        } else {
            return Err(TranslateError::UnknownAggregate {
                position: stored.position,
                aggregate: stored.aggregate_type.clone(),
            });
        };
        if stored.schema_version.to_string() != known {
            return Err(TranslateError::SchemaVersion {
                position: stored.position,
                found: stored.schema_version,
                known,
            });
        }
        Ok(recorded)
    }

    /// `None` for an event that is not a stream's first.
    fn beginning(&self) -> Option<Beginning> {
        match self {
            Self::Order(OrderEvent::OrderCreated { facts, .. }) => Some(Beginning::Order(OrderBeginning {
                order_reference: facts.order_reference.clone(),
            })),
            Self::Payment(PaymentEvent::PaymentStarted { attempt, .. }) => {
                Some(Beginning::Payment(PaymentBeginning {
                    order_id: attempt.order_id.to_string(),
                    method: attempt.method,
                }))
            }
            Self::Order(_) | Self::Payment(_) => None,
        }
    }

    /// `None` when the stream began as something else.
    fn with(self, beginning: Beginning) -> Option<Tellable> {
        match (self, beginning) {
            (Self::Order(event), Beginning::Order(order)) => Some(Tellable::Order(event, order)),
            (Self::Payment(event), Beginning::Payment(payment)) => Some(Tellable::Payment(event, payment)),
            (Self::Order(_), Beginning::Payment(_)) | (Self::Payment(_), Beginning::Order(_)) => None,
        }
    }
}

/// Known to have no public face: nothing of its content is told, so it need not be read. More than half of all events are.
fn is_internal(stored: &StoredEvent) -> bool {
    stored.schema_version == 1
        && filter::face(&stored.aggregate_type, &stored.event_type) == Some(kassa_events_schema::INTERNAL)
}

fn no_beginning(stored: &StoredEvent) -> TranslateError {
    TranslateError::NoBeginning {
        position: stored.position,
        stream: stored.stream_id,
    }
}

/// The public face of a stored event; `None` for an internal one.
fn published(stored: &StoredEvent, tellable: Tellable) -> Result<Option<PublishedEvent>, TranslateError> {
    let id = stored.aggregate_id.clone();
    let event: PublishedEvent = match tellable {
        Tellable::Order(OrderEvent::OrderCreated { facts, metadata }, order) => Created {
            order_id: id,
            order_reference: order.order_reference,
            description: facts.description,
            amount: amount(facts.amount),
            country: facts.country,
            language: facts.language,
            shopper_id: facts.shopper_id.to_string(),
            metadata: Some(metadata).filter(|metadata| !metadata.is_empty()),
        }
        .into(),
        Tellable::Order(OrderEvent::OrderPartiallyPaid { ordered, paid }, order) => PartiallyPaid {
            order_id: id,
            order_reference: order.order_reference,
            ordered: amount(ordered),
            paid: amount(paid),
            remaining: amount(ordered.minus(paid).map_err(|source| TranslateError::Sum {
                position: stored.position,
                source,
            })?),
        }
        .into(),
        Tellable::Order(OrderEvent::OrderPaid { ordered, paid, at: _ }, order) => Paid {
            order_id: id,
            order_reference: order.order_reference,
            ordered: amount(ordered),
            paid: amount(paid),
        }
        .into(),
        Tellable::Order(
            OrderEvent::AmountMismatchFound {
                what,
                expected,
                found,
            },
            order,
        ) => AmountMismatchFound {
            order_id: id,
            order_reference: order.order_reference,
            what: mismatch(what),
            expected: expected.map(amount),
            found: found.map(amount),
        }
        .into(),
        Tellable::Order(
            OrderEvent::ConfidenceReachedSafe {
                epoch,
                ordered,
                evidence: why,
            },
            order,
        ) => PaymentSafe {
            order_id: id,
            order_reference: order.order_reference,
            epoch: counted(stored, "epoch", epoch)?,
            amount: amount(ordered),
            evidence: evidence(stored, why)?,
        }
        .into(),
        Tellable::Order(
            OrderEvent::SafetyLost {
                epoch,
                ordered,
                reasons,
                read_no,
                policy,
            },
            order,
        ) => PaymentSafetyLost {
            order_id: id,
            order_reference: order.order_reference,
            epoch: counted(stored, "epoch", epoch)?,
            amount: amount(ordered),
            reasons: reasons.into_iter().map(loss).collect(),
            read_no: not_negative(stored, "read_no", read_no)?,
            policy,
        }
        .into(),
        Tellable::Order(OrderEvent::OrderCanceled { at: _, reason }, order) => wire::Canceled {
            order_id: id,
            order_reference: order.order_reference,
            reason,
        }
        .into(),
        Tellable::Order(OrderEvent::OrderExpired { at: _ }, order) => wire::Expired {
            order_id: id,
            order_reference: order.order_reference,
        }
        .into(),
        Tellable::Payment(
            PaymentEvent::PaymentStarted {
                attempt,
                expires_at: _,
            },
            payment,
        ) => Started {
            payment_id: id,
            order_id: payment.order_id,
            method: payment.method.as_str().to_owned(),
            amount: amount(attempt.amount),
            issuer: attempt.issuer,
            attempt: counted(stored, "attempt", attempt.number)?,
        }
        .into(),
        Tellable::Payment(
            PaymentEvent::ProviderOutcomeUnknown {
                operation: call,
                attempt: _,
                class,
                deadline,
            },
            payment,
        ) => OutcomeUnknown {
            payment_id: id,
            order_id: payment.order_id,
            method: payment.method.as_str().to_owned(),
            operation: operation(call),
            class: uncertainty(class),
            deadline: deadline.into(),
        }
        .into(),
        // The URL stays inside: whoever reads it could go there.
        Tellable::Payment(
            PaymentEvent::PaymentRedirected {
                provider_payment_id,
                url: _,
            },
            payment,
        ) => Redirected {
            payment_id: id,
            order_id: payment.order_id,
            method: payment.method.as_str().to_owned(),
            provider_payment_id: Some(provider_payment_id),
        }
        .into(),
        Tellable::Payment(
            PaymentEvent::PaymentAuthorized {
                provider_payment_id,
                amount: authorized,
                confidence: vouched,
            },
            payment,
        ) => Authorized {
            payment_id: id,
            order_id: payment.order_id,
            method: payment.method.as_str().to_owned(),
            amount: amount(authorized),
            confidence: confidence(vouched),
            provider_payment_id: Some(provider_payment_id),
        }
        .into(),
        Tellable::Payment(
            PaymentEvent::PaymentFailed {
                reason,
                provider_message,
            },
            payment,
        ) => Failed {
            payment_id: id,
            order_id: payment.order_id,
            method: payment.method.as_str().to_owned(),
            reason,
            provider_message,
        }
        .into(),
        Tellable::Payment(PaymentEvent::PaymentCanceled { reason }, payment) => Canceled {
            payment_id: id,
            order_id: payment.order_id,
            method: payment.method.as_str().to_owned(),
            reason,
        }
        .into(),
        Tellable::Payment(PaymentEvent::PaymentExpired, payment) => Expired {
            payment_id: id,
            order_id: payment.order_id,
            method: payment.method.as_str().to_owned(),
        }
        .into(),
        // How we and the provider work together is nobody's business, and may change.
        Tellable::Order(
            OrderEvent::ProviderOrderRegistered { .. }
            | OrderEvent::AttemptOpened { .. }
            | OrderEvent::AttemptClosed { .. }
            | OrderEvent::ProviderReportObserved { .. },
            _,
        )
        | Tellable::Payment(
            PaymentEvent::ProviderCallAttempted { .. } | PaymentEvent::ProviderOutcomeResolved { .. },
            _,
        ) => return Ok(None),
    };
    Ok(Some(event))
}

fn envelope(
    stored: &StoredEvent,
    published: Option<&PublishedEvent>,
    livemode: bool,
) -> Result<Envelope, TranslateError> {
    let out_of_range = |field, found| {
        move |_| TranslateError::OutOfRange {
            position: stored.position,
            field,
            found,
        }
    };
    let metadata: Metadata =
        serde_json::from_slice(&stored.metadata).map_err(|source| TranslateError::Metadata {
            position: stored.position,
            source,
        })?;
    let recorded = stored.recorded_at.into();
    let meta = EventMeta {
        event_id: stored.event_id.to_string(),
        part: u32::try_from(stored.part).map_err(out_of_range("part", stored.part.into()))?,
        position: u64::try_from(stored.position).map_err(out_of_range("position", stored.position))?,
        shop: stored.shop.clone(),
        aggregate: Aggregate::from(stored.aggregate_type.as_str()),
        aggregate_id: stored.aggregate_id.clone(),
        aggregate_version: u32::try_from(stored.version).map_err(out_of_range("version", stored.version))?,
        time: recorded,
        recorded_time: recorded,
        correlation_id: metadata.correlation_id,
        causation_id: metadata.causation_id,
        auth_type: AuthType::from(metadata.auth_type),
        auth_id: metadata.auth_id,
        livemode,
    };
    let envelope = match published {
        Some(event) => Envelope::published(meta, event),
        None => Envelope::internal(meta),
    };
    let trace = Trace {
        traceparent: metadata.traceparent,
        tracestate: metadata.tracestate,
    };
    let traced = envelope.map(|envelope| envelope.traced(trace));
    traced.map_err(|source| TranslateError::Envelope {
        position: stored.position,
        source,
    })
}

fn amount(money: money::Money) -> Money {
    Money {
        value: money.minor,
        currency: money.currency.to_string(),
    }
}

/// What is counted from 1.
fn counted(stored: &StoredEvent, field: &'static str, number: u32) -> Result<NonZeroU32, TranslateError> {
    NonZeroU32::new(number).ok_or(TranslateError::OutOfRange {
        position: stored.position,
        field,
        found: number.into(),
    })
}

fn not_negative(stored: &StoredEvent, field: &'static str, number: i64) -> Result<u64, TranslateError> {
    u64::try_from(number).map_err(|_| TranslateError::OutOfRange {
        position: stored.position,
        field,
        found: number,
    })
}

/// The code is the reason's own word; of what belongs to it, only amounts are told.
fn loss(reason: safety::NotSafe) -> LossReason {
    let told = match &reason {
        safety::NotSafe::AmountOutsideTolerance { counted, .. } => Some(*counted),
        safety::NotSafe::MoneyWentBack {
            refunded_or_charged_back,
        } => Some(*refunded_or_charged_back),
        safety::NotSafe::OtherCurrency { found, .. } => Some(*found),
        safety::NotSafe::OrderStopped
        | safety::NotSafe::OrderCanceled
        | safety::NotSafe::NothingReported
        | safety::NotSafe::ProviderDoesNotConsiderSafe
        | safety::NotSafe::LevelNotAccepted { .. }
        | safety::NotSafe::NothingPaid
        | safety::NotSafe::MethodHasNoRoute { .. } => None,
    };
    LossReason {
        code: reason.code().to_owned(),
        amount: told.map(amount),
    }
}

fn evidence(stored: &StoredEvent, why: safety::Evidence) -> Result<Evidence, TranslateError> {
    let payments = why.payments.into_iter().map(|payment| EvidencePayment {
        payment_id: payment.payment_id.map(|id| id.to_string()),
        provider_payment_id: payment.provider_payment_id,
        method: word(&payment.method),
        amount: amount(payment.amount),
        state: word(&payment.state),
    });
    Ok(Evidence {
        level: SafetyLevel::from(word(&why.level)),
        considered_safe_at: why.considered_safe_at.map(Into::into),
        route: match why.route {
            safety::Route::Approved => Route::Approved,
            safety::Route::Captured => Route::Captured,
        },
        counted: amount(why.counted),
        tolerance_minor: not_negative(stored, "tolerance_minor", why.tolerance_minor)?,
        difference_minor: why.difference_minor,
        payments: payments.collect(),
        read_no: not_negative(stored, "read_no", why.read_no)?,
        policy: why.policy,
    })
}

fn mismatch(what: order::Mismatch) -> Mismatch {
    match what {
        order::Mismatch::PaidAmount => Mismatch::PaidAmount,
        order::Mismatch::PaidCurrency => Mismatch::PaidCurrency,
        order::Mismatch::ReportedReference => Mismatch::ReportedReference,
        order::Mismatch::ReportedAmount => Mismatch::ReportedAmount,
        order::Mismatch::ReportedCurrency => Mismatch::ReportedCurrency,
    }
}

fn operation(call: payment::Operation) -> Operation {
    match call {
        payment::Operation::CreateOrder => Operation::CreateOrder,
        payment::Operation::Start => Operation::Start,
    }
}

fn uncertainty(class: LossClass) -> Uncertainty {
    match class {
        LossClass::Timeout => Uncertainty::Timeout,
        LossClass::ConnectionLost => Uncertainty::ConnectionLost,
        LossClass::ServerError => Uncertainty::ServerError,
        LossClass::Unreadable => Uncertainty::Unreadable,
        LossClass::WorkerLost => Uncertainty::from("worker_lost"),
        LossClass::ReferenceTaken => Uncertainty::from("reference_taken"),
    }
}

fn confidence(vouched: report::Confidence) -> Confidence {
    match vouched {
        report::Confidence::AcquirerApproved => Confidence::AcquirerApproved,
        report::Confidence::AcquirerPending => Confidence::AcquirerPending,
        report::Confidence::ShopperPending => Confidence::ShopperPending,
        report::Confidence::Unknown(other) => Confidence::from(word(&other)),
    }
}

/// A word of the provider in the spelling of ours: lower snake case, at most 64 characters. It may be any text, and an
/// event may not be held up by it.
fn word(theirs: &str) -> String {
    const WORD_MAX: usize = 64;
    let plain = theirs.chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '_'
        }
    });
    let ours: String = plain
        .skip_while(|c| !c.is_ascii_lowercase())
        .take(WORD_MAX)
        .collect();
    if ours.is_empty() {
        "unknown".to_owned()
    } else {
        ours
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use kassa_domain::{
        ids::{CommandId, OrderId, PaymentId, Shop, ShopperId, event_id},
        money::Currency,
        order::{Closing, OrderFacts, ProviderOrder},
        payment::{Attempt, Resolution},
        report::ProviderReport,
    };
    use serde_json::{Value, json};

    use super::*;

    const AT: &str = "2026-11-24T08:17:05.412Z";

    #[test]
    fn every_stored_event_has_the_public_face_that_was_decided_for_it() {
        let expected = [
            "created",
            "internal",
            "internal",
            "internal",
            "internal",
            "partially_paid",
            "paid",
            "amount_mismatch_found",
            "payment_safe",
            "payment_safety_lost",
            "canceled",
            "expired",
        ];
        let found: Vec<_> = order_events()
            .map(|event| told(&stored_order(event)).event().to_owned())
            .collect();
        assert_eq!(found, expected);
        let expected = [
            "started",
            "internal",
            "outcome_unknown",
            "internal",
            "redirected",
            "authorized",
            "failed",
            "canceled",
            "expired",
        ];
        let found: Vec<_> = payment_events()
            .map(|event| told(&stored_payment(event)).event().to_owned())
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_filter_calls_events_what_they_are_called_outside() {
        let orders = order_events().map(stored_order);
        for stored in orders.chain(payment_events().map(stored_payment)) {
            if let Some(face) = filter::face(&stored.aggregate_type, &stored.event_type) {
                assert_eq!(face, told(&stored).event(), "{}", stored.event_type);
                assert_eq!(is_internal(&stored), face == "internal", "{}", stored.event_type);
            }
        }
    }

    #[test]
    fn what_is_published_is_what_a_reader_of_the_contract_reads() {
        let orders = order_events().map(stored_order);
        for stored in orders.chain(payment_events().map(stored_payment)) {
            let body = told(&stored).to_json().unwrap();
            let read = Envelope::parse(&body).unwrap();
            let event = read.decode().unwrap();
            assert_eq!(event.is_none(), read.is_internal(), "{}", stored.event_type);
            assert_eq!(read.to_json().unwrap(), body);
        }
    }

    #[test]
    fn the_envelope_repeats_what_the_store_recorded() {
        let stored = stored_payment(PaymentEvent::PaymentExpired);
        let body: Value = serde_json::from_slice(&told(&stored).to_json().unwrap()).unwrap();
        let (order, payment) = (order_id().to_string(), payment_id().to_string());
        let expected = json!({
            "specversion": "1.0",
            "id": stored.event_id.to_string(),
            "source": "/kassa/0/demo-shop",
            "type": "kassa.payment.expired.v1",
            "subject": format!("payment/{payment}"),
            "time": "2026-11-24T08:17:05.412000Z",
            "datacontenttype": "application/json",
            "dataschema": "/schemas/payment/expired.v1.json",
            "recordedtime": "2026-11-24T08:17:05.412000Z",
            "sequence": "00000000000000000042",
            "aggregateversion": 7,
            "correlationid": order,
            "causationid": "fdbe31c3-ad31-5ddc-8194-855ee3e510ce",
            "partitionkey": payment,
            "authtype": "api_key",
            "authid": "demo-shop",
            "livemode": false,
            "data": {"payment_id": payment, "order_id": order, "method": "ideal"},
        });
        assert_eq!(body, expected);
        let live = envelope(&stored, None, true).unwrap();
        assert!(live.meta().livemode && live.is_internal());
    }

    #[test]
    fn the_shoppers_page_and_other_urls_are_not_published() {
        let orders = order_events().map(stored_order);
        for stored in orders.chain(payment_events().map(stored_payment)) {
            let body = String::from_utf8(told(&stored).to_json().unwrap()).unwrap();
            assert!(!body.contains("https:"), "{body}");
        }
    }

    #[test]
    fn the_evidence_of_a_safe_order_is_published_in_our_words() {
        let safe = order_events()
            .find(|event| event.event_type() == "ConfidenceReachedSafe")
            .unwrap();
        let envelope = told(&stored_order(safe));
        let Ok(Some(PublishedEvent::OrderPaymentSafe(safe))) = envelope.decode() else {
            panic!("{envelope:?}")
        };
        assert_eq!(
            (safe.order_reference.as_str(), safe.epoch.get(), safe.amount.value),
            ("A-1", 1, 4995)
        );
        assert_eq!(safe.evidence.level, SafetyLevel::Safe);
        assert_eq!(
            (safe.evidence.tolerance_minor, safe.evidence.difference_minor),
            (10, -5)
        );
        let payment = &safe.evidence.payments[0];
        assert_eq!(
            (payment.method.as_str(), payment.state.as_str()),
            ("ideal", "authorized")
        );
        assert_eq!(payment.payment_id, Some(payment_id().to_string()));
    }

    #[test]
    fn what_took_the_safety_away_is_published_with_its_amount() {
        let lost = order_events()
            .find(|event| event.event_type() == "SafetyLost")
            .unwrap();
        let envelope = told(&stored_order(lost));
        let Ok(Some(PublishedEvent::OrderPaymentSafetyLost(lost))) = envelope.decode() else {
            panic!("{envelope:?}")
        };
        let reason = &lost.reasons[0];
        assert_eq!((lost.epoch.get(), lost.read_no), (1, 4));
        assert_eq!(
            (
                reason.code.as_str(),
                reason.amount.as_ref().map(|went| went.value)
            ),
            ("money_went_back", Some(4995))
        );
    }

    #[test]
    fn any_text_of_the_provider_becomes_a_word() {
        for (theirs, ours) in [
            ("IDEAL", "ideal"),
            ("Pay-Later 2", "pay_later_2"),
            ("3DS", "ds"),
            ("", "unknown"),
            ("…", "unknown"),
        ] {
            assert_eq!(word(theirs), ours, "{theirs}");
        }
        assert_eq!(word(&"A".repeat(500)).len(), 64);
    }

    #[test]
    fn an_event_that_cannot_be_read_is_named_and_never_guessed_at() {
        let good = stored_payment(PaymentEvent::PaymentExpired);
        let newer = StoredEvent {
            schema_version: 2,
            ..good.clone()
        };
        let error = Recorded::read(&newer).unwrap_err();
        assert!(
            error.to_string().contains("position 42 has schema version 2"),
            "{error}"
        );
        let other = StoredEvent {
            payload: br#"{"PaymentTeleported":{}}"#.to_vec(),
            ..good.clone()
        };
        assert!(matches!(
            Recorded::read(&other),
            Err(TranslateError::Unreadable { position: 42, .. })
        ));
        let other = StoredEvent {
            aggregate_type: "subscription".to_owned(),
            ..good.clone()
        };
        assert!(matches!(
            Recorded::read(&other),
            Err(TranslateError::UnknownAggregate { .. })
        ));
        let wrong = Recorded::Payment(PaymentEvent::PaymentExpired).with(Beginning::Order(OrderBeginning {
            order_reference: "A-1".to_owned(),
        }));
        assert!(wrong.is_none());
        let other = StoredEvent {
            metadata: b"{}".to_vec(),
            ..good
        };
        assert!(matches!(
            envelope(&other, None, false),
            Err(TranslateError::Metadata { .. })
        ));
    }

    fn told(stored: &StoredEvent) -> Envelope {
        let recorded = Recorded::read(stored).unwrap();
        let beginning = match &recorded {
            Recorded::Order(_) => Beginning::Order(OrderBeginning {
                order_reference: "A-1".to_owned(),
            }),
            Recorded::Payment(_) => Beginning::Payment(PaymentBeginning {
                order_id: order_id().to_string(),
                method: Method::Ideal,
            }),
        };
        if let Some(own) = recorded.beginning() {
            assert_eq!(own, beginning);
        }
        let event = published(stored, recorded.with(beginning).unwrap()).unwrap();
        envelope(stored, event.as_ref(), false).unwrap()
    }

    fn shop() -> Shop {
        Shop::parse("demo-shop").unwrap()
    }

    fn order_id() -> OrderId {
        OrderId::new(&shop(), "A-1")
    }

    fn payment_id() -> PaymentId {
        PaymentId::new(order_id(), CommandId::from_key(&shop(), "key-1"))
    }

    fn eur(minor: i64) -> money::Money {
        money::Money::new(minor, Currency::EUR)
    }

    fn at() -> Timestamp {
        AT.parse().unwrap()
    }

    /// One of each, in the order of the enum.
    fn order_events() -> impl Iterator<Item = OrderEvent> {
        let facts = OrderFacts {
            order_id: order_id(),
            shop: shop(),
            order_reference: "A-1".to_owned(),
            description: "two sacks of flour".to_owned(),
            amount: eur(4995),
            country: "NL".to_owned(),
            language: "nl".to_owned(),
            shopper_id: ShopperId::new(order_id()),
            return_url: "https://shop.example/thanks".to_owned(),
            expires_at: Some(at()),
        };
        let evidence = safety::Evidence {
            level: "SAFE".to_owned(),
            considered_safe_at: Some(at()),
            route: safety::Route::Approved,
            counted: eur(4990),
            tolerance_minor: 10,
            difference_minor: -5,
            payments: vec![safety::CountedPayment {
                payment_id: Some(payment_id()),
                provider_payment_id: "4911".to_owned(),
                method: "IDEAL".to_owned(),
                amount: eur(4990),
                state: "AUTHORIZED".to_owned(),
            }],
            read_no: 3,
            policy: "default/1".to_owned(),
        };
        let report = ProviderReport {
            reference: "A-1".to_owned(),
            ordered: eur(4995),
            considered_safe: None,
            payments: vec![],
        };
        let provider = ProviderOrder {
            order_key: "key".to_owned(),
            menu_url: "https://pay.example/menu".to_owned(),
            reference: "A-1".to_owned(),
            expires_at: None,
        };
        [
            OrderEvent::OrderCreated {
                facts,
                metadata: BTreeMap::from([("channel".to_owned(), "web".to_owned())]),
            },
            OrderEvent::ProviderOrderRegistered { provider },
            OrderEvent::AttemptOpened {
                payment_id: payment_id(),
                method: Method::Ideal,
                number: 1,
            },
            OrderEvent::AttemptClosed {
                payment_id: payment_id(),
                closing: Closing::Authorized,
            },
            OrderEvent::ProviderReportObserved {
                read_no: 3,
                digest: report.digest(),
                report,
                not_safe: vec![],
                policy: "default/1".to_owned(),
                owners: std::collections::BTreeMap::new(),
            },
            OrderEvent::OrderPartiallyPaid {
                ordered: eur(4995),
                paid: eur(1000),
            },
            OrderEvent::OrderPaid {
                ordered: eur(4995),
                paid: eur(4990),
                at: Some(at()),
            },
            OrderEvent::AmountMismatchFound {
                what: order::Mismatch::PaidAmount,
                expected: Some(eur(4995)),
                found: Some(eur(1000)),
            },
            OrderEvent::ConfidenceReachedSafe {
                epoch: 1,
                ordered: eur(4995),
                evidence,
            },
            OrderEvent::SafetyLost {
                epoch: 1,
                ordered: eur(4995),
                reasons: vec![safety::NotSafe::MoneyWentBack {
                    refunded_or_charged_back: eur(4995),
                }],
                read_no: 4,
                policy: "default/1".to_owned(),
            },
            OrderEvent::OrderCanceled {
                at: at(),
                reason: Some("out of stock".to_owned()),
            },
            OrderEvent::OrderExpired { at: at() },
        ]
        .into_iter()
    }

    /// One of each, in the order of the enum.
    fn payment_events() -> impl Iterator<Item = PaymentEvent> {
        let attempt = Attempt {
            payment_id: payment_id(),
            order_id: order_id(),
            shop: shop(),
            method: Method::Ideal,
            amount: eur(4995),
            issuer: Some("ABNANL2A".to_owned()),
            number: 1,
        };
        let (operation, deadline) = (payment::Operation::Start, at());
        [
            PaymentEvent::PaymentStarted {
                attempt,
                expires_at: at(),
            },
            PaymentEvent::ProviderCallAttempted {
                operation,
                attempt: 1,
                reference: "A-1".to_owned(),
                deadline,
            },
            PaymentEvent::ProviderOutcomeUnknown {
                operation,
                attempt: 1,
                class: LossClass::WorkerLost,
                deadline,
            },
            PaymentEvent::ProviderOutcomeResolved {
                operation,
                attempt: 1,
                resolution: Resolution::Happened,
                provider_payment_id: None,
            },
            PaymentEvent::PaymentRedirected {
                provider_payment_id: "4911".to_owned(),
                url: "https://bank.example/session".to_owned(),
            },
            PaymentEvent::PaymentAuthorized {
                provider_payment_id: "4911".to_owned(),
                amount: eur(4995),
                confidence: report::Confidence::AcquirerApproved,
            },
            PaymentEvent::PaymentFailed {
                reason: "provider_refused".to_owned(),
                provider_message: None,
            },
            PaymentEvent::PaymentCanceled { reason: None },
            PaymentEvent::PaymentExpired,
        ]
        .into_iter()
    }

    fn stored_order(event: OrderEvent) -> StoredEvent {
        let payload = serde_json::to_vec(&event).unwrap();
        stored(
            Order::TYPE,
            order_id().to_string(),
            order_id().stream(),
            event.event_type(),
            payload,
        )
    }

    fn stored_payment(event: PaymentEvent) -> StoredEvent {
        let payload = serde_json::to_vec(&event).unwrap();
        stored(
            Payment::TYPE,
            payment_id().to_string(),
            payment_id().stream(),
            event.event_type(),
            payload,
        )
    }

    fn stored(kind: &str, id: String, stream_id: Uuid, event_type: String, payload: Vec<u8>) -> StoredEvent {
        let metadata = json!({
            "command_id": CommandId::from_key(&shop(), "key-1"),
            "causation_id": CommandId::from_key(&shop(), "key-1"),
            "correlation_id": order_id(),
            "auth_type": "api_key",
            "auth_id": "demo-shop",
        });
        StoredEvent {
            part: 0,
            position: 42,
            stream_id,
            version: 7,
            event_id: event_id(stream_id, 7),
            shop: "demo-shop".to_owned(),
            aggregate_type: kind.to_owned(),
            aggregate_id: id,
            event_type,
            schema_version: 1,
            payload,
            metadata: serde_json::to_vec(&metadata).unwrap(),
            recorded_at: at(),
        }
    }
}
