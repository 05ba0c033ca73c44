//! What is wrong with an edge, for as long as it is set?

use std::time::Duration;

/// Good by default: everything is forwarded at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weather {
    pub accept: Accept,
    /// From client to server.
    pub up: Way,
    /// From server to client.
    pub down: Way,
    /// How long after one side has closed the other side hears of it.
    pub close_delay: Duration,
    /// An HTTP request whose first line contains this is sent once more, on a connection of its own; the client gets the
    /// answer of the first one.
    pub duplicate: Option<String>,
}

/// What becomes of new connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accept {
    #[default]
    Forward,
    /// Nobody listens.
    Refuse,
    /// Accepted, and nothing is ever heard of them again.
    BlackHole,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Way {
    /// What comes first stays first.
    pub latency: Duration,
    /// Up to this much more, at random.
    pub jitter: Duration,
    pub bytes_per_second: Option<u32>,
    /// Nothing is forwarded; what comes meanwhile is, afterwards.
    pub stalled: bool,
}

impl Weather {
    /// Each direction late by `latency`, and by up to half of it more.
    #[must_use]
    pub fn slow(latency: Duration) -> Self {
        let way = Way {
            latency,
            jitter: latency / 2,
            ..Way::default()
        };
        Self {
            up: way,
            down: way,
            ..Self::default()
        }
    }

    /// Connections open, and nothing moves in either direction.
    #[must_use]
    pub fn stalled() -> Self {
        let way = Way {
            stalled: true,
            ..Way::default()
        };
        Self {
            up: way,
            down: way,
            ..Self::default()
        }
    }

    /// Nothing wrong but what becomes of new connections.
    #[must_use]
    pub fn accepting(accept: Accept) -> Self {
        Self {
            accept,
            ..Self::default()
        }
    }

    pub(crate) fn way(&self, side: super::Side) -> Way {
        match side {
            super::Side::Up => self.up,
            super::Side::Down => self.down,
        }
    }
}
