//! How does a child process end when its owner does, however that ends?
//!
//! On Linux the kernel sends the child a signal when its parent dies. `setpriv` asks for it and then *becomes* the
//! server, so no code of ours runs between fork and exec and the process id stays the child's. Elsewhere a second small
//! process waits for the end of a pipe that only the owner holds open, and sends the signal then.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::log::tail;

const POLL: Duration = Duration::from_millis(5);

/// `sh -c` script of a child under `setpriv`: if the owner died before the signal was asked for, the parent is another.
const IF_OWNER_LIVES: &str = r#"[ "$PPID" = "$1" ] || exit 70; shift; exec "$@""#;

/// `sh -c` script of a child under a guard: waits for the word that its guard is in place, ends if that never comes.
const WHEN_GUARDED: &str = r#"read -r go || exit 70; exec "$@" < /dev/null"#;

/// `sh -c` script of the guard, given a signal and a process id. Ten seconds are for a last checkpoint.
const GUARD: &str = r#"
read -r nothing
kill -s "$1" "$2" 2> /dev/null
left=100
while kill -0 "$2" 2> /dev/null && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
[ "$left" -gt 0 ] || kill -s KILL "$2" 2> /dev/null
"#;

/// The signal that asks a program to end at once but properly.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// PostgreSQL: disconnect everybody, write the last checkpoint.
    Interrupt,
    /// Everything else.
    Terminate,
}

impl Ending {
    fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "INT",
            Self::Terminate => "TERM",
        }
    }

    fn signal(self) -> Signal {
        match self {
            Self::Interrupt => Signal::INT,
            Self::Terminate => Signal::TERM,
        }
    }
}

/// A program to run under this process.
#[derive(Debug)]
pub struct Launch {
    /// What is put before the program to change who runs it, or (`env`, `NAME=value`) what it is told; empty for ourselves.
    pub as_user: Vec<OsString>,
    /// What is run.
    pub program: PathBuf,
    /// With what.
    pub args: Vec<OsString>,
    /// How it is ended.
    pub ending: Ending,
    /// A lock that is to be held for as long as the program or a child of it runs.
    pub holds: Option<File>,
}

impl Launch {
    /// Run as ourselves, ended by SIGTERM.
    pub fn new<A: Into<OsString>>(program: impl AsRef<Path>, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            as_user: Vec::new(),
            program: program.as_ref().to_path_buf(),
            args: args.into_iter().map(Into::into).collect(),
            ending: Ending::Terminate,
            holds: None,
        }
    }

    /// Starts the program with both outputs going to `output`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self, output: File) -> io::Result<Owned> {
        let mut words = self.as_user;
        if kernel_signals_orphans() {
            words.extend(["setpriv", "--pdeathsig", self.ending.name(), "--"].map(OsString::from));
            words.extend(["sh", "-c", IF_OWNER_LIVES, "sh"].map(OsString::from));
            words.push(std::process::id().to_string().into());
            words.push(self.program.into());
            words.extend(self.args);
            let stdin = self.holds.map_or_else(Stdio::null, Stdio::from);
            let child = spawn(&words, stdin, output.try_clone()?.into(), output.into())?;
            return Ok(Owned {
                child,
                ending: self.ending,
                guard: None,
            });
        }

        words.extend(["sh", "-c", WHEN_GUARDED, "sh"].map(OsString::from));
        words.push(self.program.into());
        words.extend(self.args);
        let mut child = spawn(&words, Stdio::piped(), output.try_clone()?.into(), output.into())?;
        let mut gate = child.stdin.take();
        let pid = child.id().to_string();
        let mut owned = Owned {
            child,
            ending: self.ending,
            guard: None,
        };
        let words = ["sh", "-c", GUARD, "sh", owned.ending.name(), &pid].map(OsString::from);
        // The guard lives until the program is gone, so it is the one that holds the lock.
        let lock = self.holds.map_or_else(Stdio::null, Stdio::from);
        let started = spawn(&words, Stdio::piped(), lock, Stdio::null()).and_then(|guard| {
            owned.guard = Some(guard);
            open(gate.take())
        });
        match started {
            Ok(()) => Ok(owned),
            Err(error) => {
                owned.kill()?;
                Err(error)
            }
        }
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when it takes longer than `limit`; it has been killed then.
    pub(crate) fn run(self, limit: Duration) -> io::Result<Ran> {
        // A file and not a pipe: nobody has to read it while the program runs, and a chatty one cannot block.
        let output = tempfile::tempfile()?;
        let mut running = self.start(output.try_clone()?)?;
        let Some(status) = running.wait_for(limit)? else {
            running.kill()?;
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no end after {} s", limit.as_secs()),
            ));
        };
        Ok(Ran {
            status,
            output: tail(output, 0)?,
        })
    }
}

