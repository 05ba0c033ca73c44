//! How do many appends share one commit? Whatever arrives while a flight is under way makes up the next one. A flight is
//! pipelined on one connection: begin, lock the head, append, commit.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, Statement, types::ToSql};
use uuid::Uuid;

use crate::{
    append::{Append, AppendError, Appended},
    hints::{Bells, Written},
    store::open,
};

/// Requests in one flight: beyond it a commit is no longer what costs.
const BATCH_MAX: usize = 512;
/// Bytes in one flight, so that one statement stays a few milliseconds.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Callers waiting: some eight full flights, a few tenths of a second of work.
pub(crate) const QUEUE_MAX: usize = 4_096;
/// How long an append is carried over a database that is away; a requester's patience is longer.
const PATIENCE: Duration = Duration::from_secs(4);
/// What the server's own limits add up to (two seconds for the head, five for the statement) and a little: a server
/// that keeps silent for longer is frozen or out of reach, and its connection would not tell for hours.
const FLIGHT_MAX: Duration = Duration::from_secs(8);
/// Flights that one append may fail in by no fault of its own.
const TRIES_MAX: u32 = 5;

const LOCK_HEAD: &str = "SELECT position FROM log_head WHERE part = $1 FOR UPDATE";
const APPEND: &str = include_str!("statement.sql");

/// The plans of a growing log must not be those of an empty one: lookups by key, always. The last one is for a setting that
/// was weakened while we ran; a stricter one stays.
const SESSION: &str = "SET enable_seqscan = off; SET jit = off; SET plan_cache_mode = force_generic_plan; \
     SET lock_timeout = '2s'; SET statement_timeout = '5s'; SET idle_in_transaction_session_timeout = '2s'; \
     SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') <> 'remote_apply'";

pub(crate) struct Waiting {
    pub(crate) append: Append,
    pub(crate) answer: oneshot::Sender<Result<Appended, AppendError>>,
    pub(crate) since: Instant,
    pub(crate) tries: u32,
    /// It held up a flight: from then on it has one to itself.
    pub(crate) alone: bool,
}

struct Connection {
    client: Client,
    lock_head: Statement,
    append: Statement,
}

