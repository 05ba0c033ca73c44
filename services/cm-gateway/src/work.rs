//! What happens to a payment that was decided on? One step at a time: look at what is recorded, record the intent, call,
//! record what came of it. A crash between any two of them is resolved by looking again.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use kassa_chassis::bus::Disposition;
use kassa_domain::{
    ids::{CommandId, OrderId, PaymentId},
    order::{Opened, ProviderOrder},
    payment::{LossClass, Method, Operation, Payment, Pending, Resolution, Step},
};
use kassa_engine::{
    Caller, Decide, Executed, Fault, KeyOwner, OrderRegistered, Recorded, Said, SharedKeyFound, StartNow,
    Word, key_id,
};
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    Gateway,
    circuit::Call,
    client::{Answer, Client},
    wire::{CreateBody, IdealDetails, ReturnUrls, StartBody},
};

/// A worker that comes back later than this after recording its intent does not call any more: another may have taken
/// over. With it, and the call's own deadline, everybody knows when a call can no longer be under way.
const SEND_WINDOW: Duration = Duration::from_secs(2);
const WINDOW: SignedDuration = SignedDuration::from_secs(2);
/// Provider orders asked for in one attempt: each earlier one may exist under its own reference, and nobody has its key; or
/// CM was not reached at all, some half minute long.
const CREATES_MAX: u32 = 5;
/// Starts that were recorded and never sent. One that was sent is never repeated.
const STARTS_MAX: u32 = 5;
/// Steps of one payment in one go: more means that it is going in circles.
const STEPS_MAX: usize = 30;

/// The vault's row, as far as CM needs it.
#[derive(Deserialize)]
struct Person {
    email: String,
}

/// What a step came to.
enum Stepped {
    /// Look again.
    On,
    Done,
    Later(Duration),
}

impl Gateway {
    /// Brings a payment as far as it can go now.
    pub(crate) async fn drive(&self, id: PaymentId) -> Disposition {
        for _ in 0..STEPS_MAX {
            // Between two steps everything is recorded; the next worker goes on from there.
            if self.shutdown.is_cancelled() {
                return Disposition::RetryAfter(Duration::from_millis(100));
            }
            match self.step(id).await {
                Ok(Stepped::On) => {}
                Ok(Stepped::Done) => return Disposition::Settle,
                Ok(Stepped::Later(wait)) => return Disposition::RetryAfter(wait),
                Err(fault) => {
                    tracing::warn!(payment.id = %id, error = %fault, "a step failed; it is taken again");
                    return Disposition::RetryAfter(Duration::from_secs(1));
                }
            }
        }
        tracing::error!(payment.id = %id, steps = STEPS_MAX, "the payment goes in circles");
        Disposition::RetryAfter(Duration::from_secs(30))
    }

    /// Whether nobody is at a payment that somebody should be at: its message was lost, or its worker.
    pub(crate) async fn neglected(&self, id: PaymentId) -> Result<bool, Fault> {
        let looks_so = |payment: &Payment| match payment {
            Payment::Pending(Pending {
                step: Step::Deciding, ..
            }) => true,
            Payment::Pending(Pending {
                step: Step::Calling(call),
                ..
            }) => self.executor.now() > call.deadline + WINDOW,
            Payment::Unstarted
            | Payment::Pending(_)
            | Payment::Authorized { .. }
            | Payment::Closed { .. } => false,
        };
        // What is remembered may be older, and another gateway at it.
        Ok(looks_so(&self.executor.remembered_payment(id).await?.0)
            && looks_so(&self.executor.current_payment(id).await?.0))
    }

    async fn step(&self, id: PaymentId) -> Result<Stepped, Fault> {
        // Whatever is done because of it is checked by an append, which finds out if it was too old.
        let (payment, _) = self.executor.remembered_payment(id).await?;
        let pending = match payment {
            Payment::Pending(pending) => pending,
            Payment::Authorized { .. } | Payment::Closed { .. } => return Ok(Stepped::Done),
            Payment::Unstarted => {
                tracing::error!(payment.id = %id, "the stream tells of a payment that the store does not know");
                return Ok(Stepped::Done);
            }
        };
        match &pending.step {
            Step::Redirected { .. } | Step::StartUnknown(_) => Ok(Stepped::Done),
            Step::Calling(call) => {
                // Somebody's call: mine before a crash, or another's now. Only time tells that it is over.
                let over = call.deadline + WINDOW;
                let left = over
                    .as_millisecond()
                    .saturating_sub(self.executor.now().as_millisecond());
                if left > 0 {
                    return Ok(Stepped::Later(Duration::from_millis(
                        u64::try_from(left).unwrap_or(0) + 50,
                    )));
                }
                let (operation, attempt) = (call.operation, call.attempt);
                self.say(
                    &pending,
                    Said::Lost {
                        operation,
                        attempt,
                        class: LossClass::WorkerLost,
                    },
                )
                .await?;
                Ok(Stepped::On)
            }
            Step::Deciding => self.decide(&pending).await,
        }
    }

