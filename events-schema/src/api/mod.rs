//! What may be asked of kassa, and what is answered? The same bodies on NATS and over HTTP.
//!
//! Requests are read strictly: an unknown field is an error, because a misspelt one would be silently lost. Answers are
//! read as events are: new fields and words may come.

pub mod commands;
pub mod lists;
pub mod problem;
pub mod problems;
pub mod queries;
pub mod strict;
pub mod verbs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::words::{OrderStatus, PaymentStatus, SafeValue};
pub use commands::{
    CancelOrder, CreateOrder, OrderAnswer, PaymentAnswer, RequestedAmount, Shopper, StartPayment,
};
pub use problem::{FieldError, Problem};
pub use problems::{PROBLEMS, ProblemType};
pub use queries::{
    ExplainOrder, Explanation, GetOrder, GetOrderEvents, ListMethods, ListOrders, MethodList, MethodView,
    MissingCondition, NotSafeReason, OrderEvents, OrderList, OrderView, PaymentView, SafeView,
};
pub use strict::{Object, UniqueMap};
pub use verbs::{Kind, VERBS, Verb};

/// Shape of a position: the part and the number in it. Opaque to callers, but compared by us.
pub const POSITION: &str = "^[0-9]{1,10}-[0-9]{1,19}$";
/// A position that a caller may give back: there is one part, so far.
pub const POSITION_GIVEN: &str = "^0-[0-9]{1,18}$";
/// Seconds that a request over HTTP may wait at most: half a minute is what clients and proxies grant.
pub const WAIT_MAX_HTTP_S: u64 = 30;
/// A text without control characters.
pub(crate) const NO_CONTROLS: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";

/// What the shopper has to do next for an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NextAction {
    /// Send the browser there.
    Redirect {
        /// Where to. Of this shopper's session: show it to nobody else.
        url: String,
    },
    /// Nothing yet; it will be known shortly. The same command with the same key asks again.
    Wait,
    /// Nothing.
    None,
}
