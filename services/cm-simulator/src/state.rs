//! What can happen to an order at CM, and what follows from it?
//!
//! Every change is one function here that changes the state and writes its effect to the ledger in one step, so that
//! no reader can see the one without the other. Time is an argument; nothing here waits, calls or answers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::{
    config::Bounds,
    ledger::{About, Entry, Ledger, Op},
    scenario::Scenario,
};

/// What a merchant asked for, after validation. `amount_minor` is in the currency's minor units.
#[derive(Debug, Clone)]
pub(crate) struct NewOrder {
    pub(crate) reference: String,
    pub(crate) description: String,
    pub(crate) amount_minor: i64,
    pub(crate) currency: String,
    pub(crate) email: String,
    pub(crate) language: String,
    pub(crate) country: String,
    pub(crate) profile: Option<String>,
    pub(crate) lifetime: SignedDuration,
    pub(crate) return_urls: ReturnUrls,
}

/// Absolute http(s) URLs of the shop. One that ends in `=` gets the order key appended.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReturnUrls {
    pub(crate) success: Option<String>,
    pub(crate) pending: Option<String>,
    pub(crate) canceled: Option<String>,
    pub(crate) error: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) key: Arc<str>,
    pub(crate) reference: Arc<str>,
    pub(crate) description: String,
    pub(crate) amount_minor: i64,
    pub(crate) currency: Arc<str>,
    pub(crate) email: String,
    pub(crate) language: String,
    pub(crate) country: String,
    pub(crate) profile: Option<String>,
    pub(crate) return_urls: ReturnUrls,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) scenario: Scenario,
    /// Since when CM calls the order considered safe (level SAFE).
    pub(crate) safe_since: Option<Timestamp>,
    /// In the order they were made.
    pub(crate) payments: Vec<Payment>,
    /// Notifications that were neither delivered nor given up yet.
    pub(crate) notifications_pending: usize,
}

#[derive(Debug)]
pub(crate) struct Payment {
    pub(crate) id: Arc<str>,
    /// The bank's own number, as it stands in the bank page's URL: it cannot be guessed.
    pub(crate) trxid: Arc<str>,
    pub(crate) amount_minor: i64,
    /// Whether the bank's URL was ever handed out; without it no shopper can be there.
    pub(crate) link_given: bool,
    pub(crate) phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The shopper was sent to the bank, or would have been had the answer arrived.
    AtTheBank,
    Authorized {
        amount_minor: i64,
        captured_at: Timestamp,
    },
    Ended(BankResult),
}

impl Phase {
    /// CM's word for it.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Self::AtTheBank => "REDIRECTED_FOR_AUTHORIZATION",
            Self::Authorized { .. } => "AUTHORIZED",
            Self::Ended(BankResult::Fail) => "AUTHORIZATION_FAILED",
            Self::Ended(_) => "CANCELED",
        }
    }

    /// CM's `reason`, which only an attempt that came to nothing has.
    pub(crate) fn reason(self) -> Option<&'static str> {
        match self {
            Self::AtTheBank | Self::Authorized { .. } | Self::Ended(BankResult::Success) => None,
            Self::Ended(BankResult::Cancel) => Some("Canceled"),
            Self::Ended(BankResult::Fail) => Some("Failed"),
            Self::Ended(BankResult::Expire) => Some("Expired"),
        }
    }
}

/// The bank's four buttons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BankResult {
    Success,
    Cancel,
    Fail,
    Expire,
}

impl BankResult {
    pub(crate) const ALL: [Self; 4] = [Self::Success, Self::Cancel, Self::Fail, Self::Expire];

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.word() == word)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Cancel => "cancel",
            Self::Fail => "fail",
            Self::Expire => "expire",
        }
    }
}

/// Why CM makes no order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CreateRefusal {
    DuplicateReference,
    Full,
}

/// Why CM makes no payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartRefusal {
    UnknownOrder,
    Expired,
    TooManyPayments,
}

/// A payment that has just been made.
#[derive(Debug, Clone)]
pub(crate) struct Started {
    pub(crate) order_key: Arc<str>,
    pub(crate) payment_id: Arc<str>,
    pub(crate) trxid: Arc<str>,
}

/// What pressing a button of the bank came to.
#[derive(Debug, Clone)]
pub(crate) struct BankOutcome {
    pub(crate) order_key: Arc<str>,
    pub(crate) payment_id: Arc<str>,
    /// False when the payment had ended before: the first decision stands.
    pub(crate) changed: bool,
    /// CM's word for the payment's state now.
    pub(crate) state: &'static str,
    /// Where the shopper goes now, if the order says so.
    pub(crate) return_url: Option<String>,
}

