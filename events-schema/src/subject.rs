//! Under which subject does a message travel, and which stream holds it?
//!
//! ```text
//! kassa.evt.{part}.{shop}.{aggregate}.{id}.{event}   stored events: read with a JetStream consumer, never with core NATS
//! kassa.live.{shop}.{aggregate}.{id}.{event}         the same, republished once stored: for core subscriptions
//! kassa.cmd.{shop}.{verb}                            commands, request and reply
//! kassa.qry.{shop}.{verb}                            questions, request and reply
//! kassa.inbox.{shop}.{verb}                          commands that wait for nobody
//! kassa.rejected.{shop}.{verb}                       those of them that were refused
//! ```
//!
//! Tokens go from wide to narrow. Nothing that a customer typed is ever in a subject.

use std::fmt;
use std::str::FromStr;

use crate::words::{Aggregate, is_word, shown};

/// The stream of part 0. Further parts: [`stream_name`].
pub const STREAM: &str = "KASSA_EVENTS";
/// Everything that was stored, of every part.
pub const EVENTS: &str = "kassa.evt.>";
/// Every stored event, republished: for core subscriptions.
pub const LIVE: &str = "kassa.live.>";
/// What the stream republishes: the part is dropped on the way to [`LIVE`].
pub const REPUBLISH_SOURCE: &str = "kassa.evt.*.>";
/// What a shipment service reads: one event per order and safety epoch.
pub const SHIP: &str = "kassa.evt.*.*.order.*.payment_safe";
/// What takes a permission back, which a shipment service reads too: one event per order and safety epoch.
pub const HOLD: &str = "kassa.evt.*.*.order.*.payment_safety_lost";
/// All events of all orders.
pub const ORDERS: &str = "kassa.evt.*.*.order.>";
/// All events of all payments.
pub const PAYMENTS: &str = "kassa.evt.*.*.payment.>";
/// Every command. No stream may match this: its acknowledgement would reach the caller as the answer.
pub const COMMANDS: &str = "kassa.cmd.>";
/// Every question. No stream may match this either.
pub const QUERIES: &str = "kassa.qry.>";
/// Every command that waits for nobody.
pub const INBOX: &str = "kassa.inbox.>";
/// Which stream holds [`INBOX`].
pub const INBOX_STREAM: &str = "KASSA_INBOX";
/// Every refusal of such a command.
pub const REJECTED: &str = "kassa.rejected.>";
/// Which stream holds [`REJECTED`].
pub const REJECTED_STREAM: &str = "KASSA_REJECTED";

/// Longest shop token, as promised to shops.
const SHOP_MAX: usize = 32;
/// Longest id after its prefix. A UUID takes 26 characters and a bucket two more; the rest is room to grow.
const ID_MAX: usize = 40;

/// Name of the stream that holds a part.
#[must_use]
pub fn stream_name(part: u32) -> String {
    // Part 0 keeps the short name, so that no consumer breaks when parts are added.
    if part == 0 {
        STREAM.to_owned()
    } else {
        format!("{STREAM}_{part}")
    }
}

/// What the stream of a part holds.
#[must_use]
pub fn part_filter(part: u32) -> String {
    format!("kassa.evt.{part}.>")
}

/// Where a shop sends a command and waits for the answer.
#[must_use]
pub fn command(shop: &str, verb: &str) -> String {
    format!("kassa.cmd.{shop}.{verb}")
}

/// Where a shop asks a question.
#[must_use]
pub fn query(shop: &str, verb: &str) -> String {
    format!("kassa.qry.{shop}.{verb}")
}

/// Where a shop leaves a command, and waits for nothing.
#[must_use]
pub fn inbox(shop: &str, verb: &str) -> String {
    format!("kassa.inbox.{shop}.{verb}")
}

/// Where a shop hears that a command of its inbox was refused.
#[must_use]
pub fn rejected(shop: &str, verb: &str) -> String {
    format!("kassa.rejected.{shop}.{verb}")
}

