//! What a shopper owes a shop, what has been observed of it, and whether it is safe to ship.
//!
//! Unopened → opened. An opened order has a standing (unpaid, partially paid, paid), at most one live attempt, and a
//! safety of its own: a paid order may be unsafe, and stays so until the provider and our policy agree. While nothing is paid it
//! may end: canceled by the shop, or expired. Money that comes all the same is recorded as what it is.

mod aggregate;
mod command;
mod decide;
mod event;
mod evolve;
mod phase;
mod rejection;
#[cfg(test)]
mod tests;

pub use command::{OrderCommand, ReportSeen};
pub use event::{Closing, Mismatch, OrderEvent};
pub use phase::{AttemptRecord, Ended, Opened, Order, OrderFacts, ProviderOrder, Safety, Standing};
pub use rejection::OrderRejection;

use crate::{
    ids::PaymentId,
    payment::{AskedOrder, Payment},
    report::{ProviderReport, ReportedPayment},
};

/// Which of our payments a provider's payment belongs to: the one that knows its id; else the one that it was given to when
/// it was first seen; else the live attempt, or the last one. A shopper whose `start` was lost pays through the menu, under
/// an id that we never saw; once given, it is never given to a later attempt.
pub fn owner<'a>(
    opened: &Opened,
    payments: impl IntoIterator<Item = (PaymentId, &'a Payment)>,
    seen: &ReportedPayment,
) -> Option<PaymentId> {
    payments
        .into_iter()
        .find(|(_, payment)| payment.provider_payments().contains(&seen.id))
        .map(|(id, _)| id)
        .or_else(|| opened.owners.get(&seen.id).copied())
        .or_else(|| opened.live_attempt().map(|attempt| attempt.payment_id))
        .or_else(|| opened.attempts.last().map(|attempt| attempt.payment_id))
}

/// The part of a report that belongs to `payment`.
pub fn share_of(
    opened: &Opened,
    payments: &[(PaymentId, Payment)],
    payment: PaymentId,
    report: &ProviderReport,
) -> Vec<ReportedPayment> {
    let known = || payments.iter().map(|(id, p)| (*id, p));
    report
        .payments
        .iter()
        .filter(|seen| owner(opened, known(), seen) == Some(payment))
        .cloned()
        .collect()
}

/// Orders that the provider may hold for this one and that nobody can pay through us, since their key never came or another
/// was registered first: ghosts, for people to compare with the provider's own list.
pub fn ghosts<'a>(opened: &Opened, payments: impl IntoIterator<Item = &'a Payment>) -> Vec<&'a AskedOrder> {
    let registered = opened
        .provider
        .as_ref()
        .map(|provider| provider.reference.as_str());
    payments
        .into_iter()
        .flat_map(Payment::asked_orders)
        .filter(|asked| registered != Some(asked.reference.as_str()))
        .collect()
}

/// What the shopper has to do next.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum NextAction {
    /// Send the browser there.
    Redirect {
        url: String,
    },
    /// Nothing yet; it will be known shortly.
    Wait,
    None,
}

/// What the shopper has to do next for this attempt: nothing while a payment of the order is under way at the provider, of
/// whichever attempt. While it is not known what became of a `start`, that is the
/// provider's menu: an order whose answer was lost is still payable.
pub fn next_action(opened: &Opened, payment: &Payment) -> NextAction {
    use crate::payment::{Pending, Step};
    if opened.stopped.is_some() || opened.ended.is_some() || matches!(opened.standing, Standing::Paid { .. })
    {
        return NextAction::None;
    }
    // A second look at the page, or the menu, would be a second payment.
    if opened.under_way.is_some() {
        return NextAction::Wait;
    }
    match payment {
        Payment::Pending(Pending {
            step: Step::Redirected { url: Some(url) },
            ..
        }) => NextAction::Redirect { url: url.clone() },
        Payment::Pending(Pending {
            step: Step::Redirected { url: None } | Step::StartUnknown(_),
            ..
        }) => match &opened.provider {
            Some(provider) => NextAction::Redirect {
                url: provider.menu_url.clone(),
            },
            None => NextAction::Wait,
        },
        Payment::Pending(Pending {
            step: Step::Deciding | Step::Calling(_),
            ..
        }) => NextAction::Wait,
        Payment::Unstarted | Payment::Authorized { .. } | Payment::Closed { .. } => NextAction::None,
    }
}
