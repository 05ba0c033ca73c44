//! What is measured? Private servers, the simulator and our roles as processes of their own, in a folder that is gone
//! afterwards.

use std::{
    ffi::OsStr,
    fs::File,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use clap::ValueEnum;
use kassa_harness::installation::send;
use kassa_infra::{
    nats::{kassa_accounts, render},
    run::{RunFolder, cache_dir},
    servers::{Launch, Nats, NatsOptions, Owned, Postgres, PostgresOptions},
};
use rustix::process::Signal;
use tokio::time::Instant;
use tokio_postgres::NoTls;
use uuid::Uuid;

/// One: the simulator tells one address of what changed.
pub(super) const SHOP: &str = "bench-shop";
const DATABASE: &str = "kassa_bench";
/// The shop's own, where its shipment service keeps what it was told.
const SHOP_DATABASE: &str = "shop";
/// Everything is up within a second or two; on a machine that compiles beside it, within this.
const READY_MAX: Duration = Duration::from_secs(60);
/// For a role to finish what it is at.
const STOP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// How our roles share processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Layout {
    /// All in one, as `kassa serve --role all`: how a shop on one machine runs it.
    Together,
    /// Each in one of its own, as the fault harness runs them.
    Apart,
}

impl Layout {
    fn processes(self) -> &'static [&'static str] {
        match self {
            Self::Together => &["all"],
            Self::Apart => &[
                "engine",
                "relay",
                "cm-gateway",
                "cm-notifications",
                "read-models",
                "checkout",
            ],
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Together => "together",
            Self::Apart => "apart",
        }
    }
}

/// One process of ours.
#[derive(Debug)]
pub(super) struct Role {
    pub(super) name: &'static str,
    child: Owned,
}

impl Role {
    pub(super) fn pid(&self) -> u32 {
        self.child.pid()
    }
}

/// An installation on private servers, as long as it lives.
#[derive(Debug)]
pub(super) struct Rig {
    // Dropped in this order: those that use the servers first, the folder last.
    pub(super) roles: Vec<Role>,
    pub(super) simulator: Role,
    pub(super) nats: Nats,
    pub(super) postgres: Postgres,
    pub(super) folder: RunFolder,
    pub(super) config: PathBuf,
    pub(super) sim_url: String,
    pub(super) hooks_url: String,
    password: String,
    pub(super) exe: PathBuf,
}

impl Rig {
    /// Starts it all and waits until commands are answered.
    pub(super) async fn start(
        exe: PathBuf,
        layout: Layout,
        commands_per_second: u32,
    ) -> anyhow::Result<Self> {
        // Servers work in folders of their own, from where a relative path leads elsewhere.
        let cache_dir = std::path::absolute(cache_dir())?;
        let folder = RunFolder::new(&cache_dir)?;
        let options = PostgresOptions {
            dir: folder.path().join("pg"),
            bin_dir: None,
            cache_dir: cache_dir.clone(),
        };
        let postgres = tokio::task::spawn_blocking(move || Postgres::start(&options)).await??;
        let password = Uuid::new_v4().simple().to_string();
        let accounts = kassa_accounts("KASSA", "", &[SHOP], |_| password.clone());
        let options = NatsOptions {
            dir: folder.path().join("nats"),
            server: None,
            cache_dir,
            config: render(&accounts),
            port: None,
        };
        let nats = tokio::task::spawn_blocking(move || Nats::start(&options)).await??;
        let (client, driving) = connect(&postgres.url("postgres")).await?;
        for name in [DATABASE, SHOP_DATABASE] {
            client.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        }
        drop(client);
        driving.await?;

        let [sim_port, hooks_port, api_port] = free_ports()?;
        let config = folder.path().join("kassa.toml");
        let sim_url = format!("http://127.0.0.1:{sim_port}");
        let hooks_url = format!("http://127.0.0.1:{hooks_port}/hooks/cm/{SHOP}");
        let simulated = folder.path().join("simulator.toml");
        let database_url = postgres.url(DATABASE);
        let services = Services {
            database_url: &database_url,
            nats_url: &nats.url(),
            password: &password,
            sim_url: &sim_url,
            hooks_port,
            api_port,
            commands_per_second,
        };
        std::fs::write(&config, services.as_toml())?;
        std::fs::write(
            &simulated,
            format!(
                "[http]\nadmin_listen = \"off\"\n[simulator]\nlisten = \"127.0.0.1:{sim_port}\"\nmerchant_key = \"merchant\"\n\
                 account = \"account\"\npassword = \"{password}\"\nnotification_url = \"{hooks_url}?id=\"\n[log]\nformat = \"json\"\n"
            ),
        )?;
        let migrated = Command::new(&exe)
            .arg("--config")
            .arg(&config)
            .arg("migrate")
            .stderr(Stdio::null())
            .status()?;
        anyhow::ensure!(migrated.success(), "the schema could not be made: {migrated}");
        let simulator = spawn(&exe, &simulated, folder.path(), "cm-simulator")?;
        let mut roles = Vec::new();
        for name in layout.processes() {
            roles.push(spawn(&exe, &config, folder.path(), name)?);
        }
        let rig = Self {
            roles,
            simulator,
            nats,
            postgres,
            folder,
            config,
            sim_url,
            hooks_url,
            password,
            exe,
        };
        rig.ready().await?;
        Ok(rig)
    }

