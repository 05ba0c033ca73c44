//! Which names do things have, and how is a name found again without looking it up?
//!
//! Ids are derived (`UUIDv5`) wherever that is possible: two creates of one order reference meet on one stream, and a
//! repeated command finds the ids it made the first time.

use std::{fmt, str::FromStr, sync::LazyLock};

use data_encoding::{Encoding, Specification};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The root of every derived id. Never to be changed: all streams hang on it.
const ROOT: Uuid = Uuid::from_u128(0x6b61_7373_6100_5000_8000_7469_6c6c_0001);

/// Crockford's alphabet in lower case: no look-alikes, safe as a NATS token.
static BASE32: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("0123456789abcdefghjkmnpqrstvwxyz");
    specification
        .encoding()
        .expect("thirty-two different symbols are an encoding")
});

/// A text that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: expected {expected}")]
pub struct IdError {
    kind: &'static str,
    expected: &'static str,
}

/// A webshop, as it is named in subjects and configuration: `[a-z0-9-]{1,32}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shop(String);

impl Shop {
    /// # Errors
    /// [`IdError`] when the text is not `[a-z0-9-]{1,32}`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let fits = (1..=32).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError {
                kind: "shop",
                expected: "1 to 32 of a-z, 0-9 and -",
            })
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn namespace(&self) -> Uuid {
        Uuid::new_v5(&ROOT, self.0.as_bytes())
    }
}

