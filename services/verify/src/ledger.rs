//! What does the provider's own ledger say? Per order: what was asked, what happened, what was told, who was notified.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    export::LEDGER,
    read::{Folder, VerifyError, records},
    store::{self, Order},
};

/// A row's number, line and moment (microseconds since 1970).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) n: u64,
    pub(crate) line: u32,
    pub(crate) at: i64,
}

impl Row {
    pub(crate) fn row(self) -> String {
        format!("{LEDGER}:{}", self.line)
    }
}

/// An order and its payments as one row shows them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Shows {
    pub(crate) reference: Box<str>,
    pub(crate) amount: i64,
    pub(crate) currency: Box<str>,
    pub(crate) level: Option<Box<str>>,
    pub(crate) payments: Box<[ShownPayment]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct ShownPayment {
    pub(crate) id: Box<str>,
    pub(crate) state: Box<str>,
    pub(crate) confidence: Option<Box<str>>,
    pub(crate) amount: i64,
    pub(crate) currency: Box<str>,
    #[serde(default)]
    pub(crate) returned: i64,
}

/// Why what is shown is no reason to release goods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    NotSafe,
    Level,
    Currency,
    Amount,
    MoneyBack,
}

impl Shows {
    /// Money that counts: authorized with the acquirer's word.
    fn counted(&self) -> impl Iterator<Item = &ShownPayment> {
        self.payments.iter().filter(|payment| {
            &*payment.state == "AUTHORIZED" && payment.confidence.as_deref() == Some("ACQUIRER_APPROVED")
        })
    }

    /// Held against what was ordered.
    pub(crate) fn fit(
        &self,
        ordered: i64,
        currency: &str,
        tolerance: i64,
        levels: &[String],
    ) -> Result<(), Unfit> {
        let level = self.level.as_ref().ok_or(Unfit::NotSafe)?;
        if !levels.iter().any(|known| known.as_str() == &**level) {
            return Err(Unfit::Level);
        }
        if self.counted().any(|payment| &*payment.currency != currency) {
            return Err(Unfit::Currency);
        }
        let counted = self
            .counted()
            .fold(0_i64, |sum, payment| sum.saturating_add(payment.amount));
        let returned = self
            .payments
            .iter()
            .fold(0_i64, |sum, payment| sum.saturating_add(payment.returned));
        // Few cents may be within the tolerance of nothing, and nothing is no payment.
        if counted <= 0 || (counted.saturating_sub(ordered)).abs() > tolerance {
            return Err(Unfit::Amount);
        }
        if returned > 0 && ordered.saturating_sub(counted.saturating_sub(returned)) > tolerance {
            return Err(Unfit::MoneyBack);
        }
        Ok(())
    }

    /// The money in the order's currency that counts, whatever went back of it.
    pub(crate) fn paid(&self) -> i64 {
        let ours = self.counted().filter(|payment| payment.currency == self.currency);
        ours.fold(0_i64, |sum, payment| sum.saturating_add(payment.amount))
    }

    /// What is left of the money in the order's currency.
    pub(crate) fn net(&self) -> i64 {
        let ours = self.counted().filter(|payment| payment.currency == self.currency);
        ours.fold(0_i64, |sum, payment| {
            sum.saturating_add(payment.amount)
                .saturating_sub(payment.returned)
        })
    }

    pub(crate) fn told(&self) -> u64 {
        let payments = self.payments.iter().map(|payment| {
            (
                &*payment.id,
                &*payment.state,
                payment.confidence.as_deref(),
                payment.amount,
                &*payment.currency,
                payment.returned,
            )
        });
        store::told(self.level.as_deref(), payments)
    }
}

/// A `start` as it was asked for, and what came of it.
#[derive(Debug)]
pub(crate) struct Start {
    /// Of the effect where there is no request.
    pub(crate) request: Row,
    /// Whether there was a request.
    pub(crate) asked: bool,
    pub(crate) effect: Option<Row>,
    pub(crate) payment: Option<String>,
}

/// A read of the order's report.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) request: Row,
    pub(crate) answer: Option<Row>,
    /// What a whole answer said.
    pub(crate) said: Option<Shows>,
}

#[derive(Debug, Default)]
pub(crate) struct CmOrder {
    pub(crate) key: String,
    pub(crate) reference: String,
    pub(crate) amount: i64,
    pub(crate) currency: String,
    pub(crate) created: Option<Row>,
    /// What the order was after each of its effects.
    pub(crate) truth: Vec<(Row, Shows)>,
    pub(crate) starts: Vec<Start>,
    /// Payments that the shopper started on the menu.
    pub(crate) menu_starts: Vec<Row>,
    pub(crate) reads: Vec<Status>,
    /// With the last row before it was sent, where that is told: its answer may have been long on its way.
    pub(crate) notified: Vec<(Row, Option<u16>, Option<u64>)>,
}

impl CmOrder {
    /// The answers that said just this, level and payments, until `until`.
    pub(crate) fn that_said(
        &self,
        told: u64,
        until: Option<i64>,
    ) -> impl Iterator<Item = (&Status, Row, &Shows)> {
        self.reads.iter().filter_map(move |read| {
            let (answer, said) = (read.answer?, read.said.as_ref()?);
            let in_time = until.is_none_or(|until| answer.at <= until);
            (in_time && said.told() == told).then_some((read, answer, said))
        })
    }

