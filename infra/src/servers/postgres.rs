//! How is a private PostgreSQL made, started and ended?
//!
//! `postgres` itself is our child (`pg_ctl` would detach it), reachable by a Unix socket in its own folder alone: there
//! is no port to guess or to guard. It keeps its promises on disk, as in production: a test of a crash would otherwise
//! prove nothing.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sha2::{Digest, Sha256};

use super::ServerError;
use super::find::{self, Found};
use super::folder::{private_folder, remove_folder};
use super::lock::FolderLock;
use super::log::Log;
use super::owned::{Ending, Launch, Owned};

const SUPERUSER: &str = "kassa";
/// Nobody else is in the socket's folder, so the number can stay the usual one.
const PORT: u16 = 5432;
/// A process that starts from nothing and a test run with a pool per service and test both fit.
const CONNECTIONS_MAX: u32 = 300;
/// The kernel's limit is 108 bytes, 104 on macOS, with a zero at the end.
const SOCKET_PATH_BYTES_MAX: usize = 100;
/// About a second on an idle machine.
const INITDB_MAX: Duration = Duration::from_secs(120);
/// 50 ms as a rule; after a crash it first replays its log.
const READY_MAX: Duration = Duration::from_secs(60);
/// 100 ms as a rule; the last checkpoint may have much to write.
const STOP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(5);
const PROBE_MAX: Duration = Duration::from_secs(20);
/// How a new server says that processes of a killed one are still there.
const STILL_IN_USE: &str = "is still in use";
/// `nobody` on every Linux we know. initdb wants a user that has a name, and a bare system has no `postgres`.
const NOBODY: u32 = 65_534;

/// Where a PostgreSQL of one's own lives.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Its private folder, made if missing; data that is there is used again.
    pub dir: PathBuf,
    /// The folder with `postgres` and `initdb`; none searches (see the crate's README).
    pub bin_dir: Option<PathBuf>,
    /// Where the managed copy is kept; many projects may share it.
    pub cache_dir: PathBuf,
}

/// A running PostgreSQL that is ours. It ends with [`Postgres::stop`], on drop, and when this process ends in any way.
#[derive(Debug)]
pub struct Postgres {
    running: Option<(Owned, FolderLock)>,
    pid: u32,
    found: Found,
    socket_dir: SocketDir,
    options: PostgresOptions,
}

impl Postgres {
    /// Starts a server and returns when it accepts connections. Blocks, a second for a new folder.
    ///
    /// # Errors
    /// [`ServerError`]: nothing is left running then.
    pub fn start(options: &PostgresOptions) -> Result<Self, ServerError> {
        let others_gone_by = Instant::now() + STOP_MAX;
        loop {
            match Self::start_once(options) {
                // Of one that was killed: a process in the middle of a statement looks up only after it.
                Err(ServerError::Ended { tail, .. })
                    if tail.contains(STILL_IN_USE) && Instant::now() < others_gone_by =>
                {
                    thread::sleep(POLL);
                }
                started => return started,
            }
        }
    }

    fn start_once(options: &PostgresOptions) -> Result<Self, ServerError> {
        private_folder(&options.dir)?;
        let dir = fs::canonicalize(&options.dir).map_err(ServerError::io("resolve", &options.dir))?;
        let lock = FolderLock::take(&dir)?;
        let found = find::postgres(options.bin_dir.as_deref(), &options.cache_dir)?;

        let data = dir.join("data");
        same_major(&data, &found)?;
        let socket_dir = SocketDir::below(&dir)?;
        let as_user = unprivileged(&found.program, &dir, &data, &socket_dir.path)?;
        if !data.exists() {
            initdb(&found.program, &as_user, &dir, &data)?;
        }

        let (log, output) = Log::open(&dir.join("postgres.log"))?;
        let mut launch = Launch::new(&found.program, arguments(&data, &socket_dir.path));
        launch.as_user = as_user;
        launch.ending = Ending::Interrupt;
        launch.holds = Some(lock.share().map_err(ServerError::io("share the lock of", &dir))?);
        let mut owned = launch
            .start(output)
            .map_err(ServerError::io("start", &found.program))?;
        let ready = wait_until_ready(&mut owned, &data, &log);
        let pid = owned.pid();
        // From here on dropping it stops the server, whatever the wait said.
        let server = Self {
            running: Some((owned, lock)),
            pid,
            found,
            socket_dir,
            options: options.clone(),
        };
        ready.map(|()| server)
    }

