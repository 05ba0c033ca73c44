//! What happens to processes: killed, frozen beyond every lease, told to end, doubled.

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};

use super::{Fault, Kind, Targets};
use crate::{installation::Installation, random::Random};

/// Longer than the bus waits for an acknowledgement (30 s) and than a read's lease: others take over meanwhile.
const BEYOND_ACK_WAIT: Duration = Duration::from_secs(33);

pub(super) fn kinds() -> Vec<Kind> {
    let present = |_: &Installation| None;
    let secs = Duration::from_secs;
    vec![
        Kind {
            name: "kill",
            lasts: (secs(0), secs(5)),
            absent: present,
            draw: |random, targets| Box::new(Killed::new(random, targets)),
        },
        Kind {
            name: "stop-cont",
            lasts: (BEYOND_ACK_WAIT, BEYOND_ACK_WAIT + secs(7)),
            absent: present,
            draw: |random, targets| Box::new(Frozen::new(random, &targets.services())),
        },
        Kind {
            name: "stop-cont-short",
            lasts: (secs(1), secs(8)),
            absent: present,
            draw: |random, targets| Box::new(Frozen::new(random, &targets.processes)),
        },
        Kind {
            name: "term",
            lasts: (secs(0), secs(3)),
            absent: present,
            draw: |random, targets| Box::new(Told::new(random, targets)),
        },
    ]
}

fn one_of(random: &mut Random, names: &[String]) -> String {
    random.pick(names).cloned().unwrap_or_default()
}

/// `kill -9`; started again at the end.
struct Killed {
    target: String,
    killed: Option<u32>,
    back: Option<u32>,
}

impl Killed {
    fn new(random: &mut Random, targets: &Targets) -> Self {
        Self {
            target: one_of(random, &targets.services()),
            killed: None,
            back: None,
        }
    }
}

impl Fault for Killed {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            self.killed = Some(at.kill(&self.target)?.pid);
            Ok(())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            at.spawn(&self.target)?;
            self.back = at.pids().get(&self.target).copied();
            Ok(())
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        let (killed, back) = (self.killed?, self.back?);
        Some(format!("process {killed} was killed, {back} took its place"))
    }
}

/// SIGSTOP and SIGCONT: it wakes up in the middle of what it did, long after others have taken over.
struct Frozen {
    target: String,
    seen_stopped: bool,
}

impl Frozen {
    fn new(random: &mut Random, names: &[String]) -> Self {
        Self {
            target: one_of(random, names),
            seen_stopped: false,
        }
    }

    /// Whether the kernel says that it stands.
    fn stands(&self, at: &Installation) -> bool {
        let stat = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let text = at.pids().get(&self.target).and_then(stat).unwrap_or_default();
        text.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    }
}

impl Fault for Frozen {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async { at.pause(&self.target) }.boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            self.seen_stopped = self.stands(at);
            at.resume(&self.target)
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        self.seen_stopped
            .then(|| "the kernel had it stopped to the end".to_owned())
    }
}

/// SIGTERM: it ends in order, in time, with code 0, and is started again.
struct Told {
    target: String,
    code: Option<i32>,
}

impl Told {
    fn new(random: &mut Random, targets: &Targets) -> Self {
        Self {
            target: one_of(random, &targets.services()),
            code: None,
        }
    }
}

impl Fault for Told {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            self.code = at.terminate(&self.target).await?.code;
            Ok(())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async { at.spawn(&self.target) }.boxed()
    }

    fn alone(&self) -> bool {
        // In order within half a minute is promised where the servers answer.
        true
    }

    fn bit(&self) -> Option<String> {
        self.code.map(|code| format!("it ended with code {code}"))
    }
}
