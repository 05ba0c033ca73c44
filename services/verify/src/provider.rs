//! Did every call to the provider have a reason, and does everything there have an owner here?

use crate::{
    facts::Facts,
    ledger::CmOrder,
    linked::CUT_US,
    report::Check,
    store::{Payment, Step, What},
    stored::{Operation, Resolution},
};

const NO_LEDGER: &str = "ledger.ndjson is missing: what the provider was asked is not known";
/// The longest that a shopper may be in doubt. A create that nobody answered is asked for again at once; a worker that has to
/// be started first, or a database that is away, may take as long.
const RESOLVED_US: i64 = 15 * 60 * 1_000_000;

/// I-50: each create and start has a stored intent that names its reference or key, and each read an order that is known there.
pub(crate) fn intent_first(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    let store = &facts.store;
    let late = |intent: usize, at: i64| facts.meta.moments_compare() && store.at(intent) > at + CUT_US;
    for (row, reference) in &ledger.creates {
        check.look();
        match facts.linked.by_reference.get(reference) {
            None => check.violated(
                Some(reference),
                "an order was asked for that no intent names",
                [row.row()],
            ),
            Some((_, intent)) if late(*intent, row.at) => check.violated(
                Some(reference),
                "an order was asked for before the intent was stored",
                [row.row(), store.row(*intent)],
            ),
            Some(_) => {}
        }
    }
    for row in &ledger.unknown_starts {
        check.look();
        check.violated(None, "a start of an order that is not there", [row.row()]);
    }
    for linked in &facts.linked.starts {
        let theirs = &ledger.orders[linked.cm];
        let start = &theirs.starts[linked.start];
        if !start.asked {
            continue;
        }
        check.look();
        let intents = linked
            .payment
            .map(|at| store.payments[at].intents(Operation::Start))
            .into_iter()
            .flatten();
        let older = intents
            .filter(|(_, _, key)| *key == theirs.key)
            .any(|(intent, ..)| !late(intent, start.request.at));
        if !older {
            check.violated(
                Some(&theirs.reference),
                "a payment was started that no older intent names",
                [start.request.row()],
            );
        }
    }
    let Some(reads) = &facts.reads else {
        return check.note("reads.ndjson is missing: creates and starts alone were held against intents");
    };
    for theirs in ledger.orders.iter().filter(|theirs| !theirs.reads.is_empty()) {
        check.look();
        let known = facts
            .linked
            .order(store, &theirs.key)
            .is_some_and(|order| reads.contains(&order.id));
        if !known {
            check.violated(
                Some(&theirs.reference),
                "a report was read that nobody here asked for",
                [theirs.reads[0].request.row()],
            );
        }
    }
}

/// I-51: an unknown start ends by a report, its late answer or a closing within 15 minutes, and no start is sent meanwhile; an
/// unknown create is followed by another one under a new reference, or the attempt ends.
pub(crate) fn resolved(facts: &Facts, check: &mut Check) {
    let store = &facts.store;
    let now = facts.meta.exported_at.as_microsecond();
    for payment in &store.payments {
        for (place, step) in payment.steps.iter().enumerate() {
            let What::Unknown { operation, attempt } = step.what else {
                continue;
            };
            check.look();
            let since = store.at(step.event);
            let end = payment.steps[place + 1..]
                .iter()
                .find(|later| ends(operation, attempt, later));
            let took = end.map_or(now, |end| store.at(end.event)).saturating_sub(since);
            let too_long = took > RESOLVED_US && facts.meta.moments_compare();
            let never = end.is_none() && facts.meta.quiescent && took > facts.meta.visibility_ms * 1_000 * 2;
            if too_long || never {
                let rows = std::iter::once(step.event).chain(end.map(|end| end.event));
                check.violated(
                    Some(&facts.name(&payment.order)),
                    match end {
                        Some(_) => format!("an unknown outcome was open for {} s", took / 1_000_000),
                        None => "an unknown outcome was never resolved".to_owned(),
                    },
                    rows.map(|event| store.row(event)),
                );
            }
            if operation == Operation::Start {
                only_read(facts, payment, place, check);
            }
        }
    }
}

fn ends(operation: Operation, attempt: u32, later: &Step) -> bool {
    match (&later.what, operation) {
        (What::Authorized { .. } | What::Ended(_), _) | (What::Redirected { .. }, Operation::Start) => true,
        (
            What::Resolved {
                operation: of,
                attempt: which,
                ..
            },
            _,
        ) => *of == operation && *which == attempt,
        (What::Attempted { .. }, Operation::CreateOrder) => true,
        _ => false,
    }
}

/// While the outcome is unknown, no other call is decided on.
fn only_read(facts: &Facts, payment: &Payment, place: usize, check: &mut Check) {
    for later in &payment.steps[place + 1..] {
        match &later.what {
            What::Attempted { .. } => {
                check.violated(
                    Some(&facts.name(&payment.order)),
                    "a call was decided on while the outcome of a start was unknown",
                    [
                        facts.store.row(payment.steps[place].event),
                        facts.store.row(later.event),
                    ],
                );
                return;
            }
            What::Resolved { .. } | What::Authorized { .. } | What::Redirected { .. } | What::Ended(_) => {
                return;
            }
            What::Started | What::Unknown { .. } => {}
        }
    }
}

/// I-53: what the provider made is registered here, or is a ghost: asked for by an intent whose outcome stayed unknown, or was
/// told only after another order had been registered. Nothing is ever started at a ghost: its menu is shown to nobody.
pub(crate) fn no_orphan(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    for theirs in &ledger.orders {
        let Some(created) = theirs.created else { continue };
        check.look();
        if facts.linked.by_key.contains_key(&theirs.key) {
            continue;
        }
        let why = match facts.linked.by_reference.get(&theirs.reference) {
            None => Some("no intent names it"),
            Some((payment, intent)) => orphaned(facts, *payment, *intent).or_else(|| haunted(theirs)),
        };
        if let Some(why) = why {
            check.violated(
                Some(&theirs.reference),
                format!("the provider has an order that is not known here: {why}"),
                [created.row()],
            );
        }
    }
}

/// Why an order of this intent is no ghost with a reason.
fn orphaned(facts: &Facts, payment: usize, intent: usize) -> Option<&'static str> {
    let payment = &facts.store.payments[payment];
    let after = payment
        .steps
        .iter()
        .skip_while(|step| step.event != intent)
        .nth(1)
        .map(|step| (step.event, &step.what));
    match after {
        Some((_, What::Unknown { .. })) => None,
        None if !facts.meta.quiescent => None,
        None => Some("the intent was never followed up"),
        // The answer to an earlier call, told late, was taken first.
        Some((
            told,
            What::Resolved {
                resolution: Resolution::Happened,
                ..
            },
        )) => {
            let order = facts.store.by_order.get(&payment.order);
            let registered = order.map(|at| facts.store.orders[*at].registered.as_slice());
            let beaten = registered
                .unwrap_or_default()
                .iter()
                .any(|known| known.event < told);
            (!beaten).then_some("its key was never recorded")
        }
        Some(_) => Some("it was taken for not made"),
    }
}

/// Why what is known as a ghost is none.
fn haunted(theirs: &CmOrder) -> Option<&'static str> {
    let shown = || theirs.truth.iter().any(|(_, shows)| !shows.payments.is_empty());
    let started = !theirs.starts.is_empty() || !theirs.menu_starts.is_empty() || shown();
    started.then_some("a payment was started at it")
}
