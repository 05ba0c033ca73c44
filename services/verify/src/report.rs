//! What was found? For people a table, for programs JSON; what was not looked at is told as loudly as what was violated.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::{facts::Facts, invariants::TABLE};

/// Violations of one invariant that are told one by one; the rest is counted. Thousands say no more than these.
const TOLD_MAX: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Severity {
    /// Money or goods wrong.
    S1,
    /// Evidence wrong.
    S2,
    /// Service wrong.
    S3,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    pub id: &'static str,
    pub severity: Severity,
    /// The shop's reference, or an id where none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    pub what: String,
    /// Rows, as `file:line`.
    pub evidence: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub id: &'static str,
    pub severity: Severity,
    pub statement: &'static str,
    /// How many facts it was held against; with none, nothing is proven.
    pub facts: u64,
    pub violations: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotChecked {
    pub id: &'static str,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    pub quiescent: bool,
    pub events: usize,
    pub orders: usize,
    pub checked: Vec<Checked>,
    pub not_checked: Vec<NotChecked>,
    /// The first of each invariant; `checked` has their number.
    pub violations: Vec<Violation>,
}

impl Report {
    /// Whether money, goods or evidence are wrong.
    pub fn failed(&self) -> bool {
        self.checked.iter().any(is_wrong)
    }

    /// The ids of the violated invariants.
    pub fn violated(&self) -> Vec<&'static str> {
        let violated = self.checked.iter().filter(|checked| checked.violations > 0);
        violated.map(|checked| checked.id).collect()
    }

    /// Those of `ids` that nothing was held against: not checked, or checked on no fact.
    pub fn unproven<'i>(&self, ids: &[&'i str]) -> Vec<&'i str> {
        let held = |id: &str| {
            self.checked
                .iter()
                .any(|checked| checked.id == id && (checked.facts > 0 || checked.violations > 0))
        };
        ids.iter().copied().filter(|id| !held(id)).collect()
    }

    /// The verdict, and how much it stands on.
    fn verdict(&self) -> String {
        let all: Vec<&str> = TABLE.iter().map(|invariant| invariant.id).collect();
        let unproven = self.unproven(&all);
        let grave = TABLE
            .iter()
            .filter(|invariant| invariant.severity == Severity::S1 && unproven.contains(&invariant.id))
            .count();
        let checked = all.len() - unproven.len();
        let verdict = if self.failed() {
            let wrong = self.checked.iter().filter(|checked| is_wrong(checked)).count();
            format!("FAILED: money, goods or evidence are wrong in {wrong} of {checked} invariants")
        } else {
            format!("no S1 and no S2 in {checked} of {} invariants", all.len())
        };
        format!("{verdict}; {} not checked ({grave} of them S1)", unproven.len())
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let mut text = format!(
            "{} events, {} orders{}\n\n{:<6}{:<5}{:>9}{:>12}  statement\n",
            self.events,
            self.orders,
            if self.quiescent {
                ""
            } else {
                ", not quiescent: what is missing may still come"
            },
            "id",
            "sev",
            "facts",
            "violations"
        );
        for checked in &self.checked {
            let note = checked
                .note
                .as_ref()
                .map(|note| format!(" ({note})"))
                .unwrap_or_default();
            // Writing to a text cannot fail.
            let _ = writeln!(
                text,
                "{:<6}{:<5}{:>9}{:>12}  {}{note}",
                checked.id, checked.severity, checked.facts, checked.violations, checked.statement
            );
        }
        if !self.not_checked.is_empty() {
            text.push_str("\nnot checked\n");
        }
        for not in &self.not_checked {
            let _ = writeln!(text, "{:<6}{}", not.id, not.reason);
        }
        for found in &self.violations {
            let order = found.order.as_deref().unwrap_or("-");
            let _ = writeln!(
                text,
                "\n{} {} order {order}: {}",
                found.id, found.severity, found.what
            );
            for row in &found.evidence {
                let _ = writeln!(text, "    {row}");
            }
        }
        let _ = writeln!(text, "\n{}", self.verdict());
        text
    }
}

fn is_wrong(checked: &Checked) -> bool {
    checked.violations > 0 && checked.severity != Severity::S3
}

/// One invariant while it is checked.
#[derive(Debug, Default)]
pub(crate) struct Check {
    facts: u64,
    found: Vec<(Option<String>, String, Vec<String>)>,
    number: u64,
    note: Option<String>,
    reason: Option<String>,
}

impl Check {
    /// One fact was held against it.
    pub(crate) fn look(&mut self) {
        self.facts += 1;
    }

    pub(crate) fn looks(&mut self, facts: usize) {
        self.facts += facts as u64;
    }

    pub(crate) fn violated(
        &mut self,
        order: Option<&str>,
        what: impl Into<String>,
        evidence: impl IntoIterator<Item = String>,
    ) {
        self.number += 1;
        if self.found.len() < TOLD_MAX {
            self.found.push((
                order.map(ToOwned::to_owned),
                what.into(),
                evidence.into_iter().collect(),
            ));
        }
    }

    /// What people should know of how it was checked, such as that half of it was not.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        self.note = Some(match self.note.take() {
            Some(before) => format!("{before}; {note}"),
            None => note,
        });
    }

    /// It cannot be checked with what is there.
    pub(crate) fn skip(&mut self, reason: impl Into<String>) {
        self.reason = Some(reason.into());
    }
}

pub(crate) fn run(facts: &Facts) -> Report {
    let mut report = Report {
        quiescent: facts.meta.quiescent,
        events: facts.store.events.len(),
        orders: facts.store.orders.len(),
        checked: vec![],
        not_checked: vec![],
        violations: vec![],
    };
    for invariant in TABLE {
        let mut check = Check::default();
        (invariant.check)(facts, &mut check);
        let Check {
            facts,
            found,
            number,
            note,
            reason,
        } = check;
        // What was found all the same is told.
        if let Some(reason) = reason.as_ref().filter(|_| number == 0) {
            report.not_checked.push(NotChecked {
                id: invariant.id,
                reason: reason.clone(),
            });
            continue;
        }
        report
            .violations
            .extend(found.into_iter().map(|(order, what, evidence)| Violation {
                id: invariant.id,
                severity: invariant.severity,
                order,
                what,
                evidence,
            }));
        report.checked.push(Checked {
            id: invariant.id,
            severity: invariant.severity,
            statement: invariant.statement,
            facts,
            violations: number,
            note: note.or(reason),
        });
    }
    report
}