/// A subject, or a token for one, that is not of our form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Wrong number of tokens or another first word.
    #[error("subject {subject:?} is not of the form {form}")]
    Form {
        /// The subject, shortened.
        subject: String,
        /// The form that was expected.
        form: &'static str,
    },
    /// A part that is not a plain number.
    #[error("part {0:?} is not a number without sign or leading zeros, up to 4294967295")]
    Part(String),
    /// A shop that cannot be in a subject.
    #[error("shop {0:?} is not 1 to 32 of a-z, 0-9 and hyphen")]
    Shop(String),
    /// An aggregate, event, verb or question that cannot be in a subject.
    #[error("{what} {found:?} is not 1 to 64 of a-z, 0-9 and underscore, beginning with a letter")]
    Word {
        /// Which token.
        what: &'static str,
        /// The token, shortened.
        found: String,
    },
    /// An id that is not of our making.
    #[error("id {found:?} is not {prefix:?} and 1 to 40 characters of lower-case crockford base32")]
    Id {
        /// The id, shortened.
        found: String,
        /// The prefix that was expected.
        prefix: String,
    },
}

/// Checks a shop token: `[a-z0-9-]{1,32}`.
///
/// # Errors
/// [`SubjectError::Shop`].
pub fn check_shop(shop: &str) -> Result<(), SubjectError> {
    let fits = (1..=SHOP_MAX).contains(&shop.len());
    if fits
        && shop
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    {
        Ok(())
    } else {
        Err(SubjectError::Shop(shown(shop).into_owned()))
    }
}

/// Checks an id against its aggregate: the prefix (three letters and `_` for an aggregate that is not known here), then
/// lower-case Crockford base32, which has no i, l, o, u.
///
/// # Errors
/// [`SubjectError::Id`].
pub fn check_id(aggregate: &Aggregate, id: &str) -> Result<(), SubjectError> {
    let wrong = || SubjectError::Id {
        found: shown(id).into_owned(),
        prefix: aggregate.id_prefix().unwrap_or("xxx_").to_owned(),
    };
    let body = match aggregate.id_prefix() {
        Some(prefix) => id.strip_prefix(prefix).ok_or_else(wrong)?,
        None => match id.as_bytes() {
            [a, b, c, b'_', ..] if [a, b, c].iter().all(|byte| byte.is_ascii_lowercase()) => &id[4..],
            _ => return Err(wrong()),
        },
    };
    let base32 = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'h' | b'j' | b'k' | b'm' | b'n' | b'p'..=b't' | b'v'..=b'z');
    if (1..=ID_MAX).contains(&body.len()) && body.bytes().all(base32) {
        Ok(())
    } else {
        Err(wrong())
    }
}

fn check_word(what: &'static str, word: &str) -> Result<(), SubjectError> {
    if is_word(word) {
        Ok(())
    } else {
        Err(SubjectError::Word {
            what,
            found: shown(word).into_owned(),
        })
    }
}

/// A part as text: decimal, one spelling per number, so that equal subjects are equal texts.
pub(crate) fn parse_part(text: &str) -> Result<u32, SubjectError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    match text.parse() {
        Ok(part) if plain => Ok(part),
        _ => Err(SubjectError::Part(shown(text).into_owned())),
    }
}

/// Splits a subject after its first two words into exactly `N` tokens.
fn tokens<'a, const N: usize>(subject: &'a str, form: &'static str) -> Result<[&'a str; N], SubjectError> {
    let wrong = || SubjectError::Form {
        subject: shown(subject).into_owned(),
        form,
    };
    // `kassa.evt.` and its like: the form up to its first placeholder.
    let head = form.split('{').next().unwrap_or(form);
    let mut rest = subject.strip_prefix(head).ok_or_else(wrong)?.split('.');
    let mut found = [""; N];
    for token in &mut found {
        *token = rest.next().ok_or_else(wrong)?;
    }
    if rest.next().is_some() {
        Err(wrong())
    } else {
        Ok(found)
    }
}

/// Subject of a stored event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventSubject {
    part: u32,
    live: LiveSubject,
}