    pub(super) fn database_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    pub(super) fn shop_database_url(&self) -> String {
        self.postgres.url(SHOP_DATABASE)
    }

    /// A connection to the bus as one of the installation's users.
    pub(super) async fn bus(&self, user: &str) -> anyhow::Result<async_nats::Client> {
        Ok(self.options(user).connect(self.nats.url()).await?)
    }

    pub(super) fn options(&self, user: &str) -> async_nats::ConnectOptions {
        async_nats::ConnectOptions::new()
            .user_and_password(user.to_owned(), self.password.clone())
            .custom_inbox_prefix(format!("_INBOX_{user}"))
            // A burst of an open generator, not of one client: the library's own queue is not what is measured.
            .client_capacity(65_536)
            .subscription_capacity(65_536)
    }

    /// Both services that are asked, and the simulator, answer.
    async fn ready(&self) -> anyhow::Result<()> {
        let client = self.bus("checkout").await?;
        let until = Instant::now() + READY_MAX;
        let http = reqwest::Client::builder().no_proxy().build()?;
        loop {
            let asked = async |subject: String| client.request(subject, "".into()).await.is_ok();
            if asked(format!("kassa.cmd.{SHOP}.start_payment")).await
                && asked(format!("kassa.qry.{SHOP}.get_order")).await
                && http
                    .get(format!("{}/sim/clock", self.sim_url))
                    .send()
                    .await
                    .is_ok()
                && http.get(&self.hooks_url).send().await.is_ok()
            {
                return Ok(());
            }
            anyhow::ensure!(
                Instant::now() < until,
                "the services did not answer within {} s: see {}",
                READY_MAX.as_secs(),
                self.folder.path().display()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Runs a subcommand of the binary against this installation.
    pub(super) async fn tool(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = tokio::process::Command::new(&self.exe);
        command.arg("--config").arg(&self.config).args(args);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(
            output.status.success(),
            "kassa {}: {}: {}",
            args.join(" "),
            output.status,
            said.trim()
        );
        Ok(())
    }

    /// Asks our roles to end and waits for it, so that what is read afterwards is all there is.
    pub(super) async fn stop_roles(&mut self) -> anyhow::Result<()> {
        for role in &self.roles {
            send(role.pid(), Signal::TERM).with_context(|| format!("end {}", role.name))?;
        }
        let until = Instant::now() + STOP_MAX;
        for role in &mut self.roles {
            while role.child.try_wait()?.is_none() {
                anyhow::ensure!(Instant::now() < until, "{} does not end", role.name);
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for role in self.roles.iter_mut().chain([&mut self.simulator]) {
            // They may have ended; nothing else is to be done about it.
            let _ = role.child.kill();
        }
    }
}

pub(super) async fn connect(
    url: &str,
) -> anyhow::Result<(tokio_postgres::Client, tokio::task::JoinHandle<()>)> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driving = tokio::spawn(async move {
        // Its end is seen by whoever uses the client.
        let _ = connection.await;
    });
    Ok((client, driving))
}

fn spawn(exe: &Path, config: &Path, folder: &Path, name: &'static str) -> anyhow::Result<Role> {
    let log = File::create(folder.join(format!("{name}.log")))?;
    let config = config.as_os_str();
    let words = [
        OsStr::new("--config"),
        config,
        "serve".as_ref(),
        "--role".as_ref(),
        name.as_ref(),
    ];
    let child = Launch::new(exe, words)
        .start(log)
        .with_context(|| format!("starting {}", exe.display()))?;
    Ok(Role { name, child })
}

/// Bound together, so that no two are the same.
fn free_ports<const N: usize>() -> std::io::Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

/// What the services are told.
struct Services<'a> {
    database_url: &'a str,
    nats_url: &'a str,
    password: &'a str,
    sim_url: &'a str,
    hooks_port: u16,
    api_port: u16,
    commands_per_second: u32,
}

impl Services<'_> {
    fn as_toml(&self) -> String {
        let Self {
            database_url,
            nats_url,
            password,
            sim_url,
            hooks_port,
            api_port,
            commands_per_second,
        } = self;
        let login = |user: &str| format!("{{ user = \"{user}\", password = \"{password}\" }}");
        format!(
            "[database]\nurl = \"{database_url}\"\n[nats]\nurl = \"{nats_url}\"\nworker = {}\nrelay = {}\n[http]\n\
             listen = \"127.0.0.1:{hooks_port}\"\nadmin_listen = \"off\"\n[checkout]\nlisten = \"127.0.0.1:{api_port}\"\n\
             [rate]\ncommands_per_second = {commands_per_second}\n[log]\nformat = \"json\"\n\
             [shops.{SHOP}]\nreturn_url_origins = [\"https://shop.example\"]\ncm = {{ mode = \"sim\", rest_url = \"{sim_url}\", \
             account = \"account\", password = \"{password}\", merchant_key = \"merchant\" }}\n",
            login("worker"),
            login("relay"),
        )
    }
}
