//! (state, command) → events or a rejection. Pure, and total over both.

use super::{
    VISIBILITY_HORIZON_MS,
    command::{Observation, PaymentCommand},
    event::{Operation, PaymentEvent, Resolution},
    phase::{Call, Payment, Pending, Step},
    rejection::PaymentRejection,
};
use crate::report::{AuthorizationState, ReportedPayment};

type Decision = Result<Vec<PaymentEvent>, PaymentRejection>;

impl Payment {
    /// # Errors
    /// A [`PaymentRejection`]; a repeat of what is already so yields no event.
    pub fn decide(&self, command: PaymentCommand) -> Decision {
        match (self, command) {
            (Self::Unstarted, PaymentCommand::Start { attempt, expires_at }) => {
                Ok(vec![PaymentEvent::PaymentStarted { attempt, expires_at }])
            }
            (_, PaymentCommand::Start { .. }) => Err(PaymentRejection::AlreadyStarted),
            (Self::Unstarted, _) => Err(PaymentRejection::Unstarted),
            (Self::Pending(pending), command) => pending.decide(command),
            (Self::Authorized { .. } | Self::Closed { .. }, PaymentCommand::AttemptCall { .. }) => {
                Err(PaymentRejection::NotPending {
                    status: self.status(),
                })
            }
            // A closed attempt, paid all the same: the report decides, not our patience.
            (Self::Closed { .. }, PaymentCommand::Observe(seen)) => {
                let paid = seen.payments.iter().find(|p| p.is_authorized());
                Ok(paid.and_then(authorized_event).into_iter().collect())
            }
            // The report was faster than the answer to the call: there is nothing left to learn from the answer.
            (
                Self::Authorized { .. } | Self::Closed { .. },
                PaymentCommand::ConfirmCreate { .. }
                | PaymentCommand::Redirect { .. }
                | PaymentCommand::Fail { .. }
                | PaymentCommand::LoseCall { .. }
                | PaymentCommand::AbandonCall { .. },
            )
            | (Self::Authorized { .. }, PaymentCommand::Observe(_)) => Ok(vec![]),
        }
    }
}

impl Pending {
    fn decide(&self, command: PaymentCommand) -> Decision {
        match command {
            PaymentCommand::Start { .. } => Err(PaymentRejection::AlreadyStarted),
            PaymentCommand::AttemptCall {
                operation,
                reference,
                deadline,
            } => match &self.step {
                Step::Calling(call) | Step::StartUnknown(call) => Err(PaymentRejection::CallOpen {
                    operation: call.operation,
                    attempt: call.attempt,
                }),
                Step::Redirected { .. } => Err(PaymentRejection::StartSpent),
                Step::Deciding => {
                    let attempt = 1 + match operation {
                        Operation::CreateOrder => self.creates,
                        Operation::Start => self.starts,
                    };
                    Ok(vec![PaymentEvent::ProviderCallAttempted {
                        operation,
                        attempt,
                        reference,
                        deadline,
                    }])
                }
            },
            PaymentCommand::ConfirmCreate { attempt } => {
                self.open(Operation::CreateOrder, attempt)?;
                Ok(vec![resolved(
                    Operation::CreateOrder,
                    attempt,
                    Resolution::Happened,
                    None,
                )])
            }
            PaymentCommand::Redirect {
                attempt,
                provider_payment_id,
                url,
            } => {
                // Late, but the one answer to the one call: an unknown outcome becomes known.
                if let Step::StartUnknown(call) = &self.step
                    && call.attempt == attempt
                {
                    let happened = resolved(
                        Operation::Start,
                        attempt,
                        Resolution::Happened,
                        Some(provider_payment_id.clone()),
                    );
                    return Ok(vec![
                        happened,
                        PaymentEvent::PaymentRedirected {
                            provider_payment_id,
                            url,
                        },
                    ]);
                }
                self.open(Operation::Start, attempt)?;
                Ok(vec![PaymentEvent::PaymentRedirected {
                    provider_payment_id,
                    url,
                }])
            }
            PaymentCommand::Fail {
                attempt,
                reason,
                provider_message,
            } => match &self.step {
                Step::Calling(call) if call.attempt == attempt => Ok(vec![PaymentEvent::PaymentFailed {
                    reason,
                    provider_message,
                }]),
                // Given up between two calls: nothing is open, nothing is at the provider.
                Step::Deciding => Ok(vec![PaymentEvent::PaymentFailed {
                    reason,
                    provider_message,
                }]),
                Step::Calling(_) | Step::StartUnknown(_) | Step::Redirected { .. } => {
                    Err(PaymentRejection::NoSuchCall {
                        operation: Operation::Start,
                        attempt,
                    })
                }
            },
            PaymentCommand::LoseCall {
                operation,
                attempt,
                class,
            } => {
                // A report may have shown the effect while the answer was still awaited.
                if matches!(self.step, Step::Redirected { .. }) {
                    return Ok(vec![]);
                }
                let call = self.open(operation, attempt)?;
                Ok(vec![PaymentEvent::ProviderOutcomeUnknown {
                    operation,
                    attempt,
                    class,
                    deadline: call.deadline,
                }])
            }
            PaymentCommand::AbandonCall { operation, attempt } => {
                self.open(operation, attempt)?;
                Ok(vec![resolved(operation, attempt, Resolution::NotSent, None)])
            }
            PaymentCommand::Observe(seen) => Ok(self.observe(&seen)),
        }
    }

