//! Which stories can CM be made to tell, what do the shopper and time do in each, and how does each one end?

mod stories;

use std::borrow::Cow;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{garble::Garble, order::BankResult};

pub use stories::SCENARIOS;

/// A story an order can be put in, with the end that a correct client reaches.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ScenarioDoc {
    /// `{method}/{story}`, as sent in `X-Sim-Scenario`.
    pub name: &'static str,
    /// The method the payment is started with: `ideal` or `paypal`.
    pub method: &'static str,
    /// What this simulator does differently from the first of its method.
    pub does: &'static str,
    /// What is done after the order was made, one thing after the other.
    pub steps: &'static [Step],
    /// Where everything stands after the steps, when nothing is under way any more. An order that ends `open` still
    /// expires when its own time is over.
    pub end: EndState,
    #[serde(skip)]
    pub(crate) plan: Plan,
}

/// One thing that is done in a story, and where the client stands before the next may follow.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Step {
    #[serde(flatten)]
    pub act: Act,
    /// The next step waits for this; nothing where it need not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Stand>,
}

/// Who does what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Act {
    /// The merchant starts a payment by the scenario's method.
    Start,
    /// The shopper goes to the bank or wallet, by the link that was given or else by the menu, and does there what the
    /// story says: `POST /sim/pay`.
    Pay,
    /// Time passes, as `45m`, `25h`: the clocks of CM and of the client are moved.
    Wait {
        #[serde(rename = "for")]
        time: &'static str,
    },
}

/// Where an order stands, in the client's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stand {
    /// Status of the order.
    pub order: &'static str,
    /// Status of the payment.
    pub payment: &'static str,
    /// `yes`, `no` or `lost`: may the goods leave?
    pub safe: &'static str,
}

/// The documented end of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EndState {
    #[serde(flatten)]
    pub stand: Stand,
    /// Shipments released, ever.
    pub shipments: u32,
    /// Calls that the ledger holds, per operation. Reads are not counted: they may be repeated at will.
    pub provider_calls: ProviderCalls,
}

/// Requests by the merchant that have an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProviderCalls {
    /// Orders asked for.
    pub create: u32,
    /// Payments asked for.
    pub start: u32,
}

/// What the simulator does in a story.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) shopper: Shopper,
    /// Felt by the first create; the next one, whose reference begins with that one's, goes well.
    pub(crate) create: CallFault,
    /// The first start feels it, or all do.
    pub(crate) start: CallFault,
    /// Felt by so many reads from the payment on.
    pub(crate) status: Option<(CallFault, u32)>,
    /// How many times each notification goes out at once.
    pub(crate) notification_copies: usize,
    /// Every attempt to notify fails, and is repeated as often as CM does.
    pub(crate) undeliverable: bool,
    pub(crate) timing: Timing,
    /// Authorized more than was asked for, in minor units.
    pub(crate) amount_off: i64,
    /// Authorized in thousandths of what was asked for.
    pub(crate) amount_permille: i64,
    /// Authorized in this currency, whatever was asked for.
    pub(crate) currency: Option<&'static str>,
    /// The level at which CM calls a paid order safe.
    pub(crate) level: &'static str,
    /// How reports are written from the payment on.
    pub(crate) report: Shape,
    /// A payment that the merchant started is not in the report for this long.
    pub(crate) visible_after: Option<SignedDuration>,
    /// The money is taken back this long after it was authorized.
    pub(crate) reversed_after: Option<SignedDuration>,
}

/// How a report is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Plain,
    /// As that of another order.
    Foreign,
    /// With a state that nobody has heard of, for [`UNKNOWN_FOR`].
    UnknownState,
    /// With a confidence that nobody has heard of, for [`UNKNOWN_FOR`].
    UnknownConfidence,
    /// With fields that are new.
    NewFields,
    /// Without what may be left out.
    Sparse,
    /// One element stands alone where a list was.
    Alone,
    /// With totals that CM has converted into the order's currency, or with another one's name.
    Converted {
        to_the_orders_currency: bool,
    },
}

/// How long words that nobody has heard of stand in a report, before those that everybody knows do.
pub(crate) const UNKNOWN_FOR: SignedDuration = SignedDuration::from_hours(1);

/// What the story's shopper does at the bank or wallet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shopper {
    Presses(BankResult),
    /// Looks for the telephone, the card, the glasses.
    PressesAfter(SignedDuration, BankResult),
    /// Closes the page; nobody hears anything.
    Leaves,
}

