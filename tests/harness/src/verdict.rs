//! What is said at the end: what happened, what must have held, and what was not looked at?

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use kassa_verify::{Report, Severity, TABLE};
use serde_json::{Value, json};

use crate::{
    run::{Ends, Exports, Ran},
    schedule::Went,
};

/// Everything that a run came to.
#[derive(Debug, Default)]
pub struct Verdict {
    pub orders: u64,
    pub paid: u64,
    /// By kind: how many bit, and of how many.
    pub faults: BTreeMap<&'static str, (usize, usize)>,
    /// Violated invariants, differences, processes that broke, and what nothing was held against: what fails the run.
    pub wrong: Vec<String>,
    /// Worse service than promised, and what did not work as a harness wants it.
    pub noted: Vec<String>,
    /// What was looked at, in words of the checker.
    pub checked: Vec<String>,
    /// What may go unchecked in such a run and did, with the reason.
    pub unchecked: Vec<String>,
    /// Whether what each order came to was held against the same orders without faults.
    pub compared: bool,
    /// Faults were asked for and none did anything: whatever else is said, nothing was shown.
    pub void: bool,
    /// Where the evidence is.
    pub folder: PathBuf,
}

/// When an invariant may be held against nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unchecked {
    Always,
    /// Where moments cannot be compared.
    ClocksApart,
}

/// The invariants that a run may have nothing to hold against; all others are looked at in each, or the run has failed.
const MAY_GO_UNCHECKED: [(&str, Unchecked, &str); 6] = [
    ("I-16", Unchecked::ClocksApart, "clocks were wrong"),
    (
        "I-36",
        Unchecked::Always,
        "no run of the same orders differs in its clocks alone",
    ),
    ("I-41", Unchecked::Always, "an export has nothing delivered again"),
    ("I-42", Unchecked::ClocksApart, "clocks were wrong"),
    ("I-51", Unchecked::Always, "no outcome was unknown"),
    (
        "I-64",
        Unchecked::Always,
        "no notification came before our own record, or clocks were wrong",
    ),
];

/// What may be said at the first export because no read that was asked for is waiting there, though others may yet be due.
const HOLDS_WHEN_QUIET: &str = "I-64";

impl Verdict {
    /// Judges a run with faults beside the same orders without.
    ///
    /// # Errors
    /// When an export cannot be read.
    pub fn of(with: &Ran, without: Option<&Ran>, folder: &Path) -> anyhow::Result<Self> {
        let economy = kassa_verify::economy(&with.exports.ended)?;
        let mut verdict = Self {
            orders: with.outcome.orders,
            paid: u64::try_from(economy.values().filter(|order| order.status == "paid").count())?,
            compared: without.is_some(),
            folder: folder.to_owned(),
            ..Self::default()
        };
        verdict.faults(&with.went, with.faults_asked);
        for (what, ran) in [("with faults", Some(with)), ("without faults", without)] {
            let Some(ran) = ran else { continue };
            for why in &ran.outcome.given_up {
                verdict.wrong.push(format!("{what}: a shopper gave up: {why}"));
            }
            verdict.ends(what, &ran.ends);
            verdict.check(what, &ran.exports)?;
        }
        if let Some(without) = without {
            let other = kassa_verify::economy(&without.exports.ended)?;
            for different in kassa_verify::compare(&economy, &other) {
                verdict.wrong.push(format!(
                    "{}: {} ended {}, without faults {}",
                    different.order, different.field, different.left, different.right
                ));
            }
        }
        Ok(verdict)
    }

    /// Whether nothing was found, where something could be.
    #[must_use]
    pub fn good(&self) -> bool {
        self.wrong.is_empty() && !self.void
    }

    /// Faults that did something.
    #[must_use]
    pub fn bit(&self) -> usize {
        self.faults.values().map(|(bit, _)| bit).sum()
    }

    /// Kinds of which at least one did something.
    #[must_use]
    pub fn kinds(&self) -> usize {
        self.faults.values().filter(|(bit, _)| *bit > 0).count()
    }

