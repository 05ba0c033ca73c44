//! How much, in which currency? Whole minor units, checked arithmetic, never a float.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A currency code as the world writes it: three capitals. Whether we take orders in it is [`Currency::is_supported`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

/// Why a text is not a currency, or two amounts are not one sum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("a currency is three capital letters of ISO 4217, such as EUR")]
    NotACode,
    #[error("{left} and {right} are different currencies")]
    CurrencyMixed { left: Currency, right: Currency },
    #[error("the sum is larger than any amount we keep")]
    Overflow,
}

impl Currency {
    pub const EUR: Self = Self(*b"EUR");

    /// # Errors
    /// [`MoneyError::NotACode`] unless three capitals.
    pub fn parse(code: &str) -> Result<Self, MoneyError> {
        match <[u8; 3]>::try_from(code.as_bytes()) {
            Ok(bytes) if bytes.iter().all(u8::is_ascii_uppercase) => Ok(Self(bytes)),
            _ => Err(MoneyError::NotACode),
        }
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("three ASCII capitals are UTF-8")
    }

    /// Orders are taken in currencies of two decimals only: how CM counts yen or dinars is not proven.
    pub fn is_supported(&self) -> bool {
        SUPPORTED.contains(&self.as_str())
            && iso_currency::Currency::from_code(self.as_str()).and_then(|c| c.exponent()) == Some(2)
    }
}

/// In alphabetical order, as error messages print it.
pub const SUPPORTED: &[&str] = &[
    "AUD", "CAD", "CHF", "CZK", "DKK", "EUR", "GBP", "NOK", "NZD", "PLN", "RON", "SEK", "USD",
];

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Currency {
    type Error = MoneyError;
    fn try_from(code: String) -> Result<Self, MoneyError> {
        Self::parse(&code)
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

/// An amount in whole minor units (cents for EUR) of one currency.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Money {
    #[serde(rename = "value")]
    pub minor: i64,
    pub currency: Currency,
}

impl Money {
    pub const fn new(minor: i64, currency: Currency) -> Self {
        Self { minor, currency }
    }

    /// # Errors
    /// [`MoneyError::CurrencyMixed`] or [`MoneyError::Overflow`].
    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_add)
    }

    /// # Errors
    /// [`MoneyError::CurrencyMixed`] or [`MoneyError::Overflow`].
    pub fn minus(self, other: Self) -> Result<Self, MoneyError> {
        self.combine(other, i64::checked_sub)
    }

    /// As people read it, the same wherever it is told: `€ 49.95`, `USD 49.95`, `JPY 500`. A point, because the sentences
    /// around it are English; a code but for the euro, because `$` and `¥` are the signs of several currencies.
    pub fn told(self) -> String {
        let known = iso_currency::Currency::from_code(self.currency.as_str());
        let Some(digits) = known.and_then(|known| known.exponent()).map(usize::from) else {
            return self.to_string();
        };
        let name = if self.currency == Currency::EUR {
            "€"
        } else {
            self.currency.as_str()
        };
        let sign = if self.minor < 0 { "-" } else { "" };
        let padded = format!("{:0>width$}", self.minor.unsigned_abs(), width = digits + 1);
        let (whole, part) = padded.split_at(padded.len() - digits);
        let point = if digits == 0 { "" } else { "." };
        format!("{name} {sign}{whole}{point}{part}")
    }

    fn combine(self, other: Self, with: fn(i64, i64) -> Option<i64>) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMixed {
                left: self.currency,
                right: other.currency,
            });
        }
        with(self.minor, other.minor)
            .map(|minor| Self { minor, ..self })
            .ok_or(MoneyError::Overflow)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} minor units {}", self.minor, self.currency)
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.minor, self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_two_currencies_are_never_added() {
        let (eur, usd) = (
            Money::new(1, Currency::EUR),
            Money::new(1, Currency::parse("USD").unwrap()),
        );
        assert!(matches!(eur.plus(usd), Err(MoneyError::CurrencyMixed { .. })));
    }

    #[test]
    fn a_sum_that_does_not_fit_is_an_error_and_not_another_amount() {
        assert_eq!(
            Money::new(i64::MAX, Currency::EUR).plus(Money::new(1, Currency::EUR)),
            Err(MoneyError::Overflow)
        );
        assert_eq!(
            Money::new(i64::MIN, Currency::EUR).minus(Money::new(1, Currency::EUR)),
            Err(MoneyError::Overflow)
        );
    }

    #[test]
    fn amounts_are_told_as_people_read_them() {
        for (minor, code, told) in [
            (4995, "EUR", "€ 49.95"),
            (5, "EUR", "€ 0.05"),
            (-150, "EUR", "€ -1.50"),
            (123_456, "USD", "USD 1234.56"),
            (50, "JPY", "JPY 50"),
            (1, "KWD", "KWD 0.001"),
            (i64::MIN, "EUR", "€ -92233720368547758.08"),
            (50, "XXX", "50 minor units XXX"),
        ] {
            assert_eq!(Money::new(minor, Currency::parse(code).unwrap()).told(), told);
        }
    }

    #[test]
    fn only_currencies_of_two_decimals_are_supported() {
        assert!(
            SUPPORTED
                .iter()
                .all(|code| Currency::parse(code).unwrap().is_supported())
        );
        for code in ["JPY", "KWD", "XXX", "BTC"] {
            assert!(!Currency::parse(code).unwrap().is_supported(), "{code}");
        }
        for code in ["eur", "EU", "EURO", "E1R", ""] {
            assert_eq!(Currency::parse(code), Err(MoneyError::NotACode), "{code}");
        }
    }
}
