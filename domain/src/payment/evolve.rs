//! (state, event) → state. Refuses nothing: what happened, happened.

use super::{
    event::{Ending, Operation, PaymentEvent, Resolution},
    phase::{Attempt, Call, Payment, Pending, Step},
};

impl Payment {
    pub(super) fn evolve(self, event: PaymentEvent) -> Self {
        match event {
            PaymentEvent::PaymentStarted { attempt, expires_at } => Self::Pending(Pending {
                attempt,
                expires_at,
                step: Step::Deciding,
                creates: 0,
                starts: 0,
                provider_payments: vec![],
            }),
            PaymentEvent::ProviderCallAttempted {
                operation,
                attempt,
                reference,
                deadline,
            } => self.pending(|pending| {
                match operation {
                    Operation::CreateOrder => pending.creates = attempt,
                    Operation::Start => pending.starts = attempt,
                }
                pending.step = Step::Calling(Call {
                    operation,
                    attempt,
                    reference,
                    deadline,
                });
            }),
            PaymentEvent::ProviderOutcomeUnknown { operation, .. } => self.pending(|pending| {
                pending.step = match (operation, std::mem::replace(&mut pending.step, Step::Deciding)) {
                    (Operation::Start, Step::Calling(call)) => Step::StartUnknown(call),
                    (Operation::Start, other) => other,
                    // Nobody holds the key of the order that may have been made: another is asked for.
                    (Operation::CreateOrder, _) => Step::Deciding,
                };
            }),
            PaymentEvent::ProviderOutcomeResolved {
                operation,
                resolution,
                provider_payment_id,
                ..
            } => self.resolved(operation, resolution, provider_payment_id),
            PaymentEvent::PaymentRedirected {
                provider_payment_id,
                url,
            } => self.pending(|pending| {
                pending.step = Step::Redirected { url: Some(url) };
                learn(&mut pending.provider_payments, Some(provider_payment_id));
            }),
            PaymentEvent::PaymentAuthorized {
                provider_payment_id, ..
            } => match self.facts() {
                Some((attempt, mut provider_payments)) => {
                    learn(&mut provider_payments, Some(provider_payment_id));
                    Self::Authorized {
                        attempt,
                        provider_payments,
                    }
                }
                None => Self::Unstarted,
            },
            PaymentEvent::PaymentFailed { .. } => self.close(Ending::Failed),
            PaymentEvent::PaymentCanceled { .. } => self.close(Ending::Canceled),
            PaymentEvent::PaymentExpired => self.close(Ending::Expired),
        }
    }

    fn resolved(self, operation: Operation, resolution: Resolution, id: Option<String>) -> Self {
        match self {
            Self::Pending(mut pending) => {
                pending.step = match (operation, resolution) {
                    (Operation::Start, Resolution::Happened) => Step::Redirected { url: None },
                    (
                        Operation::Start,
                        Resolution::DidNotHappen | Resolution::NotSent | Resolution::NotServed,
                    )
                    | (Operation::CreateOrder, _) => Step::Deciding,
                };
                learn(&mut pending.provider_payments, id);
                Self::Pending(pending)
            }
            Self::Authorized {
                attempt,
                mut provider_payments,
            } => {
                learn(&mut provider_payments, id);
                Self::Authorized {
                    attempt,
                    provider_payments,
                }
            }
            Self::Closed {
                attempt,
                ending,
                mut provider_payments,
            } => {
                learn(&mut provider_payments, id);
                Self::Closed {
                    attempt,
                    ending,
                    provider_payments,
                }
            }
            Self::Unstarted => Self::Unstarted,
        }
    }

    fn pending(self, change: impl FnOnce(&mut Pending)) -> Self {
        match self {
            Self::Pending(mut pending) => {
                change(&mut pending);
                Self::Pending(pending)
            }
            // A late word about a call changes nothing that is settled.
            settled @ (Self::Unstarted | Self::Authorized { .. } | Self::Closed { .. }) => settled,
        }
    }

    fn facts(self) -> Option<(Attempt, Vec<String>)> {
        match self {
            Self::Unstarted => None,
            Self::Pending(Pending {
                attempt,
                provider_payments,
                ..
            })
            | Self::Authorized {
                attempt,
                provider_payments,
            }
            | Self::Closed {
                attempt,
                provider_payments,
                ..
            } => Some((attempt, provider_payments)),
        }
    }

    fn close(self, ending: Ending) -> Self {
        match self.facts() {
            Some((attempt, provider_payments)) => Self::Closed {
                attempt,
                ending,
                provider_payments,
            },
            None => Self::Unstarted,
        }
    }
}

fn learn(known: &mut Vec<String>, id: Option<String>) {
    if let Some(id) = id
        && !known.contains(&id)
    {
        known.push(id);
    }
}
