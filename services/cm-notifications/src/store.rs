//! Where do hints go? One row a reference, and in the same transaction a request to read the order's report, if there is
//! such an order.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use kassa_chassis::trace;
use kassa_domain::ids::{OrderId, Shop};
use kassa_event_store::{Store, request_read_for};
use tokio::sync::{mpsc, oneshot};
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
/// Calls that share one transaction: beyond it a commit is no longer what costs.
const TOGETHER_MAX: usize = 256;
/// Calls that wait for their transaction: as many as there are connections.
const WAITING_MAX: usize = 4_096;
/// For a row that somebody else holds, while others wait with it; whoever waited in vain tries again alone.
const TOGETHER: &str = "BEGIN; SET LOCAL lock_timeout = '250ms'";
/// With the connection's own patience.
const ALONE: &str = "BEGIN";

/// References with the calls for each, and the orders that each may mean. Rows are written in the order of their keys, as
/// appends write theirs: two that want the same ones wait for each other, and never both.
const KEEP: &str = "
    WITH found AS MATERIALIZED (SELECT stream_id FROM streams WHERE stream_id = ANY ($3::uuid[])),
         meant AS MATERIALIZED (
             SELECT m.* FROM unnest($1::int[], $2::text[], $3::uuid[], $4::text[], $5::text[])
                             AS m(r, order_id, stream_id, shop, cause)
              WHERE m.stream_id IN (SELECT stream_id FROM found)),
         asked AS (
             INSERT INTO provider_reads AS known (order_id, shop, requests, requested_at, asked_by, traceparent)
             SELECT DISTINCT ON (order_id) order_id, shop, 1, clock_timestamp(), 'notification', cause
               FROM meant ORDER BY order_id
             ON CONFLICT (order_id) DO UPDATE
                SET requests = known.requests + 1,
                    requested_at = CASE WHEN known.requests > known.served THEN known.requested_at
                                        ELSE excluded.requested_at END,
                    asked_by = excluded.asked_by, traceparent = excluded.traceparent),
         kept AS (
             INSERT INTO notifications AS n (shop, reference, state, first_at, last_at, count)
             SELECT c.shop, c.reference, CASE WHEN c.r IN (SELECT r FROM meant) THEN 'known' ELSE 'parked' END,
                    clock_timestamp(), clock_timestamp(), c.calls
               FROM unnest($6::int[], $7::text[], $8::text[], $9::bigint[]) AS c(r, shop, reference, calls)
              WHERE c.r IN (SELECT r FROM meant) OR $10
                 OR EXISTS (SELECT FROM notifications AS k WHERE k.shop = c.shop AND k.reference = c.reference)
              ORDER BY c.shop, c.reference
             ON CONFLICT (shop, reference) DO UPDATE
                SET state = excluded.state, last_at = excluded.last_at, count = n.count + excluded.count,
                    first_at = CASE WHEN excluded.state = 'parked' THEN excluded.first_at ELSE n.first_at END
             RETURNING state)
    SELECT (SELECT count(*) FROM meant), count(*) FILTER (WHERE state = 'parked') FROM kept";

type Reference = (Shop, String);

/// The hint was not stored, or nobody knows: CM is to send it again.
#[derive(Debug)]
pub(crate) struct NotKept;

#[derive(Debug, Clone)]
pub(crate) struct Hints {
    store: Store,
    calls: mpsc::Sender<Call>,
    /// How many rows are parked: as the last sweep counted, and what came since. Counting in each call would cost more the
    /// more strangers there are, and only for unknown references: the time would tell.
    parked: Arc<AtomicI64>,
}

/// One call that waits for its answer.
#[derive(Debug)]
struct Call {
    of: Reference,
    /// The trace in which it came.
    cause: Option<String>,
    stored: oneshot::Sender<bool>,
}

/// All calls for one reference.
type Group = (Reference, Vec<Call>);

