//! The state machine as types: each phase holds only what is true in it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Method,
    event::{Ending, LossClass, Operation},
};
use crate::{
    ids::{OrderId, PaymentId, Shop},
    money::Money,
};

/// What is fixed from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub payment_id: PaymentId,
    pub order_id: OrderId,
    pub shop: Shop,
    pub method: Method,
    pub amount: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Counts the attempts of an order, from 1.
    pub number: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payment {
    #[default]
    Unstarted,
    Pending(Pending),
    Authorized {
        attempt: Attempt,
        /// Every payment at the provider that is known to belong to this attempt.
        provider_payments: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        asked: Vec<AskedOrder>,
    },
    Closed {
        attempt: Attempt,
        ending: Ending,
        provider_payments: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        asked: Vec<AskedOrder>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    pub attempt: Attempt,
    pub expires_at: Timestamp,
    pub step: Step,
    /// How often a provider order was asked for; the next reference depends on it.
    pub creates: u32,
    pub starts: u32,
    /// How many of both the provider turned away before it looked at them.
    #[serde(default)]
    pub turned_away: u32,
    pub provider_payments: Vec<String>,
    /// Orders that the provider may hold for this attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<AskedOrder>,
}

/// An order that was asked for at the provider and not refused: it may exist there, also where its key never came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedOrder {
    pub reference: String,
    /// Why it is not known; `None` where it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LossClass>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// No call is open and the shopper has nothing to do yet.
    Deciding,
    /// A call may be on its way.
    Calling(Call),
    /// The shopper has a page to go to; with no `url`, only the provider's menu.
    Redirected { url: Option<String> },
    /// `start` was sent and nothing came back. Never to be sent again; the shopper can pay through the menu.
    StartUnknown(Call),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub operation: Operation,
    pub attempt: u32,
    pub reference: String,
    pub deadline: Timestamp,
}

impl Payment {
    /// `None` before it was started.
    pub fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Unstarted => None,
            Self::Pending(Pending { attempt, .. })
            | Self::Authorized { attempt, .. }
            | Self::Closed { attempt, .. } => Some(attempt),
        }
    }

    /// The provider's ids of this attempt, as far as they are known.
    pub fn provider_payments(&self) -> &[String] {
        match self {
            Self::Unstarted => &[],
            Self::Pending(Pending {
                provider_payments, ..
            })
            | Self::Authorized {
                provider_payments, ..
            }
            | Self::Closed {
                provider_payments, ..
            } => provider_payments,
        }
    }

    /// Orders that the provider may hold for this attempt, in the order in which they were asked for.
    pub fn asked_orders(&self) -> &[AskedOrder] {
        match self {
            Self::Unstarted => &[],
            Self::Pending(Pending { asked, .. })
            | Self::Authorized { asked, .. }
            | Self::Closed { asked, .. } => asked,
        }
    }

    /// The word that shops see: `started`, `redirected`, `outcome_unknown`, `authorized`, `failed`, `canceled`, `expired`.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Unstarted => "unstarted",
            Self::Pending(pending) => match pending.step {
                Step::Deciding | Step::Calling(_) => "started",
                Step::Redirected { .. } => "redirected",
                Step::StartUnknown(_) => "outcome_unknown",
            },
            Self::Authorized { .. } => "authorized",
            Self::Closed {
                ending: Ending::Failed,
                ..
            } => "failed",
            Self::Closed {
                ending: Ending::Canceled,
                ..
            } => "canceled",
            Self::Closed {
                ending: Ending::Expired,
                ..
            } => "expired",
        }
    }
}
