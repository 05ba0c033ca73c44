//! One attempt to pay an order, by one method.
//!
//! Unstarted → pending (deciding, a call is open, redirected, outcome unknown) → authorized, or closed as failed,
//! canceled or expired. A closed attempt can still turn out to be paid: what the provider's report says, happened.

mod aggregate;
mod command;
mod decide;
mod event;
mod evolve;
mod phase;
mod rejection;
#[cfg(test)]
mod tests;

pub use command::{Observation, PaymentCommand};
pub use event::{Ending, LossClass, Operation, PaymentEvent, Resolution};
pub use phase::{AskedOrder, Attempt, Call, Payment, Pending, Step};
pub use rejection::PaymentRejection;

/// How a shopper pays, in our words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    Ideal,
    Paypal,
}

impl Method {
    pub const ALL: &[Self] = &[Self::Ideal, Self::Paypal];

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Ideal => "ideal",
            Self::Paypal => "paypal",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|method| method.as_str() == word)
    }
}

/// How long after a call's deadline an absence in the report proves that the call had no effect, in milliseconds:
/// two seconds in which a paused worker may still send, and the ninety that the provider may take to show an effect.
pub const VISIBILITY_HORIZON_MS: i64 = 2_000 + 90_000;
