//! Was every release right, and was there every one? Held against what the provider's ledger says of amount, currency, level
//! and money that went back, at the moment of the report that the release was judged by.

use std::collections::{BTreeSet, HashMap};

use crate::{
    export::META,
    facts::Facts,
    ledger::{CmOrder, Ledger, Shows, Unfit},
    report::Check,
    shipped::Shipped,
    store::{Lost, Order, Safe},
};

const NO_SHOWS: &str = "ledger.ndjson is missing, or its rows do not say what the provider showed";
const NO_LOG: &str = "shipment.ndjson is missing: what a shipment service did is not known";
/// On top of the longest poll: reading, recording, the bus and the shipment service.
const AFTER_POLL_US: i64 = 5_000_000;

fn shown(facts: &Facts) -> Option<&Ledger> {
    facts.ledger.as_ref().filter(|ledger| ledger.shows)
}

fn fit(facts: &Facts, theirs: &CmOrder, shows: &Shows) -> Result<(), Unfit> {
    let by = &facts.yardstick;
    shows.fit(
        theirs.amount,
        &theirs.currency,
        by.tolerance_minor,
        &by.safe_levels,
    )
}

/// Whether goods that were released are to be called back for what is shown.
fn gone(facts: &Facts, theirs: &CmOrder, said: &Shows) -> bool {
    match fit(facts, theirs, said) {
        Ok(()) => false,
        Err(Unfit::NotSafe | Unfit::Level | Unfit::Currency | Unfit::MoneyBack) => true,
        // More than was ordered is for a person, and calls no goods back.
        Err(Unfit::Amount) => said.net() <= 0 || theirs.amount - said.net() > facts.yardstick.tolerance_minor,
    }
}

/// Why the release was not right, with the rows that show it; none if an answer to the read that it cites, as far as answers can
/// be told apart, justifies it, and was true once before it was given.
fn flaw(facts: &Facts, ledger: &Ledger, order: &Order, safe: &Safe) -> Option<(Unfit, Vec<String>)> {
    let mut rows = vec![facts.store.row(safe.event)];
    let (Some(theirs), Some(cited)) = (ledger.of(order), order.cited(safe.read_no, safe.event)) else {
        return Some((Unfit::NotSafe, rows));
    };
    rows.push(facts.store.row(cited.event));
    let given = rows.len();
    let mut worst = Unfit::NotSafe;
    for (_, answer, said) in theirs.that_said(cited.told, facts.until(safe.event)) {
        let true_once = || {
            let before = theirs.truth.iter().filter(|(row, _)| row.n < answer.n);
            let mut last = Err(Unfit::NotSafe);
            for (_, shows) in before {
                last = fit(facts, theirs, shows);
                if last.is_ok() {
                    break;
                }
            }
            last
        };
        match fit(facts, theirs, said).and_then(|()| true_once()) {
            Ok(()) => return None,
            Err(unfit) => {
                worst = unfit;
                rows.truncate(given);
                rows.push(answer.row());
            }
        }
    }
    Some((worst, rows))
}

/// Whether an answer that came after the one that released, to the read that the loss cites, called the goods back.
fn is_excused(facts: &Facts, theirs: &CmOrder, order: &Order, lost: &Lost) -> bool {
    let released = order.safe.iter().rfind(|safe| safe.event < lost.event);
    let released = released
        .and_then(|safe| order.cited(safe.read_no, safe.event))
        .and_then(|cited| theirs.that_said(cited.told, None).next())
        .map_or(0, |(_, answer, _)| answer.n);
    order.cited(lost.read_no, lost.event).is_some_and(|cited| {
        theirs
            .that_said(cited.told, facts.until(lost.event))
            .any(|(_, answer, said)| answer.n > released && gone(facts, theirs, said))
    })
}

