#![doc = include_str!("../README.md")]

mod consumer;
mod database;
mod inbox;
mod judge;
mod stats;

pub use consumer::{ConnectError, ConsumeError, Consumer, Settings, wanted as durable};
pub use database::Database;
pub use inbox::Inbox;
pub use judge::{Instruction, Refusal};
pub use kassa_events_schema::order::{PaymentSafe, PaymentSafetyLost};
pub use stats::Stats;