    /// A connection string for `tokio-postgres`, `psql` and `DATABASE_URL`: `postgresql:///{database}?host=…`.
    /// The superuser is `kassa`; there is no password, as only we can enter the socket's folder.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let host = percent_encoded(self.socket_dir.path.as_os_str().as_bytes());
        let database = percent_encoded(database.as_bytes());
        format!("postgresql:///{database}?host={host}&port={PORT}&user={SUPERUSER}")
    }

    /// The server's process id; it stays the last one after the server was stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Version, program and why it was taken, for a person: `postgres (PostgreSQL) 15.20 (…), found in PATH`.
    #[must_use]
    pub fn origin(&self) -> String {
        self.found.to_string()
    }

    /// How the server ended, if it has although nobody asked it to.
    ///
    /// # Errors
    /// [`ServerError::Io`] if the process cannot be waited for.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, ServerError> {
        let Some((owned, _)) = &mut self.running else {
            return Ok(None);
        };
        owned
            .try_wait()
            .map_err(ServerError::io("wait for", &self.found.program))
    }

    /// Disconnects everybody, writes the last checkpoint and waits for the end. Does nothing the second time.
    ///
    /// # Errors
    /// [`ServerError::Io`] if the process cannot be signalled or waited for.
    pub fn stop(&mut self) -> Result<(), ServerError> {
        let Some((mut owned, _lock)) = self.running.take() else {
            return Ok(());
        };
        let status = owned
            .stop(STOP_MAX)
            .map_err(ServerError::io("stop", &self.found.program))?;
        if !status.success() {
            tracing::warn!(pid = self.pid, %status, "PostgreSQL did not end well");
        }
        self.socket_dir.remove_if_shared();
        Ok(())
    }

    /// Ends the server at once (its "immediate" shutdown): nobody is waited for and nothing is written, so the next start
    /// recovers from the log. Does nothing if it is stopped.
    ///
    /// # Errors
    /// [`ServerError::Io`] if the process cannot be signalled or waited for.
    pub fn end_immediately(&mut self) -> Result<(), ServerError> {
        self.end(|owned| owned.stop_by(Signal::QUIT, STOP_MAX))
    }

    /// Ends the server's first process as a power cut would; its others find out by themselves, and the next start waits
    /// for that. Does nothing if it is stopped.
    ///
    /// # Errors
    /// [`ServerError::Io`] if the process cannot be signalled or waited for.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        self.end(Owned::kill)
    }

    fn end(&mut self, how: impl FnOnce(&mut Owned) -> io::Result<ExitStatus>) -> Result<(), ServerError> {
        let Some((mut owned, _lock)) = self.running.take() else {
            return Ok(());
        };
        how(&mut owned)
            .map(drop)
            .map_err(ServerError::io("end", &self.found.program))
    }

    /// Starts the server again with the same folder and socket; one that runs is stopped first.
    ///
    /// # Errors
    /// [`ServerError`]: the server is stopped then.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.stop()?;
        *self = Self::start(&self.options)?;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(pid = self.pid, %error, "could not stop PostgreSQL");
        }
    }
}

