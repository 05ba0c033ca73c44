//! What really happened here, in order, for a checker that trusts nobody else?

use std::{borrow::Cow, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest as _, Sha256};

use crate::{arc, clock};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// CM, the bank or the wallet does something by itself: a review ends, money is taken back, an effect shows late.
    Provider,
    /// A test driver has a notification sent.
    Notify,
    /// The simulator began again with what it had kept. Requests above that lack their answer were cut by the stop.
    Restart,
}

/// Which order and payment a row is about, as far as known when it was written. Amounts in minor units.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct About {
    #[serde(with = "arc::option")]
    pub(crate) reference: Option<Arc<str>>,
    #[serde(with = "arc::option")]
    pub(crate) order_key: Option<Arc<str>>,
    #[serde(with = "arc::option")]
    pub(crate) payment_id: Option<Arc<str>>,
    pub(crate) amount: Option<i64>,
    #[serde(with = "arc::option")]
    pub(crate) currency: Option<Arc<str>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    n: usize,
    #[serde(serialize_with = "millis")]
    t: Timestamp,
    pub(crate) kind: Kind,
    pub(crate) op: Op,
    #[serde(flatten)]
    pub(crate) about: About,
    #[serde(serialize_with = "hex", deserialize_with = "unhex")]
    body_sha256: Option<[u8; 32]>,
    pub(crate) status: Option<u16>,
    pub(crate) detail: Option<Cow<'static, str>>,
    /// Of an answer: the row of its request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<usize>,
    /// Of an effect: what CM holds of the order now. Of an answer to a read: what it said, true or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shows: Option<Box<Shows>>,
}

/// An order and its payments, in CM's words and in minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shows {
    pub(crate) reference: String,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    /// None while CM does not consider the order safe.
    pub(crate) level: Option<Cow<'static, str>>,
    pub(crate) payments: Vec<ShownPayment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShownPayment {
    pub(crate) id: String,
    pub(crate) method: Cow<'static, str>,
    pub(crate) state: Cow<'static, str>,
    pub(crate) confidence: Option<Cow<'static, str>>,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) captured: i64,
    /// Refunded or charged back, requested or done.
    pub(crate) returned: i64,
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
    pub(crate) request: Option<usize>,
    pub(crate) shows: Option<Box<Shows>>,
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
            request: None,
            shows: None,
        }
    }
}

/// As much of a detail answer as matters for money.
#[derive(Deserialize)]
struct Said {
    order_reference: String,
    amount: i64,
    currency: String,
    considered_safe: Option<SaidSafe>,
    #[serde(default, deserialize_with = "one_or_many")]
    payments: Vec<SaidPayment>,
}

#[derive(Deserialize)]
struct SaidSafe {
    level: String,
}

#[derive(Deserialize)]
struct SaidPayment {
    id: String,
    method: String,
    authorization: SaidAuthorization,
    #[serde(default, deserialize_with = "one_or_many")]
    captures: Vec<SaidMove>,
    #[serde(default, deserialize_with = "one_or_many")]
    refunds: Vec<SaidMove>,
    #[serde(default, deserialize_with = "one_or_many")]
    chargebacks: Vec<SaidMove>,
}

#[derive(Deserialize)]
struct SaidAuthorization {
    amount: i64,
    currency: String,
    confidence: Option<String>,
    state: String,
}

/// A list, its one element alone, or nothing at all: what was said means the same.
fn one_or_many<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said<T> {
        Many(Vec<T>),
        One(T),
        Nothing(()),
    }
    Ok(match Said::deserialize(from)? {
        Said::Many(many) => many,
        Said::One(one) => vec![one],
        Said::Nothing(()) => vec![],
    })
}

#[derive(Deserialize)]
struct SaidMove {
    amount: i64,
}

impl Shows {
    /// What the body of a detail answer says, read from the very text that is sent; none if it is not one.
    pub(crate) fn said(body: &str) -> Option<Self> {
        let said: Said = serde_json::from_str(body).ok()?;
        let sum = |moves: &[SaidMove]| {
            moves
                .iter()
                .fold(0_i64, |sum, one| sum.saturating_add(one.amount))
        };
        let payments = said.payments.into_iter().map(|payment| ShownPayment {
            captured: sum(&payment.captures),
            returned: sum(&payment.refunds).saturating_add(sum(&payment.chargebacks)),
            id: payment.id,
            method: payment.method.into(),
            state: payment.authorization.state.into(),
            confidence: payment.authorization.confidence.map(Into::into),
            amount: payment.authorization.amount,
            currency: payment.authorization.currency,
        });
        Some(Self {
            reference: said.order_reference,
            amount: said.amount,
            currency: said.currency,
            level: said.considered_safe.map(|safe| safe.level.into()),
            payments: payments.collect(),
        })
    }
}

/// Rows are added at the end and never changed or dropped; `n` counts from 1 without a gap.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    rows: Vec<Row>,
}

impl Ledger {
    /// Its number.
    pub(crate) fn push(&mut self, now: Timestamp, entry: Entry) -> usize {
        let Entry {
            kind,
            op,
            about,
            body_sha256,
            status,
            detail,
            request,
            shows,
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
            request,
            shows,
        });
        n
    }

    /// A row of an earlier run, with the number and time that it has.
    pub(crate) fn restore(&mut self, row: Row) {
        self.rows.push(row);
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

fn hex<S: Serializer>(digest: &Option<[u8; 32]>, to: S) -> Result<S::Ok, S::Error> {
    digest
        .map(|bytes| data_encoding::HEXLOWER.encode(&bytes))
        .serialize(to)
}

fn unhex<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[u8; 32]>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else {
        return Ok(None);
    };
    let bytes = data_encoding::HEXLOWER
        .decode(text.as_bytes())
        .map_err(D::Error::custom)?;
    bytes
        .try_into()
        .map(Some)
        .map_err(|_| D::Error::custom("a digest has 32 bytes"))
}
