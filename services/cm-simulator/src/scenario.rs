//! Which stories can CM be made to tell, and how does each one end?

use std::borrow::Cow;

use serde::Serialize;

use crate::state::BankResult;

/// A story an order can be put in, with the end that a correct client reaches.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ScenarioDoc {
    /// `{method}/{story}`, as sent in `X-Sim-Scenario`.
    pub name: &'static str,
    /// What this simulator does differently from [`SCENARIOS`]' first.
    pub does: &'static str,
    /// Where everything stands when nothing moves any more.
    pub end: EndState,
}

/// The documented end of a scenario, in the client's words.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct EndState {
    /// Status of the order.
    pub order: &'static str,
    /// Status of the payment.
    pub payment: &'static str,
    /// `yes` or `no`: may the goods leave?
    pub safe: &'static str,
    /// Shipments released.
    pub shipments: u32,
    /// Requests to start a payment that the ledger holds.
    pub start_calls: u32,
}

const PAID: EndState = EndState {
    order: "paid",
    payment: "authorized",
    safe: "yes",
    shipments: 1,
    start_calls: 1,
};

/// Every scenario, the plain one first.
pub const SCENARIOS: &[ScenarioDoc] = &[
    ScenarioDoc {
        name: "ideal/success",
        does: "the shopper pays at the bank; each change is notified until answered 200",
        end: PAID,
    },
    ScenarioDoc {
        name: "ideal/cancel",
        does: "the shopper cancels at the bank",
        end: EndState {
            order: "open",
            payment: "canceled",
            safe: "no",
            shipments: 0,
            start_calls: 1,
        },
    },
    ScenarioDoc {
        name: "ideal/no_notification",
        does: "the shopper pays, and no notification is ever sent for the order",
        end: PAID,
    },
    ScenarioDoc {
        name: "ideal/double_notification",
        does: "the shopper pays, and each notification is sent twice at once",
        end: PAID,
    },
    ScenarioDoc {
        name: "any/psp_timeout_after_effect",
        does: "start makes the payment and notifies, but never answers; the shopper pays through the menu",
        end: PAID,
    },
    ScenarioDoc {
        name: "any/amount_short_11",
        does: "the bank authorizes 11 minor units less than ordered (never below 1), and CM calls it SAFE",
        end: EndState {
            order: "partially_paid",
            payment: "authorized",
            safe: "no",
            shipments: 0,
            start_calls: 1,
        },
    },
    ScenarioDoc {
        name: "any/start_slow",
        does: "start takes effect at once and answers after X-Sim-Delay-Ms of POST /orders, or 3000 ms; \
               any/start_slow_N holds it for N ms, at most 60000",
        end: PAID,
    },
    ScenarioDoc {
        name: "any/create_timeout_after_effect",
        does: "create makes the order and never answers; the next create whose reference begins with that one's \
               is answered",
        end: PAID,
    },
    ScenarioDoc {
        name: "any/psp_503_after_effect",
        does: "start makes the payment and notifies, but answers 503; the shopper pays through the menu",
        end: PAID,
    },
    ScenarioDoc {
        name: "any/psp_503_before_effect",
        does: "start answers 503 and makes no payment; the shopper pays through the menu",
        end: PAID,
    },
];

/// Longest hold of `any/start_slow`: as long as the scenarios that never answer.
const DELAY_MS_MAX: u64 = 60_000;
const DELAY_MS_DEFAULT: u64 = 3_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Scenario {
    #[default]
    Success,
    Cancel,
    NoNotification,
    DoubleNotification,
    StartTimeoutAfterEffect,
    AmountShort11,
    StartSlow {
        delay_ms: u64,
    },
    CreateTimeoutAfterEffect,
    Start503AfterEffect,
    Start503BeforeEffect,
}

/// Not a scenario of this simulator.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no scenario here; GET /sim/scenarios lists them")]
pub(crate) struct UnknownScenario(String);

/// What becomes of a start call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StartFault {
    None,
    AnswerAfter { delay_ms: u64 },
    NeverAnswer,
    Answer503,
    Answer503WithoutEffect,
}

