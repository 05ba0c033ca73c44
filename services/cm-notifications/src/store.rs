//! Where do hints go? One row a reference, and in the same transaction a request to read the order's report, if there is
//! such an order.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use kassa_chassis::trace;
use kassa_domain::ids::{OrderId, Shop};
use kassa_event_store::{Store, request_read_for};
use tokio::sync::oneshot;
use tokio_postgres::Transaction;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Parked references are looked for this often; CM may be faster than our own record of the order.
const SWEEP: Duration = Duration::from_millis(500);
/// Parked longer than this since its last hint, a reference is nobody's. CM's own retries end sooner.
const PARKED_MAX: &str = "1 hour";
/// Strangers can send any reference: beyond this many (some 20 MB) new unknown ones are answered and not kept. Several
/// processes may go beyond it together by what one sweep's pause brings them.
const PARKED_ROWS_MAX: i64 = 100_000;
/// Parked rows looked at in one sweep: that many of the newest, which are the likeliest to be ours, and that many further
/// ones in turn, so that a storm of strangers hides no real one: all of them are seen within a minute.
const SWEEP_ROWS: i64 = 1_000;
/// For one transaction. A call waits for at most two, which is less than its own deadline.
const STORED_WITHIN: Duration = Duration::from_secs(4);

type Reference = (Shop, String);

/// The hint was not stored, or nobody knows: CM is to send it again.
#[derive(Debug)]
pub(crate) struct NotKept;

#[derive(Debug, Clone)]
pub(crate) struct Hints {
    store: Store,
    /// By reference, those who wait for its next transaction; an entry means that somebody stores for it now. Never more
    /// than there are open connections.
    waiting: Arc<Mutex<HashMap<Reference, Vec<oneshot::Sender<bool>>>>>,
    /// How many rows are parked: as the last sweep counted, and what came since. Counting in each call would cost more the
    /// more strangers there are, and only for unknown references: the time would tell.
    parked: Arc<AtomicI64>,
}

impl Hints {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            waiting: Arc::default(),
            parked: Arc::default(),
        }
    }

    /// Stores a hint, known or not; after this the answer may be 200.
    ///
    /// Calls for one reference share transactions: each would wait for the row of the one before, until a storm for one
    /// order has all connections. Nobody joins a transaction that has begun: a read may have started on it already, and
    /// each hint is to be followed by a read.
    pub(crate) async fn keep(&self, shop: Shop, reference: String) -> Result<(), NotKept> {
        let (stored, answer) = oneshot::channel();
        let key = (shop, reference);
        let first = match self.waiting().entry(key.clone()) {
            std::collections::hash_map::Entry::Occupied(mut others) => {
                others.get_mut().push(stored);
                false
            }
            std::collections::hash_map::Entry::Vacant(nobody) => {
                nobody.insert(vec![stored]);
                true
            }
        };
        if first {
            // A task of its own: a caller who hangs up may not take the others along.
            let turn = Turn {
                hints: self.clone(),
                key,
                over: false,
            };
            tokio::spawn(trace::carried(trace::carry(), turn.store_all()));
        }
        match answer.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(NotKept),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Reference, Vec<oneshot::Sender<bool>>>> {
        // A panic while it was held left it whole: every change to it is one call.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep_now(&self, shop: &Shop, reference: &str, calls: i64) -> anyhow::Result<()> {
        let mut client = self.store.pool().get().await?;
        let transaction = client.transaction().await?;
        let known = request_reads(&transaction, shop, reference).await?;
        let state = if known { "known" } else { "parked" };
        let room = known || self.parked.load(Ordering::Relaxed) < PARKED_ROWS_MAX;
        let kept = transaction
            .execute(
                "INSERT INTO notifications AS n (shop, reference, state, first_at, last_at, count)
                 SELECT $1, $2, $3, clock_timestamp(), clock_timestamp(), $5
                  WHERE $4 OR EXISTS (SELECT FROM notifications WHERE shop = $1 AND reference = $2)
                 ON CONFLICT (shop, reference) DO UPDATE
                    SET state = excluded.state, last_at = excluded.last_at, count = n.count + excluded.count,
                        first_at = CASE WHEN excluded.state = 'parked' THEN excluded.first_at ELSE n.first_at END",
                &[&shop.as_str(), &reference, &state, &room, &calls],
            )
            .await?;
        transaction.commit().await?;
        drop(client);
        if known {
            self.store.ring_readers().await?;
        } else if kept > 0 {
            self.parked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Looks for the orders of parked references until shutdown.
    pub(crate) async fn sweep(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let mut seen = None;
        loop {
            seen = self.sweep_once(seen).await?;
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(SWEEP) => {}
            }
        }
    }

    /// Looks at the newest ones and at those after `seen`; where to go on, or `None` at the end.
    async fn sweep_once(&self, seen: Option<Parked>) -> anyhow::Result<Option<Parked>> {
        let client = self.store.pool().get().await?;
        client
            .execute(
                "DELETE FROM notifications WHERE state = 'parked' AND first_at < clock_timestamp() - $1::text::interval",
                &[&PARKED_MAX],
            )
            .await?;
        let count = client
            .query_one(
                "SELECT count(*) FROM (SELECT FROM notifications WHERE state = 'parked' LIMIT $1) AS p",
                &[&PARKED_ROWS_MAX],
            )
            .await?;
        self.parked.store(count.get(0), Ordering::Relaxed);
        let mut rows = client
            .query(
                "SELECT first_at, shop, reference FROM notifications
                  WHERE state = 'parked' ORDER BY first_at DESC LIMIT $1",
                &[&SWEEP_ROWS],
            )
            .await?;
        // Where the newest are not all, the others have their turn.
        let mut next = None;
        if i64::try_from(rows.len())? == SWEEP_ROWS {
            let (at, shop, reference) = seen.unwrap_or((Timestamp::UNIX_EPOCH, String::new(), String::new()));
            let others = client
                .query(
                    "SELECT first_at, shop, reference FROM notifications
                      WHERE state = 'parked' AND (first_at, shop, reference) > ($1, $2, $3)
                      ORDER BY first_at, shop, reference LIMIT $4",
                    &[&at, &shop, &reference, &SWEEP_ROWS],
                )
                .await?;
            if i64::try_from(others.len())? == SWEEP_ROWS {
                next = others.last().map(|row| (row.get(0), row.get(1), row.get(2)));
            }
            rows.extend(others);
        }
        let parked: HashSet<Reference> = rows
            .iter()
            .filter_map(|row| Some((Shop::parse(row.get(1)).ok()?, row.get(2))))
            .collect();
        let streams: Vec<Uuid> = parked
            .iter()
            .flat_map(|(shop, reference)| candidates(shop, reference))
            .map(|order| order.stream())
            .collect();
        let known = client
            .query(
                "SELECT stream_id FROM streams WHERE stream_id = ANY ($1)",
                &[&streams],
            )
            .await?;
        let known: HashSet<Uuid> = known.iter().map(|row| row.get(0)).collect();
        drop(client);
        // Each in a transaction of its own: one that held the rows of many orders could meet an append that wants them in
        // another order.
        for (shop, reference) in &parked {
            let found = |order: &OrderId| known.contains(&order.stream());
            if candidates(shop, reference).iter().any(found) {
                self.recognise(shop, reference).await?;
            }
        }
        Ok(next)
    }

    /// What was parked is an order's: it is read for now. Not another notification, so nothing is counted.
    async fn recognise(&self, shop: &Shop, reference: &str) -> anyhow::Result<()> {
        let mut client = self.store.pool().get().await?;
        let transaction = client.transaction().await?;
        request_reads(&transaction, shop, reference).await?;
        transaction
            .execute(
                "UPDATE notifications SET state = 'known' WHERE shop = $1 AND reference = $2",
                &[&shop.as_str(), &reference],
            )
            .await?;
        transaction.commit().await?;
        drop(client);
        Ok(self.store.ring_readers().await?)
    }
}

/// A parked row's place among all of them.
type Parked = (Timestamp, String, String);

/// The right to store for one reference; given back in any way, or the reference would never be stored again.
struct Turn {
    hints: Hints,
    key: Reference,
    over: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // After its end, the place may be another's already.
        if !self.over {
            self.hints.waiting().remove(&self.key);
        }
    }
}

