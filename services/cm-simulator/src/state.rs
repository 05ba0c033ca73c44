//! What can happen to an order at CM, and what follows from it?
//!
//! Every change is one function here that changes the state, writes its effect to the ledger and has the merchant told, in
//! one step, so that no reader can see the one without the other. Time is an argument; nothing here waits, calls or answers.
//! What changed is marked, and written to the journal when the state is let go.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    path::Path,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::{
    clock,
    config::Bounds,
    fault::{self, FAULTS_MAX, Fault, Felt},
    job::{Agenda, Job, Number, Press, Task},
    journal::{Change, Journal, Meta, Read},
    ledger::{About, Entry, Kind, Ledger, Op},
    order::{BankResult, Method, NewOrder, Order, Payment, Phase},
    scenario::{AFTER_RETURN, CallFault, DAYS_LATE, REVIEW, Scenario, Timing},
};

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
    pub(crate) payment_id: Arc<str>,
    pub(crate) trxid: Arc<str>,
    /// The notifications of it.
    pub(crate) told: Vec<u64>,
}

/// What pressing a button of the bank came to.
#[derive(Debug, Clone)]
pub(crate) struct BankOutcome {
    pub(crate) pressed: BankResult,
    /// Where the shopper goes now, if the order says so.
    pub(crate) return_url: Option<String>,
    /// The notifications of it; none when the payment had ended before: the first decision stands.
    pub(crate) told: Vec<u64>,
}

/// A shopper may try again and again on the menu; one that tries more often is a program gone wrong.
const PAYMENTS_MAX: usize = 100;
/// Notifications and other jobs that wait; one costs about 1 KB. Beyond it notifications are given up at once, which a
/// client must survive anyway.
const JOBS_MAX: usize = 20_000;
/// How far ahead of the machine's clock the simulator's may be: further than any payment's life, and within the calendar.
const OFFSET_MS_MAX: i64 = 20 * 366 * 24 * 3_600 * 1_000;
/// Orders or rows in one line of the rewritten journal.
const LINE_MAX: usize = 500;

/// Everything that CM knows, and the ledger of how it came to know it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    bounds: Bounds,
    meta: Meta,
    orders: HashMap<Arc<str>, Order>,
    /// Keys in the order of creation.
    keys: Vec<Arc<str>>,
    by_reference: HashMap<Arc<str>, Arc<str>>,
    /// References whose create came to nothing, as its story has it; forgotten by a restart, after which it may once more.
    came_to_nothing: BTreeSet<String>,
    /// Bank number to order key and index of the payment.
    by_trxid: HashMap<Arc<str>, (Arc<str>, usize)>,
    agenda: Agenda,
    /// Whether anybody is there to be told.
    pub(crate) notifying: bool,
    journal: Option<Journal>,
    changed: Changed,
}

/// What the journal does not have yet.
#[derive(Debug, Default)]
struct Changed {
    orders: BTreeSet<Arc<str>>,
    jobs: BTreeSet<u64>,
    ended: Vec<u64>,
    meta: bool,
    /// Rows that were written already.
    rows_written: usize,
    /// The journal could not be written: nothing may happen any more that would be forgotten.
    failed: bool,
}

impl State {
    /// A CM that knows nothing and keeps nothing.
    pub(crate) fn new(bounds: Bounds) -> Self {
        // A random beginning, so that ids of one run are not met again in the next: clients outlive this memory.
        let (seed, _) = Uuid::new_v4().as_u64_pair();
        Self {
            ledger: Ledger::default(),
            bounds,
            meta: Meta::new(seed % 100_000_000),
            orders: HashMap::new(),
            keys: Vec::new(),
            by_reference: HashMap::new(),
            came_to_nothing: BTreeSet::new(),
            by_trxid: HashMap::new(),
            agenda: Agenda::default(),
            notifying: false,
            journal: None,
            changed: Changed::default(),
        }
    }