/// How a flight failed as a whole.
enum Crash {
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

/// Serves appends until every caller is gone.
pub(crate) async fn run(url: String, role: Option<String>, mut queue: mpsc::Receiver<Waiting>, bells: Bells) {
    let mut waiting = VecDeque::new();
    let mut connection: Option<Connection> = None;
    loop {
        if waiting.is_empty() {
            match queue.recv().await {
                Some(next) => waiting.push_back(next),
                None => return,
            }
        }
        while waiting.len() < QUEUE_MAX
            && let Ok(next) = queue.try_recv()
        {
            waiting.push_back(next);
        }
        let live = match connection.take().filter(|c| !c.client.is_closed()) {
            Some(live) => live,
            None => match connect(&url, role.as_deref()).await {
                Ok(live) => live,
                Err(why) => {
                    give_up_on_old(&mut waiting, &why);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let batch = pick(&mut waiting);
        connection = fly(live, batch, &mut waiting, &bells).await;
    }
}

async fn connect(url: &str, role: Option<&str>) -> Result<Connection, String> {
    tokio::time::timeout(PATIENCE, prepare(url, role))
        .await
        .map_err(|_| "no answer".to_owned())?
}

async fn prepare(url: &str, role: Option<&str>) -> Result<Connection, String> {
    let client = open(url, role).await.map_err(|error| error.to_string())?;
    let prepared = async {
        client.batch_execute(SESSION).await?;
        let lock_head = client.prepare(LOCK_HEAD).await?;
        let append = client.prepare(APPEND).await?;
        Ok::<_, tokio_postgres::Error>((lock_head, append))
    };
    let (lock_head, append) = prepared.await.map_err(|error| describe(&error))?;
    Ok(Connection {
        client,
        lock_head,
        append,
    })
}

fn give_up_on_old(waiting: &mut VecDeque<Waiting>, why: &str) {
    let kept = waiting.drain(..).filter_map(|one| {
        if one.since.elapsed() < PATIENCE {
            return Some(one);
        }
        let _ = one.answer.send(Err(AppendError::Unavailable(why.to_owned())));
        None
    });
    let kept: VecDeque<_> = kept.collect();
    *waiting = kept;
}

/// The next flight, oldest first: one part, a command once, and no stream that another request of it writes.
fn pick(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let Some(part) = waiting.front().map(|one| one.append.part) else {
        return vec![];
    };
    let mut batch = Vec::new();
    let mut rest = VecDeque::new();
    let mut commands = HashSet::new();
    // Whether a stream is written in this flight, for every stream that is touched in it or passed over.
    let mut streams: HashMap<Uuid, bool> = HashMap::new();
    let mut bytes = 0;
    for one in waiting.drain(..) {
        let size = one.append.bytes();
        let clear = |streams: &HashMap<Uuid, bool>| {
            one.append
                .touches
                .iter()
                .all(|touch| match streams.get(&touch.stream_id) {
                    None => true,
                    Some(written) => !written && !one.append.writes(touch.stream_id),
                })
        };
        let fits = one.append.part == part
            && (batch.is_empty() || !one.alone && !batch.iter().any(|other: &Waiting| other.alone))
            && batch.len() < BATCH_MAX
            && (batch.is_empty() || bytes + size <= BATCH_BYTES_MAX)
            && clear(&streams)
            && commands.insert(one.append.command_id);
        for touch in &one.append.touches {
            // One that waits keeps its turn: nobody may pass it on its streams.
            let written = !fits || one.append.writes(touch.stream_id);
            *streams.entry(touch.stream_id).or_insert(written) |= written;
        }
        if fits {
            bytes += size;
            batch.push(one);
        } else {
            rest.push_back(one);
        }
    }
    *waiting = rest;
    batch
}

/// Flies a batch, answers its callers, and puts back what has to fly again. `None` when the connection is spent.
async fn fly(
    connection: Connection,
    batch: Vec<Waiting>,
    waiting: &mut VecDeque<Waiting>,
    bells: &Bells,
) -> Option<Connection> {
    match flight(&connection, &batch).await {
        Ok(results) => {
            let written = written(&batch);
            let reads = batch.iter().any(|one| !one.append.reads.is_empty());
            answer(batch, results);
            bells.ring(&written, reads);
            notify(&connection, &bells.notify(&written, reads));
            Some(connection)
        }
        Err(Crash::Refused {
            why,
            passing,
            by_statement,
        }) => {
            if batch.len() > 1 && by_statement {
                // One of them is at fault, or waits for a row that somebody holds; its neighbours must not suffer. Each
                // flies alone.
                let mut live = Some(connection);
                for mut one in batch {
                    one.alone = true;
                    live = match live {
                        Some(live) => Box::pin(fly(live, vec![one], waiting, bells)).await,
                        None => {
                            waiting.push_front(one);
                            None
                        }
                    };
                }
                return live;
            }
            for mut one in batch.into_iter().rev() {
                one.alone |= by_statement;
                if passing {
                    again(one, waiting, &why);
                } else {
                    let _ = one.answer.send(Err(AppendError::Refused(why.clone())));
                }
            }
            if passing {
                // Those behind have waited as long, and would wait for one flight more each.
                give_up_on_old(waiting, &why);
            }
            Some(connection)
        }
        Err(Crash::NoPart) => {
            for one in batch {
                let part = one.append.part;
                let _ = one.answer.send(Err(AppendError::WrongPart { part }));
            }
            Some(connection)
        }
        Err(Crash::Lost(why)) => {
            tracing::warn!(why, appends = batch.len(), "the appending connection was lost");
            for one in batch.into_iter().rev() {
                again(one, waiting, &why);
            }
            give_up_on_old(waiting, &why);
            None
        }
    }
}

/// Puts an append back, as long as its caller may be waiting: to the front, or behind all others if it holds them up.
fn again(mut one: Waiting, waiting: &mut VecDeque<Waiting>, why: &str) {
    one.tries += 1;
    if one.tries > TRIES_MAX || one.since.elapsed() > PATIENCE {
        let _ = one.answer.send(Err(AppendError::Unavailable(why.to_owned())));
    } else if one.alone {
        waiting.push_back(one);
    } else {
        waiting.push_front(one);
    }
}

fn answer(batch: Vec<Waiting>, mut results: HashMap<Uuid, Appended>) {
    for one in batch {
        let result = results
            .remove(&one.append.command_id)
            .ok_or(AppendError::Conflict);
        // A caller that left meets the stored outcome at its next try.
        let _ = one.answer.send(result);
    }
}

async fn flight(connection: &Connection, batch: &[Waiting]) -> Result<HashMap<Uuid, Appended>, Crash> {
    let client = &connection.client;
    let part = batch.first().map_or(0, |one| one.append.part);
    // An append that was in a flight with a lost connection may be stored already. The head lock, taken on another
    // connection, waits for whatever the lost one still does; the statement then finds the command in the command log.
    let columns = Columns::of(batch);
    let lock_params: [&(dyn ToSql + Sync); 1] = [&part];
    let append_params = columns.params(&part);
    let under_way = async {
        futures::join!(
            client.batch_execute("BEGIN"),
            client.query(&connection.lock_head, &lock_params),
            client.query(&connection.append, &append_params),
            client.batch_execute("COMMIT"),
        )
    };
    let Ok((begun, locked, appended, committed)) = tokio::time::timeout(FLIGHT_MAX, under_way).await else {
        return Err(Crash::Lost(format!("no answer within {FLIGHT_MAX:?}")));
    };
    if locked.as_ref().is_ok_and(Vec::is_empty) {
        // The statement has no winners without a head.
        return Err(Crash::NoPart);
    }
    let by_statement = begun.is_ok() && locked.is_ok() && appended.is_err();
    let checked = begun
        .and(locked.map(|_| ()))
        .and(appended)
        .and_then(|rows| committed.map(|()| rows));
    let rows = match checked {
        Ok(rows) => rows,
        Err(error) => {
            let crash = crash(&error, by_statement);
            if matches!(crash, Crash::Refused { .. }) {
                // The pipelined COMMIT has ended the failed transaction; this makes sure of it.
                let _ = client.batch_execute("ROLLBACK").now_or_never();
            }
            return Err(crash);
        }
    };
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

fn crash(error: &tokio_postgres::Error, by_statement: bool) -> Crash {
    use tokio_postgres::error::SqlState;
    let why = describe(error);
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

/// The server's message, without the values that it may quote in its detail.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}

/// After the commit and in a statement of its own: inside, it would serialise the commits of all parts. It is sent before
/// this returns, so that it cannot get between the next flight's begin and commit; its answer is of no interest.
fn notify(connection: &Connection, statement: &str) {
    if !statement.is_empty() {
        // Only a hint: who waits for it also looks.
        let _ = connection.client.batch_execute(statement).now_or_never();
    }
}

/// The streams that the batch wrote to, or would have; a hint too many costs a look.
fn written(batch: &[Waiting]) -> Written {
    let events = batch.iter().flat_map(|one| &one.append.events);
    let streams: HashSet<Uuid> = events.map(|event| event.stream_id).collect();
    if streams.is_empty() {
        Written::Nothing
    } else {
        Written::Streams(streams.into_iter().collect())
    }
}

/// The batch as the statement takes it: one array a column.
#[derive(Default)]
#[expect(
    clippy::type_complexity,
    reason = "one tuple a row source of the statement, in the statement's own order"
)]
struct Columns<'a> {
    req: (Vec<i32>, Vec<Uuid>, Vec<&'a [u8]>, Vec<&'a [u8]>, Vec<Timestamp>),
    touch: (Vec<i32>, Vec<Uuid>, Vec<i64>, Vec<i64>),
    event_keys: (Vec<i32>, Vec<Uuid>, Vec<i64>, Vec<Uuid>),
    event_names: (Vec<&'a str>, Vec<&'a str>, Vec<&'a str>, Vec<&'a str>, Vec<i16>),
    event_bytes: (Vec<&'a [u8]>, Vec<&'a [u8]>),
    timer: (
        Vec<i32>,
        Vec<Uuid>,
        Vec<Timestamp>,
        Vec<&'a str>,
        Vec<Uuid>,
        Vec<&'a [u8]>,
    ),
    done: (Vec<i32>, Vec<Uuid>),
    vault: (Vec<i32>, Vec<&'a str>, Vec<&'a str>, Vec<&'a [u8]>),
    read: (Vec<i32>, Vec<&'a str>, Vec<&'a str>),
}

impl<'a> Columns<'a> {
    fn of(batch: &'a [Waiting]) -> Self {
        let mut columns = Self::default();
        for (one, r) in batch.iter().zip(0_i32..) {
            columns.add(&one.append, r);
        }
        columns
    }

    fn add(&mut self, append: &'a Append, r: i32) {
        self.req.0.push(r);
        self.req.1.push(append.command_id);
        self.req.2.push(&append.fingerprint);
        self.req.3.push(&append.outcome);
        self.req.4.push(append.recorded_at);
        let mut versions: HashMap<Uuid, i64> = HashMap::new();
        for touch in &append.touches {
            versions.insert(touch.stream_id, touch.expected);
        }
        for event in &append.events {
            let version = versions.entry(event.stream_id).or_default();
            *version += 1;
            self.event_keys.0.push(r);
            self.event_keys.1.push(event.stream_id);
            self.event_keys.2.push(*version);
            self.event_keys.3.push(event.event_id);
            self.event_names.0.push(&event.shop);
            self.event_names.1.push(&event.aggregate_type);
            self.event_names.2.push(&event.aggregate_id);
            self.event_names.3.push(&event.event_type);
            self.event_names.4.push(event.schema_version);
            self.event_bytes.0.push(&event.payload);
            self.event_bytes.1.push(&event.metadata);
        }
        for touch in &append.touches {
            self.touch.0.push(r);
            self.touch.1.push(touch.stream_id);
            self.touch.2.push(touch.expected);
            self.touch.3.push(
                versions
                    .get(&touch.stream_id)
                    .map_or(0, |version| version - touch.expected),
            );
        }
        for timer in &append.timers {
            self.timer.0.push(r);
            self.timer.1.push(timer.timer_id);
            self.timer.2.push(timer.due_at);
            self.timer.3.push(&timer.kind);
            self.timer.4.push(timer.stream_id);
            self.timer.5.push(&timer.payload);
        }
        for timer_id in &append.done_timers {
            self.done.0.push(r);
            self.done.1.push(*timer_id);
        }
        for row in &append.vault {
            self.vault.0.push(r);
            self.vault.1.push(&row.shopper_id);
            self.vault.2.push(&row.shop);
            self.vault.3.push(&row.data);
        }
        for read in &append.reads {
            self.read.0.push(r);
            self.read.1.push(&read.order_id);
            self.read.2.push(&read.shop);
        }
    }

    /// In the order of the statement's `$1` to `$36`.
    fn params<'p>(&'p self, part: &'p i32) -> [&'p (dyn ToSql + Sync); 36] {
        [
            part,
            &self.req.0,
            &self.req.1,
            &self.req.2,
            &self.req.3,
            &self.req.4,
            &self.touch.0,
            &self.touch.1,
            &self.touch.2,
            &self.touch.3,
            &self.event_keys.0,
            &self.event_keys.1,
            &self.event_keys.2,
            &self.event_keys.3,
            &self.event_names.0,
            &self.event_names.1,
            &self.event_names.2,
            &self.event_names.3,
            &self.event_names.4,
            &self.event_bytes.0,
            &self.event_bytes.1,
            &self.timer.0,
            &self.timer.1,
            &self.timer.2,
            &self.timer.3,
            &self.timer.4,
            &self.timer.5,
            &self.done.0,
            &self.done.1,
            &self.vault.0,
            &self.vault.1,
            &self.vault.2,
            &self.vault.3,
            &self.read.0,
            &self.read.1,
            &self.read.2,
        ]
    }
}
