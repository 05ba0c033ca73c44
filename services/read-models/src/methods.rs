//! Which methods may a checkout offer? `list_methods`: the methods' file, asked about one purchase.

use jiff::Timestamp;
use kassa_chassis::{
    config::Config,
    problem::{FieldError, Problem},
};
use kassa_domain::{
    methods::{BUILT_IN, Catalogue, Purchase},
    money::{self, Currency},
};
use kassa_events_schema::{
    Money,
    api::{
        ListMethods, MethodList, MethodView,
        commands::AMOUNT_MAX,
        lists::{DEVICES, is_country},
    },
};

/// The methods of this installation.
///
/// # Errors
/// When the file cannot be read, or with every problem that it has.
pub(crate) fn catalogue(config: &Config) -> anyhow::Result<Catalogue> {
    Catalogue::check(config.methods.read(BUILT_IN)?)
        .map_err(|wrong| anyhow::anyhow!("the payment methods are not usable:\n{}", wrong.join("\n")))
}

/// # Errors
/// 400 `validation`, with every field that is wrong.
pub(crate) fn list(
    methods: &Catalogue,
    asked: &ListMethods,
    at: Timestamp,
) -> Result<MethodList, Box<Problem>> {
    let mut wrong = Vec::new();
    let mut expect = |holds: bool, pointer: &str| {
        if !holds {
            wrong.push(FieldError::new(pointer, "invalid", rule(pointer)));
        }
    };
    expect(is_country(&asked.country), "/country");
    let currency = Currency::parse(&asked.currency);
    expect(currency.is_ok(), "/currency");
    expect(
        asked.amount.is_none_or(|minor| (1..=AMOUNT_MAX).contains(&minor)),
        "/amount",
    );
    let language = asked.language.as_deref();
    expect(
        language.is_none_or(|code| {
            (2..=35).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        }),
        "/language",
    );
    expect(
        asked
            .device
            .as_deref()
            .is_none_or(|device| DEVICES.contains(&device)),
        "/device",
    );
    let (Ok(currency), true) = (currency, wrong.is_empty()) else {
        return Err(Box::new(Problem::validation(wrong)));
    };
    let purchase = Purchase {
        country: &asked.country,
        currency,
        amount: asked.amount,
        at,
    };
    let methods = methods
        .on_offer(&purchase)
        .map(|entry| {
            let limits = entry.limits(currency);
            MethodView {
                method: entry.method.as_str().to_owned(),
                name: entry.name(language.unwrap_or_default()).to_owned(),
                flow: entry.flow.as_str().to_owned(),
                amount_min: limits.map(|limits| amount(limits.min)),
                amount_max: limits.map(|limits| amount(limits.max)),
            }
        })
        .collect();
    Ok(MethodList { methods })
}

/// What may stand at a pointer, as one sentence.
pub(crate) fn rule(pointer: &str) -> &'static str {
    match pointer {
        "/country" => "must be a country code of ISO 3166-1, such as NL",
        "/currency" => "must be a currency code, such as EUR",
        "/amount" => "must be a whole number of minor units, 1 to 2147483647",
        "/language" => "must be a language code, such as nl",
        "/device" => "must be mobile or desktop",
        _ => "must be a JSON object with country and currency",
    }
}

fn amount(limit: money::Money) -> Money {
    Money {
        value: limit.minor,
        currency: limit.currency.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(country: &str, currency: &str, amount: Option<i64>) -> ListMethods {
        ListMethods {
            country: country.to_owned(),
            currency: currency.to_owned(),
            amount,
            language: Some("nl".to_owned()),
            device: None,
        }
    }

    fn offered(country: &str, currency: &str, amount: Option<i64>) -> Vec<String> {
        let methods = catalogue(&Config::default()).unwrap();
        let at = "2026-11-24T12:00:00Z".parse().unwrap();
        let list = list(&methods, &asked(country, currency, amount), at).unwrap();
        list.methods.into_iter().map(|view| view.method).collect()
    }

    #[test]
    fn a_checkout_is_offered_what_fits_the_purchase() {
        assert_eq!(offered("NL", "EUR", Some(4995)), ["ideal", "paypal"]);
        assert_eq!(offered("US", "USD", Some(4995)), ["paypal"]);
        assert_eq!(offered("NL", "EUR", Some(2_000_000)), ["ideal"]);
        assert_eq!(offered("NL", "JPY", None), Vec::<String>::new());
    }

    #[test]
    fn every_field_that_is_wrong_is_named() {
        let methods = catalogue(&Config::default()).unwrap();
        let mut wrong = asked("XX", "euro", Some(0));
        wrong.language = Some("n".to_owned());
        wrong.device = Some("fridge".to_owned());
        let problem = list(&methods, &wrong, Timestamp::UNIX_EPOCH).unwrap_err();
        let named: Vec<_> = problem
            .errors
            .iter()
            .map(|error| error.pointer.as_str())
            .collect();
        assert_eq!(
            named,
            ["/country", "/currency", "/amount", "/language", "/device"]
        );
    }
}
