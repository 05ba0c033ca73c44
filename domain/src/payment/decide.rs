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
                let paid = seen.payments.iter().find(|p| decided(p));
                Ok(paid.and_then(authorized_event).into_iter().collect())
            }
            // The report was faster than the answer to the call: all that is left to learn is which payment was ours.
            (
                Self::Authorized { .. } | Self::Closed { .. },
                PaymentCommand::Redirect {
                    attempt,
                    provider_payment_id,
                    ..
                },
            ) => Ok(if self.provider_payments().contains(&provider_payment_id) {
                vec![]
            } else {
                vec![resolved(
                    Operation::Start,
                    attempt,
                    Resolution::Happened,
                    Some(provider_payment_id),
                )]
            }),
            (
                Self::Authorized { .. } | Self::Closed { .. },
                PaymentCommand::ConfirmCreate { .. }
                | PaymentCommand::GiveUp { .. }
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
                attempt,
                reference,
                deadline,
            } => match &self.step {
                Step::Calling(call) | Step::StartUnknown(call) => Err(PaymentRejection::CallOpen {
                    operation: call.operation,
                    attempt: call.attempt,
                }),
                Step::Redirected { .. } => Err(PaymentRejection::StartSpent),
                Step::Deciding => {
                    let next = 1 + match operation {
                        Operation::CreateOrder => self.creates,
                        Operation::Start => self.starts,
                    };
                    if attempt != next {
                        return Err(PaymentRejection::NotNext {
                            operation,
                            attempt,
                            next,
                        });
                    }
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
                // A report has shown it meanwhile; the answer still brings the way there.
                let shown = matches!(self.step, Step::Redirected { url: None })
                    && self.provider_payments.contains(&provider_payment_id);
                if !shown {
                    self.open(Operation::Start, attempt)?;
                }
                Ok(vec![PaymentEvent::PaymentRedirected {
                    provider_payment_id,
                    url,
                }])
            }
            PaymentCommand::Fail {
                operation,
                attempt,
                reason,
                provider_message,
            } => {
                self.open(operation, attempt)?;
                Ok(vec![PaymentEvent::PaymentFailed {
                    reason,
                    provider_message,
                }])
            }
            PaymentCommand::GiveUp { reason } => match &self.step {
                Step::Deciding => Ok(vec![PaymentEvent::PaymentFailed {
                    reason,
                    provider_message: None,
                }]),
                Step::Calling(call) | Step::StartUnknown(call) => Err(PaymentRejection::CallOpen {
                    operation: call.operation,
                    attempt: call.attempt,
                }),
                Step::Redirected { .. } => Err(PaymentRejection::StartSpent),
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
            PaymentCommand::AbandonCall {
                operation,
                attempt,
                resolution,
            } => {
                self.open(operation, attempt)?;
                Ok(vec![resolved(operation, attempt, resolution, None)])
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
        let mut known = self.provider_payments.clone();
        let mut waiting = matches!(self.step, Step::Redirected { .. });
        if let Step::StartUnknown(call) = &self.step {
            let late = millis_after(seen, call.deadline) > VISIBILITY_HORIZON_MS;
            // What has ended may be a try of the shopper's own in the menu, while ours is not visible yet.
            let open = seen
                .payments
                .iter()
                .find(|p| p.is_authorized())
                .or(seen.payments.iter().find(|p| !ended(p)));
            match (open.or(seen.payments.first().filter(|_| late)), late) {
                (Some(shown), _) => {
                    known.push(shown.id.clone());
                    waiting = true;
                    events.push(resolved(
                        Operation::Start,
                        call.attempt,
                        Resolution::Happened,
                        Some(shown.id.clone()),
                    ));
                }
                (None, true) => {
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
                (None, false) => return events,
            }
        }
        events.extend(self.verdict(seen, &known, waiting));
        events
    }

    /// What the provider's payments of this attempt amount to; nothing while the shopper may still pay.
    fn verdict(&self, seen: &Observation, known: &[String], waiting: bool) -> Option<PaymentEvent> {
        // Money is money, in whichever step.
        if let Some(authorized) = seen.payments.iter().find(|p| decided(p)) {
            return authorized_event(authorized);
        }
        // While a call is open or none was made, nothing that ended can be this attempt's own.
        if !waiting {
            return None;
        }
        let ours_is_shown = seen.payments.iter().any(|p| known.contains(&p.id));
        if ours_is_shown && seen.payments.iter().all(ended) {
            let failed = seen.payments.iter().find_map(|p| match &p.state {
                AuthorizationState::Failed(word) => Some((word.clone(), p.reason.clone())),
                AuthorizationState::WithShopper(_)
                | AuthorizationState::WithAcquirer(_)
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
        // What is with the acquirer, and words that we do not know, may be money: they keep an attempt open.
        let undecided = seen.payments.iter().any(ReportedPayment::is_undecided);
        (!undecided && millis_after(seen, self.expires_at) > VISIBILITY_HORIZON_MS)
            .then_some(PaymentEvent::PaymentExpired)
    }
}

/// Authorized, and not under review.
fn decided(payment: &ReportedPayment) -> bool {
    payment.is_authorized() && !payment.is_under_review()
}

fn ended(payment: &ReportedPayment) -> bool {
    matches!(
        payment.state,
        AuthorizationState::Canceled | AuthorizationState::Failed(_)
    )
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