impl EventSubject {
    /// Builds the subject from its tokens; a kind of aggregate or event that is not known here is fine.
    ///
    /// # Errors
    /// The token that cannot stand in a subject.
    pub fn new(
        part: u32,
        shop: impl Into<String>,
        aggregate: impl Into<Aggregate>,
        id: impl Into<String>,
        event: impl Into<String>,
    ) -> Result<Self, SubjectError> {
        Ok(Self {
            part,
            live: LiveSubject::new(shop, aggregate, id, event)?,
        })
    }

    /// The log partition, 0 on one machine.
    #[must_use]
    pub fn part(&self) -> u32 {
        self.part
    }

    /// The shop's token.
    #[must_use]
    pub fn shop(&self) -> &str {
        &self.live.shop
    }

    /// What the event is about.
    #[must_use]
    pub fn aggregate(&self) -> &Aggregate {
        &self.live.aggregate
    }

    /// Id of the order, payment, … that the event is about.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.live.id
    }

    /// The event's token, such as `payment_safe` or `internal`.
    #[must_use]
    pub fn event(&self) -> &str {
        &self.live.event
    }

    /// Where the stream republishes it.
    #[must_use]
    pub fn live(&self) -> &LiveSubject {
        &self.live
    }
}

impl fmt::Display for EventSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LiveSubject {
            shop,
            aggregate,
            id,
            event,
        } = &self.live;
        write!(f, "kassa.evt.{}.{shop}.{aggregate}.{id}.{event}", self.part)
    }
}

impl FromStr for EventSubject {
    type Err = SubjectError;

    fn from_str(subject: &str) -> Result<Self, SubjectError> {
        let [part, shop, aggregate, id, event] =
            tokens(subject, "kassa.evt.{part}.{shop}.{aggregate}.{id}.{event}")?;
        Self::new(parse_part(part)?, shop, aggregate, id, event)
    }
}

/// Subject of a republished event.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LiveSubject {
    shop: String,
    aggregate: Aggregate,
    id: String,
    event: String,
}

impl LiveSubject {
    /// Builds the subject from its tokens.
    ///
    /// # Errors
    /// The token that cannot stand in a subject.
    pub fn new(
        shop: impl Into<String>,
        aggregate: impl Into<Aggregate>,
        id: impl Into<String>,
        event: impl Into<String>,
    ) -> Result<Self, SubjectError> {
        let new = Self {
            shop: shop.into(),
            aggregate: aggregate.into(),
            id: id.into(),
            event: event.into(),
        };
        check_shop(&new.shop)?;
        check_word("aggregate", new.aggregate.as_str())?;
        check_id(&new.aggregate, &new.id)?;
        check_word("event", &new.event)?;
        Ok(new)
    }

    /// The shop's token.
    #[must_use]
    pub fn shop(&self) -> &str {
        &self.shop
    }

    /// What the event is about.
    #[must_use]
    pub fn aggregate(&self) -> &Aggregate {
        &self.aggregate
    }

    /// Id of the order, payment, … that the event is about.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The event's token.
    #[must_use]
    pub fn event(&self) -> &str {
        &self.event
    }
}

impl fmt::Display for LiveSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "kassa.live.{}.{}.{}.{}",
            self.shop, self.aggregate, self.id, self.event
        )
    }
}

impl FromStr for LiveSubject {
    type Err = SubjectError;

