//! (state, command) → events or a rejection. Pure, and total over both.

use jiff::Timestamp;

use super::{
    command::{OrderCommand, ReportSeen},
    event::{Closing, Mismatch, OrderEvent},
    phase::{Ended, Opened, Order, Safety, Standing},
    rejection::OrderRejection,
};
use crate::{
    ids::PaymentId,
    money::Money,
    payment::Method,
    report::ProviderReport,
    safety::{self, Policy, Verdict, below},
};

/// More attempts than any shopper makes; each is loaded when a report is judged.
const ATTEMPTS_MAX: usize = 50;

type Decision = Result<Vec<OrderEvent>, OrderRejection>;

impl Order {
    /// # Errors
    /// An [`OrderRejection`]; a repeat of what is already so yields no event.
    pub fn decide(&self, command: OrderCommand) -> Decision {
        match (self, command) {
            (Self::Unopened, OrderCommand::Create { facts, metadata }) => {
                Ok(vec![OrderEvent::OrderCreated { facts, metadata }])
            }
            (Self::Opened(opened), OrderCommand::Create { .. }) => Err(OrderRejection::ReferenceTaken {
                order_id: opened.facts.order_id,
            }),
            (
                Self::Unopened,
                OrderCommand::OpenAttempt { .. }
                | OrderCommand::CloseAttempt { .. }
                | OrderCommand::RegisterProviderOrder(_)
                | OrderCommand::StopForSharedKey
                | OrderCommand::ObserveReport(_)
                | OrderCommand::Cancel { .. }
                | OrderCommand::Expire { .. },
            ) => Err(OrderRejection::Unopened),
            (Self::Opened(opened), OrderCommand::OpenAttempt { payment_id, method }) => {
                opened.open_attempt(payment_id, method)
            }
            (Self::Opened(opened), OrderCommand::CloseAttempt { payment_id, closing }) => {
                opened.close_attempt(payment_id, closing)
            }
            (Self::Opened(opened), OrderCommand::RegisterProviderOrder(provider)) => {
                Ok(match opened.provider {
                    None => vec![OrderEvent::ProviderOrderRegistered { provider }],
                    // The first one stays: its URL may be in a shopper's hands.
                    Some(_) => vec![],
                })
            }
            (Self::Opened(opened), OrderCommand::StopForSharedKey) => Ok(match opened.stopped {
                // The answer was about another order than was asked for.
                None => vec![OrderEvent::AmountMismatchFound {
                    what: Mismatch::ReportedReference,
                    expected: None,
                    found: None,
                }],
                Some(_) => vec![],
            }),
            (Self::Opened(opened), OrderCommand::ObserveReport(seen)) => Ok(opened.observe(&seen)),
            (Self::Opened(opened), OrderCommand::Cancel { at, reason }) => opened.cancel(at, reason),
            (Self::Opened(opened), OrderCommand::Expire { at }) => opened.expire(at),
        }
    }
}

impl Opened {
    fn open_attempt(&self, payment_id: PaymentId, method: Method) -> Decision {
        if self.stopped.is_some() {
            return Err(OrderRejection::Stopped);
        }
        if matches!(self.standing, Standing::Paid { .. }) || self.ended.is_some() {
            return Err(self.not_payable());
        }
        if let Some(live) = self.undecided_attempt() {
            return Err(OrderRejection::AttemptLive {
                payment_id: live.payment_id,
            });
        }
        if self.attempts.len() >= ATTEMPTS_MAX {
            return Err(OrderRejection::TooManyAttempts {
                attempts: self.attempts.len(),
                max: ATTEMPTS_MAX,
            });
        }
        let number = u32::try_from(self.attempts.len()).expect("fifty fits") + 1;
        Ok(vec![OrderEvent::AttemptOpened {
            payment_id,
            method,
            number,
        }])
    }

    fn not_payable(&self) -> OrderRejection {
        OrderRejection::NotPayable {
            status: self.status(),
            since: self.status_since(),
        }
    }