impl Turn {
    /// Stores for those who wait, and for those who came meanwhile, until there are none.
    async fn store_all(mut self) {
        while let Some(group) = self.next_group() {
            let (shop, reference) = &self.key;
            let calls = i64::try_from(group.len()).unwrap_or(i64::MAX);
            let storing = self.hints.keep_now(shop, reference, calls);
            let stored = match tokio::time::timeout(STORED_WITHIN, storing).await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::warn!(%shop, error = format!("{error:#}"), "a notification could not be stored; CM will try again");
                    false
                }
                Err(_) => {
                    tracing::warn!(%shop, "a notification could not be stored in time; CM will try again");
                    false
                }
            };
            for caller in group {
                // Whoever hung up does not hear it.
                let _ = caller.send(stored);
            }
        }
    }

    /// All who wait; `None` ends the turn in the same breath, so that nobody is left waiting for it.
    fn next_group(&mut self) -> Option<Vec<oneshot::Sender<bool>>> {
        let mut waiting = self.hints.waiting();
        let group = std::mem::take(waiting.get_mut(&self.key)?);
        if !group.is_empty() {
            return Some(group);
        }
        waiting.remove(&self.key);
        self.over = true;
        None
    }
}

/// Asks for the reports of the orders that a reference may mean; whether there is one.
async fn request_reads(transaction: &Transaction<'_>, shop: &Shop, reference: &str) -> anyhow::Result<bool> {
    let cause = trace::current().map(|here| here.to_string());
    let mut known = false;
    for order in candidates(shop, reference) {
        let row = transaction
            .query_one(
                "SELECT EXISTS (SELECT FROM streams WHERE stream_id = $1)",
                &[&order.stream()],
            )
            .await?;
        if row.get::<_, bool>(0) {
            request_read_for(
                transaction,
                &order.to_string(),
                shop.as_str(),
                "notification",
                cause.as_deref(),
            )
            .await?;
            known = true;
        }
    }
    Ok(known)
}

/// The order of that reference, and that of the reference without the suffix of a repeated create. Both are only hints.
fn candidates(shop: &Shop, reference: &str) -> Vec<OrderId> {
    let mut orders = vec![OrderId::new(shop, reference)];
    if let Some((shops_own, _)) = reference.rsplit_once('~') {
        orders.push(OrderId::new(shop, shops_own));
    }
    orders
}
