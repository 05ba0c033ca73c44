//! Did it happen?

use std::sync::atomic::{AtomicU64, Ordering};

/// What one proxy has done since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub accepted: u64,
    /// Connections that were accepted into a black hole.
    pub black_holed: u64,
    /// Connections that the server behind did not take.
    pub unreachable: u64,
    /// Pieces that clients wrote and that were forwarded, and their bytes.
    pub up: u64,
    pub up_bytes: u64,
    pub down: u64,
    pub down_bytes: u64,
    pub cuts: u64,
    /// Connections that [`super::Proxy::reset_all`] has ended.
    pub resets: u64,
    /// Pieces that had to wait while nothing was forwarded.
    pub stalled: u64,
    /// Pieces that were late, by latency or by a narrow line.
    pub delayed: u64,
    /// Requests that were sent once more.
    pub duplicated: u64,
    /// Pieces that a trap held.
    pub held: u64,
    /// Closes that were told late.
    pub slow_closes: u64,
}

impl Counts {
    /// What happened since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let minus = u64::saturating_sub;
        Self {
            accepted: minus(self.accepted, earlier.accepted),
            black_holed: minus(self.black_holed, earlier.black_holed),
            unreachable: minus(self.unreachable, earlier.unreachable),
            up: minus(self.up, earlier.up),
            up_bytes: minus(self.up_bytes, earlier.up_bytes),
            down: minus(self.down, earlier.down),
            down_bytes: minus(self.down_bytes, earlier.down_bytes),
            cuts: minus(self.cuts, earlier.cuts),
            resets: minus(self.resets, earlier.resets),
            stalled: minus(self.stalled, earlier.stalled),
            delayed: minus(self.delayed, earlier.delayed),
            duplicated: minus(self.duplicated, earlier.duplicated),
            held: minus(self.held, earlier.held),
            slow_closes: minus(self.slow_closes, earlier.slow_closes),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    accepted: AtomicU64,
    black_holed: AtomicU64,
    unreachable: AtomicU64,
    up: AtomicU64,
    up_bytes: AtomicU64,
    down: AtomicU64,
    down_bytes: AtomicU64,
    cuts: AtomicU64,
    resets: AtomicU64,
    stalled: AtomicU64,
    delayed: AtomicU64,
    duplicated: AtomicU64,
    held: AtomicU64,
    slow_closes: AtomicU64,
    /// Connections that a cut has stalled for good and that are still open.
    stuck: AtomicU64,
}

fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn accepted(&self) {
        one(&self.accepted);
    }

    pub(crate) fn black_holed(&self) {
        one(&self.black_holed);
    }

    pub(crate) fn unreachable(&self) {
        one(&self.unreachable);
    }

    pub(crate) fn forwarded(&self, side: super::Side, bytes: usize) {
        let (pieces, total) = match side {
            super::Side::Up => (&self.up, &self.up_bytes),
            super::Side::Down => (&self.down, &self.down_bytes),
        };
        one(pieces);
        total.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn cut(&self) {
        one(&self.cuts);
    }

    pub(crate) fn reset(&self) {
        one(&self.resets);
    }

    pub(crate) fn stalled(&self) {
        one(&self.stalled);
    }

    pub(crate) fn delayed(&self) {
        one(&self.delayed);
    }

    pub(crate) fn duplicated(&self) {
        one(&self.duplicated);
    }

    pub(crate) fn held(&self) {
        one(&self.held);
    }

    pub(crate) fn slow_close(&self) {
        one(&self.slow_closes);
    }

    pub(crate) fn stuck(&self) -> u64 {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Counted for as long as the answer lives.
    pub(crate) fn sticking(&self) -> Sticking<'_> {
        one(&self.stuck);
        Sticking(&self.stuck)
    }

    pub(crate) fn read(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            accepted: get(&self.accepted),
            black_holed: get(&self.black_holed),
            unreachable: get(&self.unreachable),
            up: get(&self.up),
            up_bytes: get(&self.up_bytes),
            down: get(&self.down),
            down_bytes: get(&self.down_bytes),
            cuts: get(&self.cuts),
            resets: get(&self.resets),
            stalled: get(&self.stalled),
            delayed: get(&self.delayed),
            duplicated: get(&self.duplicated),
            held: get(&self.held),
            slow_closes: get(&self.slow_closes),
        }
    }
}

pub(crate) struct Sticking<'a>(&'a AtomicU64);

impl Drop for Sticking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
