//! What do others learn about an order?
//!
//! No personal data: a shopper is a key into a table that can be erased.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::money::Money;
use crate::subject::check_id;
use crate::time::UtcTime;
use crate::words::{Aggregate, Mismatch, Route, SafetyLevel, WORD};

pub(crate) const ORDER_ID: &str = "^ord_[0-9a-hjkmnp-tv-z]{1,40}$";
pub(crate) const PAYMENT_ID: &str = "^pay_[0-9a-hjkmnp-tv-z]{1,40}$";

pub(crate) fn order_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    id(&Aggregate::Order, deserializer)
}

pub(crate) fn payment_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    id(&Aggregate::Payment, deserializer)
}

fn id<'de, D: Deserializer<'de>>(aggregate: &Aggregate, deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    check_id(aggregate, &id).map_err(serde::de::Error::custom)?;
    Ok(id)
}

fn maybe_payment_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let id = Option::<String>::deserialize(deserializer)?;
    if let Some(id) = &id {
        check_id(&Aggregate::Payment, id).map_err(serde::de::Error::custom)?;
    }
    Ok(id)
}

/// A shop made an order known; nothing is paid yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Created {
    /// Id of the order.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it, unique within the shop.
    pub order_reference: String,
    /// What the shopper reads at the bank.
    pub description: String,
    /// What is owed.
    pub amount: Money,
    /// Country of the shopper, ISO 3166-1 alpha-2.
    #[schemars(regex(pattern = "^[A-Z]{2}$"))]
    pub country: String,
    /// Language of the shopper, BCP 47.
    #[schemars(regex(pattern = "^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$"))]
    pub language: String,
    /// Key of the shopper's personal data, which is in no event.
    pub shopper_id: String,
    /// The shop's own labels. A shop must not put personal data in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// By the provider's report, less was paid than was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PartiallyPaid {
    /// Id of the order.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it.
    pub order_reference: String,
    /// What was ordered.
    pub ordered: Money,
    /// What is paid so far.
    pub paid: Money,
    /// What is still to be paid.
    pub remaining: Money,
}

/// By the provider's report, what was ordered is paid. Not a permission to ship: see `payment_safe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Paid {
    /// Id of the order.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it.
    pub order_reference: String,
    /// What was ordered.
    pub ordered: Money,
    /// What is paid; may differ from what was ordered within the shop's tolerance.
    pub paid: Money,
}

/// The provider's report and the shop's order do not agree. The order does not become safe by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AmountMismatchFound {
    /// Id of the order.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it.
    pub order_reference: String,
    /// What did not agree.
    pub what: Mismatch,
    /// What should have been there; absent when that is not an amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Money>,
    /// What was there; absent when that is not an amount, or was not readable as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Money>,
}

/// The order may be shipped. One event per order and safety epoch; an order whose money was lost and came back is told
/// again under the next epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PaymentSafe {
    /// Id of the order.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it.
    pub order_reference: String,
    /// Counts how often this order became safe, from 1. One release per order and epoch.
    pub epoch: NonZeroU32,
    /// What was ordered.
    pub amount: Money,
    /// Why it is safe.
    pub evidence: Evidence,
}

/// What made the order safe does not hold any more: money went back, or the provider took its word back. Hold what has not
/// left. One event per order and safety epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PaymentSafetyLost {
    /// Id of the order.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it.
    pub order_reference: String,
    /// The epoch that ends: the one of the `payment_safe` that is taken back.
    pub epoch: NonZeroU32,
    /// What was ordered.
    pub amount: Money,
    /// Why, in the order in which it was found.
    pub reasons: Vec<LossReason>,
    /// Number of the read of the provider's report that showed this; higher is later.
    pub read_no: u64,
    /// Name and version of the policy that judged: `default/1`.
    pub policy: String,
}

/// One reason why an order is not safe any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LossReason {
    /// Stable code: `money_went_back`, `nothing_paid`, `provider_does_not_consider_safe`, …. An open list.
    #[schemars(regex(pattern = WORD))]
    pub code: String,
    /// The amount that belongs to the code: what went back, or what is still counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Money>,
}

/// The shop gave the order up while nothing was paid. Money that comes all the same is told of as ever, and never makes the
/// order safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Canceled {
    /// Id of the order.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it.
    pub order_reference: String,
    /// The shop's own words. A shop must not put personal data in them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The order's time ran out, and a report that was read late enough shows nothing that could still be money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Expired {
    /// Id of the order.
    #[serde(deserialize_with = "order_id")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it.
    pub order_reference: String,
}

/// Why an order is considered safe: everything that the policy judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// The provider's level, in lower case.
    pub level: SafetyLevel,
    /// Since when, by the provider's clock. Information only: it decides nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub considered_safe_at: Option<UtcTime>,
    /// Which sum was compared with what was ordered.
    pub route: Route,
    /// That sum.
    pub counted: Money,
    /// Largest difference that the policy accepts, either way, in minor units of the order's currency.
    pub tolerance_minor: u64,
    /// Counted less ordered, in minor units; negative when too little was paid.
    pub difference_minor: i64,
    /// Every payment of the report, counted or not.
    pub payments: Vec<EvidencePayment>,
    /// Number of the read of the provider's report that showed this; higher is later.
    pub read_no: u64,
    /// Name and version of the policy that judged: `default/1`.
    pub policy: String,
}

/// One payment of the provider's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EvidencePayment {
    /// Our id; absent for a payment that the shopper made at the provider without us.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "maybe_payment_id"
    )]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: Option<String>,
    /// The provider's id.
    pub provider_payment_id: String,
    /// Method, in our spelling: `ideal`.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// Its amount.
    pub amount: Money,
    /// The provider's state of it, in lower snake case: `authorized`.
    #[schemars(regex(pattern = WORD))]
    pub state: String,
}
