//! What may have happened to an order.

use std::collections::BTreeMap;

use cqrs_es::DomainEvent;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::phase::{OrderFacts, ProviderOrder};
use crate::{
    ids::PaymentId,
    money::Money,
    payment::{Ending, Method},
    report::ProviderReport,
    safety::{Evidence, NotSafe},
};

/// Stored facts. Their shapes are frozen once written; new ones are added beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderEvent {
    OrderCreated {
        #[serde(flatten)]
        facts: OrderFacts,
        /// The shop's own words, handed back with every read; never personal data.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metadata: BTreeMap<String, String>,
    },
    ProviderOrderRegistered {
        #[serde(flatten)]
        provider: ProviderOrder,
    },
    AttemptOpened {
        payment_id: PaymentId,
        method: Method,
        number: u32,
    },
    AttemptClosed {
        payment_id: PaymentId,
        closing: Closing,
    },
    /// A report that differs from the one before it, and what was made of it.
    ProviderReportObserved {
        read_no: i64,
        digest: String,
        report: ProviderReport,
        /// Empty when the report makes the order safe.
        not_safe: Vec<NotSafe>,
        policy: String,
        /// Which of our payments each of the report's payments (by provider id) belongs to, from now on.
        owners: BTreeMap<String, PaymentId>,
    },
    OrderPartiallyPaid {
        ordered: Money,
        paid: Money,
    },
    OrderPaid {
        ordered: Money,
        paid: Money,
        /// When the report that shows it was read; older facts do not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Timestamp>,
    },
    AmountMismatchFound {
        what: Mismatch,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<Money>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<Money>,
    },
    ConfidenceReachedSafe {
        epoch: u32,
        ordered: Money,
        evidence: Evidence,
    },
    /// What made the order safe does not hold any more: goods that have not left are to be held.
    SafetyLost {
        /// The epoch that ends.
        epoch: u32,
        ordered: Money,
        reasons: Vec<NotSafe>,
        read_no: i64,
        policy: String,
    },
    /// The shop gave the order up while nothing was paid.
    OrderCanceled {
        at: Timestamp,
        /// The shop's own words; never personal data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// Its time ran out, and a report that was read late enough shows nothing that could still be money.
    OrderExpired {
        at: Timestamp,
    },
}

/// What did not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    PaidAmount,
    PaidCurrency,
    /// The answer is about another order than we asked for.
    ReportedReference,
    ReportedAmount,
    ReportedCurrency,
}

impl Mismatch {
    /// Whether the answer was not about our order at all: then nothing in it counts, and a person must look.
    pub fn stops_the_order(&self) -> bool {
        match self {
            Self::ReportedReference | Self::ReportedAmount | Self::ReportedCurrency => true,
            Self::PaidAmount | Self::PaidCurrency => false,
        }
    }
}

/// How an attempt ended, from the order's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closing {
    Authorized,
    Failed,
    Canceled,
    Expired,
}

impl From<Ending> for Closing {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Failed => Self::Failed,
            Ending::Canceled => Self::Canceled,
            Ending::Expired => Self::Expired,
        }
    }
}

impl OrderEvent {
    /// The epoch of a fact that may be stored only once per epoch; its event id is made of it.
    /// The store refuses a second one by the index `events_p*_epoch`, which names these kinds.
    pub fn epoch(&self) -> Option<u32> {
        match self {
            Self::ConfidenceReachedSafe { epoch, .. } | Self::SafetyLost { epoch, .. } => Some(*epoch),
            Self::OrderCreated { .. }
            | Self::ProviderOrderRegistered { .. }
            | Self::AttemptOpened { .. }
            | Self::AttemptClosed { .. }
            | Self::ProviderReportObserved { .. }
            | Self::OrderPartiallyPaid { .. }
            | Self::OrderPaid { .. }
            | Self::AmountMismatchFound { .. }
            | Self::OrderCanceled { .. }
            | Self::OrderExpired { .. } => None,
        }
    }
}

impl DomainEvent for OrderEvent {
    fn event_type(&self) -> String {
        match self {
            Self::OrderCreated { .. } => "OrderCreated",
            Self::ProviderOrderRegistered { .. } => "ProviderOrderRegistered",
            Self::AttemptOpened { .. } => "AttemptOpened",
            Self::AttemptClosed { .. } => "AttemptClosed",
            Self::ProviderReportObserved { .. } => "ProviderReportObserved",
            Self::OrderPartiallyPaid { .. } => "OrderPartiallyPaid",
            Self::OrderPaid { .. } => "OrderPaid",
            Self::AmountMismatchFound { .. } => "AmountMismatchFound",
            Self::ConfidenceReachedSafe { .. } => "ConfidenceReachedSafe",
            Self::SafetyLost { .. } => "SafetyLost",
            Self::OrderCanceled { .. } => "OrderCanceled",
            Self::OrderExpired { .. } => "OrderExpired",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}
