//! (state, event) → state. Refuses nothing: what happened, happened.

use super::{
    event::{Ending, LossClass, Operation, PaymentEvent, Resolution},
    phase::{AskedOrder, Attempt, Call, Payment, Pending, Step},
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
                turned_away: 0,
                provider_payments: vec![],
                asked: vec![],
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
            PaymentEvent::ProviderOutcomeUnknown { operation, class, .. } => self.pending(|pending| {
                pending.asked_for(operation, Some(class));
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
                Some((attempt, mut provider_payments, asked)) => {
                    learn(&mut provider_payments, Some(provider_payment_id));
                    Self::Authorized {
                        attempt,
                        provider_payments,
                        asked,
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
                match resolution {
                    Resolution::Happened => pending.asked_for(operation, None),
                    Resolution::NotServed => pending.turned_away += 1,
                    Resolution::DidNotHappen | Resolution::NotSent => {}
                }
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
                asked,
            } => {
                learn(&mut provider_payments, id);
                Self::Authorized {
                    attempt,
                    provider_payments,
                    asked,
                }
            }
            Self::Closed {
                attempt,
                ending,
                mut provider_payments,
                asked,
            } => {
                learn(&mut provider_payments, id);
                Self::Closed {
                    attempt,
                    ending,
                    provider_payments,
                    asked,
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

    fn facts(self) -> Option<(Attempt, Vec<String>, Vec<AskedOrder>)> {
        match self {
            Self::Unstarted => None,
            Self::Pending(Pending {
                attempt,
                provider_payments,
                asked,
                ..
            })
            | Self::Authorized {
                attempt,
                provider_payments,
                asked,
            }
            | Self::Closed {
                attempt,
                provider_payments,
                asked,
                ..
            } => Some((attempt, provider_payments, asked)),
        }
    }

    fn close(self, ending: Ending) -> Self {
        match self.facts() {
            Some((attempt, provider_payments, asked)) => Self::Closed {
                attempt,
                ending,
                provider_payments,
                asked,
            },
            None => Self::Unstarted,
        }
    }
}

impl Pending {
    /// The call that is open asked for an order which may exist.
    fn asked_for(&mut self, operation: Operation, lost: Option<LossClass>) {
        if let Step::Calling(call) = &self.step
            && call.operation == Operation::CreateOrder
            && operation == Operation::CreateOrder
        {
            let reference = call.reference.clone();
            self.asked.push(AskedOrder { reference, lost });
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
