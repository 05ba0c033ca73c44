//! Whose report is to be read? Requests are counted and coalesced: one read under way an order, and one waiting.

use jiff::{SignedDuration, Timestamp};
use tokio_postgres::{GenericClient, types::ToSql};

use crate::{
    hints::Written,
    read::bound,
    store::{Store, StoreError, refused},
};

/// Three reads at once, then one a second: a storm of notifications may not become a storm of calls.
const RATE: SignedDuration = SignedDuration::from_secs(1);
const BURST: SignedDuration = SignedDuration::from_secs(2);
/// No read is put off for longer: ten minutes where CM asks for patience, and some. What is further ahead was written by a
/// clock that has since gone back, and waits for nothing.
const AHEAD_MAX: SignedDuration = SignedDuration::from_mins(15);
/// One in so many of the reads that are taken at once is of the newest.
const NEWEST_SHARE: usize = 4;

/// For what need not survive a crash of the server by itself: whatever is recorded after it, durably, takes it along, and what
/// is lost with nothing after it is done again. Sparing it the wait for the disk spares all other commits that turn.
const NOT_WAITED_FOR: &str = "BEGIN; SET LOCAL synchronous_commit = off";

/// Asked for, at nobody else's hands and not put off.
const FREE: &str = "requests > served AND (lease_until IS NULL OR lease_until < $1 OR lease_until > $7) \
     AND (rate_at <= $2 OR rate_at > $8)";

/// Whether a claim that was given `taken` reads, with a limit of `limit`, may have left some: one that takes less than the
/// share of the oldest has taken all.
pub fn may_be_more(taken: usize, limit: usize) -> bool {
    taken > 0 && taken >= limit - limit / NEWEST_SHARE
}

/// A read that this process may do now, until the lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedRead {
    pub order_id: String,
    pub shop: String,
    /// Higher than that of every read of this order that began earlier.
    pub read_no: i64,
    /// What this read will have served.
    pub requests: i64,
    /// What made us look: `notification`, `poll`, …
    pub asked_by: String,
    /// The trace in which it was asked for.
    pub traceparent: Option<String>,
}

/// Counts a request, in the caller's transaction.
///
/// # Errors
/// As the database says.
pub async fn request_read_in(
    client: &impl GenericClient,
    order_id: &str,
    shop: &str,
) -> Result<(), tokio_postgres::Error> {
    request_read_for(client, order_id, shop, "poll", None).await
}

/// As [`request_read_in`], and says what made us look, and in which trace. Of several who ask for one read, the last is
/// remembered, but for the ladder, which would have asked anyway.
///
/// # Errors
/// As the database says.
pub async fn request_read_for(
    client: &impl GenericClient,
    order_id: &str,
    shop: &str,
    asked_by: &str,
    traceparent: Option<&str>,
) -> Result<(), tokio_postgres::Error> {
    client
        .execute(
            "INSERT INTO provider_reads AS known (order_id, shop, requests, requested_at, asked_by, traceparent)
             VALUES ($1, $2, 1, clock_timestamp(), $3, $4)
             ON CONFLICT (order_id) DO UPDATE
                SET requests = known.requests + 1,
                    -- Whoever asks again does not lose the place of the first who asked.
                    requested_at = CASE WHEN known.requests > known.served THEN known.requested_at
                                        ELSE excluded.requested_at END,
                    asked_by = CASE WHEN known.requests > known.served AND excluded.asked_by = 'poll'
                                    THEN known.asked_by ELSE excluded.asked_by END,
                    traceparent = CASE WHEN known.requests > known.served AND excluded.asked_by = 'poll'
                                       THEN known.traceparent ELSE excluded.traceparent END",
            &[&order_id, &shop, &asked_by, &traceparent],
        )
        .await
        .map(|_| ())
}