    /// A CM that goes on with what is kept in a folder, and keeps everything there from now on.
    ///
    /// # Errors
    /// What the file system says, or a journal that is not ours.
    pub(crate) fn open(bounds: Bounds, dir: &Path) -> io::Result<Self> {
        let mut state = Self::new(bounds);
        let journal = Journal::open(dir, |read| state.take_in(read))?;
        state.journal = Some(journal);
        for job in state.agenda.all() {
            let order = job
                .task
                .notified_order()
                .and_then(|key| state.orders.get_mut(key));
            if let Some(order) = order {
                order.notifications_pending += 1;
            }
        }
        if state.ledger.len() > 0 {
            let now = state.now();
            let entry = Entry::effect(Op::Restart, About::default(), "begun again with what was kept");
            state.ledger.push(now, entry);
        }
        state.rewrite()?;
        Ok(state)
    }

    fn take_in(&mut self, read: Read) {
        if let Some(meta) = read.meta {
            self.meta = meta;
        }
        for order in read.orders {
            if !self.orders.contains_key(&order.key) {
                self.keys.push(order.key.clone());
                self.by_reference
                    .insert(order.reference.clone(), order.key.clone());
            }
            for (index, payment) in order.payments.iter().enumerate() {
                self.by_trxid
                    .insert(payment.trxid.clone(), (order.key.clone(), index));
            }
            self.orders.insert(order.key.clone(), order);
        }
        for row in read.rows {
            self.ledger.restore(row);
        }
        for job in read.jobs {
            self.agenda.put(job);
        }
        for id in read.ended {
            self.agenda.end(id);
        }
    }

    /// Writes down what changed; called when the state is let go, before anybody is answered.
    pub(crate) fn commit(&mut self) {
        let (rows, nothing) = (self.ledger.len(), self.changed.is_nothing(self.ledger.len()));
        if nothing || self.changed.failed {
            return;
        }
        let Some(journal) = &mut self.journal else {
            self.changed = Changed::written(rows);
            return;
        };
        let change = Change {
            meta: self.changed.meta.then_some(&self.meta),
            orders: self
                .changed
                .orders
                .iter()
                .filter_map(|key| self.orders.get(key))
                .collect(),
            rows: self.ledger.slice(self.changed.rows_written, rows),
            jobs: self
                .changed
                .jobs
                .iter()
                .filter_map(|id| self.agenda.get(*id))
                .collect(),
            ended: &self.changed.ended,
        };
        let written = journal.write(&change);
        let long = journal.is_long();
        self.changed = Changed::written(rows);
        if let Err(error) = written.and_then(|()| if long { self.rewrite() } else { Ok(()) }) {
            tracing::error!(%error, "the journal cannot be written: every call is refused until the simulator is started again");
            self.changed.failed = true;
        }
    }

    /// Writes the journal anew, with each order and job once.
    fn rewrite(&mut self) -> io::Result<()> {
        let Some(mut journal) = self.journal.take() else {
            return Ok(());
        };
        let rows = self.ledger.len();
        let meta = Change {
            meta: Some(&self.meta),
            jobs: self.agenda.all().collect(),
            ..Change::default()
        };
        let orders = self.keys.chunks(LINE_MAX).map(|keys| Change {
            orders: keys.iter().filter_map(|key| self.orders.get(key)).collect(),
            ..Change::default()
        });
        let rows_written = self.ledger.slice(0, rows).chunks(LINE_MAX).map(|rows| Change {
            rows,
            ..Change::default()
        });
        let done = journal.rewrite(std::iter::once(meta).chain(orders).chain(rows_written));
        self.journal = Some(journal);
        self.changed = Changed::written(rows);
        done
    }

    /// The simulator's time.
    pub(crate) fn now(&self) -> Timestamp {
        let wall = clock::wall();
        wall.checked_add(SignedDuration::from_millis(self.meta.clock_offset_ms))
            .unwrap_or(wall)
    }

    pub(crate) fn clock_offset_ms(&self) -> i64 {
        self.meta.clock_offset_ms
    }

    /// Moves the clock to `to`, and what is due by then happens.
    ///
    /// # Errors
    /// A sentence, where the move would go back or too far.
    pub(crate) fn move_clock(&mut self, to: Timestamp) -> Result<(), String> {
        if to < self.now() {
            return Err("the clock only goes forward: start anew to go back".to_owned());
        }
        let offset_ms = to.as_millisecond().saturating_sub(clock::wall().as_millisecond());
        if offset_ms > OFFSET_MS_MAX {
            return Err("the clock can be at most twenty years ahead of the machine's".to_owned());
        }
        self.meta.clock_offset_ms = offset_ms;
        self.changed.meta = true;
        let now = self.now();
        self.act(now);
        Ok(())
    }

