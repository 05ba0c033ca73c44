//! How is a whole installation set up, with every role a process of its own on private servers, and taken apart again?
//!
//! [`Installation::start`] does it, by a [`Plan`]. Faults change it (`&mut Installation`); whoever only uses it, as shops
//! and shoppers do, has a copy of its [`Access`]. Nothing outlives it: processes and servers end with it, and with this
//! process, however that ends.

mod ports;
mod process;
mod servers;
mod settings;
mod usage;

use std::{
    any::Any,
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use futures::future::BoxFuture;
use kassa_chassis::config::Login;
use kassa_infra::servers::{Nats, Postgres};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

pub use process::{End, Process, Unasked, now, send};
pub use settings::login;
pub use usage::{Usage, usage, usage_of};

/// The shop whose orders are notified of, and another one.
pub const SHOP: &str = "demo-shop";
pub const OTHER_SHOP: &str = "other-shop";
/// Where shoppers come back to.
pub const RETURN_ORIGIN: &str = "https://shop.example";
/// The durable by which the shipment service of an installation reads.
pub const SHIPMENT_DURABLE: &str = "harness-shipment";

/// A process that starts on a loaded machine in a debug build, with its servers just started.
const READY_MAX: Duration = Duration::from_secs(60);
/// Services end within 25 s, or say that they do not; I-81 allows 30.
const TERM_MAX: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(20);
/// For one question to a process about its health.
const ASK_MAX: Duration = Duration::from_secs(3);

/// What is to be set up.
pub struct Plan {
    /// The binary whose `serve --role` is a service.
    pub exe: PathBuf,
    /// Where everything is: data, logs, configuration. Made; removed by who asked for it.
    pub folder: PathBuf,
    /// Where servers that have to be downloaded are kept.
    pub cache_dir: PathBuf,
    pub shops: Vec<String>,
    /// Name of a process, and the roles in it. A name may be a role with `-2`, `-3` … for a further instance.
    pub processes: Vec<(String, Vec<String>)>,
    /// Whether there is a shipment service, as a process `shipment` (needs a binary with `chaos shipment-service`).
    pub shipment: bool,
    /// Stands between the processes and the servers; none: nothing does.
    pub wire: Option<Wire>,
    /// After how long a report is read again when nothing was heard.
    pub ladder: Vec<Duration>,
    pub cm_timeout: Duration,
    /// Connections of one process to the database.
    pub database_connections: usize,
    pub commands_per_second: u32,
    /// What processes log, as in `RUST_LOG`.
    pub log: String,
    /// Further settings from the environment, such as `("KASSA_CHECKOUT__ORDER_TTL", "10m")`.
    pub environment: Vec<(String, String)>,
}

/// Called once when the servers run and before any process does; what it answers says by which ways processes go.
pub type Wire = Box<dyn FnOnce(Direct) -> BoxFuture<'static, anyhow::Result<Arc<dyn Edges>>> + Send>;

/// Where everything really is.
#[derive(Debug, Clone)]
pub struct Direct {
    /// A URL with the folder of the Unix socket as host.
    pub postgres_url: String,
    /// The Unix socket itself.
    pub postgres_socket: PathBuf,
    pub nats: SocketAddr,
    pub cm: SocketAddr,
    /// Of the first instance of `cm-notifications`.
    pub hooks: SocketAddr,
    pub checkout: SocketAddr,
}

/// By which way each process reaches the others. `process` is a name such as `relay` or `relay-2`.
pub trait Edges: Send + Sync + 'static {
    /// Itself, for the faults that know what they put there.
    fn as_any(&self) -> &dyn Any;
    /// As `Direct::postgres_url`, or through a proxy: `postgresql://kassa@127.0.0.1:PORT/kassa?sslmode=disable`.
    fn postgres_url(&self, process: &str, direct: &Direct) -> String {
        let _ = process;
        direct.postgres_url.clone()
    }
    /// `nats://host:port`.
    fn nats_url(&self, process: &str, direct: &Direct) -> String {
        let _ = process;
        format!("nats://{}", direct.nats)
    }
    /// From a gateway to the simulator: `http://host:port`.
    fn cm_url(&self, process: &str, direct: &Direct) -> String {
        let _ = process;
        format!("http://{}", direct.cm)
    }
    /// From the simulator to us: `http://host:port`.
    fn hooks_url(&self, direct: &Direct) -> String {
        format!("http://{}", direct.hooks)
    }
}

/// Nothing stands between.
#[derive(Debug, Clone, Copy)]
pub struct Straight;

impl Edges for Straight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The services of an installation; the simulator stands outside.
pub const ROLES: [&str; 6] = [
    "engine",
    "relay",
    "cm-gateway",
    "cm-notifications",
    "read-models",
    "checkout",
];
pub const SIMULATOR: &str = "cm-simulator";
pub const SHIPMENT: &str = "shipment";

