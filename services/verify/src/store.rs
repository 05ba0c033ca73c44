//! What does the event store say? Every event with its place, and of each order and attempt what checks ask for.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    export::EVENTS,
    read::{Folder, VerifyError, parse, records},
    stored::{self, Closing, Fact, Mismatch, Money, Operation, OrderFact, PaymentFact, Report, Resolution},
};

/// An event's index in [`Store::events`].
pub(crate) type EventNo = usize;

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) line: u32,
    pub(crate) part: i32,
    pub(crate) position: i64,
    pub(crate) version: i64,
    /// Microseconds since 1970.
    pub(crate) at: i64,
    pub(crate) id: Uuid,
    pub(crate) stream: Uuid,
    pub(crate) command: Uuid,
    pub(crate) causation: Uuid,
    pub(crate) by_shop: bool,
    /// With the operation of a call after a slash, as the table of states has it.
    pub(crate) kind: &'static str,
}

impl Event {
    pub(crate) fn row(&self) -> String {
        format!("{EVENTS}:{}", self.line)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) id: String,
    pub(crate) shop: String,
    pub(crate) reference: String,
    pub(crate) amount: Option<Money>,
    pub(crate) events: Vec<EventNo>,
    pub(crate) registered: Vec<Registered>,
    pub(crate) opened: Vec<(EventNo, String)>,
    pub(crate) closed: Vec<(EventNo, String, Closing)>,
    pub(crate) observed: Vec<Observed>,
    pub(crate) safe: Vec<Safe>,
    pub(crate) lost: Vec<Lost>,
    pub(crate) mismatches: Vec<(EventNo, Mismatch)>,
    pub(crate) paid: Vec<Paid>,
    pub(crate) canceled: Option<EventNo>,
    pub(crate) expired: Option<EventNo>,
}

#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) event: EventNo,
    pub(crate) key: String,
    pub(crate) reference: String,
}

#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) event: EventNo,
    pub(crate) read_no: i64,
    pub(crate) reference: String,
    pub(crate) ordered: Money,
    /// Of level and payments; see [`told`].
    pub(crate) told: u64,
    pub(crate) payments: Vec<String>,
}

/// Enough money came, or some.
#[derive(Debug)]
pub(crate) struct Paid {
    pub(crate) event: EventNo,
    pub(crate) whole: bool,
    pub(crate) paid: Money,
}

#[derive(Debug)]
pub(crate) struct Safe {
    pub(crate) event: EventNo,
    pub(crate) epoch: u32,
    pub(crate) ordered: Money,
    pub(crate) counted: Money,
    pub(crate) read_no: i64,
}

#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) event: EventNo,
    pub(crate) epoch: u32,
    pub(crate) read_no: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Payment {
    pub(crate) id: String,
    pub(crate) order: String,
    pub(crate) number: u32,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) event: EventNo,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Started,
    Attempted {
        operation: Operation,
        attempt: u32,
        reference: String,
    },
    Unknown {
        operation: Operation,
        attempt: u32,
    },
    Resolved {
        operation: Operation,
        attempt: u32,
        resolution: Resolution,
        provider_payment: Option<String>,
    },
    Redirected {
        provider_payment: String,
    },
    Authorized {
        provider_payment: String,
        amount: Money,
        confidence: String,
    },
    Ended(Ending),
}

/// How an attempt ended without money.
#[derive(Debug)]
pub(crate) enum Ending {
    Failed { reason: String },
    Canceled,
    Expired,
}

/// A row that is not what it should be; told by I-35.
#[derive(Debug)]
pub(crate) struct Misshapen {
    pub(crate) line: u32,
    pub(crate) aggregate: String,
    pub(crate) why: String,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) events: Vec<Event>,
    pub(crate) orders: Vec<Order>,
    pub(crate) payments: Vec<Payment>,
    pub(crate) by_order: HashMap<String, usize>,
    pub(crate) by_payment: HashMap<String, usize>,
    /// Correlation ids that were named, with the first row that did.
    pub(crate) correlated: HashMap<String, u32>,
    pub(crate) misshapen: Vec<Misshapen>,
}

#[derive(Deserialize)]
struct Line {
    part: i32,
    position: i64,
    stream_id: Uuid,
    version: i64,
    event_id: Uuid,
    aggregate_type: String,
    aggregate_id: String,
    event_type: String,
    schema_version: i16,
    recorded_at: Timestamp,
    payload: Value,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    command_id: Uuid,
    causation_id: Uuid,
    correlation_id: String,
    auth_type: String,
}

