//! What did notifications do? They may make us look, and nothing else; and looking must not become a storm.

use std::collections::HashSet;

use crate::{
    export::Meta,
    facts::Facts,
    ledger::{CmOrder, Row},
    linked::CUT_US,
    report::Check,
};

const NO_LEDGER: &str = "ledger.ndjson is missing: what the provider was asked, and told, is not known";
const NO_SHOWS: &str = "ledger.ndjson is missing, or its rows do not say what the provider showed";
/// A read may begin as soon as the notification is stored, which is before the provider has our 200 on record.
const BEFORE_OUR_200_US: i64 = 2_000_000;
/// One a second, and three at once in the beginning, with room for a clock that is read at two ends.
const READS_A_MINUTE_MAX: usize = 66;
const MINUTE_US: i64 = 60_000_000;

/// I-60: every report that changed something says what the provider answered to a read of that order before.
pub(crate) fn only_reports_count(facts: &Facts, check: &mut Check) {
    let Some(ledger) = facts.ledger.as_ref().filter(|ledger| ledger.shows) else {
        return check.skip(NO_SHOWS);
    };
    let store = &facts.store;
    for order in &store.orders {
        if order.observed.is_empty() {
            continue;
        }
        let theirs = order
            .registered
            .first()
            .and_then(|known| ledger.order(&known.key));
        let said: Vec<(Row, u64)> = theirs
            .iter()
            .flat_map(|theirs| &theirs.reads)
            .filter_map(|read| Some((read.answer?, read.said.as_ref()?.told())))
            .collect();
        for observed in &order.observed {
            check.look();
            let recorded = store.at(observed.event);
            let in_time = |row: &Row| !facts.meta.moments_compare() || row.at <= recorded + CUT_US;
            let answered = said
                .iter()
                .any(|(row, told)| *told == observed.told && in_time(row));
            if !answered {
                check.violated(
                    Some(order.name()),
                    "a report was taken in that the provider never gave",
                    [store.row(observed.event)],
                );
            }
        }
        for event in order.events.iter().map(|event| &store.events[*event]) {
            let by_report = matches!(
                event.kind,
                "ProviderReportObserved"
                    | "OrderPaid"
                    | "OrderPartiallyPaid"
                    | "ConfidenceReachedSafe"
                    | "SafetyLost"
            );
            if by_report && event.by_shop {
                check.violated(
                    Some(order.name()),
                    format!("{} was recorded on a shop's word", event.kind),
                    [event.row()],
                );
            }
        }
    }
}

/// I-61: reports are taken in by the number of their read, and what was taken in last is what the provider said last.
pub(crate) fn newest_wins(facts: &Facts, check: &mut Check) {
    let store = &facts.store;
    for order in &store.orders {
        let mut numbers: Vec<(usize, i64)> = order
            .observed
            .iter()
            .map(|observed| (observed.event, observed.read_no))
            .chain(order.lost.iter().map(|lost| (lost.event, lost.read_no)))
            .collect();
        numbers.sort_unstable();
        for pair in numbers.windows(2) {
            check.look();
            // A report and the loss that it causes are one read.
            if pair[1].1 < pair[0].1 {
                check.violated(
                    Some(order.name()),
                    format!("read {} was taken in after read {}", pair[1].1, pair[0].1),
                    [store.row(pair[0].0), store.row(pair[1].0)],
                );
            }
        }
        for safe in &order.safe {
            let newer = numbers
                .iter()
                .find(|(event, number)| *event < safe.event && *number > safe.read_no);
            if let Some((event, number)) = newer {
                check.violated(
                    Some(order.name()),
                    format!("it was released by read {} after read {number}", safe.read_no),
                    [store.row(*event), store.row(safe.event)],
                );
            }
        }
    }
    let Some(ledger) = facts
        .ledger
        .as_ref()
        .filter(|ledger| ledger.shows && facts.meta.quiescent)
    else {
        return;
    };
    for order in &store.orders {
        let theirs = order
            .registered
            .first()
            .and_then(|known| ledger.order(&known.key));
        let (Some(theirs), false) = (theirs, order.mismatches.iter().any(|(_, what)| what.is_foreign()))
        else {
            continue;
        };
        let last = theirs.reads.iter().rev().find_map(|read| {
            let row = read.answer.filter(|row| row.at <= facts.meta.settled_before())?;
            Some((row, read.said.as_ref()?))
        });
        let Some((row, said)) = last else { continue };
        check.look();
        let newest = order.observed.last();
        if newest.is_none_or(|observed| observed.told != said.told()) {
            check.violated(
                Some(order.name()),
                "what was taken in last is not what the provider said last",
                newest
                    .map(|observed| store.row(observed.event))
                    .into_iter()
                    .chain([row.row()]),
            );
        }
    }
}

