//! How does a command become events, once? Load, decide, append at the versions that were seen; if another writer was
//! first, decide again.

use std::{future::Future, num::NonZeroUsize, sync::Mutex, time::Duration};

use cqrs_es::Aggregate;
use jiff::Timestamp;
use kassa_chassis::problem::Problem;
use kassa_domain::{
    ids::{CommandId, OrderId, PaymentId},
    order::Order,
    payment::Payment,
};
use kassa_event_store::{Append, AppendError, Appended, Store, StoreError};
use lru::LruCache;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    counts,
    session::{Loaded, Session},
};

/// States kept in memory, orders and payments each: some 2 KB apiece.
const CACHED: NonZeroUsize = NonZeroUsize::new(10_000).expect("ten thousand is not zero");
/// A stream that lost this many races in a row is contended beyond reason; the caller may repeat.
const TRIES: u32 = 10;
/// Events read at once when a stream is loaded; longer streams are read in several steps.
const READ_STEP: usize = 500;

/// Ours to mend, not the caller's.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the append was not possible")]
    Append(#[source] AppendError),
    #[error("the event at position {position} cannot be read")]
    Unreadable {
        position: i64,
        source: serde_json::Error,
    },
    #[error("{command} lost {TRIES} races in a row")]
    Contended { command: CommandId },
    #[error("one decision is about one order")]
    TwoOrders,
    #[error("{0}")]
    Internal(&'static str),
}

/// Why a decision ends without its events.
#[derive(Debug)]
pub enum Refusal {
    /// The answer is no. Stored, so that a repeat gets the same answer.
    Problem(Box<Problem>),
    /// Another decision was stored between two reads of this one: it is made again, from what is stored now.
    Torn,
    /// No, by what is configured today. Not stored: it may be yes tomorrow. A command that was decided before keeps its answer.
    NotKept(Box<Problem>),
    Fault(Fault),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A decision about one order and its payments. May run several times: it has no effect but through the session.
pub trait Decide: Send + Sync {
    /// What a repeat must be told: ids, never personal data. Small.
    type Outcome: Serialize + DeserializeOwned + Send;

    /// Whether its answer is kept where nothing came of it: a repeat is then told the same, whatever has happened since.
    const KEPT_WITHOUT_EFFECT: bool = true;

    fn decide(
        &self,
        session: &mut Session<'_>,
    ) -> impl Future<Output = Result<Self::Outcome, Refusal>> + Send;
}

/// How a command ended.
#[derive(Debug)]
pub struct Executed<O> {
    pub result: Result<O, Box<Problem>>,
    /// The last position of its events, or the head of the log when there were none.
    pub position: i64,
    /// It was decided before; nothing happened now.
    pub replayed: bool,
}

/// As the command log keeps it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Logged<O> {
    Accepted(O),
    Refused(Box<Problem>),
}

/// Whose command it is, which decides what a reused id means.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A shop's: the same id with other content is refused. Holds the fingerprint.
    Shop(Vec<u8>),
    /// Ours: the id says it all.
    Internal,
}

/// Links the domain to the store. One per process; any number of processes.
#[derive(Debug)]
pub struct Executor {
    store: Store,
    orders: Mutex<LruCache<Uuid, Loaded<Order>>>,
    payments: Mutex<LruCache<Uuid, Loaded<Payment>>>,
}

