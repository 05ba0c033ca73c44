use std::collections::BTreeMap;

use cqrs_es::{Aggregate as _, test::TestFramework};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{
    ids::{CommandId, OrderId, Shop, ShopperId},
    money::{Currency, Money},
    payment::{Attempt, Method, Payment, PaymentEvent},
    report::{AuthorizationState, Confidence, ConsideredSafe, ProviderReport, ReportedMove, ReportedPayment},
    safety::{NotSafe, Policy, explain::explain},
};

fn eur(minor: i64) -> Money {
    Money::new(minor, Currency::EUR)
}

fn minute(n: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + 60 * n).unwrap()
}

fn facts() -> OrderFacts {
    let shop = Shop::parse("demo-shop").unwrap();
    let order_id = OrderId::new(&shop, "A-1");
    OrderFacts {
        order_id,
        shop,
        order_reference: "A-1".to_owned(),
        description: "dog food".to_owned(),
        amount: eur(4995),
        country: "NL".to_owned(),
        language: "nl".to_owned(),
        shopper_id: ShopperId::new(order_id),
        return_url: "https://shop.example/return".to_owned(),
        expires_at: Some(minute(30)),
    }
}

fn payment_id(n: u32) -> PaymentId {
    PaymentId::new(
        facts().order_id,
        CommandId::from_key(&facts().shop, &n.to_string()),
    )
}

fn created() -> OrderEvent {
    OrderEvent::OrderCreated {
        facts: facts(),
        metadata: BTreeMap::new(),
    }
}

fn registered() -> OrderEvent {
    OrderEvent::ProviderOrderRegistered {
        provider: provider("KEY"),
    }
}

fn provider(key: &str) -> ProviderOrder {
    ProviderOrder {
        order_key: key.to_owned(),
        menu_url: "https://cm.example/menu".to_owned(),
        reference: "A-1".to_owned(),
        expires_at: None,
    }
}

fn opened(n: u32) -> OrderEvent {
    OrderEvent::AttemptOpened {
        payment_id: payment_id(n),
        method: Method::Ideal,
        number: n,
    }
}

fn closed(n: u32, closing: Closing) -> OrderEvent {
    OrderEvent::AttemptClosed {
        payment_id: payment_id(n),
        closing,
    }
}

fn open_attempt(n: u32) -> OrderCommand {
    OrderCommand::OpenAttempt {
        payment_id: payment_id(n),
        method: Method::Ideal,
    }
}

fn report(paid: &[i64], safe: bool) -> ProviderReport {
    ProviderReport {
        reference: "A-1".to_owned(),
        ordered: eur(4995),
        considered_safe: safe.then(|| ConsideredSafe {
            level: "SAFE".to_owned(),
            at: None,
        }),
        payments: paid
            .iter()
            .enumerate()
            .map(|(n, minor)| ReportedPayment {
                id: format!("pid{n}t"),
                method: "IDEAL".to_owned(),
                state: AuthorizationState::Authorized,
                confidence: Some(Confidence::AcquirerApproved),
                amount: eur(*minor),
                reason: None,
                captures: vec![],
                refunds: vec![],
                chargebacks: vec![],
            })
            .collect(),
    }
}

fn seen(read_no: i64, report: ProviderReport) -> OrderCommand {
    OrderCommand::ObserveReport(ReportSeen {
        read_no,
        read_at: minute(1),
        report,
        policy: Policy::default(),
        owners: BTreeMap::new(),
    })
}

fn given(events: impl IntoIterator<Item = OrderEvent>) -> Order {
    let mut order = Order::default();
    events.into_iter().for_each(|event| order.apply(event));
    order
}

fn names(events: &[OrderEvent]) -> Vec<String> {
    events.iter().map(cqrs_es::DomainEvent::event_type).collect()
}

#[test]
fn an_order_is_created_once_and_its_reference_is_taken_after_that() {
    let create = OrderCommand::Create {
        facts: facts(),
        metadata: BTreeMap::new(),
    };
    TestFramework::<Order>::with(())
        .given_no_previous_events()
        .when(create.clone())
        .then_expect_events(vec![created()]);
    TestFramework::<Order>::with(())
        .given(vec![created()])
        .when(create)
        .then_expect_error(OrderRejection::ReferenceTaken {
            order_id: facts().order_id,
        });
}

