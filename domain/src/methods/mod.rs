//! Which methods may a shopper pay with, here and now? Data, checked once as it is loaded; then pure questions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::{
    money::{Currency, Money},
    payment::Method,
};

#[cfg(test)]
mod tests;

/// The methods that are built in, in TOML; who loads methods parses it as [`File`] unless another file is configured.
pub const BUILT_IN: &str = include_str!("../../../infra/methods.toml");

/// As it is written, in the order of the menu. A misspelt key is an error, not a rule that is silently lost.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub method: Vec<Row>,
}

/// One method as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Our word, such as `ideal`.
    pub token: String,
    /// The provider's word when a payment is started.
    pub provider_code: String,
    /// What the shopper reads, by language; `en` for all others.
    pub names: BTreeMap<String, String>,
    pub flow: Flow,
    /// Whether the shopper may choose a bank in the shop already.
    #[serde(default)]
    pub issuer: bool,
    /// Countries of the shopper, ISO 3166-1 alpha-2; none means everywhere.
    #[serde(default)]
    pub countries: Vec<String>,
    /// A currency without limits is not taken.
    pub limits: Vec<LimitsRow>,
    #[serde(default)]
    pub valid_from: Option<Timestamp>,
    #[serde(default)]
    pub valid_to: Option<Timestamp>,
    /// How long after the start, and after each read that brought nothing final, the report is read again.
    pub ladder: Vec<SignedDuration>,
}

/// The least and the most that is taken in one currency, in minor units.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsRow {
    pub currency: String,
    pub min: i64,
    pub max: i64,
}

/// How the shopper goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    Redirect,
}

impl Flow {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
        }
    }
}

/// The methods of an installation, in the order of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue(Vec<Entry>);

/// One method that is on offer somewhere, some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub method: Method,
    pub provider_code: String,
    names: BTreeMap<String, String>,
    pub flow: Flow,
    pub issuer: bool,
    countries: BTreeSet<String>,
    limits: BTreeMap<Currency, Limits>,
    valid_from: Option<Timestamp>,
    valid_to: Option<Timestamp>,
    pub ladder: Vec<SignedDuration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub min: Money,
    pub max: Money,
}

/// What is to be paid, where and when.
#[derive(Debug, Clone, Copy)]
pub struct Purchase<'a> {
    pub country: &'a str,
    pub currency: Currency,
    /// In minor units; without it, limits do not exclude.
    pub amount: Option<i64>,
    pub at: Timestamp,
}

/// The rule that excludes a method, with its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Excluded {
    NotYet { from: Timestamp },
    NoLonger { to: Timestamp },
    Country { offered: BTreeSet<String> },
    Currency { taken: Vec<Currency> },
    Amount(Limits),
}

impl fmt::Display for Excluded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYet { from } => write!(f, "it is offered from {from} on"),
            Self::NoLonger { to } => write!(f, "it was offered until {to}"),
            Self::Country { offered } => write!(
                f,
                "it is offered to shoppers in {}",
                offered.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            ),
            Self::Currency { taken } => write!(
                f,
                "it is taken in {}",
                taken.iter().map(Currency::as_str).collect::<Vec<_>>().join(", ")
            ),
            Self::Amount(limits) => write!(f, "it takes {} to {}", limits.min.minor, limits.max),
        }
    }
}

