//! What may a shop ask? One file per verb.

mod create_order;
mod start_payment;

pub use create_order::{CreateOrder, OrderMade};
pub use start_payment::{PaymentMade, StartPayment};