fn each_release(
    facts: &Facts,
    check: &mut Check,
    mut each: impl FnMut(&mut Check, &Order, &Safe, Option<(Unfit, Vec<String>)>),
) {
    let Some(ledger) = shown(facts) else {
        return check.skip(NO_SHOWS);
    };
    for order in &facts.store.orders {
        for safe in &order.safe {
            check.look();
            let flaw = flaw(facts, ledger, order, safe);
            each(check, order, safe, flaw);
        }
    }
}

/// I-11: each release cites a report that the provider gave while, or after, it held the order safe; and a shipment service
/// releases nothing else.
pub(crate) fn sound(facts: &Facts, check: &mut Check) {
    each_release(facts, check, |check, order, _, flaw| {
        if let Some((Unfit::NotSafe, rows)) = flaw {
            check.violated(
                Some(order.name()),
                "it was called safe, and the provider had not said so",
                rows,
            );
        }
    });
    if facts.shipped.is_none() {
        check.note("shipment.ndjson is missing: what a shipment service released is not known");
    }
    let mut facts_of: HashMap<_, (&Order, u32)> = HashMap::new();
    for order in &facts.store.orders {
        for safe in &order.safe {
            facts_of.insert(facts.store.events[safe.event].id, (order, safe.epoch));
        }
    }
    for done in facts.shipped.iter().flat_map(|shipped| &shipped.releases) {
        check.look();
        let right = facts_of
            .get(&done.event)
            .is_some_and(|(order, epoch)| order.id == done.order && *epoch == done.epoch);
        if !right {
            check.violated(
                Some(&facts.name(&done.order)),
                "it was released, and no stored fact says that it may",
                [done.row()],
            );
        }
    }
}

/// I-12: what was counted is what was ordered, within the tolerance, in minor units; everybody names the same amount.
pub(crate) fn amount(facts: &Facts, check: &mut Check) {
    let tolerance = facts.yardstick.tolerance_minor;
    if let Some(theirs) = facts.meta.tolerance_minor.filter(|theirs| *theirs != tolerance) {
        check.violated(
            None,
            format!("it goes by a tolerance of {theirs}, and {tolerance} was agreed (say otherwise with --tolerance-minor)"),
            [format!("{META}:1")],
        );
    }
    if facts.shipped.is_none() {
        check.note("shipment.ndjson is missing: what a shipment service was told is not known");
    }
    let ledger = shown(facts);
    each_release(facts, check, |check, order, safe, flaw| {
        if let Some((Unfit::Amount, rows)) = flaw {
            check.violated(
                Some(order.name()),
                "it was released on another amount than was ordered",
                rows,
            );
            return;
        }
        let ordered = ledger
            .and_then(|ledger| ledger.of(order))
            .map(|theirs| theirs.amount);
        let agreed = order
            .amount
            .is_some_and(|amount| amount.minor == safe.ordered.minor)
            && ordered.is_none_or(|ordered| ordered == safe.ordered.minor)
            && (safe.counted.minor - safe.ordered.minor).abs() <= tolerance;
        if !agreed {
            check.violated(
                Some(order.name()),
                format!(
                    "it was released as {}, {} counted, and another amount was ordered",
                    safe.ordered, safe.counted
                ),
                [facts.store.row(safe.event)],
            );
        }
    });
    for done in facts.shipped.iter().flat_map(|shipped| &shipped.releases) {
        let (Some(amount), Some(at)) = (done.amount, facts.store.by_order.get(&done.order)) else {
            continue;
        };
        let order = &facts.store.orders[*at];
        if order.amount.is_some_and(|ordered| ordered.minor != amount.minor) {
            check.violated(
                Some(order.name()),
                format!("the shipment service was told {amount}"),
                [done.row()],
            );
        }
    }
}

/// I-13: all money that counted has the order's currency.
pub(crate) fn currency(facts: &Facts, check: &mut Check) {
    each_release(facts, check, |check, order, safe, flaw| {
        if let Some((Unfit::Currency, rows)) = flaw {
            check.violated(
                Some(order.name()),
                "it was released on money of another currency",
                rows,
            );
            return;
        }
        let ours = order.amount.map(|amount| amount.currency);
        if ours != Some(safe.counted.currency) || ours != Some(safe.ordered.currency) {
            check.violated(
                Some(order.name()),
                format!("it was released on {}", safe.counted),
                [facts.store.row(safe.event)],
            );
        }
    });
}