    fn open(&self, operation: Operation, attempt: u32) -> Result<&Call, PaymentRejection> {
        match &self.step {
            Step::Calling(call) if call.operation == operation && call.attempt == attempt => Ok(call),
            Step::Calling(_) | Step::Deciding | Step::Redirected { .. } | Step::StartUnknown(_) => {
                Err(PaymentRejection::NoSuchCall { operation, attempt })
            }
        }
    }

    fn observe(&self, seen: &Observation) -> Vec<PaymentEvent> {
        let mut events = Vec::new();
        if let Step::StartUnknown(call) = &self.step {
            match seen.payments.first() {
                Some(shown) => {
                    events.push(resolved(
                        Operation::Start,
                        call.attempt,
                        Resolution::Happened,
                        Some(shown.id.clone()),
                    ));
                }
                None if millis_after(seen, call.deadline) > VISIBILITY_HORIZON_MS => {
                    events.push(resolved(
                        Operation::Start,
                        call.attempt,
                        Resolution::DidNotHappen,
                        None,
                    ));
                    events.push(PaymentEvent::PaymentFailed {
                        reason: "provider_never_received".to_owned(),
                        provider_message: None,
                    });
                    return events;
                }
                None => return events,
            }
        }
        events.extend(self.verdict(seen));
        events
    }

    /// What the provider's payments of this attempt amount to; nothing while the shopper may still pay.
    fn verdict(&self, seen: &Observation) -> Option<PaymentEvent> {
        if let Some(authorized) = seen.payments.iter().find(|p| p.is_authorized()) {
            return authorized_event(authorized);
        }
        let ended = |p: &ReportedPayment| {
            matches!(
                p.state,
                AuthorizationState::Canceled | AuthorizationState::Failed(_)
            )
        };
        if !seen.payments.is_empty() && seen.payments.iter().all(ended) {
            let failed = seen.payments.iter().find_map(|p| match &p.state {
                AuthorizationState::Failed(word) => Some((word.clone(), p.reason.clone())),
                AuthorizationState::UnderWay(_)
                | AuthorizationState::Authorized
                | AuthorizationState::Canceled
                | AuthorizationState::Unknown(_) => None,
            });
            return Some(match failed {
                Some((word, reason)) => PaymentEvent::PaymentFailed {
                    reason: "authorization_failed".to_owned(),
                    provider_message: reason.or(Some(word)),
                },
                None => PaymentEvent::PaymentCanceled {
                    reason: seen.payments.iter().find_map(|p| p.reason.clone()),
                },
            });
        }
        // Words that we do not know may mean money: they keep an attempt open, and a person looks.
        let undecided = seen.payments.iter().any(|p| {
            matches!(
                p.state,
                AuthorizationState::Unknown(_) | AuthorizationState::Authorized
            )
        });
        let waiting = matches!(self.step, Step::Redirected { .. } | Step::StartUnknown(_));
        (waiting && !undecided && millis_after(seen, self.expires_at) > VISIBILITY_HORIZON_MS)
            .then_some(PaymentEvent::PaymentExpired)
    }
}

fn authorized_event(payment: &ReportedPayment) -> Option<PaymentEvent> {
    payment
        .confidence
        .clone()
        .map(|confidence| PaymentEvent::PaymentAuthorized {
            provider_payment_id: payment.id.clone(),
            amount: payment.amount,
            confidence,
        })
}

fn resolved(
    operation: Operation,
    attempt: u32,
    resolution: Resolution,
    provider_payment_id: Option<String>,
) -> PaymentEvent {
    PaymentEvent::ProviderOutcomeResolved {
        operation,
        attempt,
        resolution,
        provider_payment_id,
    }
}

fn millis_after(seen: &Observation, moment: jiff::Timestamp) -> i64 {
    seen.read_started_at
        .as_millisecond()
        .saturating_sub(moment.as_millisecond())
}
