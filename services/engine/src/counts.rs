//! What does a decision add to the counters? Judged when it is made, counted when it is stored: once, by whoever stored it. A
//! repeat is answered from the command log and counts nothing, and neither do replays and rebuilds, which decide nothing.

use std::time::Duration;

use jiff::Timestamp;
use kassa_chassis::metrics;
use kassa_domain::{
    ids::PaymentId,
    order::{Closing, Opened, OrderEvent},
    payment::{Attempt, PaymentEvent},
};
use kassa_event_store::Store;

/// Something to be counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Counted {
    OrderCreated {
        shop: String,
    },
    OrderSafe {
        shop: String,
        currency: String,
        minor: u64,
        /// The attempt that paid, and its method.
        paid_by: Option<(PaymentId, &'static str)>,
    },
    /// Canceled or expired.
    OrderEnded {
        shop: String,
        outcome: &'static str,
    },
    SafetyLost {
        shop: String,
        currency: String,
        minor: u64,
    },
    PaymentEnded {
        shop: String,
        method: &'static str,
        outcome: &'static str,
    },
}

/// `opened` is the order after the event.
pub(crate) fn of_order(opened: &Opened, event: &OrderEvent) -> Option<Counted> {
    let shop = opened.facts.shop.to_string();
    match event {
        OrderEvent::OrderCreated { .. } => Some(Counted::OrderCreated { shop }),
        OrderEvent::ConfidenceReachedSafe { evidence, .. } => {
            let paid = |closing: &Option<Closing>| matches!(closing, Some(Closing::Authorized));
            let by = opened
                .attempts
                .iter()
                .rev()
                .find(|attempt| paid(&attempt.closing));
            Some(Counted::OrderSafe {
                shop,
                currency: evidence.counted.currency.to_string(),
                minor: u64::try_from(evidence.counted.minor).unwrap_or_default(),
                paid_by: by.map(|attempt| (attempt.payment_id, attempt.method.as_str())),
            })
        }
        // The order's amount, so that safe less this is about what may be shipped; what went back is not known apart as a
        // refund or a chargeback.
        OrderEvent::SafetyLost { ordered, .. } => Some(Counted::SafetyLost {
            shop,
            currency: ordered.currency.to_string(),
            minor: u64::try_from(ordered.minor).unwrap_or_default(),
        }),
        OrderEvent::OrderCanceled { .. } => Some(Counted::OrderEnded {
            shop,
            outcome: "canceled",
        }),
        OrderEvent::OrderExpired { .. } => Some(Counted::OrderEnded {
            shop,
            outcome: "expired",
        }),
        OrderEvent::ProviderOrderRegistered { .. }
        | OrderEvent::AttemptOpened { .. }
        | OrderEvent::AttemptClosed { .. }
        | OrderEvent::ProviderReportObserved { .. }
        | OrderEvent::OrderPartiallyPaid { .. }
        | OrderEvent::OrderPaid { .. }
        | OrderEvent::AmountMismatchFound { .. } => None,
    }
}

pub(crate) fn of_payment(attempt: &Attempt, event: &PaymentEvent) -> Option<Counted> {
    let outcome = match event {
        PaymentEvent::PaymentAuthorized { .. } => "authorized",
        PaymentEvent::PaymentFailed { .. } => "failed",
        PaymentEvent::PaymentCanceled { .. } => "canceled",
        PaymentEvent::PaymentExpired => "expired",
        _ => return None,
    };
    Some(Counted::PaymentEnded {
        shop: attempt.shop.to_string(),
        method: attempt.method.as_str(),
        outcome,
    })
}

/// Counts what was stored at `now`.
pub(crate) fn settle(counted: Vec<Counted>, store: &Store, now: Timestamp) {
    for one in counted {
        match one {
            Counted::OrderCreated { shop } => metrics::order_created(&shop),
            Counted::OrderEnded { shop, outcome } => metrics::order_came_to(&shop, outcome),
            Counted::SafetyLost {
                shop,
                currency,
                minor,
            } => {
                metrics::order_came_to(&shop, "safety_lost");
                metrics::amount(&shop, &currency, "safety_lost", minor);
            }
            Counted::PaymentEnded {
                shop,
                method,
                outcome,
            } => metrics::payment_ended(&shop, method, outcome),
            Counted::OrderSafe {
                shop,
                currency,
                minor,
                paid_by,
            } => {
                metrics::amount(&shop, &currency, "safe", minor);
                let Some((payment, method)) = paid_by else {
                    continue;
                };
                let store = store.clone();
                // When the attempt began stands in its first event; whoever waits for this decision need not wait for that.
                tokio::spawn(async move {
                    let Ok(events) = store.read_stream(payment.stream(), 0, 1).await else {
                        return;
                    };
                    if let Some(first) = events.first()
                        && let Ok(took) = Duration::try_from(now.duration_since(first.recorded_at))
                    {
                        metrics::time_to_safe(&shop, method, took);
                    }
                });
            }
        }
    }
}