impl Plan {
    /// Each role a process of its own, the simulator and the shipment service too, and nothing between them.
    #[must_use]
    pub fn new(exe: PathBuf, folder: PathBuf, cache_dir: PathBuf) -> Self {
        Self {
            exe,
            folder,
            cache_dir,
            shops: vec![SHOP.to_owned(), OTHER_SHOP.to_owned()],
            processes: ROLES
                .map(|role| (role.to_owned(), vec![role.to_owned()]))
                .to_vec(),
            shipment: true,
            wire: None,
            ladder: [1, 1, 2, 3, 5, 10].map(Duration::from_secs).to_vec(),
            cm_timeout: Duration::from_secs(2),
            // Some ten processes share one server of 300 connections.
            database_connections: 8,
            commands_per_second: 5_000,
            log: "info,async_nats=warn,async_nats::connector=off,deadpool=off".to_owned(),
            environment: vec![],
        }
    }

    /// All services in one process, as a small shop runs them; the simulator is another company's, and stays apart.
    #[must_use]
    pub fn in_one_process(mut self) -> Self {
        self.processes = vec![("all".to_owned(), ROLES.map(str::to_owned).to_vec())];
        self
    }

    /// Another instance of each service, with `-2` after its name.
    #[must_use]
    pub fn doubled(mut self) -> Self {
        let second = self
            .processes
            .iter()
            .map(|(name, roles)| (format!("{name}-2"), roles.clone()));
        let second: Vec<_> = second.collect();
        self.processes.extend(second);
        self
    }

    /// The longest interval at which a report is read again.
    #[must_use]
    pub fn poll_longest(&self) -> Duration {
        self.ladder.iter().max().copied().unwrap_or_default()
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("folder", &self.folder)
            .field("processes", &self.processes)
            .finish_non_exhaustive()
    }
}

/// What a client, a checker or a tool needs to know; copies stay true, since nobody moves.
#[derive(Debug, Clone)]
pub struct Access {
    pub exe: PathBuf,
    pub folder: PathBuf,
    /// The configuration of the first process of services, without proxies: for tools such as `kassa export`.
    pub config: PathBuf,
    pub direct: Direct,
    /// Without proxies.
    pub database_url: String,
    pub nats_url: String,
    /// The simulator.
    pub cm_url: String,
    /// The HTTP API.
    pub api_url: String,
}

impl Access {
    /// A user of the bus: `checkout`, `shipment`, `worker`, `relay`, `deploy`, `operator`, `checkout-{shop}` …
    #[must_use]
    pub fn login(&self, user: &str) -> Login {
        login(user)
    }

    /// Runs a subcommand of the binary against this installation, with its owner's rights; its standard output.
    ///
    /// # Errors
    /// When it ends with another code than 0: what it said.
    pub async fn tool(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::new(&self.exe);
        command.arg("--config").arg(&self.config).args(args);
        command.env("DATABASE_URL", &self.database_url).kill_on_drop(true);
        let output = command.stdin(std::process::Stdio::null()).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kassa {}: {}: {}",
            args.join(" "),
            output.status,
            said.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// A running installation.
pub struct Installation {
    access: Access,
    pub(crate) processes: BTreeMap<String, Process>,
    pub(crate) postgres: Option<Postgres>,
    pub(crate) nats: Option<Nats>,
    pub(crate) cache_dir: PathBuf,
    edges: Arc<dyn Edges>,
    http: reqwest::Client,
    ends: Vec<End>,
    unasked: Vec<Unasked>,
}

impl fmt::Debug for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installation")
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl Installation {
    /// Starts servers, makes the database, starts every process and waits until all are ready.
    ///
    /// # Errors
    /// What did not start, with the end of its log. Nothing is left running then.
    pub async fn start(mut plan: Plan) -> anyhow::Result<Self> {
        // Clients are made here, too; a second call changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut installation = Self::prepare(&mut plan).await?;
        let names: Vec<String> = installation.processes.keys().cloned().collect();
        for name in &names {
            installation.spawn(name)?;
        }
        for name in &names {
            installation.until_ready(name).await?;
        }
        Ok(installation)
    }

    /// What others may know of it.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    #[must_use]
    pub fn edges(&self) -> &Arc<dyn Edges> {
        &self.edges
    }

    /// The names of all processes.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// Process ids of what runs, the servers `postgres` and `nats` too.
    #[must_use]
    pub fn pids(&self) -> BTreeMap<String, u32> {
        let mut pids: BTreeMap<String, u32> = self
            .processes
            .values()
            .filter_map(|process| Some((process.name.clone(), process.pid()?)))
            .collect();
        pids.extend(
            self.postgres
                .as_ref()
                .map(|server| ("postgres".to_owned(), server.pid())),
        );
        pids.extend(self.nats.as_ref().map(|server| ("nats".to_owned(), server.pid())));
        pids
    }

    /// Memory and processor time of each process, with its children (those of PostgreSQL are many).
    #[must_use]
    pub fn usage(&self) -> BTreeMap<String, Usage> {
        usage(&self.pids())
    }

    /// Starts a process that does not run.
    ///
    /// # Errors
    /// When there is none of this name, or it runs.
    pub fn spawn(&mut self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.start()
    }

    /// Puts a program, such as `faketime`, before a process from its next start on; nothing takes it away.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn wrap(&mut self, name: &str, wrapper: Vec<OsString>) -> anyhow::Result<()> {
        self.process(name)?.wrapper = wrapper;
        Ok(())
    }

    /// `kill -9`; it is gone when this returns.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<End> {
        let (end, before) = self.process(name)?.kill()?;
        match before {
            // There was nothing left to kill.
            Some(before) => self.unasked.push(before),
            None => self.ends.push(end.clone()),
        }
        Ok(end)
    }

