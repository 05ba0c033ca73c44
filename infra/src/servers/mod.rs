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

use std::path::PathBuf;

pub use error::ServerError;
pub use nats_server::{Nats, NatsOptions};
pub use owned::{Ending, Launch, Owned};
pub use postgres::{Postgres, PostgresOptions};

/// Where downloaded servers are kept: `KASSA_CACHE_DIR`; else `.cache` in a checkout of the project; else the user's cache.
#[must_use]
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("KASSA_CACHE_DIR").filter(|dir| !dir.is_empty()) {
        return dir.into();
    }
    let here = std::env::current_dir().unwrap_or_else(|_| ".".into());
    if here.join("infra/servers.txt").is_file() {
        return here.join(".cache");
    }
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| home.join(".cache"), PathBuf::from)
        .join("kassa")
}