#[test]
fn a_second_attempt_waits_until_the_first_one_is_closed() {
    TestFramework::<Order>::with(())
        .given(vec![created(), opened(1)])
        .when(open_attempt(2))
        .then_expect_error(OrderRejection::AttemptLive {
            payment_id: payment_id(1),
        });
    TestFramework::<Order>::with(())
        .given(vec![created(), opened(1), closed(1, Closing::Canceled)])
        .when(open_attempt(2))
        .then_expect_events(vec![opened(2)]);
}

#[test]
fn a_paid_order_takes_no_further_attempt() {
    TestFramework::<Order>::with(())
        .given(vec![
            created(),
            OrderEvent::OrderPaid {
                ordered: eur(4995),
                paid: eur(4995),
                at: Some(minute(1)),
            },
        ])
        .when(open_attempt(1))
        .then_expect_error(OrderRejection::NotPayable {
            status: "paid",
            since: Some(minute(1)),
        });
}

#[test]
fn the_first_registered_provider_order_stays() {
    let order = given([created(), registered()]);
    assert_eq!(
        order
            .decide(OrderCommand::RegisterProviderOrder(provider("OTHER")))
            .unwrap(),
        []
    );
}

#[test]
fn p_18_an_order_that_shares_its_key_stops_once_and_is_not_released_when_it_is_paid() {
    let order = given([created(), registered()]);
    let stopped = order.decide(OrderCommand::StopForSharedKey).unwrap();
    assert_eq!(names(&stopped), ["AmountMismatchFound"]);
    let order = given([created(), registered()].into_iter().chain(stopped));
    assert_eq!(order.decide(OrderCommand::StopForSharedKey).unwrap(), []);
    let paid = order.decide(seen(1, report(&[4995], true))).unwrap();
    assert_eq!(names(&paid), ["ProviderReportObserved", "OrderPaid"]);
}

#[test]
fn a_report_of_full_payment_makes_the_order_paid_and_safe() {
    let events = given([created(), registered()])
        .decide(seen(1, report(&[4995], true)))
        .unwrap();
    assert_eq!(
        names(&events),
        ["ProviderReportObserved", "OrderPaid", "ConfidenceReachedSafe"]
    );
}

#[test]
fn eleven_cents_short_is_partly_paid_with_a_mismatch_and_never_safe() {
    let events = given([created(), registered()])
        .decide(seen(1, report(&[4984], true)))
        .unwrap();
    assert_eq!(
        names(&events),
        [
            "ProviderReportObserved",
            "OrderPartiallyPaid",
            "AmountMismatchFound"
        ]
    );
    let OrderEvent::ProviderReportObserved { not_safe, .. } = &events[0] else {
        panic!("{events:?}")
    };
    assert!(matches!(not_safe[..], [NotSafe::AmountOutsideTolerance { .. }]));
}

#[test]
fn too_much_is_paid_and_held() {
    let events = given([created(), registered()])
        .decide(seen(1, report(&[4995, 4995], true)))
        .unwrap();
    assert_eq!(
        names(&events),
        ["ProviderReportObserved", "OrderPaid", "AmountMismatchFound"]
    );
}

#[test]
fn the_same_safe_report_read_again_says_nothing_new() {
    let mut order = given([created(), registered()]);
    let first = order.decide(seen(1, report(&[4995], true))).unwrap();
    first.into_iter().for_each(|event| order.apply(event));
    for read_no in 2..1_000 {
        assert_eq!(order.decide(seen(read_no, report(&[4995], true))).unwrap(), []);
    }
}

#[test]
fn an_older_answer_never_undoes_a_newer_one() {
    let mut order = given([created(), registered()]);
    for event in order.decide(seen(7, report(&[4995], true))).unwrap() {
        order.apply(event);
    }
    assert_eq!(order.decide(seen(6, report(&[], false))).unwrap(), []);
    assert_eq!(order.decide(seen(7, report(&[], false))).unwrap(), []);
}

#[test]
fn an_answer_about_another_order_stops_this_one_and_changes_nothing_else() {
    let base = report(&[4995], true);
    let other_reference = ProviderReport {
        reference: "B-2".to_owned(),
        ..base.clone()
    };
    let other_amount = ProviderReport {
        ordered: eur(5000),
        ..base.clone()
    };
    let other_currency = ProviderReport {
        ordered: Money::new(4995, Currency::parse("USD").unwrap()),
        ..base.clone()
    };
    for (foreign, what) in [
        (other_reference, Mismatch::ReportedReference),
        (other_amount, Mismatch::ReportedAmount),
        (other_currency, Mismatch::ReportedCurrency),
    ] {
        let mut order = given([created(), registered()]);
        let events = order.decide(seen(1, foreign.clone())).unwrap();
        assert!(
            matches!(&events[..], [OrderEvent::AmountMismatchFound { what: found, .. }] if *found == what)
        );
        events.into_iter().for_each(|event| order.apply(event));
        assert_eq!(order.decide(seen(2, foreign)).unwrap(), [], "said once");
        let after = order.decide(seen(3, base.clone())).unwrap();
        assert!(
            !names(&after).contains(&"ConfidenceReachedSafe".to_owned()),
            "{after:?}"
        );
        assert_eq!(order.decide(open_attempt(1)), Err(OrderRejection::Stopped));
    }
}