impl Hints {
    pub(crate) fn new(store: Store) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING_MAX);
        let parked = Arc::default();
        let keeper = Keeper {
            store: store.clone(),
            parked: Arc::clone(&parked),
        };
        tokio::spawn(keeper.keep_all(waiting));
        Self { store, calls, parked }
    }

    /// Stores a hint, known or not; after this the answer may be 200.
    ///
    /// Calls that come together share a transaction: a storm would otherwise have all connections, and the disk, for
    /// itself. Nobody joins one that has begun: a read may have started on it already, and each hint is to be followed by a
    /// read.
    pub(crate) async fn keep(&self, shop: Shop, reference: String) -> Result<(), NotKept> {
        let (stored, answer) = oneshot::channel();
        let call = Call {
            of: (shop, reference),
            cause: trace::current().map(|here| here.to_string()),
            stored,
        };
        self.calls.try_send(call).map_err(|_| NotKept)?;
        match answer.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(NotKept),
        }
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

/// Stores what calls bring, as many at once as wait.
#[derive(Debug, Clone)]
struct Keeper {
    store: Store,
    parked: Arc<AtomicI64>,
}

impl Keeper {
    /// Until nobody can call any more.
    async fn keep_all(self, mut waiting: mpsc::Receiver<Call>) {
        while let Some(first) = waiting.recv().await {
            let mut groups: BTreeMap<Reference, Vec<Call>> = BTreeMap::new();
            groups.entry(first.of.clone()).or_default().push(first);
            for _ in 1..TOGETHER_MAX {
                let Ok(next) = waiting.try_recv() else { break };
                groups.entry(next.of.clone()).or_default().push(next);
            }
            let groups: Vec<Group> = groups.into_iter().collect();
            if self.keep_in_time(&groups, TOGETHER).await.is_ok() {
                answer(groups, true);
                continue;
            }
            // One of them may be at fault, or waits for a row that somebody holds: the others, and those who come after
            // them, must not suffer.
            for group in groups {
                let keeper = self.clone();
                tokio::spawn(async move { keeper.keep_alone(group).await });
            }
        }
    }

    async fn keep_alone(&self, group: Group) {
        let kept = self.keep_in_time(std::slice::from_ref(&group), ALONE).await;
        if let Err(error) = &kept {
            let (shop, _) = &group.0;
            tracing::warn!(%shop, error = format!("{error:#}"), "a notification could not be stored; CM will try again");
        }
        answer([group], kept.is_ok());
    }

    async fn keep_in_time(&self, groups: &[Group], begin: &str) -> anyhow::Result<()> {
        tokio::time::timeout(STORED_WITHIN, self.keep_now(groups, begin)).await?
    }

    async fn keep_now(&self, groups: &[Group], begin: &str) -> anyhow::Result<()> {
        // One array a column: of the orders that are meant, and of the references.
        let (mut row, mut orders, mut streams, mut of_shop, mut causes) =
            (vec![], vec![], vec![], vec![], vec![]);
        let (mut rows, mut shops, mut references, mut counts) = (vec![], vec![], vec![], vec![]);
        for (((shop, reference), calls), r) in groups.iter().zip(0_i32..) {
            // Of several who ask for one read, the last is remembered.
            let cause = calls.last().and_then(|call| call.cause.as_deref());
            for order in candidates(shop, reference) {
                row.push(r);
                orders.push(order.to_string());
                streams.push(order.stream());
                of_shop.push(shop.as_str());
                causes.push(cause);
            }
            rows.push(r);
            shops.push(shop.as_str());
            references.push(reference.as_str());
            counts.push(i64::try_from(calls.len())?);
        }
        let room = self.parked.load(Ordering::Relaxed) < PARKED_ROWS_MAX;
        let client = self.store.pool().get().await?;
        let statement = client.prepare_cached(KEEP).await?;
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 10] = [
            &row,
            &orders,
            &streams,
            &of_shop,
            &causes,
            &rows,
            &shops,
            &references,
            &counts,
            &room,
        ];
        // Sent together, so that it costs one way there and back.
        let (begun, kept, committed) = futures::join!(
            client.batch_execute(begin),
            client.query_one(&statement, &params),
            client.batch_execute("COMMIT"),
        );
        begun?;
        let kept = kept?;
        committed?;
        drop(client);
        let (known, parked): (i64, i64) = (kept.get(0), kept.get(1));
        self.parked.fetch_add(parked, Ordering::Relaxed);
        if known > 0 {
            self.store.ring_readers().await?;
        }
        Ok(())
    }
}

fn answer(groups: impl IntoIterator<Item = Group>, stored: bool) {
    for call in groups.into_iter().flat_map(|(_, calls)| calls) {
        // Whoever hung up does not hear it.
        let _ = call.stored.send(stored);
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
