//! One PostgreSQL for all tests of this binary, a database for each, and orders as the engine would store them.

use std::{collections::BTreeMap, time::Duration};

use cqrs_es::DomainEvent as _;
use kassa_domain::{
    ids::{OrderId, Shop, ShopperId, event_id},
    money::{Currency, Money},
    order::{OrderEvent, OrderFacts},
    report::ProviderReport,
    safety::{Evidence, NotSafe, Route},
};
use kassa_event_store::{Append, NewEvent, Store, StoreConfig, Touch};
use kassa_test_servers::connect;
use uuid::Uuid;

pub(super) const SHOP: &str = "demo-shop";

pub(super) struct Database {
    url: String,
    pub(super) store: Store,
}

impl Database {
    /// With a pool of as many connections as that.
    pub(super) async fn new(pool_size: usize) -> Self {
        let url = kassa_test_servers::database().await;
        let store = Store::connect(StoreConfig {
            url: url.clone(),
            pool_size,
        })
        .await
        .expect("the store opens");
        Self { url, store }
    }

    pub(super) async fn number(&self, sql: &str) -> i64 {
        let row = connect(&self.url).await.query_one(sql, &[]).await.expect(sql);
        row.get(0)
    }

    /// Waits until a query says so.
    pub(super) async fn until(&self, sql: &str, wanted: i64) {
        let reached = async {
            while self.number(sql).await != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .expect(sql);
    }

    pub(super) async fn run(&self, sql: &str) {
        connect(&self.url).await.batch_execute(sql).await.expect(sql);
    }

    /// The same database for one who has a single connection.
    pub(super) async fn narrow(&self) -> Store {
        Store::connect(StoreConfig {
            url: self.url.clone(),
            pool_size: 1,
        })
        .await
        .expect("the store opens")
    }

    /// Adds to an order's stream, of which `seen` events are there.
    pub(super) async fn append(&self, order: OrderId, seen: i64, events: &[OrderEvent]) {
        let events = events.iter().map(|event| {
            let payload = serde_json::to_vec(event).expect("an event is plain data");
            (event.event_type(), payload)
        });
        self.append_bytes(order, seen, events.collect()).await;
    }

    /// The same for payloads as they are, whatever they are.
    pub(super) async fn append_bytes(&self, order: OrderId, seen: i64, events: Vec<(String, Vec<u8>)>) {
        let events = events
            .into_iter()
            .zip(seen + 1..)
            .map(|((event_type, payload), version)| NewEvent {
                stream_id: order.stream(),
                event_id: event_id(order.stream(), version),
                shop: SHOP.to_owned(),
                aggregate_type: "order".to_owned(),
                aggregate_id: order.to_string(),
                event_type,
                schema_version: 1,
                payload,
                metadata: serde_json::to_vec(&serde_json::json!({ "correlation_id": order })).expect("plain"),
            })
            .collect();
        let append = Append {
            part: 0,
            command_id: Uuid::new_v4(),
            fingerprint: vec![],
            outcome: vec![],
            touches: vec![Touch {
                stream_id: order.stream(),
                expected: seen,
            }],
            events,
            timers: vec![],
            done_timers: vec![],
            vault: vec![],
            reads: vec![],
            recorded_at: self.store.clock().now(),
        };
        self.store.append(append).await.expect("it is stored");
    }
}

pub(super) fn shop() -> Shop {
    Shop::parse(SHOP).expect("a shop")
}

pub(super) fn order(reference: &str) -> OrderId {
    OrderId::new(&shop(), reference)
}

pub(super) fn created(reference: &str) -> OrderEvent {
    OrderEvent::OrderCreated {
        facts: OrderFacts {
            order_id: order(reference),
            shop: shop(),
            order_reference: reference.to_owned(),
            description: "dog food".to_owned(),
            amount: eur(4995),
            country: "NL".to_owned(),
            language: "nl".to_owned(),
            shopper_id: ShopperId::new(order(reference)),
            return_url: "https://shop.example/return".to_owned(),
            expires_at: None,
        },
        metadata: BTreeMap::new(),
    }
}

/// A report at this level, which is not one that is accepted.
pub(super) fn reported(reference: &str, level: &str) -> OrderEvent {
    OrderEvent::ProviderReportObserved {
        read_no: 1,
        digest: "d".to_owned(),
        report: ProviderReport {
            reference: reference.to_owned(),
            ordered: eur(4995),
            considered_safe: None,
            payments: vec![],
        },
        not_safe: vec![NotSafe::LevelNotAccepted {
            level: level.to_owned(),
            accepted: vec!["SAFE".to_owned()],
        }],
        policy: "default/1".to_owned(),
        owners: BTreeMap::new(),
    }
}

pub(super) fn eur(minor: i64) -> Money {
    Money::new(minor, Currency::EUR)
}

pub(super) fn safe() -> OrderEvent {
    OrderEvent::ConfidenceReachedSafe {
        epoch: 1,
        ordered: eur(4995),
        evidence: Evidence {
            level: "SAFE".to_owned(),
            considered_safe_at: None,
            route: Route::Approved,
            counted: eur(4995),
            tolerance_minor: 0,
            difference_minor: 0,
            payments: vec![],
            read_no: 1,
            policy: "default/1".to_owned(),
        },
    }
}

pub(super) fn lost() -> OrderEvent {
    OrderEvent::SafetyLost {
        epoch: 1,
        ordered: eur(4995),
        reasons: vec![],
        read_no: 2,
        policy: "default/1".to_owned(),
    }
}