#[test]
fn money_in_another_currency_is_not_counted_and_is_reported() {
    let mut foreign = report(&[42], true);
    foreign.payments[0].amount = Money::new(4995, Currency::parse("USD").unwrap());
    let events = given([created(), registered()]).decide(seen(1, foreign)).unwrap();
    assert_eq!(names(&events), ["ProviderReportObserved", "AmountMismatchFound"]);
}

#[test]
fn a_late_success_closes_a_canceled_attempt_again_and_nothing_else_does() {
    let order = given([created(), opened(1), closed(1, Closing::Canceled)]);
    let close = |closing| OrderCommand::CloseAttempt {
        payment_id: payment_id(1),
        closing,
    };
    assert_eq!(
        order.decide(close(Closing::Authorized)).unwrap(),
        [closed(1, Closing::Authorized)]
    );
    assert_eq!(order.decide(close(Closing::Expired)).unwrap(), []);
    let paid = given([created(), opened(1), closed(1, Closing::Authorized)]);
    assert_eq!(paid.decide(close(Closing::Failed)).unwrap(), []);
}

#[test]
fn a_payment_at_the_provider_stays_with_the_attempt_that_it_was_first_given_to() {
    let mut order = given([created(), registered(), opened(1)]);
    let menu = report(&[4995], false);
    let first = ReportSeen {
        read_no: 1,
        read_at: minute(1),
        report: menu.clone(),
        policy: Policy::default(),
        owners: BTreeMap::from([("pid0t".to_owned(), payment_id(1))]),
    };
    for event in order.decide(OrderCommand::ObserveReport(first)).unwrap() {
        order.apply(event);
    }
    for event in [closed(1, Closing::Canceled), opened(2)] {
        order.apply(event);
    }
    let opened = order.opened().unwrap();
    assert_eq!(owner(opened, [], &menu.payments[0]), Some(payment_id(1)));
    let mut fresh = menu.payments[0].clone();
    fresh.id = "pid7t".to_owned();
    assert_eq!(owner(opened, [], &fresh), Some(payment_id(2)));
}

fn cancel(at: i64) -> OrderCommand {
    OrderCommand::Cancel {
        at: minute(at),
        reason: Some("out of stock".to_owned()),
    }
}

fn expire(at: i64) -> OrderCommand {
    OrderCommand::Expire { at: minute(at) }
}

fn canceled(at: i64) -> OrderEvent {
    OrderEvent::OrderCanceled {
        at: minute(at),
        reason: Some("out of stock".to_owned()),
    }
}

fn expired(at: i64) -> OrderEvent {
    OrderEvent::OrderExpired { at: minute(at) }
}

/// The order after these, each decided on what came before.
fn after(order: &Order, commands: impl IntoIterator<Item = OrderCommand>) -> Order {
    commands.into_iter().fold(order.clone(), |mut order, command| {
        for event in order.decide(command).unwrap() {
            order.apply(event);
        }
        order
    })
}

fn safe_order() -> Order {
    after(
        &given([created(), registered()]),
        [seen(1, report(&[4995], true))],
    )
}

fn charged_back(minor: i64) -> ProviderReport {
    let mut made = report(&[4995], true);
    made.payments[0].chargebacks.push(ReportedMove {
        amount: eur(minor),
        state: "CHARGED".to_owned(),
    });
    made
}

#[test]
fn a_shop_may_cancel_while_nothing_is_paid_and_a_repeat_says_nothing_new() {
    for before in [
        vec![created()],
        vec![created(), registered(), opened(1)],
        vec![created(), registered(), opened(1), closed(1, Closing::Failed)],
    ] {
        let order = given(before);
        assert_eq!(order.decide(cancel(2)).unwrap(), [canceled(2)]);
        let order = after(&order, [cancel(2)]);
        assert_eq!(order.decide(cancel(3)).unwrap(), []);
        assert_eq!(order.opened().unwrap().status(), "canceled");
    }
}

