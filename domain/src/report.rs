//! What did the provider say about an order, in our words? Whole, with every payment, and unknown words kept as such.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::money::Money;

/// The provider's report of one of its orders, as read at one moment. Source: CM's order detail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderReport {
    /// The merchant reference that the provider echoes.
    pub reference: String,
    /// The amount that the provider was told to collect.
    pub ordered: Money,
    /// Absent while the provider does not consider the order safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub considered_safe: Option<ConsideredSafe>,
    /// In the provider's order, which means nothing.
    pub payments: Vec<ReportedPayment>,
}

/// The provider's verdict that an order may be delivered, at a level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsideredSafe {
    /// CM's word: `SAFE`, `SAFEST`, `FAST`, `FASTEST` or one that we do not know.
    pub level: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// One attempt as the provider sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedPayment {
    pub id: String,
    /// CM's word, such as `IDEAL`.
    pub method: String,
    pub state: AuthorizationState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<Confidence>,
    pub amount: Money,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<ReportedMove>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refunds: Vec<ReportedMove>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chargebacks: Vec<ReportedMove>,
}

/// A capture, refund or chargeback with the provider's word for its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedMove {
    pub amount: Money,
    pub state: String,
}

/// Where an authorization stands. An outside word that we do not know is kept, and is never a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum AuthorizationState {
    /// The shopper may come back to it, or may not.
    WithShopper(String),
    /// The acquirer is at it, or a cancel is not through: money may be taken.
    WithAcquirer(String),
    Authorized,
    Canceled,
    /// Refused or broken for good.
    Failed(String),
    Unknown(String),
}

impl From<String> for AuthorizationState {
    fn from(word: String) -> Self {
        match word.as_str() {
            "AUTHORIZED" => Self::Authorized,
            "CANCELED" => Self::Canceled,
            "RISK_CHECK_FAILED"
            | "START_ERROR"
            | "AUTHENTICATION_FAILED"
            | "AUTHENTICATION_ERROR"
            | "AUTHORIZATION_FAILED"
            | "AUTHORIZATION_ERROR" => Self::Failed(word),
            "NEW"
            | "RISK_CHECK_OK"
            | "STARTED"
            | "REDIRECTED_FOR_AUTHENTICATION"
            | "REDIRECTED_FOR_AUTHORIZATION" => Self::WithShopper(word),
            "AUTHENTICATED"
            | "AUTHORIZATION_REQUESTED"
            | "CANCEL_REQUESTED"
            | "CANCEL_FAILED"
            | "CANCEL_ERROR" => Self::WithAcquirer(word),
            // Guessing here would ship goods or lose a sale.
            _ => Self::Unknown(word),
        }
    }
}

impl From<AuthorizationState> for String {
    fn from(state: AuthorizationState) -> Self {
        match state {
            AuthorizationState::Authorized => "AUTHORIZED".to_owned(),
            AuthorizationState::Canceled => "CANCELED".to_owned(),
            AuthorizationState::WithShopper(word)
            | AuthorizationState::WithAcquirer(word)
            | AuthorizationState::Failed(word)
            | AuthorizationState::Unknown(word) => word,
        }
    }
}

/// How sure the provider is that an authorization becomes money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Confidence {
    /// The acquirer guarantees the capture.
    AcquirerApproved,
    /// Asked; money may still not come.
    AcquirerPending,
    /// The shopper promised.
    ShopperPending,
    Unknown(String),
}

impl From<String> for Confidence {
    fn from(word: String) -> Self {
        match word.as_str() {
            "ACQUIRER_APPROVED" => Self::AcquirerApproved,
            "ACQUIRER_PENDING" => Self::AcquirerPending,
            "SHOPPER_PENDING" => Self::ShopperPending,
            _ => Self::Unknown(word),
        }
    }
}

impl From<Confidence> for String {
    fn from(confidence: Confidence) -> Self {
        match confidence {
            Confidence::AcquirerApproved => "ACQUIRER_APPROVED".to_owned(),
            Confidence::AcquirerPending => "ACQUIRER_PENDING".to_owned(),
            Confidence::ShopperPending => "SHOPPER_PENDING".to_owned(),
            Confidence::Unknown(word) => word,
        }
    }
}

impl ReportedPayment {
    /// Authorized, and the provider says by whom it is vouched for. Without a confidence we know, it is no verdict:
    /// recordings show canceled attempts that carry one, and authorized ones that lack it.
    pub fn is_authorized(&self) -> bool {
        self.state == AuthorizationState::Authorized
            && matches!(
                self.confidence,
                Some(Confidence::AcquirerApproved | Confidence::AcquirerPending | Confidence::ShopperPending)
            )
    }

    /// Authorized, while the acquirer has not made up its mind: a PayPal payment under review. It may still be refused, so the
    /// attempt it belongs to stays open.
    pub fn is_under_review(&self) -> bool {
        self.state == AuthorizationState::Authorized && self.confidence == Some(Confidence::AcquirerPending)
    }

    /// Neither paid for certain nor ended, and out of the shopper's hands: it may become money without anything more being
    /// asked for. What is with the shopper is not: they may come back to it, or pay otherwise.
    pub fn is_undecided(&self) -> bool {
        match &self.state {
            AuthorizationState::Authorized => !self.is_approved(),
            // A word that we do not know may mean money.
            AuthorizationState::WithAcquirer(_) | AuthorizationState::Unknown(_) => true,
            AuthorizationState::WithShopper(_)
            | AuthorizationState::Canceled
            | AuthorizationState::Failed(_) => false,
        }
    }

    /// Authorized with the acquirer's guarantee: counts as paid.
    pub fn is_approved(&self) -> bool {
        self.state == AuthorizationState::Authorized && self.confidence == Some(Confidence::AcquirerApproved)
    }
}

impl ProviderReport {
    /// The same for the same content in any order of payments; what decides whether a report is news.
    pub fn digest(&self) -> String {
        let mut sorted = self.clone();
        sorted.payments.sort_by(|a, b| a.id.cmp(&b.id));
        let bytes = serde_json::to_vec(&sorted).expect("a report is plain data");
        data_encoding::HEXLOWER.encode(&Sha256::digest(bytes)[..16])
    }
}
