//! Which events are published, and how is one read?

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::Value;

use crate::words::Aggregate;
use crate::{order, payment};

/// Token of a stored event that is not published. Its envelope keeps the positions free of gaps and has no `data`.
pub const INTERNAL: &str = "internal";

/// One line of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventType {
    /// Token of the family: `order`.
    pub aggregate: &'static str,
    /// Token of the event: `payment_safe`.
    pub token: &'static str,
    /// Major version, from 1.
    pub version: u16,
    /// What it says, in one sentence.
    pub summary: &'static str,
}

impl EventType {
    /// The name that people say: `PaymentSafe` for `payment_safe`.
    #[must_use]
    pub fn spoken(&self) -> String {
        spoken(self.token)
    }
}

/// Spoken name of a token: `PaymentSafe` for `payment_safe`.
#[must_use]
pub fn spoken(token: &str) -> String {
    token
        .split('_')
        .flat_map(|word| {
            let mut letters = word.chars();
            letters
                .next()
                .map(|first| first.to_ascii_uppercase())
                .into_iter()
                .chain(letters)
        })
        .collect()
}

/// Token of a spoken name: `payment_safe` for `PaymentSafe`.
#[must_use]
pub fn token(spoken: &str) -> String {
    let mut token = String::with_capacity(spoken.len() + 4);
    for letter in spoken.chars() {
        if letter.is_ascii_uppercase() && !token.is_empty() {
            token.push('_');
        }
        token.push(letter.to_ascii_lowercase());
    }
    token
}

/// The data of an event is not what its type promises.
#[derive(Debug, thiserror::Error)]
#[error("data of {aggregate}.{token}.v{version} does not have the shape of its schema")]
pub struct DecodeError {
    /// Token of the family.
    pub aggregate: String,
    /// Token of the event.
    pub token: String,
    /// Major version.
    pub version: u16,
    /// What was wrong with it.
    #[source]
    pub source: serde_json::Error,
}

/// One list makes the enum, the catalogue, the decoder and the schemas, so that they cannot disagree.
macro_rules! published_events {
    ($($variant:ident($data:ty) = $aggregate:ident, $token:literal, $version:literal, $id:ident: $summary:literal;)+) => {
        /// A published event.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum PublishedEvent {
            $(#[doc = $summary] $variant($data),)+
        }

        /// Every event type that is published, in the order of a payment's life.
        pub const CATALOGUE: &[EventType] = &[
            $(EventType {
                aggregate: stringify!($aggregate),
                token: $token,
                version: $version,
                summary: $summary,
            },)+
        ];

        impl PublishedEvent {
            fn event_type(&self) -> EventType {
                match self {
                    $(Self::$variant(_) => EventType {
                        aggregate: stringify!($aggregate),
                        token: $token,
                        version: $version,
                        summary: $summary,
                    },)+
                }
            }

            /// Id of the order or payment that it is about.
            #[must_use]
            pub fn id(&self) -> &str {
                match self {
                    $(Self::$variant(data) => &data.$id,)+
                }
            }

            /// The envelope's `data`.
            #[must_use]
            pub fn data(&self) -> Value {
                match self {
                    $(Self::$variant(data) => serde_json::to_value(data),)+
                }
                .expect("published events hold texts, whole numbers and maps with text keys: always JSON")
            }

            /// Reads the `data` of an event; `None` for a type or a major version that is not known here, which a
            /// reader counts and passes over, unless the event is what it was built for.
            ///
            /// # Errors
            /// [`DecodeError`] when the type is known and the data is not of its shape.
            pub fn decode(
                aggregate: &str,
                token: &str,
                version: u16,
                data: &Value,
            ) -> Result<Option<Self>, DecodeError> {
                let event = match (aggregate, token, version) {
                    $((stringify!($aggregate), $token, $version) => <$data>::deserialize(data).map(Self::$variant),)+
                    _ => return Ok(None),
                };
                event.map(Some).map_err(|source| DecodeError {
                    aggregate: aggregate.to_owned(),
                    token: token.to_owned(),
                    version,
                    source,
                })
            }
        }

        $(impl From<$data> for PublishedEvent {
            fn from(data: $data) -> Self {
                Self::$variant(data)
            }
        })+

        /// The schema of each event's data, in the catalogue's order.
        pub(crate) fn schemas(generator: impl Fn() -> SchemaGenerator) -> Vec<(EventType, Schema)> {
            let roots = [$(root::<$data>(generator()),)+];
            CATALOGUE.iter().copied().zip(roots).collect()
        }
    };
}

