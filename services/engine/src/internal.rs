//! What do our own workers record? Facts about calls and reports. These never come over the bus: a shop that could send
//! "observe report" could forge a shipment.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kassa_domain::{
    ids::{CommandId, OrderId, PaymentId},
    order::{self, Closing, Order, OrderCommand, OrderRejection, ProviderOrder, ReportSeen, Standing},
    payment::{LossClass, Observation, Operation, Payment, PaymentCommand, PaymentRejection, Resolution},
    report::ProviderReport,
    safety::Policy,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    executor::{Decide, Refusal},
    expiry,
    session::{Session, Told},
};

/// What became of a worker's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    Yes,
    /// The state does not allow it any more; the worker looks again.
    NotNow,
}

/// Something a worker learned about one payment.
#[derive(Debug, Clone)]
pub struct Word {
    pub order: OrderId,
    pub payment: PaymentId,
    pub said: Said,
}

#[derive(Debug, Clone)]
pub enum Said {
    /// The intent to make the call that the worker believes to be next; stored before the call is made.
    CallAttempted {
        operation: Operation,
        attempt: u32,
        reference: String,
        deadline: Timestamp,
    },
    Redirected {
        attempt: u32,
        provider_payment_id: String,
        url: String,
    },
    /// The provider's no to a call.
    Failed {
        operation: Operation,
        attempt: u32,
        provider_message: String,
    },
    /// Ended by us between two calls.
    GivenUp { reason: &'static str },
    Lost {
        operation: Operation,
        attempt: u32,
        class: LossClass,
    },
    /// Without effect for certain, for the reason given.
    NotDone {
        operation: Operation,
        attempt: u32,
        resolution: Resolution,
    },
}

impl Decide for Word {
    type Outcome = Recorded;

    async fn decide(&self, session: &mut Session<'_>) -> Result<Recorded, Refusal> {
        let command = match &self.said {
            Said::CallAttempted {
                operation,
                attempt,
                reference,
                deadline,
            } => {
                // Looked at in the same append: an order that was paid a moment ago is not started again.
                if !payable(session.order(self.order).await?, self.payment) {
                    let given_up = PaymentCommand::GiveUp {
                        reason: "order_not_payable".to_owned(),
                    };
                    payment_told(session.tell_payment(self.payment, given_up).await)?;
                    close_if_ended(session, self.order, self.payment).await?;
                    return Ok(Recorded::NotNow);
                }
                PaymentCommand::AttemptCall {
                    operation: *operation,
                    attempt: *attempt,
                    reference: reference.clone(),
                    deadline: *deadline,
                }
            }
            Said::Redirected {
                attempt,
                provider_payment_id,
                url,
            } => PaymentCommand::Redirect {
                attempt: *attempt,
                provider_payment_id: provider_payment_id.clone(),
                url: url.clone(),
            },
            Said::Failed {
                operation,
                attempt,
                provider_message,
            } => PaymentCommand::Fail {
                operation: *operation,
                attempt: *attempt,
                reason: "provider_refused".to_owned(),
                provider_message: Some(provider_message.clone()),
            },
            Said::GivenUp { reason } => PaymentCommand::GiveUp {
                reason: (*reason).to_owned(),
            },
            Said::Lost {
                operation,
                attempt,
                class,
            } => PaymentCommand::LoseCall {
                operation: *operation,
                attempt: *attempt,
                class: *class,
            },
            Said::NotDone {
                operation,
                attempt,
                resolution,
            } => PaymentCommand::AbandonCall {
                operation: *operation,
                attempt: *attempt,
                resolution: *resolution,
            },
        };
        let recorded = payment_told(session.tell_payment(self.payment, command).await)?;
        close_if_ended(session, self.order, self.payment).await?;
        if matches!(
            self.said,
            Said::Lost {
                operation: Operation::Start,
                ..
            }
        ) {
            // The sooner the report is read, the shorter the shopper is in doubt.
            let shop = session
                .payment(self.payment)
                .await?
                .attempt()
                .map(|attempt| attempt.shop.clone());
            if let Some(shop) = shop {
                session.request_read(self.order, &shop);
            }
        }
        Ok(recorded)
    }
}

/// The provider made an order and named its key. A key belongs to one order: sent under an id that is derived from the key
/// ([`key_id`]), the second order that is given one is told the first.
#[derive(Debug, Clone)]
pub struct OrderRegistered {
    pub order: OrderId,
    pub payment: PaymentId,
    pub attempt: u32,
    pub provider: ProviderOrder,
    /// Recorded in the same append, where the payment may still be started: a commit less before the shopper has a link.
    pub start: Option<StartNow>,
}

/// The intent to start a payment at the order that was just made.
#[derive(Debug, Clone, Copy)]
pub struct StartNow {
    pub attempt: u32,
    pub deadline: Timestamp,
    /// Whose intent it is: the id of the command is derived from the key, so its outcome alone would not tell.
    pub nonce: Uuid,
}

/// Whose a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyOwner {
    pub order: OrderId,
    /// The nonce of the start that was recorded with it: then, and only then, its owner may call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_by: Option<Uuid>,
}

