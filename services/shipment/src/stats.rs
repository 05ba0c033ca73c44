//! What has this consumer done since it was made?

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one consumer, from zero at its making.
#[derive(Debug, Default)]
pub struct Stats {
    released: AtomicU64,
    held: AtomicU64,
    duplicates: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
}

impl Stats {
    /// Orders released: the handler returned and its transaction was seen to commit. One whose commit was not seen, because
    /// the connection broke, is counted as a failure and later as a duplicate; the table `shipments` knows better.
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    /// Orders whose release was taken back, and the handler has done what it does then.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Deliveries of an event, or of an order's epoch, that was released before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Ordering::Relaxed)
    }

    /// Messages that were not trusted and will not come again. More than zero wants a person.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Attempts that were rolled back and will come again: the handler or the database failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn count_released(&self) {
        self.released.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_held(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_duplicate(&self) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}
