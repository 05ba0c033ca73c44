//! What is the world like at somebody's N-th write?

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::watch;

/// Counts what clients write, over all proxies on which it is set, and at the N-th write holds that one and all that
/// follow until it is told what is to become of them.
#[derive(Debug)]
pub struct Trap {
    at: u64,
    when: When,
    count: AtomicU64,
    state: watch::Sender<State>,
}

/// On which side of the N-th write the world stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The server has not got it.
    Before,
    /// The server has it; its answer may still come.
    After,
}

/// What becomes of the writes that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// They never happened, and their connections end: whoever wrote them is dead.
    Drop,
    /// They go their way, and so do all that follow.
    Forward,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Counting,
    Reached,
    Released(Release),
}

/// What is to be done with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    Forward,
    /// Once it has been forwarded: [`Trap::wrote`].
    ForwardAndTell,
    Drop,
}

impl Trap {
    /// `at` counts from 1.
    #[must_use]
    pub fn new(at: u64, when: When) -> Self {
        Self {
            at,
            when,
            count: AtomicU64::new(0),
            state: watch::Sender::new(State::Counting),
        }
    }

    #[must_use]
    pub fn is_reached(&self) -> bool {
        *self.state.borrow() != State::Counting
    }

    /// Whether the N-th write came within `limit`; it is held then.
    pub async fn reached(&self, limit: Duration) -> bool {
        let mut state = self.state.subscribe();
        tokio::time::timeout(limit, state.wait_for(|state| *state != State::Counting))
            .await
            .is_ok_and(|waited| waited.is_ok())
    }

    pub fn release(&self, release: Release) {
        self.state.send_replace(State::Released(release));
    }

    /// Comes back at once for a write before the N-th, and for others when the trap is released. `held` is called for
    /// one that has to wait.
    pub(crate) async fn pass(&self, held: impl Fn()) -> Passing {
        let n = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if n < self.at || *self.state.borrow() == State::Released(Release::Forward) {
            return Passing::Forward;
        }
        if n == self.at {
            match self.when {
                When::Before => self.tell(),
                When::After => return Passing::ForwardAndTell,
            }
        }
        held();
        self.released().await
    }

    /// The N-th write has been forwarded; comes back when the trap is released.
    pub(crate) async fn wrote(&self, held: impl Fn()) -> Passing {
        self.tell();
        held();
        self.released().await
    }

    fn tell(&self) {
        self.state.send_if_modified(|state| {
            let first = *state == State::Counting;
            if first {
                *state = State::Reached;
            }
            first
        });
    }

    async fn released(&self) -> Passing {
        let mut state = self.state.subscribe();
        let released = state.wait_for(|state| matches!(state, State::Released(_))).await;
        match released.map(|state| *state) {
            Ok(State::Released(Release::Forward)) => Passing::Forward,
            // The trap itself is gone, and with it whoever would say.
            _ => Passing::Drop,
        }
    }
}
