//! Where do hints go? One row a reference, and in the same transaction a request to read the order's report, if there is
//! such an order.

use std::{collections::HashSet, time::Duration};

use kassa_domain::ids::{OrderId, Shop};
use kassa_event_store::{Store, request_read_in};
use tokio_postgres::Transaction;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Parked references are looked for this often; CM may be faster than our own record of the order.
const SWEEP: Duration = Duration::from_millis(500);
/// Parked longer than this, a reference is nobody's. CM's own retries end sooner.
const PARKED_MAX: &str = "1 hour";
/// Strangers can send any reference: beyond this many (some 20 MB) new unknown ones are answered and not kept.
const PARKED_ROWS_MAX: i64 = 100_000;
/// Parked rows looked at in one sweep.
const SWEEP_ROWS: i64 = 1_000;

#[derive(Debug, Clone)]
pub(crate) struct Hints {
    store: Store,
}

impl Hints {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    /// Stores a hint, known or not; after this the answer may be 200.
    pub(crate) async fn keep(&self, shop: &Shop, reference: &str) -> anyhow::Result<()> {
        let mut client = self.store.pool().get().await?;
        let transaction = client.transaction().await?;
        let known = request_reads(&transaction, shop, reference).await?;
        // An unknown reference costs the same statements as a known one: the time it takes tells nothing.
        let state = if known { "known" } else { "parked" };
        transaction
            .execute(
                "INSERT INTO notifications AS n (shop, reference, state, first_at, last_at, count)
                 SELECT $1, $2, $3, clock_timestamp(), clock_timestamp(), 1
                  WHERE $4 OR (SELECT count(*) FROM (SELECT FROM notifications WHERE state = 'parked' LIMIT $5) AS p) < $5
                 ON CONFLICT (shop, reference) DO UPDATE
                    SET state = excluded.state, last_at = excluded.last_at, count = n.count + 1,
                        first_at = CASE WHEN excluded.state = 'parked' THEN excluded.first_at ELSE n.first_at END",
                &[&shop.as_str(), &reference, &state, &known, &PARKED_ROWS_MAX],
            )
            .await?;
        transaction.commit().await?;
        drop(client);
        if known {
            self.store.ring_readers().await?;
        }
        Ok(())
    }

    /// Looks for the orders of parked references until shutdown.
    pub(crate) async fn sweep(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(SWEEP) => {}
            }
            self.sweep_once().await?;
        }
    }

    async fn sweep_once(&self) -> anyhow::Result<()> {
        let client = self.store.pool().get().await?;
        let parked = client
            .query(
                "SELECT shop, reference FROM notifications WHERE state = 'parked' ORDER BY last_at DESC LIMIT $1",
                &[&SWEEP_ROWS],
            )
            .await?;
        let parked: Vec<(Shop, String)> = parked
            .iter()
            .filter_map(|row| Some((Shop::parse(row.get(0)).ok()?, row.get(1))))
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
        client
            .execute(
                "DELETE FROM notifications WHERE state = 'parked' AND first_at < clock_timestamp() - $1::text::interval",
                &[&PARKED_MAX],
            )
            .await?;
        drop(client);
        // Each in a transaction of its own: one that held the rows of many orders could meet an append that wants them in
        // another order.
        for (shop, reference) in parked {
            if candidates(&shop, &reference)
                .iter()
                .any(|order| known.contains(&order.stream()))
            {
                self.keep(&shop, &reference).await?;
            }
        }
        Ok(())
    }
}

/// Asks for the reports of the orders that a reference may mean; whether there is one.
async fn request_reads(transaction: &Transaction<'_>, shop: &Shop, reference: &str) -> anyhow::Result<bool> {
    let mut known = false;
    for order in candidates(shop, reference) {
        let row = transaction
            .query_one(
                "SELECT EXISTS (SELECT FROM streams WHERE stream_id = $1)",
                &[&order.stream()],
            )
            .await?;
        if row.get::<_, bool>(0) {
            request_read_in(transaction, &order.to_string(), shop.as_str()).await?;
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