fn arguments(data: &Path, socket_dir: &Path) -> Vec<OsString> {
    // A list: without the quotes a name with a space would be cut. `SocketDir` has no quote in it.
    let mut sockets = OsString::from("unix_socket_directories=\"");
    sockets.push(socket_dir);
    sockets.push("\"");
    let mut args = vec![OsString::from("-D"), data.into(), "-c".into(), sockets];
    let settings = [
        "listen_addresses=".to_owned(),
        "unix_socket_permissions=0700".to_owned(),
        format!("port={PORT}"),
        format!("max_connections={CONNECTIONS_MAX}"),
        "fsync=on".to_owned(),
        "synchronous_commit=on".to_owned(),
        // The same text for a time everywhere, whatever the machine's zone.
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
        "log_destination=stderr".to_owned(),
        "logging_collector=off".to_owned(),
    ];
    args.extend(
        settings
            .into_iter()
            .flat_map(|setting| ["-c".into(), setting.into()]),
    );
    args
}

/// Identity, not just an answer: the first line is our child's process id, the eighth its state.
fn wait_until_ready(owned: &mut Owned, data: &Path, log: &Log) -> Result<(), ServerError> {
    let path = data.join("postmaster.pid");
    let pid = owned.pid().to_string();
    let deadline = Instant::now() + READY_MAX;
    loop {
        if let Some(status) = owned.try_wait().map_err(ServerError::io("wait for", &path))? {
            return Err(ServerError::Ended {
                server: "postgres",
                status,
                log: log.path.clone(),
                tail: log.tail(),
            });
        }
        // Missing or half written until the server is further on.
        let state = fs::read_to_string(&path).unwrap_or_default();
        let mut lines = state.lines();
        if lines.next() == Some(&pid) && lines.nth(6).map(str::trim) == Some("ready") {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let seconds = READY_MAX.as_secs();
            return Err(ServerError::NotReady {
                server: "postgres",
                seconds,
                log: log.path.clone(),
                tail: log.tail(),
            });
        }
        thread::sleep(POLL);
    }
}

fn same_major(data: &Path, found: &Found) -> Result<(), ServerError> {
    let path = data.join("PG_VERSION");
    let made_by = match fs::read_to_string(&path) {
        Ok(made_by) => made_by.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(ServerError::io("read", &path)(error)),
    };
    let major = find::postgres_major(&found.version)
        .map(|major| major.to_string())
        .unwrap_or_default();
    if made_by == major {
        return Ok(());
    }
    Err(ServerError::DataOfAnotherVersion {
        dir: data.to_path_buf(),
        made_by,
        found: found.version.clone(),
    })
}

/// Under another name first, so that an interrupted one is never taken for a cluster.
fn initdb(postgres: &Path, as_user: &[OsString], dir: &Path, data: &Path) -> Result<(), ServerError> {
    let unfinished = dir.join("data.unfinished");
    remove_folder(&unfinished)?;
    let program = postgres.with_file_name("initdb");
    let mut args: Vec<OsString> = ["-U", SUPERUSER, "-E", "UTF8", "--locale=C"]
        .map(OsString::from)
        .into();
    // The folder is the password; over a network, which is off anyway, nobody gets in.
    args.extend(["--auth-local=trust", "--auth-host=reject", "-D"].map(OsString::from));
    args.push(unfinished.clone().into());
    let mut launch = Launch::new(&program, args);
    launch.as_user = as_user.to_vec();
    launch.ending = Ending::Interrupt;
    let ran = launch.run(INITDB_MAX).map_err(ServerError::io("run", &program))?;
    if !ran.status.success() {
        let what = program.display().to_string();
        return Err(ServerError::Command {
            what,
            status: ran.status,
            output: ran.output,
        });
    }
    fs::rename(&unfinished, data).map_err(ServerError::io("rename", &unfinished))
}

/// `sh -c` script: can whoever runs it use the program, write to both folders, and is the data, if any, its own?
const REACH: &str = r#"
fail() { echo "$1"; exit 1; }
"$1" --version > /dev/null || fail "it cannot run the program"
for folder in "$2" "$3"; do test -w "$folder" || fail "it cannot write to $folder"; done
test ! -e "$4" || test -O "$4" || fail "it does not own $4"
"#;

