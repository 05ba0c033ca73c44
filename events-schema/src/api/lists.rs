//! Which closed lists does a request choose from? Another word there is refused, unlike in what we write.

use schemars::Schema;
use serde_json::json;

use crate::words::OrderStatus;

/// Currencies that orders are taken in, in alphabetical order, as error messages print it.
pub const CURRENCIES: &[&str] = &[
    "AUD", "CAD", "CHF", "CZK", "DKK", "EUR", "GBP", "NOK", "NZD", "PLN", "RON", "SEK", "USD",
];

/// Methods of payment that there are. Which of them an order can be paid by, `list_methods` tells.
pub const METHODS: &[&str] = &["ideal", "paypal"];

/// What a shopper may hold in the hand.
pub const DEVICES: &[&str] = &["desktop", "mobile"];

/// ISO 3166-1 alpha-2, officially assigned codes only, parted by spaces.
pub const COUNTRIES: &str = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW \
     BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI \
     FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN \
     IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME \
     MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF \
     PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV \
     SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE \
     YT ZA ZM ZW";

/// Whether a text is one of [`COUNTRIES`].
#[must_use]
pub fn is_country(code: &str) -> bool {
    COUNTRIES.split(' ').any(|known| known == code)
}

pub(super) fn countries(schema: &mut Schema) {
    one_of(schema, COUNTRIES.split(' '));
}

pub(super) fn currencies(schema: &mut Schema) {
    one_of(schema, CURRENCIES.iter().copied());
}

pub(super) fn statuses(schema: &mut Schema) {
    one_of(schema, OrderStatus::KNOWN.iter().copied());
}

pub(super) fn devices(schema: &mut Schema) {
    one_of(schema, DEVICES.iter().copied());
}

/// An optional field may be `null`, which is the same as leaving it out.
fn one_of(schema: &mut Schema, words: impl Iterator<Item = &'static str>) {
    let mut words: Vec<_> = words.map(|word| json!(word)).collect();
    if schema.get("type").is_some_and(serde_json::Value::is_array) {
        words.push(serde_json::Value::Null);
    }
    schema.insert("enum".to_owned(), words.into());
}

/// Exactly one of the two names of an order.
pub(super) fn id_or_reference(schema: &mut Schema) {
    let only = |field: &str| json!({ "required": [field], "properties": { field: { "type": "string" } } });
    schema.insert(
        "oneOf".to_owned(),
        json!([only("order_id"), only("order_reference")]),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_countries_are_those_of_iso_3166() {
        assert_eq!(COUNTRIES.split(' ').count(), 249);
        assert!(is_country("NL") && !is_country("XK") && !is_country("nl") && !is_country(""));
    }
}