impl Scenario {
    /// `delay_ms` is the value of `X-Sim-Delay-Ms`, which only `any/start_slow` reads.
    pub(crate) fn parse(name: &str, delay_ms: Option<u64>) -> Result<Self, UnknownScenario> {
        Ok(match name {
            "ideal/success" => Self::Success,
            "ideal/cancel" => Self::Cancel,
            "ideal/no_notification" => Self::NoNotification,
            "ideal/double_notification" => Self::DoubleNotification,
            "any/psp_timeout_after_effect" => Self::StartTimeoutAfterEffect,
            "any/amount_short_11" => Self::AmountShort11,
            "any/create_timeout_after_effect" => Self::CreateTimeoutAfterEffect,
            "any/psp_503_after_effect" => Self::Start503AfterEffect,
            "any/psp_503_before_effect" => Self::Start503BeforeEffect,
            "any/start_slow" => Self::StartSlow {
                delay_ms: delay_ms.unwrap_or(DELAY_MS_DEFAULT).min(DELAY_MS_MAX),
            },
            other => other
                .strip_prefix("any/start_slow_")
                .and_then(|ms| ms.parse().ok())
                .filter(|ms| *ms <= DELAY_MS_MAX)
                .map(|delay_ms| Self::StartSlow { delay_ms })
                // What came from outside is quoted, but not at any length.
                .ok_or_else(|| UnknownScenario(other.chars().take(80).collect()))?,
        })
    }

    pub(crate) fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Success => "ideal/success",
            Self::Cancel => "ideal/cancel",
            Self::NoNotification => "ideal/no_notification",
            Self::DoubleNotification => "ideal/double_notification",
            Self::StartTimeoutAfterEffect => "any/psp_timeout_after_effect",
            Self::AmountShort11 => "any/amount_short_11",
            Self::CreateTimeoutAfterEffect => "any/create_timeout_after_effect",
            Self::Start503AfterEffect => "any/psp_503_after_effect",
            Self::Start503BeforeEffect => "any/psp_503_before_effect",
            Self::StartSlow { delay_ms } => return Cow::Owned(format!("any/start_slow_{delay_ms}")),
        })
    }

    /// Scenarios that still mean something once the shopper is at the bank.
    pub(crate) const AT_THE_BANK: [Self; 3] = [
        Self::NoNotification,
        Self::DoubleNotification,
        Self::AmountShort11,
    ];

    /// The button that the story's shopper presses.
    pub(crate) fn bank_result(self) -> BankResult {
        match self {
            Self::Cancel => BankResult::Cancel,
            Self::Success
            | Self::NoNotification
            | Self::DoubleNotification
            | Self::StartTimeoutAfterEffect
            | Self::AmountShort11
            | Self::StartSlow { .. }
            | Self::CreateTimeoutAfterEffect
            | Self::Start503AfterEffect
            | Self::Start503BeforeEffect => BankResult::Success,
        }
    }

    pub(crate) fn start_fault(self) -> StartFault {
        match self {
            Self::StartTimeoutAfterEffect => StartFault::NeverAnswer,
            Self::StartSlow { delay_ms } => StartFault::AnswerAfter { delay_ms },
            Self::Start503AfterEffect => StartFault::Answer503,
            Self::Start503BeforeEffect => StartFault::Answer503WithoutEffect,
            Self::Success
            | Self::Cancel
            | Self::NoNotification
            | Self::DoubleNotification
            | Self::AmountShort11
            | Self::CreateTimeoutAfterEffect => StartFault::None,
        }
    }

    /// How many times each notification goes out at once.
    pub(crate) fn notification_copies(self) -> usize {
        match self {
            Self::NoNotification => 0,
            Self::DoubleNotification => 2,
            _ => 1,
        }
    }

    /// What the bank authorizes of `asked_minor`; at least one minor unit.
    pub(crate) fn authorized_minor(self, asked_minor: i64) -> i64 {
        match self {
            Self::AmountShort11 => asked_minor.saturating_sub(11).max(1),
            _ => asked_minor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        }
    }

    #[test]
    fn a_slow_start_takes_its_delay_from_the_header_or_the_name_and_never_more_than_a_minute() {
        let slow = |delay_ms| Ok(Scenario::StartSlow { delay_ms });
        assert_eq!(Scenario::parse("any/start_slow", None), slow(3_000));
        assert_eq!(Scenario::parse("any/start_slow", Some(250)), slow(250));
        assert_eq!(Scenario::parse("any/start_slow", Some(u64::MAX)), slow(60_000));
        assert_eq!(Scenario::parse("any/start_slow_70", None), slow(70));
        assert!(Scenario::parse("any/start_slow_60001", None).is_err());
        assert!(Scenario::parse("any/start_slow_-1", None).is_err());
    }

    #[test]
    fn a_short_authorization_is_eleven_less_and_still_money() {
        assert_eq!(Scenario::AmountShort11.authorized_minor(4_995), 4_984);
        assert_eq!(Scenario::AmountShort11.authorized_minor(5), 1);
        assert_eq!(Scenario::Success.authorized_minor(4_995), 4_995);
    }
}