/// I-14: the level that the provider gave is one of those that are accepted.
pub(crate) fn level(facts: &Facts, check: &mut Check) {
    let accepted = |levels: &[String]| -> BTreeSet<String> { levels.iter().cloned().collect() };
    let ours = accepted(&facts.yardstick.safe_levels);
    let theirs = facts.meta.safe_levels.as_deref().map(accepted);
    if let Some(theirs) = theirs.filter(|theirs| *theirs != ours) {
        check.violated(
            None,
            format!("it goes by the levels {theirs:?}, and {ours:?} were agreed (say otherwise with --safe-levels)"),
            [format!("{META}:1")],
        );
    }
    each_release(facts, check, |check, order, _, flaw| {
        if let Some((Unfit::Level, rows)) = flaw {
            check.violated(
                Some(order.name()),
                "it was released at a level that is not accepted",
                rows,
            );
        }
    });
}

/// I-15: money that had gone back prevents a release; what goes back later takes it back, once an epoch, and the shipment
/// service is told.
pub(crate) fn taken_back(facts: &Facts, check: &mut Check) {
    each_release(facts, check, |check, order, _, flaw| {
        if let Some((Unfit::MoneyBack, rows)) = flaw {
            check.violated(
                Some(order.name()),
                "it was released although its money had gone back",
                rows,
            );
        }
    });
    let Some(ledger) = shown(facts) else { return };
    let store = &facts.store;
    for order in store.orders.iter().filter(|order| !order.safe.is_empty()) {
        let Some(theirs) = ledger.of(order) else {
            continue;
        };
        let mut epochs: HashMap<u32, usize> = HashMap::new();
        for lost in &order.lost {
            check.look();
            if let Some(first) = epochs.insert(lost.epoch, lost.event) {
                check.violated(
                    Some(order.name()),
                    format!("epoch {} was lost twice", lost.epoch),
                    [store.row(first), store.row(lost.event)],
                );
            }
            if !is_excused(facts, theirs, order, lost) {
                check.violated(
                    Some(order.name()),
                    "a release was taken back, and no report gave a reason",
                    [store.row(lost.event)],
                );
            }
            let held = facts.shipped.as_ref().is_none_or(|shipped| {
                shipped
                    .holds
                    .iter()
                    .any(|done| done.order == order.id && done.epoch == lost.epoch)
            });
            if facts.meta.quiescent && !held {
                check.violated(
                    Some(order.name()),
                    "the shipment service was not told to hold it",
                    [store.row(lost.event)],
                );
            }
        }
        let justified = order
            .safe
            .iter()
            .all(|safe| flaw(facts, ledger, order, safe).is_none());
        let stands = order.safe.len() > order.lost.len();
        let last = theirs.reads.iter().rev().find(|read| {
            let settled = |at: i64| at <= facts.meta.settled_before();
            read.said
                .as_ref()
                .is_some_and(|said| *said.reference == *theirs.reference)
                && read.answer.is_some_and(|row| settled(row.at))
        });
        let gone = last.and_then(|read| {
            let said = read.said.as_ref()?;
            read.answer.filter(|_| gone(facts, theirs, said))
        });
        if let Some(row) = gone.filter(|_| stands && justified && facts.meta.quiescent) {
            check.violated(
                Some(order.name()),
                "a report showed that it is not safe any more, and it was not taken back",
                [row.row()],
            );
        }
    }
}

