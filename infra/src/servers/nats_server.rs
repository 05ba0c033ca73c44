//! How is a private nats-server made, started, killed and ended?
//!
//! On the loopback interface, with JetStream below its own folder and every message synced to disk. Ports are chosen by
//! the system and read from a file that carries our child's process id: an answer on a port proves nothing about who
//! answers.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use super::ServerError;
use super::find::{self, Found};
use super::folder::{private_folder, remove_folder};
use super::lock::FolderLock;
use super::log::Log;
use super::owned::{Launch, Owned};

/// 50 ms as a rule; a server that was killed first checks its streams.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a given port may be taken: a client that reconnects to a port nobody listens on can be handed that very
/// port as its own end, and keeps it until its attempt times out.
const PORT_TAKEN_MAX: Duration = Duration::from_secs(15);
const STOP_MAX: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(5);
/// The health page is a line; a second is long on the loopback interface.
const HEALTH_BYTES_MAX: u64 = 4_096;
const HEALTH_MAX: Duration = Duration::from_secs(1);

/// Where a nats-server of one's own lives, and what it is told.
#[derive(Clone, Debug)]
pub struct NatsOptions {
    /// Its private folder, made if missing; streams that are there are used again.
    pub dir: PathBuf,
    /// The program; none searches (see the crate's README).
    pub server: Option<PathBuf>,
    /// Where the managed copy is kept; many projects may share it.
    pub cache_dir: PathBuf,
    /// Appended to our own configuration: accounts and users, as [`crate::nats::render`] writes them. Not `jetstream`,
    /// `port` or `http`.
    pub config: String,
    /// The clients' port; none takes a free one.
    pub port: Option<u16>,
}

/// A running nats-server that is ours. It ends with [`Nats::stop`] or [`Nats::kill`], on drop, and when this process ends
/// in any way.
#[derive(Debug)]
pub struct Nats {
    running: Option<(Owned, FolderLock)>,
    pid: u32,
    port: u16,
    monitoring_port: u16,
    found: Found,
    options: NatsOptions,
    dir: PathBuf,
}

impl Nats {
    /// Starts a server and returns when JetStream is ready. Blocks, some 50 ms.
    ///
    /// # Errors
    /// [`ServerError`]: nothing is left running then.
    pub fn start(options: &NatsOptions) -> Result<Self, ServerError> {
        private_folder(&options.dir)?;
        let dir = fs::canonicalize(&options.dir).map_err(ServerError::io("resolve", &options.dir))?;
        let lock = FolderLock::take(&dir)?;
        let found = find::nats_server(options.server.as_deref(), &options.cache_dir)?;

        // Servers that were killed leave their file behind, and process ids come again.
        let ports_dir = dir.join("ports");
        remove_folder(&ports_dir)?;
        private_folder(&ports_dir)?;
        let config = dir.join("nats.conf");
        write_private(&config, &configuration(&dir, &options.config))
            .map_err(ServerError::io("write", &config))?;

        let port_free_by = Instant::now() + PORT_TAKEN_MAX;
        loop {
            let (log, output) = Log::open(&dir.join("nats.log"))?;
            let mut launch = Launch::new(&found.program, ["-a", "127.0.0.1", "-m", "-1", "-p"]);
            // Both are ours: -1 is "any free port" to the server.
            launch.args.push(
                options
                    .port
                    .map_or("-1".to_owned(), |port| port.to_string())
                    .into(),
            );
            launch.args.extend([
                "--ports_file_dir".into(),
                ports_dir.clone().into(),
                "-c".into(),
                config.clone().into(),
            ]);
            launch.holds = Some(lock.share().map_err(ServerError::io("share the lock of", &dir))?);
            let mut owned = launch
                .start(output)
                .map_err(ServerError::io("start", &found.program))?;
            let ports_file = ports_dir.join(format!("nats-server_{}.ports", owned.pid()));
            let ready = wait_until_ready(&mut owned, &ports_file, &log);
            match ready {
                Ok(ports) => {
                    return Ok(Self {
                        pid: owned.pid(),
                        running: Some((owned, lock)),
                        port: ports.clients,
                        monitoring_port: ports.monitoring,
                        found,
                        options: options.clone(),
                        dir,
                    });
                }
                Err(ServerError::Ended { tail, .. })
                    if options.port.is_some()
                        && tail.contains("address already in use")
                        && Instant::now() < port_free_by =>
                {
                    thread::sleep(POLL);
                }
                Err(error) => {
                    owned.kill().map_err(ServerError::io("end", &found.program))?;
                    return Err(error);
                }
            }
        }
    }

    /// `nats://127.0.0.1:{port}`, without credentials.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The clients' port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of the monitoring pages (`/varz`, `/jsz`, `/healthz`); another one after each start.
    #[must_use]
    pub fn monitoring_port(&self) -> u16 {
        self.monitoring_port
    }

