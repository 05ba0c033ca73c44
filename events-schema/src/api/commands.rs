//! What may a shop ask to be done, and what is it told?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::strict::{Object, UniqueMap};
use super::{NO_CONTROLS, NextAction, OrderStatus, POSITION, PaymentStatus, lists};
use crate::order::{ORDER_ID, PAYMENT_ID};
use crate::words::WORD;

/// CM counts in int32 minor units.
pub const AMOUNT_MAX: i64 = 2_147_483_647;
/// What the shop's own reference may be made of: it travels through CM, files and URLs, and must survive all of them. CM
/// takes 255 characters; fifteen are kept for the suffix of a repeated create.
pub const REFERENCE: &str = r"^[A-Za-z0-9\-_./:#]{1,240}$";

/// Makes an order known. Nothing is paid yet; the answer comes after the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOrder {
    /// The shop's own name for it, unique within the shop.
    #[schemars(regex(pattern = REFERENCE))]
    pub order_reference: String,
    /// What the shopper reads at the bank.
    #[schemars(length(min = 1, max = 255), regex(pattern = NO_CONTROLS))]
    pub description: String,
    /// What is owed.
    pub amount: Object<RequestedAmount>,
    /// Country of the shopper, ISO 3166-1 alpha-2.
    #[schemars(transform = lists::countries)]
    pub country: String,
    /// Language of the shopper, BCP 47. One that is not spoken here is answered in English.
    pub language: String,
    /// The person. Goes into a vault that can be erased, and into no event.
    pub shopper: Object<Shopper>,
    /// Where the shopper comes back to: an absolute URL on one of the shop's origins. Coming back decides nothing.
    #[schemars(length(max = 2048), regex(pattern = r"^[Hh][Tt][Tt][Pp][Ss]?://[^\s\\]+$"), extend("format" = "uri"))]
    pub return_url: String,
    /// The shop's own labels; they come back in `order.created`. No personal data.
    #[serde(default)]
    pub metadata: UniqueMap,
}

/// What is owed, in whole minor units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestedAmount {
    /// Minor units: 4995 is € 49.95.
    #[schemars(range(min = 1, max = AMOUNT_MAX))]
    pub value: i64,
    /// ISO 4217 code of a currency that orders are taken in.
    #[schemars(transform = lists::currencies)]
    pub currency: String,
}

/// The person who pays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shopper {
    /// Where the person is reached.
    #[schemars(
        length(max = 100),
        regex(
            pattern = r#"^[^\s'"@\u0000-\u001f\u007f-\u009f]+@[^\s'"@.\u0000-\u001f\u007f-\u009f]+(\.[^\s'"@.\u0000-\u001f\u007f-\u009f]+)*$"#
        )
    )]
    pub email: String,
    /// First name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 35), regex(pattern = NO_CONTROLS))]
    pub first_name: Option<String>,
    /// Last name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100), regex(pattern = NO_CONTROLS))]
    pub last_name: Option<String>,
    /// Telephone number, as the person wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 50), regex(pattern = NO_CONTROLS))]
    pub phone: Option<String>,
}

/// Starts an attempt to pay an order, by one method. One attempt is under way at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StartPayment {
    /// Which order.
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// One of the methods that `list_methods` offers: `ideal`.
    #[schemars(regex(pattern = WORD))]
    pub method: String,
    /// The bank that the shopper chose, where the method asks for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[A-Z0-9]{1,34}$"))]
    pub issuer: Option<String>,
}

/// Ends an order that nothing was paid for. Money that comes all the same is recorded, and never makes it safe to ship.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelOrder {
    /// Which order.
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Why, in the shop's words. No personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = NO_CONTROLS))]
    pub reason: Option<String>,
}

/// Where an order stands after a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OrderAnswer {
    /// Id of the order.
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: String,
    /// Its status, as it is now: a repeat tells today's.
    pub status: OrderStatus,
    /// Where the log stood. Give it to a read as `min_position` to read what was written here.
    #[schemars(regex(pattern = POSITION))]
    pub position: String,
}

/// What the shopper has to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PaymentAnswer {
    /// Id of the attempt.
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: String,
    /// Its status, as it is now.
    pub status: PaymentStatus,
    /// What the shopper has to do next.
    pub next_action: NextAction,
    /// Where the log stood.
    #[schemars(regex(pattern = POSITION))]
    pub position: String,
}
