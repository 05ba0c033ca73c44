//! Which stories can CM be made to tell, what do the shopper and time do in each, and how does each one end?

use std::borrow::Cow;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::order::BankResult;

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
    /// The answer to the first create is lost.
    pub(crate) create_lost: bool,
    pub(crate) start: StartFault,
    /// How many times each notification goes out at once.
    pub(crate) notification_copies: usize,
    pub(crate) timing: Timing,
    /// Authorized more than was asked for, in minor units.
    pub(crate) amount_off: i64,
    /// Authorized in this currency, whatever was asked for.
    pub(crate) currency: Option<&'static str>,
    /// The level at which CM calls a paid order safe.
    pub(crate) level: &'static str,
    /// From the payment on, reports are those of another order.
    pub(crate) foreign_report: bool,
    /// A payment that the merchant started is not in the report for this long.
    pub(crate) visible_after: Option<SignedDuration>,
    /// The money is taken back this long after it was authorized.
    pub(crate) reversed_after: Option<SignedDuration>,
}

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
}

/// How long the notification of [`Timing::AfterReturn`] stays behind the shopper.
pub(crate) const AFTER_RETURN: SignedDuration = SignedDuration::from_secs(5);
/// How long a wallet's review takes.
pub(crate) const REVIEW: SignedDuration = SignedDuration::from_hours(24);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartFault {
    None,
    /// After `X-Sim-Delay-Ms`, or what the scenario's name says.
    AnswerLater,
    NeverAnswer,
    NeverAnswerWithoutEffect,
    Answer503,
    Answer503WithoutEffect,
}

const PLAIN: Plan = Plan {
    shopper: Shopper::Presses(BankResult::Success),
    create_lost: false,
    start: StartFault::None,
    notification_copies: 1,
    timing: Timing::AtOnce,
    amount_off: 0,
    currency: None,
    level: "SAFE",
    foreign_report: false,
    visible_after: None,
    reversed_after: None,
};

const fn stand(order: &'static str, payment: &'static str, safe: &'static str) -> Stand {
    Stand { order, payment, safe }
}

const fn end(stand: Stand, shipments: u32) -> EndState {
    EndState {
        stand,
        shipments,
        provider_calls: ProviderCalls { create: 1, start: 1 },
    }
}

const SAFE: Stand = stand("paid", "authorized", "yes");
const PAID: EndState = end(SAFE, 1);
/// Paid, and never released.
const HELD: EndState = end(stand("paid", "authorized", "no"), 0);
const REDIRECTED: Stand = stand("pending", "redirected", "no");
const UNKNOWN: Stand = stand("pending", "outcome_unknown", "no");
const NOTHING_PAID: EndState = end(stand("open", "canceled", "no"), 0);

const START: Step = Step {
    act: Act::Start,
    until: Some(REDIRECTED),
};
const START_LOST: Step = Step {
    act: Act::Start,
    until: Some(UNKNOWN),
};
const PAY: Step = Step {
    act: Act::Pay,
    until: None,
};
const fn wait(time: &'static str) -> Step {
    Step {
        act: Act::Wait { time },
        until: None,
    }
}
const fn until(step: Step, stand: Stand) -> Step {
    Step {
        act: step.act,
        until: Some(stand),
    }
}

const START_AND_PAY: &[Step] = &[START, PAY];
const LOST_AND_PAY: &[Step] = &[START_LOST, PAY];

/// A plain story of one method, for the others to differ from.
const IDEAL: ScenarioDoc = ScenarioDoc {
    name: "ideal/success",
    method: "ideal",
    does: "the shopper pays at the bank; each change is notified until answered 200",
    steps: START_AND_PAY,
    end: PAID,
    plan: PLAIN,
};
const PAYPAL: ScenarioDoc = ScenarioDoc {
    name: "paypal/success",
    method: "paypal",
    does: "the shopper approves at PayPal",
    ..IDEAL
};