/// Lets a guarded child go on. One that ended before it could read tells by its exit status.
fn open(gate: Option<ChildStdin>) -> io::Result<()> {
    match gate.map_or(Ok(()), |mut gate| gate.write_all(b"go\n")) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// How a program ended, and the end of what it wrote to either output.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
}

/// A running child that ends when this process does. It is reaped by [`Owned::stop`] and [`Owned::kill`].
#[derive(Debug)]
pub struct Owned {
    child: Child,
    ending: Ending,
    guard: Option<Child>,
}

impl Owned {
    /// Its process id; free for others once the end was seen.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once there is one.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let status = self.child.try_wait()?;
        if status.is_some() {
            // The process id is free for others now: nobody may send it a signal any more.
            self.dismiss_guard();
        }
        Ok(status)
    }

    /// The exit status, none if there is none within `limit`. Blocks.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait_for(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }

    /// Asks the program to end, and after `patience` makes it. Blocks.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn stop(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        self.signal(self.ending.signal())?;
        if let Some(status) = self.wait_for(patience)? {
            return Ok(status);
        }
        tracing::warn!(
            pid = self.pid(),
            seconds = patience.as_secs(),
            "a server did not stop when asked, killing it"
        );
        self.kill()
    }

    /// Ends the program without asking.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        let status = self.child.wait()?;
        self.dismiss_guard();
        Ok(status)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        // Not reaped yet, so the process id is still this child's.
        match i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            Some(pid) => Ok(kill_process(pid, signal)?),
            None => Err(io::Error::other("the process id is out of range")),
        }
    }

    fn dismiss_guard(&mut self) {
        if let Some(mut guard) = self.guard.take()
            && let Err(error) = guard.kill().and_then(|()| guard.wait())
        {
            tracing::warn!(%error, "could not end the guard of a server");
        }
    }
}

/// Whether `setpriv` can ask for the parent-death signal here. Busybox has a `setpriv` that cannot.
fn kernel_signals_orphans() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        // For tests, and for a kernel or a container that breaks the promise.
        if std::env::var_os("KASSA_SERVER_GUARD").is_some_and(|guard| guard == "pipe") {
            return false;
        }
        Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

fn spawn(words: &[OsString], stdin: Stdio, stdout: Stdio, stderr: Stdio) -> io::Result<Child> {
    let (program, args) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(args).stdin(stdin).stdout(stdout).stderr(stderr);
    // Settings for a client in the owner's environment are not meant for the server.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    // Ctrl-C is for the owner, which ends its servers in order.
    command.process_group(0);
    keeper(command)
}

/// Spawns from a thread that lives as long as the process: the parent-death signal is sent when the *thread* that
/// spawned ends, and a child of a short-lived one would be ended with it.
fn keeper(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);
    static KEEPER: OnceLock<Option<mpsc::Sender<Order>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        let thread = thread::Builder::new()
            .name("server-keeper".to_owned())
            .spawn(move || {
                for (mut command, answer) in inbox {
                    // Whoever asked waits for the answer, so it can only be lost together with them.
                    answer.send(command.spawn()).ok();
                }
            });
        thread.ok().map(|_| orders)
    });
    let gone = || io::Error::other("the thread that starts servers could not be started");
    let (answer, child) = mpsc::sync_channel(1);
    keeper
        .as_ref()
        .ok_or_else(gone)?
        .send((command, answer))
        .map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
