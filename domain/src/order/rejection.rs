//! Every way to be refused, with the numbers.

use jiff::Timestamp;

use crate::ids::{OrderId, PaymentId};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderRejection {
    #[error("there is no such order")]
    Unopened,
    #[error("the order reference is taken by {order_id}")]
    ReferenceTaken { order_id: OrderId },
    #[error("the order is {status}{}", since_when(*since))]
    NotPayable {
        status: &'static str,
        since: Option<Timestamp>,
    },
    #[error("{payment_id} is still under way")]
    AttemptLive { payment_id: PaymentId },
    #[error("an answer of the provider was not about this order; a person must look first")]
    Stopped,
    #[error("{attempts} attempts were made, and {max} is the most")]
    TooManyAttempts { attempts: usize, max: usize },
    #[error("{payment_id} is not an attempt of this order")]
    UnknownAttempt { payment_id: PaymentId },
}

fn since_when(moment: Option<Timestamp>) -> String {
    moment.map(|at| format!(" since {at}")).unwrap_or_default()
}
