//! Is the log whole, and do the bus and the projections have all of it?

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::{
    export::{BUS, EARLIER, EVENTS, STREAMS},
    facts::Facts,
    report::Check,
};

/// I-30: per stream versions are 1..n, per part positions are 1..n, and no event id comes twice.
pub(crate) fn gapless(facts: &Facts, check: &mut Check) {
    let mut versions: HashMap<Uuid, i64> = HashMap::new();
    let mut positions: HashMap<i32, i64> = HashMap::new();
    let mut ids = HashSet::with_capacity(facts.store.events.len());
    for event in &facts.store.events {
        check.look();
        let version = versions.entry(event.stream).or_default();
        if event.version != *version + 1 {
            check.violated(
                None,
                format!(
                    "version {} of stream {} follows {version}",
                    event.version, event.stream
                ),
                [event.row()],
            );
        }
        *version = event.version;
        let position = positions.entry(event.part).or_default();
        if event.position != *position + 1 {
            check.violated(
                None,
                format!(
                    "position {} of part {} follows {position}",
                    event.position, event.part
                ),
                [event.row()],
            );
        }
        *position = event.position;
        if !ids.insert(event.id) {
            check.violated(None, format!("event id {} comes twice", event.id), [event.row()]);
        }
    }
    if facts.streams.is_none() {
        check.note("streams.ndjson is missing: an event that is missing at a stream's end is not seen");
    }
    for (stream, (version, line)) in facts.streams.iter().flatten() {
        check.look();
        let last = versions.get(stream).copied().unwrap_or_default();
        if last != *version {
            check.violated(
                None,
                format!("stream {stream} is said to have version {version} and has {last}"),
                [format!("{STREAMS}:{line}")],
            );
        }
    }
}

/// I-32: every row of an earlier export is in this one, byte for byte.
pub(crate) fn append_only(facts: &Facts, check: &mut Check) {
    let Some(earlier) = &facts.earlier else {
        return check.skip("events.earlier.ndjson is missing: there is nothing to compare with");
    };
    check.looks(earlier.lines);
    for line in &earlier.lost {
        check.violated(
            None,
            "a stored event was changed, moved or lost",
            [format!("{EARLIER}:{line}")],
        );
    }
}

/// I-33: at quiescence each projection is at the end of the log, and has a row for every fact that makes one: a position
/// that became visible late leaves a hole there. (That the stream has every event is I-38.)
pub(crate) fn no_skip(facts: &Facts, check: &mut Check) {
    let Some(projections) = &facts.projections else {
        return check.skip("projections.ndjson is missing: export with --projections");
    };
    if !facts.meta.quiescent {
        return check.skip("not quiescent: a projection may be behind");
    }
    for row in projections.iter().filter(|row| row.generation == "live") {
        let Some((part, position)) = row.place() else {
            check.violated(None, format!("{} has no position", row.projection), [row.row()]);
            continue;
        };
        check.look();
        let head = facts.store.head(part);
        if position != head {
            check.violated(
                None,
                format!(
                    "{} stands at {position} and the log ends at {head}",
                    row.projection
                ),
                [row.row()],
            );
        }
        let made_by = match row.projection.as_str() {
            "checkout" => "OrderCreated",
            "shipping" => "ConfidenceReachedSafe",
            _ => continue,
        };
        let expected = facts
            .store
            .events
            .iter()
            .filter(|event| event.part == part && event.kind == made_by);
        let expected = expected.count() as u64;
        if row.rows != expected {
            check.violated(
                None,
                format!(
                    "{} has {} rows and the log has {expected} {made_by}",
                    row.projection, row.rows
                ),
                [row.row()],
            );
        }
    }
}

/// I-35: stored facts have the shape of their type and version; messages are envelopes of a known schema.
pub(crate) fn shaped(facts: &Facts, check: &mut Check) {
    check.looks(facts.store.events.len());
    for wrong in &facts.store.misshapen {
        check.violated(
            Some(&wrong.aggregate),
            wrong.why.clone(),
            [format!("{EVENTS}:{}", wrong.line)],
        );
    }
    let Some(bus) = &facts.bus else {
        return check.note("bus.ndjson is missing: messages were not looked at");
    };
    check.looks(bus.messages.len());
    for (line, why) in &bus.misshapen {
        check.violated(None, why.clone(), [format!("{BUS}:{line}")]);
    }
}

