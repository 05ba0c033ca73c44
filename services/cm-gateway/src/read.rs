//! What does CM say of an order? Its report is fetched, judged and recorded, for everyone who asked: notifications, the poll
//! ladder, unknown outcomes. One read of an order at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use kassa_chassis::{
    bus::Disposition,
    metrics,
    trace::{Context, Kind, Span},
};
use kassa_domain::{
    ids::{CommandId, OrderId, Shop},
    order::Safety,
    payment::LossClass,
    safety::Policy,
};
use kassa_engine::{Caller, Fault, ObserveReport};
use kassa_event_store::ClaimedRead;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Gateway,
    circuit::Call,
    client::{Answer, PSP},
    wire,
};

/// What a lease has on top of the longest call: for recording what was read, also over a restart of the database. Until
/// it ends, nobody else reads this order if the worker that had it is gone.
const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// How much of that may be gone when recording begins. An answer that is later is thrown away, since another may read by
/// the time it is recorded.
const LATE: Duration = Duration::from_secs(2);
/// Reads under way at once, over all shops.
pub(crate) const READS: usize = 64;
/// How often it is looked for work even when no hint comes: hints may be lost.
const LOOK: Duration = Duration::from_millis(200);
/// For a report that cannot be read, however often: a mishap in between is over by then, and three reads a minute of one
/// order harm nobody.
const UNREADABLE: SignedDuration = SignedDuration::from_secs(20);
/// For a report that was not answered.
const UNANSWERED: SignedDuration = SignedDuration::from_secs(2);

/// How a read ended.
enum Read {
    Served,
    /// Not now: there is nothing to read yet, or CM does not answer.
    Again(SignedDuration),
}

