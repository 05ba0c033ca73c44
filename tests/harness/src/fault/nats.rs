//! What happens to nats-server itself: restarted, killed, frozen, or without its disk?

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use rustix::process::Signal;

use super::{Fault, Kind, Targets};
use crate::{
    installation::{Installation, send},
    random::Random,
};

pub(super) fn kinds() -> Vec<Kind> {
    let kind = |name, lasts_ms: (u64, u64), draw: fn(&mut Random, &Targets) -> Box<dyn Fault>| Kind {
        name,
        lasts: (
            Duration::from_millis(lasts_ms.0),
            Duration::from_millis(lasts_ms.1),
        ),
        absent: |_| None,
        draw,
    };
    vec![
        kind("nats-restart", (0, 4_000), |_, _| Gone::by(How::Asked)),
        kind("nats-killed", (0, 6_000), |_, _| Gone::by(How::Killed)),
        kind("nats-wiped", (0, 3_000), |_, _| Gone::by(How::Wiped)),
        kind("nats-paused", (2_000, 15_000), |_, _| {
            Box::new(Paused { stood: false })
        }),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Asked,
    Killed,
    /// Killed, and every stream and consumer deleted before it starts again.
    Wiped,
}

struct Gone {
    how: How,
    pids: (Option<u32>, Option<u32>),
}

impl Gone {
    fn by(how: How) -> Box<dyn Fault> {
        Box::new(Self {
            how,
            pids: (None, None),
        })
    }

    fn pid(at: &Installation) -> Option<u32> {
        at.pids().get("nats").copied()
    }
}

impl Fault for Gone {
    fn target(&self) -> String {
        "nats".to_owned()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            self.pids.0 = Self::pid(at);
            let how = self.how;
            at.with_nats(move |nats| match how {
                How::Asked => nats.stop(),
                How::Killed => nats.kill(),
                How::Wiped => nats.kill().and_then(|()| nats.wipe()),
            })
            .await
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            at.with_nats(|nats| nats.restart()).await?;
            self.pids.1 = Self::pid(at);
            Ok(())
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        let (Some(before), Some(after)) = self.pids else {
            return None;
        };
        let wiped = if self.how == How::Wiped {
            ", with nothing left"
        } else {
            ""
        };
        (before != after).then(|| format!("server {before} ended, {after} took its place{wiped}"))
    }
}

/// SIGSTOP: connections stay open and nothing is answered; what was published meanwhile is stored afterwards.
struct Paused {
    stood: bool,
}

impl Paused {
    fn signal(at: &Installation, signal: Signal) -> anyhow::Result<u32> {
        let pid = at.pids().get("nats").copied().unwrap_or_default();
        send(pid, signal).map(|()| pid)
    }
}

impl Fault for Paused {
    fn target(&self) -> String {
        "nats".to_owned()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async { Self::signal(at, Signal::STOP).map(drop) }.boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let pid = at.pids().get("nats").copied().unwrap_or_default();
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            self.stood = stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'));
            Self::signal(at, Signal::CONT).map(drop)
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        self.stood
            .then(|| "the kernel had it stopped to the end".to_owned())
    }
}
