//! One process's access to the log: a pool to read with, a connection a part to append with, one to hear on.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::{Client, Config, NoTls};

use crate::{
    append::{Append, AppendError, Appended},
    batcher::{self, QUEUE_MAX, Waiting},
    clock::Clock,
    hints::{self, Bells, Heard},
    pool::{Pool, words},
};

/// The role that services step down to: it can add to the log and not change it.
const ROLE: &str = "kassa_app";

#[derive(Clone)]
pub struct StoreConfig {
    /// As `tokio-postgres` reads it: a URL or `key=value` words. Holds a password; never logged.
    pub url: String,
    /// Connections for reads; one more a part is opened to append, and one to hear.
    pub pool_size: usize,
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database's address cannot be understood")]
    Address(#[source] tokio_postgres::Error),
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    #[error("the database refuses: {0}")]
    Refused(String),
    #[error(
        "synchronous_commit is {found}: a power cut would lose acknowledged payments; set it to on for this database"
    )]
    NotDurable { found: String },
    #[error("the schema {}, and step {needed} is needed: run kassa migrate", at(*found))]
    SchemaTooOld { found: Option<i64>, needed: i64 },
    #[error("bucket {0} has no part: the table buckets is incomplete")]
    NoPart(u8),
}

fn at(step: Option<i64>) -> String {
    step.map_or("was never made".to_owned(), |step| format!("is at step {step}"))
}

/// Cheap to clone; the tasks end with the last clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: Pool,
    /// Where appends wait, by part.
    queues: Arc<BTreeMap<i32, mpsc::Sender<Waiting>>>,
    /// Who listens for the store does so no longer than it lives.
    _alive: Arc<()>,
    bells: Bells,
    clock: Clock,
    parts: Arc<Vec<Option<i32>>>,
    address: Address,
}

/// May hold a password.
#[derive(Clone)]
struct Address(Arc<str>);

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(…)")
    }
}

impl Store {
    /// # Errors
    /// [`StoreError`]; among them a database that does not keep what it acknowledges, and a schema that is too old.
    pub async fn connect(config: StoreConfig) -> Result<Self, StoreError> {
        let client = open(&config.url, None).await?;
        let setting = client
            .query_one("SHOW synchronous_commit", &[])
            .await
            .map_err(refused)?;
        let found: String = setting.get(0);
        if !matches!(found.as_str(), "on" | "remote_apply") {
            return Err(StoreError::NotDurable { found });
        }
        let version = kassa_migrations::schema_version(&client).await.map_err(refused)?;
        if version.is_none_or(|version| version < kassa_migrations::NEEDED) {
            return Err(StoreError::SchemaTooOld {
                found: version,
                needed: kassa_migrations::NEEDED,
            });
        }
        let member = client
            .query_one(
                "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND pg_has_role(current_user, oid, 'member'))",
                &[&ROLE],
            )
            .await
            .map_err(refused)?;
        let role = member.get::<_, bool>(0).then(|| ROLE.to_owned());
        if role.is_none() {
            tracing::warn!(
                "the role {ROLE} is not there for this login: the database does not stop changes to the log"
            );
        }
        let mut parts = vec![None; 256];
        for row in client
            .query("SELECT bucket, part FROM buckets", &[])
            .await
            .map_err(refused)?
        {
            if let Ok(bucket) = usize::try_from(row.get::<_, i16>(0)) {
                parts[bucket] = Some(row.get(1));
            }
        }
        let clock = Clock::new(read_offset(&client).await.map_err(refused)?);

        let address = Address(config.url.as_str().into());
        let bells = Bells::new();
        let settings = self::address(&config.url, "kassa").map_err(StoreError::Address)?;
        let pool = Pool::new(settings, config.pool_size, role.clone())?;
        let mut queues = BTreeMap::new();
        for row in client
            .query("SELECT part FROM log_head", &[])
            .await
            .map_err(refused)?
        {
            let (queue, waiting) = mpsc::channel(QUEUE_MAX);
            tokio::spawn(batcher::run(
                config.url.clone(),
                role.clone(),
                waiting,
                bells.clone(),
            ));
            queues.insert(row.get(0), queue);
        }
        let alive = Arc::new(());
        tokio::spawn(hints::listen(
            config.url,
            bells.clone(),
            clock.clone(),
            Arc::downgrade(&alive),
        ));
        Ok(Self {
            pool,
            queues: Arc::new(queues),
            _alive: alive,
            bells,
            clock,
            parts: Arc::new(parts),
            address,
        })
    }

