//! What does CM's order detail say of an order, and in which ways is it written?

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    clock::to_seconds,
    order::{Order, Phase},
    scenario::{Shape, UNKNOWN_FOR},
};

/// There is no status and there are no totals: who asks must judge.
#[derive(Debug, Serialize)]
struct DetailBody<'a> {
    order_reference: &'a str,
    description: &'a str,
    amount: i64,
    currency: &'a str,
    email: &'a str,
    language: &'a str,
    country: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
    timestamp: String,
    expires_on: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    considered_safe: Option<ConsideredSafe>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    payments: Vec<PaymentBody<'a>>,
}

#[derive(Debug, Serialize)]
struct ConsideredSafe {
    level: &'static str,
    timestamp: String,
}

#[derive(Debug, Serialize)]
struct PaymentBody<'a> {
    id: &'a str,
    method: &'static str,
    authorization: AuthorizationBody<'a>,
    captures: Vec<MoveBody<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chargebacks: Vec<MoveBody<'a>>,
}

#[derive(Debug, Serialize)]
struct AuthorizationBody<'a> {
    amount: i64,
    currency: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<&'static str>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct MoveBody<'a> {
    amount: i64,
    currency: &'a str,
    state: &'static str,
    date_last_modified: String,
}

/// The report, as the order's story writes it.
pub(crate) fn written(order: &Order, now: Timestamp) -> Value {
    let mut report = serde_json::to_value(detail_body(order)).expect("a plain struct with text keys");
    let hidden = order
        .payments
        .iter()
        .filter(|payment| payment.visible_from > now)
        .map(|payment| &*payment.id);
    let hidden: Vec<&str> = hidden.collect();
    if let Some(Value::Array(payments)) = report.get_mut("payments") {
        payments.retain(|payment| payment["id"].as_str().is_none_or(|id| !hidden.contains(&id)));
        if payments.is_empty() {
            remove(&mut report, &["payments"]);
        }
    }
    let safe_since = order.safe_since;
    let shape = order.scenario.plan().report;
    match (shape, safe_since) {
        (Shape::Plain, _) | (Shape::Foreign | Shape::Converted { .. }, None) => {}
        (Shape::Foreign, Some(_)) => {
            report["order_reference"] = json!("another-shoppers-order");
            each_payment(&mut report, |payment| payment["id"] = json!("pid4900000000t"));
        }
        (Shape::UnknownState, Some(since)) if now < since + UNKNOWN_FOR => {
            remove(&mut report, &["considered_safe"]);
            each_authorized(&mut report, |authorization| {
                authorization["state"] = json!("ACKNOWLEDGED_BY_WHOMEVER");
            });
        }
        (Shape::UnknownConfidence, Some(since)) if now < since + UNKNOWN_FOR => {
            remove(&mut report, &["considered_safe"]);
            each_authorized(&mut report, |authorization| {
                authorization["confidence"] = json!("WHOEVER_APPROVED");
            });
        }
        (Shape::UnknownState | Shape::UnknownConfidence, _) => {}
        (Shape::NewFields, _) => {
            // Keys of a JSON map are sorted here, which is another order than that of the struct.
            report["_any"] = json!({ "a": [1, { "b": null }] });
            report["status"] = json!("NEW_WORD");
            each_payment(&mut report, |payment| {
                payment["wallet"] = json!({ "brand": "x" });
                payment["authorization"]["scheme_reference"] = json!(["y"]);
            });
        }
        (Shape::Sparse, _) => {
            remove(
                &mut report,
                &[
                    "description",
                    "email",
                    "language",
                    "country",
                    "timestamp",
                    "expires_on",
                ],
            );
            if let Some(safe) = report.get_mut("considered_safe") {
                remove(safe, &["timestamp"]);
            }
            each_payment(&mut report, |payment| remove(payment, &["captures"]));
        }
        (Shape::Alone, _) => {
            each_payment(&mut report, |payment| alone(payment, "captures"));
            alone(&mut report, "payments");
        }
        (
            Shape::Converted {
                to_the_orders_currency,
            },
            Some(_),
        ) => {
            let currency = if to_the_orders_currency {
                json!(*order.currency)
            } else {
                report["payments"][0]["authorization"]["currency"].clone()
            };
            report["approximateTotals"] = json!({
                "totalRegistered": order.amount_minor,
                "totalAcquirerApproved": order.amount_minor,
                "totalCaptured": order.amount_minor,
                "exchangedTo": currency,
                "exchangeRateDate": to_seconds(now),
            });
        }
    }
    report
}

fn remove(from: &mut Value, fields: &[&str]) {
    if let Value::Object(map) = from {
        for field in fields {
            map.remove(*field);
        }
    }
}

fn each_payment(report: &mut Value, change: impl Fn(&mut Value)) {
    if let Some(Value::Array(payments)) = report.get_mut("payments") {
        payments.iter_mut().for_each(change);
    }
}

fn each_authorized(report: &mut Value, change: impl Fn(&mut Value)) {
    each_payment(report, |payment| {
        if payment["authorization"]["state"] == "AUTHORIZED" {
            change(&mut payment["authorization"]);
        }
    });
}

/// A list of one becomes the one.
fn alone(of: &mut Value, field: &str) {
    if let Some(Value::Array(list)) = of.get(field)
        && list.len() == 1
    {
        of[field] = list[0].clone();
    }
}

fn detail_body(order: &Order) -> DetailBody<'_> {
    let payments = order.payments.iter().map(|payment| {
        let currency = &*payment.currency;
        let (amount, confidence, captures) = match payment.phase {
            Phase::Authorized {
                amount_minor: amount,
                captured_at,
            } => (
                amount,
                Some("ACQUIRER_APPROVED"),
                vec![MoveBody {
                    amount,
                    currency,
                    state: "CAPTURED",
                    date_last_modified: to_seconds(captured_at),
                }],
            ),
            Phase::AtTheBank | Phase::InReview | Phase::Ended(_) => (payment.amount_minor, None, Vec::new()),
        };
        let chargebacks = payment.charged_back_at.map(|at| MoveBody {
            amount,
            currency,
            state: "CHARGED",
            date_last_modified: to_seconds(at),
        });
        PaymentBody {
            id: &payment.id,
            method: payment.method.word(),
            authorization: AuthorizationBody {
                amount,
                currency,
                confidence,
                state: payment.phase.state(),
                reason: payment.phase.reason(),
            },
            captures,
            chargebacks: chargebacks.into_iter().collect(),
        }
    });
    DetailBody {
        order_reference: &order.reference,
        description: &order.description,
        amount: order.amount_minor,
        currency: &order.currency,
        email: &order.email,
        language: &order.language,
        country: &order.country,
        profile: order.profile.as_deref(),
        timestamp: to_seconds(order.created_at),
        expires_on: to_seconds(order.expires_at),
        // Whether it goes away after a chargeback is not known: it stays, so that nobody may rely on its going.
        considered_safe: order.considered_safe().map(|(level, since)| ConsideredSafe {
            level,
            timestamp: to_seconds(since),
        }),
        payments: payments.collect(),
    }
}
