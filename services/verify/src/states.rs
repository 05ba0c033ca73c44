//! Which facts may follow which? The published table, written down without looking at the domain's code: a second opinion.
//!
//! An attempt is one machine. An order is several that run side by side: whether it is known at the provider, its attempts, its
//! money, its safety, and whether it ended.

use std::collections::{HashMap, HashSet};

use crate::{
    facts::Facts,
    report::Check,
    store::{Order, Payment, Store},
    stored::Closing,
};

/// From, fact, to. What is not here does not happen.
type Machine = &'static [(&'static str, &'static str, &'static str)];

const PAYMENT: Machine = &[
    ("none", "PaymentStarted", "deciding"),
    ("deciding", "ProviderCallAttempted/create_order", "creating"),
    ("deciding", "ProviderCallAttempted/start", "starting"),
    ("deciding", "PaymentFailed", "closed"),
    // The call's own answers.
    ("creating", "ProviderOutcomeResolved/create_order", "deciding"),
    ("creating", "ProviderOutcomeUnknown/create_order", "deciding"),
    ("creating", "PaymentFailed", "closed"),
    ("starting", "PaymentRedirected", "redirected"),
    ("starting", "ProviderOutcomeResolved/start/did_not", "deciding"),
    ("starting", "ProviderOutcomeUnknown/start", "unknown"),
    ("starting", "PaymentFailed", "closed"),
    // Only a report, or the late answer itself, ends a doubt.
    ("unknown", "ProviderOutcomeResolved/start/happened", "shown"),
    ("unknown", "ProviderOutcomeResolved/start/did_not", "deciding"),
    ("shown", "PaymentRedirected", "redirected"),
    ("shown", "PaymentFailed", "closed"),
    ("shown", "PaymentCanceled", "closed"),
    ("shown", "PaymentExpired", "closed"),
    ("redirected", "PaymentFailed", "closed"),
    ("redirected", "PaymentCanceled", "closed"),
    ("redirected", "PaymentExpired", "closed"),
    // Money is money, in whichever step it is seen.
    ("deciding", "PaymentAuthorized", "authorized"),
    ("creating", "PaymentAuthorized", "authorized"),
    ("starting", "PaymentAuthorized", "authorized"),
    ("shown", "PaymentAuthorized", "authorized"),
    ("redirected", "PaymentAuthorized", "authorized"),
    ("closed", "PaymentAuthorized", "authorized"),
    // The answer that is slower than the report says which payment was ours.
    (
        "authorized",
        "ProviderOutcomeResolved/start/happened",
        "authorized",
    ),
    ("closed", "ProviderOutcomeResolved/start/happened", "closed"),
];

/// The order's machines, each with the facts that concern it.
const ORDER: &[(&str, Machine)] = &[
    (
        "provider",
        &[
            ("unknown", "ProviderOrderRegistered", "registered"),
            ("registered", "ProviderReportObserved", "registered"),
            ("registered", "ConfidenceReachedSafe", "registered"),
            ("registered", "SafetyLost", "registered"),
            ("registered", "OrderPaid", "registered"),
            ("registered", "OrderPartiallyPaid", "registered"),
            ("registered", "AmountMismatchFound", "registered"),
        ],
    ),
    (
        "money",
        &[
            ("unpaid", "OrderPartiallyPaid", "partially"),
            ("partially", "OrderPartiallyPaid", "partially"),
            ("unpaid", "OrderPaid", "paid"),
            ("partially", "OrderPaid", "paid"),
            // Who has paid is asked for nothing more, and cannot be given up or expire.
            ("unpaid", "AttemptOpened", "unpaid"),
            ("partially", "AttemptOpened", "partially"),
            ("unpaid", "OrderCanceled", "unpaid"),
            ("unpaid", "OrderExpired", "unpaid"),
        ],
    ),
    (
        "safety",
        &[
            ("no", "ConfidenceReachedSafe", "safe"),
            ("safe", "SafetyLost", "lost"),
            ("lost", "ConfidenceReachedSafe", "safe"),
        ],
    ),
    (
        "end",
        &[
            ("open", "OrderExpired", "expired"),
            ("open", "OrderCanceled", "canceled"),
            ("expired", "OrderCanceled", "canceled"),
            ("open", "AttemptOpened", "open"),
            // Late money counts for an expired order, and never for one that the shop gave up.
            ("open", "ConfidenceReachedSafe", "open"),
            ("expired", "ConfidenceReachedSafe", "expired"),
        ],
    ),
];

/// I-34: replaying the log through the table never meets a pair that is not in it.
pub(crate) fn legal(facts: &Facts, check: &mut Check) {
    for order in &facts.store.orders {
        replay_order(&facts.store, order, check);
    }
    for payment in &facts.store.payments {
        replay_payment(facts, payment, check);
    }
}

