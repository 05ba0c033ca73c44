//! What finds a payment that no notification told of? A ladder of timers: each rung asks for the report to be read.
//!
//! The first rung is written with the payment itself, so a crash cannot lose it. A rung only asks; reading and judging
//! are others' work, so firing twice does no harm.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kassa_domain::{
    ids::{OrderId, PaymentId, Shop},
    methods::Catalogue,
    order::{Opened, Order, Safety},
    payment::Method,
};
use kassa_event_store::{DueTimer, NewTimer};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    executor::Executor,
    expiry::{self, Fired},
};

/// The kind by which these timers are known in the table.
const KIND: &str = "poll";
/// After the last rung it is repeated this often while an attempt is still open: a week of two-hour rungs.
const LAST_RUNG_REPEATS: usize = 84;
/// For a rung that could not be served.
const LATER: SignedDuration = SignedDuration::from_secs(60);
/// Timers fired in one sweep.
const SWEEP: usize = 200;

/// Intervals per method.
#[derive(Debug)]
pub struct Ladders(BTreeMap<String, Vec<SignedDuration>>);

#[derive(Debug, Serialize, Deserialize)]
struct Rung {
    order_id: OrderId,
    shop: Shop,
    method: Method,
}

impl Ladders {
    /// The configured ladders, and for all other methods those of the methods' file.
    pub fn new(configured: BTreeMap<String, Vec<SignedDuration>>, methods: &Catalogue) -> Self {
        let mut ladders = configured;
        for entry in methods.all() {
            ladders
                .entry(entry.method.as_str().to_owned())
                .or_insert_with(|| entry.ladder.clone());
        }
        Self(ladders)
    }

    pub(crate) fn first_rung(
        &self,
        order_id: OrderId,
        payment: PaymentId,
        shop: &Shop,
        method: Method,
        now: Timestamp,
    ) -> Option<NewTimer> {
        let wait = self.interval(method, 0)?;
        let payload = serde_json::to_vec(&Rung {
            order_id,
            shop: shop.clone(),
            method,
        })
        .ok()?;
        Some(NewTimer {
            timer_id: Uuid::new_v5(&payment.stream(), KIND.as_bytes()),
            due_at: now + wait,
            kind: KIND.to_owned(),
            stream_id: order_id.stream(),
            payload,
        })
    }

    fn rungs(&self, method: Method) -> usize {
        self.0.get(method.as_str()).map_or(0, Vec::len)
    }

    /// `None` once the ladder is climbed.
    fn interval(&self, method: Method, step: usize) -> Option<SignedDuration> {
        let ladder = self.0.get(method.as_str())?;
        match ladder.get(step) {
            Some(interval) => Some(*interval),
            None if step < ladder.len() + LAST_RUNG_REPEATS => ladder.last().copied(),
            None => None,
        }
    }
}

/// Fires due rungs until shutdown.
///
/// # Errors
/// When the store cannot be read; the caller runs it again.
pub(crate) async fn run(
    executor: Arc<Executor>,
    ladders: Arc<Ladders>,
    part: i32,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let due = executor.store().due_timers(part, executor.now(), SWEEP).await?;
        let full = due.len() == SWEEP;
        for timer in due {
            match timer.kind.as_str() {
                KIND => {}
                expiry::KIND => {
                    expire(&executor, &timer).await?;
                    continue;
                }
                other => {
                    // Of a newer version: left to it, and out of the way of the others.
                    tracing::warn!(timer.id = %timer.timer_id, kind = other, "a timer of a kind that is not known here");
                    executor
                        .store()
                        .rearm_timer(timer.timer_id, timer.attempt, executor.now() + LATER)
                        .await?;
                    continue;
                }
            }
            // One timer that cannot be served may not hold up the others: it is tried again later.
            let rung = serde_json::from_slice::<Rung>(&timer.payload);
            let served = match rung {
                Ok(rung) => executor
                    .current_order(rung.order_id)
                    .await
                    .map(|(order, _)| (rung, order))
                    .map_err(|f| f.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let (rung, order) = match served {
                Ok(served) => served,
                Err(error) => {
                    tracing::error!(timer.id = %timer.timer_id, error, "a rung of the poll ladder cannot be served now");
                    executor
                        .store()
                        .rearm_timer(timer.timer_id, timer.attempt, executor.now() + LATER)
                        .await?;
                    continue;
                }
            };
            let step = usize::try_from(timer.attempt)
                .unwrap_or(usize::MAX)
                .saturating_add(1);
            let worth = worth_reading(&order, step, ladders.rungs(rung.method));
            if worth {
                executor
                    .store()
                    .request_read(&rung.order_id.to_string(), rung.shop.as_str())
                    .await?;
            }
            match ladders.interval(rung.method, step).filter(|_| worth) {
                Some(wait) => {
                    executor
                        .store()
                        .rearm_timer(timer.timer_id, timer.attempt, executor.now() + wait)
                        .await?;
                }
                None => {
                    if order.opened().is_some_and(is_open) {
                        tracing::error!(
                            order.id = %rung.order_id,
                            "the ladder of reads is climbed and an attempt is still open; a person must look"
                        );
                    }
                    executor
                        .store()
                        .remove_timer(timer.timer_id, timer.attempt)
                        .await?;
                }
            }
        }
        if full {
            continue;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            // Rungs are seconds to hours apart; a tenth of a second late is on time.
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
}

async fn expire(executor: &Executor, timer: &DueTimer) -> anyhow::Result<()> {
    let store = executor.store();
    let again = match expiry::fire(executor, timer).await {
        Ok(Fired::Done) => {
            store.remove_timer(timer.timer_id, timer.attempt).await?;
            return Ok(());
        }
        Ok(Fired::Again(at)) => at,
        Err(error) => {
            tracing::error!(timer.id = %timer.timer_id, %error, "an order cannot be expired now");
            executor.now() + LATER
        }
    };
    store.rearm_timer(timer.timer_id, timer.attempt, again).await?;
    Ok(())
}

/// Whether only the provider can tell what becomes of an attempt: one that is live, or that ended and is under way there.
fn is_open(opened: &Opened) -> bool {
    opened.live_attempt().is_some() || opened.under_way.is_some()
}

/// While an attempt is open, whatever else is known; else until the order is safe or the ladder's end, for a success that
/// comes late.
fn worth_reading(order: &Order, step: usize, rungs: usize) -> bool {
    order.opened().is_some_and(|opened| {
        is_open(opened) || (!matches!(opened.safety, Safety::Safe { .. }) && step <= rungs)
    })
}