impl Store {
    pub(crate) fn read(dir: &Folder<'_>) -> Result<Self, VerifyError> {
        let mut store = Self::default();
        let there = records(dir, EVENTS, |line, event: Line| store.take(line, event))?;
        if there {
            Ok(store)
        } else {
            Err(VerifyError::Unreadable {
                path: dir.path.join(EVENTS),
                source: std::io::ErrorKind::NotFound.into(),
            })
        }
    }

    fn take(&mut self, line: u32, row: Line) {
        let number = self.events.len();
        let fact = stored::decode(
            &row.aggregate_type,
            &row.event_type,
            row.schema_version,
            &row.payload,
        );
        self.correlated.entry(row.metadata.correlation_id).or_insert(line);
        let mut event = Event {
            line,
            part: row.part,
            position: row.position,
            version: row.version,
            at: row.recorded_at.as_microsecond(),
            id: row.event_id,
            stream: row.stream_id,
            command: row.metadata.command_id,
            causation: row.metadata.causation_id,
            by_shop: row.metadata.auth_type == "api_key",
            kind: "",
        };
        match fact {
            Ok(Fact::Order(fact)) => {
                event.kind = self.order(&row.aggregate_id).take(number, fact);
            }
            Ok(Fact::Payment(fact)) => {
                event.kind = self.payment(&row.aggregate_id).take(number, fact);
            }
            Err(why) => self.misshapen.push(Misshapen {
                line,
                aggregate: row.aggregate_id,
                why,
            }),
        }
        self.events.push(event);
    }

    fn order(&mut self, id: &str) -> &mut Order {
        let at = match self.by_order.get(id) {
            Some(at) => *at,
            None => {
                self.by_order.insert(id.to_owned(), self.orders.len());
                self.orders.push(Order {
                    id: id.to_owned(),
                    ..Order::default()
                });
                self.orders.len() - 1
            }
        };
        &mut self.orders[at]
    }

    fn payment(&mut self, id: &str) -> &mut Payment {
        let at = match self.by_payment.get(id) {
            Some(at) => *at,
            None => {
                self.by_payment.insert(id.to_owned(), self.payments.len());
                self.payments.push(Payment {
                    id: id.to_owned(),
                    ..Payment::default()
                });
                self.payments.len() - 1
            }
        };
        &mut self.payments[at]
    }

    pub(crate) fn row(&self, event: EventNo) -> String {
        self.events[event].row()
    }

    pub(crate) fn at(&self, event: EventNo) -> i64 {
        self.events[event].at
    }

    /// The attempts of an order that the store has facts of, in the order in which they were opened.
    pub(crate) fn attempts<'a>(&'a self, order: &'a Order) -> impl Iterator<Item = &'a Payment> {
        let ids = order.opened.iter();
        ids.filter_map(|(_, id)| self.by_payment.get(id).map(|at| &self.payments[*at]))
    }

    /// The report that a fact of this order, or of its attempts, stands on: the one that was taken in with it, or else the last one
    /// before it.
    pub(crate) fn basis<'o>(&self, order: &'o Order, fact: EventNo) -> Option<&'o Observed> {
        let together = |observed: &Observed| self.events[observed.event].command == self.events[fact].command;
        order
            .observed
            .iter()
            .rfind(|observed| observed.event < fact || together(observed))
    }

    /// The last position of a part; 0 while it is empty.
    pub(crate) fn head(&self, part: i32) -> i64 {
        let positions = self.events.iter().filter(|event| event.part == part);
        positions.map(|event| event.position).max().unwrap_or(0)
    }
}

impl Order {
    /// What was taken in of the read with this number, until `until`: what a fact that cites the read stands on.
    pub(crate) fn cited(&self, read_no: i64, until: EventNo) -> Option<&Observed> {
        self.observed
            .iter()
            .rfind(|observed| observed.read_no == read_no && observed.event <= until)
    }

    /// How the attempt had ended before an event, if it had.
    pub(crate) fn closing(&self, payment: &str, before: EventNo) -> Option<Closing> {
        let closings = self.closed.iter().rev();
        closings
            .filter(|(event, closed, _)| closed == payment && *event < before)
            .map(|(_, _, closing)| *closing)
            .next()
    }

    /// Whether money had come before an event, and not enough.
    pub(crate) fn is_partially_paid(&self, before: EventNo) -> bool {
        self.paid.iter().any(|paid| !paid.whole && paid.event < before)
    }