fn next(table: Machine, from: &str, fact: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(state, event, _)| *state == from && *event == fact)
        .map(|(_, _, to)| *to)
}

fn replay_payment(facts: &Facts, payment: &Payment, check: &mut Check) {
    let mut state = "none";
    for step in &payment.steps {
        check.look();
        let kind = facts.store.events[step.event].kind;
        match next(PAYMENT, state, kind) {
            Some(to) => state = to,
            None => check.violated(
                Some(&facts.name(&payment.order)),
                format!("{kind} while {} was {state}", payment.id),
                [facts.store.row(step.event)],
            ),
        }
    }
}

fn replay_order(store: &Store, order: &Order, check: &mut Check) {
    let mut states: HashMap<&str, &str> = ORDER.iter().map(|(name, table)| (*name, table[0].0)).collect();
    let mut attempts = Attempts::of(order);
    let (mut created, mut epoch) = (false, 0);
    for event in &order.events {
        check.look();
        let kind = store.events[*event].kind;
        let mut illegal = |what: String| check.violated(Some(order.name()), what, [store.row(*event)]);
        if created == (kind == "OrderCreated") {
            illegal(format!(
                "{kind} where the order was {}made before",
                if created { "" } else { "not " }
            ));
        }
        created = true;
        for (machine, table) in ORDER {
            let concerned = table.iter().any(|(_, fact, _)| *fact == kind);
            let state = states[machine];
            match next(table, state, kind) {
                Some(to) => {
                    states.insert(machine, to);
                }
                None if concerned => illegal(format!("{kind} while its {machine} was {state}")),
                None => {}
            }
        }
        if let Err(what) = attempts.take(*event, kind) {
            illegal(what);
        }
        let expected = match kind {
            "ConfidenceReachedSafe" => {
                epoch += 1;
                order
                    .safe
                    .iter()
                    .find(|safe| safe.event == *event)
                    .map(|safe| safe.epoch)
            }
            "SafetyLost" => order
                .lost
                .iter()
                .find(|lost| lost.event == *event)
                .map(|lost| lost.epoch),
            _ => None,
        };
        if expected.is_some_and(|named| named != epoch) {
            illegal(format!("{kind} names another epoch than {epoch}"));
        }
    }
}

/// One is live at a time, and one that was authorized may bring money until some came; a closing is undone by money alone.
struct Attempts<'a> {
    order: &'a Order,
    live: HashSet<&'a str>,
    closed: HashMap<&'a str, Closing>,
}

impl<'a> Attempts<'a> {
    fn of(order: &'a Order) -> Self {
        Self {
            order,
            live: HashSet::new(),
            closed: HashMap::new(),
        }
    }

    fn take(&mut self, event: usize, kind: &str) -> Result<(), String> {
        match kind {
            "AttemptOpened" => {
                let opened = self.order.opened.iter().find(|(at, _)| *at == event);
                let Some((_, id)) = opened else { return Ok(()) };
                let others = !self.live.is_empty();
                if !self.live.insert(id) || self.closed.contains_key(id.as_str()) {
                    return Err(format!("{id} was opened before"));
                }
                if others {
                    return Err(format!("{id} was opened while another attempt was live"));
                }
                let authorized = |closing: &Closing| *closing == Closing::Authorized;
                if self.closed.values().any(authorized) && !self.order.is_partially_paid(event) {
                    return Err(format!("{id} was opened while another attempt was authorized"));
                }
            }
            "AttemptClosed" => {
                let closed = self.order.closed.iter().find(|(at, ..)| *at == event);
                let Some((_, id, closing)) = closed else {
                    return Ok(());
                };
                let was_live = self.live.remove(id.as_str());
                let before = self.closed.insert(id, *closing);
                let undone = before.is_some_and(|before| before != Closing::Authorized)
                    && *closing == Closing::Authorized;
                if !was_live && !undone {
                    return Err(format!("{id} was closed and was not live"));
                }
            }
            "OrderExpired" if !self.live.is_empty() => {
                return Err("it expired while an attempt was live".to_owned());
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_never_sent_again_while_its_outcome_is_unknown() {
        assert_eq!(next(PAYMENT, "unknown", "ProviderCallAttempted/start"), None);
        assert_eq!(next(PAYMENT, "redirected", "ProviderCallAttempted/start"), None);
        assert_eq!(next(PAYMENT, "authorized", "PaymentFailed"), None);
    }

    #[test]
    fn every_state_can_be_reached() {
        let reached: HashSet<_> = PAYMENT.iter().map(|(_, _, to)| *to).chain(["none"]).collect();
        assert!(PAYMENT.iter().all(|(from, ..)| reached.contains(from)));
        for (_, table) in ORDER {
            let reached: HashSet<_> = table.iter().map(|(_, _, to)| *to).chain([table[0].0]).collect();
            assert!(table.iter().all(|(from, ..)| reached.contains(from)));
        }
    }
}
