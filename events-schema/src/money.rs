//! How is an amount written on the wire?

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The largest amount, in minor units, that every reader can hold exactly: JavaScript's `2^53 - 1`.
pub const MINOR_UNITS_MAX: i64 = 9_007_199_254_740_991;

/// An amount in whole minor units of its currency, never a fraction: 4995 EUR is € 49.95, 4995 JPY is ¥ 4995.
/// A reader refuses a fraction, a text, an amount beyond ±(2^53 - 1), and a currency that is not three capitals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Money {
    /// Minor units: cents for EUR, yen for JPY, fils for KWD.
    #[serde(deserialize_with = "minor_units")]
    #[schemars(range(min = -MINOR_UNITS_MAX, max = MINOR_UNITS_MAX))]
    pub value: i64,
    /// ISO 4217 code.
    #[serde(deserialize_with = "currency")]
    #[schemars(regex(pattern = "^[A-Z]{3}$"))]
    pub currency: String,
}

fn minor_units<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let value = i64::deserialize(deserializer)?;
    if (-MINOR_UNITS_MAX..=MINOR_UNITS_MAX).contains(&value) {
        Ok(value)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "amount {value} is beyond ±{MINOR_UNITS_MAX} minor units"
        )))
    }
}

fn currency<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let code = String::deserialize(deserializer)?;
    if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        Ok(code)
    } else {
        Err(serde::de::Error::custom(format_args!(
            "currency {:?} is not a code of three capital letters as in ISO 4217",
            crate::words::shown(&code)
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn an_amount_is_never_a_fraction_a_text_or_without_a_currency() {
        for wrong in [
            json!({"value": 49.95, "currency": "EUR"}),
            json!({"value": 4995.0, "currency": "EUR"}),
            json!({"value": "4995", "currency": "EUR"}),
            json!({"value": 4995}),
            json!({"value": 4995, "currency": "eur"}),
            json!({"value": 4995, "currency": "EURO"}),
            json!({"value": MINOR_UNITS_MAX + 1, "currency": "EUR"}),
            json!({"value": 18_446_744_073_709_551_615_u64, "currency": "EUR"}),
            json!(4995),
        ] {
            assert!(
                from_value::<Money>(wrong.clone()).is_err(),
                "{wrong} was read as an amount"
            );
        }
    }

    #[test]
    fn an_amount_keeps_its_value_and_its_currency() {
        let money: Money = from_value(json!({"value": -4995, "currency": "EUR", "note": "ignored"})).unwrap();
        assert_eq!(
            money,
            Money {
                value: -4995,
                currency: "EUR".to_owned()
            }
        );
        assert_eq!(
            serde_json::to_string(&money).unwrap(),
            r#"{"value":-4995,"currency":"EUR"}"#
        );
    }
}