/// I-10: an order that the provider holds safe at the end, and held so since, is released once and was delivered; none is
/// released twice.
pub(crate) fn exactly_one(facts: &Facts, check: &mut Check) {
    let Some(ledger) = shown(facts) else {
        return check.skip(NO_SHOWS);
    };
    let Some(shipped) = &facts.shipped else {
        return check.skip(NO_LOG);
    };
    once(facts, shipped, check);
    let store = &facts.store;
    for order in &store.orders {
        let mut epochs: HashMap<u32, usize> = HashMap::new();
        for safe in &order.safe {
            if let Some(first) = epochs.insert(safe.epoch, safe.event) {
                check.violated(
                    Some(order.name()),
                    format!("epoch {} became safe twice", safe.epoch),
                    [store.row(first), store.row(safe.event)],
                );
            }
        }
    }
    if !facts.meta.quiescent {
        return check.note("not quiescent: only that nothing was released twice".to_owned());
    }
    let epochs = shipped.epochs();
    for theirs in &ledger.orders {
        let Some(order) = facts.linked.order(store, &theirs.key) else {
            continue;
        };
        let kept_back =
            order.canceled.is_some() || order.mismatches.iter().any(|(_, what)| what.is_foreign());
        let mut held_since = theirs
            .truth
            .iter()
            .map(|(_, shows)| fit(facts, theirs, shows).is_ok())
            .skip_while(|fit| !fit)
            .peekable();
        let eligible = held_since.peek().is_some() && held_since.all(|fit| fit);
        if !eligible || kept_back {
            continue;
        }
        check.look();
        let rows = || theirs.truth.last().map(|(row, _)| row.row());
        let released = epochs.get(order.id.as_str()).map_or(0, |epochs| epochs.len());
        if released != 1 {
            check.violated(
                Some(order.name()),
                format!("the provider holds it safe, and it was released {released} times"),
                rows(),
            );
        } else if !order
            .safe
            .iter()
            .any(|safe| shipped.delivered.contains_key(&store.events[safe.event].id))
        {
            check.violated(
                Some(order.name()),
                "it was released without a delivery of the fact",
                rows(),
            );
        }
    }
}

fn once(facts: &Facts, shipped: &Shipped, check: &mut Check) {
    let mut seen = HashMap::new();
    for done in &shipped.releases {
        check.look();
        if let Some(first) = seen.insert((done.order.as_str(), done.epoch), done.row()) {
            check.violated(
                Some(&facts.name(&done.order)),
                format!("epoch {} was released twice", done.epoch),
                [first, done.row()],
            );
        }
    }
}

/// I-16: from the moment at which the provider holds an order safe to the delivery at the shipment service.
pub(crate) fn live(facts: &Facts, check: &mut Check) {
    let (Some(ledger), Some(shipped)) = (shown(facts), &facts.shipped) else {
        return check.skip("ledger.ndjson or shipment.ndjson is missing");
    };
    let Some(poll_ms) = facts.meta.poll_longest_ms else {
        return check.skip("meta.json does not tell poll_longest_ms");
    };
    if !facts.meta.moments_compare() {
        return check.skip("the clocks of the run were moved: how long something took is not known");
    }
    let limit = poll_ms.saturating_mul(1_000).saturating_add(AFTER_POLL_US);
    let mut took = vec![];
    for order in &facts.store.orders {
        let (Some(theirs), Some(safe)) = (ledger.of(order), order.safe.first()) else {
            continue;
        };
        let since = theirs
            .truth
            .iter()
            .find(|(_, shows)| fit(facts, theirs, shows).is_ok());
        let delivered = shipped.delivered.get(&facts.store.events[safe.event].id);
        let (Some((since, _)), Some((at, line))) = (since, delivered) else {
            continue;
        };
        let time = at.saturating_sub(since.at);
        check.look();
        took.push(time);
        if time > limit {
            check.violated(
                Some(order.name()),
                format!("it took {} ms", time / 1_000),
                [
                    since.row(),
                    facts.store.row(safe.event),
                    format!("{}:{line}", crate::export::SHIPMENT),
                ],
            );
        }
    }
    took.sort_unstable();
    let at = |hundredth: usize| took.get((took.len().saturating_sub(1)) * hundredth / 100);
    if let (Some(half), Some(most)) = (at(50), at(99)) {
        check.note(format!("p50 {} ms, p99 {} ms", half / 1_000, most / 1_000));
    }
}
