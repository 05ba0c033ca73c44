//! How do an installation's servers come up, with what the processes find in them, and how are they ended and started
//! again?

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, ensure};
use kassa_infra::{
    nats::{kassa_accounts, render},
    servers::{Nats, NatsOptions, Postgres, PostgresOptions, ServerError},
};
use rustix::process::Signal;
use tokio_postgres::NoTls;

use super::{
    Access, Direct, Edges, Installation, Plan, Process, SHIPMENT, SHIPMENT_DURABLE, SHOP, SIMULATOR,
    Straight, config_file,
    ports::Ports,
    process::send,
    settings::{self, Ways},
};

const DATABASE: &str = "kassa";

impl Installation {
    /// Everything but the processes.
    pub(super) async fn prepare(plan: &mut Plan) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&plan.folder)
            .with_context(|| format!("make the folder {}", plan.folder.display()))?;
        let mut ports = Ports::default();
        let nats_port = ports.take()?;
        let simulator = ports.take()?;
        let (postgres, nats) = servers(plan, ports, nats_port).await?;
        // Others may not have the ports that follow, either; the server of the bus has its own by now.
        let mut ports = Ports::default();

        make_database(&postgres).await?;
        let mut listen: BTreeMap<String, [SocketAddr; 3]> = BTreeMap::new();
        for (name, _) in &plan.processes {
            listen.insert(name.clone(), [ports.take()?, ports.take()?, ports.take()?]);
        }
        let at = |role: &str, which: usize| {
            let has = |(_, roles): &&(String, Vec<String>)| roles.iter().any(|one| one == role);
            let (name, _) = plan.processes.iter().find(has)?;
            listen.get(name).map(|of_it| of_it[which])
        };
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let direct = Direct {
            postgres_url: postgres.url(DATABASE),
            postgres_socket: socket(&postgres)?,
            nats: SocketAddr::from((Ipv4Addr::LOCALHOST, nats.port())),
            cm: simulator,
            hooks: at("cm-notifications", 0).unwrap_or(nobody),
            checkout: at("checkout", 1).unwrap_or(nobody),
        };
        let edges: Arc<dyn Edges> = match plan.wire.take() {
            Some(wire) => wire(direct.clone()).await?,
            None => Arc::new(Straight),
        };
        let simulator_admin = ports.take()?;
        let mut processes = BTreeMap::new();
        let hooks = format!("{}/hooks/cm/{SHOP}", edges.hooks_url(&direct));
        let state = plan.folder.join("simulator");
        let configure = |name: &str, [hook, checkout, admin]: [SocketAddr; 3], straight: bool| {
            let edges: &dyn Edges = if straight { &Straight } else { edges.as_ref() };
            let ways = Ways {
                postgres: &edges.postgres_url(name, &direct),
                nats: &edges.nats_url(name, &direct),
                cm: &edges.cm_url(name, &direct),
                hooks: &hooks,
                listen: hook,
                checkout,
                admin: Some(admin),
                simulator,
                state: &state,
            };
            write_private(&config_file(&plan.folder, name), &settings::toml(plan, &ways))
        };
        for (name, roles) in &plan.processes {
            let listen = listen[name];
            configure(name, listen, false)?;
            let mut args: Vec<OsString> = vec!["serve".into()];
            for role in roles {
                args.extend([OsString::from("--role"), role.into()]);
            }
            let role = roles.first().cloned().unwrap_or_default();
            processes.insert(name.clone(), process(plan, name, &role, args, Some(listen[2])));
        }
        configure(SIMULATOR, [nobody, nobody, simulator_admin], false)?;
        let args = ["serve", "--role", SIMULATOR].map(OsString::from).to_vec();
        processes.insert(
            SIMULATOR.to_owned(),
            process(plan, SIMULATOR, SIMULATOR, args, Some(simulator_admin)),
        );
        configure("operator", [nobody, direct.checkout, nobody], true)?;
        if plan.shipment {
            let way = (
                edges.postgres_url(SHIPMENT, &direct),
                edges.nats_url(SHIPMENT, &direct),
            );
            processes.insert(SHIPMENT.to_owned(), shipment(plan, way));
        }
        // Given away: the processes take them now.
        drop(ports);
        Ok(Self {
            access: Access {
                exe: plan.exe.clone(),
                folder: plan.folder.clone(),
                config: config_file(&plan.folder, "operator"),
                database_url: direct.postgres_url.clone(),
                nats_url: nats.url(),
                cm_url: format!("http://{simulator}"),
                api_url: format!("http://{}", direct.checkout),
                direct,
            },
            processes,
            postgres: Some(postgres),
            nats: Some(nats),
            cache_dir: plan.cache_dir.clone(),
            edges,
            http: reqwest::Client::builder().no_proxy().build()?,
            ends: Vec::new(),
            unasked: Vec::new(),
        })
    }

    /// Ends PostgreSQL by a signal (INT: fast, QUIT: immediate, KILL: as a power cut of the process) and waits until it is
    /// gone.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn end_postgres(&mut self, signal: Signal) -> anyhow::Result<()> {
        let mut server = self.postgres.take().context("PostgreSQL does not run")?;
        send(server.pid(), signal)?;
        // Sees that it has ended, and gives its folder back; after a `kill -9` its children go on for a moment.
        blocking(move || server.stop()).await
    }

    /// Starts PostgreSQL where it was; it replays its log first.
    ///
    /// # Errors
    /// When it runs, or does not come up.
    pub async fn start_postgres(&mut self) -> anyhow::Result<()> {
        ensure!(self.postgres.is_none(), "PostgreSQL runs already");
        let options = postgres_options(&self.access.folder, &self.cache_dir);
        self.postgres = Some(blocking(move || Postgres::start(&options)).await?);
        Ok(())
    }

    /// Does something with nats-server that blocks, such as `Nats::kill`, `wipe` or `restart`.
    ///
    /// # Errors
    /// What the server says.
    pub async fn with_nats(
        &mut self,
        work: impl FnOnce(&mut Nats) -> Result<(), ServerError> + Send + 'static,
    ) -> anyhow::Result<()> {
        let mut nats = self.nats.take().context("nats-server is in use")?;
        let (nats, done) = tokio::task::spawn_blocking(move || {
            let done = work(&mut nats);
            (nats, done)
        })
        .await?;
        self.nats = Some(nats);
        Ok(done?)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

fn postgres_options(folder: &Path, cache_dir: &Path) -> PostgresOptions {
    PostgresOptions {
        dir: folder.join("pg"),
        bin_dir: None,
        cache_dir: cache_dir.to_owned(),
    }
}

async fn servers(plan: &Plan, ports: Ports, port: SocketAddr) -> anyhow::Result<(Postgres, Nats)> {
    let options = postgres_options(&plan.folder, &plan.cache_dir);
    let postgres = tokio::task::spawn_blocking(move || Postgres::start(&options));
    let shops: Vec<&str> = plan.shops.iter().map(String::as_str).collect();
    let accounts = kassa_accounts("KASSA", "", &shops, settings::password);
    let options = NatsOptions {
        dir: plan.folder.join("nats"),
        server: None,
        cache_dir: plan.cache_dir.clone(),
        config: render(&accounts),
        port: Some(port.port()),
    };
    drop(ports);
    let nats = tokio::task::spawn_blocking(move || Nats::start(&options));
    Ok((postgres.await??, nats.await??))
}

async fn make_database(postgres: &Postgres) -> anyhow::Result<()> {
    let (client, connection) = tokio_postgres::connect(&postgres.url("postgres"), NoTls).await?;
    let driving = tokio::spawn(connection);
    client
        .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
        .await?;
    drop(client);
    driving.await??;
    let (mut client, connection) = tokio_postgres::connect(&postgres.url(DATABASE), NoTls).await?;
    let driving = tokio::spawn(connection);
    kassa_migrations::migrate(&mut client).await?;
    drop(client);
    driving.await??;
    Ok(())
}

fn process(plan: &Plan, name: &str, role: &str, args: Vec<OsString>, admin: Option<SocketAddr>) -> Process {
    let mut all: Vec<OsString> = vec!["--config".into(), config_file(&plan.folder, name).into()];
    all.extend(args);
    let mut environment: Vec<OsString> = vec![format!("RUST_LOG={}", plan.log).into()];
    environment.extend(
        plan.environment
            .iter()
            .map(|(name, value)| format!("{name}={value}").into()),
    );
    Process {
        name: name.to_owned(),
        role: role.to_owned(),
        program: plan.exe.clone(),
        args: all,
        environment,
        wrapper: Vec::new(),
        log: plan.folder.join(format!("{name}.log")),
        admin,
        owned: None,
    }
}

/// A shop's program: it knows its own database and the bus, nothing of the services' configuration.
fn shipment(plan: &Plan, (postgres_url, nats_url): (String, String)) -> Process {
    let args = [
        "chaos",
        "shipment-service",
        "--database-url",
        &postgres_url,
        "--nats-url",
        &nats_url,
        "--durable",
        SHIPMENT_DURABLE,
    ];
    let password = settings::password(SHIPMENT);
    let mut shipment = process(plan, SHIPMENT, SHIPMENT, vec![], None);
    shipment.args = args.map(OsString::from).to_vec();
    shipment
        .environment
        .push(format!("KASSA_NATS_PASSWORD={password}").into());
    shipment
}

/// Where the server listens: in its folder, or elsewhere if that name is too long for a socket.
fn socket(postgres: &Postgres) -> anyhow::Result<PathBuf> {
    let config: tokio_postgres::Config = postgres.url(DATABASE).parse()?;
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Unix(folder)) => Ok(folder.join(format!(".s.PGSQL.{port}"))),
        other => anyhow::bail!("PostgreSQL listens on {other:?}, and not on a socket"),
    }
}

/// Passwords are in it.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = std::fs::File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}
