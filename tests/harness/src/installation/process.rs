//! How is one process of an installation started, watched, signalled and ended?

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::PathBuf,
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use kassa_infra::servers::{Launch, Owned};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// Between two looks at a process: an ending is seen soon, and looking costs nothing.
const LOOK: Duration = Duration::from_millis(5);

/// A program that is started again and again under one name.
#[derive(Debug)]
pub struct Process {
    /// Such as `engine`, or `engine-2`.
    pub(crate) name: String,
    /// What it does: `engine`.
    pub(crate) role: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// `NAME=value`.
    pub(crate) environment: Vec<OsString>,
    /// Put before the program, such as `faketime`, for the next start.
    pub(crate) wrapper: Vec<OsString>,
    pub(crate) log: PathBuf,
    /// Where it says whether it is ready.
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) owned: Option<Owned>,
}

/// How a process ended that was ended by a signal; a row of `processes.ndjson`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub role: String,
    pub pid: u32,
    pub signal: &'static str,
    pub sent_at: Timestamp,
    pub exited_at: Timestamp,
    /// None where a signal ended it.
    pub code: Option<i32>,
}

/// A process that ended although nobody had told it to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unasked {
    pub name: String,
    pub how: String,
    /// By a panic, or by a signal of nobody here; else it gave up, as what loses its servers may.
    pub broke: bool,
}

/// What the runtime of the language ends a process with that panicked.
const PANICKED: i32 = 101;
/// In each line by which it tells of a panic.
const PANIC: &str = "panicked at ";

impl Unasked {
    pub(crate) fn of(name: &str, status: ExitStatus) -> Self {
        Self {
            name: name.to_owned(),
            how: status.to_string(),
            broke: status.code().is_none_or(|code| code == PANICKED),
        }
    }
}

impl Process {
    /// Its process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.owned.as_ref().map(Owned::pid)
    }

    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.owned.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let mut words = self.args.clone();
        let mut program = self.program.clone();
        if let Some((first, rest)) = self.wrapper.split_first() {
            let mut wrapped = rest.to_vec();
            wrapped.push(program.into());
            wrapped.append(&mut words);
            (program, words) = (first.into(), wrapped);
        }
        let mut launch = Launch::new(program, words);
        launch.as_user = [OsString::from("env")]
            .into_iter()
            .chain(self.environment.iter().cloned())
            .collect();
        let owned = launch
            .start(log)
            .with_context(|| format!("start {}", self.name))?;
        self.owned = Some(owned);
        Ok(())
    }

    /// `kill -9`, and gone; the other answer is how it had ended before, if it had.
    pub(crate) fn kill(&mut self) -> anyhow::Result<(End, Option<Unasked>)> {
        let mut owned = self.owned.take().with_context(|| self.not_running())?;
        let (pid, sent_at) = (owned.pid(), now());
        let status = owned.kill().with_context(|| format!("kill {}", self.name))?;
        let before =
            (status.signal() != Some(Signal::KILL.as_raw())).then(|| Unasked::of(&self.name, status));
        Ok((self.end(pid, "KILL", sent_at, status), before))
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().with_context(|| self.not_running())?;
        send(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// SIGTERM, and however long it takes up to `limit`; after that it is killed, and the end says so.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> anyhow::Result<End> {
        self.signal(Signal::TERM)?;
        self.until_ended(limit).await
    }

    /// As [`Process::terminate`], for one that was told already: a second SIGTERM means "at once".
    pub(crate) async fn until_ended(&mut self, limit: Duration) -> anyhow::Result<End> {
        let sent_at = now();
        let deadline = Instant::now() + limit;
        loop {
            let owned = self.owned.as_mut().with_context(|| "it runs".to_owned())?;
            let pid = owned.pid();
            if let Some(status) = owned.try_wait()? {
                self.owned = None;
                return Ok(self.end(pid, "TERM", sent_at, status));
            }
            if Instant::now() >= deadline {
                let (mut end, _) = self.kill()?;
                (end.signal, end.sent_at) = ("TERM", sent_at);
                return Ok(end);
            }
            sleep(LOOK).await;
        }
    }

    /// Whether it ended by itself; how.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.owned.as_mut()?.try_wait().ok().flatten()?;
        self.owned = None;
        Some(status)
    }

    fn end(&self, pid: u32, signal: &'static str, sent_at: Timestamp, status: ExitStatus) -> End {
        debug_assert!(status.code().is_some() || status.signal().is_some());
        End {
            role: self.role.clone(),
            pid,
            signal,
            sent_at,
            exited_at: now(),
            code: status.code(),
        }
    }

    fn not_running(&self) -> String {
        format!("{} does not run", self.name)
    }

    /// What it wrote of panics, those included that ended nothing but a request or a task.
    pub(crate) fn panics(&self) -> Vec<String> {
        let Ok(log) = File::open(&self.log) else {
            return Vec::new();
        };
        let lines = BufReader::new(log).split(b'\n').map_while(Result::ok);
        let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
        lines.filter(|line| line.contains(PANIC)).collect()
    }

    /// The end of its log, for an error.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut owned) = self.owned.take() {
            // It is ours and not reaped; there is nobody left to tell.
            let _ = owned.kill();
        }
    }
}

/// Sends a signal to a process that is ours and not reaped.
///
/// # Errors
/// The system's.
pub fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("a process id is a positive number")?;
    Ok(kill_process(pid, signal)?)
}

/// The machine's time. What a harness writes down is compared with what others wrote down.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness stands outside: it has no clock but the machine's"
)]
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_and_a_signal_broke_a_process_and_an_exit_code_did_not() {
        // As waitpid(2) tells them: a code in the second byte, a signal in the first.
        for (status, broke) in [(101 << 8, true), (6, true), (1 << 8, false), (0, false)] {
            let unasked = Unasked::of("relay", ExitStatus::from_raw(status));
            assert_eq!(unasked.broke, broke, "{unasked:?}");
        }
    }
}
