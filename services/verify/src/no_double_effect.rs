//! Did anything happen twice that may happen once? Orders made at the provider, payments started, answers taken for another's.

use std::collections::HashMap;

use crate::{
    facts::Facts,
    ledger::CmOrder,
    linked::CUT_US,
    report::Check,
    store::What,
    stored::{Closing, Operation, Resolution},
};

const NO_LEDGER: &str = "ledger.ndjson is missing: what happened at the provider is not known";

/// I-01: of the provider orders that were made for one order, at most one can be reached by a shopper; another is made only
/// after the outcome of the first was unknown or none, and under a new reference.
pub(crate) fn one_reachable_order(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    if facts.answers.is_none() {
        check.note("answers.ndjson is missing: which menus were shown is not known");
    }
    let store = &facts.store;
    let mut asked: HashMap<&str, usize> = HashMap::new();
    for (row, reference) in &ledger.creates {
        let times = asked.entry(reference).or_default();
        *times += 1;
        if *times == 2 && facts.linked.by_reference.contains_key(reference.as_str()) {
            check.violated(
                Some(reference),
                "the provider was asked twice to make an order under one reference",
                [row.row()],
            );
        }
    }
    let mut made: HashMap<usize, Vec<&CmOrder>> = HashMap::new();
    for theirs in ledger.orders.iter().filter(|order| order.created.is_some()) {
        let payment = facts.linked.by_reference.get(&theirs.reference);
        let order = payment.and_then(|(at, _)| store.by_order.get(&store.payments[*at].order));
        if let Some(order) = order {
            check.look();
            made.entry(*order).or_default().push(theirs);
        }
    }
    for (at, theirs) in made {
        let order = &store.orders[at];
        if theirs.len() > 1 {
            let reachable = |theirs: &&&CmOrder| {
                !theirs.starts.is_empty()
                    || !theirs.menu_starts.is_empty()
                    || order.registered.iter().any(|known| known.key == theirs.key)
                    || facts
                        .answers
                        .iter()
                        .flatten()
                        .any(|answer| answer.urls.contains(&theirs.key))
            };
            let reached: Vec<_> = theirs.iter().filter(reachable).collect();
            if reached.len() > 1 {
                let rows = reached.iter().filter_map(|theirs| theirs.created);
                check.violated(
                    Some(order.name()),
                    format!("{} of its orders at the provider can be paid", reached.len()),
                    rows.map(|row| row.row()),
                );
            }
        }
    }
    for payment in &store.payments {
        let mut before: Option<(&str, String)> = None;
        for step in &payment.steps {
            match &step.what {
                What::Attempted {
                    operation: Operation::CreateOrder,
                    reference,
                    ..
                } => {
                    let row = store.row(step.event);
                    if let Some((earlier, its_row)) = before {
                        let what = if earlier == reference {
                            "an order is asked for again under the same reference"
                        } else {
                            "an order is asked for while the outcome of the first was open or known"
                        };
                        check.violated(Some(&facts.name(&payment.order)), what, [its_row, row.clone()]);
                    }
                    before = Some((reference, row));
                }
                What::Unknown {
                    operation: Operation::CreateOrder,
                    ..
                } => before = None,
                What::Resolved {
                    operation: Operation::CreateOrder,
                    resolution,
                    ..
                } if *resolution != Resolution::Happened => before = None,
                _ => {}
            }
        }
    }
}

/// I-02: an attempt has at most one start with effect.
pub(crate) fn one_start_an_attempt(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    let mut effects: HashMap<usize, String> = HashMap::new();
    for linked in &facts.linked.starts {
        let Some(effect) = ledger.orders[linked.cm].starts[linked.start].effect else {
            continue;
        };
        check.look();
        let Some(payment) = linked.payment else { continue };
        if let Some(first) = effects.insert(payment, effect.row()) {
            let payment = &facts.store.payments[payment];
            check.violated(
                Some(&facts.name(&payment.order)),
                format!("{} was started twice at the provider", payment.id),
                [first, effect.row()],
            );
        }
    }
}

/// I-03: a start belongs to an attempt that was opened before it, after every earlier attempt of its order was closed; one that
/// was closed as authorized may bring money, so that another needs to have brought too little.
pub(crate) fn one_live_payment(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    let store = &facts.store;
    for linked in &facts.linked.starts {
        let start = &ledger.orders[linked.cm].starts[linked.start];
        let (Some(effect), Some(order)) = (start.effect, linked.order) else {
            continue;
        };
        check.look();
        let order = &store.orders[order];
        let payment = linked.payment.map(|at| store.payments[at].id.as_str());
        let place = order
            .opened
            .iter()
            .position(|(_, id)| Some(id.as_str()) == payment);
        let Some(place) = place else {
            check.violated(
                Some(order.name()),
                "a payment was started that no decision asked for",
                [effect.row()],
            );
            continue;
        };
        let (opened, _) = order.opened[place];
        if facts.meta.moments_compare() && store.at(opened) > start.request.at + CUT_US {
            check.violated(
                Some(order.name()),
                "a payment was started before it was decided on",
                [effect.row(), store.row(opened)],
            );
        }
        for (earlier, id) in &order.opened[..place] {
            let ended = order
                .closing(id, opened)
                .is_some_and(|closing| closing != Closing::Authorized || order.is_partially_paid(opened));
            if !ended {
                check.violated(
                    Some(order.name()),
                    format!("a second payment was started while {id} was open"),
                    [store.row(*earlier), store.row(opened), effect.row()],
                );
            }
        }
    }
}

