//! What really happened here, in order, for a checker that trusts nobody else?

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::clock;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Somebody called.
    Request,
    /// Something changed; `detail` is the new state.
    Effect,
    /// The call was answered with `status`, or cut: then `status` is null.
    Answer,
    /// One attempt to notify; `status` is the HTTP code, null when there was no answer.
    Notification,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    /// An order is made.
    Create,
    /// A payment is started by the merchant.
    Start,
    /// The order detail is read.
    Status,
    /// The orders of a day are read.
    List,
    /// A payment is started by the shopper on the menu page.
    MenuStart,
    /// The shopper decides at the bank.
    Bank,
}

/// Which order and payment a row is about, as far as known when it was written. Amounts in minor units.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct About {
    #[serde(serialize_with = "text")]
    pub(crate) reference: Option<Arc<str>>,
    #[serde(serialize_with = "text")]
    pub(crate) order_key: Option<Arc<str>>,
    #[serde(serialize_with = "text")]
    pub(crate) payment_id: Option<Arc<str>>,
    pub(crate) amount: Option<i64>,
    #[serde(serialize_with = "text")]
    pub(crate) currency: Option<Arc<str>>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    n: usize,
    #[serde(serialize_with = "millis")]
    t: Timestamp,
    pub(crate) kind: Kind,
    pub(crate) op: Op,
    #[serde(flatten)]
    pub(crate) about: About,
    #[serde(serialize_with = "hex")]
    body_sha256: Option<[u8; 32]>,
    pub(crate) status: Option<u16>,
    pub(crate) detail: Option<Cow<'static, str>>,
}

/// A row before it has its number and time.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) op: Op,
    pub(crate) about: About,
    pub(crate) body_sha256: Option<[u8; 32]>,
    pub(crate) status: Option<u16>,
    pub(crate) detail: Option<Cow<'static, str>>,
}

impl Entry {
    pub(crate) fn effect(op: Op, about: About, new_state: &'static str) -> Self {
        Self {
            kind: Kind::Effect,
            op,
            about,
            body_sha256: None,
            status: None,
            detail: Some(Cow::Borrowed(new_state)),
        }
    }
}

/// Rows are added at the end and never changed or dropped; `n` counts from 1 without a gap.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    rows: Vec<Row>,
}

impl Ledger {
    pub(crate) fn push(&mut self, now: Timestamp, entry: Entry) {
        let Entry {
            kind,
            op,
            about,
            body_sha256,
            status,
            detail,
        } = entry;
        let n = self.rows.len() + 1;
        self.rows.push(Row {
            n,
            t: now,
            kind,
            op,
            about,
            body_sha256,
            status,
            detail,
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Rows `from..to` of the ledger, counted from 0 and cut at its end.
    pub(crate) fn slice(&self, from: usize, to: usize) -> &[Row] {
        let to = to.min(self.rows.len());
        &self.rows[from.min(to)..to]
    }
}

/// SHA-256 of a body; none of an empty one, so that a read does not look as if it had sent something.
pub(crate) fn digest(body: &[u8]) -> Option<[u8; 32]> {
    (!body.is_empty()).then(|| Sha256::digest(body).into())
}

fn millis<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&clock::to_millis(*at))
}

/// Serde's own support for `Arc` is a feature that every crate would be compiled with.
fn text<S: Serializer>(text: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
    text.as_deref().serialize(to)
}

fn hex<S: Serializer>(digest: &Option<[u8; 32]>, to: S) -> Result<S::Ok, S::Error> {
    digest
        .map(|bytes| data_encoding::HEXLOWER.encode(&bytes))
        .serialize(to)
}
