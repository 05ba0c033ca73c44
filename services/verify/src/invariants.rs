//! Which invariants are there? One table: checks, report and documentation come from it.

use std::fmt::Write as _;

use crate::{
    commands, events,
    facts::Facts,
    no_double_effect, notifications, projections, provider, release,
    report::{Check, Severity, Severity::*},
    same_orders, states,
};

/// Something that must hold of every run.
#[derive(Clone, Copy)]
pub struct Invariant {
    pub id: &'static str,
    pub severity: Severity,
    pub statement: &'static str,
    pub(crate) check: fn(&Facts, &mut Check),
}

impl std::fmt::Debug for Invariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invariant")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

const fn of(
    id: &'static str,
    severity: Severity,
    statement: &'static str,
    check: fn(&Facts, &mut Check),
) -> Invariant {
    Invariant {
        id,
        severity,
        statement,
        check,
    }
}

/// In the order of their ids.
pub const TABLE: &[Invariant] = &[
    of(
        "I-01",
        S1,
        "at most one provider order of an order can be reached by a shopper",
        no_double_effect::one_reachable_order,
    ),
    of(
        "I-02",
        S1,
        "an attempt has at most one start with effect",
        no_double_effect::one_start_an_attempt,
    ),
    of(
        "I-03",
        S1,
        "a second payment needs a decision, after the first attempt was closed",
        no_double_effect::one_live_payment,
    ),
    of(
        "I-04",
        S1,
        "a start is sent again only after the first is known to have had no effect",
        no_double_effect::no_repeated_start,
    ),
    of(
        "I-06",
        S1,
        "no two orders share a provider order, and no answer is taken for another order's",
        no_double_effect::no_swapped_answer,
    ),
    of(
        "I-10",
        S1,
        "every order that the provider holds safe is released exactly once",
        release::exactly_one,
    ),
    of(
        "I-11",
        S1,
        "nothing is released that the provider did not hold safe before it was asked",
        release::sound,
    ),
    of(
        "I-12",
        S1,
        "nothing is released whose amount is not what was ordered, within the tolerance",
        release::amount,
    ),
    of(
        "I-13",
        S1,
        "nothing is released on money of another currency",
        release::currency,
    ),
    of(
        "I-14",
        S1,
        "nothing is released below the configured level",
        release::level,
    ),
    of(
        "I-15",
        S1,
        "money that went back prevents a release, or takes it back once",
        release::taken_back,
    ),
    of(
        "I-16",
        S3,
        "from safe at the provider to the shipment service it takes no longer than a poll and 5 s",
        release::live,
    ),
    of(
        "I-30",
        S2,
        "versions of a stream and positions of a part are 1, 2, 3, … and event ids are unique",
        events::gapless,
    ),
    of(
        "I-31",
        S1,
        "every answer that was given is the one outcome of its command",
        commands::one_outcome,
    ),
    of(
        "I-32",
        S2,
        "what was stored once is never changed or lost",
        events::append_only,
    ),
    of("I-33", S1, "no event is skipped by a projection", events::no_skip),
    of(
        "I-34",
        S2,
        "only the transitions of the published table happen",
        states::legal,
    ),
    of(
        "I-35",
        S2,
        "every event and message has the shape of the schema it names",
        events::shaped,
    ),
    of(
        "I-36",
        S2,
        "the order of facts does not depend on clocks",
        same_orders::independent_of_clocks,
    ),
    of(
        "I-37",
        S2,
        "every cause is a command or an earlier event, and every flow an order",
        events::caused,
    ),
    of(
        "I-38",
        S2,
        "the stream holds what the store holds, in its order",
        events::store_is_stream,
    ),
    of(
        "I-40",
        S2,
        "a projection built anew equals the one that serves",
        projections::rebuilt,
    ),
    of(
        "I-41",
        S2,
        "what is delivered again leaves a projection as it is",
        projections::redelivered,
    ),
    of(
        "I-42",
        S1,
        "building anew has no effect outside",
        projections::no_side_effects,
    ),
    of(
        "I-50",
        S1,
        "no call to the provider without an intent that is older",
        provider::intent_first,
    ),
    of(
        "I-51",
        S1,
        "every unknown outcome is resolved in time, by reading",
        provider::resolved,
    ),
    of(
        "I-53",
        S2,
        "the provider has no order that the store does not know",
        provider::no_orphan,
    ),
    of(
        "I-60",
        S1,
        "state changes by reports that were read, not by notifications",
        notifications::only_reports_count,
    ),
    of(
        "I-61",
        S1,
        "an older answer never undoes a newer one",
        notifications::newest_wins,
    ),
    of(
        "I-62",
        S1,
        "every notification that was answered 200 is followed by a read",
        notifications::read_after,
    ),
    of(
        "I-63",
        S3,
        "one read of an order at a time, 66 a minute, and none of orders that are not ours",
        notifications::bounded,
    ),
    of(
        "I-64",
        S1,
        "a notification that came before our own record of the order is not forgotten",
        notifications::parked,
    ),
    of(
        "I-81",
        S1,
        "SIGTERM ends within 30 s with code 0, and nothing acknowledged is lost",
        commands::nothing_lost,
    ),
];

/// The table as the README has it.
pub fn table_in_markdown() -> String {
    let mut text = "| id | severity | statement |\n|---|---|---|\n".to_owned();
    for invariant in TABLE {
        // Writing to a text cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            invariant.id, invariant.severity, invariant.statement
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_the_table_and_ids_come_once_in_order() {
        let readme = include_str!("../README.md");
        assert!(
            readme.contains(&table_in_markdown()),
            "put this into README.md:\n{}",
            table_in_markdown()
        );
        assert!(TABLE.is_sorted_by(|a, b| a.id < b.id));
    }
}