    pub(crate) fn faults(&self) -> &[Fault] {
        &self.meta.faults
    }

    /// # Errors
    /// A sentence, where as many wait already as there may be.
    pub(crate) fn add_fault(&mut self, fault: Fault) -> Result<(), String> {
        if self.meta.faults.len() >= FAULTS_MAX {
            return Err(format!(
                "as many faults wait as there may be, {FAULTS_MAX}: clear them first"
            ));
        }
        self.meta.faults.push(fault);
        self.changed.meta = true;
        Ok(())
    }

    pub(crate) fn clear_faults(&mut self) {
        self.meta.faults.clear();
        self.changed.meta = true;
    }

    /// What a call of this operation feels of the faults that wait for everybody.
    pub(crate) fn feel(&mut self, op: Op) -> Felt {
        let felt = fault::take(&mut self.meta.faults, op);
        self.changed.meta |= felt.is_some();
        felt.unwrap_or_default()
    }

    pub(crate) fn order(&self, key: &str) -> Option<&Order> {
        self.orders.get(key)
    }

    /// The order, to be changed.
    pub(crate) fn order_mut(&mut self, key: &str) -> Option<&mut Order> {
        let order = self.orders.get_mut(key)?;
        self.changed.orders.insert(order.key.clone());
        Some(order)
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
        !self.changed.failed
            && self.ledger.len() < self.bounds.ledger_rows_max + self.bounds.ledger_rows_max / 10
    }