/// The command that gives a key to the first who comes with it. `account` is where the key is unique.
pub fn key_id(account: &str, order_key: &str) -> CommandId {
    let account = Uuid::new_v5(&Uuid::NAMESPACE_URL, account.as_bytes());
    CommandId::derived(Uuid::new_v5(&account, order_key.as_bytes()), "order_key", 1)
}

impl Decide for OrderRegistered {
    type Outcome = KeyOwner;

    async fn decide(&self, session: &mut Session<'_>) -> Result<KeyOwner, Refusal> {
        let (order, payment) = (self.order, self.payment);
        let register = OrderCommand::RegisterProviderOrder(self.provider.clone());
        order_told(session.tell_order(order, register).await)?;
        let confirm = PaymentCommand::ConfirmCreate {
            attempt: self.attempt,
        };
        let confirmed = payment_told(session.tell_payment(payment, confirm).await)?;
        close_if_ended(session, order, payment).await?;
        let registered = KeyOwner {
            order,
            started_by: None,
        };
        let Some(start) = self.start else {
            return Ok(registered);
        };
        // The order at the provider is this one's, not that of an earlier answer.
        let known = session
            .order(order)
            .await?
            .opened()
            .and_then(|opened| opened.provider.as_ref());
        let is_this = known.is_some_and(|known| known.order_key == self.provider.order_key);
        if confirmed != Recorded::Yes || !is_this || !payable(session.order(order).await?, payment) {
            return Ok(registered);
        }
        let intent = PaymentCommand::AttemptCall {
            operation: Operation::Start,
            attempt: start.attempt,
            reference: self.provider.order_key.clone(),
            deadline: start.deadline,
        };
        let started = payment_told(session.tell_payment(payment, intent).await)?;
        Ok(KeyOwner {
            order,
            started_by: (started == Recorded::Yes).then_some(start.nonce),
        })
    }
}

/// The provider named the key of this order for another order too: nothing is released, and a person must look.
#[derive(Debug, Clone, Copy)]
pub struct SharedKeyFound {
    pub order: OrderId,
}

impl Decide for SharedKeyFound {
    type Outcome = Recorded;

    async fn decide(&self, session: &mut Session<'_>) -> Result<Recorded, Refusal> {
        order_told(
            session
                .tell_order(self.order, OrderCommand::StopForSharedKey)
                .await,
        )
    }
}

/// A report that was read, to be judged and recorded.
#[derive(Debug, Clone)]
pub struct ObserveReport {
    pub order: OrderId,
    pub read_no: i64,
    pub read_started_at: Timestamp,
    pub report: ProviderReport,
    pub policy: Policy,
}

impl Decide for ObserveReport {
    type Outcome = Recorded;
    /// Most reads find what was known. Their number is used up all the same, and a later answer than theirs has a higher one.
    const KEPT_WITHOUT_EFFECT: bool = false;