    fn from_str(subject: &str) -> Result<Self, SubjectError> {
        let [shop, aggregate, id, event] = tokens(subject, "kassa.live.{shop}.{aggregate}.{id}.{event}")?;
        Self::new(shop, aggregate, id, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: &str = "kassa.evt.0.brekz-nl.order.ord_5k01k9zc3m7qx5r8t2v4w6y8za.payment_safe";

    /// Whether a NATS filter takes a subject.
    fn takes(filter: &str, subject: &str) -> bool {
        let mut subject = subject.split('.');
        for token in filter.split('.') {
            match (token, subject.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (word, Some(found)) if word == found => {}
                _ => return false,
            }
        }
        subject.next().is_none()
    }

    #[test]
    fn an_event_subject_is_read_back_as_it_was_built() {
        let subject = EventSubject::new(
            0,
            "brekz-nl",
            "order",
            "ord_5k01k9zc3m7qx5r8t2v4w6y8za",
            "payment_safe",
        )
        .unwrap();
        assert_eq!(subject.to_string(), SAFE);
        assert_eq!(SAFE.parse(), Ok(subject.clone()));
        assert_eq!(
            subject.live().to_string(),
            "kassa.live.brekz-nl.order.ord_5k01k9zc3m7qx5r8t2v4w6y8za.payment_safe"
        );
        assert_eq!(subject.live().to_string().parse(), Ok(subject.live().clone()));
    }

    #[test]
    fn filters_take_what_they_are_named_for() {
        assert!(
            takes(SHIP, SAFE) && takes(ORDERS, SAFE) && takes(EVENTS, SAFE) && takes(REPUBLISH_SOURCE, SAFE)
        );
        assert!(takes(&part_filter(0), SAFE) && !takes(&part_filter(1), SAFE));
        assert!(
            !takes(SHIP, &SAFE.replace("payment_safe", "paid"))
                && !takes(PAYMENTS, SAFE)
                && !takes(LIVE, SAFE)
        );
        let live = SAFE.parse::<EventSubject>().unwrap().live().to_string();
        assert!(takes(LIVE, &live) && !takes(EVENTS, &live));
    }

    #[test]
    fn a_part_has_its_own_stream() {
        assert_eq!(stream_name(0), "KASSA_EVENTS");
        assert_eq!(stream_name(3), "KASSA_EVENTS_3");
    }

    #[test]
    fn commands_and_questions_are_addressed_to_a_shop() {
        for (subject, filter, told) in [
            (
                command("brekz-nl", "create_order"),
                COMMANDS,
                "kassa.cmd.brekz-nl.create_order",
            ),
            (
                query("brekz-nl", "get_order"),
                QUERIES,
                "kassa.qry.brekz-nl.get_order",
            ),
            (
                inbox("brekz-nl", "create_order"),
                INBOX,
                "kassa.inbox.brekz-nl.create_order",
            ),
            (
                rejected("brekz-nl", "create_order"),
                REJECTED,
                "kassa.rejected.brekz-nl.create_order",
            ),
        ] {
            assert_eq!(subject, told);
            assert!(takes(filter, &subject), "{filter} {subject}");
        }
    }

    #[test]
    fn nothing_that_a_customer_typed_fits_into_a_subject() {
        for shop in [
            "",
            "Brekz",
            "brekz.nl",
            "brekz_nl",
            "*",
            ">",
            "brekz nl",
            &"a".repeat(33),
        ] {
            assert!(check_shop(shop).is_err(), "{shop:?}");
        }
        for id in [
            "",
            "ord_",
            "ord_ABC",
            "ord_il",
            "ord_01*",
            "ord_0.1",
            "pay_01",
            "ord01",
            "ord_0 1",
            "order-2026-1",
            &format!("ord_{}", "0".repeat(41)),
        ] {
            assert!(
                EventSubject::new(0, "brekz-nl", "order", id, "paid").is_err(),
                "{id:?}"
            );
        }
        for event in ["", "Paid", "paid.", "payment-safe", "_paid", "*", ">"] {
            assert!(
                EventSubject::new(0, "brekz-nl", "order", "ord_01", event).is_err(),
                "{event:?}"
            );
        }
        for part in ["00", "01", "+1", "-1", "", "4294967296"] {
            let subject = format!("kassa.evt.{part}.brekz-nl.order.ord_01.paid");
            assert!(subject.parse::<EventSubject>().is_err(), "{subject}");
        }
    }

    #[test]
    fn a_family_that_came_later_can_still_be_read() {
        let subject: EventSubject = "kassa.evt.4.brekz-nl.subscription.sub_01.renewed"
            .parse()
            .unwrap();
        assert_eq!(subject.aggregate(), &Aggregate::Other("subscription".to_owned()));
        assert_eq!(
            (subject.part(), subject.id(), subject.event()),
            (4, "sub_01", "renewed")
        );
        assert!(
            "kassa.evt.4.brekz-nl.subscription.sub-01.renewed"
                .parse::<EventSubject>()
                .is_err()
        );
    }
}