fn root<T: JsonSchema>(generator: SchemaGenerator) -> Schema {
    generator.into_root_schema_for::<T>()
}

published_events! {
    OrderCreated(order::Created) = order, "created", 1, order_id:
        "A shop made an order known; nothing is paid yet.";
    OrderPartiallyPaid(order::PartiallyPaid) = order, "partially_paid", 1, order_id:
        "By the provider's report, less was paid than was ordered.";
    OrderPaid(order::Paid) = order, "paid", 1, order_id:
        "By the provider's report, what was ordered is paid; not a permission to ship.";
    OrderAmountMismatchFound(order::AmountMismatchFound) = order, "amount_mismatch_found", 1, order_id:
        "The provider's report and the shop's order do not agree; the order does not become safe by itself.";
    OrderPaymentSafe(order::PaymentSafe) = order, "payment_safe", 1, order_id:
        "The order may be shipped: one event per order and safety epoch, with its evidence.";
    OrderPaymentSafetyLost(order::PaymentSafetyLost) = order, "payment_safety_lost", 1, order_id:
        "The order may not be shipped any more: hold what has not left; one event per order and safety epoch.";
    OrderCanceled(order::Canceled) = order, "canceled", 1, order_id:
        "The shop gave the order up while nothing was paid.";
    OrderExpired(order::Expired) = order, "expired", 1, order_id:
        "The order's time ran out, and nothing that could still be money is under way.";
    PaymentStarted(payment::Started) = payment, "started", 1, payment_id:
        "An attempt to pay was decided; the provider has not been called yet.";
    PaymentRedirected(payment::Redirected) = payment, "redirected", 1, payment_id:
        "The provider took the attempt and the shopper is to be sent on.";
    PaymentAuthorized(payment::Authorized) = payment, "authorized", 1, payment_id:
        "The provider reports the attempt as authorized; not a permission to ship.";
    PaymentFailed(payment::Failed) = payment, "failed", 1, payment_id:
        "The attempt ended without money.";
    PaymentCanceled(payment::Canceled) = payment, "canceled", 1, payment_id:
        "The shopper or the provider gave the attempt up.";
    PaymentExpired(payment::Expired) = payment, "expired", 1, payment_id:
        "The attempt ran out of time.";
    PaymentOutcomeUnknown(payment::OutcomeUnknown) = payment, "outcome_unknown", 1, payment_id:
        "A call to the provider had no clear answer; its report will tell.";
}

impl PublishedEvent {
    /// Token of the event: `payment_safe`.
    #[must_use]
    pub fn token(&self) -> &'static str {
        self.event_type().token
    }

    /// The family that it belongs to.
    #[must_use]
    pub fn aggregate(&self) -> Aggregate {
        self.event_type().aggregate.into()
    }

    /// Major version of its data.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.event_type().version
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::words::is_word;

    #[test]
    fn the_spoken_name_and_the_token_are_one_to_one() {
        assert_eq!(
            (spoken("payment_safe").as_str(), token("PaymentSafe").as_str()),
            ("PaymentSafe", "payment_safe")
        );
        let mut names = BTreeSet::new();
        for entry in CATALOGUE {
            assert!(is_word(entry.token), "{entry:?}");
            assert_eq!(token(&entry.spoken()), entry.token);
            assert!(
                names.insert((entry.aggregate, entry.spoken(), entry.version)),
                "{entry:?} is there twice"
            );
        }
        for (entry, schema) in schemas(SchemaGenerator::default) {
            let title = schema.get("title").and_then(Value::as_str);
            assert_eq!(
                title,
                Some(entry.spoken().as_str()),
                "the type of {entry:?} has another name"
            );
        }
    }

    #[test]
    fn nothing_published_is_called_internal() {
        assert!(CATALOGUE.iter().all(|entry| entry.token != INTERNAL));
    }

    #[test]
    fn a_type_or_a_version_from_the_future_is_told_apart_from_a_broken_one() {
        let data = json!({"order_id": "ord_01"});
        assert_eq!(
            PublishedEvent::decode("order", "teleported", 1, &data).unwrap(),
            None
        );
        assert_eq!(
            PublishedEvent::decode("subscription", "created", 1, &data).unwrap(),
            None
        );
        assert_eq!(
            PublishedEvent::decode("order", "payment_safe", 2, &data).unwrap(),
            None
        );
        let error = PublishedEvent::decode("order", "payment_safe", 1, &data).unwrap_err();
        assert_eq!(
            error.to_string(),
            "data of order.payment_safe.v1 does not have the shape of its schema"
        );
        assert!(error.source.to_string().contains("order_reference"));
    }
}