/// When the order was registered; the provider's moments before that are those of an order that we do not have yet.
fn registered_at(facts: &Facts, theirs: &CmOrder) -> Option<i64> {
    let order = facts.linked.order(&facts.store, &theirs.key)?;
    let registered = order.registered.iter().find(|known| known.key == theirs.key)?;
    Some(facts.store.at(registered.event))
}

fn settled(meta: &Meta, row: &Row) -> bool {
    row.at <= meta.settled_before()
}

/// I-62: after every 200 that we gave a notification of a known order, its report is read.
pub(crate) fn read_after(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    if !facts.meta.quiescent {
        return check.skip("not quiescent: a read may still come");
    }
    for theirs in &ledger.orders {
        let Some(registered) = registered_at(facts, theirs) else {
            continue;
        };
        let last = theirs.reads.last().map(|read| read.request);
        for (row, status, sent_after) in &theirs.notified {
            let early = facts.meta.moments_compare() && row.at + CUT_US < registered;
            if *status != Some(200) || early || !settled(&facts.meta, row) {
                continue;
            }
            check.look();
            let read = last.is_some_and(|last| {
                // Stored on arrival, and read while the 200 was still on its way.
                last.at + BEFORE_OUR_200_US >= row.at
                    || sent_after.is_some_and(|sent_after| last.n > sent_after)
            });
            if !read {
                check.violated(
                    Some(&theirs.reference),
                    "a notification was answered 200, and nothing was read after it",
                    [row.row()],
                );
            }
        }
    }
}

/// I-64: a notification that came before the order was registered is followed by a read after that.
pub(crate) fn parked(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    if !facts.meta.quiescent || !facts.meta.moments_compare() {
        return check.skip("not quiescent, or the clocks of the run were moved");
    }
    for theirs in &ledger.orders {
        let Some(registered) = registered_at(facts, theirs) else {
            continue;
        };
        let early = theirs
            .notified
            .iter()
            .filter(|(row, status, _)| *status == Some(200) && row.at + CUT_US < registered);
        for (row, ..) in early {
            check.look();
            let read = theirs
                .reads
                .iter()
                .any(|read| read.request.at + CUT_US >= registered);
            if !read {
                check.violated(
                    Some(&theirs.reference),
                    "a notification came before our own record, and nothing was read after that",
                    [row.row()],
                );
            }
        }
    }
}

/// I-63: reads of one order do not overlap and keep their pace, and orders that are not there are not asked for.
pub(crate) fn bounded(facts: &Facts, check: &mut Check) {
    let Some(ledger) = &facts.ledger else {
        return check.skip(NO_LEDGER);
    };
    for row in &ledger.unknown_reads {
        check.look();
        check.violated(
            None,
            "a read of an order that the provider does not have",
            [row.row()],
        );
    }
    let mut told = HashSet::new();
    for theirs in &ledger.orders {
        let mut open: Option<(u64, Row)> = None;
        for (place, read) in theirs.reads.iter().enumerate() {
            check.look();
            let until = read.answer.map_or(u64::MAX, |row| row.n);
            if let Some((end, first)) = open
                && read.request.n < end
                // Cut without an answer row: nothing tells how long it was under way.
                && end != u64::MAX
            {
                check.violated(
                    Some(&theirs.reference),
                    "two reads of one order were under way",
                    [first.row(), read.request.row()],
                );
            }
            open = Some((until, read.request));
            let since = place.saturating_sub(READS_A_MINUTE_MAX);
            let first = theirs.reads[since].request;
            let quick = place - since >= READS_A_MINUTE_MAX && read.request.at - first.at < MINUTE_US;
            if quick && told.insert(&theirs.key) {
                check.violated(
                    Some(&theirs.reference),
                    format!("more than {READS_A_MINUTE_MAX} reads within a minute"),
                    [first.row(), read.request.row()],
                );
            }
        }
    }
}