    /// Makes an order. CM knows no repeat: a used reference is refused, whatever the content.
    pub(crate) fn create(
        &mut self,
        now: Timestamp,
        new: NewOrder,
        scenario: Scenario,
        answer_lost: bool,
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
            answer_lost,
            turned_away: false,
            reads_felt: 0,
            notifications_pending: 0,
        };
        let about = order.about();
        self.by_reference.insert(order.reference.clone(), key.clone());
        self.keys.push(key.clone());
        self.changed.orders.insert(key.clone());
        self.orders.insert(key.clone(), order);
        self.effect(now, Entry::effect(Op::Create, about, "created"));
        Ok(&self.orders[&key])
    }

    /// Puts an effect on record, with what the order is now.
    fn effect(&mut self, now: Timestamp, mut entry: Entry) {
        let order = entry
            .about
            .order_key
            .as_ref()
            .and_then(|key| self.orders.get(key));
        entry.shows = order.map(|order| Box::new(order.holds()));
        self.ledger.push(now, entry);
    }

    /// What the create of a reference feels by its story, if it is the first. A client that cannot take the answer makes
    /// its order again under its reference and a suffix, with the same scenario: that one goes well, or the story would
    /// never end.
    pub(crate) fn felt_by_create(&mut self, reference: &str, scenario: Scenario) -> CallFault {
        let felt = |begun: &str| {
            self.came_to_nothing.contains(begun)
                || self
                    .order_by_reference(begun)
                    .is_some_and(|order| order.answer_lost)
        };
        let fault = scenario.plan().create;
        let again = reference.char_indices().any(|(end, _)| felt(&reference[..end]));
        let taken = self.by_reference.contains_key(reference);
        if again || taken || felt(reference) || self.came_to_nothing.len() >= self.bounds.orders_max {
            return CallFault::None;
        }
        // As gateways here write it: where the first creates were lost on their way, the suffix is there from the start.
        let begun = reference.split('~').next().unwrap_or(reference);
        if !fault.has_effect() || begun != reference {
            self.came_to_nothing.insert(begun.to_owned());
        }
        fault
    }

    /// What the start of an order feels by its story.
    pub(crate) fn felt_by_start(&mut self, key: &str) -> CallFault {
        let Some(order) = self.orders.get(key) else {
            return CallFault::None;
        };
        let fault = order.scenario.plan().start;
        if !fault.is_over_after_one() {
            return fault;
        }
        if order.turned_away {
            return CallFault::None;
        }
        if let Some(order) = self.order_mut(key) {
            order.turned_away = true;
        }
        fault
    }

    /// What a read feels by its order's story.
    pub(crate) fn felt_by_read(&mut self, key: &str) -> Option<CallFault> {
        let order = self.orders.get(key)?;
        let (fault, reads) = order.scenario.plan().status?;
        if order.safe_since.is_none() || order.reads_felt >= reads {
            return None;
        }
        self.order_mut(key)?.reads_felt += 1;
        Some(fault)
    }

    /// The key of the order that was made before the last one.
    pub(crate) fn key_before_the_last(&self) -> Option<Arc<str>> {
        self.keys.iter().rev().nth(1).cloned()
    }

    /// Makes a payment for the whole order, by the merchant (`Op::Start`) or on the menu (`Op::MenuStart`).
    ///
    /// Another one under way or already authorized is no obstacle: what CM does then is not documented, and the
    /// harsher reading is that the shopper can pay twice.
    pub(crate) fn start(
        &mut self,
        now: Timestamp,
        op: Op,
        key: &str,
        method: Method,
    ) -> Result<Started, StartRefusal> {
        let order = self.orders.get(key).ok_or(StartRefusal::UnknownOrder)?;
        if now >= order.expires_at {
            return Err(StartRefusal::Expired);
        }
        if order.payments.len() >= PAYMENTS_MAX {
            return Err(StartRefusal::TooManyPayments);
        }
        self.meta.next_payment = (self.meta.next_payment + 1) % 100_000_000;
        self.changed.meta = true;
        let id = format!("pid49{:08}t", self.meta.next_payment);
        let order = self.order_mut(key).ok_or(StartRefusal::UnknownOrder)?;
        let timing = order.scenario.plan().timing;
        let hidden = match op {
            Op::Start => order.scenario.plan().visible_after,
            _ => None,
        };
        let payment = Payment {
            id: id.into(),
            trxid: Uuid::new_v4().simple().to_string().into(),
            method,
            amount_minor: order.amount_minor,
            currency: order.currency.clone(),
            link_given: false,
            visible_from: hidden.map_or(now, |hidden| now + hidden),
            phase: Phase::AtTheBank,
            charged_back_at: None,
        };
        let about = order.about_payment(&payment);
        let (key, index) = (order.key.clone(), order.payments.len());
        let (payment_id, trxid, visible_from) =
            (payment.id.clone(), payment.trxid.clone(), payment.visible_from);
        order.payments.push(payment);
        self.effect(now, Entry::effect(op, about.clone(), Phase::AtTheBank.state()));
        self.by_trxid.insert(trxid.clone(), (key, index));
        let told = if hidden.is_some() {
            let trxid = trxid.clone();
            self.later(visible_from, Task::Appear(Number { trxid }));
            Vec::new()
        } else {
            let begins = match timing {
                Timing::OutOfOrder => now + AFTER_RETURN,
                Timing::DaysLate => now + DAYS_LATE,
                Timing::AtOnce
                | Timing::BeforeAnswer
                | Timing::BeforeReturn
                | Timing::AfterReturn
                | Timing::BeforeCreateAnswer => now,
            };
            self.notify(now, begins, op, about)
        };
        Ok(Started {
            payment_id,
            trxid,
            told,
        })
    }

    /// Remembers that the bank's URL of a payment was handed out.
    pub(crate) fn link_given(&mut self, trxid: &str) {
        if let Some(payment) = self.payment_mut(trxid) {
            payment.link_given = true;
        }
    }

    fn payment_mut(&mut self, trxid: &str) -> Option<&mut Payment> {
        let (key, index) = self.by_trxid.get(trxid)?.clone();
        self.order_mut(&key)?.payments.get_mut(index)
    }

    /// The shopper decides at the bank; the first decision on a payment stands. `None` for an unknown number.
    pub(crate) fn bank(
        &mut self,
        now: Timestamp,
        op: Op,
        trxid: &str,
        pressed: BankResult,
    ) -> Option<BankOutcome> {
        let (_, payment) = self.at_bank(trxid)?;
        let told = if payment.phase == Phase::AtTheBank {
            match pressed {
                BankResult::Success => self.authorize(now, op, trxid),
                BankResult::Review => {
                    let task = Task::Release(Number { trxid: trxid.into() });
                    self.later(now + REVIEW, task);
                    self.moved(now, op, trxid, Phase::InReview)
                }
                BankResult::Cancel | BankResult::Fail | BankResult::Expire => {
                    self.moved(now, op, trxid, Phase::Ended(pressed))
                }
            }
        } else {
            Vec::new()
        };
        let (order, payment) = self.at_bank(trxid)?;
        Some(BankOutcome {
            pressed,
            return_url: order.return_url(payment.phase),
            told,
        })
    }

    /// Authorizes and, as iDEAL and PayPal do, captures at once. The order is then considered safe when all of it is
    /// authorized, or when the scenario is one in which CM calls a short order safe.
    fn authorize(&mut self, now: Timestamp, op: Op, trxid: &str) -> Vec<u64> {
        let Some((order, payment)) = self.at_bank(trxid) else {
            return Vec::new();
        };
        let scenario = order.scenario;
        let amount_minor = scenario.authorized_minor(payment.amount_minor);
        let currency = scenario.authorized_currency(&payment.currency);
        if let (Some(currency), Some(payment)) = (currency, self.payment_mut(trxid)) {
            payment.currency = currency.into();
        }
        let phase = Phase::Authorized {
            amount_minor,
            captured_at: now,
        };
        let told = self.moved(now, op, trxid, phase);
        if let Some(after) = scenario.plan().reversed_after {
            let task = Task::Reverse(Number { trxid: trxid.into() });
            self.later(now + after, task);
        }
        let key = self.by_trxid.get(trxid).map(|(key, _)| key.clone());
        if let Some(order) = key.and_then(|key| self.order_mut(&key))
            && order.safe_since.is_none()
            && (order.authorized_minor() >= order.amount_minor || scenario.safe_when_short())
        {
            order.safe_since = Some(now);
            let about = order.about();
            let mut entry = Entry::effect(op, about, "");
            entry.detail = Some(format!("considered_safe {}", scenario.plan().level).into());
            self.effect(now, entry);
        }
        told
    }

    /// A payment reaches a phase: on record, and the merchant is told.
    fn moved(&mut self, now: Timestamp, op: Op, trxid: &str, phase: Phase) -> Vec<u64> {
        let Some(payment) = self.payment_mut(trxid) else {
            return Vec::new();
        };
        payment.phase = phase;
        let Some((order, payment)) = self.at_bank(trxid) else {
            return Vec::new();
        };
        let about = order.about_payment(payment);
        let due = match order.scenario.plan().timing {
            Timing::AfterReturn => now + AFTER_RETURN,
            Timing::DaysLate => now + DAYS_LATE,
            Timing::AtOnce
            | Timing::BeforeAnswer
            | Timing::BeforeReturn
            | Timing::OutOfOrder
            | Timing::BeforeCreateAnswer => now,
        };
        self.effect(now, Entry::effect(op, about.clone(), phase.state()));
        self.notify(now, due, op, about)
    }

    /// The shopper decides later.
    pub(crate) fn press_later(&mut self, at: Timestamp, trxid: &str, pressed: BankResult) {
        self.later(
            at,
            Task::Press(Press {
                trxid: trxid.into(),
                pressed,
            }),
        );
    }

    /// Has the merchant told as often as the order's scenario says.
    fn notify(&mut self, now: Timestamp, due: Timestamp, op: Op, about: About) -> Vec<u64> {
        let copies = about
            .order_key
            .as_deref()
            .and_then(|key| self.orders.get(key))
            .map_or(0, |order| order.scenario.plan().notification_copies);
        self.notify_times(now, due, op, &about, copies)
    }

    /// Has the merchant told, whatever the scenario says.
    pub(crate) fn notify_times(
        &mut self,
        now: Timestamp,
        due: Timestamp,
        op: Op,
        about: &About,
        times: usize,
    ) -> Vec<u64> {
        if !self.notifying || times == 0 {
            return Vec::new();
        }
        if self.agenda.len() + times > JOBS_MAX {
            let detail = "given up at once: too many notifications are waiting".to_owned();
            self.ledger.push(now, attempt(op, about.clone(), None, detail));
            return Vec::new();
        }
        // Not marked as changed: the number is counted anew after a restart.
        if let Some(order) = about.order_key.as_ref().and_then(|key| self.orders.get_mut(key)) {
            order.notifications_pending += times;
        }
        (0..times)
            .map(|_| {
                let task = Task::Notify {
                    op,
                    about: about.clone(),
                    tried: 0,
                };
                self.later(due, task)
            })
            .collect()
    }

    fn later(&mut self, due: Timestamp, task: Task) -> u64 {
        let id = self.meta.next_job;
        self.meta.next_job += 1;
        self.changed.meta = true;
        self.put(Job { id, due, task });
        id
    }

    fn put(&mut self, job: Job) {
        self.changed.jobs.insert(job.id);
        self.agenda.put(job);
    }

    fn end(&mut self, id: u64) {
        if let Some(job) = self.agenda.end(id) {
            self.changed.ended.push(id);
            let order = job.task.notified_order().and_then(|key| self.orders.get_mut(key));
            if let Some(order) = order {
                order.notifications_pending = order.notifications_pending.saturating_sub(1);
            }
        }
    }

    /// When the next job is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        self.agenda.next()
    }

    /// Whether a job has not ended yet.
    pub(crate) fn is_waiting(&self, id: u64) -> bool {
        self.agenda.get(id).is_some()
    }

    /// Lets everything happen that is due, at the time it was due, but for notifications: who sends them takes them.
    pub(crate) fn act(&mut self, now: Timestamp) {
        let mut notifications = Vec::new();
        while let Some(job) = self.agenda.take_due(now) {
            match &job.task {
                Task::Notify { .. } => {
                    notifications.push(job);
                    continue;
                }
                Task::Press(press) => {
                    self.bank(job.due, Op::Bank, &press.trxid, press.pressed);
                }
                Task::Release(Number { trxid }) => {
                    let in_review = self
                        .at_bank(trxid)
                        .is_some_and(|(_, payment)| payment.phase == Phase::InReview);
                    if in_review {
                        self.authorize(job.due, Op::Provider, trxid);
                    }
                }
                Task::Reverse(Number { trxid }) => self.reverse(job.due, trxid),
                Task::Appear(Number { trxid }) => {
                    if let Some((order, payment)) = self.at_bank(trxid) {
                        let about = order.about_payment(payment);
                        let entry = Entry::effect(Op::Provider, about.clone(), "visible");
                        self.effect(job.due, entry);
                        self.notify(job.due, job.due, Op::Start, about);
                    }
                }
            }
            self.end(job.id);
        }
        for job in notifications {
            self.agenda.put(job);
        }
    }

    fn reverse(&mut self, now: Timestamp, trxid: &str) {
        let Some(payment) = self.payment_mut(trxid) else {
            return;
        };
        if payment.charged_back_at.is_some() {
            return;
        }
        payment.charged_back_at = Some(now);
        if let Some((order, payment)) = self.at_bank(trxid) {
            let about = order.about_payment(payment);
            let entry = Entry::effect(Op::Provider, about.clone(), "charged back: CHARGED");
            self.effect(now, entry);
            self.notify(now, now, Op::Provider, about);
        }
    }

    /// The next notification that is due; until it is put back or ended, nobody else gets it.
    pub(crate) fn take_notification(&mut self, now: Timestamp) -> Option<Job> {
        self.act(now);
        self.agenda.take_due(now)
    }

    /// A notification was tried and is done with, or waits for its next attempt.
    pub(crate) fn tried(
        &mut self,
        now: Timestamp,
        mut job: Job,
        sent_after: usize,
        (status, detail): (Option<u16>, String),
        again: Option<SignedDuration>,
    ) {
        let Task::Notify { op, about, tried } = &mut job.task else {
            return;
        };
        let mut row = attempt(*op, about.clone(), status, detail);
        row.request = Some(sent_after);
        self.ledger.push(now, row);
        match again {
            Some(pause) => {
                *tried += 1;
                job.due = now + pause;
                self.put(job);
            }
            None => self.end(job.id),
        }
    }
}

