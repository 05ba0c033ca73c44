//! What is still to happen by itself, and when by the simulator's clock?

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    arc,
    ledger::{About, Op},
    order::BankResult,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) due: Timestamp,
    pub(crate) task: Task,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Task {
    /// Tell the merchant; `tried` attempts came to nothing so far.
    Notify { op: Op, about: About, tried: u32 },
    /// The shopper decides at last.
    Press(Press),
    /// The wallet is done with its review.
    Release(Number),
    /// The issuer takes the money back.
    Reverse(Number),
    /// Reports show the payment from now on.
    Appear(Number),
}

/// A bank's number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Number {
    #[serde(with = "arc")]
    pub(crate) trxid: Arc<str>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Press {
    #[serde(with = "arc")]
    pub(crate) trxid: Arc<str>,
    pub(crate) pressed: BankResult,
}

impl Task {
    /// The order that a notification is about.
    pub(crate) fn notified_order(&self) -> Option<&Arc<str>> {
        match self {
            Self::Notify { about, .. } => about.order_key.as_ref(),
            Self::Press(_) | Self::Release(_) | Self::Reverse(_) | Self::Appear(_) => None,
        }
    }
}

/// Jobs by number and by time. One that was taken stays known until it is ended, so that a stop forgets none.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    jobs: HashMap<u64, Job>,
    due: BTreeSet<(Timestamp, u64)>,
}

impl Agenda {
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Job> {
        self.jobs.get(&id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// Adds a job, or puts one that was taken back for later.
    pub(crate) fn put(&mut self, job: Job) {
        if let Some(before) = self.jobs.insert(job.id, job.clone()) {
            self.due.remove(&(before.due, before.id));
        }
        self.due.insert((job.due, job.id));
    }

    pub(crate) fn end(&mut self, id: u64) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.due.remove(&(job.due, id));
        Some(job)
    }

    /// The first job that is due; it is not found a second time unless it is put back.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Option<Job> {
        let (due, id) = *self.due.first()?;
        if due > now {
            return None;
        }
        self.due.remove(&(due, id));
        self.jobs.get(&id).cloned()
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }
}
