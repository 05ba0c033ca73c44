//! What does one decision see and say? The aggregates it asked for, as they are now, and all that it wants stored.

use cqrs_es::{Aggregate, DomainEvent as _, event_sink::EventSink};
use jiff::Timestamp;
use kassa_chassis::trace;
use kassa_domain::{
    ids::{self, CommandId, OrderId, PaymentId, Shop},
    order::{Order, OrderCommand, OrderEvent, OrderRejection},
    payment::{Payment, PaymentCommand, PaymentEvent, PaymentRejection},
};
use kassa_event_store::{NewEvent, NewTimer, ReadRequest, StoredEvent, Touch, VaultRow};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{
    counts::{self, Counted},
    executor::{Executor, Fault},
};

/// An aggregate with the version and position of its last event; version 0 is a stream that does not exist.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loaded<A> {
    pub(crate) state: A,
    pub(crate) version: i64,
    pub(crate) position: i64,
}

impl<A> Loaded<A>
where
    A: Aggregate,
    A::Event: DeserializeOwned,
{
    pub(crate) fn apply(&mut self, stored: &StoredEvent) -> Result<(), Fault> {
        let event = serde_json::from_slice(&stored.payload).map_err(|source| Fault::Unreadable {
            position: stored.position,
            source,
        })?;
        self.state.apply(event);
        self.version = stored.version;
        self.position = stored.position;
        Ok(())
    }
}

/// One aggregate in one decision: `base` is what the store has, `state` what it becomes.
#[derive(Debug)]
pub(crate) struct Touched<A> {
    pub(crate) stream: Uuid,
    pub(crate) base: Loaded<A>,
    pub(crate) state: A,
    pub(crate) added: i64,
}

/// The working set of one decision. Nothing in it is true before the append.
#[derive(Debug)]
pub struct Session<'a> {
    executor: &'a Executor,
    author: Author,
    pub(crate) now: Timestamp,
    pub(crate) order: Option<(OrderId, Touched<Order>)>,
    pub(crate) payments: Vec<(PaymentId, Touched<Payment>)>,
    pub(crate) events: Vec<NewEvent>,
    pub(crate) timers: Vec<NewTimer>,
    pub(crate) done_timers: Vec<Uuid>,
    pub(crate) vault: Vec<VaultRow>,
    pub(crate) reads: Vec<ReadRequest>,
    /// What is to be counted once it is stored.
    pub(crate) counted: Vec<Counted>,
}

/// Who and what an event is recorded for; stored beside its payload.
#[derive(Debug, Serialize)]
struct Metadata<'m> {
    command_id: Uuid,
    causation_id: Uuid,
    correlation_id: &'m str,
    auth_type: &'m str,
    auth_id: &'m str,
    /// The trace context at creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
}

/// A rejection of the domain, or a fault of ours.
#[derive(Debug, thiserror::Error)]
pub enum Told<R: std::error::Error + 'static> {
    #[error(transparent)]
    Rejected(R),
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl<'a> Session<'a> {
    pub(crate) fn new(executor: &'a Executor, command: CommandId, by_shop: bool, now: Timestamp) -> Self {
        Self {
            executor,
            author: Author { command, by_shop },
            now,
            order: None,
            payments: vec![],
            events: vec![],
            timers: vec![],
            done_timers: vec![],
            vault: vec![],
            reads: vec![],
            counted: vec![],
        }
    }

    /// The moment that this decision is recorded at.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The command that is being decided.
    pub fn command(&self) -> CommandId {
        self.author.command
    }

    /// The order, [`Order::Unopened`] where there is none. One decision is about one order.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub async fn order(&mut self, id: OrderId) -> Result<&Order, Fault> {
        Ok(&self.touch_order(id).await?.state)
    }

    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub async fn payment(&mut self, id: PaymentId) -> Result<&Payment, Fault> {
        Ok(&self.touch_payment(id).await?.state)
    }

    /// Lets the order decide; its events join what is stored.
    ///
    /// # Errors
    /// The order's rejection, or a [`Fault`].
    pub async fn tell_order(
        &mut self,
        id: OrderId,
        command: OrderCommand,
    ) -> Result<(), Told<OrderRejection>> {
        let author = self.author;
        let touched = self.touch_order(id).await?;
        let decided = decide(touched, command).await.map_err(Told::Rejected)?;
        let Some(opened) = touched.state.opened() else {
            return Ok(());
        };
        let counted: Vec<_> = decided
            .iter()
            .filter_map(|event| counts::of_order(opened, event))
            .collect();
        let text = id.to_string();
        let place = Place {
            shop: opened.facts.shop.clone(),
            aggregate_id: &text,
            correlation_id: &text,
        };
        let stored = author.sign(touched, &place, &decided, |event, version| match event.epoch() {
            Some(epoch) => ids::epoch_event_id(id, &event.event_type(), epoch),
            None => ids::event_id(id.stream(), version),
        })?;
        self.counted.extend(counted);
        self.events.extend(stored);
        Ok(())
    }

    /// Lets the payment decide; its events join what is stored.
    ///
    /// # Errors
    /// The payment's rejection, or a [`Fault`].
    pub async fn tell_payment(
        &mut self,
        id: PaymentId,
        command: PaymentCommand,
    ) -> Result<(), Told<PaymentRejection>> {
        let author = self.author;
        let touched = self.touch_payment(id).await?;
        let decided = decide(touched, command).await.map_err(Told::Rejected)?;
        let Some(attempt) = touched.state.attempt() else {
            return Ok(());
        };
        let counted: Vec<_> = decided
            .iter()
            .filter_map(|event| counts::of_payment(attempt, event))
            .collect();
        let (text, order) = (id.to_string(), attempt.order_id.to_string());
        let place = Place {
            shop: attempt.shop.clone(),
            aggregate_id: &text,
            correlation_id: &order,
        };
        let stored = author.sign(touched, &place, &decided, |_, version| {
            ids::event_id(id.stream(), version)
        })?;
        self.counted.extend(counted);
        self.events.extend(stored);
        Ok(())
    }

    /// Stored with the events, or not at all.
    pub fn set_timer(&mut self, timer: NewTimer) {
        self.timers.push(timer);
    }

    /// A timer that has nothing more to say once this is stored.
    pub fn settle_timer(&mut self, timer_id: Uuid) {
        self.done_timers.push(timer_id);
    }

    /// Personal data, stored with the events, or not at all.
    pub fn keep_in_vault(&mut self, row: VaultRow) {
        self.vault.push(row);
    }

    /// Asks for the provider's report of this order to be read.
    pub fn request_read(&mut self, order: OrderId, shop: &Shop) {
        self.reads.push(ReadRequest {
            order_id: order.to_string(),
            shop: shop.to_string(),
        });
    }

    pub(crate) fn wants_nothing_stored(&self) -> bool {
        self.events.is_empty()
            && self.timers.is_empty()
            && self.done_timers.is_empty()
            && self.vault.is_empty()
            && self.reads.is_empty()
    }

    pub(crate) fn touches(&self) -> Vec<Touch> {
        let order = self.order.iter().map(|(_, t)| Touch {
            stream_id: t.stream,
            expected: t.base.version,
        });
        let payments = self.payments.iter().map(|(_, t)| Touch {
            stream_id: t.stream,
            expected: t.base.version,
        });
        order.chain(payments).collect()
    }

    async fn touch_order(&mut self, id: OrderId) -> Result<&mut Touched<Order>, Fault> {
        if self.order.as_ref().is_some_and(|(known, _)| *known != id) {
            return Err(Fault::TwoOrders);
        }
        if self.order.is_none() {
            let base = self.executor.cached_order(id).await?;
            let state = base.state.clone();
            self.order = Some((
                id,
                Touched {
                    stream: id.stream(),
                    base,
                    state,
                    added: 0,
                },
            ));
        }
        Ok(&mut self.order.as_mut().expect("it was put there a line ago").1)
    }

    async fn touch_payment(&mut self, id: PaymentId) -> Result<&mut Touched<Payment>, Fault> {
        let known = self.payments.iter().position(|(known, _)| *known == id);
        let index = match known {
            Some(index) => index,
            None => {
                let base = self.executor.cached_payment(id).await?;
                let state = base.state.clone();
                self.payments.push((
                    id,
                    Touched {
                        stream: id.stream(),
                        base,
                        state,
                        added: 0,
                    },
                ));
                self.payments.len() - 1
            }
        };
        Ok(&mut self.payments[index].1)
    }
}

