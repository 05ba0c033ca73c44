//! What did a run come to, order by order? The same seed with and without faults must come to the same, only later.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    facts::Facts,
    read::VerifyError,
    store::{Order, Store},
    stored::Closing,
};

/// By `shop/reference`.
pub type Economy = BTreeMap<String, OrderEconomy>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEconomy {
    /// Epochs that a shipment service released; without its log, those that became safe.
    pub releases: usize,
    pub holds: usize,
    /// `no`, `yes` or `lost`.
    pub safe: String,
    /// As a shop sees it.
    pub status: String,
    /// What is left of the money at the provider, in the order's currency; none without a ledger.
    pub net_minor: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `shop/reference`.
    pub order: String,
    pub field: &'static str,
    pub left: String,
    pub right: String,
}

/// # Errors
/// As [`crate::check`].
pub fn economy(dir: &Path) -> Result<Economy, VerifyError> {
    let facts = Facts::read(dir)?;
    let released = facts.shipped.as_ref().map(|shipped| shipped.epochs());
    let mut held: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for done in facts.shipped.iter().flat_map(|shipped| &shipped.holds) {
        held.entry(&done.order).or_default().insert(done.epoch);
    }
    let of = |order: &Order| OrderEconomy {
        releases: released.as_ref().map_or(order.safe.len(), |released| {
            released.get(order.id.as_str()).map_or(0, |epochs| epochs.len())
        }),
        holds: match facts.shipped {
            Some(_) => held.get(order.id.as_str()).map_or(0, BTreeSet::len),
            None => order.lost.len(),
        },
        safe: match (order.safe.len(), order.lost.len()) {
            (0, _) => "no",
            (safe, lost) if safe > lost => "yes",
            _ => "lost",
        }
        .to_owned(),
        status: status(&facts.store, order).to_owned(),
        net_minor: facts.ledger.as_ref().filter(|ledger| ledger.shows).map(|ledger| {
            let keys = order.registered.iter();
            keys.filter_map(|known| ledger.order(&known.key)?.truth_now())
                .fold(0_i64, |sum, truth| sum.saturating_add(truth.net()))
        }),
    };
    Ok(facts
        .store
        .orders
        .iter()
        .map(|order| (format!("{}/{}", order.shop, order.reference), of(order)))
        .collect())
}

fn status(store: &Store, order: &Order) -> &'static str {
    let paid = order.paid.iter().map(|paid| paid.whole).max();
    let closed = |id: &str| {
        let closings = order.closed.iter().rev();
        closings
            .filter(|(_, closed, _)| closed == id)
            .map(|(_, _, closing)| *closing)
            .next()
    };
    let under_way = store.attempts(order).any(|payment| {
        // Authorized and not paid is a promise.
        matches!(closed(&payment.id), None | Some(Closing::Authorized))
    });
    match paid {
        Some(true) => "paid",
        Some(false) => "partially_paid",
        None if order.canceled.is_some() => "canceled",
        None if order.expired.is_some() => "expired",
        None if under_way => "pending",
        None => "open",
    }
}

/// Where two runs of the same orders came to something else; nothing is what is hoped for.
pub fn compare(left: &Economy, right: &Economy) -> Vec<Difference> {
    let names: BTreeSet<_> = left.keys().chain(right.keys()).collect();
    let mut differences = vec![];
    for order in names {
        let mut differ = |field, left: String, right: String| {
            if left != right {
                differences.push(Difference {
                    order: order.clone(),
                    field,
                    left,
                    right,
                });
            }
        };
        match (left.get(order), right.get(order)) {
            (Some(left), Some(right)) => {
                differ("releases", left.releases.to_string(), right.releases.to_string());
                differ("holds", left.holds.to_string(), right.holds.to_string());
                differ("safe", left.safe.clone(), right.safe.clone());
                differ("status", left.status.clone(), right.status.clone());
                differ(
                    "net_minor",
                    format!("{:?}", left.net_minor),
                    format!("{:?}", right.net_minor),
                );
            }
            (left, right) => differ(
                "order",
                if left.is_some() { "there" } else { "missing" }.to_owned(),
                if right.is_some() { "there" } else { "missing" }.to_owned(),
            ),
        }
    }
    differences
}