    /// SIGSTOP.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resume(&mut self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.signal(Signal::CONT)
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn terminate(&mut self, name: &str) -> anyhow::Result<End> {
        let end = self.process(name)?.terminate(TERM_MAX).await?;
        self.ends.push(end.clone());
        Ok(end)
    }

    /// `kill -9`, start, ready.
    ///
    /// # Errors
    /// When it does not run, or does not come back.
    pub async fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        self.kill(name)?;
        self.spawn(name)?;
        self.until_ready(name).await
    }

    /// Everything that was ended by a signal so far.
    #[must_use]
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// Everything that ended although nobody had told it to, so far.
    #[must_use]
    pub fn unasked(&self) -> &[Unasked] {
        &self.unasked
    }

    /// What processes wrote of panics, by their names.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        let of = |process: &Process| {
            let name = process.name.clone();
            process
                .panics()
                .into_iter()
                .map(move |line| format!("{name}: {line}"))
                .collect::<Vec<_>>()
        };
        self.processes.values().flat_map(of).collect()
    }

    /// Starts again what ended by itself, as a supervisor does; what that was.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn supervise(&mut self) -> anyhow::Result<Vec<Unasked>> {
        let mut again = Vec::new();
        for process in self.processes.values_mut() {
            if let Some(status) = process.ended() {
                again.push(Unasked::of(&process.name, status));
                process.start()?;
            }
        }
        self.unasked.extend(again.iter().cloned());
        Ok(again)
    }

    /// Whether a process says that it does all that it is there for.
    pub async fn is_ready(&self, name: &str) -> bool {
        let Some(process) = self.processes.get(name) else {
            return false;
        };
        let (Some(_), Some(admin)) = (process.pid(), process.admin) else {
            return process.pid().is_some();
        };
        let asked = self
            .http
            .get(format!("http://{admin}/readyz"))
            .timeout(ASK_MAX)
            .send();
        asked.await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Waits until a process is ready.
    ///
    /// # Errors
    /// When it ends, or after a minute: with the end of its log.
    pub async fn until_ready(&mut self, name: &str) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        while !self.is_ready(name).await {
            let process = self.process(name)?;
            let ended = process.ended();
            if ended.is_some() || Instant::now() >= deadline {
                let how = ended.map_or("is not ready".to_owned(), |status| format!("ended: {status}"));
                bail!("{name} {how}; its log ends:\n{}", process.tail());
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        let known = self.names().join(", ");
        self.processes
            .get_mut(name)
            .with_context(|| format!("there is no process {name}, but {known}"))
    }

    /// Ends everything in order, services first; what did not end with code 0, in words. What does not run has ended before.
    pub async fn close(mut self) -> Vec<String> {
        let mut bad = Vec::new();
        for process in self.processes.values_mut() {
            if let Some(status) = process.ended() {
                bad.push(format!("{} had ended by itself: {status}", process.name));
                continue;
            }
            // A paused one would not hear; what was not started again has no ears.
            let _ = process.signal(Signal::CONT);
            let _ = process.signal(Signal::TERM);
        }
        for process in self
            .processes
            .values_mut()
            .filter(|process| process.pid().is_some())
        {
            match process.until_ended(TERM_MAX).await {
                Ok(end) if end.code == Some(0) => {}
                Ok(end) => bad.push(format!("{} was told to end: {end:?}", process.name)),
                Err(error) => bad.push(format!("{} was told to end: {error:#}", process.name)),
            }
        }
        bad
    }
}

/// A configuration's file, by the name of its process.
fn config_file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.toml"))
}
