//! What may be asked of an order. Time, ids and policy arrive inside.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    event::Closing,
    phase::{OrderFacts, ProviderOrder},
};
use crate::{ids::PaymentId, payment::Method, report::ProviderReport, safety::Policy};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderCommand {
    Create {
        facts: OrderFacts,
        metadata: BTreeMap<String, String>,
    },
    OpenAttempt {
        payment_id: PaymentId,
        method: Method,
    },
    CloseAttempt {
        payment_id: PaymentId,
        closing: Closing,
    },
    RegisterProviderOrder(ProviderOrder),
    /// The provider named one key for this order and for another: nothing that it says under that key can be told apart.
    StopForSharedKey,
    ObserveReport(ReportSeen),
    /// The shop gives the order up.
    Cancel {
        at: Timestamp,
        reason: Option<String>,
    },
    /// The order's time has run out at `at`, and nothing at the provider that is not observed can still bring money.
    Expire {
        at: Timestamp,
    },
}

/// A report, with what is needed to judge it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportSeen {
    /// Taken when the read began; an older answer never undoes a newer one.
    pub read_no: i64,
    /// When the read began.
    pub read_at: Timestamp,
    pub report: ProviderReport,
    pub policy: Policy,
    /// Which of our payments each of the report's payments (by provider id) belongs to.
    pub owners: BTreeMap<String, PaymentId>,
}