    async fn decide(&self, pending: &Pending) -> Result<Stepped, Fault> {
        let order_id = pending.attempt.order_id;
        let (mut order, _) = self.executor.remembered_order(order_id).await?;
        let is_its = |opened: &Opened| {
            let live = opened.live_attempt();
            opened.provider.is_some()
                && live.is_some_and(|live| live.payment_id == pending.attempt.payment_id)
        };
        if !order.opened().is_some_and(is_its) {
            // An earlier attempt may have made the order at the provider, in another gateway: a second one is nothing to
            // risk. And one that was opened elsewhere is not remembered here: by what is, it could not be paid any more.
            (order, _) = self.executor.current_order(order_id).await?;
        }
        let Some(opened) = order.opened() else {
            return Err(Fault::Internal("a payment has an order"));
        };
        let Some(client) = self.clients.get(&pending.attempt.shop) else {
            tracing::error!(shop = %pending.attempt.shop, "the shop of a payment is not configured here");
            return Ok(Stepped::Later(Duration::from_secs(30)));
        };
        // What CM turned away was not looked at: it does not count against the payment.
        let spent = match opened.provider {
            None => pending.creates >= CREATES_MAX.saturating_add(pending.turned_away),
            Some(_) => pending.starts >= STARTS_MAX.saturating_add(pending.turned_away),
        };
        if spent || self.executor.now() > pending.expires_at {
            // Nothing is open and nothing of this attempt can be paid at the provider: the shopper may try again.
            tracing::warn!(payment.id = %pending.attempt.payment_id, "given up: CM could not be asked; the shopper may try again");
            self.say(
                pending,
                Said::GivenUp {
                    reason: "provider_unavailable",
                },
            )
            .await?;
            return Ok(Stepped::On);
        }
        if let Err(wait) = client.enter(Call::Effect) {
            return Ok(Stepped::Later(wait));
        }
        match &opened.provider {
            None => self.create(client, opened, pending).await,
            Some(provider) => self.start(client, &provider.order_key, pending).await,
        }
    }

    async fn create(&self, client: &Client, opened: &Opened, pending: &Pending) -> Result<Stepped, Fault> {
        let facts = &opened.facts;
        let person = self
            .executor
            .store()
            .shopper(&facts.shopper_id.to_string())
            .await?;
        let Some(person) = person.and_then(|data| serde_json::from_slice::<Person>(&data).ok()) else {
            self.say(
                pending,
                Said::GivenUp {
                    reason: "shopper_erased",
                },
            )
            .await?;
            return Ok(Stepped::On);
        };
        let attempt = pending.creates + 1;
        let reference = reference(&facts.order_reference, pending.attempt.number, attempt);
        if !self
            .announce(client, pending, Operation::CreateOrder, attempt, &reference)
            .await?
        {
            return Ok(Stepped::On);
        }
        let back = facts.return_url.as_str();
        let body = CreateBody {
            order_reference: &reference,
            description: &facts.description,
            amount: facts.amount.minor,
            currency: facts.amount.currency,
            email: &person.email,
            language: &facts.language,
            country: &facts.country,
            return_urls: ReturnUrls {
                success: back,
                pending: back,
                canceled: back,
                error: back,
            },
        };
        let scenario = opened.metadata.get("sim_scenario").map(String::as_str);
        let operation = Operation::CreateOrder;
        let answer = client.create(&body, scenario).await.without(&person.email);
        match answer {
            Answer::Yes(provider) => self.register(client, pending, attempt, provider).await,
            // An earlier create had its effect after all; its key is lost, and another reference is free.
            Answer::No(message) if message.contains("not unique") => {
                self.say(
                    pending,
                    Said::Lost {
                        operation,
                        attempt,
                        class: LossClass::ReferenceTaken,
                    },
                )
                .await?;
                Ok(Stepped::On)
            }
            other => self.settle(pending, operation, attempt, other).await,
        }
    }

