//! What is told at the end? One table for people, one document for programs.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use super::{
    clock::Micros,
    ledger::AtCm,
    machine::{OTHERS, Sample},
    shoppers::{Answered, Shopping},
    stage::Verified,
    stats::{Spread, ms},
};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) layout: &'static str,
    pub(super) offered_per_second: u32,
    pub(super) seconds: u32,
    pub(super) poisson: bool,
    pub(super) seed: u64,
    pub(super) shoppers: usize,
    /// Releases heard by the consumer.
    pub(super) delivered: usize,
    /// Paid at the bank, and no release was heard of.
    pub(super) missing: usize,
    /// Not refused by an answer that says so, and no release was heard of: without an answer, a link, a bank or a release.
    pub(super) unserved: usize,
    pub(super) dropped: usize,
    pub(super) refused: BTreeMap<String, usize>,
    /// Releases a second, from the first to the last.
    pub(super) held_per_second_tenths: u64,
    pub(super) generator_late_max_us: Micros,
    pub(super) created: Spread,
    pub(super) redirected: Spread,
    /// Without the time that CM itself took for its two answers.
    pub(super) redirected_beyond_cm: Spread,
    pub(super) cm_answering: Spread,
    pub(super) notified: Spread,
    pub(super) reported_to_safe: Spread,
    pub(super) paid_to_safe: Spread,
    pub(super) reads_per_order_max: usize,
    pub(super) fsync: Spread,
    pub(super) commits: i64,
    /// Milliseconds of processor time a second of the run, by process.
    pub(super) cpu_ms_per_second: BTreeMap<String, u64>,
    pub(super) resident_mb: [u64; 3],
    pub(super) resident_by_role_mb: BTreeMap<String, u64>,
    pub(super) verified: Verified,
}

/// The latencies of one phase of shopping.
#[derive(Debug)]
pub(super) struct Latencies {
    pub(super) created: Spread,
    pub(super) redirected: Spread,
    pub(super) redirected_beyond_cm: Spread,
    pub(super) cm_answering: Spread,
    pub(super) notified: Spread,
    pub(super) reported_to_safe: Spread,
    pub(super) paid_to_safe: Spread,
    pub(super) delivered: Vec<Micros>,
    pub(super) missing: usize,
    pub(super) unserved: usize,
    pub(super) reads_per_order_max: usize,
    pub(super) refused: BTreeMap<String, usize>,
}

impl Latencies {
    pub(super) fn of(
        shopping: &Shopping,
        ledger: &std::collections::HashMap<String, AtCm>,
        deliveries: &std::collections::HashMap<String, Micros>,
    ) -> Self {
        let took = |answered: &Option<Answered>| {
            answered
                .as_ref()
                .filter(|answered| answered.result.is_ok())
                .map(|answered| answered.at - answered.due)
        };
        let mut refused = BTreeMap::new();
        let nothing = AtCm::default();
        let [
            mut created,
            mut redirected,
            mut beyond,
            mut answering,
            mut notified,
            mut reported,
            mut paid,
        ] = [const { Vec::new() }; 7];
        let (mut delivered, mut missing, mut unserved, mut reads) = (Vec::new(), 0, 0, 0);
        for way in &shopping.ways {
            let cm = ledger.get(&way.reference).unwrap_or(&nothing);
            reads = reads.max(cm.reads);
            for answered in [&way.create, &way.start].into_iter().flatten() {
                if let Err(no) = &answered.result {
                    let after = if no.retry_after { ", with Retry-After" } else { "" };
                    *refused
                        .entry(format!("{} {}{after}", no.status, no.code))
                        .or_insert(0) += 1;
                }
            }
            created.extend(took(&way.create));
            if way.redirected
                && let Some(took) = took(&way.start)
            {
                redirected.push(took);
                beyond.push(took - cm.answering);
                answering.push(cm.answering);
            } else if took(&way.start).is_some() {
                *refused.entry("no redirect in time".to_owned()).or_insert(0) += 1;
            }
            if let (Some(paid_at), Some(told_at)) = (cm.paid_at, cm.told_at) {
                notified.push(told_at - paid_at);
            }
            let heard = way.order_id.as_ref().and_then(|id| deliveries.get(id)).copied();
            if way.pressed_at.is_some() && heard.is_none() {
                missing += 1;
            }
            if heard.is_none() && !way.was_refused() {
                unserved += 1;
            }
            let Some(heard) = heard else { continue };
            delivered.push(heard);
            reported.extend(cm.reported_at.map(|at| heard - at));
            paid.extend(cm.paid_at.map(|at| heard - at));
        }
        Self {
            created: Spread::of(created),
            redirected: Spread::of(redirected),
            redirected_beyond_cm: Spread::of(beyond),
            cm_answering: Spread::of(answering),
            notified: Spread::of(notified),
            reported_to_safe: Spread::of(reported),
            paid_to_safe: Spread::of(paid),
            delivered,
            missing,
            unserved,
            reads_per_order_max: reads,
            refused,
        }
    }

    /// Tenths of releases a second, from the first to the last.
    pub(super) fn held_tenths(&self) -> u64 {
        let (first, last) = (self.delivered.iter().min(), self.delivered.iter().max());
        let span = last.zip(first).map_or(0, |(last, first)| last - first);
        let gaps = self.delivered.len().saturating_sub(1) as u64;
        u64::try_from(span)
            .ok()
            .filter(|span| *span > 0)
            .map_or(0, |span| gaps * 10_000_000 / span)
    }
}

