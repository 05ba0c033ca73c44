use super::*;
use crate::report::{AuthorizationState, Confidence, ConsideredSafe, ReportedMove};

fn eur(minor: i64) -> Money {
    Money::new(minor, Currency::EUR)
}

fn paid(amount: Money) -> ReportedPayment {
    ReportedPayment {
        id: "pid1t".to_owned(),
        method: "IDEAL".to_owned(),
        state: AuthorizationState::Authorized,
        confidence: Some(Confidence::AcquirerApproved),
        amount,
        reason: None,
        captures: vec![],
        refunds: vec![],
        chargebacks: vec![],
    }
}

fn safe_report(payments: Vec<ReportedPayment>) -> ProviderReport {
    ProviderReport {
        reference: "A-1".to_owned(),
        ordered: eur(4995),
        considered_safe: Some(ConsideredSafe {
            level: "SAFE".to_owned(),
            at: None,
        }),
        payments,
    }
}

fn verdict(report: &ProviderReport) -> Verdict {
    judge(&Policy::default(), eur(4995), 1, report, |_| None)
}

fn reasons(report: &ProviderReport) -> Vec<NotSafe> {
    match verdict(report) {
        Verdict::Safe(evidence) => panic!("released on {evidence:?}"),
        Verdict::NotSafe(reasons) => reasons,
    }
}

#[test]
fn an_order_paid_in_full_and_considered_safe_is_safe_with_its_evidence() {
    let Verdict::Safe(evidence) = verdict(&safe_report(vec![paid(eur(4995))])) else {
        panic!("held")
    };
    assert_eq!(
        (
            evidence.counted,
            evidence.difference_minor,
            evidence.policy.as_str()
        ),
        (eur(4995), 0, "default/2")
    );
    assert_eq!(evidence.payments.len(), 1);
}

#[test]
fn ten_minor_units_either_way_pass_and_eleven_do_not() {
    for (difference, safe) in [
        (-11, false),
        (-10, true),
        (-1, true),
        (0, true),
        (1, true),
        (10, true),
        (11, false),
    ] {
        let verdict = verdict(&safe_report(vec![paid(eur(4995 + difference))]));
        assert_eq!(matches!(verdict, Verdict::Safe(_)), safe, "{difference}");
    }
}

#[test]
fn without_the_providers_word_nothing_is_safe() {
    let report = ProviderReport {
        considered_safe: None,
        ..safe_report(vec![paid(eur(4995))])
    };
    assert_eq!(reasons(&report), [NotSafe::ProviderDoesNotConsiderSafe]);
}

#[test]
fn a_level_that_the_shop_does_not_accept_or_we_do_not_know_is_not_safe() {
    for level in ["FAST", "FASTEST", "SAFER", "safe", ""] {
        let mut report = safe_report(vec![paid(eur(4995))]);
        report.considered_safe = Some(ConsideredSafe {
            level: level.to_owned(),
            at: None,
        });
        assert!(
            matches!(reasons(&report)[..], [NotSafe::LevelNotAccepted { .. }]),
            "{level}"
        );
    }
}

#[test]
fn the_recorded_order_of_50_usd_paid_with_42_eur_is_held() {
    let usd = Money::new(50, Currency::parse("USD").unwrap());
    let report = ProviderReport {
        ordered: usd,
        ..safe_report(vec![paid(eur(42))])
    };
    let verdict = judge(&Policy::default(), usd, 1, &report, |_| None);
    let Verdict::NotSafe(reasons) = verdict else {
        panic!("released")
    };
    assert!(reasons.contains(&NotSafe::OtherCurrency {
        found: eur(42),
        ordered: usd.currency
    }));
}

#[test]
fn paypal_is_released_under_either_of_its_words_and_not_while_it_is_under_review() {
    for word in ["PAYPAL", "PAYPAL_EXPRESS_CHECKOUT"] {
        let mut payment = paid(eur(4995));
        payment.method = word.to_owned();
        assert!(matches!(
            verdict(&safe_report(vec![payment.clone()])),
            Verdict::Safe(_)
        ));
        payment.confidence = Some(Confidence::AcquirerPending);
        assert_eq!(reasons(&safe_report(vec![payment])), [NotSafe::NothingPaid]);
    }
}

#[test]
fn safe_without_a_payment_is_held() {
    assert_eq!(reasons(&safe_report(vec![])), [NotSafe::NothingPaid]);
    let mut canceled = paid(eur(4995));
    canceled.state = AuthorizationState::Canceled;
    assert_eq!(reasons(&safe_report(vec![canceled])), [NotSafe::NothingPaid]);
}

#[test]
fn words_that_we_do_not_know_are_never_money() {
    let mut state = paid(eur(4995));
    state.state = AuthorizationState::from("AUTHORISED".to_owned());
    assert_eq!(reasons(&safe_report(vec![state])), [NotSafe::NothingPaid]);
    let mut confidence = paid(eur(4995));
    confidence.confidence = Some(Confidence::from("SURE".to_owned()));
    assert_eq!(reasons(&safe_report(vec![confidence])), [NotSafe::NothingPaid]);
    let mut method = paid(eur(4995));
    method.method = "WERO".to_owned();
    assert!(
        reasons(&safe_report(vec![method])).contains(&NotSafe::MethodHasNoRoute {
            method: "WERO".to_owned()
        })
    );
}

#[test]
fn payments_are_summed_whatever_their_order() {
    let parts = [paid(eur(2000)), paid(eur(2995))];
    assert!(matches!(verdict(&safe_report(parts.to_vec())), Verdict::Safe(_)));
    assert!(matches!(
        verdict(&safe_report(parts.iter().rev().cloned().collect())),
        Verdict::Safe(_)
    ));
}

#[test]
fn money_on_its_way_back_holds_the_goods() {
    let mut payment = paid(eur(4995));
    payment.refunds.push(ReportedMove {
        amount: eur(1000),
        state: "NEW".to_owned(),
    });
    assert_eq!(
        reasons(&safe_report(vec![payment])),
        [NotSafe::MoneyWentBack {
            refunded_or_charged_back: eur(1000)
        }]
    );
}

#[test]
fn amounts_that_do_not_fit_are_held_and_do_not_panic() {
    let report = safe_report(vec![paid(eur(i64::MAX)), paid(eur(i64::MAX))]);
    assert!(matches!(verdict(&report), Verdict::NotSafe(_)));
}