    async fn decide(&self, session: &mut Session<'_>) -> Result<Recorded, Refusal> {
        let Some(opened) = session.order(self.order).await?.opened().cloned() else {
            return Ok(Recorded::NotNow);
        };
        if self.read_no <= opened.read_no {
            return Ok(Recorded::NotNow);
        }
        let mut payments: Vec<(PaymentId, Payment)> = Vec::with_capacity(opened.attempts.len());
        for attempt in &opened.attempts {
            payments.push((
                attempt.payment_id,
                session.payment(attempt.payment_id).await?.clone(),
            ));
        }
        let mut owners = BTreeMap::new();
        for seen in &self.report.payments {
            let known = payments.iter().map(|(id, payment)| (*id, payment));
            if let Some(owner) = order::owner(&opened, known, seen) {
                owners.insert(seen.id.clone(), owner);
            }
        }
        if !opened.is_foreign(&self.report) {
            for (id, _) in &payments {
                let observation = Observation {
                    payments: order::share_of(&opened, &payments, *id, &self.report),
                    read_started_at: self.read_started_at,
                };
                payment_told(
                    session
                        .tell_payment(*id, PaymentCommand::Observe(observation))
                        .await,
                )?;
                close_if_ended(session, self.order, *id).await?;
            }
        }
        let seen = ReportSeen {
            read_no: self.read_no,
            read_at: self.read_started_at,
            report: self.report.clone(),
            policy: self.policy.clone(),
            owners,
        };
        let recorded = order_told(
            session
                .tell_order(self.order, OrderCommand::ObserveReport(seen))
                .await,
        )?;
        if expiry::late_enough(&opened, self.read_started_at) {
            expiry::expire(session, self.order).await?;
        }
        if let Some(now) = session.order(self.order).await?.opened()
            && now.is_canceled()
            && now.status() != opened.status()
        {
            tracing::error!(
                order.id = %self.order,
                status = now.status(),
                "money came for an order that the shop canceled; a person must give it back"
            );
        }
        Ok(recorded)
    }
}

/// Whether this attempt of the order may still ask the provider for anything.
fn payable(order: &Order, payment: PaymentId) -> bool {
    order.opened().is_some_and(|opened| {
        opened.stopped.is_none()
            && opened.ended.is_none()
            // Of an attempt before this one, say: two payments would be under way.
            && opened.under_way.is_none()
            && !matches!(opened.standing, Standing::Paid { .. })
            && opened
                .live_attempt()
                .is_some_and(|live| live.payment_id == payment)
    })
}

/// The order learns how its attempt ended in the same commit as the attempt itself.
async fn close_if_ended(
    session: &mut Session<'_>,
    order: OrderId,
    payment: PaymentId,
) -> Result<(), Refusal> {
    let closing = match session.payment(payment).await? {
        Payment::Unstarted | Payment::Pending(_) => return Ok(()),
        Payment::Authorized { .. } => Closing::Authorized,
        Payment::Closed { ending, .. } => Closing::from(*ending),
    };
    let command = OrderCommand::CloseAttempt {
        payment_id: payment,
        closing,
    };
    order_told(session.tell_order(order, command).await)?;
    Ok(())
}

fn payment_told(told: Result<(), Told<PaymentRejection>>) -> Result<Recorded, Refusal> {
    recorded(told)
}

fn order_told(told: Result<(), Told<OrderRejection>>) -> Result<Recorded, Refusal> {
    recorded(told)
}

/// A worker's word that the state no longer allows is not an error: it was late, and the worker looks again.
fn recorded<R: std::error::Error>(told: Result<(), Told<R>>) -> Result<Recorded, Refusal> {
    match told {
        Ok(()) => Ok(Recorded::Yes),
        Err(Told::Rejected(_)) => Ok(Recorded::NotNow),
        Err(Told::Fault(fault)) => Err(Refusal::Fault(fault)),
    }
}