#[test]
fn what_is_paid_wholly_or_in_part_cannot_be_canceled() {
    assert_eq!(
        safe_order().decide(cancel(2)),
        Err(OrderRejection::NotPayable {
            status: "paid",
            since: Some(minute(1)),
        })
    );
    let partly = after(
        &given([created(), registered()]),
        [seen(1, report(&[1000], false))],
    );
    assert_eq!(
        partly.decide(cancel(2)),
        Err(OrderRejection::NotPayable {
            status: "partially_paid",
            since: None,
        })
    );
}

#[test]
fn a_canceled_or_expired_order_takes_no_further_attempt_and_says_since_when() {
    for (end, status, at) in [(canceled(2), "canceled", 2), (expired(31), "expired", 31)] {
        let order = given([created(), end]);
        let rejection = order.decide(open_attempt(1)).unwrap_err();
        assert_eq!(
            rejection,
            OrderRejection::NotPayable {
                status,
                since: Some(minute(at)),
            }
        );
        assert_eq!(
            rejection.to_string(),
            format!("the order is {status} since {}", minute(at))
        );
    }
}

#[test]
fn money_that_arrives_after_a_cancel_is_recorded_and_never_safe_and_so_never_lost() {
    let order = given([created(), registered(), opened(1), canceled(2)]);
    let events = order.decide(seen(1, report(&[4995], true))).unwrap();
    assert_eq!(names(&events), ["ProviderReportObserved", "OrderPaid"]);
    let OrderEvent::ProviderReportObserved { not_safe, .. } = &events[0] else {
        panic!("{events:?}")
    };
    assert_eq!(not_safe[..], [NotSafe::OrderCanceled]);
    let order = after(&order, [seen(1, report(&[4995], true))]);
    let opened = order.opened().unwrap();
    assert_eq!((opened.status(), opened.remaining()), ("paid", eur(0)));
    let back = order.decide(seen(2, charged_back(4995))).unwrap();
    assert_eq!(names(&back), ["ProviderReportObserved"]);
}

#[test]
fn an_order_expires_when_its_time_is_over_and_nothing_can_bring_money() {
    let order = given([created(), registered(), opened(1), closed(1, Closing::Canceled)]);
    assert_eq!(order.decide(expire(29)).unwrap(), [], "too early");
    assert_eq!(order.decide(expire(31)).unwrap(), [expired(31)]);
    let order = after(&order, [expire(31)]);
    assert_eq!(order.decide(expire(32)).unwrap(), [], "once");
    assert_eq!(order.opened().unwrap().status(), "expired");
}

#[test]
fn an_order_does_not_expire_while_an_attempt_may_bring_money() {
    let live = || {
        Err(OrderRejection::AttemptLive {
            payment_id: payment_id(1),
        })
    };
    let open = given([created(), registered(), opened(1)]);
    assert_eq!(open.decide(expire(31)), live());
    // Authorized with a promise only: the money is on its way, or not.
    let promised = given([created(), registered(), opened(1), closed(1, Closing::Authorized)]);
    assert_eq!(promised.decide(expire(31)), live());
    assert_eq!(promised.decide(open_attempt(2)), live());
    assert_eq!(promised.opened().unwrap().status(), "pending");
}

/// One payment, `AUTHORIZED` and not vouched for yet: PayPal has it under review.
fn under_review() -> ProviderReport {
    let mut made = report(&[4995], false);
    made.payments[0].confidence = Some(Confidence::AcquirerPending);
    made
}

#[test]
fn what_is_under_way_at_the_provider_keeps_a_closed_attempt_from_being_followed_by_another() {
    let ended = given([created(), registered(), opened(1), closed(1, Closing::Canceled)]);
    let with = |word: &str| {
        let mut shown = report(&[4995], false);
        shown.payments[0].state = AuthorizationState::from(word.to_owned());
        shown
    };
    let mut unvouched = report(&[4995], false);
    unvouched.payments[0].confidence = None;
    for shown in [
        under_review(),
        with("AUTHORIZATION_REQUESTED"),
        with("CANCEL_FAILED"),
        with("A_NEW_WORD"),
        unvouched,
    ] {
        let live = || {
            Err(OrderRejection::AttemptLive {
                payment_id: payment_id(1),
            })
        };
        let order = after(&ended, [seen(1, shown.clone())]);
        assert_eq!(order.decide(open_attempt(2)), live(), "{shown:?}");
        assert_eq!(order.decide(expire(31)), live(), "{shown:?}");
        assert_eq!(order.opened().unwrap().status(), "pending");
        // The provider has made up its mind.
        let refused = after(&order, [seen(2, with("CANCELED"))]);
        assert_eq!(refused.opened().unwrap().status(), "open");
        assert_eq!(refused.decide(open_attempt(2)).unwrap(), [opened(2)]);
        assert_eq!(refused.decide(expire(31)).unwrap(), [expired(31)]);
        let paid = order.decide(seen(2, report(&[4995], true))).unwrap();
        assert!(names(&paid).contains(&"ConfidenceReachedSafe".to_owned()));
    }
    // What is with the shopper is in nobody's hands but theirs.
    let order = after(&ended, [seen(1, with("REDIRECTED_FOR_AUTHORIZATION"))]);
    assert_eq!(order.decide(open_attempt(2)).unwrap(), [opened(2)]);
}

