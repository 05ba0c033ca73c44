//! What may a shop ask? One file per verb.

mod cancel_order;
mod create_order;
mod start_payment;

pub use cancel_order::CancelOrder;
pub use create_order::{CreateOrder, OrderMade};
pub use start_payment::{PaymentMade, StartPayment};
