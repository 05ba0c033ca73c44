//! What may have happened to an attempt.

use cqrs_es::DomainEvent;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::phase::Attempt;
use crate::{money::Money, report::Confidence};

/// Stored facts. Their shapes are frozen once written; new ones are added beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PaymentEvent {
    PaymentStarted {
        #[serde(flatten)]
        attempt: Attempt,
        /// After this moment, a report without money ends the attempt.
        expires_at: Timestamp,
    },
    /// Intent before effect: a call with this reference may be sent until shortly after this was stored.
    ProviderCallAttempted {
        operation: Operation,
        attempt: u32,
        reference: String,
        deadline: Timestamp,
    },
    /// Neither a yes nor a no came back.
    ProviderOutcomeUnknown {
        operation: Operation,
        attempt: u32,
        class: LossClass,
        deadline: Timestamp,
    },
    ProviderOutcomeResolved {
        operation: Operation,
        attempt: u32,
        resolution: Resolution,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_payment_id: Option<String>,
    },
    PaymentRedirected {
        provider_payment_id: String,
        url: String,
    },
    PaymentAuthorized {
        provider_payment_id: String,
        amount: Money,
        confidence: Confidence,
    },
    PaymentFailed {
        /// Stable code: `provider_refused`, `provider_unavailable`, `provider_never_received`, `authorization_failed`,
        /// `order_not_payable`, `shopper_erased`.
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        provider_message: Option<String>,
    },
    PaymentCanceled {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    PaymentExpired,
}

/// What the provider was asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    CreateOrder,
    Start,
}

/// Why no outcome is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossClass {
    Timeout,
    ConnectionLost,
    ServerError,
    Unreadable,
    /// The worker that had the call is gone.
    WorkerLost,
    /// The provider holds this reference already: an earlier call had its effect.
    ReferenceTaken,
}

/// How a call turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The provider did it.
    Happened,
    /// The report still did not show it after the visibility horizon.
    DidNotHappen,
    /// We know that no byte of it left.
    NotSent,
    /// The provider turned the account or the pace away before it looked at the request.
    NotServed,
}

/// How an attempt ended without money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    Failed,
    Canceled,
    Expired,
}

impl DomainEvent for PaymentEvent {
    fn event_type(&self) -> String {
        match self {
            Self::PaymentStarted { .. } => "PaymentStarted",
            Self::ProviderCallAttempted { .. } => "ProviderCallAttempted",
            Self::ProviderOutcomeUnknown { .. } => "ProviderOutcomeUnknown",
            Self::ProviderOutcomeResolved { .. } => "ProviderOutcomeResolved",
            Self::PaymentRedirected { .. } => "PaymentRedirected",
            Self::PaymentAuthorized { .. } => "PaymentAuthorized",
            Self::PaymentFailed { .. } => "PaymentFailed",
            Self::PaymentCanceled { .. } => "PaymentCanceled",
            Self::PaymentExpired => "PaymentExpired",
        }
        .to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}
