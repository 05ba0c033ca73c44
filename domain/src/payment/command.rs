//! What may be asked of an attempt. Time and ids arrive inside.

use jiff::Timestamp;

use super::{
    event::{LossClass, Operation},
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
    AttemptCall {
        operation: Operation,
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
    /// The provider said no, or was never reached: nothing of this attempt exists there.
    Fail {
        attempt: u32,
        reason: String,
        provider_message: Option<String>,
    },
    /// No answer, or none that can be read.
    LoseCall {
        operation: Operation,
        attempt: u32,
        class: LossClass,
    },
    /// The call was never sent.
    AbandonCall {
        operation: Operation,
        attempt: u32,
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