    /// The summary, for people.
    #[must_use]
    pub fn told(&self) -> String {
        let mut text = format!("payments   {} orders, {} of them paid\n", self.orders, self.paid);
        let drawn: usize = self.faults.values().map(|(_, all)| all).sum();
        text += &format!(
            "faults     {} of {drawn} did something, of {} kinds\n",
            self.bit(),
            self.kinds()
        );
        for (kind, (bit, all)) in &self.faults {
            text += &format!("           {kind:26}{bit:>3} of {all}\n");
        }
        for (head, lines) in [
            ("invariants", &self.checked),
            ("unchecked ", &self.unchecked),
            ("noted     ", &self.noted),
            ("WRONG     ", &self.wrong),
        ] {
            for line in lines {
                text += &format!("{head} {line}\n");
            }
        }
        if self.void {
            text += "VOID       no fault did anything: nothing was shown\n";
        } else if self.good() && self.compared {
            text += &format!(
                "good       nothing is wrong, and each of {} orders ended as it does without faults\n",
                self.orders
            );
        } else if self.good() {
            text +=
                "good       nothing is wrong; no order was compared with what it comes to without faults\n";
        }
        text
    }

    fn faults(&mut self, went: &[Went], asked: bool) {
        for went in went {
            let (bit, all) = self.faults.entry(went.kind).or_default();
            *all += 1;
            *bit += usize::from(went.bit.is_some() && went.failed.is_none());
            if let Some(why) = &went.failed {
                let line = format!("{} {} could not be begun: {why}", went.kind, went.target);
                self.noted.push(line);
            }
        }
        self.void = asked && self.bit() == 0;
    }

    /// A process that breaks is wrong, whoever starts it again; one that gives up may have had its reason.
    fn ends(&mut self, what: &str, ends: &Ends) {
        for unasked in &ends.unasked {
            let line = format!("{what}: {} ended by itself: {}", unasked.name, unasked.how);
            if unasked.broke {
                self.wrong.push(line);
            } else {
                self.noted.push(line);
            }
        }
        for line in ends.panics.iter().chain(&ends.out_of_order) {
            self.wrong.push(format!("{what}: {line}"));
        }
    }

    /// What the checker says of both exports.
    fn check(&mut self, what: &str, exports: &Exports) -> anyhow::Result<()> {
        let mut quiet = as_if_ended(&exports.begun)?;
        quiet.violations.retain(|found| found.id == HOLDS_WHEN_QUIET);
        quiet.checked.retain(|checked| checked.id == HOLDS_WHEN_QUIET);
        let begun = kassa_verify::check(&exports.begun)?;
        let ended = kassa_verify::check(&exports.ended)?;
        let before = format!("{what}, before the clocks were moved");
        for (what, report) in [
            (before.as_str(), &begun),
            (before.as_str(), &quiet),
            (what, &ended),
        ] {
            self.violations(what, report);
        }
        let facts = |report: &Report| report.checked.iter().map(|checked| checked.facts).sum::<u64>();
        self.checked.push(format!(
            "{what}: held against {} facts of {} events before the clocks were moved, and {} of {} after",
            facts(&begun) + facts(&quiet),
            begun.events,
            facts(&ended),
            ended.events
        ));
        self.unchecked(what, &[&begun, &quiet, &ended], exports.clocks_apart);
        Ok(())
    }

    fn violations(&mut self, what: &str, report: &Report) {
        let mut noted = BTreeSet::new();
        for violation in &report.violations {
            let line = format!(
                "{what}: {} ({}) {}: {} [{}]",
                violation.id,
                violation.severity,
                violation.order.as_deref().unwrap_or("-"),
                violation.what,
                violation.evidence.join(" ")
            );
            if violation.severity != Severity::S3 {
                self.wrong.push(line);
            } else if noted.insert(violation.id) {
                // While things go wrong many are served late: one is told, and how many there are.
                let of_it = report.checked.iter().find(|checked| checked.id == violation.id);
                let number = of_it.map_or(1, |checked| checked.violations);
                self.noted.push(format!("{line}, one of {number}"));
            }
        }
    }

    /// Nothing looked at is not a pass.
    fn unchecked(&mut self, what: &str, reports: &[&Report], clocks_apart: bool) {
        let looked_at: BTreeSet<&str> = reports
            .iter()
            .flat_map(|report| &report.checked)
            .filter(|checked| checked.facts > 0)
            .map(|checked| checked.id)
            .collect();
        for invariant in TABLE.iter().filter(|one| !looked_at.contains(one.id)) {
            let may = MAY_GO_UNCHECKED
                .iter()
                .find(|(id, when, _)| *id == invariant.id && (*when == Unchecked::Always || clocks_apart));
            match may {
                Some((id, _, why)) => self.unchecked.push(format!("{what}: {id}: {why}")),
                None => self.wrong.push(format!(
                    "{what}: {} was held against nothing: {}",
                    invariant.id, invariant.statement
                )),
            }
        }
    }
}

/// What the checker would say if nothing more came.
fn as_if_ended(export: &Path) -> anyhow::Result<Report> {
    let path = export.join("meta.json");
    let was = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let mut meta: Value = serde_json::from_slice(&was)?;
    meta["quiescent"] = json!(true);
    fs::write(&path, meta.to_string())?;
    let report = kassa_verify::check(export);
    fs::write(&path, was)?;
    Ok(report?)
}