/// A shopper may try again and again on the menu; one that tries more often is a program gone wrong.
const PAYMENTS_MAX: usize = 100;

/// Everything that CM knows, and the ledger of how it came to know it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    bounds: Bounds,
    orders: HashMap<Arc<str>, Order>,
    /// Keys in the order of creation.
    keys: Vec<Arc<str>>,
    by_reference: HashMap<Arc<str>, Arc<str>>,
    /// Bank number to order key and index of the payment.
    by_trxid: HashMap<Arc<str>, (Arc<str>, usize)>,
    /// References whose create was left unanswered on purpose.
    unanswered_creates: HashSet<Arc<str>>,
    next_payment: u64,
}

impl State {
    pub(crate) fn new(bounds: Bounds) -> Self {
        // A random beginning, so that ids of one run are not met again in the next: clients outlive this memory.
        let (seed, _) = Uuid::new_v4().as_u64_pair();
        Self {
            ledger: Ledger::default(),
            bounds,
            orders: HashMap::new(),
            keys: Vec::new(),
            by_reference: HashMap::new(),
            by_trxid: HashMap::new(),
            unanswered_creates: HashSet::new(),
            next_payment: seed % 100_000_000,
        }
    }

    pub(crate) fn order(&self, key: &str) -> Option<&Order> {
        self.orders.get(key)
    }

    pub(crate) fn order_mut(&mut self, key: &str) -> Option<&mut Order> {
        self.orders.get_mut(key)
    }

    pub(crate) fn order_by_reference(&self, reference: &str) -> Option<&Order> {
        self.orders.get(self.by_reference.get(reference)?)
    }

    /// In the order of creation; reversible.
    pub(crate) fn orders(&self) -> impl DoubleEndedIterator<Item = &Order> {
        self.keys.iter().filter_map(|key| self.orders.get(key))
    }

    /// The order and the payment that a bank number belongs to.
    pub(crate) fn at_bank(&self, trxid: &str) -> Option<(&Order, &Payment)> {
        let (key, index) = self.by_trxid.get(trxid)?;
        let order = self.orders.get(key)?;
        Some((order, order.payments.get(*index)?))
    }

    /// Whether another request may be recorded; see [`Bounds::ledger_rows_max`].
    pub(crate) fn has_room_for_a_request(&self) -> bool {
        self.ledger.len() < self.bounds.ledger_rows_max + self.bounds.ledger_rows_max / 10
    }

    /// Makes an order. CM knows no repeat: a used reference is refused, whatever the content.
    pub(crate) fn create(
        &mut self,
        now: Timestamp,
        new: NewOrder,
        scenario: Scenario,
    ) -> Result<&Order, CreateRefusal> {
        if self.by_reference.contains_key(new.reference.as_str()) {
            return Err(CreateRefusal::DuplicateReference);
        }
        if self.orders.len() >= self.bounds.orders_max || self.ledger.len() >= self.bounds.ledger_rows_max {
            return Err(CreateRefusal::Full);
        }
        let key: Arc<str> = Uuid::new_v4().simple().to_string().to_uppercase().into();
        let order = Order {
            key: key.clone(),
            reference: new.reference.into(),
            description: new.description,
            amount_minor: new.amount_minor,
            currency: new.currency.into(),
            email: new.email,
            language: new.language,
            country: new.country,
            profile: new.profile,
            return_urls: new.return_urls,
            created_at: now,
            expires_at: now + new.lifetime,
            scenario,
            safe_since: None,
            payments: Vec::new(),
            notifications_pending: 0,
        };
        self.ledger
            .push(now, Entry::effect(Op::Create, order.about(), "created"));
        self.by_reference.insert(order.reference.clone(), key.clone());
        self.keys.push(key.clone());
        Ok(self.orders.entry(key).or_insert(order))
    }

    /// Whether the answer to this create is to be lost. A client that got none makes its order again under its
    /// reference and a suffix, with the same scenario: that one is answered, or the story would never end.
    pub(crate) fn loses_create_answer(&mut self, reference: &str, scenario: Scenario) -> bool {
        if scenario != Scenario::CreateTimeoutAfterEffect {
            return false;
        }
        let is_retry = reference
            .char_indices()
            .any(|(end, _)| self.unanswered_creates.contains(&reference[..end]));
        if !is_retry {
            self.unanswered_creates.insert(reference.into());
        }
        !is_retry
    }

