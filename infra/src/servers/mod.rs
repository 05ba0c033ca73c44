//! Where do PostgreSQL and nats-server come from, and who owns their processes?
//!
//! Reading order: [`Postgres`] and [`Nats`] are the two servers; `find` decides which program is run, `managed` fetches
//! one when the machine has none, `owned` is the rule that no server outlives its owner, `lock` that no folder has two.
//!
//! Everything here blocks: call it before the runtime starts, or from a blocking task.

mod error;
mod find;
mod folder;
mod lock;
mod log;
mod managed;
mod nats_server;
mod owned;
mod postgres;

pub use error::ServerError;
pub use nats_server::{Nats, NatsOptions};
pub use owned::{Ending, Launch, Owned};
pub use postgres::{Postgres, PostgresOptions};