    /// What people call it.
    pub(crate) fn name(&self) -> &str {
        if self.reference.is_empty() {
            &self.id
        } else {
            &self.reference
        }
    }

    fn take(&mut self, event: EventNo, fact: OrderFact) -> &'static str {
        self.events.push(event);
        match fact {
            OrderFact::OrderCreated {
                shop,
                order_reference,
                amount,
                ..
            } => {
                self.shop = shop;
                self.reference = order_reference;
                self.amount = Some(amount);
                "OrderCreated"
            }
            OrderFact::ProviderOrderRegistered {
                order_key, reference, ..
            } => {
                self.registered.push(Registered {
                    event,
                    key: order_key,
                    reference,
                });
                "ProviderOrderRegistered"
            }
            OrderFact::AttemptOpened { payment_id, .. } => {
                self.opened.push((event, payment_id));
                "AttemptOpened"
            }
            OrderFact::AttemptClosed { payment_id, closing } => {
                self.closed.push((event, payment_id, closing));
                "AttemptClosed"
            }
            OrderFact::ProviderReportObserved { read_no, report, .. } => {
                self.observed.push(Observed {
                    event,
                    read_no,
                    told: told_by(&report),
                    payments: report.payments.iter().map(|payment| payment.id.clone()).collect(),
                    reference: report.reference,
                    ordered: report.ordered,
                });
                "ProviderReportObserved"
            }
            OrderFact::OrderPartiallyPaid { paid, .. } => {
                self.paid.push(Paid {
                    event,
                    whole: false,
                    paid,
                });
                "OrderPartiallyPaid"
            }
            OrderFact::OrderPaid { paid, .. } => {
                self.paid.push(Paid {
                    event,
                    whole: true,
                    paid,
                });
                "OrderPaid"
            }
            OrderFact::AmountMismatchFound { what } => {
                self.mismatches.push((event, what));
                "AmountMismatchFound"
            }
            OrderFact::ConfidenceReachedSafe {
                epoch,
                ordered,
                evidence,
            } => {
                self.safe.push(Safe {
                    event,
                    epoch,
                    ordered,
                    counted: evidence.counted,
                    read_no: evidence.read_no,
                });
                "ConfidenceReachedSafe"
            }
            OrderFact::SafetyLost { epoch, read_no, .. } => {
                self.lost.push(Lost {
                    event,
                    epoch,
                    read_no,
                });
                "SafetyLost"
            }
            OrderFact::OrderCanceled { .. } => {
                self.canceled.get_or_insert(event);
                "OrderCanceled"
            }
            OrderFact::OrderExpired { .. } => {
                self.expired.get_or_insert(event);
                "OrderExpired"
            }
        }
    }
}

impl Payment {
    fn take(&mut self, event: EventNo, fact: PaymentFact) -> &'static str {
        let (kind, what) = match fact {
            PaymentFact::PaymentStarted { order_id, number, .. } => {
                self.order = order_id;
                self.number = number;
                ("PaymentStarted", What::Started)
            }
            PaymentFact::ProviderCallAttempted {
                operation,
                attempt,
                reference,
                ..
            } => (
                match operation {
                    Operation::CreateOrder => "ProviderCallAttempted/create_order",
                    Operation::Start => "ProviderCallAttempted/start",
                },
                What::Attempted {
                    operation,
                    attempt,
                    reference,
                },
            ),
            PaymentFact::ProviderOutcomeUnknown {
                operation, attempt, ..
            } => (
                match operation {
                    Operation::CreateOrder => "ProviderOutcomeUnknown/create_order",
                    Operation::Start => "ProviderOutcomeUnknown/start",
                },
                What::Unknown { operation, attempt },
            ),
            PaymentFact::ProviderOutcomeResolved {
                operation,
                attempt,
                resolution,
                provider_payment_id,
            } => (
                match (operation, resolution) {
                    (Operation::CreateOrder, _) => "ProviderOutcomeResolved/create_order",
                    (Operation::Start, Resolution::Happened) => "ProviderOutcomeResolved/start/happened",
                    (Operation::Start, _) => "ProviderOutcomeResolved/start/did_not",
                },
                What::Resolved {
                    operation,
                    attempt,
                    resolution,
                    provider_payment: provider_payment_id,
                },
            ),
            PaymentFact::PaymentRedirected {
                provider_payment_id, ..
            } => (
                "PaymentRedirected",
                What::Redirected {
                    provider_payment: provider_payment_id,
                },
            ),
            PaymentFact::PaymentAuthorized {
                provider_payment_id,
                amount,
                confidence,
            } => (
                "PaymentAuthorized",
                What::Authorized {
                    provider_payment: provider_payment_id,
                    amount,
                    confidence,
                },
            ),
            PaymentFact::PaymentFailed { reason } => {
                ("PaymentFailed", What::Ended(Ending::Failed { reason }))
            }
            PaymentFact::PaymentCanceled { .. } => ("PaymentCanceled", What::Ended(Ending::Canceled)),
            PaymentFact::PaymentExpired => ("PaymentExpired", What::Ended(Ending::Expired)),
        };
        self.steps.push(Step { event, what });
        kind
    }

    /// The provider's ids that are known to be this attempt's own.
    pub(crate) fn provider_payments(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| match &step.what {
            What::Redirected { provider_payment } | What::Authorized { provider_payment, .. } => {
                Some(provider_payment.as_str())
            }
            What::Resolved {
                provider_payment: Some(id),
                ..
            } => Some(id.as_str()),
            What::Resolved { .. }
            | What::Started
            | What::Attempted { .. }
            | What::Unknown { .. }
            | What::Ended(_) => None,
        })
    }

    /// The recorded intents to call, with their number and reference.
    pub(crate) fn intents(&self, of: Operation) -> impl Iterator<Item = (EventNo, u32, &str)> {
        self.steps.iter().filter_map(move |step| match &step.what {
            What::Attempted {
                operation,
                attempt,
                reference,
            } if *operation == of => Some((step.event, *attempt, reference.as_str())),
            _ => None,
        })
    }
}

