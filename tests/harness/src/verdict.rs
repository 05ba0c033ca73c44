//! What is said at the end: what happened, what must have held, and how to see it again?

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::Value;

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
    pub checked: String,
    /// Where the evidence is.
    pub folder: PathBuf,
}

impl Verdict {
    /// Judges a run with faults beside the same orders without.
    ///
    /// # Errors
    /// When an export cannot be read.
    pub fn of(with: &Ran, without: Option<&Ran>, folder: &Path) -> anyhow::Result<Self> {
        let states = states(&with.export)?;
        let mut verdict = Self {
            orders: with.outcome.orders,
            paid: u64::try_from(states.values().filter(|state| state["status"] == "paid").count())?,
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
            verdict
                .wrong
                .extend(differences(&states, &self::states(&without.export)?));
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
            text += &format!("           {kind:24} {bit:>3} of {all}\n");
        }
        if !self.checked.is_empty() {
            text += &format!("invariants {}\n", self.checked);
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
    let _ = (export, what, verdict);
    Ok(())
}

/// The state of each order, by its reference.
fn states(export: &Path) -> anyhow::Result<BTreeMap<String, Value>> {
    let path = export.join("states.ndjson");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    text.lines()
        .map(|line| {
            let state: Value = serde_json::from_str(line)?;
            Ok((state["reference"].as_str().unwrap_or_default().to_owned(), state))
        })
        .collect()
}

fn differences(with: &BTreeMap<String, Value>, without: &BTreeMap<String, Value>) -> Vec<String> {
    let references: std::collections::BTreeSet<&String> = with.keys().chain(without.keys()).collect();
    let told = |state: Option<&Value>| {
        state.map_or("no order".to_owned(), |state| {
            let word = |field: &str| state[field].as_str().unwrap_or("?").to_owned();
            format!(
                "{}, safe {}, released {}, held {}",
                word("status"),
                word("safe"),
                state["released"],
                state["held"]
            )
        })
    };
    references
        .into_iter()
        .filter_map(|reference| {
            let (with, without) = (told(with.get(reference)), told(without.get(reference)));
            (with != without).then(|| format!("{reference} ended {with}; without faults {without}"))
        })
        .collect()
}
