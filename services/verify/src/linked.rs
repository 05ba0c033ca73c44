//! Which of the provider's orders and payments are which of ours? The provider knows no attempts, so each of its starts is given
//! to the attempt that knows the payment's id, or else to the intent that was the last one before it.

use std::collections::HashMap;

use crate::{
    export::Meta,
    ledger::{CmOrder, Ledger},
    store::{EventNo, Order, Payment, Store},
    stored::Operation,
};

/// By so much a row of the ledger, whose moments are cut to milliseconds, may seem older than what came before it.
pub(crate) const CUT_US: i64 = 1_000;

/// A `start` at the provider.
#[derive(Debug)]
pub(crate) struct LinkedStart {
    pub(crate) cm: usize,
    pub(crate) start: usize,
    pub(crate) order: Option<usize>,
    pub(crate) payment: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Linked {
    /// The provider's keys, and whose they are.
    pub(crate) by_key: HashMap<String, usize>,
    /// References that were given to a create, with the payment and the intent.
    pub(crate) by_reference: HashMap<String, (usize, EventNo)>,
    pub(crate) starts: Vec<LinkedStart>,
}

impl Linked {
    pub(crate) fn of(meta: &Meta, store: &Store, ledger: Option<&Ledger>) -> Self {
        let mut linked = Self::default();
        for (at, order) in store.orders.iter().enumerate() {
            for registered in &order.registered {
                linked.by_key.entry(registered.key.clone()).or_insert(at);
            }
        }
        for (at, payment) in store.payments.iter().enumerate() {
            for (event, _, reference) in payment.intents(Operation::CreateOrder) {
                linked
                    .by_reference
                    .entry(reference.to_owned())
                    .or_insert((at, event));
            }
        }
        for (cm, theirs) in ledger.iter().flat_map(|ledger| ledger.orders.iter().enumerate()) {
            let order = linked.by_key.get(&theirs.key).copied();
            let whose = order.map(|at| Whose::of(store, &store.orders[at]));
            for (number, _) in theirs.starts.iter().enumerate() {
                linked.starts.push(LinkedStart {
                    cm,
                    start: number,
                    order,
                    payment: whose.as_ref().and_then(|whose| whose.find(meta, theirs, number)),
                });
            }
        }
        linked
    }

    /// Our order that the provider has under this key.
    pub(crate) fn order<'a>(&self, store: &'a Store, key: &str) -> Option<&'a Order> {
        self.by_key.get(key).map(|at| &store.orders[*at])
    }
}

/// The intents of one order, oldest first, and which payment knows which of the provider's.
struct Whose<'a> {
    intents: Vec<(i64, usize)>,
    known: HashMap<&'a str, usize>,
}

impl<'a> Whose<'a> {
    fn of(store: &'a Store, order: &Order) -> Self {
        let mut intents = vec![];
        let mut known = HashMap::new();
        for (_, id) in &order.opened {
            let Some(at) = store.by_payment.get(id) else {
                continue;
            };
            let payment: &Payment = &store.payments[*at];
            intents.extend(payment.intents(Operation::Start).map(|(event, ..)| (event, *at)));
            known.extend(payment.provider_payments().map(|id| (id, *at)));
        }
        // Events are numbered as they were stored.
        intents.sort_unstable();
        Self {
            intents: intents
                .into_iter()
                .map(|(event, at)| (store.at(event), at))
                .collect(),
            known,
        }
    }

    fn find(&self, meta: &Meta, theirs: &CmOrder, number: usize) -> Option<usize> {
        let start = &theirs.starts[number];
        if let Some(at) = start.payment.as_deref().and_then(|id| self.known.get(id)) {
            return Some(*at);
        }
        if !meta.moments_compare() {
            return self.intents.get(number).map(|(_, at)| *at);
        }
        let before = |(at, _): &&(i64, usize)| *at <= start.request.at + CUT_US;
        self.intents
            .iter()
            .rev()
            .find(before)
            .map(|(_, payment)| *payment)
    }
}