/// Processor time between two moments, in milliseconds a second.
pub(super) fn cpu(before: &Sample, after: &Sample, span: Micros) -> BTreeMap<String, u64> {
    let span_ms = u64::try_from(span / 1000).unwrap_or(0).max(1);
    let used = after.0.iter().map(|(name, used)| {
        let was = before.0.get(name).copied().unwrap_or_default();
        let used_ms = used.cpu.saturating_sub(was.cpu).as_millis();
        let used_ms = u64::try_from(used_ms).unwrap_or(u64::MAX);
        (name.clone(), used_ms.saturating_mul(1000) / span_ms)
    });
    used.collect()
}

impl Report {
    /// Whether it measured what it says: every shopper who was not told no has the goods, and nothing is wrong.
    pub(super) fn is_valid(&self) -> bool {
        self.dropped == 0
            && self.missing == 0
            && self.unserved == 0
            && self.delivered > 0
            && self.verified.violations == 0
    }

    pub(super) fn as_table(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line(format!(
            "{} payments/s offered for {} s ({}), roles {}: {} shoppers, {} releases heard, {}.{} a second held",
            self.offered_per_second,
            self.seconds,
            if self.poisson { "at random" } else { "evenly" },
            self.layout,
            self.shoppers,
            self.delivered,
            self.held_per_second_tenths / 10,
            self.held_per_second_tenths % 10,
        ));
        line(format!(
            "dropped {}, missing {}, unserved {}, the generator was at most {} ms late, at most {} reads of an order",
            self.dropped,
            self.missing,
            self.unserved,
            ms(self.generator_late_max_us),
            self.reads_per_order_max
        ));
        for (what, times) in &self.refused {
            line(format!("refused: {times} x {what}"));
        }
        line(format!(
            "{:<44}{:>8}{:>9}{:>9}{:>9}{:>9}",
            "ms, from the intended start", "count", "p50", "p90", "p99", "max"
        ));
        for (name, spread) in [
            ("create_order answered", &self.created),
            ("command -> redirect", &self.redirected),
            (
                "command -> redirect, beyond CM's own answers",
                &self.redirected_beyond_cm,
            ),
            ("CM's own two answers", &self.cm_answering),
            ("paid at the bank -> notification answered", &self.notified),
            ("report -> payment_safe at the consumer", &self.reported_to_safe),
            ("paid at the bank -> payment_safe", &self.paid_to_safe),
            ("fsync of 8 KB in the same run", &self.fsync),
        ] {
            line(format!(
                "{name:<44}{:>8}{:>9}{:>9}{:>9}{:>9}",
                spread.count,
                ms(spread.p50_us),
                ms(spread.p90_us),
                ms(spread.p99_us),
                ms(spread.max_us)
            ));
        }
        let ours: u64 = self
            .cpu_ms_per_second
            .iter()
            .filter(|(name, _)| !OTHERS.contains(&name.as_str()))
            .map(|(_, ms)| ms)
            .sum();
        let mut cpu = format!("processor, ms a second: ours {ours}");
        for (name, ms) in &self.cpu_ms_per_second {
            // A string takes it.
            let _ = write!(cpu, ", {name} {ms}");
        }
        line(cpu);
        let each = i64::try_from(self.delivered.max(1)).unwrap_or(1);
        line(format!(
            "commits in PostgreSQL: {} ({}.{} a payment)",
            self.commits,
            self.commits / each,
            self.commits * 10 / each % 10
        ));
        let [start, middle, end] = self.resident_mb;
        let mut memory = format!(
            "resident, all our services: {start} MB at the start, {middle} in the middle, {end} at the end;"
        );
        for (name, mb) in &self.resident_by_role_mb {
            let _ = write!(memory, " {name} {mb}");
        }
        line(memory);
        let Verified {
            violations,
            minor,
            violated,
            events,
            orders,
        } = &self.verified;
        line(format!(
            "verify: {violations} violations of money, goods or evidence, {minor} of service {violated:?} in {events} events of {orders} orders{}",
            if *violations == 0 {
                ""
            } else {
                ": the run does not count"
            }
        ));
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::{
        super::shoppers::{Refused, Way},
        *,
    };

    fn answered(status: Option<u64>) -> Option<Answered> {
        let no = |status| Refused {
            status,
            code: "no".to_owned(),
            retry_after: true,
        };
        Some(Answered {
            due: 0,
            at: 1,
            result: status.map_or(Ok(()), |status| Err(no(status))),
        })
    }

    /// Who got as far as this.
    fn way(order: &str, start: Option<u64>, redirected: bool, pressed_at: Option<Micros>) -> Way {
        Way {
            reference: order.to_owned(),
            order_id: Some(order.to_owned()),
            create: answered(None),
            start: answered(start),
            redirected,
            pressed_at,
        }
    }

    #[test]
    fn whoever_was_not_told_no_has_the_goods_or_the_run_measured_something_else() {
        let deliveries = HashMap::from([("served".to_owned(), 9)]);
        let unserved = |ways: Vec<Way>| {
            let shopping = Shopping {
                ways,
                ..Shopping::default()
            };
            Latencies::of(&shopping, &HashMap::new(), &deliveries).unserved
        };
        let refused = Way {
            order_id: None,
            create: answered(Some(429)),
            start: None,
            ..way("refused", None, false, None)
        };
        let served = way("served", None, true, Some(5));
        assert_eq!(
            unserved(vec![served, refused, way("told no", Some(503), false, None)]),
            0
        );
        for missed in [
            way("no link", None, false, None),
            way("no answer", Some(0), false, None),
            way("no bank", None, true, None),
            way("no goods", None, true, Some(5)),
        ] {
            assert_eq!(unserved(vec![missed.clone()]), 1, "{missed:?}");
        }
    }
}
