//! What time is it? Wall time plus an offset that stands in the database, so that a drill can move days.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use jiff::{SignedDuration, Timestamp, Unit};

/// Shared by everything in one process that is connected to one database.
#[derive(Debug, Clone)]
pub struct Clock {
    offset_ms: Arc<AtomicI64>,
}

impl Clock {
    pub(crate) fn new(offset_ms: i64) -> Self {
        Self {
            offset_ms: Arc::new(AtomicI64::new(offset_ms)),
        }
    }

    /// In whole microseconds, as the database keeps it: what is stored reads back equal.
    pub fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the clock that everything else asks"
        )]
        let wall = Timestamp::now();
        let offset = SignedDuration::from_millis(self.offset_ms.load(Ordering::Relaxed));
        // An offset that leads out of the calendar is a slip of the hand, and no reason to stop every process.
        let moved = wall.checked_add(offset).unwrap_or(wall);
        moved.round(Unit::Microsecond).unwrap_or(moved)
    }

    pub(crate) fn set_offset(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}