/// When a notification goes out, compared with the answer that the change belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timing {
    AtOnce,
    /// The answer to `start` is held until the merchant has heard of the payment.
    BeforeAnswer,
    /// The shopper is held at the bank until the merchant has heard of the decision.
    BeforeReturn,
    /// The merchant hears of the decision some seconds after the shopper is back.
    AfterReturn,
    /// The merchant hears of the decision, and some seconds later of the payment's beginning.
    OutOfOrder,
    /// Three days later.
    DaysLate,
    /// The merchant hears of the order before its create is answered.
    BeforeCreateAnswer,
}

/// How long the notification of [`Timing::AfterReturn`] stays behind the shopper.
pub(crate) const AFTER_RETURN: SignedDuration = SignedDuration::from_secs(5);
/// How long the notifications of [`Timing::DaysLate`] are under way.
pub(crate) const DAYS_LATE: SignedDuration = SignedDuration::from_hours(72);
/// How long a wallet's review takes.
pub(crate) const REVIEW: SignedDuration = SignedDuration::from_hours(24);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallFault {
    None,
    /// After `X-Sim-Delay-Ms`, or what the scenario's name says.
    AnswerLater,
    NeverAnswer,
    NeverAnswerWithoutEffect,
    Answer503,
    Answer503WithoutEffect,
    /// Turned away before it was looked at: 401, 403 or 429, in CM's own document.
    TurnedAway(u16),
    /// Refused by CM with this status and a code that is new; nothing came of it.
    Refused(u16),
    /// The order is made, and CM says that its reference is taken.
    ReferenceTaken,
    /// The order is made, and the answer has the key of the one before it.
    SameKey,
    /// It has happened, and the answer is no answer.
    Garbled(Garble),
}

impl CallFault {
    /// Whether the work of the call is done.
    pub(crate) fn has_effect(self) -> bool {
        match self {
            Self::NeverAnswerWithoutEffect
            | Self::Answer503WithoutEffect
            | Self::TurnedAway(_)
            | Self::Refused(_) => false,
            Self::None
            | Self::AnswerLater
            | Self::NeverAnswer
            | Self::Answer503
            | Self::ReferenceTaken
            | Self::SameKey
            | Self::Garbled(_) => true,
        }
    }

    /// Whether the client may ask once more for the same; then it is answered.
    pub(crate) fn is_over_after_one(self) -> bool {
        matches!(self, Self::TurnedAway(_))
    }
}

/// Longest hold of `any/start_slow`: as long as the scenarios that never answer.
const DELAY_MS_MAX: u64 = 60_000;
const DELAY_MS_DEFAULT: u64 = 3_000;
const START_SLOW: &str = "any/start_slow";

/// The story that an order is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    doc: &'static ScenarioDoc,
    /// Only `any/start_slow` has one.
    delay_ms: Option<u64>,
}

/// Not a scenario of this simulator.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no scenario here; GET /sim/scenarios lists them")]
pub(crate) struct UnknownScenario(String);

impl Scenario {
    /// `delay_ms` is the value of `X-Sim-Delay-Ms`, which only `any/start_slow` reads.
    pub(crate) fn parse(name: &str, delay_ms: Option<u64>) -> Result<Self, UnknownScenario> {
        // What came from outside is quoted, but not at any length.
        let unknown = || UnknownScenario(name.chars().take(80).collect());
        let (name, delay_ms) = match name.strip_prefix("any/start_slow_") {
            Some(ms) => {
                let ms: u64 = ms.parse().map_err(|_| unknown())?;
                if ms > DELAY_MS_MAX {
                    return Err(unknown());
                }
                (START_SLOW, Some(ms))
            }
            None => (name, delay_ms),
        };
        let doc = SCENARIOS
            .iter()
            .find(|doc| doc.name == name)
            .ok_or_else(unknown)?;
        let slow = name == START_SLOW;
        Ok(Self {
            doc,
            delay_ms: slow.then(|| delay_ms.unwrap_or(DELAY_MS_DEFAULT).min(DELAY_MS_MAX)),
        })
    }

