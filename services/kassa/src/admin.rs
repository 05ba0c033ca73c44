//! What does a process tell its operators? Its health, by doing in small what its roles do, and its metrics.

use std::{io, time::Duration};

use async_nats::jetstream::{self, context::PublishErrorKind};
use kassa_chassis::{
    bus::{self, Deaf},
    config::{Config, Mode},
    health::{Check, Health, RoleNeeds, check},
    http::{self, Limits},
    metrics,
};
use kassa_event_store::Store;
use kassa_events_schema::dead_letter;
use kassa_relay::topology::{self, PROBE_SLOTS};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::doctor::sentence;

const WRITE: &str = "postgres_write";
const PUBLISH: &str = "nats_publish";
const HEAR_COMMANDS: &str = "nats_hear_commands";
const HEAR_QUERIES: &str = "nats_hear_queries";

/// By check: what becomes of orders while it fails.
const NO_WRITE: &str = "no order and no payment is taken, and no report of CM is read; notifications are answered with 503, \
    and CM sends them again";
pub(crate) const NO_BUS: &str =
    "no payment link is made, no shipment is told; orders and notifications are stored";
const NO_COMMANDS: &str = "commands on NATS are not heard here; those by HTTP are";
const NO_QUERIES: &str = "questions on NATS are not heard here; those by HTTP are";

/// Stream information over all subjects is work for the server; dead letters are looked at by people.
const DEAD_LETTERS_EVERY: Duration = Duration::from_secs(10);

/// The listener of operators, answering.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) health: Health,
    stop: CancellationToken,
    serving: Option<JoinHandle<io::Result<()>>>,
}

impl Admin {
    /// Answers from now on, "starting" at first.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub(crate) async fn open(config: &Config, shutdown: &CancellationToken) -> io::Result<Self> {
        let health = Health::new(shutdown.clone());
        // Not the services' own shutdown: while they end, it still says so.
        let stop = CancellationToken::new();
        let serving = match config.http.admin_listen.0 {
            None => None,
            Some(address) => {
                let listener = TcpListener::bind(address).await.map_err(|error| {
                    io::Error::new(
                        error.kind(),
                        format!("http.admin_listen {address}: {error}; name another address, or off"),
                    )
                })?;
                let address = listener.local_addr()?;
                tracing::info!(%address, "health and metrics are told here");
                let limits = Limits {
                    // A few probes and scrapers.
                    connections: 64,
                    body_max: 1024,
                    head_max: 16 * 1024,
                    ..Limits::default()
                };
                let (router, stop) = (health.router(), stop.clone());
                Some(tokio::spawn(async move {
                    http::serve(listener, router, limits, stop).await
                }))
            }
        };
        Ok(Self {
            health,
            stop,
            serving,
        })
    }

    /// The roles run: from now on they are asked after.
    ///
    /// # Errors
    /// When the login or the address of NATS is malformed.
    pub(crate) async fn started(
        &self,
        config: &Config,
        store: Option<&Store>,
        roles: &[&'static str],
    ) -> anyhow::Result<()> {
        let live = config.shops.values().any(|shop| shop.cm.mode == Mode::Live);
        let revision = option_env!("KASSA_REVISION").unwrap_or("unknown");
        let shops = config.shops.keys().map(String::as_str);
        metrics::describe(env!("CARGO_PKG_VERSION"), revision, live, shops);
        if self.serving.is_none() {
            return Ok(());
        }
        let needs: Vec<RoleNeeds> = roles.iter().map(|role| needs(role)).collect();
        let wanted = |name: &str| {
            needs
                .iter()
                .any(|role| role.needs.contains(&name) || role.uses.contains(&name))
        };
        let Some(store) = store else {
            self.health.started(needs, vec![], None);
            return Ok(());
        };
        let mut checks = Vec::new();
        if wanted(WRITE) {
            checks.push(durable_write(store.clone()));
        }
        for (name, without, connection) in [
            (HEAR_COMMANDS, NO_COMMANDS, "engine"),
            (HEAR_QUERIES, NO_QUERIES, "read-models"),
        ] {
            if wanted(name) {
                checks.push(heard(name, without, connection));
            }
        }
        let mut bus = None;
        if wanted(PUBLISH) {
            // The relay alone may have no other login.
            let login = if roles == ["relay"] {
                &config.nats.relay
            } else {
                &config.nats.worker
            };
            let client = bus::connect(&config.nats.url, login, "kassa-probe").await?;
            let jetstream = jetstream::new(client);
            checks.push(acknowledged_publish(jetstream.clone(), config.nats.replicas));
            bus = roles.contains(&"engine").then_some(jetstream);
        }
        let asked = Asked {
            store: store.clone(),
            relay: roles.contains(&"relay"),
            projections: roles.contains(&"read-models"),
            bus,
            first_head: std::sync::Arc::default(),
        };
        let looked = std::sync::Arc::new(tokio::sync::Mutex::new(None));
        let refresh = Box::new(move || {
            let (asked, looked) = (asked.clone(), looked.clone());
            let refreshed: futures::future::BoxFuture<'static, ()> = Box::pin(async move {
                let mut looked = looked.lock().await;
                tokio::join!(asked.outbox(), asked.lags(), asked.dead_letters(&mut looked));
            });
            refreshed
        });
        self.health.started(needs, checks, Some(refresh));
        Ok(())
    }

    /// Ends the listener, after everything else.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        if let Some(serving) = self.serving {
            match serving.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the admin listener broke"),
                Err(error) => tracing::warn!(%error, "the admin listener ended"),
            }
        }
    }
}

