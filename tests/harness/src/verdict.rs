//! What is said at the end: what happened, what must have held, and how to see it again?

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use kassa_verify::Severity;

use crate::run::Ran;

/// Everything that a run came to.
#[derive(Debug, Default)]
pub struct Verdict {
    pub orders: u64,
    pub paid: u64,
    /// By kind: how many bit, and of how many.
    pub faults: BTreeMap<&'static str, (usize, usize)>,
    /// Violated invariants and differences: what fails the run.
    pub wrong: Vec<String>,
    /// Worse service than promised, and what did not work as a harness wants it.
    pub noted: Vec<String>,
    /// What was looked at, in words of the checker.
    pub checked: Vec<String>,
    /// Where the evidence is.
    pub folder: PathBuf,
}

impl Verdict {
    /// Judges a run with faults beside the same orders without.
    ///
    /// # Errors
    /// When an export cannot be read.
    pub fn of(with: &Ran, without: Option<&Ran>, folder: &Path) -> anyhow::Result<Self> {
        let economy = kassa_verify::economy(&with.export)?;
        let mut verdict = Self {
            orders: with.outcome.orders,
            paid: u64::try_from(economy.values().filter(|order| order.status == "paid").count())?,
            folder: folder.to_owned(),
            ..Self::default()
        };
        for went in &with.went {
            let (bit, all) = verdict.faults.entry(went.kind).or_default();
            *all += 1;
            *bit += usize::from(went.bit.is_some() && went.failed.is_none());
            if let Some(why) = &went.failed {
                verdict
                    .noted
                    .push(format!("{} {} could not be begun: {why}", went.kind, went.target));
            }
        }
        for (what, ran) in [("with faults", Some(with)), ("without faults", without)] {
            let Some(ran) = ran else { continue };
            for why in &ran.outcome.given_up {
                verdict.wrong.push(format!("{what}: a shopper gave up: {why}"));
            }
            check(&ran.export, what, &mut verdict)?;
        }
        if let Some(without) = without {
            let other = kassa_verify::economy(&without.export)?;
            for different in kassa_verify::compare(&economy, &other) {
                verdict.wrong.push(format!(
                    "{}: {} ended {}, without faults {}",
                    different.order, different.field, different.left, different.right
                ));
            }
        }
        Ok(verdict)
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn good(&self) -> bool {
        self.wrong.is_empty()
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
        for checked in &self.checked {
            text += &format!("invariants {checked}\n");
        }
        for noted in &self.noted {
            text += &format!("noted      {noted}\n");
        }
        for wrong in &self.wrong {
            text += &format!("WRONG      {wrong}\n");
        }
        if self.good() {
            text += "good       nothing is wrong, and every order ended as it does without faults\n";
        }
        text
    }
}

/// What the checker says of an export.
fn check(export: &Path, what: &str, verdict: &mut Verdict) -> anyhow::Result<()> {
    let report = kassa_verify::check(export)?;
    let facts: u64 = report.checked.iter().map(|checked| checked.facts).sum();
    let without: Vec<&str> = report
        .checked
        .iter()
        .filter(|checked| checked.facts == 0)
        .map(|checked| checked.id)
        .chain(report.not_checked.iter().map(|not| not.id))
        .collect();
    let without = if without.is_empty() {
        String::new()
    } else {
        format!(", nothing for {}", without.join(" "))
    };
    verdict.checked.push(format!(
        "{what}: {} checked on {facts} facts of {} events{without}",
        report.checked.len(),
        report.events
    ));
    for violation in &report.violations {
        let line = format!(
            "{what}: {} ({}) {}: {} [{}]",
            violation.id,
            violation.severity,
            violation.order.as_deref().unwrap_or("-"),
            violation.what,
            violation.evidence.join(" ")
        );
        if violation.severity == Severity::S3 {
            verdict.noted.push(line);
        } else {
            verdict.wrong.push(line);
        }
    }
    Ok(())
}
