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
    /// Until when it may be paid; orders from before there was such a time have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
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
    /// What each of the provider's payments brought when the order became safe, by the provider's id.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub(super) released: std::collections::BTreeMap<String, Money>,
    /// Set when it takes no payment any more although nothing was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// The attempt, closed or not, that the newest report shows a payment of which is not decided: under review, with the
    /// acquirer, or in a word that we do not know. An attempt that ended may still bring money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_way: Option<PaymentId>,
    /// Since when it is paid, as far as reports tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paid_at: Option<Timestamp>,
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
    Safe {
        epoch: u32,
    },
    /// It was safe in this epoch, and is not any more.
    Lost {
        epoch: u32,
    },
}

/// Why an order takes no payment any more, and since when. Money that comes all the same is money: after the shop's own
/// cancel it never makes the order safe; after an expiry, which only says that none had come, it counts as ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Canceled { at: Timestamp },
    Expired { at: Timestamp },
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

    /// The attempt that may bring money without anything more being asked for: a live one; or, while nothing counts as paid,
    /// one that is authorized with a promise only; or one that ended with us and is under way at the provider all the same.
    pub fn undecided_attempt(&self) -> Option<&AttemptRecord> {
        let promised = || {
            self.attempts
                .iter()
                .find(|attempt| attempt.closing == Some(Closing::Authorized))
                .filter(|_| self.standing == Standing::Unpaid)
        };
        let under_way = || {
            let id = self.under_way?;
            self.attempts.iter().find(|attempt| attempt.payment_id == id)
        };
        self.live_attempt().or_else(promised).or_else(under_way)
    }

    /// Whether the shop has given the order up.
    pub fn is_canceled(&self) -> bool {
        matches!(self.ended, Some(Ended::Canceled { .. }))
    }

    /// The word that shops see: `open`, `pending`, `partially_paid`, `paid`, `canceled`, `expired`. Money first: who cancels
    /// while the shopper pays is told that it was paid.
    pub fn status(&self) -> &'static str {
        match (self.standing, self.ended) {
            (Standing::Paid { .. }, _) => "paid",
            (Standing::PartiallyPaid { .. }, _) => "partially_paid",
            (Standing::Unpaid, Some(Ended::Canceled { .. })) => "canceled",
            (Standing::Unpaid, Some(Ended::Expired { .. })) => "expired",
            (Standing::Unpaid, None) if self.undecided_attempt().is_some() => "pending",
            (Standing::Unpaid, None) => "open",
        }
    }

    /// Since when it has that status, where that is known and worth telling.
    pub fn status_since(&self) -> Option<Timestamp> {
        match (self.standing, self.ended) {
            (Standing::Paid { .. }, _) => self.paid_at,
            (Standing::PartiallyPaid { .. }, _) => None,
            (Standing::Unpaid, Some(Ended::Canceled { at } | Ended::Expired { at })) => Some(at),
            (Standing::Unpaid, None) => None,
        }
    }
}