/// Every scenario, the plain one first.
pub const SCENARIOS: &[ScenarioDoc] = &[
    IDEAL,
    ScenarioDoc {
        name: "ideal/cancel",
        does: "the shopper cancels at the bank",
        end: NOTHING_PAID,
        plan: Plan {
            shopper: Shopper::Presses(BankResult::Cancel),
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/fail",
        does: "the bank refuses: AUTHORIZATION_FAILED",
        end: end(stand("open", "failed", "no"), 0),
        plan: Plan {
            shopper: Shopper::Presses(BankResult::Fail),
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/expire",
        does: "the shopper closes the bank's page; CM reports the payment as redirected for ever and notifies no more",
        steps: &[START, PAY, wait("45m")],
        end: end(stand("expired", "expired", "no"), 0),
        plan: Plan {
            shopper: Shopper::Leaves,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/late_success",
        does: "the shopper leaves the bank's page open for two hours, then pays there",
        steps: &[
            START,
            PAY,
            until(wait("45m"), stand("expired", "expired", "no")),
            wait("90m"),
        ],
        end: PAID,
        plan: Plan {
            shopper: Shopper::PressesAfter(SignedDuration::from_hours(2), BankResult::Success),
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/no_notification",
        does: "the shopper pays, and no notification is ever sent for the order",
        plan: Plan {
            notification_copies: 0,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/double_notification",
        does: "the shopper pays, and each notification is sent twice at once",
        plan: Plan {
            notification_copies: 2,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/notification_before_return",
        does: "the bank sends the shopper back only when the merchant has answered the notification",
        plan: Plan {
            timing: Timing::BeforeReturn,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/return_before_notification",
        does: "the shopper is back 5 s before the notification of the payment goes out",
        plan: Plan {
            timing: Timing::AfterReturn,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/notification_before_answer",
        does: "start is answered only when the merchant has answered the notification of the payment it makes",
        plan: Plan {
            timing: Timing::BeforeAnswer,
            ..PLAIN
        },
        ..IDEAL
    },
    PAYPAL,
    ScenarioDoc {
        name: "paypal/cancel",
        does: "the shopper cancels at PayPal",
        end: NOTHING_PAID,
        plan: Plan {
            shopper: Shopper::Presses(BankResult::Cancel),
            ..PLAIN
        },
        ..PAYPAL
    },
    ScenarioDoc {
        name: "paypal/pending_review",
        does: "the shopper approves and PayPal looks at it for 24 hours, AUTHORIZATION_REQUESTED meanwhile; then it is \
               paid and SAFE",
        steps: &[START, PAY, until(wait("2h"), REDIRECTED), wait("23h")],
        plan: Plan {
            shopper: Shopper::Presses(BankResult::Review),
            ..PLAIN
        },
        ..PAYPAL
    },
    ScenarioDoc {
        name: "any/psp_503_before_effect",
        does: "start answers 503 and makes no payment; the shopper pays through the menu",
        steps: LOST_AND_PAY,
        plan: Plan {
            start: StartFault::Answer503WithoutEffect,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/psp_503_after_effect",
        does: "start makes the payment and notifies, but answers 503; the shopper pays through the menu",
        steps: &[until(START, REDIRECTED), PAY],
        plan: Plan {
            start: StartFault::Answer503,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/psp_timeout_before_effect",
        does: "start makes no payment and never answers; the shopper pays through the menu",
        steps: LOST_AND_PAY,
        plan: Plan {
            start: StartFault::NeverAnswerWithoutEffect,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/psp_timeout_after_effect",
        does: "start makes the payment and notifies, but never answers; the shopper pays through the menu",
        plan: Plan {
            start: StartFault::NeverAnswer,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/effect_visible_late",
        does: "start never answers, and the payment it made is in no report and not notified for 90 s; the shopper then \
               pays through the menu",
        steps: &[START_LOST, until(wait("90s"), REDIRECTED), PAY],
        plan: Plan {
            start: StartFault::NeverAnswer,
            visible_after: Some(SignedDuration::from_secs(90)),
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/amount_short_11",
        does: "the bank authorizes 11 minor units less than ordered (never below 1), and CM calls it SAFE",
        end: end(stand("partially_paid", "authorized", "no"), 0),
        plan: Plan {
            amount_off: -11,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/amount_short_10",
        does: "the bank authorizes 10 minor units less than ordered, which is within the tolerance",
        plan: Plan {
            amount_off: -10,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/amount_over_11",
        does: "the bank authorizes 11 minor units more than ordered, and CM calls it SAFE",
        end: HELD,
        plan: Plan {
            amount_off: 11,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/other_currency",
        does: "the bank authorizes the same number of another currency (USD; EUR for an order in USD), and CM calls it SAFE",
        // Money that may yet turn out to be the order's: nobody is to pay a second time.
        end: end(stand("pending", "authorized", "no"), 0),
        plan: Plan {
            currency: Some("USD"),
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/level_fast",
        does: "CM calls the paid order safe at level FAST only",
        end: HELD,
        plan: Plan {
            level: "FAST",
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/level_unknown_word",
        does: "CM calls the paid order safe at a level that nobody has heard of",
        end: HELD,
        plan: Plan {
            level: "SAFE_ENOUGH",
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/wrong_reference",
        does: "once the shopper has paid, the order's report is that of another order: other reference, other payment, \
               same amount, SAFE",
        end: end(REDIRECTED, 0),
        plan: Plan {
            foreign_report: true,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/safe_then_reversed",
        does: "a day after it was paid and SAFE, a chargeback of the whole amount is in the report, which still says SAFE, \
               and is notified",
        steps: &[START, until(PAY, SAFE), wait("25h")],
        end: end(stand("paid", "authorized", "lost"), 1),
        plan: Plan {
            reversed_after: Some(SignedDuration::from_hours(24)),
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/start_slow",
        does: "start takes effect at once and answers after X-Sim-Delay-Ms of POST /orders, or 3000 ms; \
               any/start_slow_N holds it for N ms, at most 60000",
        plan: Plan {
            start: StartFault::AnswerLater,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/create_timeout_after_effect",
        does: "create makes the order and never answers; the next create whose reference begins with that one's \
               is answered",
        end: EndState {
            provider_calls: ProviderCalls { create: 2, start: 1 },
            ..PAID
        },
        plan: Plan {
            create_lost: true,
            ..PLAIN
        },
        ..IDEAL
    },
];

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
        const STORIES: [&str; 12] = [
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
        ];
        STORIES.into_iter()
    }

    /// What the bank authorizes of `asked_minor`; at least one minor unit.
    pub(crate) fn authorized_minor(self, asked_minor: i64) -> i64 {
        asked_minor.saturating_add(self.plan().amount_off).max(1)
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
        self.plan().amount_off < 0
    }
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            doc: &IDEAL,
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
