//! What do stored facts look like? Their shapes, written down a second time: a checker that used the writer's own types would
//! read whatever that wrote.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// An amount in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Money {
    #[serde(rename = "value")]
    pub(crate) minor: i64,
    pub(crate) currency: Currency,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Currency([u8; 3]);

impl TryFrom<String> for Currency {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| "not a currency")?;
        if code.iter().all(u8::is_ascii_uppercase) {
            Ok(Self(code))
        } else {
            Err("not a currency")
        }
    }
}

impl std::fmt::Display for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::fmt::Debug for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for Money {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.minor, self.currency)
    }
}

/// Facts of an order. Fields that nothing asks for stand here to be looked for.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "a field that must be there is part of the shape")]
pub(crate) enum OrderFact {
    OrderCreated {
        order_id: String,
        shop: String,
        order_reference: String,
        description: String,
        amount: Money,
        country: String,
        language: String,
        shopper_id: String,
        return_url: String,
        #[serde(default)]
        metadata: BTreeMap<String, String>,
    },
    ProviderOrderRegistered {
        order_key: String,
        menu_url: String,
        reference: String,
    },
    AttemptOpened {
        payment_id: String,
        method: String,
        number: u32,
    },
    AttemptClosed {
        payment_id: String,
        closing: Closing,
    },
    ProviderReportObserved {
        read_no: i64,
        digest: String,
        report: Report,
        not_safe: Vec<Value>,
        policy: String,
        owners: BTreeMap<String, String>,
    },
    OrderPartiallyPaid {
        ordered: Money,
        paid: Money,
    },
    OrderPaid {
        ordered: Money,
        paid: Money,
    },
    AmountMismatchFound {
        what: Mismatch,
    },
    ConfidenceReachedSafe {
        epoch: u32,
        ordered: Money,
        evidence: Evidence,
    },
    SafetyLost {
        epoch: u32,
        ordered: Money,
        reasons: Vec<Value>,
        read_no: i64,
        policy: String,
    },
    OrderCanceled {
        at: Timestamp,
    },
    OrderExpired {
        at: Timestamp,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Closing {
    Authorized,
    Failed,
    Canceled,
    Expired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mismatch {
    PaidAmount,
    PaidCurrency,
    ReportedReference,
    ReportedAmount,
    ReportedCurrency,
}

impl Mismatch {
    /// The answer was not about the order that was asked for.
    pub(crate) fn is_foreign(self) -> bool {
        !matches!(self, Self::PaidAmount | Self::PaidCurrency)
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) reference: String,
    pub(crate) ordered: Money,
    pub(crate) considered_safe: Option<ConsideredSafe>,
    pub(crate) payments: Vec<ReportedPayment>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ConsideredSafe {
    pub(crate) level: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReportedPayment {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) confidence: Option<String>,
    pub(crate) amount: Money,
    #[serde(default)]
    pub(crate) refunds: Vec<ReportedMove>,
    #[serde(default)]
    pub(crate) chargebacks: Vec<ReportedMove>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReportedMove {
    pub(crate) amount: Money,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "a field that must be there is part of the shape")]
pub(crate) struct Evidence {
    pub(crate) level: String,
    pub(crate) route: String,
    pub(crate) counted: Money,
    pub(crate) tolerance_minor: i64,
    pub(crate) difference_minor: i64,
    pub(crate) payments: Vec<Value>,
    pub(crate) read_no: i64,
    pub(crate) policy: String,
}

/// Facts of an attempt.
#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "a field that must be there is part of the shape")]
pub(crate) enum PaymentFact {
    PaymentStarted {
        payment_id: String,
        order_id: String,
        shop: String,
        method: String,
        amount: Money,
        number: u32,
        expires_at: Timestamp,
    },
    ProviderCallAttempted {
        operation: Operation,
        attempt: u32,
        reference: String,
        deadline: Timestamp,
    },
    ProviderOutcomeUnknown {
        operation: Operation,
        attempt: u32,
        class: String,
        deadline: Timestamp,
    },
    ProviderOutcomeResolved {
        operation: Operation,
        attempt: u32,
        resolution: Resolution,
        provider_payment_id: Option<String>,
    },
    PaymentRedirected {
        provider_payment_id: String,
        url: String,
    },
    PaymentAuthorized {
        provider_payment_id: String,
        amount: Money,
        confidence: String,
    },
    PaymentFailed {
        reason: String,
    },
    PaymentCanceled {
        reason: Option<String>,
    },
    PaymentExpired,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Operation {
    CreateOrder,
    Start,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Resolution {
    Happened,
    DidNotHappen,
    NotSent,
    NotServed,
}

#[derive(Debug)]
pub(crate) enum Fact {
    Order(OrderFact),
    Payment(PaymentFact),
}

/// Reads a payload by the type that the row names.
///
/// # Errors
/// What is wrong, as a sentence.
pub(crate) fn decode(
    aggregate: &str,
    event_type: &str,
    schema_version: i16,
    payload: &Value,
) -> Result<Fact, String> {
    if schema_version != 1 {
        return Err(format!(
            "schema version {schema_version} of {event_type} is not known"
        ));
    }
    let tag = match payload {
        Value::String(unit) => Some(unit.as_str()),
        Value::Object(one) if one.len() == 1 => one.keys().next().map(String::as_str),
        _ => None,
    };
    if tag != Some(event_type) {
        return Err(format!("the row says {event_type} and its payload does not"));
    }
    let told = |error: serde_json::Error| format!("{event_type} does not have its shape: {error}");
    match aggregate {
        "order" => OrderFact::deserialize(payload).map(Fact::Order).map_err(told),
        "payment" => PaymentFact::deserialize(payload).map(Fact::Payment).map_err(told),
        other => Err(format!("the aggregate {other} is not known")),
    }
}

/// Every field of a JSON object in one order, so that equal content is equal text.
pub(crate) fn canonical(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let fields: BTreeMap<_, _> = map.iter().map(|(key, value)| (key, sorted(value))).collect();
                let fields: Map<String, Value> = fields
                    .into_iter()
                    .map(|(key, value)| (key.clone(), value))
                    .collect();
                Value::Object(fields)
            }
            Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}
