//! Is this order safe to ship? A policy, which is data, and a provider's report go in; a verdict with its evidence
//! comes out. The provider's "considered safe" is necessary and not sufficient: recordings show an order of 50 USD, paid
//! with 42 EUR, considered safe.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    ids::PaymentId,
    money::{Currency, Money},
    report::{AuthorizationState, ProviderReport, ReportedPayment},
};

pub mod explain;
#[cfg(test)]
mod tests;

/// What a shop accepts as safe. Every verdict names the `version` that judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub version: String,
    /// The provider's levels that this shop accepts, compared for equality: their ranking is not published.
    pub levels: Vec<String>,
    /// Minor units by which the counted amount may differ from the ordered one, either way. At least 0.
    pub tolerance_minor: i64,
    /// Whether more than the tolerance above the ordered amount may still be released.
    pub overpayment_passes: bool,
    /// Which amount counts for which of the provider's methods. A method without a route is never released.
    pub routes: Vec<MethodRoute>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodRoute {
    /// The provider's word, such as `IDEAL`.
    pub method: String,
    pub route: Route,
}

/// The amount that must have arrived before goods may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// Authorized with the acquirer's guarantee.
    Approved,
    /// Collected.
    Captured,
}

impl Default for Policy {
    /// The levels that CM's own plugin and manuals treat as paid, and the seed shop's ten cents.
    fn default() -> Self {
        Self {
            version: "default/2".to_owned(),
            levels: vec!["SAFE".to_owned(), "SAFEST".to_owned()],
            tolerance_minor: 10,
            overpayment_passes: false,
            // PayPal goes by one word when it is started and, by some accounts, by another in reports.
            routes: ["IDEAL", "PAYPAL", "PAYPAL_EXPRESS_CHECKOUT"]
                .map(|method| MethodRoute {
                    method: method.to_owned(),
                    route: Route::Approved,
                })
                .to_vec(),
        }
    }
}

impl Policy {
    fn route(&self, method: &str) -> Option<Route> {
        self.routes.iter().find(|r| r.method == method).map(|r| r.route)
    }
}

/// Everything that made an order safe, kept in the fact itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub level: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub considered_safe_at: Option<Timestamp>,
    /// The strictest route among the counted payments.
    pub route: Route,
    /// What was counted, by each payment's route.
    pub counted: Money,
    pub tolerance_minor: i64,
    /// Counted less ordered.
    pub difference_minor: i64,
    pub payments: Vec<CountedPayment>,
    /// The number of the read whose report was judged.
    pub read_no: i64,
    /// The version of the policy that judged.
    pub policy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountedPayment {
    /// Ours, when the provider's payment belongs to an attempt of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
    pub provider_payment_id: String,
    pub method: String,
    pub amount: Money,
    pub state: String,
}

/// Why an order is not safe, in the order in which it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum NotSafe {
    /// Something in an answer was not ours; a person must look.
    OrderStopped,
    /// The shop gave the order up: whatever was paid is to go back.
    OrderCanceled,
    NothingReported,
    ProviderDoesNotConsiderSafe,
    LevelNotAccepted {
        level: String,
        accepted: Vec<String>,
    },
    NothingPaid,
    MethodHasNoRoute {
        method: String,
    },
    OtherCurrency {
        found: Money,
        ordered: Currency,
    },
    AmountOutsideTolerance {
        counted: Money,
        ordered: Money,
        tolerance_minor: i64,
    },
    MoneyWentBack {
        refunded_or_charged_back: Money,
    },
}

impl NotSafe {
    /// Its stable word, as it is stored and told.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OrderStopped => "order_stopped",
            Self::OrderCanceled => "order_canceled",
            Self::NothingReported => "nothing_reported",
            Self::ProviderDoesNotConsiderSafe => "provider_does_not_consider_safe",
            Self::LevelNotAccepted { .. } => "level_not_accepted",
            Self::NothingPaid => "nothing_paid",
            Self::MethodHasNoRoute { .. } => "method_has_no_route",
            Self::OtherCurrency { .. } => "other_currency",
            Self::AmountOutsideTolerance { .. } => "amount_outside_tolerance",
            Self::MoneyWentBack { .. } => "money_went_back",
        }
    }
}