impl Changed {
    fn written(rows: usize) -> Self {
        Self {
            rows_written: rows,
            ..Self::default()
        }
    }

    fn is_nothing(&self, rows: usize) -> bool {
        self.orders.is_empty()
            && self.jobs.is_empty()
            && self.ended.is_empty()
            && !self.meta
            && rows == self.rows_written
    }
}

/// A row for one attempt to notify.
fn attempt(op: Op, about: About, status: Option<u16>, detail: String) -> Entry {
    Entry {
        kind: Kind::Notification,
        op,
        about,
        body_sha256: None,
        status,
        detail: Some(detail.into()),
        request: None,
        shows: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::ReturnUrls;

    #[test]
    fn an_expired_order_takes_no_new_payment_but_one_under_way_may_still_end_well() {
        let mut state = State::new(Bounds::default());
        let key = create(&mut state, "A-1", Scenario::default());
        let started = state
            .start(at(59), Op::Start, &key, Method::Ideal)
            .expect("not yet expired");
        assert_eq!(
            state
                .start(at(60), Op::MenuStart, &key, Method::Ideal)
                .expect_err("expired"),
            StartRefusal::Expired
        );
        press(&mut state, at(61), &started, BankResult::Success);
        assert_eq!(word(&state, &started), "AUTHORIZED");
    }

    #[test]
    fn the_first_decision_at_the_bank_stands() {
        let mut state = State::new(Bounds::default());
        let key = create(&mut state, "A-1", Scenario::default());
        let started = state.start(at(0), Op::Start, &key, Method::Ideal).expect("open");
        press(&mut state, at(1), &started, BankResult::Cancel);
        press(&mut state, at(2), &started, BankResult::Success);
        assert_eq!(word(&state, &started), "CANCELED");
        assert_eq!(state.order(&key).expect("made").safe_since, None);
    }

    #[test]
    fn a_shopper_who_pays_twice_has_paid_twice() {
        let mut state = State::new(Bounds::default());
        let key = create(&mut state, "A-1", Scenario::default());
        for op in [Op::Start, Op::MenuStart] {
            let started = state.start(at(0), op, &key, Method::Ideal).expect("open");
            press(&mut state, at(1), &started, BankResult::Success);
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
        let key = create(&mut state, "A-1", Scenario::default());
        let started = state.start(at(0), Op::Start, &key, Method::Ideal).expect("open");
        let refused = state
            .create(at(0), new_order("A-2"), Scenario::default(), false)
            .map(|_| ());
        assert_eq!(refused, Err(CreateRefusal::Full));
        press(&mut state, at(1), &started, BankResult::Success);
        assert_eq!(word(&state, &started), "AUTHORIZED");
        assert_eq!(state.ledger.len(), 4);
    }

    #[test]
    fn a_create_is_lost_once_and_the_one_with_a_suffix_is_answered() {
        let mut state = State::new(Bounds::default());
        let story = |name| Scenario::parse(name, None).expect("documented");
        let nothing = story("any/create_503_before_effect");
        assert_eq!(
            ["D-1", "D-1", "D-1~1.2"].map(|reference| state.felt_by_create(reference, nothing)),
            [
                CallFault::Answer503WithoutEffect,
                CallFault::None,
                CallFault::None
            ]
        );
        let scenario = story("any/create_timeout_after_effect");
        for (reference, scenario, lost) in [
            ("A-1", scenario, true),
            ("A-1-2", scenario, false),
            ("B-1", scenario, true),
            ("C-1", Scenario::default(), false),
        ] {
            let felt = state.felt_by_create(reference, scenario);
            assert_eq!(felt == CallFault::NeverAnswer, lost, "{reference}");
            state
                .create(at(0), new_order(reference), scenario, lost)
                .expect("new");
        }
    }

    #[test]
    fn the_clock_does_not_go_back_and_not_beyond_twenty_years() {
        let mut state = State::new(Bounds::default());
        let day = SignedDuration::from_hours(24);
        state.move_clock(state.now() + day).expect("forward");
        assert!(state.move_clock(state.now() - day).is_err());
        assert!(state.move_clock(state.now() + day * 8_000).is_err());
    }

    fn press(state: &mut State, now: Timestamp, started: &Started, pressed: BankResult) {
        state
            .bank(now, Op::Bank, &started.trxid, pressed)
            .expect("the number is known");
    }

    /// CM's word for a payment.
    fn word(state: &State, started: &Started) -> &'static str {
        let (_, payment) = state.at_bank(&started.trxid).expect("the number is known");
        payment.phase.state()
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * minute).expect("in range")
    }

    fn create(state: &mut State, reference: &str, scenario: Scenario) -> Arc<str> {
        state
            .create(at(0), new_order(reference), scenario, false)
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
