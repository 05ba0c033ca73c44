use cqrs_es::Aggregate as _;
use jiff::Timestamp;

use super::*;
use crate::{
    ids::{CommandId, OrderId, PaymentId, Shop},
    money::{Currency, Money},
    report::{AuthorizationState, Confidence, ReportedPayment},
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn attempt() -> Attempt {
    let shop = Shop::parse("demo-shop").unwrap();
    let order_id = OrderId::new(&shop, "A-1");
    Attempt {
        payment_id: PaymentId::new(order_id, CommandId::from_key(&shop, "k")),
        order_id,
        shop,
        method: Method::Ideal,
        amount: Money::new(4995, Currency::EUR),
        issuer: None,
        number: 1,
    }
}

fn given(events: impl IntoIterator<Item = PaymentEvent>) -> Payment {
    let mut payment = Payment::default();
    events.into_iter().for_each(|event| payment.apply(event));
    payment
}

fn started() -> PaymentEvent {
    PaymentEvent::PaymentStarted {
        attempt: attempt(),
        expires_at: at(1800),
    }
}

fn called(operation: Operation, attempt: u32) -> PaymentEvent {
    PaymentEvent::ProviderCallAttempted {
        operation,
        attempt,
        reference: "A-1".to_owned(),
        deadline: at(10),
    }
}

fn unknown(operation: Operation, attempt: u32) -> PaymentEvent {
    PaymentEvent::ProviderOutcomeUnknown {
        operation,
        attempt,
        class: LossClass::Timeout,
        deadline: at(10),
    }
}

fn redirected() -> PaymentEvent {
    PaymentEvent::PaymentRedirected {
        provider_payment_id: "pid1t".to_owned(),
        url: "https://bank".to_owned(),
    }
}

fn call(operation: Operation) -> PaymentCommand {
    nth_call(operation, 1)
}

fn nth_call(operation: Operation, attempt: u32) -> PaymentCommand {
    PaymentCommand::AttemptCall {
        operation,
        attempt,
        reference: "A-1".to_owned(),
        deadline: at(10),
    }
}

fn shown(id: &str, state: &str) -> ReportedPayment {
    ReportedPayment {
        id: id.to_owned(),
        method: "IDEAL".to_owned(),
        state: AuthorizationState::from(state.to_owned()),
        confidence: (state == "AUTHORIZED").then_some(Confidence::AcquirerApproved),
        amount: Money::new(4995, Currency::EUR),
        reason: None,
        captures: vec![],
        refunds: vec![],
        chargebacks: vec![],
    }
}

fn seen(second: i64, payments: &[ReportedPayment]) -> PaymentCommand {
    PaymentCommand::Observe(Observation {
        payments: payments.to_vec(),
        read_started_at: at(second),
    })
}

#[test]
fn the_intent_is_recorded_before_a_call_and_only_one_call_is_open() {
    let payment = given([started()]);
    assert_eq!(
        payment.decide(call(Operation::CreateOrder)).unwrap(),
        [called(Operation::CreateOrder, 1)]
    );
    let calling = given([started(), called(Operation::CreateOrder, 1)]);
    assert_eq!(
        calling.decide(call(Operation::CreateOrder)),
        Err(PaymentRejection::CallOpen {
            operation: Operation::CreateOrder,
            attempt: 1
        })
    );
}

#[test]
fn a_create_whose_outcome_is_unknown_may_be_asked_for_again() {
    let payment = given([
        started(),
        called(Operation::CreateOrder, 1),
        unknown(Operation::CreateOrder, 1),
    ]);
    assert_eq!(
        payment.decide(nth_call(Operation::CreateOrder, 2)).unwrap(),
        [called(Operation::CreateOrder, 2)]
    );
}

#[test]
fn an_order_that_the_provider_may_hold_is_remembered_with_its_reason_to_the_end() {
    let resolved = |operation, attempt, resolution| PaymentEvent::ProviderOutcomeResolved {
        operation,
        attempt,
        resolution,
        provider_payment_id: None,
    };
    let create = Operation::CreateOrder;
    let payment = given([
        started(),
        called(create, 1),
        unknown(create, 1),
        called(create, 2),
        resolved(create, 2, Resolution::NotSent),
        called(create, 3),
        resolved(create, 3, Resolution::NotServed),
        called(create, 4),
        resolved(create, 4, Resolution::Happened),
        called(Operation::Start, 1),
        redirected(),
        PaymentEvent::PaymentExpired,
    ]);
    let asked: Vec<_> = payment
        .asked_orders()
        .iter()
        .map(|asked| asked.lost.is_some())
        .collect();
    assert_eq!(asked, [true, false], "what was never looked at does not exist");
}

#[test]
fn what_was_turned_away_is_counted_apart() {
    let turned_away = PaymentEvent::ProviderOutcomeResolved {
        operation: Operation::Start,
        attempt: 1,
        resolution: Resolution::NotServed,
        provider_payment_id: None,
    };
    let payment = given([started(), called(Operation::Start, 1), turned_away]);
    let Payment::Pending(pending) = payment else {
        panic!("{payment:?}")
    };
    assert_eq!((pending.starts, pending.turned_away), (1, 1));
}

#[test]
fn a_start_whose_outcome_is_unknown_is_never_sent_again() {
    let payment = given([
        started(),
        called(Operation::Start, 1),
        unknown(Operation::Start, 1),
    ]);
    assert!(matches!(
        payment.decide(call(Operation::Start)),
        Err(PaymentRejection::CallOpen { .. })
    ));
    assert_eq!(payment.status(), "outcome_unknown");
}

#[test]
fn an_unknown_start_ends_by_a_report_that_shows_it() {
    let payment = given([
        started(),
        called(Operation::Start, 1),
        unknown(Operation::Start, 1),
    ]);
    let happened = PaymentEvent::ProviderOutcomeResolved {
        operation: Operation::Start,
        attempt: 1,
        resolution: Resolution::Happened,
        provider_payment_id: Some("pid1t".to_owned()),
    };
    let under_way = shown("pid1t", "REDIRECTED_FOR_AUTHORIZATION");
    assert_eq!(
        payment.decide(seen(12, &[under_way])).unwrap(),
        std::slice::from_ref(&happened)
    );
    let paid = payment.decide(seen(12, &[shown("pid1t", "AUTHORIZED")])).unwrap();
    assert_eq!(paid[0], happened);
    assert!(matches!(paid[1], PaymentEvent::PaymentAuthorized { .. }));
}

#[test]
fn absence_proves_nothing_before_the_visibility_horizon() {
    let payment = given([
        started(),
        called(Operation::Start, 1),
        unknown(Operation::Start, 1),
    ]);
    assert_eq!(payment.decide(seen(10 + 92, &[])).unwrap(), []);
    let events = payment.decide(seen(10 + 93, &[])).unwrap();
    assert!(matches!(
        events[..],
        [
            PaymentEvent::ProviderOutcomeResolved {
                resolution: Resolution::DidNotHappen,
                ..
            },
            PaymentEvent::PaymentFailed { .. }
        ]
    ));
}

#[test]
fn the_late_answer_to_a_lost_start_still_brings_the_url() {
    let payment = given([
        started(),
        called(Operation::Start, 1),
        unknown(Operation::Start, 1),
    ]);
    let command = PaymentCommand::Redirect {
        attempt: 1,
        provider_payment_id: "pid1t".to_owned(),
        url: "https://bank".to_owned(),
    };
    let events = payment.decide(command).unwrap();
    assert!(matches!(
        events[0],
        PaymentEvent::ProviderOutcomeResolved {
            resolution: Resolution::Happened,
            ..
        }
    ));
    assert_eq!(events[1], redirected());
}

#[test]
fn a_canceled_attempt_is_closed_unless_another_of_its_payments_is_open() {
    let payment = given([started(), called(Operation::Start, 1), redirected()]);
    let canceled = shown("pid1t", "CANCELED");
    assert_eq!(
        payment.decide(seen(20, std::slice::from_ref(&canceled))).unwrap(),
        [PaymentEvent::PaymentCanceled { reason: None }]
    );
    let retried = [canceled.clone(), shown("pid2t", "REDIRECTED_FOR_AUTHORIZATION")];
    assert_eq!(payment.decide(seen(20, &retried)).unwrap(), []);
    let paid = [shown("pid2t", "AUTHORIZED"), canceled];
    assert!(matches!(
        payment.decide(seen(20, &paid)).unwrap()[..],
        [PaymentEvent::PaymentAuthorized { .. }]
    ));
}

#[test]
fn a_refused_authorization_fails_the_attempt_with_the_providers_word() {
    let payment = given([started(), called(Operation::Start, 1), redirected()]);
    let events = payment
        .decide(seen(20, &[shown("pid1t", "AUTHORIZATION_FAILED")]))
        .unwrap();
    assert_eq!(
        events,
        [PaymentEvent::PaymentFailed {
            reason: "authorization_failed".to_owned(),
            provider_message: Some("AUTHORIZATION_FAILED".to_owned())
        }]
    );
}

#[test]
fn a_word_that_we_do_not_know_never_ends_an_attempt() {
    let payment = given([started(), called(Operation::Start, 1), redirected()]);
    for word in ["SETTLED", "cancelled", ""] {
        assert_eq!(
            payment.decide(seen(999_999, &[shown("pid1t", word)])).unwrap(),
            [],
            "{word}"
        );
    }
}

#[test]
fn an_attempt_expires_only_on_a_report_well_after_its_time() {
    let payment = given([started(), called(Operation::Start, 1), redirected()]);
    let open = [shown("pid1t", "REDIRECTED_FOR_AUTHORIZATION")];
    assert_eq!(payment.decide(seen(1800 + 92, &open)).unwrap(), []);
    assert_eq!(
        payment.decide(seen(1800 + 93, &open)).unwrap(),
        [PaymentEvent::PaymentExpired]
    );
}

#[test]
fn what_is_with_the_acquirer_never_expires() {
    let payment = given([started(), called(Operation::Start, 1), redirected()]);
    for word in [
        "AUTHORIZATION_REQUESTED",
        "AUTHENTICATED",
        "CANCEL_REQUESTED",
        "CANCEL_FAILED",
        "CANCEL_ERROR",
    ] {
        assert_eq!(
            payment.decide(seen(99_999, &[shown("pid1t", word)])).unwrap(),
            [],
            "{word}"
        );
    }
}

#[test]
fn a_payment_under_review_stays_open_until_the_acquirer_has_made_up_its_mind() {
    let mut reviewed = shown("pid1t", "AUTHORIZED");
    reviewed.method = "PAYPAL".to_owned();
    reviewed.confidence = Some(Confidence::AcquirerPending);
    let pending = given([started(), redirected()]);
    // Long after its time, too: it may still become money.
    for second in [60, 1_000_000] {
        assert_eq!(
            pending
                .decide(seen(second, std::slice::from_ref(&reviewed)))
                .unwrap(),
            []
        );
    }
    let requested = shown("pid1t", "AUTHORIZATION_REQUESTED");
    assert_eq!(pending.decide(seen(1_000_000, &[requested])).unwrap(), []);
    let approved = shown("pid1t", "AUTHORIZED");
    assert!(matches!(
        pending.decide(seen(70, &[approved])).unwrap()[..],
        [PaymentEvent::PaymentAuthorized { .. }]
    ));
    let refused = shown("pid1t", "CANCELED");
    assert!(matches!(
        pending.decide(seen(70, &[refused])).unwrap()[..],
        [PaymentEvent::PaymentCanceled { .. }]
    ));
}

#[test]
fn what_ended_before_is_not_this_attempts_end() {
    let stale = [shown("menu1t", "CANCELED")];
    let calling = given([started(), called(Operation::Start, 1)]);
    assert_eq!(calling.decide(seen(5, &stale)).unwrap(), []);
    let unknown = given([
        started(),
        called(Operation::Start, 1),
        unknown(Operation::Start, 1),
    ]);
    assert_eq!(
        unknown.decide(seen(12, &stale)).unwrap(),
        [],
        "ours may still appear"
    );
    let sent = given([started(), called(Operation::Start, 1), redirected()]);
    assert_eq!(
        sent.decide(seen(20, &stale)).unwrap(),
        [],
        "ours is not shown yet"
    );
    // Money counts, whoever's hand it came by.
    let events = calling.decide(seen(5, &[shown("menu1t", "AUTHORIZED")])).unwrap();
    assert!(matches!(events[..], [PaymentEvent::PaymentAuthorized { .. }]));
}

#[test]
fn anothers_intent_is_never_taken_for_ones_own() {
    let payment = given([started(), called(Operation::Start, 1), not_sent()]);
    let stale = PaymentRejection::NotNext {
        operation: Operation::Start,
        attempt: 1,
        next: 2,
    };
    assert_eq!(payment.decide(nth_call(Operation::Start, 1)), Err(stale));
    assert!(payment.decide(nth_call(Operation::Start, 2)).is_ok());
    let late_no = PaymentCommand::Fail {
        operation: Operation::CreateOrder,
        attempt: 1,
        reason: "provider_refused".to_owned(),
        provider_message: None,
    };
    assert!(matches!(
        payment.decide(late_no),
        Err(PaymentRejection::NoSuchCall { .. })
    ));
}

#[test]
fn the_answer_that_comes_after_the_end_still_tells_which_payment_was_ours() {
    let closed = given([
        started(),
        called(Operation::Start, 1),
        redirected(),
        PaymentEvent::PaymentExpired,
    ]);
    let answer = |id: &str| PaymentCommand::Redirect {
        attempt: 1,
        provider_payment_id: id.to_owned(),
        url: "https://bank".to_owned(),
    };
    assert_eq!(closed.decide(answer("pid1t")).unwrap(), []);
    let mut learned = closed.clone();
    closed
        .decide(answer("pid9t"))
        .unwrap()
        .into_iter()
        .for_each(|event| learned.apply(event));
    assert_eq!(learned.provider_payments(), ["pid1t", "pid9t"]);
}

fn not_sent() -> PaymentEvent {
    PaymentEvent::ProviderOutcomeResolved {
        operation: Operation::Start,
        attempt: 1,
        resolution: Resolution::NotSent,
        provider_payment_id: None,
    }
}

#[test]
fn a_closed_attempt_that_turns_out_to_be_paid_is_authorized() {
    for closed in [
        PaymentEvent::PaymentExpired,
        PaymentEvent::PaymentCanceled { reason: None },
        PaymentEvent::PaymentFailed {
            reason: "x".to_owned(),
            provider_message: None,
        },
    ] {
        let payment = given([started(), called(Operation::Start, 1), redirected(), closed]);
        let events = payment
            .decide(seen(4000, &[shown("pid1t", "AUTHORIZED")]))
            .unwrap();
        assert!(matches!(events[..], [PaymentEvent::PaymentAuthorized { .. }]));
    }
}

#[test]
fn a_report_that_is_faster_than_the_answer_wins_and_the_answer_is_a_repeat() {
    let payment = given([
        started(),
        called(Operation::Start, 1),
        PaymentEvent::PaymentAuthorized {
            provider_payment_id: "pid1t".to_owned(),
            amount: Money::new(4995, Currency::EUR),
            confidence: Confidence::AcquirerApproved,
        },
    ]);
    let answer = PaymentCommand::Redirect {
        attempt: 1,
        provider_payment_id: "pid1t".to_owned(),
        url: "https://bank".to_owned(),
    };
    assert_eq!(payment.decide(answer).unwrap(), []);
    assert_eq!(
        payment.decide(seen(20, &[shown("pid1t", "AUTHORIZED")])).unwrap(),
        []
    );
}

#[test]
fn only_the_open_call_can_be_answered() {
    let payment = given([started(), called(Operation::Start, 1)]);
    let wrong = PaymentCommand::LoseCall {
        operation: Operation::Start,
        attempt: 2,
        class: LossClass::Timeout,
    };
    assert!(matches!(
        payment.decide(wrong),
        Err(PaymentRejection::NoSuchCall { .. })
    ));
    let sent = given([started(), called(Operation::Start, 1), redirected()]);
    assert_eq!(
        sent.decide(call(Operation::Start)),
        Err(PaymentRejection::StartSpent)
    );
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn any_command() -> impl Strategy<Value = PaymentCommand> {
        let operation = prop_oneof![Just(Operation::CreateOrder), Just(Operation::Start)];
        let word = prop_oneof![
            Just("AUTHORIZED"),
            Just("CANCELED"),
            Just("REDIRECTED_FOR_AUTHORIZATION"),
            Just("AUTHORIZATION_FAILED"),
            Just("ODD")
        ];
        let report = (0..3_000_i64, proptest::collection::vec((1..3_u8, word), 0..3)).prop_map(
            |(second, seen_words)| {
                let payments: Vec<_> = seen_words
                    .iter()
                    .map(|(n, word)| shown(&format!("pid{n}t"), word))
                    .collect();
                seen(second, &payments)
            },
        );
        prop_oneof![
            Just(PaymentCommand::Start {
                attempt: attempt(),
                expires_at: at(1800)
            }),
            (operation.clone(), 1..4_u32).prop_map(|(operation, attempt)| nth_call(operation, attempt)),
            (1..4_u32).prop_map(|attempt| PaymentCommand::ConfirmCreate { attempt }),
            (1..4_u32).prop_map(|attempt| PaymentCommand::Redirect {
                attempt,
                provider_payment_id: "pid1t".to_owned(),
                url: "https://bank".to_owned()
            }),
            Just(PaymentCommand::GiveUp {
                reason: "provider_unavailable".to_owned()
            }),
            (operation.clone(), 1..4_u32).prop_map(|(operation, attempt)| PaymentCommand::Fail {
                operation,
                attempt,
                reason: "provider_refused".to_owned(),
                provider_message: None
            }),
            (operation.clone(), 1..4_u32).prop_map(|(operation, attempt)| PaymentCommand::LoseCall {
                operation,
                attempt,
                class: LossClass::Timeout
            }),
            (operation, 1..4_u32).prop_map(|(operation, attempt)| PaymentCommand::AbandonCall {
                operation,
                attempt,
                resolution: Resolution::NotSent
            }),
            report,
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_asked_a_start_is_sent_again_only_if_the_last_one_was_never_sent(
            commands in proptest::collection::vec(any_command(), 0..60)
        ) {
            let mut payment = Payment::default();
            let mut log = Vec::new();
            let mut start_may_be_out = false;
            for command in commands {
                let Ok(events) = payment.decide(command) else { continue };
                for event in events {
                    match &event {
                        PaymentEvent::ProviderCallAttempted { operation: Operation::Start, .. } => {
                            prop_assert!(!start_may_be_out, "two starts: {log:?}");
                            start_may_be_out = true;
                        }
                        PaymentEvent::ProviderOutcomeResolved {
                            operation: Operation::Start,
                            resolution: Resolution::NotSent,
                            ..
                        } => start_may_be_out = false,
                        _ => {}
                    }
                    payment.apply(event.clone());
                    log.push(event);
                }
            }
            prop_assert_eq!(given(log.clone()), payment.clone());
            for event in log {
                let bytes = serde_json::to_vec(&event).unwrap();
                prop_assert_eq!(serde_json::from_slice::<PaymentEvent>(&bytes).unwrap(), event);
            }
            let state = serde_json::to_value(&payment).unwrap();
            prop_assert_eq!(serde_json::from_value::<Payment>(state).unwrap(), payment);
        }
    }
}