/// Runs cqrs-es' `handle` on a copy: the state of a refused command is thrown away, since a handler may have changed it
/// before it refused.
async fn decide<A>(touched: &mut Touched<A>, command: A::Command) -> Result<Vec<A::Event>, A::Error>
where
    A: Aggregate<Services = ()> + Clone,
{
    let sink = EventSink::default();
    let mut state = touched.state.clone();
    state.handle(command, &(), &sink).await?;
    touched.state = state;
    Ok(sink.collect().await)
}

trait Typed: cqrs_es::DomainEvent + Serialize {
    const AGGREGATE: &'static str;
}

impl Typed for OrderEvent {
    const AGGREGATE: &'static str = Order::TYPE;
}

impl Typed for PaymentEvent {
    const AGGREGATE: &'static str = Payment::TYPE;
}

/// On whose behalf events are recorded, and by which command.
#[derive(Debug, Clone, Copy)]
struct Author {
    command: CommandId,
    /// A shop's own command; else it is our workers' word.
    by_shop: bool,
}

/// What the events of one aggregate have in common.
struct Place<'p> {
    shop: Shop,
    aggregate_id: &'p str,
    /// The order, for its payments too.
    correlation_id: &'p str,
}

impl Author {
    /// Gives the decided events their ids and metadata, and counts them.
    fn sign<A, E: Typed>(
        self,
        touched: &mut Touched<A>,
        place: &Place<'_>,
        decided: &[E],
        event_id: impl Fn(&E, i64) -> Uuid,
    ) -> Result<Vec<NewEvent>, Fault> {
        let here = trace::current();
        let metadata = Metadata {
            command_id: self.command.uuid(),
            causation_id: self.command.uuid(),
            correlation_id: place.correlation_id,
            auth_type: if self.by_shop { "api_key" } else { "system" },
            auth_id: if self.by_shop {
                place.shop.as_str()
            } else {
                "kassa"
            },
            traceparent: here.as_ref().map(ToString::to_string),
            tracestate: here.and_then(|context| context.state),
        };
        let metadata =
            serde_json::to_vec(&metadata).map_err(|_| Fault::Internal("metadata is plain data"))?;
        let mut stored = Vec::with_capacity(decided.len());
        for event in decided {
            touched.added += 1;
            stored.push(NewEvent {
                stream_id: touched.stream,
                event_id: event_id(event, touched.base.version + touched.added),
                shop: place.shop.to_string(),
                aggregate_type: E::AGGREGATE.to_owned(),
                aggregate_id: place.aggregate_id.to_owned(),
                event_type: event.event_type(),
                schema_version: event
                    .event_version()
                    .parse()
                    .map_err(|_| Fault::Internal("an event version is a number"))?,
                payload: serde_json::to_vec(event).map_err(|_| Fault::Internal("an event is plain data"))?,
                metadata: metadata.clone(),
            });
        }
        Ok(stored)
    }
}