impl Gateway {
    /// Reads what is asked for, until shutdown.
    ///
    /// # Errors
    /// When the store cannot be asked; the caller runs it again.
    pub(crate) async fn read_reports(self: Arc<Self>, shutdown: CancellationToken) -> anyhow::Result<()> {
        let permits = self.reads.clone();
        let under_way = TaskTracker::new();
        let mut hints = self.executor.store().read_hints();
        while !shutdown.is_cancelled() {
            hints.mark_unchanged();
            let free = permits.available_permits();
            let claims = if free == 0 {
                vec![]
            } else {
                let lease = SignedDuration::try_from(self.longest_call() + LEASE_MARGIN)?;
                self.executor
                    .store()
                    .claim_reads(self.executor.now(), lease, free)
                    .await?
            };
            // Fewer than were asked for are all that there were; the next come with a hint.
            let idle = !kassa_event_store::may_be_more(claims.len(), free);
            for claim in claims {
                let permit = permits.clone().acquire_owned().await?;
                let gateway = self.clone();
                under_way.spawn(async move {
                    let _permit = permit;
                    // In the trace of whoever asked for it.
                    let asked_in = Context::parse(claim.traceparent.as_deref(), None);
                    Span::below("read report", Kind::Internal, asked_in)
                        .with("kassa.shop", claim.shop.as_str())
                        .with("kassa.order.id", claim.order_id.as_str())
                        .with("kassa.read.asked_by", claim.asked_by.as_str())
                        .run(gateway.serve_claim(&claim))
                        .await;
                });
            }
            if idle {
                tokio::select! {
                    () = shutdown.cancelled() => break,
                    _ = hints.changed() => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        }
        under_way.close();
        under_way.wait().await;
        Ok(())
    }

    fn longest_call(&self) -> Duration {
        self.clients
            .values()
            .map(|client| client.timeout)
            .max()
            .unwrap_or_default()
    }

    async fn serve_claim(&self, claim: &ClaimedRead) {
        let read = self.read(claim).await;
        if claim.asked_by == "poll" {
            let result = match &read {
                Ok(Read::Served) => "read",
                Ok(Read::Again(_)) => "again",
                Err(_) => "failed",
            };
            metrics::poll(PSP, result);
        }
        let (served, wait) = match read {
            Ok(Read::Served) => (true, SignedDuration::ZERO),
            Ok(Read::Again(wait)) => (false, wait),
            Err(fault) => {
                tracing::warn!(order.id = claim.order_id, error = %fault, "a report could not be recorded");
                (false, SignedDuration::from_secs(1))
            }
        };
        if let Err(error) = self
            .executor
            .store()
            .finish_read(claim, served, self.executor.now() + wait)
            .await
        {
            tracing::warn!(order.id = claim.order_id, %error, "a read could not be ended; its lease will");
        }
    }

    async fn read(&self, claim: &ClaimedRead) -> Result<Read, Fault> {
        let began = Instant::now();
        let (Ok(order_id), Ok(shop)) = (OrderId::parse(&claim.order_id), Shop::parse(&claim.shop)) else {
            return Ok(Read::Served);
        };
        let (order, _) = self.executor.current_order(order_id).await?;
        let Some(opened) = order.opened() else {
            return Ok(Read::Served);
        };
        if let Some(live) = opened.live_attempt()
            && self.neglected(live.payment_id).await?
        {
            // The ladder was written with the payment: it finds what the bus has lost.
            let wait = match self.drive(live.payment_id).await {
                Disposition::RetryAfter(wait) => {
                    SignedDuration::try_from(wait).unwrap_or(SignedDuration::ZERO)
                }
                Disposition::Settle
                | Disposition::Failed(_)
                | Disposition::Park(_)
                | Disposition::ParkUnread(_) => SignedDuration::ZERO,
            };
            return Ok(Read::Again(wait.max(SignedDuration::from_millis(500))));
        }
        let Some(provider) = &opened.provider else {
            // The hint was faster than the answer to our create. Without an attempt there will be none.
            return Ok(match opened.live_attempt() {
                Some(_) => Read::Again(SignedDuration::from_millis(200)),
                None => Read::Served,
            });
        };
        let Some(client) = self.clients.get(&shop) else {
            tracing::error!(%shop, "the shop of an order is not configured here");
            return Ok(Read::Again(SignedDuration::from_secs(30)));
        };
        if let Err(wait) = client.enter(Call::Read) {
            return Ok(Read::Again(SignedDuration::try_from(wait).unwrap_or(UNANSWERED)));
        }
        let read_started_at = self.executor.now();
        let report = match client.report(&provider.order_key).await {
            Answer::Yes(report) => report,
            Answer::No(message) => {
                tracing::error!(order.id = %order_id, provider_message = message, "CM refuses to report on an order of ours; a person must look");
                return Ok(Read::Served);
            }
            Answer::NotServed { why, wait, .. } => {
                tracing::error!(order.id = %order_id, why, "CM does not serve this account now");
                return Ok(Read::Again(
                    SignedDuration::try_from(wait).unwrap_or(SignedDuration::from_secs(30)),
                ));
            }
            Answer::NotSent(why) => {
                tracing::warn!(order.id = %order_id, why, "CM cannot be reached");
                return Ok(Read::Again(UNANSWERED));
            }
            Answer::Unknown {
                class: LossClass::Unreadable,
                ..
            } => {
                tracing::error!(order.id = %order_id, "CM's report of this order cannot be understood; a person must look");
                return Ok(Read::Again(UNREADABLE));
            }
            Answer::Unknown { class, wait } => {
                tracing::warn!(order.id = %order_id, ?class, "CM's report could not be read");
                let wait = wait.and_then(|wait| SignedDuration::try_from(wait).ok());
                return Ok(Read::Again(wait.unwrap_or(UNANSWERED)));
            }
        };
        if began.elapsed() > self.longest_call() + LATE {
            // Another may be reading by now, and its number is higher.
            return Ok(Read::Again(SignedDuration::ZERO));
        }
        let words = wire::unknown_words(&report);
        if !words.is_empty() {
            tracing::warn!(order.id = %order_id, ?words, "CM's report has words that we do not know; they are no verdict, and a person must look");
        }
        let newly_safe_at = report
            .considered_safe
            .as_ref()
            .and_then(|safe| safe.at)
            .filter(|_| opened.safety == Safety::No);
        let observe = ObserveReport {
            order: order_id,
            read_no: claim.read_no,
            read_started_at,
            report,
            policy: Policy::default(),
        };
        let number = u64::try_from(claim.read_no).unwrap_or_default();
        let command = CommandId::derived(order_id.stream(), "read", number);
        let executed = self
            .executor
            .execute(order_id, command, Caller::Internal, &observe)
            .await?;
        if executed.replayed {
            // Claims are not waited for to be on disk: a server that lost its power may give a number twice, and what was
            // recorded under it is another answer. (Or it is ours, by a lost connection: then it is read once more.)
            return Ok(Read::Again(SignedDuration::ZERO));
        }
        if let Some(at) = newly_safe_at {
            let (order, _) = self.executor.remembered_order(order_id).await?;
            if order.opened().is_some_and(|opened| opened.safety != Safety::No) {
                // CM's clock may be ahead of ours.
                let delay = Duration::try_from(self.executor.now().duration_since(at)).unwrap_or_default();
                metrics::status_known(PSP, &claim.asked_by, delay);
            }
        }
        Ok(Read::Served)
    }
}
