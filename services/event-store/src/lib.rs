#![doc = include_str!("../README.md")]

mod append;
mod batcher;
mod clock;
mod columns;
mod filter;
mod flight;
mod hints;
mod hopes;
mod marks;
mod pool;
mod read;
mod reads;
mod store;
mod timers;

pub use append::{Append, AppendError, Appended, NewEvent, NewTimer, ReadRequest, Touch, VaultRow};
pub use clock::Clock;
pub use filter::{Found, LogFilter};
pub use hints::Heard;
pub use pool::{PLANNED_ANEW, Pool};
pub use read::{LoggedCommand, StoredEvent};
pub use reads::{ClaimedRead, may_be_more, request_read_for, request_read_in};
pub use store::{Store, StoreConfig, StoreError};
pub use timers::DueTimer;
