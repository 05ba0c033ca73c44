//! When does an order end that nobody paid? A timer that was written with the order asks; a report answers.
//!
//! Without an order at the provider, nothing could have been paid, and the timer itself ends it. With one, the menu there may
//! still be open in a shopper's hands: only a report that was read late enough, and shows no money, ends the order, in the
//! append that takes the report in. While an attempt may still bring money, the timer asks again later.

use jiff::{SignedDuration, Timestamp};
use kassa_domain::{
    ids::{CommandId, OrderId, Shop},
    order::{Opened, OrderCommand},
    payment::VISIBILITY_HORIZON_MS,
};
use kassa_event_store::{DueTimer, NewTimer};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    executor::{Caller, Decide, Executor, Fault, Refusal},
    internal::Recorded,
    session::{Session, Told},
};

/// The kind by which these timers are known in the table.
pub(crate) const KIND: &str = "expire";
/// How long it is waited for a report to be read, or for an attempt to end, before it is asked again; doubled each time.
const AGAIN_FIRST: SignedDuration = SignedDuration::from_secs(60);
/// The longest pause: an attempt under review may take days.
const AGAIN_LAST: SignedDuration = SignedDuration::from_hours(2);
/// More than the calls and clocks of a read differ by, so that one read after the horizon is late enough.
const MARGIN: SignedDuration = SignedDuration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
struct Payload {
    order_id: OrderId,
    shop: Shop,
}

/// One an order.
pub(crate) fn timer_id(order: OrderId) -> Uuid {
    Uuid::new_v5(&order.stream(), KIND.as_bytes())
}

/// `None` only if the payload, which is plain data, could not be written.
pub(crate) fn timer(order_id: OrderId, shop: &Shop, due_at: Timestamp) -> Option<NewTimer> {
    let payload = serde_json::to_vec(&Payload {
        order_id,
        shop: shop.clone(),
    });
    Some(NewTimer {
        timer_id: timer_id(order_id),
        due_at,
        kind: KIND.to_owned(),
        stream_id: order_id.stream(),
        payload: payload.ok()?,
    })
}

/// Whether a report that was read from `read_at` on shows all that was paid within the order's time.
pub(crate) fn late_enough(opened: &Opened, read_at: Timestamp) -> bool {
    opened
        .facts
        .expires_at
        .is_some_and(|until| read_at > until + SignedDuration::from_millis(VISIBILITY_HORIZON_MS))
}

/// Whether it may still expire: nothing is paid, and it has not ended.
fn waits_to_end(opened: &Opened) -> bool {
    matches!(opened.status(), "open" | "pending")
}

/// Ends the order in `session`, if it is to end; what it was told otherwise is no error. Its timer is settled only once it
/// has nothing more to ask: clocks differ, and an order that is not due yet by this one is not asked again without it.
pub(crate) async fn expire(session: &mut Session<'_>, order: OrderId) -> Result<Recorded, Refusal> {
    let command = OrderCommand::Expire { at: session.now() };
    match session.tell_order(order, command).await {
        Ok(()) => {
            let waits = session.order(order).await?.opened().is_some_and(waits_to_end);
            if waits {
                return Ok(Recorded::NotNow);
            }
            session.settle_timer(timer_id(order));
            Ok(Recorded::Yes)
        }
        Err(Told::Rejected(_)) => Ok(Recorded::NotNow),
        Err(Told::Fault(fault)) => Err(Refusal::Fault(fault)),
    }
}

/// An order that never reached the provider, at the end of its time.
struct Unasked(OrderId);

impl Decide for Unasked {
    type Outcome = Recorded;

    async fn decide(&self, session: &mut Session<'_>) -> Result<Recorded, Refusal> {
        match session.order(self.0).await?.opened() {
            // Looked at in the same append: an attempt that has just made an order there is waited for.
            Some(opened) if opened.provider.is_some() => Ok(Recorded::NotNow),
            Some(_) | None => expire(session, self.0).await,
        }
    }
}

/// Serves a due timer: what is to become of it.
pub(crate) enum Fired {
    /// It is settled, and gone or to be removed.
    Done,
    Again(Timestamp),
}

/// # Errors
/// [`Fault`] when the store cannot be asked; `Fault::Internal` for a payload that cannot be read.
pub(crate) async fn fire(executor: &Executor, timer: &DueTimer) -> Result<Fired, Fault> {
    let payload: Payload = serde_json::from_slice(&timer.payload)
        .map_err(|_| Fault::Internal("the payload of an expiry's timer cannot be read"))?;
    let (order, _) = executor.current_order(payload.order_id).await?;
    let Some(opened) = order.opened() else {
        return Ok(Fired::Done);
    };
    let now = executor.now();
    let again = Fired::Again(now + pause(timer.attempt));
    if !waits_to_end(opened) {
        return Ok(Fired::Done);
    }
    if opened.provider.is_none() {
        let attempt = u64::try_from(timer.attempt).unwrap_or_default();
        let command = CommandId::derived(timer.timer_id, KIND, attempt);
        let executed = executor
            .execute(
                payload.order_id,
                command,
                Caller::Internal,
                &Unasked(payload.order_id),
            )
            .await?;
        return Ok(match executed.result {
            Ok(Recorded::Yes) => Fired::Done,
            Ok(Recorded::NotNow) | Err(_) => again,
        });
    }
    let horizon = opened.facts.expires_at.map_or(now, |until| {
        until + SignedDuration::from_millis(VISIBILITY_HORIZON_MS) + MARGIN
    });
    if now < horizon {
        return Ok(Fired::Again(horizon));
    }
    executor
        .store()
        .request_read(&payload.order_id.to_string(), payload.shop.as_str())
        .await?;
    Ok(again)
}

fn pause(attempt: i32) -> SignedDuration {
    let doubled = 2_i32
        .checked_pow(u32::try_from(attempt).unwrap_or(0))
        .unwrap_or(i32::MAX);
    AGAIN_FIRST
        .checked_mul(doubled)
        .map_or(AGAIN_LAST, |pause| pause.min(AGAIN_LAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_grow_to_a_bound() {
        assert_eq!(pause(0), AGAIN_FIRST);
        assert_eq!(pause(1), AGAIN_FIRST * 2);
        assert_eq!([pause(20), pause(i32::MAX)], [AGAIN_LAST; 2]);
    }
}