/// The answer for one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Safe(Box<Evidence>),
    NotSafe(Vec<NotSafe>),
}

impl Verdict {
    /// Not safe for this first of all, whatever else there is.
    pub(crate) fn held(self, reason: NotSafe) -> Self {
        let mut reasons = vec![reason];
        match self {
            Self::Safe(_) => {}
            Self::NotSafe(others) => reasons.extend(others),
        }
        Self::NotSafe(reasons)
    }
}

/// Judges a whole report: all payments, never "the last one".
///
/// `owner` tells which of our payments a provider's payment belongs to.
pub fn judge(
    policy: &Policy,
    ordered: Money,
    read_no: i64,
    report: &ProviderReport,
    owner: impl Fn(&ReportedPayment) -> Option<PaymentId>,
) -> Verdict {
    let mut reasons = Vec::new();
    match &report.considered_safe {
        None => reasons.push(NotSafe::ProviderDoesNotConsiderSafe),
        Some(safe) if !policy.levels.contains(&safe.level) => reasons.push(NotSafe::LevelNotAccepted {
            level: safe.level.clone(),
            accepted: policy.levels.clone(),
        }),
        Some(_) => {}
    }

    let Tally {
        counted,
        returned,
        payments,
        strictest,
        odd,
    } = tally(policy, ordered, report, owner);
    reasons.extend(odd);

    // An order of a few cents is within the tolerance of nothing.
    if payments.is_empty() || counted.minor <= 0 {
        reasons.push(NotSafe::NothingPaid);
    } else {
        let kept = counted.minus(returned).unwrap_or(Money::new(0, ordered.currency));
        if returned.minor > 0 && below(kept, ordered, policy.tolerance_minor) {
            reasons.push(NotSafe::MoneyWentBack {
                refunded_or_charged_back: returned,
            });
        }
        let short = below(counted, ordered, policy.tolerance_minor);
        let over = below(ordered, counted, policy.tolerance_minor) && !policy.overpayment_passes;
        if short || over {
            reasons.push(NotSafe::AmountOutsideTolerance {
                counted,
                ordered,
                tolerance_minor: policy.tolerance_minor,
            });
        }
    }

    match (&report.considered_safe, reasons.is_empty()) {
        (Some(safe), true) => Verdict::Safe(Box::new(Evidence {
            level: safe.level.clone(),
            considered_safe_at: safe.at,
            route: strictest,
            counted,
            tolerance_minor: policy.tolerance_minor,
            difference_minor: counted.minor.saturating_sub(ordered.minor),
            payments,
            read_no,
            policy: policy.version.clone(),
        })),
        _ => Verdict::NotSafe(reasons),
    }
}

/// What a report shows of the money: each payment by its own route.
struct Tally {
    counted: Money,
    /// Refunded or charged back.
    returned: Money,
    payments: Vec<CountedPayment>,
    /// The strictest route among the counted payments.
    strictest: Route,
    /// What could not be counted.
    odd: Vec<NotSafe>,
}