impl Executor {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            orders: Mutex::new(LruCache::new(CACHED)),
            payments: Mutex::new(LruCache::new(CACHED)),
        }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn now(&self) -> Timestamp {
        self.store.clock().now()
    }

    /// Decides and stores. `order` names the bucket, and so the part of the log.
    ///
    /// # Errors
    /// [`Fault`] when it is not known to be decided; a repeat with the same id is safe.
    pub async fn execute<D: Decide>(
        &self,
        order: OrderId,
        command: CommandId,
        caller: Caller,
        decision: &D,
    ) -> Result<Executed<D::Outcome>, Fault> {
        let part = self.store.part_of_bucket(order.bucket())?;
        let fingerprint = match &caller {
            Caller::Shop(fingerprint) => fingerprint.clone(),
            Caller::Internal => vec![],
        };
        for attempt in 0..TRIES {
            let mut session = Session::new(self, command, matches!(caller, Caller::Shop(_)), self.now());
            let logged = match decision.decide(&mut session).await {
                Ok(outcome) => Logged::Accepted(outcome),
                Err(Refusal::Problem(problem)) => {
                    // Nothing of a refused decision is kept but the refusal and the versions it was made on.
                    session.events.clear();
                    session.timers.clear();
                    session.done_timers.clear();
                    session.vault.clear();
                    session.reads.clear();
                    session.counted.clear();
                    Logged::Refused(problem)
                }
                Err(Refusal::NotKept(problem)) => {
                    return match self.store.command(command.uuid()).await? {
                        Some(known) => replayed(&caller, &known.fingerprint, &known.outcome, known.position),
                        None => Ok(Executed {
                            result: Err(problem),
                            position: self.store.head(part).await?,
                            replayed: false,
                        }),
                    };
                }
                Err(Refusal::Torn) => {
                    self.forget(&session);
                    continue;
                }
                Err(Refusal::Fault(fault)) => return Err(fault),
            };
            let refused = matches!(logged, Logged::Refused(_));
            let outcome =
                serde_json::to_vec(&logged).map_err(|_| Fault::Internal("an outcome is plain data"))?;
            let touches = session.touches();
            if !D::KEPT_WITHOUT_EFFECT && !refused && session.wants_nothing_stored() {
                match self.store.head_if_current(part, &touches).await? {
                    Some(position) => return Ok(executed(logged, position, false)),
                    None => {
                        self.forget(&session);
                        continue;
                    }
                }
            }
            let append = Append {
                part,
                command_id: command.uuid(),
                fingerprint: fingerprint.clone(),
                outcome,
                touches,
                events: std::mem::take(&mut session.events),
                timers: std::mem::take(&mut session.timers),
                done_timers: std::mem::take(&mut session.done_timers),
                vault: std::mem::take(&mut session.vault),
                reads: std::mem::take(&mut session.reads),
                recorded_at: session.now,
            };
            match self.store.append(append).await {
                Ok(Appended::Stored { position, .. }) => {
                    counts::settle(std::mem::take(&mut session.counted), &self.store, session.now);
                    if !refused {
                        self.remember(session, position);
                    }
                    return Ok(executed(logged, position, false));
                }
                Ok(Appended::Duplicate {
                    fingerprint: stored,
                    outcome,
                    position,
                }) => {
                    // What it left is in the store, and not in what is remembered.
                    self.forget(&session);
                    return replayed(&caller, &stored, &outcome, position);
                }
                Err(AppendError::Conflict) => {
                    self.forget(&session);
                    // The first races are lost to whoever holds the batch; only a crowd needs spreading.
                    if attempt > 2 {
                        let spread = u64::from(command.uuid().as_bytes()[15]) % 16;
                        tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 2 + spread)).await;
                    }
                }
                Err(other) => {
                    self.forget(&session);
                    return Err(Fault::Append(other));
                }
            }
        }
        Err(Fault::Contended { command })
    }

    /// The order as the store has it now.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub async fn current_order(&self, id: OrderId) -> Result<(Order, i64), Fault> {
        let loaded = self.catch_up(&self.orders, id.stream()).await?;
        Ok((loaded.state, loaded.position))
    }

    /// The payment as the store has it now, with the position of its last event.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub async fn current_payment(&self, id: PaymentId) -> Result<(Payment, i64), Fault> {
        let loaded = self.catch_up(&self.payments, id.stream()).await?;
        Ok((loaded.state, loaded.position))
    }

    /// The order as this process remembers it, from the store where it does not: for who decides nothing by it that an append
    /// does not check, or looks again.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub async fn remembered_order(&self, id: OrderId) -> Result<(Order, i64), Fault> {
        let loaded = self.cached_order(id).await?;
        Ok((loaded.state, loaded.position))
    }

    /// The payment, as [`Executor::remembered_order`].
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub async fn remembered_payment(&self, id: PaymentId) -> Result<(Payment, i64), Fault> {
        let loaded = self.cached_payment(id).await?;
        Ok((loaded.state, loaded.position))
    }

    /// From memory where possible: the append checks the version.
    pub(crate) async fn cached_order(&self, id: OrderId) -> Result<Loaded<Order>, Fault> {
        if let Some(loaded) = lock(&self.orders).get(&id.stream()) {
            return Ok(loaded.clone());
        }
        self.catch_up(&self.orders, id.stream()).await
    }

    pub(crate) async fn cached_payment(&self, id: PaymentId) -> Result<Loaded<Payment>, Fault> {
        if let Some(loaded) = lock(&self.payments).get(&id.stream()) {
            return Ok(loaded.clone());
        }
        self.catch_up(&self.payments, id.stream()).await
    }

    async fn catch_up<A>(
        &self,
        cache: &Mutex<LruCache<Uuid, Loaded<A>>>,
        stream: Uuid,
    ) -> Result<Loaded<A>, Fault>
    where
        A: Aggregate + Clone,
        A::Event: DeserializeOwned,
    {
        let mut loaded = lock(cache).get(&stream).cloned().unwrap_or_default();
        let before = loaded.version;
        loop {
            let events = self.store.read_stream(stream, loaded.version, READ_STEP).await?;
            for stored in &events {
                loaded.apply(stored)?;
            }
            if events.len() < READ_STEP {
                break;
            }
        }
        if loaded.version > before {
            keep(cache, stream, loaded.clone());
        }
        Ok(loaded)
    }

    fn remember(&self, session: Session<'_>, position: i64) {
        let written = session.touches().iter().map(|touch| touch.stream_id).collect();
        if let Some((_, touched)) = session.order
            && touched.added > 0
        {
            let version = touched.base.version + touched.added;
            keep(
                &self.orders,
                touched.stream,
                Loaded {
                    state: touched.state,
                    version,
                    position,
                },
            );
        }
        for (_, touched) in session.payments {
            if touched.added > 0 {
                let version = touched.base.version + touched.added;
                keep(
                    &self.payments,
                    touched.stream,
                    Loaded {
                        state: touched.state,
                        version,
                        position,
                    },
                );
            }
        }
        self.store.remembered(written);
    }

    fn forget(&self, session: &Session<'_>) {
        if let Some((_, touched)) = &session.order {
            lock(&self.orders).pop(&touched.stream);
        }
        for (_, touched) in &session.payments {
            lock(&self.payments).pop(&touched.stream);
        }
    }
}

