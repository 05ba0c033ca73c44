//! What is one flight? A batch of appends, pipelined on one connection: begin, lock the head, append, commit. First as if
//! all of them win, which is a plain insert; if they do not, the statement that decides one by one.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_postgres::{Client, Statement, types::ToSql};
use uuid::Uuid;

use crate::{
    StoreError, append::Appended, batcher::Waiting, columns::Columns, hopes::Hopes, pool::words, store::open,
};

/// What the server's own limits add up to (two seconds for the head, five for the statement) and a little: a server
/// that keeps silent for longer is frozen or out of reach, and its connection would not tell for hours. The flights ahead on
/// the same connection have as much each, before it is this one's turn.
const FLIGHT_MAX: Duration = Duration::from_secs(8);
/// To get a connection.
const CONNECT_MAX: Duration = Duration::from_secs(4);

const LOCK_HEAD: &str = "SELECT position FROM log_head WHERE part = $1 FOR UPDATE";
const APPEND: &str = include_str!("statement.sql");
const ALL_OR_NONE: &str = include_str!("all_or_none.sql");
const BESIDE: &str = include_str!("beside.sql");
const BESIDE_HERE: &str = "\n     -- and beside them";

/// The plans of a growing log must not be those of an empty one: lookups by key, always. The last one is for a setting that
/// was weakened while we ran; a stricter one stays.
const SESSION: &str = "SET enable_seqscan = off; SET jit = off; SET plan_cache_mode = force_generic_plan; \
     SET lock_timeout = '2s'; SET statement_timeout = '5s'; SET idle_in_transaction_session_timeout = '2s'; \
     SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') <> 'remote_apply'";

pub(crate) struct Connection {
    client: Client,
    lock_head: Statement,
    append: Statement,
    /// Events, streams and command log alone: half the plan to set up.
    all_or_none: Statement,
    all_or_none_and_beside: Statement,
    given_up: watch::Sender<bool>,
}

/// How a flight failed as a whole.
pub(crate) enum Crash {
    /// The connection is gone: the commit may have happened.
    Lost(String),
    /// The database said no, or not now; nothing was stored. `by_statement` when it said so to the append itself: then
    /// one of the batch may be the cause.
    Refused {
        why: String,
        passing: bool,
        by_statement: bool,
    },
    /// There is no head to lock; nothing was stored.
    NoPart,
}

pub(crate) struct Landed {
    pub(crate) batch: Vec<Waiting>,
    /// By command; who is not among them lost a race.
    pub(crate) result: Result<HashMap<Uuid, Appended>, Crash>,
}

