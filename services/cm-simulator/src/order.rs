//! What does CM know of one order and of the payments made for it?

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    arc,
    ledger::{About, ShownPayment, Shows},
    scenario::Scenario,
};

/// What a merchant asked for, after validation. `amount_minor` is in the currency's minor units.
#[derive(Debug, Clone)]
pub(crate) struct NewOrder {
    pub(crate) reference: String,
    pub(crate) description: String,
    pub(crate) amount_minor: i64,
    pub(crate) currency: String,
    pub(crate) email: String,
    pub(crate) language: String,
    pub(crate) country: String,
    pub(crate) profile: Option<String>,
    pub(crate) lifetime: SignedDuration,
    pub(crate) return_urls: ReturnUrls,
}

/// Absolute http(s) URLs of the shop. One that ends in `=` gets the order key appended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ReturnUrls {
    pub(crate) success: Option<String>,
    pub(crate) pending: Option<String>,
    pub(crate) canceled: Option<String>,
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    #[serde(with = "arc")]
    pub(crate) key: Arc<str>,
    #[serde(with = "arc")]
    pub(crate) reference: Arc<str>,
    pub(crate) description: String,
    pub(crate) amount_minor: i64,
    #[serde(with = "arc")]
    pub(crate) currency: Arc<str>,
    pub(crate) email: String,
    pub(crate) language: String,
    pub(crate) country: String,
    pub(crate) profile: Option<String>,
    pub(crate) return_urls: ReturnUrls,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) scenario: Scenario,
    /// Since when CM calls the order considered safe; the level is the scenario's.
    pub(crate) safe_since: Option<Timestamp>,
    /// In the order they were made.
    pub(crate) payments: Vec<Payment>,
    /// The answer to its create was left out or spoilt on purpose.
    pub(crate) answer_lost: bool,
    /// Its start was turned away, as its story has it once.
    #[serde(default)]
    pub(crate) turned_away: bool,
    /// Reads that felt what its story does to them.
    #[serde(default)]
    pub(crate) reads_felt: u32,
    /// Notifications that were neither delivered nor given up yet; counted anew after a restart.
    #[serde(skip)]
    pub(crate) notifications_pending: usize,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Payment {
    #[serde(with = "arc")]
    pub(crate) id: Arc<str>,
    /// The bank's own number, as it stands in the bank page's URL: it cannot be guessed.
    #[serde(with = "arc")]
    pub(crate) trxid: Arc<str>,
    pub(crate) method: Method,
    pub(crate) amount_minor: i64,
    #[serde(with = "arc")]
    pub(crate) currency: Arc<str>,
    /// Whether the bank's URL was ever handed out; without it no shopper can be there.
    pub(crate) link_given: bool,
    /// From when on reports show it.
    pub(crate) visible_from: Timestamp,
    pub(crate) phase: Phase,
    /// When the money was taken back, all of it.
    pub(crate) charged_back_at: Option<Timestamp>,
}

/// The ways to pay that are simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Method {
    #[serde(rename = "IDEAL")]
    Ideal,
    #[serde(rename = "PAYPAL")]
    PayPal,
}

impl Method {
    pub(crate) const ALL: [Self; 2] = [Self::Ideal, Self::PayPal];

    /// CM's word, as its REST calls take it. PayPal goes by two: the list of methods and older clients have the longer.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "PAYPAL_EXPRESS_CHECKOUT" => Some(Self::PayPal),
            word => Self::ALL.into_iter().find(|method| method.word() == word),
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ideal => "IDEAL",
            Self::PayPal => "PAYPAL",
        }
    }

    /// As shoppers know it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Ideal => "iDEAL | Wero",
            Self::PayPal => "PayPal",
        }
    }

    /// The buttons of its page.
    pub(crate) fn buttons(self) -> &'static [BankResult] {
        match self {
            Self::Ideal => &[
                BankResult::Success,
                BankResult::Cancel,
                BankResult::Fail,
                BankResult::Expire,
            ],
            Self::PayPal => &[BankResult::Success, BankResult::Cancel, BankResult::Review],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// The shopper was sent to the bank, or would have been had the answer arrived.
    AtTheBank,
    /// The shopper has agreed; the wallet has not yet.
    InReview,
    Authorized {
        amount_minor: i64,
        captured_at: Timestamp,
    },
    Ended(BankResult),
}

impl Phase {
    /// CM's word for it.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Self::AtTheBank => "REDIRECTED_FOR_AUTHORIZATION",
            Self::InReview => "AUTHORIZATION_REQUESTED",
            Self::Authorized { .. } => "AUTHORIZED",
            Self::Ended(BankResult::Fail) => "AUTHORIZATION_FAILED",
            Self::Ended(_) => "CANCELED",
        }
    }

    /// CM's `reason`, which only an attempt that came to nothing has.
    pub(crate) fn reason(self) -> Option<&'static str> {
        match self {
            Self::AtTheBank | Self::InReview | Self::Authorized { .. } => None,
            Self::Ended(BankResult::Success | BankResult::Review) => None,
            Self::Ended(BankResult::Cancel) => Some("Canceled"),
            Self::Ended(BankResult::Fail) => Some("Failed"),
            Self::Ended(BankResult::Expire) => Some("Expired"),
        }
    }
}