fn tally(
    policy: &Policy,
    ordered: Money,
    report: &ProviderReport,
    owner: impl Fn(&ReportedPayment) -> Option<PaymentId>,
) -> Tally {
    let mut odd = Vec::new();
    let mut counted = Money::new(0, ordered.currency);
    let mut returned = Money::new(0, ordered.currency);
    let mut payments = Vec::new();
    let mut strictest = Route::Approved;
    for payment in &report.payments {
        for back in payment.refunds.iter().chain(&payment.chargebacks) {
            // Requested counts as gone: goods must not leave while money is on its way back.
            match returned.plus(back.amount) {
                Ok(sum) => returned = sum,
                Err(_) => {
                    odd.push(NotSafe::OtherCurrency {
                        found: back.amount,
                        ordered: ordered.currency,
                    });
                }
            }
        }
        if !payment.is_authorized() {
            continue;
        }
        let Some(route) = policy.route(&payment.method) else {
            odd.push(NotSafe::MethodHasNoRoute {
                method: payment.method.clone(),
            });
            continue;
        };
        let amounts: Vec<Money> = match route {
            Route::Approved => payment
                .is_approved()
                .then_some(payment.amount)
                .into_iter()
                .collect(),
            Route::Captured => payment
                .captures
                .iter()
                .filter(|c| c.state == "CAPTURED")
                .map(|c| c.amount)
                .collect(),
        };
        for amount in amounts {
            match counted.plus(amount) {
                Ok(sum) => counted = sum,
                Err(_) => odd.push(NotSafe::OtherCurrency {
                    found: amount,
                    ordered: ordered.currency,
                }),
            }
            if route == Route::Captured {
                strictest = Route::Captured;
            }
            payments.push(CountedPayment {
                payment_id: owner(payment),
                provider_payment_id: payment.id.clone(),
                method: payment.method.clone(),
                amount,
                state: payment.state.clone().into(),
            });
        }
    }

    Tally {
        counted,
        returned,
        payments,
        strictest,
        odd,
    }
}

/// Whether these reasons take away a safety that was reached with `released`, the money of each of the provider's payments:
/// money went back or is not there any more, or the provider took its word back. What comes on top of money that stays, such as
/// a second payment, does not call goods back; nor does an answer that is about another order, nor a word that we do not know.
pub fn is_lost(
    reasons: &[NotSafe],
    policy: &Policy,
    ordered: Money,
    report: &ProviderReport,
    released: &BTreeMap<String, Money>,
) -> bool {
    reasons.iter().any(|reason| match reason {
        NotSafe::ProviderDoesNotConsiderSafe
        | NotSafe::LevelNotAccepted { .. }
        | NotSafe::OtherCurrency { .. } => true,
        NotSafe::NothingPaid | NotSafe::MoneyWentBack { .. } | NotSafe::AmountOutsideTolerance { .. } => {
            is_short(policy, ordered, report, released)
        }
        NotSafe::OrderStopped
        | NotSafe::OrderCanceled
        | NotSafe::NothingReported
        | NotSafe::MethodHasNoRoute { .. } => false,
    })
}

/// Whether the money is not there, even if all of `released` that is told of in unknown words still is.
fn is_short(
    policy: &Policy,
    ordered: Money,
    report: &ProviderReport,
    released: &BTreeMap<String, Money>,
) -> bool {
    let Tally {
        counted, returned, ..
    } = tally(policy, ordered, report, |_| None);
    let in_doubt = report
        .payments
        .iter()
        .filter(|payment| is_unclear(policy, payment))
        .filter_map(|payment| released.get(&payment.id));
    let there = in_doubt
        .fold(counted.minor, |sum, money| sum.saturating_add(money.minor))
        .saturating_sub(returned.minor);
    there <= 0
        || below(
            Money::new(there, ordered.currency),
            ordered,
            policy.tolerance_minor,
        )
}

/// Whether what became of this payment is told in a word that we do not know, or is not decided by the policy.
fn is_unclear(policy: &Policy, payment: &ReportedPayment) -> bool {
    match payment.state {
        AuthorizationState::Unknown(_) => true,
        AuthorizationState::Authorized => {
            !payment.is_authorized() || (payment.is_approved() && policy.route(&payment.method).is_none())
        }
        AuthorizationState::WithShopper(_)
        | AuthorizationState::WithAcquirer(_)
        | AuthorizationState::Canceled
        | AuthorizationState::Failed(_) => false,
    }
}

/// Whether `amount` is more than `tolerance` below `target`; both in one currency.
pub(crate) fn below(amount: Money, target: Money, tolerance_minor: i64) -> bool {
    target.minor.saturating_sub(amount.minor) > tolerance_minor
}
