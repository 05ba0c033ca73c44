#![doc = include_str!("../README.md")]

mod consumer;
mod inbox;

pub use consumer::{BoxError, Consumer, Release, Stats};
pub use inbox::prepare;
pub use kassa_events_schema::order::PaymentSafe;
