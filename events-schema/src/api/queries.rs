//! What may a shop ask to know, and what is it told?

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::commands::{AMOUNT_MAX, REFERENCE};
use super::{NextAction, OrderStatus, POSITION, POSITION_GIVEN, PaymentStatus, SafeValue, lists};
use crate::money::Money;
use crate::order::{Evidence, ORDER_ID, PAYMENT_ID};
use crate::time::UtcTime;
use crate::words::WORD;

/// Most orders of one page of `list_orders`.
pub const LIST_MAX: u16 = 200;

/// Where does an order stand? By id or by the shop's own reference, and not by both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = lists::id_or_reference)]
pub struct GetOrder {
    /// Which order, by our id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: Option<String>,
    /// Which order, by the shop's own reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = REFERENCE))]
    pub order_reference: Option<String>,
    /// The position of an earlier answer: what was written then is read now, or the answer is 503 after two seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = POSITION_GIVEN))]
    pub min_position: Option<String>,
}

/// What has happened to an order and its payments, from the beginning?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetOrderEvents {
    /// Which order.
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
}

/// Why is an order safe to ship, or what is missing? By id or by the shop's own reference, and not by both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = lists::id_or_reference)]
pub struct ExplainOrder {
    /// Which order, by our id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: Option<String>,
    /// Which order, by the shop's own reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = REFERENCE))]
    pub order_reference: Option<String>,
}

/// Which orders are there? Newest first, page by page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListOrders {
    /// Only those in this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = lists::statuses)]
    pub status: Option<String>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = LIST_MAX))]
    pub limit: Option<u16>,
    /// The `next` of the page before. Opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub after: Option<String>,
}

/// Which methods may a checkout offer?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListMethods {
    /// Country of the shopper, ISO 3166-1 alpha-2.
    #[schemars(transform = lists::countries)]
    pub country: String,
    /// Currency of the order, ISO 4217.
    #[schemars(regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,
    /// What is owed, in minor units; without it, limits are told and not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub amount: Option<i64>,
    /// Language of the names, BCP 47.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Za-z0-9-]{2,35}$"))]
    pub language: Option<String>,
    /// `mobile` or `desktop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(transform = lists::devices)]
    pub device: Option<String>,
}

/// Where an order stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderView {
    /// Id of the order.
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// The shop's own name for it.
    pub order_reference: String,
    /// The shop's token.
    pub shop: String,
    /// Its status.
    pub status: OrderStatus,
    /// What is owed.
    pub amount: Money,
    /// Whether it may be shipped: not the same as paid.
    pub safe: SafeView,
    /// Every attempt to pay it, in order.
    pub payments: Vec<PaymentView>,
    /// What the shopper has to do next.
    pub next_action: NextAction,
    /// When it was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<UtcTime>,
    /// Position of the last event about it.
    #[schemars(regex(pattern = POSITION))]
    pub position: String,
    /// The shop's own labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// One attempt to pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PaymentView {
    /// Id of the attempt.
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Method, in our spelling.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// Its status.
    pub status: PaymentStatus,
    /// What it is to pay.
    pub amount: Money,
}

/// Whether an order may be shipped, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SafeView {
    /// The verdict. Only `yes` is a permission to ship.
    pub value: SafeValue,
    /// Counts how often the order became safe; with `yes` and `lost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
    /// Why it is safe, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Why it is not safe, in the order in which it was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<NotSafeReason>,
}

/// One reason not to ship.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotSafeReason {
    /// Stable code: `nothing_reported`, `provider_does_not_consider_safe`, `amount_outside_tolerance`, …. An open list.
    #[schemars(regex(pattern = WORD))]
    pub reason: String,
    /// What belongs to that code: the sums, the level, the method.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

/// Why an order is safe to ship, or what is missing, in sentences for people and codes for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// Id of the order.
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Its status.
    pub status: OrderStatus,
    /// The verdict. Only `yes` is a permission to ship.
    pub safe: SafeValue,
    /// The whole in one or two sentences, in English, for the shop's people.
    pub sentence: String,
    /// Each condition that is not met.
    pub missing: Vec<MissingCondition>,
    /// Why it is safe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// When the provider's report was last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_read_at: Option<UtcTime>,
    /// When it will be read next, unless a notification comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_read_at: Option<UtcTime>,
    /// Position of the last event about the order.
    #[schemars(regex(pattern = POSITION))]
    pub position: String,
}

/// One condition that is not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MissingCondition {
    /// Stable code. An open list.
    #[schemars(regex(pattern = WORD))]
    pub code: String,
    /// The same with its numbers, for people.
    pub sentence: String,
    /// What belongs to that code: the sums, the level, the method.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

/// What has happened, oldest first: a batch of CloudEvents. What is not published is left out, so numbers have gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct OrderEvents(#[schemars(with = "Vec<crate::envelope::Wire>")] pub Vec<crate::Envelope>);

/// A page of orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderList {
    /// Newest first.
    pub orders: Vec<OrderView>,
    /// Give it as `after` for the page that follows; absent on the last one. Opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What a checkout may offer, in the order in which it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MethodList {
    /// In the order of the menu.
    pub methods: Vec<MethodView>,
}

/// One method on offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MethodView {
    /// What `start_payment` takes: `ideal`.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// What the shopper reads: `iDEAL | Wero`.
    pub name: String,
    /// How the shopper goes on: `redirect`. An open list.
    #[schemars(regex(pattern = WORD))]
    pub flow: String,
    /// The least that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount_min: Option<Money>,
    /// The most that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount_max: Option<Money>,
}