#[cfg(test)]
mod tests {
    use kassa_verify::{Checked, Violation};

    use super::*;
    use crate::installation::Unasked;

    /// Each invariant, but for some, held against one fact.
    fn report(without: &[&str]) -> Report {
        let checked = TABLE.iter().map(|one| Checked {
            id: one.id,
            severity: one.severity,
            statement: one.statement,
            facts: u64::from(!without.contains(&one.id)),
            violations: 0,
            note: None,
        });
        Report {
            quiescent: true,
            events: 1,
            orders: 1,
            checked: checked.collect(),
            not_checked: vec![],
            violations: vec![],
        }
    }

    fn went(bit: bool) -> Went {
        Went {
            kind: "kill",
            target: "relay".to_owned(),
            bit: bit.then(|| "it was killed".to_owned()),
            failed: None,
        }
    }

    #[test]
    fn what_was_held_against_nothing_fails_a_run_unless_there_is_a_reason() {
        let mut verdict = Verdict::default();
        verdict.unchecked("run", &[&report(&["I-41", "I-51"])], false);
        assert_eq!(
            (verdict.unchecked.len(), verdict.good()),
            (2, true),
            "{verdict:?}"
        );
        verdict.unchecked("run", &[&report(&["I-16", "I-42"])], true);
        assert_eq!(
            (verdict.unchecked.len(), verdict.good()),
            (4, true),
            "{verdict:?}"
        );
        // Once is enough.
        verdict.unchecked("run", &[&report(&["I-50"]), &report(&["I-16"])], false);
        assert!(verdict.good(), "{verdict:?}");
        verdict.unchecked("run", &[&report(&["I-16", "I-50"])], false);
        assert_eq!(verdict.wrong.len(), 2, "{verdict:?}");
        assert!(verdict.wrong[1].starts_with("run: I-50 was held against nothing"));
    }

    #[test]
    fn a_run_in_which_no_fault_did_anything_is_void_unless_none_was_wanted() {
        for (went, asked, void) in [
            (vec![went(false)], true, true),
            (vec![], true, true),
            (vec![went(true)], true, false),
            (vec![], false, false),
        ] {
            let mut verdict = Verdict::default();
            verdict.faults(&went, asked);
            assert_eq!((verdict.void, verdict.good()), (void, !void), "{went:?}");
            assert_eq!(verdict.told().contains("VOID"), void);
        }
    }

    #[test]
    fn a_process_that_broke_is_wrong_and_one_that_gave_up_is_noted() {
        let unasked = |how: &str, broke| Unasked {
            name: "relay".to_owned(),
            how: how.to_owned(),
            broke,
        };
        let mut verdict = Verdict::default();
        let mut ends = Ends {
            unasked: vec![unasked("exit status: 1", false)],
            ..Ends::default()
        };
        verdict.ends("run", &ends);
        assert_eq!((verdict.noted.len(), verdict.good()), (1, true));
        ends.unasked = vec![unasked("exit status: 101", true)];
        ends.panics = vec!["relay: thread 'main' panicked at x.rs:1:1".to_owned()];
        ends.out_of_order = vec!["engine was told to end: code 1".to_owned()];
        verdict.ends("run", &ends);
        assert_eq!(verdict.wrong.len(), 3, "{verdict:?}");
    }

    #[test]
    fn only_what_was_compared_is_said_to_be_alike() {
        let mut verdict = Verdict {
            orders: 7,
            ..Verdict::default()
        };
        assert!(verdict.told().contains("no order was compared"));
        verdict.compared = true;
        assert!(
            verdict
                .told()
                .contains("each of 7 orders ended as it does without faults")
        );
    }

    #[test]
    fn slow_service_is_told_once_and_wrong_money_each_time() {
        let violation = |id, severity| Violation {
            id,
            severity,
            order: None,
            what: "it is so".to_owned(),
            evidence: vec![],
        };
        let mut report = report(&[]);
        for checked in &mut report.checked {
            checked.violations = 2;
        }
        for _ in 0..2 {
            report.violations.push(violation("I-16", Severity::S3));
            report.violations.push(violation("I-10", Severity::S1));
        }
        let mut verdict = Verdict::default();
        verdict.violations("run", &report);
        assert_eq!((verdict.noted.len(), verdict.wrong.len()), (1, 2));
        assert!(verdict.noted[0].ends_with("one of 2"), "{verdict:?}");
    }
}
