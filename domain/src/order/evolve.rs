//! (state, event) → state. Refuses nothing: what happened, happened.

use super::{
    event::OrderEvent,
    owner,
    phase::{AttemptRecord, Ended, Opened, Order, Safety, Standing},
};

impl Order {
    pub(super) fn evolve(self, event: OrderEvent) -> Self {
        match (self, event) {
            (Self::Unopened, OrderEvent::OrderCreated { facts, metadata }) => {
                Self::Opened(Box::new(Opened {
                    facts,
                    metadata,
                    provider: None,
                    attempts: vec![],
                    standing: Standing::Unpaid,
                    safety: Safety::No,
                    owners: std::collections::BTreeMap::new(),
                    read_no: 0,
                    digest: None,
                    not_safe: vec![],
                    stopped: None,
                    mismatch: None,
                    released: std::collections::BTreeMap::new(),
                    ended: None,
                    under_way: None,
                    paid_at: None,
                }))
            }
            (Self::Opened(mut opened), event) => {
                opened.apply(event);
                Self::Opened(opened)
            }
            // A stream always opens with its creation; an unopened order has nothing that could change.
            (Self::Unopened, _) => Self::Unopened,
        }
    }
}

impl Opened {
    fn apply(&mut self, event: OrderEvent) {
        match event {
            OrderEvent::OrderCreated { .. } => {}
            OrderEvent::ProviderOrderRegistered { provider } => self.provider = Some(provider),
            OrderEvent::AttemptOpened {
                payment_id, method, ..
            } => {
                self.attempts.push(AttemptRecord {
                    payment_id,
                    method,
                    closing: None,
                });
            }
            OrderEvent::AttemptClosed { payment_id, closing } => {
                if let Some(attempt) = self.attempts.iter_mut().find(|a| a.payment_id == payment_id) {
                    attempt.closing = Some(closing);
                }
            }
            OrderEvent::ProviderReportObserved {
                read_no,
                digest,
                report,
                not_safe,
                owners,
                ..
            } => {
                for (provider_payment, payment) in owners {
                    self.owners.entry(provider_payment).or_insert(payment);
                }
                let undecided = report.payments.iter().find(|payment| payment.is_undecided());
                self.under_way = undecided.and_then(|payment| owner(self, [], payment));
                self.read_no = read_no;
                self.digest = Some(digest);
                self.not_safe = not_safe;
            }
            OrderEvent::OrderPartiallyPaid { paid, .. } => self.standing = Standing::PartiallyPaid { paid },
            OrderEvent::OrderPaid { paid, at, .. } => {
                self.standing = Standing::Paid { paid };
                self.paid_at = at;
            }
            OrderEvent::AmountMismatchFound { what, found, .. } => {
                self.mismatch = Some((what, found));
                if what.stops_the_order() {
                    self.stopped = Some(what);
                }
            }
            OrderEvent::ConfidenceReachedSafe { epoch, evidence, .. } => {
                self.safety = Safety::Safe { epoch };
                self.released.clear();
                // By the route of captures, one payment is counted once a capture.
                for payment in evidence.payments {
                    self.released
                        .entry(payment.provider_payment_id)
                        .and_modify(|sum| sum.minor = sum.minor.saturating_add(payment.amount.minor))
                        .or_insert(payment.amount);
                }
            }
            OrderEvent::SafetyLost { epoch, .. } => self.safety = Safety::Lost { epoch },
            OrderEvent::OrderCanceled { at, .. } => self.ended = Some(Ended::Canceled { at }),
            OrderEvent::OrderExpired { at } => self.ended = Some(Ended::Expired { at }),
        }
    }
}