impl Entry {
    /// # Errors
    /// The first rule that excludes it.
    pub fn check(&self, purchase: &Purchase<'_>) -> Result<(), Excluded> {
        if let Some(from) = self.valid_from.filter(|from| purchase.at < *from) {
            return Err(Excluded::NotYet { from });
        }
        if let Some(to) = self.valid_to.filter(|to| purchase.at >= *to) {
            return Err(Excluded::NoLonger { to });
        }
        if !self.countries.is_empty() && !self.countries.contains(purchase.country) {
            return Err(Excluded::Country {
                offered: self.countries.clone(),
            });
        }
        let limits = self.limits(purchase.currency).ok_or_else(|| Excluded::Currency {
            taken: self.limits.keys().copied().collect(),
        })?;
        match purchase.amount {
            Some(minor) if !(limits.min.minor..=limits.max.minor).contains(&minor) => {
                Err(Excluded::Amount(limits))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// `None` for a currency that is not taken.
    pub fn limits(&self, currency: Currency) -> Option<Limits> {
        self.limits.get(&currency).copied()
    }

    /// What the shopper reads in this language, or in English.
    pub fn name(&self, language: &str) -> &str {
        let primary = language
            .split('-')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        self.names
            .get(&primary)
            .or_else(|| self.names.get("en"))
            .map_or(self.method.as_str(), String::as_str)
    }
}

impl Catalogue {
    /// # Errors
    /// Every problem there is, each with the place in the file.
    pub fn check(file: File) -> Result<Self, Vec<String>> {
        let mut wrong = Vec::new();
        let mut entries: Vec<Entry> = Vec::new();
        if file.method.is_empty() {
            wrong.push("method: at least one [[method]]".to_owned());
        }
        for (n, row) in file.method.into_iter().enumerate() {
            let place = format!("method {} ({})", n + 1, row.token.escape_default());
            let before = wrong.len();
            let method = Method::parse(&row.token);
            if method.is_none() {
                let known: Vec<_> = Method::ALL.iter().map(Method::as_str).collect();
                wrong.push(format!("{place}: token: one of {}", known.join(", ")));
            }
            row.check(&place, &mut wrong);
            if entries.iter().any(|entry| Some(entry.method) == method) {
                wrong.push(format!("{place}: token: given twice"));
            }
            if let (Some(method), true) = (method, wrong.len() == before) {
                entries.push(row.entry(method));
            }
        }
        if wrong.is_empty() {
            Ok(Self(entries))
        } else {
            Err(wrong)
        }
    }

    /// All methods, in the order of the menu, whether they are on offer now or not.
    pub fn all(&self) -> &[Entry] {
        &self.0
    }

    pub fn entry(&self, method: Method) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.method == method)
    }

    /// What may be offered, in the order of the menu.
    pub fn on_offer<'a>(&'a self, purchase: &Purchase<'_>) -> impl Iterator<Item = &'a Entry> {
        self.0.iter().filter(|entry| entry.check(purchase).is_ok())
    }
}

impl Row {
    fn check(&self, place: &str, wrong: &mut Vec<String>) {
        let capitals =
            |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_uppercase());
        let code = &self.provider_code;
        if !(1..=50).contains(&code.len())
            || !code
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b"_0123456789".contains(&b))
        {
            wrong.push(format!("{place}: provider_code: 1 to 50 of A-Z, 0-9 and _"));
        }
        if !self.names.contains_key("en") {
            wrong.push(format!(
                "{place}: names: en is missing, which all other languages fall back to"
            ));
        }
        for (language, name) in &self.names {
            if !(1..=50).contains(&name.chars().count()) || name.chars().any(char::is_control) {
                wrong.push(format!("{place}: names.{language}: 1 to 50 characters"));
            }
        }
        for country in self.countries.iter().filter(|country| !capitals(country, 2)) {
            wrong.push(format!(
                "{place}: countries: {} is no code of ISO 3166-1, such as NL",
                country.escape_default()
            ));
        }
        if self.limits.is_empty() {
            // A method that nobody can reach is a mistake, however well it is written.
            wrong.push(format!("{place}: limits: at least one currency"));
        }
        let mut seen = BTreeSet::new();
        for row in &self.limits {
            let currency = &row.currency;
            if !Currency::parse(currency).is_ok_and(|known| known.is_supported()) {
                wrong.push(format!(
                    "{place}: limits: {} is no currency that orders are taken in",
                    currency.escape_default()
                ));
            } else if !seen.insert(currency) {
                wrong.push(format!("{place}: limits: {currency} is given twice"));
            }
            if row.min < 1 || row.max < row.min {
                wrong.push(format!(
                    "{place}: limits: {}: min is at least 1, and max at least min",
                    currency.escape_default()
                ));
            }
        }
        if let (Some(from), Some(to)) = (self.valid_from, self.valid_to)
            && to <= from
        {
            wrong.push(format!("{place}: valid_to: later than valid_from"));
        }
        if self.ladder.is_empty()
            || self
                .ladder
                .iter()
                .any(|rung| *rung < SignedDuration::from_millis(100))
        {
            // Without it, a payment whose notification is lost would never be found.
            wrong.push(format!(
                "{place}: ladder: one or more intervals of at least 100ms"
            ));
        }
    }

    fn entry(self, method: Method) -> Entry {
        let limits = self.limits.iter().filter_map(|row| {
            let currency = Currency::parse(&row.currency).ok()?;
            let limits = Limits {
                min: Money::new(row.min, currency),
                max: Money::new(row.max, currency),
            };
            Some((currency, limits))
        });
        Entry {
            method,
            limits: limits.collect(),
            provider_code: self.provider_code,
            names: self.names,
            flow: self.flow,
            issuer: self.issuer,
            countries: self.countries.into_iter().collect(),
            valid_from: self.valid_from,
            valid_to: self.valid_to,
            ladder: self.ladder,
        }
    }
}