impl Connection {
    pub(crate) async fn open(url: &str, role: Option<&str>) -> Result<Self, String> {
        tokio::time::timeout(CONNECT_MAX, prepare(url, role))
            .await
            .map_err(|_| "no answer".to_owned())?
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whatever else flies on it is lost, too.
    pub(crate) fn give_up(&self) {
        self.given_up.send_replace(true);
    }

    /// After the commit and in a statement of its own: inside, it would serialise the commits of all parts. It is sent
    /// before this returns, so that it cannot get between a flight's begin and commit; its answer is of no interest.
    pub(crate) fn notify(&self, statement: &str) {
        if !statement.is_empty() {
            // Only a hint: who waits for it also looks.
            let _ = self.client.batch_execute(statement).now_or_never();
        }
    }
}

async fn prepare(url: &str, role: Option<&str>) -> Result<Connection, String> {
    let client = open(url, role).await.map_err(|error| match error {
        // Whoever tells it says of whom it is told.
        StoreError::Unreachable(why) => why,
        other => other.to_string(),
    })?;
    let bare = ALL_OR_NONE.replace(BESIDE_HERE, "");
    let full = ALL_OR_NONE.replace(BESIDE_HERE, BESIDE.trim_end());
    let prepared = async {
        client.batch_execute(SESSION).await?;
        futures::try_join!(
            client.prepare(LOCK_HEAD),
            client.prepare(APPEND),
            client.prepare(&bare),
            client.prepare(&full),
        )
    };
    let (lock_head, append, all_or_none, all_or_none_and_beside) =
        prepared.await.map_err(|error| words(&error))?;
    Ok(Connection {
        client,
        lock_head,
        append,
        all_or_none,
        all_or_none_and_beside,
        given_up: watch::Sender::new(false),
    })
}

/// Flies a batch. All of it is sent when this is polled first: flights of one connection that are polled by one task follow
/// each other whole. `hopeful`: try first as if all win. `ahead`: how many are still in the air.
pub(crate) async fn fly(
    connection: Arc<Connection>,
    batch: Vec<Waiting>,
    hopeful: bool,
    ahead: usize,
) -> Landed {
    let patience = FLIGHT_MAX * u32::try_from(ahead + 1).unwrap_or(u32::MAX);
    let mut given_up = connection.given_up.subscribe();
    let result = tokio::select! {
        biased;
        result = attempt(&connection, &batch, hopeful, patience) => result,
        _ = given_up.changed() => Err(Crash::Lost("the connection was given up".to_owned())),
    };
    Landed { batch, result }
}

async fn attempt(
    connection: &Connection,
    batch: &[Waiting],
    hopeful: bool,
    patience: Duration,
) -> Result<HashMap<Uuid, Appended>, Crash> {
    // An append that was in a flight with a lost connection may be stored already. The head lock, taken on another
    // connection, waits for whatever the lost one still does; the statement then finds the command in the command log.
    let part = batch.first().map_or(0, |one| one.append.part);
    if hopeful {
        let hopes = Hopes::of(batch);
        let statement = if hopes.has_beside() {
            &connection.all_or_none_and_beside
        } else {
            &connection.all_or_none
        };
        let rows = transact(connection, part, statement, &hopes.params(&part), patience).await?;
        if let Some(row) = rows.first() {
            return Ok(hopes.stored(row.get(0)));
        }
    }
    let columns = Columns::of(batch);
    let rows = transact(
        connection,
        part,
        &connection.append,
        &columns.params(&part),
        patience,
    )
    .await?;
    let mut results = HashMap::with_capacity(batch.len());
    for row in rows {
        let command_id: Uuid = row.get(0);
        let position: i64 = row.get(3);
        let result = if row.get(4) {
            Appended::Stored { position }
        } else {
            Appended::Duplicate {
                fingerprint: row.get(1),
                outcome: row.get(2),
                position,
            }
        };
        results.insert(command_id, result);
    }
    Ok(results)
}

/// One transaction under the head's lock, in one go.
async fn transact(
    connection: &Connection,
    part: i32,
    statement: &Statement,
    params: &[&(dyn ToSql + Sync)],
    patience: Duration,
) -> Result<Vec<tokio_postgres::Row>, Crash> {
    let client = &connection.client;
    let lock_params: [&(dyn ToSql + Sync); 1] = [&part];
    let under_way = async {
        futures::join!(
            client.batch_execute("BEGIN"),
            client.query(&connection.lock_head, &lock_params),
            client.query(statement, params),
            client.batch_execute("COMMIT"),
        )
    };
    let Ok((begun, locked, appended, committed)) = tokio::time::timeout(patience, under_way).await else {
        return Err(Crash::Lost(format!("no answer within {patience:?}")));
    };
    if let Err(error) = &begun {
        // Without a transaction the append has committed by itself, or not: as little is known as of a lost connection.
        return Err(Crash::Lost(words(error)));
    }
    if locked.as_ref().is_ok_and(Vec::is_empty) {
        // Neither statement stores anything without a head.
        return Err(Crash::NoPart);
    }
    let by_statement = locked.is_ok() && appended.is_err();
    let checked = locked.and(appended).and_then(|rows| committed.map(|()| rows));
    checked.map_err(|error| {
        let crash = crash(&error, by_statement);
        if matches!(crash, Crash::Refused { .. }) {
            // The pipelined COMMIT has ended the failed transaction; this makes sure of it.
            let _ = client.batch_execute("ROLLBACK").now_or_never();
        }
        crash
    })
}

fn crash(error: &tokio_postgres::Error, by_statement: bool) -> Crash {
    use tokio_postgres::error::SqlState;
    let why = words(error);
    match error.code() {
        // The server is going down, or has ended this session: whether it had committed is not known.
        Some(code) if code.code().starts_with("57P") || code.code().starts_with("08") => Crash::Lost(why),
        // This server is a standby now; a new connection may lead to the one that took over.
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => Crash::Lost(why),
        Some(code) => {
            let passing = [
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::QUERY_CANCELED,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::IN_FAILED_SQL_TRANSACTION,
                SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
                SqlState::DISK_FULL,
                SqlState::OUT_OF_MEMORY,
            ]
            .contains(code);
            Crash::Refused {
                why,
                passing,
                by_statement,
            }
        }
        // Not the server's word: the connection itself broke.
        None => Crash::Lost(why),
    }
}