/// What readiness means, role by role. Without the database nobody does anything, but for the simulator.
///
/// Without the bus: the checkout takes orders and payments and answers questions; notifications are stored, and reports are
/// read. But the gateway hears of new payments over the bus alone: it calls CM for none of them, and no shopper gets a link.
/// The engine and the read models alone are only reached over the bus, and the relay is about nothing else.
fn needs(role: &'static str) -> RoleNeeds {
    let (door, needs, uses): (bool, &[&str], &[&str]) = match role {
        "checkout" => (true, &[WRITE], &[PUBLISH]),
        "cm-notifications" => (true, &[WRITE], &[]),
        "cm-gateway" => (false, &[WRITE, PUBLISH], &[]),
        "engine" => (false, &[WRITE, PUBLISH, HEAR_COMMANDS], &[]),
        "read-models" => (false, &[WRITE, PUBLISH, HEAR_QUERIES], &[]),
        "relay" => (false, &[WRITE, PUBLISH], &[]),
        // The simulator has a memory of its own.
        _ => (false, &[], &[]),
    };
    RoleNeeds {
        name: role,
        door,
        needs,
        uses,
    }
}

fn slot() -> i16 {
    i16::try_from(std::process::id() % PROBE_SLOTS).unwrap_or_default()
}

/// A row, committed as every append is.
fn durable_write(store: Store) -> Check {
    check(WRITE, NO_WRITE, move || {
        let store = store.clone();
        async move {
            let client = store.pool().get().await.map_err(|error| sentence(&error))?;
            client
                .execute(
                    "INSERT INTO health_probes VALUES ($1, clock_timestamp())
                     ON CONFLICT (slot) DO UPDATE SET written_at = excluded.written_at",
                    &[&slot()],
                )
                .await
                .map_err(|error| sentence(&error))?;
            Ok(())
        }
    })
}

/// The role's connection is there, and nothing that it asked to hear was refused; `connection` is the name that the role
/// gives it.
fn heard(name: &'static str, without: &'static str, connection: &'static str) -> Check {
    check(name, without, move || async move {
        bus::hears(connection).map_err(|deaf| match deaf {
            Deaf::NotConnected => "the server is away, or hangs".to_owned(),
            Deaf::Refused(subject) => {
                format!("{subject}; compare the login's permissions with those of kassa nats accounts")
            }
        })
    })
}

/// A message that JetStream says it has stored.
fn acknowledged_publish(jetstream: jetstream::Context, replicas: usize) -> Check {
    check(PUBLISH, NO_BUS, move || {
        let jetstream = jetstream.clone();
        async move {
            match publish(&jetstream).await {
                Err(PublishErrorKind::StreamNotFound) => {
                    jetstream
                        .create_stream(topology::probe(replicas))
                        .await
                        .map_err(|error| error.to_string())?;
                    publish(&jetstream).await
                }
                other => other,
            }
            .map_err(|kind| format!("{kind}"))
        }
    })
}