    /// The server's process id; it stays the last one after the server was stopped.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Version, program and why it was taken, for a person.
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

    /// The folder of all streams and consumers. Deleting it proves something only while the server is not running: a
    /// running one goes on serving from the files it holds open.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        store_dir(&self.dir)
    }

    /// Ends the server in order and waits for it. Does nothing the second time.
    ///
    /// # Errors
    /// [`ServerError::Io`] if the process cannot be signalled or waited for.
    pub fn stop(&mut self) -> Result<(), ServerError> {
        let Some((mut owned, _lock)) = self.running.take() else {
            return Ok(());
        };
        owned
            .stop(STOP_MAX)
            .map(drop)
            .map_err(ServerError::io("stop", &self.found.program))
    }

    /// Ends the server as a power cut would and waits until it is gone. Does nothing if it is stopped.
    ///
    /// # Errors
    /// [`ServerError::Io`] if the process cannot be signalled or waited for.
    pub fn kill(&mut self) -> Result<(), ServerError> {
        let Some((mut owned, _lock)) = self.running.take() else {
            return Ok(());
        };
        owned
            .kill()
            .map(drop)
            .map_err(ServerError::io("kill", &self.found.program))
    }

    /// Deletes every stream and consumer, as a lost disk would.
    ///
    /// # Errors
    /// [`ServerError::InUse`] while the server runs, [`ServerError::Io`] if a file cannot be deleted.
    pub fn wipe(&self) -> Result<(), ServerError> {
        if self.running.is_some() {
            return Err(ServerError::InUse {
                dir: self.store_dir(),
                owner: std::process::id().to_string(),
            });
        }
        remove_folder(&self.store_dir())
    }

    /// Starts the server again with the same folder, settings and clients' port; one that runs is stopped first.
    ///
    /// # Errors
    /// [`ServerError`]: the server is stopped then.
    pub fn restart(&mut self) -> Result<(), ServerError> {
        self.stop()?;
        let options = NatsOptions {
            port: Some(self.port),
            ..self.options.clone()
        };
        *self = Self::start(&options)?;
        Ok(())
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(pid = self.pid, %error, "could not stop nats-server");
        }
    }
}

fn store_dir(dir: &Path) -> PathBuf {
    dir.join("store")
}

fn configuration(dir: &Path, more: &str) -> String {
    // The file limit only bounds what streams *reserve*, not what they use: a pool of accounts whose streams have the
    // sizes of production would not fit a developer's disk by reservation, though it holds next to nothing.
    format!(
        "server_name: kassa\n\
         jetstream {{\n  \
           store_dir: {}\n  \
           sync_interval: always\n  \
           max_file_store: 4TB\n\
         }}\n\
         {more}\n",
        crate::nats::quoted(&store_dir(dir).to_string_lossy())
    )
}

/// The configuration carries passwords.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

struct Ports {
    clients: u16,
    monitoring: u16,
}

fn wait_until_ready(owned: &mut Owned, ports_file: &Path, log: &Log) -> Result<Ports, ServerError> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        if let Some(status) = owned
            .try_wait()
            .map_err(ServerError::io("wait for", ports_file))?
        {
            return Err(ServerError::Ended {
                server: "nats-server",
                status,
                log: log.path.clone(),
                tail: log.tail(),
            });
        }
        if let Some(ports) = ports(ports_file)
            && healthy(ports.monitoring)
        {
            return Ok(ports);
        }
        if Instant::now() >= deadline {
            let seconds = READY_MAX.as_secs();
            let (log, tail) = (log.path.clone(), log.tail());
            return Err(ServerError::NotReady {
                server: "nats-server",
                seconds,
                log,
                tail,
            });
        }
        thread::sleep(POLL);
    }
}

/// None until the file is there in full.
fn ports(file: &Path) -> Option<Ports> {
    let text = fs::read_to_string(file).ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    let port = |name: &str| {
        value
            .get(name)?
            .get(0)?
            .as_str()?
            .rsplit(':')
            .next()?
            .parse()
            .ok()
    };
    Some(Ports {
        clients: port("nats")?,
        monitoring: port("monitoring")?,
    })
}

/// Whether the page for "JetStream works" says so. Any trouble is "not yet".
fn healthy(port: u16) -> bool {
    let ask = || -> io::Result<String> {
        let mut stream =
            TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), HEALTH_MAX)?;
        stream.set_read_timeout(Some(HEALTH_MAX))?;
        stream.set_write_timeout(Some(HEALTH_MAX))?;
        stream.write_all(b"GET /healthz?js-enabled-only=true HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.take(HEALTH_BYTES_MAX).read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.split_whitespace().nth(1) == Some("200"))
}