    /// Takes CM's new order for ours, and starts the payment there, unless its key is another order's already: then what is paid under it could be
    /// either's, and both stop.
    async fn register(
        &self,
        client: &Client,
        pending: &Pending,
        attempt: u32,
        provider: ProviderOrder,
    ) -> Result<Stepped, Fault> {
        let before = Instant::now();
        let order = pending.attempt.order_id;
        let key = key_id(client.base().as_str(), &provider.order_key);
        let order_key = provider.order_key.clone();
        let start = StartNow {
            attempt: pending.starts + 1,
            deadline: self.deadline(client),
            nonce: Uuid::new_v4(),
        };
        let registered = OrderRegistered {
            order,
            payment: pending.attempt.payment_id,
            attempt,
            provider,
            start: Some(start),
        };
        let executed = self.persist(order, key, &registered).await?;
        let Ok(KeyOwner {
            order: owner,
            started_by,
        }) = executed.result
        else {
            return Err(Fault::Internal("registering an order is never refused"));
        };
        if owner == order && started_by == Some(start.nonce) {
            // An answer that came by way of a lost connection or a slow disk may be too late to call by.
            if before.elapsed() > SEND_WINDOW {
                return self.not_sent(pending, Operation::Start, start.attempt).await;
            }
            return self.call_start(client, &order_key, pending, start.attempt).await;
        }
        if owner == order {
            if executed.replayed {
                // CM named it before, for an earlier create of ours: this call is still to be ended.
                let again = CommandId::from_uuid(Uuid::new_v4());
                let registered = OrderRegistered {
                    start: None,
                    ..registered
                };
                self.persist(order, again, &registered).await?;
            }
            return Ok(Stepped::On);
        }
        tracing::error!(order.id = %order, other = %owner, "CM gave one key to two orders: both are stopped, and a person must look");
        for stopped in [owner, order] {
            let found = SharedKeyFound { order: stopped };
            self.persist(stopped, CommandId::from_uuid(Uuid::new_v4()), &found)
                .await?;
        }
        // What became of the order that was asked for is not known; nothing of it is asked for again.
        let lost = Said::Lost {
            operation: Operation::CreateOrder,
            attempt,
            class: LossClass::Unreadable,
        };
        self.say(pending, lost).await?;
        Ok(Stepped::On)
    }

    async fn start(&self, client: &Client, order_key: &str, pending: &Pending) -> Result<Stepped, Fault> {
        let attempt = pending.starts + 1;
        if !self
            .announce(client, pending, Operation::Start, attempt, order_key)
            .await?
        {
            return Ok(Stepped::On);
        }
        self.call_start(client, order_key, pending, attempt).await
    }

    /// The start that was announced.
    async fn call_start(
        &self,
        client: &Client,
        order_key: &str,
        pending: &Pending,
        attempt: u32,
    ) -> Result<Stepped, Fault> {
        let operation = Operation::Start;
        let body = StartBody {
            method: self.provider_code(pending.attempt.method),
            ideal_details: pending
                .attempt
                .issuer
                .as_deref()
                .map(|issuer_id| IdealDetails { issuer_id }),
        };
        match client.start(order_key, &body).await {
            Answer::Yes(started) => {
                let said = match started.url {
                    Some(url) => Said::Redirected {
                        attempt,
                        provider_payment_id: started.provider_payment_id,
                        url,
                    },
                    // Nothing for the shopper to do: what it came to stands in the report.
                    None => Said::Lost {
                        operation,
                        attempt,
                        class: LossClass::Unreadable,
                    },
                };
                self.say(pending, said).await?;
                Ok(Stepped::On)
            }
            other => self.settle(pending, operation, attempt, other).await,
        }
    }

    /// CM's word for a method; what was taken out of the methods' file since is started under the usual one.
    fn provider_code(&self, method: Method) -> &str {
        let usual = match method {
            Method::Ideal => "IDEAL",
            Method::Paypal => "PAYPAL",
        };
        self.methods
            .entry(method)
            .map_or(usual, |entry| entry.provider_code.as_str())
    }