async fn publish(jetstream: &jetstream::Context) -> Result<(), PublishErrorKind> {
    let sent = jetstream
        .publish(format!("kassa.probe.{}", slot()), "alive".into())
        .await
        .map_err(|error| error.kind())?;
    sent.await.map(|_| ()).map_err(|error| error.kind())
}

/// Asked when metrics are, by the process whose role knows: what only the database or the bus can tell.
#[derive(Clone)]
struct Asked {
    store: Store,
    relay: bool,
    projections: bool,
    bus: Option<jetstream::Context>,
    /// Where the log ended when it was asked for first.
    first_head: std::sync::Arc<tokio::sync::OnceCell<i64>>,
}

/// Below the time that all that is refreshed has: a store that says nothing is seen as such.
const STORE_MAX: Duration = Duration::from_millis(1_500);
/// The only part of the log on one machine.
const PART: i32 = 0;

impl Asked {
    async fn outbox(&self) {
        if !self.relay {
            return;
        }
        let behind = async {
            let end = match metrics::relayed_to() {
                Some(end) => end,
                // The bus was never there: what waits is at least what came since we ask.
                None => {
                    let head = async || self.store.head(PART).await.map_err(drop);
                    *self.first_head.get_or_try_init(head).await.ok()?
                }
            };
            self.behind(end).await
        };
        match tokio::time::timeout(STORE_MAX, behind).await.ok().flatten() {
            Some((pending, age)) => metrics::outbox(pending, age),
            // A number from before would say that all is as it was.
            None => metrics::forget_outbox(),
        }
    }

    async fn lags(&self) {
        if !self.projections {
            return;
        }
        let Ok(client) = self.store.pool().get().await else {
            return;
        };
        let sql = "SELECT name, position FROM projections WHERE part = $1";
        let Ok(rows) = client.query(sql, &[&PART]).await else {
            return;
        };
        // Given back first: each lag is read on a connection of the same pool.
        drop(client);
        for row in rows {
            let (name, position): (String, i64) = (row.get(0), row.get(1));
            if let Some((events, age)) = self.behind(position).await {
                metrics::projection_lag(&name, events, age);
            }
        }
    }

    /// How many events are after a position, and how long the first of them has been there.
    async fn behind(&self, position: i64) -> Option<(i64, Duration)> {
        let head = self.store.head(PART).await.ok()?;
        let pending = (head - position).max(0);
        if pending == 0 {
            return Some((0, Duration::ZERO));
        }
        let first = self.store.read_log(PART, position, 1).await.ok()?;
        let age = first
            .first()
            .map(|event| self.store.clock().now().duration_since(event.recorded_at))
            .and_then(|age| Duration::try_from(age).ok())
            .unwrap_or_default();
        Some((pending, age))
    }

    /// How many messages each consumer gave up on: `kassa.dlq.{consumer}.…`.
    async fn dead_letters(&self, looked: &mut Option<tokio::time::Instant>) {
        use futures::TryStreamExt as _;
        let Some(jetstream) = &self.bus else { return };
        if looked.is_some_and(|at| at.elapsed() < DEAD_LETTERS_EVERY) {
            return;
        }
        *looked = Some(tokio::time::Instant::now());
        let Ok(stream) = jetstream.get_stream(dead_letter::STREAM).await else {
            return;
        };
        let Ok(subjects) = stream.info_with_subjects(dead_letter::FILTER).await else {
            return;
        };
        let Ok(counts) = subjects.try_collect::<Vec<_>>().await else {
            return;
        };
        let mut consumers = std::collections::BTreeMap::new();
        for (subject, count) in counts {
            let consumer = subject.split('.').nth(2).unwrap_or_default().to_owned();
            *consumers.entry(consumer).or_insert(0_i64) += i64::try_from(count).unwrap_or(i64::MAX);
        }
        metrics::forget_dead_letters();
        for (consumer, count) in consumers {
            metrics::dead_letters(&consumer, count);
        }
    }
}
