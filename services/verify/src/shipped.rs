//! What did a shipment service do? Deliveries, releases and holds, in the order in which its database committed them.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use crate::{
    export::SHIPMENT,
    read::{Folder, VerifyError, records},
    stored::Money,
};

#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) line: u32,
    pub(crate) order: String,
    pub(crate) epoch: u32,
    pub(crate) event: Uuid,
    pub(crate) amount: Option<Money>,
}

#[derive(Debug, Default)]
pub(crate) struct Shipped {
    pub(crate) releases: Vec<Done>,
    pub(crate) holds: Vec<Done>,
    /// First delivery of each event, microseconds since 1970, and its line.
    pub(crate) delivered: HashMap<Uuid, (i64, u32)>,
}

#[derive(Deserialize)]
struct Line {
    what: String,
    event_id: Uuid,
    order_id: String,
    epoch: u32,
    amount: Option<Money>,
    at: Timestamp,
}

impl Shipped {
    pub(crate) fn read(dir: &Folder<'_>) -> Result<Option<Self>, VerifyError> {
        let mut shipped = Self::default();
        let there = records(dir, SHIPMENT, |line, row: Line| {
            let done = Done {
                line,
                order: row.order_id,
                epoch: row.epoch,
                event: row.event_id,
                amount: row.amount,
            };
            match row.what.as_str() {
                "release" => shipped.releases.push(done),
                "hold" => shipped.holds.push(done),
                _ => {
                    let at = (row.at.as_microsecond(), line);
                    shipped.delivered.entry(row.event_id).or_insert(at);
                }
            }
        })?;
        Ok(there.then_some(shipped))
    }

    /// Epochs that were released of each order.
    pub(crate) fn epochs(&self) -> HashMap<&str, HashSet<u32>> {
        let mut epochs: HashMap<&str, HashSet<u32>> = HashMap::new();
        for done in &self.releases {
            epochs.entry(&done.order).or_default().insert(done.epoch);
        }
        epochs
    }
}

impl Done {
    pub(crate) fn row(&self) -> String {
        format!("{SHIPMENT}:{}", self.line)
    }
}
