//! Which words may a field hold, and what does a reader do with a new one?
//!
//! Lists of words grow without a new major version, so each is *open*: a reader keeps a word that it does not know in
//! `Other` and can name it, instead of failing on the whole event. What an unknown word means for money is the reader's
//! decision, and the safe one is always "not yet".

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Shape of every word of ours, of event tokens and of verbs: lower snake case.
pub(crate) const WORD: &str = "^[a-z][a-z0-9_]{0,63}$";

/// Whether the text has the shape of [`WORD`].
pub(crate) fn is_word(text: &str) -> bool {
    // 64 is what Prometheus labels and log columns take without thought.
    text.len() <= 64
        && text
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The text as far as an error message should carry it: what came from outside may be 64 KiB long.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

macro_rules! open_words {
    ($(#[doc = $doc:expr])+ $name:ident { $($(#[doc = $variant_doc:expr])+ $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[doc = $variant_doc])+ $variant,)+
            /// A word that came after this reader was built.
            Other(String),
        }

        impl $name {
            /// The words known today, as they are on the wire.
            pub const KNOWN: &[&str] = &[$($word),+];

            /// The word as it is on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $word,)+
                    Self::Other(word) => word,
                }
            }
        }

        impl From<&str> for $name {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl From<String> for $name {
            fn from(word: String) -> Self {
                Self::from(word.as_str())
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> Self {
                word.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "description": concat!($($doc, "\n"),+, "\nOpen list: expect words that are not among the examples.").trim(),
                    "type": "string",
                    "pattern": WORD,
                    "examples": Self::KNOWN,
                })
            }
        }
    };
}

open_words! {
    /// What the event is about.
    Aggregate {
        /// What a shopper owes a merchant.
        Order = "order",
        /// One attempt to pay it.
        Payment = "payment",
    }
}

impl Aggregate {
    /// What ids of this kind begin with; `None` for a kind that this reader does not know.
    #[must_use]
    pub fn id_prefix(&self) -> Option<&'static str> {
        match self {
            Self::Order => Some("ord_"),
            Self::Payment => Some("pay_"),
            Self::Other(_) => None,
        }
    }
}

open_words! {
    /// Who made it happen.
    AuthType {
        /// A shopper.
        AppUser = "app_user",
        /// An operator.
        User = "user",
        /// A shop, by its key.
        ApiKey = "api_key",
        /// Nobody: the software itself.
        System = "system",
    }
}

open_words! {
    /// What did not agree between the shop's order and the provider's report.
    Mismatch {
        /// The sum of what was paid is outside the tolerance.
        PaidAmount = "paid_amount",
        /// Something was paid in another currency.
        PaidCurrency = "paid_currency",
        /// The report names another order.
        ReportedReference = "reported_reference",
        /// The provider holds another amount for this order.
        ReportedAmount = "reported_amount",
        /// The provider holds another currency for this order.
        ReportedCurrency = "reported_currency",
    }
}

open_words! {
    /// The provider's level of confidence that an order may be delivered.
    SafetyLevel {
        /// The least certain.
        Fastest = "fastest",
        /// Less certain than safe.
        Fast = "fast",
        /// Accepted by default.
        Safe = "safe",
        /// The money was received.
        Safest = "safest",
    }
}

open_words! {
    /// Which sum was compared with what was ordered.
    Route {
        /// What the acquirer approved: methods that are certain once authorized.
        Approved = "approved",
        /// What was captured: methods that are certain only when the money moved.
        Captured = "captured",
    }
}

open_words! {
    /// Whose word stands behind an authorization.
    Confidence {
        /// The acquirer approved it.
        AcquirerApproved = "acquirer_approved",
        /// The acquirer has not answered yet.
        AcquirerPending = "acquirer_pending",
        /// The shopper has still to act.
        ShopperPending = "shopper_pending",
    }
}

open_words! {
    /// Which call to the provider has an unknown outcome.
    Operation {
        /// Making the order known to the provider.
        CreateOrder = "create_order",
        /// Starting the payment.
        Start = "start",
    }
}

open_words! {
    /// Why the outcome of a call is unknown.
    Uncertainty {
        /// No answer within the deadline.
        Timeout = "timeout",
        /// The connection broke after the request had left.
        ConnectionLost = "connection_lost",
        /// The provider answered with a fault of its own.
        ServerError = "server_error",
        /// The answer could not be read.
        Unreadable = "unreadable",
        /// The process that had made the call was gone.
        WorkerLost = "worker_lost",
        /// The provider held our reference already: an earlier call had its effect.
        ReferenceTaken = "reference_taken",
    }
}

open_words! {
    /// Where an order stands.
    OrderStatus {
        /// Nothing paid yet, payable.
        Open = "open",
        /// An attempt is under way, or its outcome is unknown.
        Pending = "pending",
        /// Less was paid than was ordered.
        PartiallyPaid = "partially_paid",
        /// What was ordered is paid. Not a permission to ship.
        Paid = "paid",
        /// The shop canceled it: not payable any more.
        Canceled = "canceled",
        /// Its time ran out: not payable any more.
        Expired = "expired",
    }
}

open_words! {
    /// Where an attempt to pay stands.
    PaymentStatus {
        /// Decided; the provider has not answered yet.
        Started = "started",
        /// The shopper is to be sent on, or is at the bank.
        Redirected = "redirected",
        /// A call to the provider had no clear answer; its report will tell.
        OutcomeUnknown = "outcome_unknown",
        /// The provider reports it as authorized. Not a permission to ship.
        Authorized = "authorized",
        /// It ended without money.
        Failed = "failed",
        /// The shopper or the provider gave it up.
        Canceled = "canceled",
        /// It ran out of time.
        Expired = "expired",
    }
}

open_words! {
    /// Whether an order may be shipped.
    SafeValue {
        /// Not yet, or never.
        No = "no",
        /// Ship.
        Yes = "yes",
        /// It was, and is not any more: hold what has not left.
        Lost = "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_from_the_future_is_kept_as_it_came() {
        let route: Route = serde_json::from_str(r#""pledged""#).unwrap();
        assert_eq!(route, Route::Other("pledged".to_owned()));
        assert_eq!(serde_json::to_string(&route).unwrap(), r#""pledged""#);
    }

    #[test]
    fn every_known_word_is_lower_snake_case_and_read_back_as_itself() {
        fn check<W: From<&'static str> + fmt::Debug + fmt::Display>(known: &[&'static str]) {
            for &word in known {
                assert!(is_word(word), "{word}");
                let read = W::from(word);
                assert_eq!(read.to_string(), word);
                assert!(!format!("{read:?}").starts_with("Other"), "{word} is not known");
            }
        }
        check::<Aggregate>(Aggregate::KNOWN);
        check::<AuthType>(AuthType::KNOWN);
        check::<Mismatch>(Mismatch::KNOWN);
        check::<SafetyLevel>(SafetyLevel::KNOWN);
        check::<Route>(Route::KNOWN);
        check::<Confidence>(Confidence::KNOWN);
        check::<Operation>(Operation::KNOWN);
        check::<Uncertainty>(Uncertainty::KNOWN);
        check::<OrderStatus>(OrderStatus::KNOWN);
        check::<PaymentStatus>(PaymentStatus::KNOWN);
        check::<SafeValue>(SafeValue::KNOWN);
    }

    #[test]
    fn a_long_text_from_outside_does_not_fill_the_log() {
        assert_eq!(shown(&"é".repeat(5000)).chars().count(), 81);
        assert_eq!(shown("short"), "short");
    }
}