    pub(crate) fn name(self) -> Cow<'static, str> {
        match self.delay_ms {
            Some(ms) => Cow::Owned(format!("{START_SLOW}_{ms}")),
            None => Cow::Borrowed(self.doc.name),
        }
    }

    pub(crate) fn plan(self) -> &'static Plan {
        &self.doc.plan
    }

    pub(crate) fn delay_ms(self) -> u64 {
        self.delay_ms.unwrap_or(DELAY_MS_DEFAULT)
    }

    /// CM's word for the method that the story is played with.
    pub(crate) fn method(self) -> &'static str {
        match self.doc.method {
            "paypal" => "PAYPAL",
            _ => "IDEAL",
        }
    }

    /// Stories that still mean something once the shopper is at the bank or wallet, and whose plain buttons are not there.
    pub(crate) fn at_the_bank() -> impl Iterator<Item = &'static str> {
        const STORIES: [&str; 20] = [
            "ideal/late_success",
            "ideal/no_notification",
            "ideal/double_notification",
            "ideal/return_before_notification",
            "any/amount_short_11",
            "any/amount_short_10",
            "any/amount_over_11",
            "any/other_currency",
            "any/level_fast",
            "any/level_unknown_word",
            "any/wrong_reference",
            "any/safe_then_reversed",
            "any/amount_short_1",
            "any/amount_over_1",
            "any/amount_over_10",
            "any/paid_42_for_50",
            "any/unknown_state",
            "any/unknown_confidence",
            "any/status_503",
            "any/status_garbled",
        ];
        STORIES.into_iter()
    }

    /// What the bank authorizes of `asked_minor`; at least one minor unit.
    pub(crate) fn authorized_minor(self, asked_minor: i64) -> i64 {
        let share = asked_minor.saturating_mul(self.plan().amount_permille) / 1_000;
        share.saturating_add(self.plan().amount_off).max(1)
    }

    /// The currency that the bank authorizes in.
    pub(crate) fn authorized_currency(self, asked: &str) -> Option<&'static str> {
        match self.plan().currency {
            Some(other) if other == asked => Some("EUR"),
            other => other,
        }
    }

    /// Whether CM calls the order safe although what was authorized does not cover it.
    pub(crate) fn safe_when_short(self) -> bool {
        self.plan().amount_off < 0 || self.plan().amount_permille < 1_000
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            doc: &stories::IDEAL,
            delay_ms: None,
        }
    }
}

impl PartialEq for Scenario {
    fn eq(&self, other: &Self) -> bool {
        self.doc.name == other.doc.name && self.delay_ms == other.delay_ms
    }
}

impl Serialize for Scenario {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.name())
    }
}

impl<'de> Deserialize<'de> for Scenario {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?, None).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::parse_duration;

    #[test]
    fn every_documented_scenario_is_understood_and_keeps_its_name() {
        for doc in SCENARIOS {
            let scenario = Scenario::parse(doc.name, None).expect("documented");
            assert!(
                scenario.name().starts_with(doc.name),
                "{} became {}",
                doc.name,
                scenario.name()
            );
            assert_eq!(Scenario::parse(&scenario.name(), None), Ok(scenario));
            for step in doc.steps {
                if let Act::Wait { time } = step.act {
                    assert!(parse_duration(time).is_ok(), "{}: {time}", doc.name);
                }
            }
        }
        for name in Scenario::at_the_bank() {
            assert!(Scenario::parse(name, None).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_name_stands_for_one_scenario() {
        let names: std::collections::HashSet<_> = SCENARIOS.iter().map(|doc| doc.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
    }

    #[test]
    fn a_slow_start_takes_its_delay_from_the_header_or_the_name_and_never_more_than_a_minute() {
        let slow = |name, header| Scenario::parse(name, header).map(Scenario::delay_ms);
        assert_eq!(slow("any/start_slow", None), Ok(3_000));
        assert_eq!(slow("any/start_slow", Some(250)), Ok(250));
        assert_eq!(slow("any/start_slow", Some(u64::MAX)), Ok(60_000));
        assert_eq!(slow("any/start_slow_70", None), Ok(70));
        assert!(Scenario::parse("any/start_slow_60001", None).is_err());
        assert!(Scenario::parse("any/start_slow_-1", None).is_err());
    }

    #[test]
    fn a_short_authorization_is_eleven_less_and_still_money() {
        let short = Scenario::parse("any/amount_short_11", None).expect("documented");
        assert_eq!(short.authorized_minor(4_995), 4_984);
        assert_eq!(short.authorized_minor(5), 1);
        assert_eq!(Scenario::default().authorized_minor(4_995), 4_995);
    }

    #[test]
    fn another_currency_is_another_one_for_every_order() {
        let other = Scenario::parse("any/other_currency", None).expect("documented");
        assert_eq!(other.authorized_currency("EUR"), Some("USD"));
        assert_eq!(other.authorized_currency("USD"), Some("EUR"));
        assert_eq!(Scenario::default().authorized_currency("EUR"), None);
    }
}