    /// Makes a payment for the whole order, by the merchant (`Op::Start`) or on the menu (`Op::MenuStart`).
    ///
    /// Another one under way or already authorized is no obstacle: what CM does then is not documented, and the
    /// harsher reading is that the shopper can pay twice.
    pub(crate) fn start(&mut self, now: Timestamp, op: Op, key: &str) -> Result<Started, StartRefusal> {
        let order = self.orders.get_mut(key).ok_or(StartRefusal::UnknownOrder)?;
        if now >= order.expires_at {
            return Err(StartRefusal::Expired);
        }
        if order.payments.len() >= PAYMENTS_MAX {
            return Err(StartRefusal::TooManyPayments);
        }
        self.next_payment = (self.next_payment + 1) % 100_000_000;
        let payment = Payment {
            id: format!("pid49{:08}t", self.next_payment).into(),
            trxid: Uuid::new_v4().simple().to_string().into(),
            amount_minor: order.amount_minor,
            link_given: false,
            phase: Phase::AtTheBank,
        };
        let started = Started {
            order_key: order.key.clone(),
            payment_id: payment.id.clone(),
            trxid: payment.trxid.clone(),
        };
        self.ledger.push(
            now,
            Entry::effect(op, order.about_payment(&payment), payment.phase.state()),
        );
        self.by_trxid
            .insert(payment.trxid.clone(), (order.key.clone(), order.payments.len()));
        order.payments.push(payment);
        Ok(started)
    }

    /// Remembers that the bank's URL of a payment was handed out.
    pub(crate) fn link_given(&mut self, trxid: &str) {
        if let Some((key, index)) = self.by_trxid.get(trxid)
            && let Some(payment) = self
                .orders
                .get_mut(key)
                .and_then(|order| order.payments.get_mut(*index))
        {
            payment.link_given = true;
        }
    }

    /// The shopper decides at the bank; the first decision on a payment stands. `None` for an unknown number.
    ///
    /// Success authorizes and, as iDEAL does, captures at once. The order is then considered safe when all of it is
    /// authorized, or when the scenario is the one in which CM calls a short order safe.
    pub(crate) fn bank(&mut self, now: Timestamp, trxid: &str, pressed: BankResult) -> Option<BankOutcome> {
        let (key, index) = self.by_trxid.get(trxid)?;
        let order = self.orders.get_mut(key)?;
        let scenario = order.scenario;
        let payment = order.payments.get_mut(*index)?;
        let changed = payment.phase == Phase::AtTheBank;
        if changed {
            payment.phase = match pressed {
                BankResult::Success => Phase::Authorized {
                    amount_minor: scenario.authorized_minor(payment.amount_minor),
                    captured_at: now,
                },
                BankResult::Cancel | BankResult::Fail | BankResult::Expire => Phase::Ended(pressed),
            };
        }
        let (phase, payment_id) = (payment.phase, payment.id.clone());
        if changed {
            let about = order.about_payment(&order.payments[*index]);
            self.ledger
                .push(now, Entry::effect(Op::Bank, about, phase.state()));
            let covered = order.authorized_minor() >= order.amount_minor
                || (pressed == BankResult::Success && scenario == Scenario::AmountShort11);
            if covered && order.safe_since.is_none() {
                order.safe_since = Some(now);
                self.ledger.push(
                    now,
                    Entry::effect(Op::Bank, order.about(), "considered_safe SAFE"),
                );
            }
        }
        Some(BankOutcome {
            order_key: order.key.clone(),
            payment_id,
            changed,
            state: phase.state(),
            return_url: order.return_url(phase),
        })
    }
}

impl Order {
    /// Sum of what is authorized, in minor units.
    pub(crate) fn authorized_minor(&self) -> i64 {
        self.payments
            .iter()
            .map(|payment| match payment.phase {
                Phase::Authorized { amount_minor, .. } => amount_minor,
                Phase::AtTheBank | Phase::Ended(_) => 0,
            })
            .sum()
    }

    /// Where the shopper goes after a payment reached `phase`: which of the four URLs it is says nothing certain.
    pub(crate) fn return_url(&self, phase: Phase) -> Option<String> {
        let urls = &self.return_urls;
        let url = match phase {
            Phase::Authorized { .. } | Phase::Ended(BankResult::Success) => urls.success.as_ref(),
            Phase::AtTheBank => urls.pending.as_ref(),
            Phase::Ended(BankResult::Fail) => urls.error.as_ref(),
            Phase::Ended(BankResult::Cancel | BankResult::Expire) => urls.canceled.as_ref(),
        };
        url.map(|url| self.with_key(url))
    }

    /// Where the menu's "back to the shop" leads; the order stays open.
    pub(crate) fn canceled_url(&self) -> Option<String> {
        self.return_urls.canceled.as_ref().map(|url| self.with_key(url))
    }

