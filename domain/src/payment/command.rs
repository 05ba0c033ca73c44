//! What may be asked of an attempt. Time and ids arrive inside.

use jiff::Timestamp;

use super::{
    event::{LossClass, Operation, Resolution},
    phase::Attempt,
};
use crate::report::ReportedPayment;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentCommand {
    Start {
        attempt: Attempt,
        expires_at: Timestamp,
    },
    /// Record the intent to call; refused while another call is open.
    ///
    /// `attempt` is the one that the caller believes to be next: another's intent is never taken for its own.
    AttemptCall {
        operation: Operation,
        attempt: u32,
        reference: String,
        deadline: Timestamp,
    },
    /// The provider's order exists.
    ConfirmCreate {
        attempt: u32,
    },
    /// The provider wants the shopper to come to `url`.
    Redirect {
        attempt: u32,
        provider_payment_id: String,
        url: String,
    },
    /// The provider said no to a call.
    Fail {
        operation: Operation,
        attempt: u32,
        reason: String,
        provider_message: Option<String>,
    },
    /// Ended by us, with no call open and nothing at the provider that the shopper could pay.
    GiveUp {
        reason: String,
    },
    /// No answer, or none that can be read.
    LoseCall {
        operation: Operation,
        attempt: u32,
        class: LossClass,
    },
    /// The call had no effect for certain: [`Resolution::NotSent`] or [`Resolution::NotServed`]. It may be made again.
    AbandonCall {
        operation: Operation,
        attempt: u32,
        resolution: Resolution,
    },
    Observe(Observation),
}

/// The part of a provider's report that belongs to this attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    pub payments: Vec<ReportedPayment>,
    /// When the read began: what it does not show was not visible then.
    pub read_started_at: Timestamp,
}
