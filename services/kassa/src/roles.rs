//! Which parts of the system run in this process? Each role is a library with `run`; this wires them to one store.

use std::{sync::Arc, time::Duration};

use clap::ValueEnum;
use kassa_chassis::{config::Config, health::Health};
use kassa_checkout::Checkout;
use kassa_cm_notifications::Notifications;
use kassa_cm_simulator::{SimConfig, Simulator};
use kassa_engine::Executor;
use kassa_event_store::{Store, StoreConfig, StoreError};
use secrecy::ExposeSecret as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{admin::Admin, doctor, exit::Ended, otlp::Traces};

/// Longer than a call to CM takes, shorter than the half minute after which supervisors kill.
const SHUTDOWN_MAX: Duration = Duration::from_secs(25);

/// For a database to let us in; one that is frozen would never say no.
pub(crate) const DATABASE_MAX: Duration = Duration::from_secs(8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Every role but the simulator.
    All,
    Engine,
    Relay,
    CmGateway,
    CmNotifications,
    ReadModels,
    Checkout,
    CmSimulator,
}

impl Role {
    const SERVICES: [Self; 6] = [
        Self::Engine,
        Self::Relay,
        Self::CmGateway,
        Self::CmNotifications,
        Self::ReadModels,
        Self::Checkout,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Engine => "engine",
            Self::Relay => "relay",
            Self::CmGateway => "cm-gateway",
            Self::CmNotifications => "cm-notifications",
            Self::ReadModels => "read-models",
            Self::Checkout => "checkout",
            Self::CmSimulator => "cm-simulator",
        }
    }
}

/// Listeners that were bound before their roles start, so that their addresses are known; others are bound as configured.
#[derive(Debug, Default)]
pub struct Bound {
    /// Where CM's notifications are heard.
    pub notifications: Option<Notifications>,
    /// Where the HTTP API is served.
    pub checkout: Option<Checkout>,
}

/// Roles that were started, until they end.
#[derive(Debug)]
pub struct Running {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
    health: Option<Health>,
}

impl Running {
    /// Starts the services that need the database, on one store.
    pub fn start(
        config: &Config,
        store: &Store,
        roles: &[Role],
        bound: Bound,
        shutdown: CancellationToken,
    ) -> Self {
        let mut tasks = JoinSet::new();
        let executor = Arc::new(Executor::new(store.clone()));
        let mut bound = bound;
        for role in roles {
            let (config, store, executor) = (config.clone(), store.clone(), executor.clone());
            let (name, token) = (role.name(), shutdown.clone());
            match role {
                Role::Engine => {
                    tasks.spawn(async move { (name, kassa_engine::run(config, executor, token).await) })
                }
                Role::Relay => {
                    tasks.spawn(async move { (name, kassa_relay::run(config, store, token).await) })
                }
                Role::CmGateway => {
                    tasks.spawn(async move { (name, kassa_cm_gateway::run(config, executor, token).await) })
                }
                Role::CmNotifications => {
                    match bound.notifications.take() {
                        Some(bound) => tasks.spawn(async move { (name, bound.serve(store, token).await) }),
                        None => tasks.spawn(async move {
                            (name, kassa_cm_notifications::run(config, store, token).await)
                        }),
                    }
                }
                Role::ReadModels => {
                    tasks.spawn(async move { (name, kassa_read_models::run(config, store, token).await) })
                }
                Role::Checkout => match bound.checkout.take() {
                    Some(bound) => {
                        tasks.spawn(async move { (name, bound.serve(config, executor, token).await) })
                    }
                    None => {
                        tasks.spawn(async move { (name, kassa_checkout::run(config, executor, token).await) })
                    }
                },
                Role::All | Role::CmSimulator => continue,
            };
        }
        Self {
            tasks,
            shutdown,
            health: None,
        }
    }

    /// Tells `health` of a role that ended while the others go on.
    #[must_use]
    pub(crate) fn watched_by(mut self, health: Health) -> Self {
        self.health = Some(health);
        self
    }

    /// Waits until all have ended. One that fails takes the others with it, since the process is to be started anew; but
    /// for the relay, which stops for a person to look: payments under way are still recorded and reports still read.
    ///
    /// # Errors
    /// The first role's error.
    pub async fn wait(mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let (name, ended) = ended?;
            match ended {
                Ok(()) => tracing::info!(role = name, "stopped"),
                Err(error) => {
                    let alone = name == Role::Relay.name();
                    tracing::error!(
                        role = name,
                        others_go_on = alone,
                        error = format!("{error:#}"),
                        "cannot go on"
                    );
                    if !alone {
                        self.shutdown.cancel();
                    }
                    if let Some(health) = &self.health {
                        health.ended(name);
                    }
                    if result.is_ok() {
                        result = Err(error.context(format!("role {name}")));
                    }
                }
            }
        }
        result
    }
}

