//! What is a caller told when something is wrong? The published problem document, under the name that services use.

use async_nats::HeaderMap;
pub use kassa_events_schema::api::problem::{FieldError, Problem};
use kassa_events_schema::headers;

/// Says on NATS that the body is a problem document, and which: in the convention for errors of services.
pub fn refusal_headers(to: &mut HeaderMap, problem: &Problem) {
    to.insert(headers::CONTENT_TYPE, headers::PROBLEM_CONTENT_TYPE);
    to.insert(headers::SERVICE_ERROR_CODE, problem.status.to_string());
    to.insert(headers::SERVICE_ERROR, problem.title.as_str());
}