#[test]
fn a_part_that_is_paid_beside_one_under_review_is_not_followed_by_a_third() {
    let ended = given([created(), registered(), opened(1), closed(1, Closing::Authorized)]);
    let mut shown = report(&[2000, 2995], false);
    shown.payments[1].confidence = Some(Confidence::AcquirerPending);
    let order = after(&ended, [seen(1, shown)]);
    assert_eq!(order.opened().unwrap().status(), "partially_paid");
    assert!(matches!(
        order.decide(open_attempt(2)),
        Err(OrderRejection::AttemptLive { .. })
    ));
}

fn redirected_payment() -> Payment {
    let mut payment = Payment::default();
    for event in [
        PaymentEvent::PaymentStarted {
            attempt: Attempt {
                payment_id: payment_id(1),
                order_id: facts().order_id,
                shop: facts().shop,
                method: Method::Paypal,
                amount: eur(4995),
                issuer: None,
                number: 1,
            },
            expires_at: minute(30),
        },
        PaymentEvent::PaymentRedirected {
            provider_payment_id: "pid0t".to_owned(),
            url: "https://paypal.example".to_owned(),
        },
    ] {
        payment.apply(event);
    }
    payment
}

#[test]
fn a_shopper_whose_payment_is_under_way_waits_and_one_who_is_still_to_pay_is_sent_there() {
    let payment = redirected_payment();
    let next = |order: &Order| next_action(order.opened().unwrap(), &payment);
    let there = NextAction::Redirect {
        url: "https://paypal.example".to_owned(),
    };
    let order = given([created(), registered(), opened(1)]);
    assert_eq!(next(&order), there);
    let mut shown = under_review();
    shown.payments[0].state = AuthorizationState::from("REDIRECTED_FOR_AUTHORIZATION".to_owned());
    assert_eq!(next(&after(&order, [seen(1, shown)])), there);
    let reviewed = after(&order, [seen(1, under_review())]);
    assert_eq!(next(&reviewed), NextAction::Wait);
    let mut ended = payment.clone();
    ended.apply(PaymentEvent::PaymentCanceled { reason: None });
    let closed_before = after(
        &given([created(), registered(), opened(1), closed(1, Closing::Canceled)]),
        [seen(1, under_review())],
    );
    assert_eq!(
        next_action(closed_before.opened().unwrap(), &ended),
        NextAction::Wait
    );
    let told = explain(reviewed.opened().unwrap(), Some(&payment), None).sentence;
    assert!(
        told.contains("Its paypal payment is under way at CM and not decided yet."),
        "{told}"
    );
}

#[test]
fn a_paid_or_canceled_order_does_not_expire_and_a_stopped_one_waits_for_a_person() {
    let registered_order = given([created(), registered()]);
    for settled in [
        safe_order(),
        after(&registered_order, [seen(1, report(&[1000], true))]),
        given([created(), canceled(2)]),
    ] {
        assert_eq!(settled.decide(expire(31)).unwrap(), []);
    }
    let mut foreign = report(&[], false);
    foreign.reference = "B-2".to_owned();
    let stopped = after(&registered_order, [seen(1, foreign)]);
    assert_eq!(stopped.decide(expire(31)), Err(OrderRejection::Stopped));
}

#[test]
fn a_late_success_makes_an_expired_order_paid_and_safe_unless_the_shop_has_canceled_it() {
    let order = given([
        created(),
        registered(),
        opened(1),
        closed(1, Closing::Expired),
        expired(31),
    ]);
    let events = order.decide(seen(1, report(&[4995], true))).unwrap();
    assert_eq!(
        names(&events),
        ["ProviderReportObserved", "OrderPaid", "ConfidenceReachedSafe"]
    );
    let order = after(&order, [cancel(32)]);
    let events = order.decide(seen(1, report(&[4995], true))).unwrap();
    assert_eq!(names(&events), ["ProviderReportObserved", "OrderPaid"]);
}