    pub(crate) fn truth_now(&self) -> Option<&Shows> {
        self.truth.last().map(|(_, shows)| shows)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) orders: Vec<CmOrder>,
    pub(crate) by_key: HashMap<String, usize>,
    /// Requests to create, by the reference they named.
    pub(crate) creates: Vec<(Row, String)>,
    /// Reads of orders that the provider does not have.
    pub(crate) unknown_reads: Vec<Row>,
    pub(crate) unknown_starts: Vec<Row>,
    /// Whether rows say what they show; older simulators' do not.
    pub(crate) shows: bool,
}

#[derive(Deserialize)]
struct Line {
    n: u64,
    t: Timestamp,
    kind: String,
    op: String,
    reference: Option<String>,
    order_key: Option<String>,
    payment_id: Option<String>,
    status: Option<u16>,
    #[serde(default)]
    request: Option<u64>,
    #[serde(default)]
    shows: Option<Shows>,
}

impl Ledger {
    /// With nothing that came after `until`: while the run goes on, the ledger is exported after the store's snapshot, and
    /// knows more.
    pub(crate) fn read(dir: &Folder<'_>, until: Option<Timestamp>) -> Result<Option<Self>, VerifyError> {
        let mut ledger = Self::default();
        // Which start or read of its order a request is.
        let mut open: HashMap<u64, (usize, usize)> = HashMap::new();
        let there = records(dir, LEDGER, |line, row: Line| {
            if until.is_none_or(|until| row.t <= until) {
                ledger.take(line, row, &mut open);
            }
        })?;
        Ok(there.then_some(ledger))
    }

    fn take(&mut self, line: u32, row: Line, open: &mut HashMap<u64, (usize, usize)>) {
        let here = Row {
            n: row.n,
            line,
            at: row.t.as_microsecond(),
        };
        let (kind, op) = (row.kind.as_str(), row.op.as_str());
        if (kind, op) == ("request", "create") {
            self.creates
                .push((here, row.reference.clone().unwrap_or_default()));
        }
        let Some(key) = row.order_key else {
            match (kind, op) {
                ("request", "status") => self.unknown_reads.push(here),
                ("request", "start") => self.unknown_starts.push(here),
                _ => {}
            }
            return;
        };
        let at = *self.by_key.entry(key).or_insert_with_key(|key| {
            self.orders.push(CmOrder {
                key: key.clone(),
                reference: row.reference.clone().unwrap_or_default(),
                ..CmOrder::default()
            });
            self.orders.len() - 1
        });
        let order = &mut self.orders[at];
        match (kind, op) {
            ("request", "start") => {
                open.insert(row.n, (at, order.starts.len()));
                order.starts.push(Start {
                    request: here,
                    asked: true,
                    effect: None,
                    payment: None,
                });
            }
            ("request", "status") => {
                open.insert(row.n, (at, order.reads.len()));
                order.reads.push(Status {
                    request: here,
                    answer: None,
                    said: None,
                });
            }
            ("answer", "status") => {
                if let Some((at, which)) = row.request.and_then(|n| open.remove(&n)) {
                    let read = &mut self.orders[at].reads[which];
                    read.answer = Some(here);
                    self.shows |= row.shows.is_some();
                    read.said = row.shows.filter(|_| row.status == Some(200));
                }
            }
            ("answer", "start") => {
                if let Some((at, which)) = row.request.and_then(|n| open.remove(&n))
                    && let Some(payment) = row.payment_id
                {
                    self.orders[at].starts[which].payment = Some(payment);
                }
            }
            ("notification", _) => order.notified.push((here, row.status, row.request)),
            ("effect", op) => {
                match op {
                    "create" => {
                        order.created = Some(here);
                        if let Some(shows) = &row.shows {
                            order.amount = shows.amount;
                            order.currency = shows.currency.to_string();
                        }
                    }
                    "menu_start" => order.menu_starts.push(here),
                    "start" => order.started(here, row.payment_id),
                    _ => {}
                }
                if let Some(shows) = row.shows {
                    self.shows = true;
                    order.truth.push((here, shows));
                }
            }
            _ => {}
        }
    }

    pub(crate) fn order(&self, key: &str) -> Option<&CmOrder> {
        self.by_key.get(key).map(|at| &self.orders[*at])
    }

    /// One of our orders, as the provider has it.
    pub(crate) fn of(&self, order: &Order) -> Option<&CmOrder> {
        self.order(&order.registered.first()?.key)
    }
}

impl CmOrder {
    /// The effect comes before the answer that says whose it is: it is the last request's that has none.
    fn started(&mut self, effect: Row, payment: Option<String>) {
        let waiting = self.starts.iter_mut().rev().find(|start| start.effect.is_none());
        match waiting {
            Some(start) => {
                start.effect = Some(effect);
                start.payment = payment;
            }
            // An effect that nobody asked for is one more start all the same.
            None => self.starts.push(Start {
                request: effect,
                asked: false,
                effect: Some(effect),
                payment,
            }),
        }
    }
}