/// I-37: what an event names as its command was decided; its cause is a command or an event before it (so there are no
/// cycles); its flow is an order.
pub(crate) fn caused(facts: &Facts, check: &mut Check) {
    let Some(commands) = &facts.commands else {
        return check.skip("commands.ndjson is missing: causes cannot be looked up");
    };
    let mut before = HashSet::with_capacity(facts.store.events.len());
    for event in &facts.store.events {
        check.look();
        if !commands.by_id.contains_key(&event.command) {
            check.violated(
                None,
                format!("its command {} was never decided", event.command),
                [event.row()],
            );
        }
        let known = commands.by_id.contains_key(&event.causation) || before.contains(&event.causation);
        if !known && event.causation != event.command {
            check.violated(
                None,
                format!(
                    "its cause {} is neither a command nor an earlier event",
                    event.causation
                ),
                [event.row()],
            );
        }
        before.insert(event.id);
    }
    for (flow, line) in &facts.store.correlated {
        if !facts.store.by_order.contains_key(flow) {
            check.violated(
                Some(flow),
                "the flow that it belongs to is no order",
                [format!("{EVENTS}:{line}")],
            );
        }
    }
}

/// I-38: the ids in the stream are those in the store, under the sequence that is their position; from the sequence on at which the
/// stream was told to begin, since one that was made anew may begin later. Where that is not known: from the lowest on.
pub(crate) fn store_is_stream(facts: &Facts, check: &mut Check) {
    let Some(bus) = &facts.bus else {
        return check.skip("bus.ndjson is missing: what the stream holds is not known");
    };
    let mut held: HashMap<Uuid, u64> = HashMap::with_capacity(bus.messages.len());
    let (mut lowest, mut highest) = (u64::MAX, 0);
    let mut last: HashMap<usize, u64> = HashMap::new();
    for message in &bus.messages {
        check.look();
        lowest = lowest.min(message.sequence);
        highest = highest.max(message.sequence);
        let before = last.insert(message.stream, message.sequence).unwrap_or(0);
        if message.sequence <= before {
            check.violated(
                None,
                format!("sequence {} comes after {before}", message.sequence),
                [message.row()],
            );
        }
        match message.id {
            Some(id) => {
                if held.insert(id, message.sequence).is_some() {
                    check.violated(None, format!("event {id} stands there twice"), [message.row()]);
                }
            }
            None => check.violated(None, "a message without an event id", [message.row()]),
        }
    }
    // Positions are told within a part; with one stream a part, the lowest of all is only a bound where there is one part.
    let one_part = facts.store.events.iter().all(|event| event.part == 0);
    let begins = facts
        .meta
        .stream_from
        .or((!bus.messages.is_empty()).then_some(lowest))
        .filter(|_| one_part);
    if facts.meta.stream_from.is_none() {
        check.note("where the stream begins is not known: a beginning that was lost is not seen");
    }
    for event in &facts.store.events {
        let position = u64::try_from(event.position).unwrap_or(0);
        match held.remove(&event.id) {
            Some(sequence) if sequence == position => {}
            Some(sequence) => check.violated(
                None,
                format!("position {position} has sequence {sequence}"),
                [event.row()],
            ),
            None => {
                let expected = facts.meta.quiescent || (!bus.messages.is_empty() && position <= highest);
                if expected && begins.is_none_or(|first| position >= first) {
                    check.look();
                    check.violated(
                        None,
                        format!("position {position} is not in the stream"),
                        [event.row()],
                    );
                }
            }
        }
    }
    // What was appended after the store's snapshot may be in the stream already.
    let head = u64::try_from(facts.store.head(0)).unwrap_or(0);
    for (id, sequence) in held {
        if facts.meta.quiescent || sequence <= head {
            check.violated(
                None,
                format!("event {id}, sequence {sequence}, is not in the store"),
                [],
            );
        }
    }
}
