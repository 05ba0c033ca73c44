//! What is a caller told when something is wrong? The published problem document, under the name that services use.

pub use kassa_events_schema::api::problem::{FieldError, Problem};