/// The buttons of a bank's or wallet's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BankResult {
    Success,
    Cancel,
    Fail,
    Expire,
    /// The shopper agrees and the wallet wants to look at it first.
    Review,
}

impl BankResult {
    const ALL: [Self; 5] = [
        Self::Success,
        Self::Cancel,
        Self::Fail,
        Self::Expire,
        Self::Review,
    ];

    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.word() == word)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Cancel => "cancel",
            Self::Fail => "fail",
            Self::Expire => "expire",
            Self::Review => "review",
        }
    }

    /// As it stands on the button.
    pub(crate) fn label(self, method: Method) -> &'static str {
        match (method, self) {
            (Method::PayPal, Self::Success) => "approve",
            (Method::PayPal, Self::Review) => "approve, to be reviewed",
            (_, result) => result.word(),
        }
    }
}

impl Order {
    /// Sum of what is authorized, in minor units, whatever its currency: CM's own totals are no better.
    pub(crate) fn authorized_minor(&self) -> i64 {
        self.payments
            .iter()
            .map(|payment| match payment.phase {
                Phase::Authorized { amount_minor, .. } => amount_minor,
                Phase::AtTheBank | Phase::InReview | Phase::Ended(_) => 0,
            })
            .sum()
    }

    /// The level at which CM considers the order safe, and since when.
    pub(crate) fn considered_safe(&self) -> Option<(&'static str, Timestamp)> {
        self.safe_since.map(|since| (self.scenario.plan().level, since))
    }

    /// Where the shopper goes after a payment reached `phase`: which of the four URLs it is says nothing certain.
    pub(crate) fn return_url(&self, phase: Phase) -> Option<String> {
        let urls = &self.return_urls;
        let url = match phase {
            Phase::Authorized { .. } | Phase::Ended(BankResult::Success) => urls.success.as_ref(),
            Phase::AtTheBank | Phase::InReview | Phase::Ended(BankResult::Review) => urls.pending.as_ref(),
            Phase::Ended(BankResult::Fail) => urls.error.as_ref(),
            Phase::Ended(BankResult::Cancel | BankResult::Expire) => urls.canceled.as_ref(),
        };
        url.map(|url| self.with_key(url))
    }

    /// Where the menu's "back to the shop" leads; the order stays open.
    pub(crate) fn canceled_url(&self) -> Option<String> {
        self.return_urls.canceled.as_ref().map(|url| self.with_key(url))
    }

    fn with_key(&self, url: &str) -> String {
        if url.ends_with('=') {
            format!("{url}{}", self.key)
        } else {
            url.to_owned()
        }
    }

    /// What CM holds of it, whatever it says in reports.
    pub(crate) fn holds(&self) -> Shows {
        let payments = self.payments.iter().map(|payment| {
            let (amount, captured, approved) = match payment.phase {
                Phase::Authorized { amount_minor, .. } => (amount_minor, amount_minor, true),
                Phase::AtTheBank | Phase::InReview | Phase::Ended(_) => (payment.amount_minor, 0, false),
            };
            ShownPayment {
                id: payment.id.to_string(),
                method: payment.method.word().into(),
                state: payment.phase.state().into(),
                confidence: approved.then_some("ACQUIRER_APPROVED".into()),
                amount,
                currency: payment.currency.to_string(),
                captured,
                returned: payment.charged_back_at.map_or(0, |_| amount),
            }
        });
        Shows {
            reference: self.reference.to_string(),
            amount: self.amount_minor,
            currency: self.currency.to_string(),
            level: self.considered_safe().map(|(level, _)| level.into()),
            payments: payments.collect(),
        }
    }

    pub(crate) fn about(&self) -> About {
        About {
            reference: Some(self.reference.clone()),
            order_key: Some(self.key.clone()),
            payment_id: None,
            amount: Some(self.amount_minor),
            currency: Some(self.currency.clone()),
        }
    }

    /// The amount is what is authorized once something is, else what was asked for.
    pub(crate) fn about_payment(&self, payment: &Payment) -> About {
        let amount = match payment.phase {
            Phase::Authorized { amount_minor, .. } => amount_minor,
            Phase::AtTheBank | Phase::InReview | Phase::Ended(_) => payment.amount_minor,
        };
        About {
            payment_id: Some(payment.id.clone()),
            amount: Some(amount),
            currency: Some(payment.currency.clone()),
            ..self.about()
        }
    }
}