    /// Records the intent. `false` when this worker may not call: another was first, or this one was paused.
    async fn announce(
        &self,
        client: &Client,
        pending: &Pending,
        operation: Operation,
        attempt: u32,
        reference: &str,
    ) -> Result<bool, Fault> {
        let before = Instant::now();
        let deadline = self.deadline(client);
        let word = Word {
            order: pending.attempt.order_id,
            payment: pending.attempt.payment_id,
            said: Said::CallAttempted {
                operation,
                attempt,
                reference: reference.to_owned(),
                deadline,
            },
        };
        // A nonce: with an id that another gateway could derive too, its intent would be taken for mine.
        let command = CommandId::from_uuid(Uuid::new_v4());
        let executed = self
            .executor
            .execute(word.order, command, Caller::Internal, &word)
            .await?;
        if !matches!(executed.result, Ok(Recorded::Yes)) {
            return Ok(false);
        }
        if before.elapsed() > SEND_WINDOW {
            self.not_sent(pending, operation, attempt).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Until when a call that is made now may be under way.
    fn deadline(&self, client: &Client) -> Timestamp {
        self.executor.now() + SignedDuration::try_from(client.timeout).unwrap_or(SignedDuration::ZERO)
    }

    /// Takes back an intent: the call was not made, and will not be.
    async fn not_sent(
        &self,
        pending: &Pending,
        operation: Operation,
        attempt: u32,
    ) -> Result<Stepped, Fault> {
        let resolution = Resolution::NotSent;
        self.say(
            pending,
            Said::NotDone {
                operation,
                attempt,
                resolution,
            },
        )
        .await?;
        Ok(Stepped::On)
    }

    /// What create and start have in common: every answer that is not a yes.
    async fn settle<T>(
        &self,
        pending: &Pending,
        operation: Operation,
        attempt: u32,
        answer: Answer<T>,
    ) -> Result<Stepped, Fault> {
        match answer {
            Answer::Yes(_) => Ok(Stepped::On),
            Answer::No(provider_message) => {
                self.say(
                    pending,
                    Said::Failed {
                        operation,
                        attempt,
                        provider_message,
                    },
                )
                .await?;
                Ok(Stepped::On)
            }
            Answer::NotServed { why, wait, .. } => {
                let payment = pending.attempt.payment_id;
                tracing::error!(payment.id = %payment, shop = %pending.attempt.shop, why, "CM does not serve this account now");
                self.say(
                    pending,
                    Said::NotDone {
                        operation,
                        attempt,
                        resolution: Resolution::NotServed,
                    },
                )
                .await?;
                Ok(Stepped::Later(wait))
            }
            Answer::NotSent(why) => {
                tracing::warn!(payment.id = %pending.attempt.payment_id, why, "CM cannot be reached; nothing was sent");
                self.say(
                    pending,
                    Said::NotDone {
                        operation,
                        attempt,
                        resolution: Resolution::NotSent,
                    },
                )
                .await?;
                // Longer each time: a shopper waits for seconds, a restart of CM's front takes some.
                Ok(Stepped::Later(Duration::from_secs(1 << attempt.min(4))))
            }
            Answer::Unknown { class, wait } => {
                tracing::warn!(payment.id = %pending.attempt.payment_id, ?operation, ?class, "no answer: the outcome is unknown");
                self.say(
                    pending,
                    Said::Lost {
                        operation,
                        attempt,
                        class,
                    },
                )
                .await?;
                Ok(match operation {
                    Operation::CreateOrder => after_lost_create(attempt, wait),
                    Operation::Start => Stepped::On,
                })
            }
        }
    }

    /// Records what was learned, for as long as it takes within reason: what a call came to is not to be lost to a
    /// restart of the database. If it is lost, the outcome is unknown, and a report tells.
    async fn say(&self, pending: &Pending, said: Said) -> Result<(), Fault> {
        let word = Word {
            order: pending.attempt.order_id,
            payment: pending.attempt.payment_id,
            said,
        };
        // One id for all tries of this word, and for no other: the state itself knows what was said before, and a refusal
        // that was stored for an earlier word must not answer a later one.
        let command = CommandId::from_uuid(Uuid::new_v4());
        self.persist(word.order, command, &word).await.map(|_| ())
    }

    async fn persist<D: Decide>(
        &self,
        order: OrderId,
        command: CommandId,
        decision: &D,
    ) -> Result<Executed<D::Outcome>, Fault> {
        let mut tries = 0;
        loop {
            match self
                .executor
                .execute(order, command, Caller::Internal, decision)
                .await
            {
                Ok(executed) => return Ok(executed),
                Err(fault) if tries < 5 => {
                    tries += 1;
                    tracing::warn!(order.id = %order, error = %fault, "what a call came to could not be recorded yet");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// The next create follows at once the first time, since a shopper waits; then later each time, or five orders that nobody
/// has the key of were left behind by one hiccup.
fn after_lost_create(attempt: u32, wait: Option<Duration>) -> Stepped {
    match (wait, attempt) {
        (Some(wait), _) => Stepped::Later(wait),
        (None, 0 | 1) => Stepped::On,
        (None, attempt) => Stepped::Later(Duration::from_secs(1 << attempt.min(4))),
    }
}

/// The shop's own reference the first time. Later ones differ, since CM takes each only once and an earlier create may have
/// had its effect.
fn reference(order_reference: &str, payment_number: u32, create: u32) -> String {
    match (payment_number, create) {
        (1, 1) => order_reference.to_owned(),
        _ => format!("{order_reference}~{payment_number}.{create}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_create_has_a_reference_of_its_own() {
        let all = [(1, 1), (1, 2), (2, 1), (11, 1), (1, 11)].map(|(n, c)| reference("A-1", n, c));
        assert_eq!(all[0], "A-1");
        assert_eq!(
            all.iter().collect::<std::collections::BTreeSet<_>>().len(),
            all.len()
        );
    }
}