    /// For tables that are not the log's.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Moves this database's time, for every process; for drills, and never where money is real: that is for the caller to
    /// know. The services' role may not: this asks as the login itself, which only its owner, or an administrator, is
    /// allowed to.
    ///
    /// # Errors
    /// [`StoreError`] when the login may not, or the database is away.
    pub async fn set_clock_offset(&self, offset_ms: i64) -> Result<(), StoreError> {
        let client = open(&self.address.0, None).await?;
        client
            .execute("UPDATE clock SET offset_ms = $1", &[&offset_ms])
            .await
            .map_err(refused)?;
        client
            .batch_execute("NOTIFY kassa_clock")
            .await
            .map_err(refused)?;
        self.clock.set_offset(offset_ms);
        Ok(())
    }

    /// The part of the log in which new streams of this bucket live.
    ///
    /// # Errors
    /// [`StoreError::NoPart`].
    pub fn part_of_bucket(&self, bucket: u8) -> Result<i32, StoreError> {
        self.parts[usize::from(bucket)].ok_or(StoreError::NoPart(bucket))
    }

    /// Stores one decision, if the versions it was made on still hold.
    ///
    /// # Errors
    /// [`AppendError::Conflict`] to decide again; the others as they say.
    pub async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        append.check()?;
        let Some(queue) = self.queues.get(&append.part) else {
            return Err(AppendError::WrongPart { part: append.part });
        };
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            append,
            answer,
            since: Instant::now(),
            tries: 0,
            alone: false,
        };
        // A short wait for a place spreads a burst; a long one would hide that there are too many.
        match queue.try_send(waiting) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(AppendError::Overloaded),
            Err(mpsc::error::TrySendError::Full(waiting)) => queue
                .send_timeout(waiting, Duration::from_secs(1))
                .await
                .map_err(|_| AppendError::Overloaded)?,
        }
        answered
            .await
            .map_err(|_| AppendError::Unavailable("the appending task ended".to_owned()))?
    }

    /// Changes when something may have been appended, by anyone. Only a hint: look as well.
    pub fn hints(&self) -> watch::Receiver<u64> {
        self.bells.log()
    }

    /// Hears when one of these streams may have been written to, by anyone. Only a hint: look as well.
    pub fn hear(&self, streams: Vec<uuid::Uuid>) -> Heard {
        Heard::new(&self.bells, streams)
    }

    /// Wakes those of this process who wait for streams that it has just written, when it remembers what it wrote.
    pub fn remembered(&self, streams: Vec<uuid::Uuid>) {
        self.bells.ring_here(streams);
    }

    /// Changes when a report may have to be read. Only a hint: look as well.
    pub fn read_hints(&self) -> watch::Receiver<u64> {
        self.bells.reads()
    }

    pub(crate) fn bells(&self) -> &Bells {
        &self.bells
    }

    pub(crate) async fn client(&self) -> Result<deadpool_postgres::Object, StoreError> {
        self.pool.get().await
    }
}

pub(crate) fn refused(error: tokio_postgres::Error) -> StoreError {
    match error.as_db_error() {
        Some(_) => StoreError::Refused(words(&error)),
        None => StoreError::Unreachable(words(&error)),
    }
}

pub(crate) async fn read_offset(client: &Client) -> Result<i64, tokio_postgres::Error> {
    Ok(client.query_one("SELECT offset_ms FROM clock", &[]).await?.get(0))
}

/// A connection with its driving task, stepped down to `role`.
pub(crate) async fn open(url: &str, role: Option<&str>) -> Result<Client, StoreError> {
    let (client, connection) = address(url, "kassa")
        .map_err(StoreError::Address)?
        .connect(NoTls)
        .await
        .map_err(|error| StoreError::Unreachable(words(&error)))?;
    tokio::spawn(async move {
        // Its end is seen by whoever uses the client.
        let _ = connection.await;
    });
    if let Some(role) = role {
        client
            .batch_execute(&format!("SET ROLE {role}"))
            .await
            .map_err(refused)?;
    }
    Ok(client)
}

/// A server that has vanished without a word is noticed within half a minute; by default it takes hours.
pub(crate) fn address(url: &str, name: &str) -> Result<Config, tokio_postgres::Error> {
    let mut config: Config = url.parse()?;
    config
        .connect_timeout(Duration::from_secs(3))
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(25))
        .application_name(name);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_was_never_made_is_told_without_code() {
        let told = |found| StoreError::SchemaTooOld { found, needed: 12 }.to_string();
        assert_eq!(
            told(None),
            "the schema was never made, and step 12 is needed: run kassa migrate"
        );
        assert_eq!(
            told(Some(3)),
            "the schema is at step 3, and step 12 is needed: run kassa migrate"
        );
    }
}
