//! Every way to be refused, with the numbers.

use super::event::Operation;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PaymentRejection {
    #[error("this payment was started already")]
    AlreadyStarted,
    #[error("there is no such payment")]
    Unstarted,
    #[error("the payment is {status}; nothing more is to be called for it")]
    NotPending { status: &'static str },
    #[error("call {attempt} ({operation:?}) is still open")]
    CallOpen { operation: Operation, attempt: u32 },
    #[error("the shopper was already sent to pay; a second start would be a second payment")]
    StartSpent,
    #[error("call {attempt} ({operation:?}) is not the next one, which is {next}")]
    NotNext {
        operation: Operation,
        attempt: u32,
        next: u32,
    },
    #[error("call {attempt} ({operation:?}) is not the open one")]
    NoSuchCall { operation: Operation, attempt: u32 },
}
