//! What is counted? Commands of callers that ask again as soon as they are answered, for a short time after a warm-up.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use crate::report::{Waits, per_second};

/// Long enough for connections to be opened and plans to be made.
pub(super) const WARM_UP: Duration = Duration::from_millis(200);

/// What one contestant did in one turn.
#[derive(Debug, Default)]
pub(super) struct Slice {
    pub(super) per_second: u64,
    pub(super) waits: Waits,
    /// All that were acknowledged, also while it warmed up.
    pub(super) acknowledged: u64,
}

/// When the counting begins and when it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) from: Instant,
    pub(super) until: Instant,
}

impl Window {
    pub(super) fn of(time: Duration) -> Self {
        let from = Instant::now() + WARM_UP;
        Self {
            from,
            until: from + time,
        }
    }

    pub(super) fn is_over(self) -> bool {
        Instant::now() >= self.until
    }
}

/// One caller's tally.
#[derive(Debug, Default)]
pub(super) struct Tally {
    waits: Waits,
    acknowledged: u64,
}

impl Tally {
    /// `commands` were asked for at `asked` and are answered now.
    pub(super) fn answered(&mut self, window: Window, asked: Instant, commands: usize) {
        let now = Instant::now();
        self.acknowledged += u64::try_from(commands).unwrap_or(0);
        if now >= window.from && now < window.until {
            for _ in 0..commands {
                self.waits.add(now - asked);
            }
        }
    }
}

/// Lets `callers` run at once until the window ends; what is under way then is waited for, and not counted.
pub(super) async fn crowd<C, F>(callers: usize, window: Window, caller: C) -> anyhow::Result<Slice>
where
    C: Fn(usize) -> F,
    F: Future<Output = anyhow::Result<Tally>> + Send + 'static,
{
    let tasks: Vec<_> = (0..callers).map(|n| tokio::spawn(caller(n))).collect();
    let mut slice = Slice::default();
    for task in tasks {
        let tally = task.await??;
        slice.waits.append(tally.waits);
        slice.acknowledged += tally.acknowledged;
    }
    slice.per_second = per_second(slice.waits.count(), window.until - window.from);
    Ok(slice)
}
