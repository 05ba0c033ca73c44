//! What did notifications do? They may make us look, and nothing else; and looking must not become a storm.

use std::collections::HashSet;

use crate::{
    export::Meta,
    facts::Facts,
    ledger::{CmOrder, Row, ShownPayment, Shows},
    linked::CUT_US,
    report::Check,
    store::{Ending, EventNo, Payment, What},
};

const NO_LEDGER: &str = "ledger.ndjson is missing: what the provider was asked, and told, is not known";
const NO_SHOWS: &str = "ledger.ndjson is missing, or its rows do not say what the provider showed";
/// A read may begin as soon as the notification is stored, which is before the provider has our 200 on record.
const BEFORE_OUR_200_US: i64 = 2_000_000;
/// One a second, and three at once in the beginning, with room for a clock that is read at two ends.
const READS_A_MINUTE_MAX: usize = 66;
const MINUTE_US: i64 = 60_000_000;

/// The provider's words for a payment that is refused or broken for good.
const FAILED: &[&str] = &[
    "RISK_CHECK_FAILED",
    "START_ERROR",
    "AUTHENTICATION_FAILED",
    "AUTHENTICATION_ERROR",
    "AUTHORIZATION_FAILED",
    "AUTHORIZATION_ERROR",
];

/// I-60: every report that changed something says what the provider answered to a read of that order before; and what follows from
/// reports alone, money and the ends that they tell of, follows from the one that it stands on.
pub(crate) fn only_reports_count(facts: &Facts, check: &mut Check) {
    let Some(ledger) = facts.ledger.as_ref().filter(|ledger| ledger.shows) else {
        return check.skip(NO_SHOWS);
    };
    let store = &facts.store;
    for order in &store.orders {
        let theirs = ledger.of(order);
        for observed in &order.observed {
            check.look();
            let until = facts.until(observed.event);
            let answered =
                theirs.is_some_and(|theirs| theirs.that_said(observed.told, until).next().is_some());
            if !answered {
                check.violated(
                    Some(order.name()),
                    "a report was taken in that the provider never gave",
                    [store.row(observed.event)],
                );
            }
        }
        // Whether an answer that the fact stands on shows it.
        let shown = |fact: EventNo, shows: &dyn Fn(&Shows) -> bool| {
            let (Some(theirs), Some(basis)) = (theirs, store.basis(order, fact)) else {
                return false;
            };
            let mut said = theirs.that_said(basis.told, facts.until(fact));
            said.any(|(_, _, said)| shows(said))
        };
        for paid in &order.paid {
            check.look();
            let found = |said: &Shows| {
                said.paid() == paid.paid.minor && *said.currency == *paid.paid.currency.to_string()
            };
            let ordered = order.amount.map_or(0, |amount| amount.minor);
            let whole = ordered.saturating_sub(paid.paid.minor) <= facts.yardstick.tolerance_minor;
            if !shown(paid.event, &found) || whole != paid.whole {
                check.violated(
                    Some(order.name()),
                    format!(
                        "{} of {ordered} are recorded as {}, and no report said so",
                        paid.paid,
                        if paid.whole { "paid" } else { "partially paid" }
                    ),
                    [store.row(paid.event)],
                );
            }
        }
        for payment in store.attempts(order) {
            for step in &payment.steps {
                let Some(found) = told_by_report(payment, &step.what) else {
                    continue;
                };
                check.look();
                if !shown(step.event, &*found) {
                    check.violated(
                        Some(order.name()),
                        format!(
                            "{} of {}, and no report said so",
                            store.events[step.event].kind, payment.id
                        ),
                        [store.row(step.event)],
                    );
                }
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

type ShownBy<'p> = Box<dyn Fn(&Shows) -> bool + 'p>;

/// What a report must show for a fact of an attempt; none where the fact may come without a report.
fn told_by_report<'p>(payment: &'p Payment, what: &'p What) -> Option<ShownBy<'p>> {
    let known = move |shown: &ShownPayment| payment.provider_payments().any(|id| *id == *shown.id);
    Some(match what {
        What::Authorized {
            provider_payment,
            amount,
            confidence,
        } => Box::new(move |said| {
            said.payments.iter().any(|shown| {
                *shown.id == **provider_payment
                    && &*shown.state == "AUTHORIZED"
                    && shown.confidence.as_deref() == Some(confidence)
                    && shown.amount == amount.minor
                    && *shown.currency == *amount.currency.to_string()
            })
        }),
        What::Ended(Ending::Canceled) => Box::new(move |said| {
            let canceled = |shown: &ShownPayment| known(shown) && &*shown.state == "CANCELED";
            said.payments.iter().any(canceled)
        }),
        What::Ended(Ending::Failed { reason }) if reason == "authorization_failed" => Box::new(move |said| {
            let failed = |shown: &ShownPayment| FAILED.contains(&&*shown.state);
            let ended = |shown: &ShownPayment| known(shown) && (failed(shown) || &*shown.state == "CANCELED");
            said.payments.iter().any(failed) && said.payments.iter().any(ended)
        }),
        What::Ended(Ending::Failed { reason }) if reason == "provider_never_received" => {
            Box::new(move |said| !said.payments.iter().any(known))
        }
        What::Ended(Ending::Expired) => Box::new(move |said| {
            let authorized = |shown: &ShownPayment| known(shown) && &*shown.state == "AUTHORIZED";
            !said.payments.iter().any(authorized)
        }),
        What::Ended(Ending::Failed { .. })
        | What::Started
        | What::Attempted { .. }
        | What::Unknown { .. }
        | What::Resolved { .. }
        | What::Redirected { .. } => return None,
    })
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
    let Some(ledger) = facts.ledger.as_ref().filter(|ledger| ledger.shows) else {
        return check.note(format!("{NO_SHOWS}: stored numbers alone were looked at"));
    };
    if !facts.meta.quiescent {
        return check.note("not quiescent: the last answer may still be taken in");
    }
    for order in &store.orders {
        let (Some(theirs), false) = (
            ledger.of(order),
            order.mismatches.iter().any(|(_, what)| what.is_foreign()),
        ) else {
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
            let read = last.is_some_and(|last| match sent_after {
                Some(sent_after) => last.n > *sent_after,
                // Stored on arrival, and read while the 200 was still on its way.
                None => last.at + BEFORE_OUR_200_US >= row.at,
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
