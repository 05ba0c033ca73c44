//! Where does every order stand? The aggregates of the domain, folded once more, and the document that `get_order` answers.

use std::collections::{BTreeMap, HashMap};

use cqrs_es::Aggregate as _;
use deadpool_postgres::Transaction;
use jiff::Timestamp;
use kassa_domain::{
    ids::PaymentId,
    money::Money,
    order::{NextAction, Opened, Order, OrderEvent, Safety, next_action},
    payment::{Payment, PaymentEvent},
    safety::{Evidence, NotSafe},
};
use kassa_event_store::StoredEvent;
use kassa_events_schema::{
    api::{self, OrderView, PaymentView, SafeValue, SafeView},
    order,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::types::Json;

use crate::projector::{Projection, Table, read};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Checkout;

/// What a row remembers between events.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) order: Order,
    pub(crate) payments: BTreeMap<PaymentId, Payment>,
    /// Of the newest release.
    pub(crate) evidence: Option<Evidence>,
    created_at: Option<Timestamp>,
}

impl Projection for Checkout {
    const NAME: &'static str = "checkout";
    const TABLES: &'static [Table] = &[Table {
        name: "read_orders_all",
        key: "order_id COLLATE \"C\"",
    }];
    const EVENTS: Option<&'static [&'static str]> = None;

    async fn apply(
        &self,
        transaction: &Transaction<'_>,
        generation: i32,
        events: &[StoredEvent],
    ) -> anyhow::Result<()> {
        let mut by_order: HashMap<String, Vec<&StoredEvent>> = HashMap::new();
        let mut orders = Vec::new();
        for event in events {
            let order = order_of(event)?;
            let group = by_order.entry(order.clone()).or_default();
            if group.is_empty() {
                orders.push(order);
            }
            group.push(event);
        }
        let mut states = load(transaction, generation, &orders).await?;
        let mut rows = Rows::default();
        for order in &orders {
            let (mut state, seen) = states.remove(order).unwrap_or_default();
            // A row knows how far it is: what comes again changes nothing.
            let news: Vec<_> = by_order[order]
                .iter()
                .filter(|event| event.position > seen)
                .collect();
            for event in &news {
                state.fold(event)?;
            }
            if let (Some(opened), Some(last)) = (state.order.opened().cloned(), news.last()) {
                rows.add(order, state, &opened, last)?;
            }
        }
        rows.save(transaction, generation).await
    }
}

impl State {
    fn fold(&mut self, stored: &StoredEvent) -> anyhow::Result<()> {
        if stored.aggregate_type == Order::TYPE {
            let event: OrderEvent = read(stored)?;
            match &event {
                OrderEvent::OrderCreated { .. } => self.created_at = Some(stored.recorded_at),
                OrderEvent::ConfidenceReachedSafe { evidence, .. } => self.evidence = Some(evidence.clone()),
                OrderEvent::ProviderOrderRegistered { .. }
                | OrderEvent::AttemptOpened { .. }
                | OrderEvent::AttemptClosed { .. }
                | OrderEvent::ProviderReportObserved { .. }
                | OrderEvent::OrderPartiallyPaid { .. }
                | OrderEvent::OrderPaid { .. }
                | OrderEvent::AmountMismatchFound { .. }
                | OrderEvent::SafetyLost { .. }
                | OrderEvent::OrderCanceled { .. }
                | OrderEvent::OrderExpired { .. } => {}
            }
            self.order.apply(event);
        } else {
            let event: PaymentEvent = read(stored)?;
            self.payments
                .entry(PaymentId::parse(&stored.aggregate_id)?)
                .or_default()
                .apply(event);
        }
        Ok(())
    }

    /// What `get_order` answers.
    fn document(&self, opened: &Opened, position: String) -> anyhow::Result<OrderView> {
        let payments = opened.attempts.iter().filter_map(|attempt| {
            let payment = self.payments.get(&attempt.payment_id)?;
            let facts = payment.attempt()?;
            Some(PaymentView {
                payment_id: attempt.payment_id.to_string(),
                method: facts.method.as_str().to_owned(),
                status: payment.status().into(),
                amount: amount(facts.amount),
            })
        });
        let undecided = opened
            .undecided_attempt()
            .and_then(|attempt| self.payments.get(&attempt.payment_id));
        Ok(OrderView {
            order_id: opened.facts.order_id.to_string(),
            order_reference: opened.facts.order_reference.clone(),
            shop: opened.facts.shop.to_string(),
            status: opened.status().into(),
            amount: amount(opened.facts.amount),
            safe: self.safe(opened)?,
            payments: payments.collect(),
            next_action: match undecided.map_or(NextAction::None, |payment| next_action(opened, payment)) {
                NextAction::Redirect { url } => api::NextAction::Redirect { url },
                NextAction::Wait => api::NextAction::Wait,
                NextAction::None => api::NextAction::None,
            },
            created_at: self.created_at.map(Into::into),
            position,
            metadata: opened.metadata.clone(),
        })
    }

