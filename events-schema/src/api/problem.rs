//! What is a caller told when something is wrong? An RFC 9457 problem document: a stable code, the field, the remedy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::problems::problem_type;
use crate::order::{ORDER_ID, PAYMENT_ID};
use crate::words::WORD;

/// Where the page of each problem code will stand; relative, so that it holds wherever the documentation is served.
const PAGES: &str = "/problems/";

/// A refusal that a program can act on and a person can understand. Carries no value that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Address of the page that explains the code; relative to where kassa is served.
    #[serde(rename = "type")]
    #[schemars(regex(pattern = "^/problems/[a-z][a-z0-9_]{0,63}$"))]
    pub kind: String,
    /// The same for every problem with this code.
    pub title: String,
    /// HTTP status number, on NATS as well.
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// What is wrong with this request, in one sentence. Nothing in it is meant for shoppers.
    pub detail: String,
    /// Stable, snake_case: what a program decides by.
    #[schemars(regex(pattern = WORD))]
    pub code: String,
    /// Every field that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// What to do about it, in one sentence.
    pub hint: String,
    /// What was asked, as a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Where the remedy is described at length; absolute where the installation's own address is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docs: Option<String>,
    /// Under which the request is found in logs and traces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{32}$"))]
    pub trace_id: Option<String>,
    /// The order that stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = ORDER_ID))]
    pub order_id: Option<String>,
    /// The attempt that stands in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = PAYMENT_ID))]
    pub payment_id: Option<String>,
    /// How many seconds to wait before the same request is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FieldError {
    /// JSON pointer into the body, or the name of a header or parameter; empty for the body as a whole.
    pub pointer: String,
    /// What is wrong, in one word: `required`, `unknown_field`, `duplicate`, `invalid`, ….
    #[schemars(regex(pattern = WORD))]
    pub code: String,
    /// What may stand there, in one sentence.
    pub detail: String,
}

impl Problem {
    /// A problem of a registered kind: status and title are the registry's, so one code is never told in two ways. `detail`
    /// and `hint` are sentences in lower case without a full stop.
    #[must_use]
    pub fn of(code: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        let known = problem_type(code);
        // A test reads every place that names a code, so this is for who adds one without running it.
        debug_assert!(known.is_some(), "{code} is not in the registry of problems");
        let (status, title) = known.map_or((500, "something of ours is broken"), |known| {
            (known.status, known.title)
        });
        Self {
            kind: format!("{PAGES}{code}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code: code.to_owned(),
            errors: vec![],
            hint: hint.into(),
            instance: None,
            docs: Some(format!("{PAGES}{code}")),
            trace_id: None,
            order_id: None,
            payment_id: None,
            retry_after_s: None,
        }
    }

    /// The input is malformed: 400 `validation`, with a pointer to each field.
    #[must_use]
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match &errors[..] {
            [only] if only.pointer.is_empty() => only.detail.clone(),
            [only] => format!("{}: {}", only.pointer, only.detail),
            several => format!("{} fields are not as they should be", several.len()),
        };
        let mut problem = Self::of(
            "validation",
            detail,
            "correct the fields named in errors and send it again with the same Idempotency-Key",
        );
        problem.errors = errors;
        problem
    }

    /// 404 `not_found`: the same for what is not there and for what is another shop's.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::of(
            "not_found",
            format!("there is no such {what} in this shop"),
            "check the id, and that it belongs to your shop",
        )
    }

    /// 404 `not_found`, for a shop.
    #[must_use]
    pub fn unknown_shop() -> Self {
        Self::of(
            "not_found",
            "the shop in the subject is not configured here",
            "name a shop that this installation serves",
        )
    }

    /// 503 `store_unavailable`: a repeat with the same key is safe.
    #[must_use]
    pub fn store_unavailable() -> Self {
        let mut problem = Self::of(
            "store_unavailable",
            "nothing was decided or, if it was, a repeat tells what",
            "send the same request again with the same Idempotency-Key",
        );
        problem.retry_after_s = Some(1);
        problem
    }

    /// 429 `rate_limited`, for the service as a whole.
    #[must_use]
    pub fn overloaded() -> Self {
        let mut problem = Self::of(
            "rate_limited",
            "more requests are under way than this service takes",
            "send the same request again a little later",
        );
        problem.retry_after_s = Some(1);
        problem
    }

    /// The same problem with the fields that are wrong.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// The same problem, naming an order.
    #[must_use]
    pub fn with_order(mut self, order_id: impl ToString) -> Self {
        self.order_id = Some(order_id.to_string());
        self
    }

    /// The same problem, naming an attempt.
    #[must_use]
    pub fn with_payment(mut self, payment_id: impl ToString) -> Self {
        self.payment_id = Some(payment_id.to_string());
        self
    }
}

impl FieldError {
    /// One wrong field.
    #[must_use]
    pub fn new(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            code: code.to_owned(),
            detail: detail.into(),
        }
    }
}