/// Level and payments of a report as one number: equal for equal content in any order.
pub(crate) fn told<'a>(
    level: Option<&str>,
    payments: impl Iterator<Item = (&'a str, &'a str, Option<&'a str>, i64, &'a str, i64)>,
) -> u64 {
    let mut payments: Vec<_> = payments.collect();
    payments.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (level, payments).hash(&mut hasher);
    hasher.finish()
}

fn told_by(report: &Report) -> u64 {
    let codes: Vec<String> = report
        .payments
        .iter()
        .map(|payment| payment.amount.currency.to_string())
        .collect();
    let payments = report.payments.iter().zip(&codes).map(|(payment, code)| {
        let returned = payment
            .refunds
            .iter()
            .chain(&payment.chargebacks)
            .fold(0_i64, |sum, back| sum.saturating_add(back.amount.minor));
        (
            payment.id.as_str(),
            payment.state.as_str(),
            payment.confidence.as_deref(),
            payment.amount.minor,
            code.as_str(),
            returned,
        )
    });
    told(
        report.considered_safe.as_ref().map(|safe| safe.level.as_str()),
        payments,
    )
}

/// The earlier export of the same store, held against the newer one; told by I-32.
#[derive(Debug, Default)]
pub(crate) struct Prefix {
    pub(crate) lines: usize,
    /// Rows of the earlier export that are not in the newer one, byte for byte.
    pub(crate) lost: Vec<u32>,
}

#[derive(Deserialize)]
struct Place {
    part: i32,
    position: i64,
}

impl Prefix {
    /// `None` without an earlier export. Only digests of lines are kept.
    pub(crate) fn read(dir: &Folder<'_>, earlier: &'static str) -> Result<Option<Self>, VerifyError> {
        let mut known: HashMap<(i32, i64), u64> = HashMap::new();
        let place = |file, line, text: &[u8]| -> Result<((i32, i64), u64), VerifyError> {
            let Place { part, position } = parse(file, line, text)?;
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            Ok(((part, position), hasher.finish()))
        };
        let mut prefix = Self::default();
        let mut kept: Vec<((i32, i64), u64, u32)> = vec![];
        let there = crate::read::lines(dir, earlier, |line, text| {
            let (at, digest) = place(earlier, line, text)?;
            kept.push((at, digest, line));
            Ok(())
        })?;
        if !there {
            return Ok(None);
        }
        crate::read::lines(dir, EVENTS, |line, text| {
            let (at, digest) = place(EVENTS, line, text)?;
            known.insert(at, digest);
            Ok(())
        })?;
        prefix.lines = kept.len();
        prefix.lost = kept
            .into_iter()
            .filter(|(at, digest, _)| known.get(at) != Some(digest))
            .map(|(_, _, line)| line)
            .collect();
        Ok(Some(prefix))
    }
}