    fn safe(&self, opened: &Opened) -> anyhow::Result<SafeView> {
        let (value, epoch, reasons) = match opened.safety {
            Safety::Safe { epoch } => (SafeValue::Yes, Some(epoch), &[][..]),
            // Why it had been safe stays beside why it is not any more: goods may have left on it.
            Safety::Lost { epoch } => (SafeValue::Lost, Some(epoch), &opened.not_safe[..]),
            Safety::No if opened.read_no == 0 => (SafeValue::No, None, &[NotSafe::NothingReported][..]),
            Safety::No => (SafeValue::No, None, &opened.not_safe[..]),
        };
        let evidence = self.evidence.as_ref().filter(|_| epoch.is_some());
        Ok(SafeView {
            value,
            epoch,
            evidence: evidence.map(in_words_of_the_wire).transpose()?,
            reasons: reasons
                .iter()
                .map(|reason| serde_json::from_value(serde_json::to_value(reason)?))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn amount(money: Money) -> kassa_events_schema::Money {
    kassa_events_schema::Money {
        value: money.minor,
        currency: money.currency.as_str().to_owned(),
    }
}

/// As `order.payment_safe` says it: the provider's words in lower case.
pub(crate) fn in_words_of_the_wire(evidence: &Evidence) -> anyhow::Result<order::Evidence> {
    let mut wire = evidence.clone();
    wire.level.make_ascii_lowercase();
    for payment in &mut wire.payments {
        payment.method.make_ascii_lowercase();
        payment.state.make_ascii_lowercase();
    }
    Ok(serde_json::from_value(serde_json::to_value(wire)?)?)
}

/// An order's own events name it; a payment's carry it as what they belong to.
fn order_of(event: &StoredEvent) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Metadata {
        correlation_id: String,
    }
    if event.aggregate_type == Order::TYPE {
        return Ok(event.aggregate_id.clone());
    }
    Ok(serde_json::from_slice::<Metadata>(&event.metadata)?.correlation_id)
}

/// The rows there are, each with the position of its last event.
async fn load(
    transaction: &Transaction<'_>,
    generation: i32,
    orders: &[String],
) -> anyhow::Result<HashMap<String, (State, i64)>> {
    let statement = transaction
        .prepare_cached(
            "SELECT order_id, state, position FROM read_orders_all WHERE generation = $1 AND order_id = ANY ($2)",
        )
        .await?;
    let rows = transaction.query(&statement, &[&generation, &orders]).await?;
    rows.into_iter()
        .map(|row| {
            let Json(state) = row.get(1);
            Ok((row.get(0), (state, row.get(2))))
        })
        .collect()
}

/// What a batch makes of its orders' rows, one array a column: a statement an order costs more than what it does.
#[derive(Default)]
struct Rows<'a> {
    orders: Vec<&'a str>,
    shops: Vec<String>,
    references: Vec<String>,
    statuses: Vec<&'static str>,
    safe: Vec<String>,
    documents: Vec<Json<OrderView>>,
    states: Vec<Json<State>>,
    parts: Vec<i32>,
    positions: Vec<i64>,
    created: Vec<Option<Timestamp>>,
    updated: Vec<Timestamp>,
}

impl<'a> Rows<'a> {
    fn add(
        &mut self,
        order: &'a str,
        state: State,
        opened: &Opened,
        last: &StoredEvent,
    ) -> anyhow::Result<()> {
        let view = state.document(opened, format!("{}-{}", last.part, last.position))?;
        self.orders.push(order);
        self.shops.push(opened.facts.shop.to_string());
        self.references.push(opened.facts.order_reference.clone());
        self.statuses.push(opened.status());
        self.safe.push(view.safe.value.as_str().to_owned());
        self.documents.push(Json(view));
        self.created.push(state.created_at);
        self.states.push(Json(state));
        self.parts.push(last.part);
        self.positions.push(last.position);
        self.updated.push(last.recorded_at);
        Ok(())
    }

    async fn save(&self, transaction: &Transaction<'_>, generation: i32) -> anyhow::Result<()> {
        if self.orders.is_empty() {
            return Ok(());
        }
        let statement = transaction
            .prepare_cached(
                "INSERT INTO read_orders_all (order_id, shop, order_reference, status, safe, document, state, part, position,
                                              created_at, updated_at, generation)
                 SELECT u.*, $12 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[],
                                             $7::jsonb[], $8::int[], $9::bigint[], $10::timestamptz[], $11::timestamptz[]) AS u
                 ON CONFLICT (generation, order_id) DO UPDATE
                    SET status = excluded.status, safe = excluded.safe, document = excluded.document,
                        state = excluded.state, position = excluded.position, updated_at = excluded.updated_at",
            )
            .await?;
        transaction
            .execute(
                &statement,
                &[
                    &self.orders,
                    &self.shops,
                    &self.references,
                    &self.statuses,
                    &self.safe,
                    &self.documents,
                    &self.states,
                    &self.parts,
                    &self.positions,
                    &self.created,
                    &self.updated,
                    &generation,
                ],
            )
            .await?;
        Ok(())
    }
}