fn executed<O>(logged: Logged<O>, position: i64, replayed: bool) -> Executed<O> {
    let result = match logged {
        Logged::Accepted(outcome) => Ok(outcome),
        Logged::Refused(problem) => Err(problem),
    };
    Executed {
        result,
        position,
        replayed,
    }
}

/// What was decided before under this id, for the same intention.
fn replayed<O: DeserializeOwned>(
    caller: &Caller,
    fingerprint: &[u8],
    outcome: &[u8],
    position: i64,
) -> Result<Executed<O>, Fault> {
    if matches!(caller, Caller::Shop(asked) if asked.as_slice() != fingerprint) {
        return Ok(Executed {
            result: Err(Box::new(key_reused())),
            position,
            replayed: true,
        });
    }
    let logged = serde_json::from_slice(outcome).map_err(|source| Fault::Unreadable { position, source })?;
    Ok(executed(logged, position, true))
}

fn key_reused() -> Problem {
    Problem::of(
        "idempotency_key_reused",
        "the key belongs to another verb, target or body",
        "send a new key for a new intention, or the first body again for a repeat",
    )
}

fn keep<A>(cache: &Mutex<LruCache<Uuid, Loaded<A>>>, stream: Uuid, loaded: Loaded<A>) {
    let mut cache = lock(cache);
    // A slower task may carry an older state.
    if cache
        .peek(&stream)
        .is_none_or(|known| known.version < loaded.version)
    {
        cache.put(stream, loaded);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic while the cache was held left it whole: every change to it is one call.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