impl fmt::Display for Shop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Shop {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<Shop> for String {
    fn from(shop: Shop) -> Self {
        shop.0
    }
}

macro_rules! bucketed_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal, $holds:expr) => {
        $(#[$doc])*
        ///
        /// In text: a prefix, then base32 of one bucket byte and sixteen bytes of UUID (28 characters). The bucket is
        /// shared by an order and all that belongs to it, and decides in which part of the log they live.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            bucket: u8,
            uuid: Uuid,
        }

        impl $name {
            /// # Errors
            /// [`IdError`] when the text has another prefix, length or alphabet.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let wrong = IdError { kind: $kind, expected: concat!($prefix, " and 28 characters of 0-9a-z") };
                let bytes = text
                    .strip_prefix($prefix)
                    .filter(|rest| rest.len() == 28)
                    .and_then(|rest| BASE32.decode(rest.as_bytes()).ok())
                    .ok_or(wrong.clone())?;
                let (bucket, uuid) = bytes.split_first().ok_or(wrong.clone())?;
                let id = Self { bucket: *bucket, uuid: Uuid::from_slice(uuid).map_err(|_| wrong.clone())? };
                let holds: fn(&Self) -> bool = $holds;
                if holds(&id) { Ok(id) } else { Err(wrong) }
            }

            /// 0 to 255; a table maps buckets to parts of the log.
            pub fn bucket(&self) -> u8 {
                self.bucket
            }

            /// The id of its event stream.
            pub fn stream(&self) -> Uuid {
                self.uuid
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut bytes = [0; 17];
                bytes[0] = self.bucket;
                bytes[1..].copy_from_slice(self.uuid.as_bytes());
                write!(f, "{}{}", $prefix, BASE32.encode(&bytes))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

bucketed_id!(
    /// What a shopper owes a merchant.
    OrderId, "order id", "ord_",
    // An order's bucket is its own first byte: another one would be a second name for the same stream.
    |id| id.bucket == id.uuid.as_bytes()[0]
);
bucketed_id!(
    /// One attempt to pay an order.
    PaymentId, "payment id", "pay_",
    |_| true
);
bucketed_id!(
    /// The key of a shopper's personal data in the vault; events carry this and nothing more of a person.
    ShopperId, "shopper id", "shp_",
    |_| true
);

impl OrderId {
    /// The order that a shop calls `reference`. The same for ever, so uniqueness of references costs nothing.
    pub fn new(shop: &Shop, reference: &str) -> Self {
        let uuid = Uuid::new_v5(&shop.namespace(), reference.as_bytes());
        Self {
            bucket: uuid.as_bytes()[0],
            uuid,
        }
    }
}

impl PaymentId {
    /// The attempt that this command starts. A repeat of the command finds the same id.
    pub fn new(order: OrderId, command: CommandId) -> Self {
        Self {
            bucket: order.bucket,
            uuid: Uuid::new_v5(&order.uuid, command.0.as_bytes()),
        }
    }
}

impl ShopperId {
    /// The person who placed this order.
    pub fn new(order: OrderId) -> Self {
        Self {
            bucket: order.bucket,
            uuid: Uuid::new_v5(&order.uuid, b"shopper"),
        }
    }
}

/// The name of one intention: the same intention twice is a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandId(Uuid);

impl CommandId {
    /// A shop's own idempotency key. Another shop's equal key is another command.
    pub fn from_key(shop: &Shop, key: &str) -> Self {
        Self(Uuid::new_v5(
            &Uuid::new_v5(&shop.namespace(), b"idempotency-key"),
            key.as_bytes(),
        ))
    }

    /// The `n`-th command that `actor` derives from a fact or an attempt of its own.
    pub fn derived(cause: Uuid, actor: &str, n: u64) -> Self {
        Self(Uuid::new_v5(&cause, format!("{actor}/{n}").as_bytes()))
    }

    /// An id made by the caller: a nonce for something that must not be mistaken for another's.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    pub fn uuid(&self) -> Uuid {
        self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of the event at `version` (from 1) of a stream: the same after a crash and a second try.
pub fn event_id(stream: Uuid, version: i64) -> Uuid {
    Uuid::new_v5(&stream, version.to_string().as_bytes())
}

/// The id of a fact that may be true only once per safety epoch, whatever its version is.
pub fn epoch_event_id(order: OrderId, event_type: &str, epoch: u32) -> Uuid {
    Uuid::new_v5(&order.uuid, format!("{event_type}/{epoch}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> Shop {
        Shop::parse("demo-shop").unwrap()
    }

    #[test]
    fn two_creates_of_one_reference_meet_on_one_stream() {
        let first = OrderId::new(&shop(), "A-1");
        assert_eq!(first, OrderId::new(&shop(), "A-1"));
        assert_ne!(first, OrderId::new(&shop(), "A-2"));
        assert_ne!(first, OrderId::new(&Shop::parse("other").unwrap(), "A-1"));
    }

    #[test]
    fn derived_ids_never_change() {
        // Frozen: every stored stream and every shop's deduplication hangs on these bytes. Computed apart from this code.
        let order = OrderId::new(&shop(), "A-1");
        let command = CommandId::from_key(&shop(), "key-1");
        let payment = PaymentId::new(order, command);
        assert_eq!(order.to_string(), "ord_p6rg29pzj1vn6a4282w39drs9b20");
        assert_eq!(payment.to_string(), "pay_p6sdrr0aq2f5hyn5stnhdyzcbwb0");
        assert_eq!(
            event_id(order.stream(), 1).to_string(),
            "0c5599f7-ce48-56c7-8f0f-aa0144fa40c8"
        );
        assert_eq!(
            epoch_event_id(order, "ConfidenceReachedSafe", 1).to_string(),
            "adc06f40-84aa-5bda-ab2c-51f4642e2c10"
        );
        assert_eq!(command.to_string(), "fdbe31c3-ad31-5ddc-8194-855ee3e510ce");
    }

    #[test]
    fn an_id_reads_back_from_its_text_and_shares_its_bucket() {
        let order = OrderId::new(&shop(), "A-1");
        let payment = PaymentId::new(order, CommandId::from_key(&shop(), "key"));
        assert_eq!(OrderId::parse(&order.to_string()), Ok(order));
        assert_eq!(PaymentId::parse(&payment.to_string()), Ok(payment));
        assert_eq!(order.bucket(), payment.bucket());
        assert!(OrderId::parse(&payment.to_string()).is_err());
        assert!(OrderId::parse(&order.to_string().to_uppercase()).is_err());
        assert!(OrderId::parse("ord_").is_err());
    }

    #[test]
    fn an_order_has_one_name_only() {
        let text = OrderId::new(&shop(), "A-1").to_string();
        for first in ["0", "1", "z"] {
            let renamed = format!("ord_{first}{}", &text[5..]);
            assert!(renamed == text || OrderId::parse(&renamed).is_err(), "{renamed}");
        }
    }

    #[test]
    fn a_shop_is_a_subject_token() {
        for wrong in ["", "Brekz", "a.b", "a b", "*", ">", "a_b", &"x".repeat(33)] {
            assert!(Shop::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
