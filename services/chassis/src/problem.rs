//! What is a caller told when something is wrong? An RFC 9457 problem document: a stable code, the field, the remedy.

use serde::{Deserialize, Serialize};

/// Where the page of each problem code will stand; relative, so that it holds wherever the documentation is served.
const PAGES: &str = "/problems/";

/// A refusal that a program can act on and a person can understand. Carries no value that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    /// HTTP status number, on NATS as well.
    pub status: u16,
    pub detail: String,
    /// Stable, snake_case.
    pub code: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// What to do about it, in one sentence.
    pub hint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
}

/// One field that is wrong, by JSON pointer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    pub pointer: String,
    pub code: String,
    pub detail: String,
}

impl Problem {
    pub fn new(
        status: u16,
        code: &str,
        title: &str,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            kind: format!("{PAGES}{code}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            code: code.to_owned(),
            errors: vec![],
            hint: hint.into(),
            order_id: None,
            payment_id: None,
            retry_after_s: None,
        }
    }

    /// The input is malformed: 400 `validation`, with a pointer to each field.
    pub fn validation(errors: Vec<FieldError>) -> Self {
        let detail = match &errors[..] {
            [only] if only.pointer.is_empty() => only.detail.clone(),
            [only] => format!("{}: {}", only.pointer, only.detail),
            several => format!("{} fields are not as they should be", several.len()),
        };
        let mut problem = Self::new(
            400,
            "validation",
            "the request is not valid",
            detail,
            "correct the fields named in errors and send it again with the same Idempotency-Key",
        );
        problem.errors = errors;
        problem
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(
            404,
            "not_found",
            "not found",
            format!("there is no such {what} in this shop"),
            "check the id, and that it belongs to the shop named in the subject",
        )
    }

    pub fn unknown_shop() -> Self {
        Self::new(
            404,
            "not_found",
            "not found",
            "the shop in the subject is not configured here",
            "name a shop that this installation serves",
        )
    }

    pub fn store_unavailable() -> Self {
        let mut problem = Self::new(
            503,
            "store_unavailable",
            "the store does not answer",
            "nothing was decided or, if it was, a repeat tells what",
            "send the same request again with the same Idempotency-Key",
        );
        problem.retry_after_s = Some(1);
        problem
    }

    pub fn overloaded() -> Self {
        let mut problem = Self::new(
            429,
            "rate_limited",
            "too much at once",
            "more requests are under way than this service takes",
            "send the same request again a little later",
        );
        problem.retry_after_s = Some(1);
        problem
    }

    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    #[must_use]
    pub fn with_order(mut self, order_id: impl ToString) -> Self {
        self.order_id = Some(order_id.to_string());
        self
    }

    #[must_use]
    pub fn with_payment(mut self, payment_id: impl ToString) -> Self {
        self.payment_id = Some(payment_id.to_string());
        self
    }
}

impl FieldError {
    pub fn new(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            code: code.to_owned(),
            detail: detail.into(),
        }
    }
}
