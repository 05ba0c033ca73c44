//! The order's state: only what is needed to decide what comes next.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::{Closing, Mismatch};
use crate::{
    ids::{OrderId, PaymentId, Shop, ShopperId},
    money::Money,
    payment::Method,
    safety::NotSafe,
};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    #[default]
    Unopened,
    Opened(Box<Opened>),
}

/// What is fixed from the start. No personal data: that is in the vault, under `shopper_id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderFacts {
    pub order_id: OrderId,
    pub shop: Shop,
    pub order_reference: String,
    pub description: String,
    pub amount: Money,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// ISO 639-1.
    pub language: String,
    pub shopper_id: ShopperId,
    pub return_url: String,
}

/// The order as the provider knows it. One per order; made at the first start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderOrder {
    pub order_key: String,
    /// Where the shopper can always pay, whatever happened to a `start`.
    pub menu_url: String,
    /// Our reference at the provider: the shop's, with a suffix after a create whose outcome stayed unknown.
    pub reference: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub facts: OrderFacts,
    pub metadata: std::collections::BTreeMap<String, String>,
    pub provider: Option<ProviderOrder>,
    /// In the order in which they were opened.
    pub attempts: Vec<AttemptRecord>,
    pub standing: Standing,
    pub safety: Safety,
    /// Which of our payments each payment at the provider belongs to, as it was first seen.
    pub owners: std::collections::BTreeMap<String, PaymentId>,
    /// The number of the newest report that was taken in.
    pub read_no: i64,
    pub(super) digest: Option<String>,
    /// Why the newest report does not make the order safe.
    pub not_safe: Vec<NotSafe>,
    /// Set when an answer of the provider was not about this order; nothing is released until a person has looked.
    pub stopped: Option<Mismatch>,
    pub(super) mismatch: Option<(Mismatch, Option<Money>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub payment_id: PaymentId,
    pub method: Method,
    /// `None` while it is live.
    pub closing: Option<Closing>,
}

/// How much of the order is paid, by the provider's report and in the order's currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Unpaid,
    PartiallyPaid { paid: Money },
    Paid { paid: Money },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Safety {
    No,
    Safe { epoch: u32 },
}

impl Order {
    pub fn opened(&self) -> Option<&Opened> {
        match self {
            Self::Unopened => None,
            Self::Opened(opened) => Some(opened),
        }
    }
}

impl Opened {
    pub fn live_attempt(&self) -> Option<&AttemptRecord> {
        self.attempts.iter().find(|attempt| attempt.closing.is_none())
    }

    /// What is still to be paid; the whole amount while nothing is.
    pub fn remaining(&self) -> Money {
        let paid = match self.standing {
            Standing::Unpaid => 0,
            Standing::PartiallyPaid { paid } | Standing::Paid { paid } => paid.minor,
        };
        Money {
            minor: self.facts.amount.minor.saturating_sub(paid).max(0),
            ..self.facts.amount
        }
    }

    /// The word that shops see: `open`, `pending`, `partially_paid`, `paid`.
    pub fn status(&self) -> &'static str {
        match self.standing {
            Standing::Paid { .. } => "paid",
            Standing::PartiallyPaid { .. } => "partially_paid",
            Standing::Unpaid if self.live_attempt().is_some() => "pending",
            Standing::Unpaid => "open",
        }
    }
}