/// What to put before the program so that it does not run as root; nothing if we are not root.
///
/// First choice is a user namespace in which root is called `nobody`: nothing changes its owner, and folders that only
/// root may enter stay usable. Containers often forbid it; then root is really given up and the folder given away.
fn unprivileged(
    program: &Path,
    dir: &Path,
    data: &Path,
    sockets: &Path,
) -> Result<Vec<OsString>, ServerError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Vec::new());
    }
    let namespace = [
        "unshare".into(),
        "--user".into(),
        format!("--map-user={NOBODY}"),
        format!("--map-group={NOBODY}"),
    ];
    let given_up = [
        "setpriv".into(),
        format!("--reuid={NOBODY}"),
        format!("--regid={NOBODY}"),
        "--clear-groups".to_owned(),
    ];
    let mut tried = Vec::new();
    for (name, words) in [("user namespace", namespace), ("setpriv", given_up)] {
        if name == "setpriv" {
            give_away(dir)?;
            give_away(sockets)?;
        }
        let mut as_user: Vec<OsString> = words.into_iter().map(OsString::from).collect();
        as_user.push("--".into());
        // A dry run tells more than any rule about owners: both the program and the data must be in reach.
        let mut probe = Launch::new(
            "sh",
            [
                OsString::from("-c"),
                REACH.into(),
                "sh".into(),
                program.into(),
                dir.into(),
                sockets.into(),
                data.into(),
            ],
        );
        probe.as_user = as_user.clone();
        match probe.run(PROBE_MAX) {
            Ok(ran) if ran.status.success() => return Ok(as_user),
            Ok(ran) => tried.push(format!("{name}: {}", ran.output)),
            Err(error) => tried.push(format!("{name}: {error}")),
        }
    }
    Err(ServerError::NoUnprivilegedUser {
        program: program.to_path_buf(),
        dir: dir.to_path_buf(),
        tried: tried.join("; "),
    })
}

fn give_away(dir: &Path) -> Result<(), ServerError> {
    let args = [
        "-R".into(),
        "-h".into(),
        format!("{NOBODY}:{NOBODY}").into(),
        dir.as_os_str().to_owned(),
    ];
    let ran = Launch::new("chown", args)
        .run(PROBE_MAX)
        .map_err(ServerError::io("run chown on", dir))?;
    if ran.status.success() {
        return Ok(());
    }
    let what = format!("chown -R {}", dir.display());
    Err(ServerError::Command {
        what,
        status: ran.status,
        output: ran.output,
    })
}

/// The folder of the socket: in the server's own, or in the shared temporary folder if that path will not do.
#[derive(Debug)]
struct SocketDir {
    path: PathBuf,
    shared: bool,
}

impl SocketDir {
    fn below(dir: &Path) -> Result<Self, ServerError> {
        let path = dir.join("run");
        let socket = path.join(format!(".s.PGSQL.{PORT}"));
        let socket = socket.as_os_str().as_bytes();
        // A client reads a comma in an address as the end of one of several; a quote would end ours in the settings.
        if socket.len() < SOCKET_PATH_BYTES_MAX && !socket.iter().any(|byte| b",\"".contains(byte)) {
            private_folder(&path)?;
            return Ok(Self { path, shared: false });
        }
        // The same name each time, so that one left behind by a killed owner is used again and not added to.
        let digest = Sha256::digest(dir.as_os_str().as_bytes());
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let path = std::env::temp_dir().join(format!("kassa-{name}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(ServerError::io("create", &path))?,
        }
        // Anybody can make a folder there, with a name that can be guessed: whoever owns it could answer for us.
        let found = fs::symlink_metadata(&path).map_err(ServerError::io("read", &path))?;
        let us = rustix::process::geteuid();
        let ours = found.uid() == us.as_raw() || (us.is_root() && found.uid() == NOBODY);
        if !found.is_dir() || !ours || found.mode() & 0o077 != 0 {
            return Err(ServerError::NotPrivate { path });
        }
        Ok(Self { path, shared: true })
    }

    fn remove_if_shared(&self) {
        if self.shared
            && let Err(error) = fs::remove_dir(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "could not remove the socket's folder");
        }
    }
}

fn percent_encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}
