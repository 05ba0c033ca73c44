//! What does every contestant store? Commands of two events, as an order's first ones are: the same bytes for all.

use jiff::Timestamp;
use kassa_event_store::{Append, NewEvent, Touch};
use kassa_harness::random::Random;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(super) const SHOP: &str = "demo-shop";
const CORRELATION: &str = "correlation_id";

/// Events with the fields, and about the size (350 bytes), of stored ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Happened {
    OrderCreated {
        shop: String,
        order_reference: String,
        amount: Amount,
        country: String,
        language: String,
        description: String,
        return_url: String,
        shopper_id: String,
        metadata: Vec<(String, String)>,
    },
    AttemptOpened {
        payment_id: String,
        method: String,
        number: u32,
        provider_order_key: String,
        menu_url: String,
        expires_at: String,
        policy: String,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Amount {
    value: i64,
    currency: String,
}

impl Happened {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::OrderCreated { .. } => "OrderCreated",
            Self::AttemptOpened { .. } => "AttemptOpened",
        }
    }
}

/// One decision: a new stream and its first two events.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) command_id: Uuid,
    pub(super) stream_id: Uuid,
    pub(super) aggregate_id: String,
    pub(super) events: [Happened; 2],
}

/// Numbers that do not repeat and cost no call to the kernel.
#[derive(Debug)]
pub(super) struct Numbers(Random);

impl Numbers {
    pub(super) fn new() -> Self {
        Self(Random::new(Uuid::new_v4().as_u64_pair().0))
    }

    fn uuid(&mut self) -> Uuid {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.0.next().to_ne_bytes());
        bytes[8..].copy_from_slice(&self.0.next().to_ne_bytes());
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    pub(super) fn work(&mut self) -> Work {
        let (command_id, stream_id) = (self.uuid(), self.uuid());
        let name = stream_id.simple().to_string();
        let created = Happened::OrderCreated {
            shop: SHOP.to_owned(),
            order_reference: name[..13].to_owned(),
            amount: Amount {
                value: 4995,
                currency: "EUR".to_owned(),
            },
            country: "NL".to_owned(),
            language: "nl".to_owned(),
            description: "Two bags of food and a leash".to_owned(),
            return_url: format!("https://shop.example/orders/{name}/thanks"),
            shopper_id: format!("shp_{name}"),
            metadata: vec![("channel".to_owned(), "web".to_owned())],
        };
        let opened = Happened::AttemptOpened {
            payment_id: format!("pay_{name}"),
            method: "IDEAL".to_owned(),
            number: 1,
            provider_order_key: name.to_uppercase(),
            menu_url: format!("https://pay.example/ps/menu/{name}?lang=nl"),
            expires_at: "2026-11-25T09:30:00.000Z".to_owned(),
            policy: "safe-or-safest-within-10".to_owned(),
        };
        Work {
            command_id,
            stream_id,
            aggregate_id: format!("ord_{name}"),
            events: [created, opened],
        }
    }
}

impl Work {
    /// Metadata by key, as `postgres-es` takes it.
    pub(super) fn metadata(&self) -> [(&'static str, String); 5] {
        [
            ("command_id", self.command_id.to_string()),
            ("causation_id", self.command_id.to_string()),
            (CORRELATION, self.aggregate_id.clone()),
            ("auth_type", "api_key".to_owned()),
            ("auth_id", SHOP.to_owned()),
        ]
    }

    /// As our store takes it; the raw insert stores the same.
    pub(super) fn append(self, part: i32, now: Timestamp) -> anyhow::Result<Append> {
        let metadata: serde_json::Map<String, serde_json::Value> = self
            .metadata()
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        let metadata = serde_json::to_vec(&metadata)?;
        let mut events = Vec::with_capacity(self.events.len());
        for (event, version) in self.events.iter().zip(1_i64..) {
            events.push(NewEvent {
                stream_id: self.stream_id,
                event_id: Uuid::new_v5(&self.stream_id, &version.to_be_bytes()),
                shop: SHOP.to_owned(),
                aggregate_type: "order".to_owned(),
                aggregate_id: self.aggregate_id.clone(),
                event_type: event.name().to_owned(),
                schema_version: 1,
                payload: serde_json::to_vec(event)?,
                metadata: metadata.clone(),
            });
        }
        Ok(Append {
            part,
            command_id: self.command_id,
            // A scheme byte and a SHA-256.
            fingerprint: vec![7; 33],
            outcome: format!("{{\"accepted\":{{\"order_id\":\"{}\"}}}}", self.aggregate_id).into_bytes(),
            touches: vec![Touch {
                stream_id: self.stream_id,
                expected: 0,
            }],
            events,
            timers: vec![],
            done_timers: vec![],
            vault: vec![],
            reads: vec![],
            recorded_at: now,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_size_of_stored_ones_and_no_two_commands_are_one() {
        let mut numbers = Numbers::new();
        let (one, other) = (numbers.work(), numbers.work());
        assert_ne!(
            (one.command_id, one.stream_id),
            (other.command_id, other.stream_id)
        );
        let append = one.append(0, Timestamp::UNIX_EPOCH).expect("plain data");
        for event in &append.events {
            let bytes = event.payload.len();
            assert!((300..400).contains(&bytes), "{} has {bytes}", event.event_type);
            assert!((200..300).contains(&event.metadata.len()));
        }
    }
}
