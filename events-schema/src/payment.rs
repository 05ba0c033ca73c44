//! What do others learn about one attempt to pay?
//!
//! URLs of the shopper's session at the bank stay out: whoever reads one could go there.

use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::money::Money;
use crate::order::{ORDER_ID, PAYMENT_ID, order_id, payment_id};
use crate::time::UtcTime;
use crate::words::{Confidence, Operation, Uncertainty, WORD};

/// An attempt to pay was decided. The provider has not been called yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// Id of the attempt.
    #[serde(deserialize_with = "payment_id")]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Id of the order that it pays.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Method, in our spelling: `ideal`. An open list: methods come and go.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// What it is to pay.
    pub amount: Money,
    /// The bank that the shopper chose, where the method asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Counts the attempts of this order, from 1.
    pub attempt: NonZeroU32,
}

/// The provider took the attempt and the shopper is to be sent on. Where to is not published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Redirected {
    /// Id of the attempt.
    #[serde(deserialize_with = "payment_id")]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Id of the order that it pays.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Method, in our spelling.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// The provider's id of the attempt, if it is known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_payment_id: Option<String>,
}

/// The provider reports the attempt as authorized. Not a permission to ship: see the order's `payment_safe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Authorized {
    /// Id of the attempt.
    #[serde(deserialize_with = "payment_id")]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Id of the order that it pays.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Method, in our spelling.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// What was authorized, by the provider's report.
    pub amount: Money,
    /// Whose word stands behind it.
    pub confidence: Confidence,
    /// The provider's id of the attempt, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_payment_id: Option<String>,
}

/// The attempt ended without money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failed {
    /// Id of the attempt.
    #[serde(deserialize_with = "payment_id")]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Id of the order that it was to pay.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Method, in our spelling.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// Stable code of ours. An open list.
    #[schemars(regex(pattern = WORD))]
    pub reason: String,
    /// The provider's own words, for people; never to be interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_message: Option<String>,
}

/// The shopper or the provider gave the attempt up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Canceled {
    /// Id of the attempt.
    #[serde(deserialize_with = "payment_id")]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Id of the order that it was to pay.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Method, in our spelling.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// Stable code of ours, if one is known. An open list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = WORD))]
    pub reason: Option<String>,
}

/// The attempt ran out of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Expired {
    /// Id of the attempt.
    #[serde(deserialize_with = "payment_id")]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Id of the order that it was to pay.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Method, in our spelling.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
}

/// A call to the provider had no clear answer. It is not repeated: the provider's report will tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutcomeUnknown {
    /// Id of the attempt.
    #[serde(deserialize_with = "payment_id")]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Id of the order that it is to pay.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Method, in our spelling.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// Which call.
    pub operation: Operation,
    /// Why its outcome is unknown.
    pub class: Uncertainty,
    /// Until when the call could still have had an effect: absence in a report proves nothing before.
    pub deadline: UtcTime,
}
