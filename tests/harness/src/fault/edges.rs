//! What happens on the ways to PostgreSQL and to the bus: late, narrow, frozen, cut in bulk, cut inside a commit?

use std::time::Duration;

use super::{
    Kind, Targets,
    network::{Edge, Storm, kind, one, ours},
};
use crate::{
    proxy::{At, Counts, Cut, Side, Weather},
    random::Random,
};

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        kind("postgres-late", (3_000, 12_000), |random, targets| {
            let late = millis(random, 10, 120);
            Storm::on(vec![postgres(random, targets)], delayed)
                .weather(Weather::slow(late))
                .boxed()
        }),
        kind("postgres-frozen", (1_000, 12_000), |random, targets| {
            Storm::on(vec![postgres(random, targets)], stalled)
                .weather(Weather::stalled())
                .boxed()
        }),
        kind("postgres-cut-in-bulk", (0, 1_000), |_, targets| {
            let edges = ours(targets).into_iter().map(Edge::Postgres).collect();
            Storm::on(edges, resets).reset().target("all>postgres").boxed()
        }),
        // Committed, and nobody is told.
        kind("postgres-cut-after-commit", (2_000, 6_000), |random, targets| {
            let times = few(random);
            Storm::on(vec![appending(random, targets)], cuts)
                .cut(after_commit().times(times))
                .boxed()
        }),
        // Begun, and never heard of again.
        kind("postgres-cut-in-append", (2_000, 6_000), |random, targets| {
            let times = few(random);
            Storm::on(vec![appending(random, targets)], cuts)
                .cut(Cut::new(Side::Up, At::Through(b"BEGIN".to_vec())).times(times))
                .boxed()
        }),
        // In the middle of whatever is being sent.
        kind("postgres-cut-anywhere", (3_000, 8_000), |random, targets| {
            let at = At::Bytes(random.below(3_000));
            let side = if random.percent(50) { Side::Up } else { Side::Down };
            let times = few(random);
            Storm::on(vec![postgres(random, targets)], cuts)
                .cut(Cut::new(side, at).times(times))
                .boxed()
        }),
        kind("nats-late", (3_000, 12_000), |random, targets| {
            let late = millis(random, 20, 300);
            Storm::on(vec![nats(random, targets)], delayed)
                .weather(Weather::slow(late))
                .boxed()
        }),
        kind("nats-frozen", (1_000, 15_000), |random, targets| {
            Storm::on(vec![nats(random, targets)], stalled)
                .weather(Weather::stalled())
                .boxed()
        }),
        kind("nats-cut", (0, 2_000), |random, targets| {
            Storm::on(vec![nats(random, targets)], resets).reset().boxed()
        }),
        // What the server says is lost: acknowledgements, answers, messages.
        kind("nats-answers-lost", (4_000, 10_000), |random, targets| {
            let at = At::Bytes(random.below(800));
            let times = few(random);
            Storm::on(vec![nats(random, targets)], cuts)
                .cut(Cut::new(Side::Down, at).times(times))
                .boxed()
        }),
        kind("nats-requests-lost", (4_000, 10_000), |random, targets| {
            let at = At::Bytes(random.below(800));
            let times = few(random);
            Storm::on(vec![nats(random, targets)], cuts)
                .cut(Cut::new(Side::Up, at).times(times))
                .boxed()
        }),
    ]
}

/// The server has said that it committed, and the client does not hear it.
#[must_use]
pub fn after_commit() -> Cut {
    Cut::new(Side::Up, At::PieceWith(b"COMMIT".to_vec())).answered(b"COMMIT")
}

fn postgres(random: &mut Random, targets: &Targets) -> Edge {
    Edge::Postgres(one(random, &ours(targets)))
}

/// Of a process that has something to say on the bus with nearly every payment.
fn nats(random: &mut Random, targets: &Targets) -> Edge {
    Edge::Nats(busy(
        random,
        targets,
        &["all", "engine", "relay", "cm-gateway", "shipment"],
    ))
}

/// Of a process that appends to the log with nearly every payment.
fn appending(random: &mut Random, targets: &Targets) -> Edge {
    Edge::Postgres(busy(random, targets, &["all", "engine", "cm-gateway"]))
}

fn busy(random: &mut Random, targets: &Targets, roles: &[&str]) -> String {
    let names: Vec<String> = ours(targets)
        .into_iter()
        .filter(|name| roles.iter().any(|role| name.starts_with(role)))
        .collect();
    one(random, &names)
}

pub(super) fn millis(random: &mut Random, least: u64, most: u64) -> Duration {
    random.between(Duration::from_millis(least), Duration::from_millis(most))
}

pub(super) fn few(random: &mut Random) -> u32 {
    u32::try_from(1 + random.below(3)).unwrap_or(1)
}

pub(super) fn delayed(counts: &Counts) -> (u64, &'static str) {
    (counts.delayed, "pieces were late")
}

pub(super) fn stalled(counts: &Counts) -> (u64, &'static str) {
    (counts.stalled, "pieces waited for the end of it")
}

pub(super) fn resets(counts: &Counts) -> (u64, &'static str) {
    (counts.resets, "connections were reset")
}

pub(super) fn cuts(counts: &Counts) -> (u64, &'static str) {
    (counts.cuts, "connections were cut")
}
