//! Is a read model nothing but the log, folded? Digests of the same rows, built in different ways.

use crate::{
    export::{PROJECTIONS, ProjectionLine, REPLAYS},
    facts::Facts,
    report::Check,
};

impl ProjectionLine {
    pub(crate) fn row(&self) -> String {
        format!("{PROJECTIONS}:{}", self.line)
    }
}

/// I-40: rows that were built from zero equal the live ones at the same position.
pub(crate) fn rebuilt(facts: &Facts, check: &mut Check) {
    compare(facts, check, "rebuilt");
}

/// I-41: rows to which a part of the log was delivered again equal the live ones at the same position.
pub(crate) fn redelivered(facts: &Facts, check: &mut Check) {
    compare(facts, check, "redelivered");
}

fn compare(facts: &Facts, check: &mut Check, generation: &str) {
    let rows = facts.projections.as_deref().unwrap_or_default();
    let mut pairs = 0;
    for other in rows.iter().filter(|row| row.generation == generation) {
        let live = rows.iter().find(|row| {
            row.generation == "live" && row.projection == other.projection && row.position == other.position
        });
        let Some(live) = live else { continue };
        pairs += 1;
        check.look();
        if (&live.sha256, live.rows) != (&other.sha256, other.rows) {
            check.violated(
                None,
                format!(
                    "{} {generation} differs from the live one at {}",
                    live.projection, live.position
                ),
                [live.row(), other.row()],
            );
        }
    }
    if pairs == 0 {
        check.skip(format!(
            "projections.ndjson has no {generation} projection at the position of the live one"
        ));
    }
}

/// I-42: while a projection is built anew at quiescence, the provider is asked for nothing and nothing is stored.
pub(crate) fn no_side_effects(facts: &Facts, check: &mut Check) {
    let Some(replays) = &facts.replays else {
        return check.skip("replays.ndjson is missing: nothing was built anew while the export was taken");
    };
    if !facts.meta.quiescent || facts.meta.clocks_apart {
        return check
            .skip("not quiescent, or the provider's clock is another: who had an effect is not known");
    }
    if facts.ledger.is_none() {
        check.note("ledger.ndjson is missing: calls to the provider were not looked at");
    }
    for replay in replays {
        check.look();
        let row = format!("{REPLAYS}:{}", replay.line);
        for event in &facts.store.events {
            if event.part == 0 && (replay.head_from + 1..=replay.head_to).contains(&event.position) {
                check.violated(
                    None,
                    format!("an event was stored during {}", replay.what),
                    [row.clone(), event.row()],
                );
            }
        }
        let Some(ledger) = &facts.ledger else { continue };
        let (from, to) = (replay.from.as_microsecond(), replay.to.as_microsecond());
        let during = |at: i64| (from..=to).contains(&at);
        let creates = ledger.creates.iter().map(|(row, _)| *row);
        let starts = ledger
            .orders
            .iter()
            .flat_map(|theirs| &theirs.starts)
            .map(|start| start.request);
        for called in creates.chain(starts).filter(|called| during(called.at)) {
            check.violated(
                None,
                format!("the provider was called during {}", replay.what),
                [row.clone(), called.row()],
            );
        }
    }
}