    fn with_key(&self, url: &str) -> String {
        if url.ends_with('=') {
            format!("{url}{}", self.key)
        } else {
            url.to_owned()
        }
    }

    pub(crate) fn about(&self) -> About {
        About {
            reference: Some(self.reference.clone()),
            order_key: Some(self.key.clone()),
            payment_id: None,
            amount: Some(self.amount_minor),
            currency: Some(self.currency.clone()),
        }
    }

    /// The amount is what is authorized once something is, else what was asked for.
    pub(crate) fn about_payment(&self, payment: &Payment) -> About {
        let amount = match payment.phase {
            Phase::Authorized { amount_minor, .. } => amount_minor,
            Phase::AtTheBank | Phase::Ended(_) => payment.amount_minor,
        };
        About {
            payment_id: Some(payment.id.clone()),
            amount: Some(amount),
            ..self.about()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expired_order_takes_no_new_payment_but_one_under_way_may_still_end_well() {
        let mut state = State::new(Bounds::default());
        let key = create(&mut state, "A-1", Scenario::Success);
        let started = state.start(at(59), Op::Start, &key).expect("not yet expired");
        assert_eq!(
            state.start(at(60), Op::MenuStart, &key).expect_err("expired"),
            StartRefusal::Expired
        );
        let outcome = state
            .bank(at(61), &started.trxid, BankResult::Success)
            .expect("known");
        assert_eq!((outcome.changed, outcome.state), (true, "AUTHORIZED"));
    }

    #[test]
    fn the_first_decision_at_the_bank_stands() {
        let mut state = State::new(Bounds::default());
        let key = create(&mut state, "A-1", Scenario::Success);
        let started = state.start(at(0), Op::Start, &key).expect("open");
        state
            .bank(at(1), &started.trxid, BankResult::Cancel)
            .expect("known");
        let second = state
            .bank(at(2), &started.trxid, BankResult::Success)
            .expect("known");
        assert_eq!((second.changed, second.state), (false, "CANCELED"));
        assert_eq!(state.order(&key).expect("made").safe_since, None);
    }

    #[test]
    fn a_shopper_who_pays_twice_has_paid_twice() {
        let mut state = State::new(Bounds::default());
        let key = create(&mut state, "A-1", Scenario::Success);
        for op in [Op::Start, Op::MenuStart] {
            let started = state.start(at(0), op, &key).expect("open");
            state
                .bank(at(1), &started.trxid, BankResult::Success)
                .expect("known");
        }
        let order = state.order(&key).expect("made");
        assert_eq!(order.authorized_minor(), 2 * order.amount_minor);
        assert_eq!(order.safe_since, Some(at(1)));
    }

    #[test]
    fn a_full_ledger_refuses_new_orders_and_lets_the_others_end() {
        let mut state = State::new(Bounds {
            orders_max: 10,
            ledger_rows_max: 2,
        });
        let key = create(&mut state, "A-1", Scenario::Success);
        let started = state.start(at(0), Op::Start, &key).expect("open");
        let refused = state
            .create(at(0), new_order("A-2"), Scenario::Success)
            .map(|_| ());
        assert_eq!(refused, Err(CreateRefusal::Full));
        assert!(
            state
                .bank(at(1), &started.trxid, BankResult::Success)
                .expect("known")
                .changed
        );
        assert_eq!(state.ledger.len(), 4);
    }

    #[test]
    fn a_create_is_lost_once_and_the_one_with_a_suffix_is_answered() {
        let mut state = State::new(Bounds::default());
        let scenario = Scenario::CreateTimeoutAfterEffect;
        assert!(state.loses_create_answer("A-1", scenario));
        assert!(!state.loses_create_answer("A-1-2", scenario));
        assert!(state.loses_create_answer("B-1", scenario));
        assert!(!state.loses_create_answer("C-1", Scenario::Success));
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * minute).expect("in range")
    }

    fn create(state: &mut State, reference: &str, scenario: Scenario) -> Arc<str> {
        state
            .create(at(0), new_order(reference), scenario)
            .expect("new")
            .key
            .clone()
    }

    fn new_order(reference: &str) -> NewOrder {
        NewOrder {
            reference: reference.to_owned(),
            description: "Dog food".to_owned(),
            amount_minor: 4_995,
            currency: "EUR".to_owned(),
            email: "a@example.com".to_owned(),
            language: "nl".to_owned(),
            country: "NL".to_owned(),
            profile: None,
            lifetime: SignedDuration::from_mins(60),
            return_urls: ReturnUrls::default(),
        }
    }
}
