//! When was it, by one clock for the generator, the consumer and the simulator's ledger? They share a machine.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Microseconds since the run began.
pub(super) type Micros = i64;

#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    origin: Instant,
    /// The same moment, since 1970.
    wall: Micros,
}

impl Clock {
    pub(super) fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            origin: Instant::now(),
            wall: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX),
        }
    }

    pub(super) fn now(self) -> Micros {
        i64::try_from(self.origin.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// A moment of the ledger, to the millisecond.
    pub(super) fn of(self, at: Timestamp) -> Micros {
        at.as_microsecond() - self.wall
    }

    pub(super) fn text(self, at: Micros) -> String {
        Timestamp::from_microsecond(self.wall + at).map_or_else(|_| String::new(), |at| format!("{at:.6}"))
    }

    pub(super) fn moment(self, at: Micros) -> tokio::time::Instant {
        let since = std::time::Duration::from_micros(u64::try_from(at).unwrap_or_default());
        tokio::time::Instant::from_std(self.origin + since)
    }
}