/// Runs roles until `shutdown`.
pub(crate) async fn serve(
    config: &Config,
    roles: &[Role],
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let mut wanted: Vec<Role> = Vec::new();
    for role in roles {
        match role {
            Role::All => wanted.extend(Role::SERVICES),
            one => wanted.push(*one),
        }
    }
    wanted.sort_by_key(|role| role.name());
    wanted.dedup();

    let traces = Traces::from_env()?;
    let admin = Admin::open(config, &shutdown).await?;
    let simulator = if wanted.contains(&Role::CmSimulator) {
        let simulator = Simulator::bind(simulator(config)).await?;
        tracing::info!(url = simulator.base_url(), "the CM simulator listens");
        let token = shutdown.clone();
        Some(tokio::spawn(async move { simulator.serve(token).await }))
    } else {
        None
    };
    let names: Vec<_> = wanted.iter().map(|role| role.name()).collect();
    if names == [Role::CmSimulator.name()] {
        admin.started(config, None, &names).await?;
    } else {
        let Some(store) = connect(config, &shutdown).await? else {
            return Ok(());
        };
        for role in &wanted {
            tracing::info!(role = role.name(), "starting");
        }
        let running = Running::start(config, &store, &wanted, Bound::default(), shutdown.clone())
            .watched_by(admin.health.clone());
        admin.started(config, Some(&store), &names).await?;
        tokio::select! {
            ended = running.wait() => ended?,
            () = patience(&shutdown) => {
                // Whatever is still under way stands in the log as intent, or not at all: it is taken up from there.
                anyhow::bail!("a server does not answer: ended after {} s with work under way", SHUTDOWN_MAX.as_secs());
            }
        }
    }
    if let Some(simulator) = simulator {
        simulator.await??;
    }
    admin.close().await;
    if let Some(traces) = traces {
        traces.close().await;
    }
    Ok(())
}

/// Until a shutdown has lasted longer than it may.
async fn patience(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(SHUTDOWN_MAX).await;
}

pub(crate) fn simulator(config: &Config) -> SimConfig {
    let settings = &config.simulator;
    let mut sim = SimConfig::new(
        &settings.merchant_key,
        &settings.account,
        settings.password.clone(),
    );
    sim.listen = settings.listen;
    sim.notification_url = settings.notification_url.clone();
    sim.public_url = settings.public_url.clone();
    sim.state_dir = settings.state_dir.clone();
    sim
}

/// The store, as soon as the database is there; `None` after a shutdown meanwhile. A database that is there and cannot be
/// used ends it at once.
pub(crate) async fn connect(config: &Config, shutdown: &CancellationToken) -> anyhow::Result<Option<Store>> {
    let settings = StoreConfig {
        url: config.database.url.expose_secret().to_owned(),
        pool_size: config.database.max_connections,
    };
    let mut tries: u32 = 0;
    loop {
        let tried = tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            tried = tokio::time::timeout(DATABASE_MAX, Store::connect(settings.clone())) => {
                tried.unwrap_or_else(|_| Err(StoreError::Unreachable("no answer in time".to_owned())))
            }
        };
        match tried {
            Ok(store) => return Ok(Some(store)),
            Err(error @ StoreError::Unreachable(_)) => {
                tries += 1;
                // At its 1st, 2nd, 4th … time: a night is long.
                if tries.is_power_of_two() {
                    tracing::warn!(%error, tries, "waiting for the database: nothing is decided or answered until it is there");
                }
            }
            Err(error) => return Err(Ended::new(Ended::CONFIGURATION, error.to_string()).into()),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Brings the schema up to date; the number of steps taken.
pub(crate) async fn migrate(config: &Config) -> anyhow::Result<usize> {
    migrate_url(config.database.url.expose_secret()).await
}

pub(crate) async fn migrate_url(url: &str) -> anyhow::Result<usize> {
    Ok(kassa_migrations::migrate(&mut database(url).await?).await?)
}

/// A connection with the login as it is given, for what the services' role may not do.
pub(crate) async fn database(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let mut settings: tokio_postgres::Config = url
        .parse()
        .map_err(|error| Ended::new(Ended::CONFIGURATION, format!("database.url: {error}")))?;
    settings.connect_timeout(Duration::from_secs(5));
    let unreachable = |why: String| {
        Ended::new(
            Ended::UNREACHABLE,
            format!("the database cannot be reached: {why}"),
        )
    };
    let (client, connection) = tokio::time::timeout(DATABASE_MAX, settings.connect(tokio_postgres::NoTls))
        .await
        .map_err(|_| unreachable("no answer in time".to_owned()))?
        .map_err(|error| unreachable(doctor::sentence(&error)))?;
    tokio::spawn(async move {
        // Its end is seen by whoever uses the client.
        let _ = connection.await;
    });
    Ok(client)
}
