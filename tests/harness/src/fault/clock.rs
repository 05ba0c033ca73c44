//! What happens when clocks are wrong: that of one process, or that of the whole installation?

use std::{ffi::OsString, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};

use super::{Fault, Kind, network::one, postgres::session};
use crate::installation::Installation;

/// Moves the wall clock of the programs that it starts. Its package is not needed for anything else.
const FAKETIME: &str = "faketime";

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        Kind {
            name: "clock-of-one",
            lasts: (Duration::from_secs(8), Duration::from_secs(20)),
            absent: |_| faketime_absent(),
            draw: |random, targets| {
                let shifts = ["-3m", "+3m"];
                Box::new(OfOne {
                    target: one(random, &targets.services()),
                    shift: random.pick(&shifts).copied().unwrap_or("+3m"),
                    shifted: false,
                })
            },
        },
        Kind {
            name: "clock-of-all",
            lasts: (Duration::from_secs(5), Duration::from_secs(15)),
            absent: |_| None,
            draw: |_, _| OfAll::back(),
        },
    ]
}

/// Whether moments of a run in which this kind of fault came cannot be compared.
#[must_use]
pub fn moved_by(kind: &str) -> bool {
    kind.starts_with("clock-")
}

/// Why the clock of one process cannot be moved here.
#[must_use]
pub fn faketime_absent() -> Option<String> {
    let found = std::process::Command::new(FAKETIME)
        .args(["-f", "+1d", "true"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    let works = found.is_ok_and(|status| status.success());
    (!works).then(|| format!("{FAKETIME} is not installed (Debian: apt install faketime)"))
}

/// What goes before a program so that it sees a time that is `shift` away, such as `+3m`.
#[must_use]
pub fn faketime(shift: &str) -> Vec<OsString> {
    [FAKETIME, "-f", shift].map(OsString::from).to_vec()
}

/// One process is started anew with another time, and once more with the right one.
struct OfOne {
    target: String,
    shift: &'static str,
    shifted: bool,
}

impl Fault for OfOne {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            at.wrap(&self.target, faketime(self.shift))?;
            at.kill(&self.target)?;
            at.spawn(&self.target)?;
            Ok(())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let pid = at.pids().get(&self.target).copied().unwrap_or_default();
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            self.shifted = maps.contains("libfaketime");
            at.wrap(&self.target, Vec::new())?;
            // It may have ended by itself, which is another way to be wrong about the time.
            let _ = at.kill(&self.target);
            at.spawn(&self.target)
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        self.shifted
            .then(|| format!("{} ran {} off", self.target, self.shift))
    }
}

/// The offset that every process adds to its clock jumps, and jumps back.
struct OfAll {
    by_ms: i64,
    before_ms: Option<i64>,
    events: i64,
}

impl OfAll {
    /// Three minutes back, and forward again in the end. Not the other way round: what was to be read or tried again "in a
    /// second" by a clock that goes back afterwards waits for three minutes.
    fn back() -> Box<dyn Fault> {
        Box::new(Self {
            by_ms: -180_000,
            before_ms: None,
            events: 0,
        })
    }
}

impl Fault for OfAll {
    fn target(&self) -> String {
        "clock".to_owned()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let client = session(at).await?;
            let before: i64 = client.query_one("SELECT offset_ms FROM clock", &[]).await?.get(0);
            self.events = -position(&client).await?;
            self.before_ms = Some(before);
            set(&client, before + self.by_ms).await
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let client = session(at).await?;
            self.events += position(&client).await?;
            match self.before_ms {
                Some(before) => set(&client, before).await,
                None => Ok(()),
            }
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        self.before_ms?;
        (self.events > 0).then(|| format!("{} events were stored {} ms off", self.events, self.by_ms))
    }
}

/// Moves the clock of an installation, for every process of it.
async fn set(client: &tokio_postgres::Client, offset_ms: i64) -> anyhow::Result<()> {
    client
        .execute("UPDATE clock SET offset_ms = $1", &[&offset_ms])
        .await?;
    client.batch_execute("NOTIFY kassa_clock").await?;
    Ok(())
}

async fn position(client: &tokio_postgres::Client) -> anyhow::Result<i64> {
    let row = client
        .query_one("SELECT coalesce(sum(position), 0)::bigint FROM log_head", &[])
        .await?;
    Ok(row.get(0))
}