/// I-04: an attempt's start is sent once for each intent, and the next intent comes after the first was resolved as without
/// effect.
pub(crate) fn no_repeated_start(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    let mut sent: HashMap<usize, Vec<String>> = HashMap::new();
    for linked in &facts.linked.starts {
        let start = &ledger.orders[linked.cm].starts[linked.start];
        if let Some(payment) = linked.payment.filter(|_| start.asked) {
            check.look();
            sent.entry(payment).or_default().push(start.request.row());
        }
    }
    for (at, rows) in sent {
        let payment = &facts.store.payments[at];
        let intents = payment.intents(Operation::Start).count();
        if rows.len() > intents {
            check.violated(
                Some(&facts.name(&payment.order)),
                format!(
                    "{} was sent {} times for {intents} intents",
                    payment.id,
                    rows.len()
                ),
                rows,
            );
        }
    }
    for payment in &facts.store.payments {
        let mut open = None;
        for step in &payment.steps {
            match step.what {
                What::Attempted {
                    operation: Operation::Start,
                    attempt,
                    ..
                } => {
                    if let Some(first) = open {
                        check.violated(
                            Some(&facts.name(&payment.order)),
                            format!(
                                "start {attempt} of {} is decided on while the first is not resolved",
                                payment.id
                            ),
                            [facts.store.row(first), facts.store.row(step.event)],
                        );
                    }
                    open = Some(step.event);
                }
                What::Resolved {
                    operation: Operation::Start,
                    resolution,
                    ..
                } if resolution != Resolution::Happened => open = None,
                _ => {}
            }
        }
    }
}

/// I-06: keys are one order's alone; what was taken in was about that order; and an answer that was not is never taken in.
pub(crate) fn no_swapped_answer(facts: &Facts, check: &mut Check) {
    let store = &facts.store;
    let mut keys: HashMap<&str, (&str, String)> = HashMap::new();
    for order in &store.orders {
        for registered in &order.registered {
            check.look();
            let here = (order.id.as_str(), store.row(registered.event));
            if let Some((other, row)) = keys.insert(&registered.key, here.clone())
                && other != order.id
            {
                check.violated(
                    Some(order.name()),
                    format!("it shares its order at the provider with {}", facts.name(other)),
                    [row, here.1],
                );
            }
        }
        for observed in &order.observed {
            check.look();
            let ours = order
                .registered
                .iter()
                .any(|known| known.reference == observed.reference)
                && order.amount == Some(observed.ordered);
            if !ours {
                check.violated(
                    Some(order.name()),
                    "a report was taken in whose reference, amount or currency is not the order's",
                    [store.row(observed.event)],
                );
            }
        }
    }
    for order in &store.orders {
        let foreign = order.mismatches.iter().find(|(_, what)| what.is_foreign());
        let Some((stopped, _)) = foreign else { continue };
        for safe in order.safe.iter().filter(|safe| safe.event > *stopped) {
            check.violated(
                Some(order.name()),
                "it was released after an answer that was about another order",
                [store.row(*stopped), store.row(safe.event)],
            );
        }
    }
    let Some(ledger) = &facts.ledger else {
        return check.note("ledger.ndjson is missing: stored facts alone were held against each other");
    };
    if !ledger.shows {
        check.note("the ledger's rows do not say what was shown: payments and answers were not looked at");
    }
    for theirs in &ledger.orders {
        let Some(order) = facts.linked.order(store, &theirs.key) else {
            continue;
        };
        let held = |id: &String| {
            let shown = theirs.truth.iter().flat_map(|(_, shows)| &shows.payments);
            shown.into_iter().any(|payment| *payment.id == **id)
        };
        for observed in order.observed.iter().filter(|_| ledger.shows) {
            if !observed.payments.iter().all(held) {
                check.violated(
                    Some(order.name()),
                    "a payment was taken in that the provider has for another order, or not at all",
                    [store.row(observed.event)],
                );
            }
        }
        let settled = theirs.reads.iter().rev().find_map(|read| {
            let row = read.answer.filter(|row| row.at <= facts.meta.settled_before())?;
            read.said.as_ref().map(|said| (row, said))
        });
        let Some((row, said)) = settled else { continue };
        let foreign = *said.reference != *theirs.reference
            || said.amount != theirs.amount
            || *said.currency != *theirs.currency;
        if foreign {
            check.look();
            let found = order.mismatches.iter().any(|(_, what)| what.is_foreign());
            if facts.meta.quiescent && !found {
                check.violated(
                    Some(order.name()),
                    "an answer about another order was not noticed",
                    [row.row()],
                );
            }
        }
    }
}