impl Store {
    /// Counts a request and lets the readers know.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    pub async fn request_read(&self, order_id: &str, shop: &str) -> Result<(), StoreError> {
        let client = self.client().await?;
        request_read_in(&**client, order_id, shop)
            .await
            .map_err(refused)?;
        self.ring_readers().await
    }

    /// Wakes the readers of all processes; for those who counted requests in a transaction of their own.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be reached.
    pub async fn ring_readers(&self) -> Result<(), StoreError> {
        self.bells().ring(&Written::Nothing, true);
        let statement = self.bells().notify(&Written::Nothing, true);
        self.client()
            .await?
            .batch_execute(&statement)
            .await
            .map_err(refused)
    }

    /// Takes reads that are asked for, for `lease`: the oldest first, but for a share of the newest, so that a shopper of now
    /// does not wait behind a flood. Whoever holds a lease finishes within it or throws its
    /// answer away: then the order of `read_no` is the order of reading.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written.
    pub async fn claim_reads(
        &self,
        now: Timestamp,
        lease: SignedDuration,
        limit: usize,
    ) -> Result<Vec<ClaimedRead>, StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(&format!(
                "WITH oldest AS (
                     SELECT order_id FROM provider_reads
                      WHERE {FREE}
                      ORDER BY requested_at LIMIT $3 FOR UPDATE SKIP LOCKED),
                 newest AS (
                     SELECT order_id FROM provider_reads
                      WHERE {FREE}
                      ORDER BY requested_at DESC LIMIT $6 FOR UPDATE SKIP LOCKED),
                 due AS (SELECT order_id FROM oldest UNION SELECT order_id FROM newest)
                 UPDATE provider_reads AS p
                    SET lease_until = $4, read_no = p.read_no + 1,
                        rate_at = CASE WHEN p.rate_at > $8 THEN $1 ELSE greatest(p.rate_at, $1) END
                                  + $5::text::interval
                   FROM due WHERE p.order_id = due.order_id
                 RETURNING p.order_id, p.shop, p.read_no, p.requests, p.asked_by, p.traceparent"
            ))
            .await
            .map_err(refused)?;
        let rate = format!("{} milliseconds", RATE.as_millis());
        let newest = limit / NEWEST_SHARE;
        let (from, until) = (now + BURST, now + lease);
        let (oldest, newest) = (bound(limit - newest), bound(newest));
        // Twice, because another process's clock may be a little ahead of this one's.
        let (no_lease, no_rate) = (now + lease * 2, now + AHEAD_MAX);
        let params: [&(dyn ToSql + Sync); 8] =
            [&now, &from, &oldest, &until, &rate, &newest, &no_lease, &no_rate];
        let (begun, rows, committed) = futures::join!(
            client.batch_execute(NOT_WAITED_FOR),
            client.query(&statement, &params),
            client.batch_execute("COMMIT"),
        );
        let rows = begun.and(rows).and_then(|rows| committed.map(|()| rows));
        let rows = rows.map_err(refused)?;
        Ok(rows
            .iter()
            .map(|row| ClaimedRead {
                order_id: row.get(0),
                shop: row.get(1),
                read_no: row.get(2),
                requests: row.get(3),
                asked_by: row.get(4),
                traceparent: row.get(5),
            })
            .collect())
    }

    /// Ends a claim, unless its lease ran out and another took it. With `served`, the requests that it covered are done;
    /// without, they are due again at `not_before`, which is now for one that was served.
    ///
    /// # Errors
    /// [`StoreError`] when the database cannot be written; then the lease ends it.
    pub async fn finish_read(
        &self,
        claim: &ClaimedRead,
        served: bool,
        not_before: Timestamp,
    ) -> Result<(), StoreError> {
        let client = self.client().await?;
        let statement = client
            .prepare_cached(
                "UPDATE provider_reads
                    SET lease_until = NULL,
                        served = CASE WHEN $3 THEN greatest(served, $4) ELSE served END,
                        last_read_at = CASE WHEN $3 THEN $6 ELSE last_read_at END,
                        rate_at = CASE WHEN $3 THEN rate_at ELSE greatest(rate_at, $5) END,
                        -- What came to nothing goes behind those who have not been tried: orders that CM never answers
                        -- for may not keep the others from being read.
                        requested_at = CASE WHEN $3 THEN requested_at ELSE clock_timestamp() END
                  WHERE order_id = $1 AND read_no = $2",
            )
            .await
            .map_err(refused)?;
        // A claim looks this far ahead.
        let from = not_before + BURST;
        let params: [&(dyn ToSql + Sync); 6] = [
            &claim.order_id,
            &claim.read_no,
            &served,
            &claim.requests,
            &from,
            &not_before,
        ];
        let (begun, ended, committed) = futures::join!(
            client.batch_execute(NOT_WAITED_FOR),
            client.execute(&statement, &params),
            client.batch_execute("COMMIT"),
        );
        begun.and(ended).and(committed).map_err(refused)?;
        Ok(())
    }
}
