#![doc = include_str!("../README.md")]

pub mod api;
pub mod dead_letter;
pub mod envelope;
pub mod event;
pub mod headers;
pub mod money;
pub mod order;
pub mod payment;
pub mod publish;
pub mod schema;
pub mod subject;
pub mod time;
pub mod words;

pub use envelope::{Envelope, EnvelopeError, EventMeta, Trace};
pub use event::{CATALOGUE, DecodeError, EventType, INTERNAL, PublishedEvent};
pub use money::Money;
pub use subject::{EventSubject, LiveSubject, SubjectError};
pub use time::UtcTime;
pub use words::{Aggregate, AuthType};
