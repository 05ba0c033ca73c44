//! All the stories, the plain ones first: what CM does in each, and the end that a correct client reaches.

use jiff::SignedDuration;

use super::{
    Act, CallFault, EndState, Plan, ProviderCalls, ScenarioDoc, Shape, Shopper, Stand, Step, Timing,
};
use crate::{garble::Garble, order::BankResult};

const PLAIN: Plan = Plan {
    shopper: Shopper::Presses(BankResult::Success),
    create: CallFault::None,
    start: CallFault::None,
    status: None,
    notification_copies: 1,
    undeliverable: false,
    timing: Timing::AtOnce,
    amount_off: 0,
    amount_permille: 1_000,
    currency: None,
    level: "SAFE",
    report: Shape::Plain,
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

const CALLS_TWO_CREATES: ProviderCalls = ProviderCalls { create: 2, start: 1 };

/// A story whose first create goes wrong; the next one, under another reference, is answered.
const fn create_fails(name: &'static str, does: &'static str, create: CallFault) -> ScenarioDoc {
    ScenarioDoc {
        name,
        does,
        end: EndState {
            provider_calls: CALLS_TWO_CREATES,
            ..PAID
        },
        plan: Plan { create, ..PLAIN },
        ..IDEAL
    }
}

/// A story whose start has happened and is answered with what is no answer.
const fn start_garbled(name: &'static str, does: &'static str, garble: Garble) -> ScenarioDoc {
    ScenarioDoc {
        name,
        does,
        plan: Plan {
            start: CallFault::Garbled(garble),
            ..PLAIN
        },
        ..IDEAL
    }
}

/// A story in which the first reads after the payment go wrong.
const fn reads_fail(name: &'static str, does: &'static str, fault: CallFault, reads: u32) -> ScenarioDoc {
    ScenarioDoc {
        name,
        does,
        plan: Plan {
            status: Some((fault, reads)),
            ..PLAIN
        },
        ..IDEAL
    }
}

/// A story in which the bank authorizes more or less than was ordered, within the tolerance.
const fn amount_off(name: &'static str, does: &'static str, minor: i64) -> ScenarioDoc {
    ScenarioDoc {
        name,
        does,
        plan: Plan {
            amount_off: minor,
            ..PLAIN
        },
        ..IDEAL
    }
}

/// A story whose reports are written in a way of their own, to the same end.
const fn written(name: &'static str, does: &'static str, report: Shape) -> ScenarioDoc {
    ScenarioDoc {
        name,
        does,
        plan: Plan { report, ..PLAIN },
        ..IDEAL
    }
}

/// A plain story of one method, for the others to differ from.
pub(super) const IDEAL: ScenarioDoc = ScenarioDoc {
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
            start: CallFault::Answer503WithoutEffect,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/psp_503_after_effect",
        does: "start makes the payment and notifies, but answers 503; the shopper pays through the menu",
        steps: &[until(START, REDIRECTED), PAY],
        plan: Plan {
            start: CallFault::Answer503,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/psp_timeout_before_effect",
        does: "start makes no payment and never answers; the shopper pays through the menu",
        steps: LOST_AND_PAY,
        plan: Plan {
            start: CallFault::NeverAnswerWithoutEffect,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/psp_timeout_after_effect",
        does: "start makes the payment and notifies, but never answers; the shopper pays through the menu",
        plan: Plan {
            start: CallFault::NeverAnswer,
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
            start: CallFault::NeverAnswer,
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
            report: Shape::Foreign,
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
            start: CallFault::AnswerLater,
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
            create: CallFault::NeverAnswer,
            ..PLAIN
        },
        ..IDEAL
    },
    create_fails(
        "any/create_timeout_before_effect",
        "create never answers and makes no order; the next create whose reference begins with that one's is answered",
        CallFault::NeverAnswerWithoutEffect,
    ),
    create_fails(
        "any/create_503_before_effect",
        "create answers 503 and makes no order; the next create whose reference begins with that one's is answered",
        CallFault::Answer503WithoutEffect,
    ),
    create_fails(
        "any/create_503_after_effect",
        "create makes the order and answers 503; the next create whose reference begins with that one's is answered",
        CallFault::Answer503,
    ),
    create_fails(
        "any/create_reference_taken",
        "create makes the order and answers that its reference is not unique, as to a repeat of it; the next create whose \
         reference begins with that one's is answered",
        CallFault::ReferenceTaken,
    ),
    create_fails(
        "any/create_lower_case_key",
        "create makes the order and names its key in lower case; the next create whose reference begins with that one's \
         is answered",
        CallFault::Garbled(Garble::LowerCaseKey),
    ),
    create_fails(
        "any/create_script_url",
        "create makes the order and answers a menu link that is a script; the next create whose reference begins with \
         that one's is answered",
        CallFault::Garbled(Garble::ScriptUrl),
    ),
    ScenarioDoc {
        name: "any/start_429",
        does: "the first start is turned away with 429 and Retry-After: 1, and makes no payment; the next is answered",
        end: EndState {
            provider_calls: ProviderCalls { create: 1, start: 2 },
            ..PAID
        },
        plan: Plan {
            start: CallFault::TurnedAway(429),
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/start_refused_new_code",
        does: "start is refused with 422 and an error code that is new, and makes no payment",
        steps: &[until(START, stand("open", "failed", "no"))],
        end: end(stand("open", "failed", "no"), 0),
        plan: Plan {
            start: CallFault::Refused(422),
            ..PLAIN
        },
        ..IDEAL
    },
    start_garbled(
        "any/start_html",
        "start makes the payment and is answered by a proxy's page",
        Garble::Html,
    ),
    start_garbled(
        "any/start_cut",
        "start makes the payment, and half of its answer arrives",
        Garble::Cut,
    ),
    start_garbled(
        "any/start_endless",
        "start makes the payment, and its answer never ends",
        Garble::Endless,
    ),
    start_garbled(
        "any/start_empty",
        "start makes the payment and answers 200 with nothing in it",
        Garble::Empty,
    ),
    start_garbled(
        "any/start_success_and_error",
        "start makes the payment and answers that it did, and that something went wrong",
        Garble::SuccessAndError,
    ),
    start_garbled(
        "any/start_script_url",
        "start makes the payment and answers a link that is a script",
        Garble::ScriptUrl,
    ),
    reads_fail(
        "any/status_503",
        "the first three reads after the payment are answered 503",
        CallFault::Answer503,
        3,
    ),
    reads_fail(
        "any/status_timeout",
        "the first two reads after the payment are never answered",
        CallFault::NeverAnswer,
        2,
    ),
    reads_fail(
        "any/status_garbled",
        "the first read after the payment is answered by a proxy's page",
        CallFault::Garbled(Garble::Html),
        1,
    ),
    ScenarioDoc {
        name: "any/notification_before_create_answer",
        does: "the order is notified before its create is answered",
        plan: Plan {
            timing: Timing::BeforeCreateAnswer,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/notified_100_times",
        does: "the shopper pays, and each notification is sent a hundred times at once",
        plan: Plan {
            notification_copies: 100,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/notifications_out_of_order",
        does: "the notification of the payment's beginning goes out 5 s after that of its end",
        plan: Plan {
            timing: Timing::OutOfOrder,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/notified_days_late",
        does: "the shopper pays, and the notifications go out three days later",
        steps: &[START, until(PAY, SAFE), wait("73h")],
        plan: Plan {
            timing: Timing::DaysLate,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "ideal/notifications_undeliverable",
        does: "the shopper pays, and none of the attempts to notify arrives, ten of each",
        plan: Plan {
            undeliverable: true,
            ..PLAIN
        },
        ..IDEAL
    },
    amount_off(
        "any/amount_short_1",
        "the bank authorizes 1 minor unit less than ordered, which is within the tolerance",
        -1,
    ),
    amount_off(
        "any/amount_over_1",
        "the bank authorizes 1 minor unit more than ordered, which is within the tolerance",
        1,
    ),
    amount_off(
        "any/amount_over_10",
        "the bank authorizes 10 minor units more than ordered, which is within the tolerance",
        10,
    ),
    ScenarioDoc {
        name: "any/paid_42_for_50",
        does: "the bank authorizes 84 percent of the number in another currency, as 42 EUR for 50 USD, and CM calls it SAFE",
        end: OTHER_MONEY,
        plan: Plan {
            currency: Some("USD"),
            amount_permille: 840,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/converted_total",
        does: "the bank authorizes another currency; the report has totals that CM converted into the order's, which say \
               that all is paid, and SAFE",
        end: OTHER_MONEY,
        plan: Plan {
            currency: Some("USD"),
            report: Shape::Converted {
                to_the_orders_currency: true,
            },
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/converted_to_other",
        does: "the bank authorizes another currency; the report has totals that CM exchanged to that one, and SAFE",
        end: OTHER_MONEY,
        plan: Plan {
            currency: Some("USD"),
            report: Shape::Converted {
                to_the_orders_currency: false,
            },
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/unknown_state",
        does: "the paid payment is in a state that nobody has heard of, for an hour; then AUTHORIZED and SAFE",
        steps: &[START, until(PAY, REDIRECTED), wait("61m")],
        plan: Plan {
            report: Shape::UnknownState,
            ..PLAIN
        },
        ..IDEAL
    },
    ScenarioDoc {
        name: "any/unknown_confidence",
        does: "the paid payment has a confidence that nobody has heard of, for an hour; then ACQUIRER_APPROVED and SAFE",
        steps: &[START, until(PAY, REDIRECTED), wait("61m")],
        plan: Plan {
            report: Shape::UnknownConfidence,
            ..PLAIN
        },
        ..IDEAL
    },
    written(
        "any/new_fields",
        "reports have fields that nobody has heard of, everywhere, and the known ones in another order",
        Shape::NewFields,
    ),
    written(
        "any/fields_missing",
        "reports leave out what may be left out: the time of SAFE, captures, the order's words",
        Shape::Sparse,
    ),
    written(
        "any/one_for_a_list",
        "reports have the one payment, and its one capture, where a list of them was",
        Shape::Alone,
    ),
];

/// Money of another currency, which may yet turn out to be the order's: nobody is to pay a second time.
const OTHER_MONEY: EndState = end(stand("pending", "authorized", "no"), 0);