    /// What is under way at the provider cannot be called back: it is watched until it ends, and money that it brings is
    /// recorded and never makes the order safe. An expired order may be canceled too, for just that.
    fn cancel(&self, at: Timestamp, reason: Option<String>) -> Decision {
        match (self.standing, self.ended) {
            (_, Some(Ended::Canceled { .. })) => Ok(vec![]),
            (Standing::Paid { .. } | Standing::PartiallyPaid { .. }, _) => Err(self.not_payable()),
            (Standing::Unpaid, None | Some(Ended::Expired { .. })) => {
                Ok(vec![OrderEvent::OrderCanceled { at, reason }])
            }
        }
    }

    fn expire(&self, at: Timestamp) -> Decision {
        let due = self.facts.expires_at.is_some_and(|until| until <= at);
        match (self.standing, self.ended) {
            (Standing::Paid { .. } | Standing::PartiallyPaid { .. }, _) | (Standing::Unpaid, Some(_)) => {
                Ok(vec![])
            }
            (Standing::Unpaid, None) if !due => Ok(vec![]),
            // Answers that are not about this order show nothing, and so not that nothing was paid.
            (Standing::Unpaid, None) if self.stopped.is_some() => Err(OrderRejection::Stopped),
            (Standing::Unpaid, None) => match self.undecided_attempt() {
                Some(attempt) => Err(OrderRejection::AttemptLive {
                    payment_id: attempt.payment_id,
                }),
                None => Ok(vec![OrderEvent::OrderExpired { at }]),
            },
        }
    }

    fn close_attempt(&self, payment_id: PaymentId, closing: Closing) -> Decision {
        let attempt = self
            .attempts
            .iter()
            .find(|attempt| attempt.payment_id == payment_id)
            .ok_or(OrderRejection::UnknownAttempt { payment_id })?;
        Ok(match attempt.closing {
            // A late success is closed again, as what it was; nothing else undoes a closing.
            Some(before) if before == closing || closing != Closing::Authorized => vec![],
            Some(_) | None => vec![OrderEvent::AttemptClosed { payment_id, closing }],
        })
    }

    fn observe(&self, seen: &ReportSeen) -> Vec<OrderEvent> {
        if seen.read_no <= self.read_no {
            return vec![];
        }
        if let Some((what, expected, found)) = self.foreign(&seen.report) {
            let again = self.stopped == Some(what) && self.mismatch == Some((what, found));
            return if again {
                vec![]
            } else {
                vec![OrderEvent::AmountMismatchFound {
                    what,
                    expected,
                    found,
                }]
            };
        }
        let ordered = self.facts.amount;
        let mut verdict = safety::judge(&seen.policy, ordered, seen.read_no, &seen.report, |payment| {
            seen.owners.get(&payment.id).copied()
        });
        // Beside what the report says, not instead of it: goods may have left before, and are called back for money that goes.
        if self.is_canceled() {
            verdict = verdict.held(safety::NotSafe::OrderCanceled);
        }
        if self.stopped.is_some() {
            verdict = verdict.held(safety::NotSafe::OrderStopped);
        }
        let not_safe = match &verdict {
            Verdict::Safe(_) => vec![],
            Verdict::NotSafe(reasons) => reasons.clone(),
        };

        let mut events = Vec::new();
        let digest = format!("{}/{}", seen.report.digest(), seen.policy.version);
        if self.digest.as_deref() != Some(&digest) {
            events.push(OrderEvent::ProviderReportObserved {
                read_no: seen.read_no,
                digest,
                report: seen.report.clone(),
                not_safe,
                policy: seen.policy.version.clone(),
                owners: seen.owners.clone(),
            });
        }
        events.extend(self.standing_events(&seen.policy, &seen.report, seen.read_at));
        events.extend(self.safety_event(verdict, seen));
        events
    }