#[test]
fn a_late_success_of_a_closed_attempt_counts_beside_a_second_attempt() {
    let order = given([
        created(),
        registered(),
        opened(1),
        closed(1, Closing::Expired),
        opened(2),
    ]);
    let mut both = report(&[4995, 4995], true);
    both.payments[1].state = AuthorizationState::WithShopper("STARTED".to_owned());
    let late = ReportSeen {
        read_no: 1,
        read_at: minute(1),
        report: both,
        policy: Policy::default(),
        owners: BTreeMap::from([
            ("pid0t".to_owned(), payment_id(1)),
            ("pid1t".to_owned(), payment_id(2)),
        ]),
    };
    let events = order.decide(OrderCommand::ObserveReport(late)).unwrap();
    let [
        _,
        OrderEvent::OrderPaid { .. },
        OrderEvent::ConfidenceReachedSafe { evidence, .. },
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(evidence.payments[0].payment_id, Some(payment_id(1)));
}

#[test]
fn a_chargeback_takes_the_safety_back_once_and_a_recovery_opens_the_next_epoch() {
    let order = safe_order();
    let lost = order.decide(seen(2, charged_back(4995))).unwrap();
    let [
        _,
        OrderEvent::SafetyLost {
            epoch: 1, reasons, ..
        },
    ] = &lost[..]
    else {
        panic!("{lost:?}")
    };
    assert_eq!(
        reasons[..],
        [NotSafe::MoneyWentBack {
            refunded_or_charged_back: eur(4995)
        }]
    );
    let order = after(&order, [seen(2, charged_back(4995))]);
    assert_eq!(order.opened().unwrap().safety, Safety::Lost { epoch: 1 });
    assert_eq!(
        order.decide(seen(3, charged_back(4995))).unwrap(),
        [],
        "said once"
    );
    let again = order.decide(seen(4, report(&[4995], true))).unwrap();
    assert!(
        matches!(again[..], [_, OrderEvent::ConfidenceReachedSafe { epoch: 2, .. }]),
        "{again:?}"
    );
}

#[test]
fn whatever_comes_after_a_stop_is_judged_for_loss_and_never_for_release() {
    let mut foreign = report(&[], false);
    foreign.reference = "B-2".to_owned();
    let stopped = after(&safe_order(), [seen(2, foreign)]);
    let lost = stopped.decide(seen(3, charged_back(4995))).unwrap();
    let [
        OrderEvent::ProviderReportObserved { not_safe, .. },
        OrderEvent::SafetyLost {
            epoch: 1, reasons, ..
        },
    ] = &lost[..]
    else {
        panic!("{lost:?}")
    };
    assert!(
        matches!(
            reasons[..],
            [NotSafe::OrderStopped, NotSafe::MoneyWentBack { .. }]
        ),
        "{reasons:?}"
    );
    assert_eq!(not_safe, reasons);
    let stays = stopped.decide(seen(3, report(&[4995], true))).unwrap();
    assert_eq!(stays, [], "the stop alone calls no goods back");
    let after_loss = after(&stopped, [seen(3, charged_back(4995))]);
    let again = after_loss.decide(seen(4, report(&[4995], true))).unwrap();
    assert_eq!(names(&again), ["ProviderReportObserved"]);
}

/// What made the order safe, in words that we do not know.
fn in_unknown_words() -> [ProviderReport; 4] {
    let word = |change: fn(&mut ReportedPayment)| {
        let mut made = report(&[4995], true);
        change(&mut made.payments[0]);
        made
    };
    [
        word(|p| p.state = AuthorizationState::from("AUTHORIZED_V2".to_owned())),
        word(|p| p.method = "IDEAL_WERO".to_owned()),
        word(|p| p.confidence = Some(Confidence::from("BANK_APPROVED".to_owned()))),
        word(|p| p.confidence = None),
    ]
}

#[test]
fn a_word_that_we_do_not_know_neither_makes_an_order_safe_nor_takes_its_safety() {
    for shown in in_unknown_words() {
        let unreleased = given([created(), registered()]);
        let events = unreleased.decide(seen(1, shown.clone())).unwrap();
        assert!(
            !names(&events).contains(&"ConfidenceReachedSafe".to_owned()),
            "{shown:?}"
        );
        let order = after(&safe_order(), [seen(2, shown.clone())]);
        assert_eq!(
            order.opened().unwrap().safety,
            Safety::Safe { epoch: 1 },
            "{shown:?}"
        );
        // A word that we know, or money that goes back beside the unknown one, is a verdict.
        let mut reversed = shown.clone();
        reversed.payments[0].state = AuthorizationState::Canceled;
        let mut back = shown.clone();
        back.payments[0].chargebacks = charged_back(4995).payments[0].chargebacks.clone();
        let mut withdrawn = shown;
        withdrawn.considered_safe = None;
        for decided in [reversed, back, withdrawn] {
            let events = order.decide(seen(3, decided.clone())).unwrap();
            assert!(
                names(&events).contains(&"SafetyLost".to_owned()),
                "{decided:?}: {events:?}"
            );
        }
    }
}

#[test]
fn an_unknown_word_of_another_payment_does_not_stand_in_for_the_money_that_is_gone() {
    let mut shown = report(&[4995, 4995], true);
    shown.payments[0].state = AuthorizationState::Canceled;
    shown.payments[1].state = AuthorizationState::from("AUTHORIZED_V2".to_owned());
    let events = safe_order().decide(seen(2, shown)).unwrap();
    assert!(names(&events).contains(&"SafetyLost".to_owned()), "{events:?}");
}

#[test]
fn a_reversed_authorization_or_a_word_that_is_taken_back_loses_the_safety() {
    let mut reversed = report(&[4995], true);
    reversed.payments[0].state = AuthorizationState::Canceled;
    let mut fast = report(&[4995], true);
    fast.considered_safe = Some(ConsideredSafe {
        level: "FAST".to_owned(),
        at: None,
    });
    for (what, shown) in [
        ("reversed", reversed),
        ("withdrawn", report(&[4995], false)),
        ("another level", fast),
        ("gone", report(&[], true)),
        ("short", report(&[4984], true)),
        ("partly back", charged_back(11)),
    ] {
        let events = safe_order().decide(seen(2, shown)).unwrap();
        assert!(
            names(&events).contains(&"SafetyLost".to_owned()),
            "{what}: {events:?}"
        );
    }
}

#[test]
fn what_comes_on_top_or_is_about_another_order_calls_no_goods_back() {
    let mut odd_method = report(&[4995, 100], true);
    odd_method.payments[1].method = "MYSTERY".to_owned();
    let mut foreign = report(&[], false);
    foreign.reference = "B-2".to_owned();
    for (what, shown) in [
        ("paid twice", report(&[4995, 4995], true)),
        ("a method without a route beside it", odd_method),
        ("within the tolerance", charged_back(10)),
        ("about another order", foreign),
    ] {
        let events = safe_order().decide(seen(2, shown)).unwrap();
        assert!(
            !names(&events).contains(&"SafetyLost".to_owned()),
            "{what}: {events:?}"
        );
    }
}

#[test]
fn what_is_missing_is_told_in_sentences_with_its_numbers() {
    let told = |order: &Order| explain(order.opened().unwrap(), None, None);
    let fresh = told(&given([created()]));
    assert_eq!(
        fresh.sentence,
        "Not safe to ship. The order of € 49.95 is open. No payment was started."
    );
    let unread = told(&given([created(), registered(), opened(1)]));
    assert_eq!(unread.missing[0].code, "nothing_reported");
    let short = told(&after(
        &given([created(), registered()]),
        [seen(1, report(&[4984], false))],
    ));
    assert_eq!(
        short.sentence,
        "Not safe to ship. The order of € 49.95 is partially paid. CM has not yet called it considered safe. \
         € 49.84 is counted of € 49.95; the tolerance is € 0.10."
    );
    assert_eq!(short.missing[1].details["counted"]["value"], 4984);
    let canceled = told(&given([created(), canceled(2)]));
    assert_eq!(canceled.missing[0].code, "order_canceled");
    assert!(
        canceled
            .sentence
            .contains(&format!("canceled the order at {}", minute(2)))
    );
    let safe = told(&safe_order());
    assert_eq!((safe.sentence.as_str(), safe.missing.len()), ("Safe to ship.", 0));
    let lost = told(&after(&safe_order(), [seen(2, charged_back(4995))]));
    assert!(
        lost.sentence
            .starts_with("Not safe any more: hold what has not left."),
        "{}",
        lost.sentence
    );
    assert!(lost.sentence.ends_with("€ 49.95 was refunded or charged back."));
}

#[test]
fn every_reason_is_told_by_the_word_that_it_is_stored_under() {
    for reason in [
        NotSafe::OrderCanceled,
        NotSafe::NothingReported,
        NotSafe::MoneyWentBack {
            refunded_or_charged_back: eur(1),
        },
        NotSafe::MethodHasNoRoute {
            method: "X".to_owned(),
        },
    ] {
        let stored = serde_json::to_value(&reason).unwrap();
        assert_eq!(stored["reason"], reason.code());
    }
}

fn any_report() -> impl Strategy<Value = ProviderReport> {
    let amount = prop_oneof![Just(4995_i64), Just(4984), Just(5006), Just(2500), 0..10_000_i64];
    let word = prop_oneof![
        Just("AUTHORIZED"),
        Just("CANCELED"),
        Just("NEW"),
        Just("AUTHORIZATION_FAILED"),
        Just("ODD")
    ];
    let payment = (amount, word).prop_map(|(minor, word)| (minor, word.to_owned()));
    (
        proptest::collection::vec(payment, 0..3),
        any::<bool>(),
        prop_oneof![9 => Just("A-1"), 1 => Just("B-2")],
    )
        .prop_map(|(payments, safe, reference)| {
            let mut made = report(&payments.iter().map(|p| p.0).collect::<Vec<_>>(), safe);
            for (shown, (_, word)) in made.payments.iter_mut().zip(payments) {
                shown.state = AuthorizationState::from(word);
            }
            made.reference = reference.to_owned();
            made
        })
}

fn any_command() -> impl Strategy<Value = OrderCommand> {
    prop_oneof![
        Just(OrderCommand::Create {
            facts: facts(),
            metadata: BTreeMap::new()
        }),
        (1..4_u32).prop_map(open_attempt),
        (1..4_u32, 0..4_usize).prop_map(|(n, c)| OrderCommand::CloseAttempt {
            payment_id: payment_id(n),
            closing: [
                Closing::Authorized,
                Closing::Failed,
                Closing::Canceled,
                Closing::Expired
            ][c],
        }),
        Just(OrderCommand::RegisterProviderOrder(provider("KEY"))),
        (1..30_i64, any_report()).prop_map(|(read_no, report)| seen(read_no, report)),
        (0..60_i64).prop_map(expire),
        Just(cancel(2)),
    ]
}

proptest! {
    #[test]
    fn whatever_is_asked_the_order_stays_lawful(commands in proptest::collection::vec(any_command(), 0..40)) {
        let mut order = Order::default();
        let mut log = Vec::new();
        for command in commands {
            let Ok(events) = order.decide(command.clone()) else { continue };
            for event in events {
                if let OrderEvent::ConfidenceReachedSafe { evidence, ordered, .. } = &event {
                    prop_assert!(evidence.difference_minor.abs() <= evidence.tolerance_minor);
                    prop_assert_eq!(evidence.counted.currency, ordered.currency);
                    prop_assert!(order.opened().is_some_and(|o| o.stopped.is_none()));
                }
                order.apply(event.clone());
                log.push(event);
            }
            // A second delivery of the same command says nothing new.
            if let Ok(again) = order.decide(command.clone()) {
                prop_assert!(again.is_empty(), "{command:?} → {again:?}");
            }
            if let Some(opened) = order.opened() {
                prop_assert!(opened.attempts.iter().filter(|a| a.closing.is_none()).count() <= 1);
            }
        }
        // Safe, lost, safe again under the next number: never twice the same, never out of turn.
        let turns: Vec<_> = log.iter().filter(|event| event.epoch().is_some()).collect();
        for (n, event) in turns.iter().enumerate() {
            let epoch = u32::try_from(n / 2).unwrap() + 1;
            prop_assert_eq!(event.epoch(), Some(epoch));
            prop_assert_eq!(matches!(event, OrderEvent::SafetyLost { .. }), n % 2 == 1);
        }
        let canceled = log.iter().position(|event| matches!(event, OrderEvent::OrderCanceled { .. }));
        if let Some(canceled) = canceled {
            prop_assert!(log[canceled..].iter().all(|event| event.epoch().is_none()), "safe or lost after a cancel");
        }
        let ends = log.iter().filter(|event| matches!(event, OrderEvent::OrderExpired { .. })).count();
        prop_assert!(ends <= 1);
        prop_assert_eq!(given(log.clone()), order.clone());
        // What is stored reads back as what was decided.
        for event in log {
            let bytes = serde_json::to_vec(&event).unwrap();
            prop_assert_eq!(serde_json::from_slice::<OrderEvent>(&bytes).unwrap(), event);
        }
        let state = serde_json::to_value(&order).unwrap();
        prop_assert_eq!(serde_json::from_value::<Order>(state).unwrap(), order);
    }
}