    /// Once an epoch either way: safe, lost, and safe again under the next number.
    fn safety_event(&self, verdict: Verdict, seen: &ReportSeen) -> Option<OrderEvent> {
        let ordered = self.facts.amount;
        let reached = |epoch, evidence: Box<safety::Evidence>| OrderEvent::ConfidenceReachedSafe {
            epoch,
            ordered,
            evidence: *evidence,
        };
        match (verdict, self.safety) {
            (Verdict::Safe(evidence), Safety::No) => Some(reached(1, evidence)),
            (Verdict::Safe(evidence), Safety::Lost { epoch }) => {
                Some(reached(epoch.saturating_add(1), evidence))
            }
            (Verdict::NotSafe(reasons), Safety::Safe { epoch }) => {
                safety::is_lost(&reasons, &seen.policy, ordered, &seen.report, &self.released).then(|| {
                    OrderEvent::SafetyLost {
                        epoch,
                        ordered,
                        reasons,
                        read_no: seen.read_no,
                        policy: seen.policy.version.clone(),
                    }
                })
            }
            (Verdict::Safe(_), Safety::Safe { .. })
            | (Verdict::NotSafe(_), Safety::No | Safety::Lost { .. }) => None,
        }
    }

    /// Whether the answer is about something else than we asked for: then nothing in it counts, for payments neither.
    pub fn is_foreign(&self, report: &ProviderReport) -> bool {
        self.foreign(report).is_some()
    }

    fn foreign(&self, report: &ProviderReport) -> Option<(Mismatch, Option<Money>, Option<Money>)> {
        let ours = self.provider.as_ref().map(|provider| provider.reference.as_str());
        let ordered = self.facts.amount;
        if ours != Some(report.reference.as_str()) {
            // The foreign reference itself is not kept: it may be somebody else's.
            return Some((Mismatch::ReportedReference, None, None));
        }
        if report.ordered.currency != ordered.currency {
            return Some((Mismatch::ReportedCurrency, Some(ordered), Some(report.ordered)));
        }
        (report.ordered != ordered).then_some((Mismatch::ReportedAmount, Some(ordered), Some(report.ordered)))
    }

    fn standing_events(
        &self,
        policy: &Policy,
        report: &ProviderReport,
        read_at: Timestamp,
    ) -> Vec<OrderEvent> {
        let ordered = self.facts.amount;
        let mut events = Vec::new();
        let mut paid = Money::new(0, ordered.currency);
        let mut odd = None;
        for payment in report.payments.iter().filter(|payment| payment.is_approved()) {
            match paid.plus(payment.amount) {
                Ok(sum) => paid = sum,
                Err(_) => odd = Some((Mismatch::PaidCurrency, payment.amount)),
            }
        }
        let short = below(paid, ordered, policy.tolerance_minor);
        let over = below(ordered, paid, policy.tolerance_minor);
        if paid.minor > 0 {
            match (self.standing, short) {
                (Standing::Unpaid | Standing::PartiallyPaid { .. }, false) => {
                    events.push(OrderEvent::OrderPaid {
                        ordered,
                        paid,
                        at: Some(read_at),
                    });
                }
                (Standing::Unpaid, true) => events.push(OrderEvent::OrderPartiallyPaid { ordered, paid }),
                (Standing::PartiallyPaid { paid: before }, true) if before != paid => {
                    events.push(OrderEvent::OrderPartiallyPaid { ordered, paid });
                }
                // Money that went back is judged by safety; "paid" stays what it was.
                (Standing::PartiallyPaid { .. } | Standing::Paid { .. }, _) => {}
            }
            if short || over {
                odd = odd.or(Some((Mismatch::PaidAmount, paid)));
            }
        }
        if let Some((what, found)) = odd
            && self.mismatch != Some((what, Some(found)))
        {
            events.push(OrderEvent::AmountMismatchFound {
                what,
                expected: Some(ordered),
                found: Some(found),
            });
        }
        events
    }
}
