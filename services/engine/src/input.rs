//! What may stand in a command's fields? Each rule once, as a check and as the sentence that explains it.

use std::collections::BTreeMap;

use kassa_chassis::problem::{FieldError, Problem};
use kassa_domain::money::SUPPORTED;
use kassa_events_schema::api::{commands::AMOUNT_MAX, lists::is_country};

/// CM takes 255; fifteen are kept for the suffix of a repeated create.
const REFERENCE_MAX: usize = 240;
const METADATA_MAX: usize = 20;

/// The languages that we speak; others are answered in English.
const LANGUAGES: &[&str] = &["nl", "en", "de", "fr"];

/// What may stand at a pointer, as one sentence.
pub(crate) fn rule(pointer: &str) -> &'static str {
    match pointer {
        "" => "must be a JSON object",
        "/order_reference" => "must be 1 to 240 characters of A-Z, a-z, 0-9 and - _ . / : #",
        "/description" => "must be a text of 1 to 255 characters",
        "/amount" => "must be an object with value and currency",
        "/amount/value" => "must be a whole number of minor units, 1 to 2147483647",
        "/amount/currency" => "must be a currency code, such as EUR",
        "/country" => "must be a country code of ISO 3166-1, such as NL",
        "/language" => "must be a language code, such as nl",
        "/shopper" => "must be an object with email",
        "/shopper/email" => "must be an e-mail address of at most 100 characters",
        "/return_url" => "must be an absolute URL on one of the shop's origins",
        "/metadata" => {
            "must be an object of at most 20 texts; names of a-z, 0-9 and _, values of at most 200 characters"
        }
        "/order_id" => "must be the order_id that create_order gave",
        "/reason" => "must be a text of 1 to 255 characters, without personal data",
        "/method" => "must be a payment method, such as ideal",
        "/issuer" => "must be 1 to 34 characters of A-Z and 0-9",
        _ if pointer.starts_with("/metadata/") => "must be a text of at most 200 characters, given once",
        _ => "must be a text",
    }
}

/// Collects what is wrong, so that a caller learns of all of it at once.
#[derive(Debug, Default)]
pub(crate) struct Checks(Vec<FieldError>);

impl Checks {
    fn expect(&mut self, holds: bool, pointer: &str) {
        if !holds {
            self.0.push(FieldError::new(pointer, "invalid", rule(pointer)));
        }
    }

    /// A reference travels through CM, files and URLs, so only what survives all of them is taken.
    pub(crate) fn reference(&mut self, pointer: &str, text: &str) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./:#".contains(&b);
        self.expect(
            (1..=REFERENCE_MAX).contains(&text.len()) && text.bytes().all(plain),
            pointer,
        );
    }

    pub(crate) fn text(&mut self, pointer: &str, text: &str, max: usize) {
        let length = text.chars().count();
        if !(1..=max).contains(&length) || text.chars().any(char::is_control) {
            self.0.push(FieldError::new(
                pointer,
                "invalid",
                format!("must be 1 to {max} characters without control characters"),
            ));
        }
    }

    pub(crate) fn amount(&mut self, pointer: &str, minor: i64) {
        self.expect((1..=AMOUNT_MAX).contains(&minor), pointer);
    }

    pub(crate) fn country(&mut self, pointer: &str, code: &str) {
        self.expect(is_country(code), pointer);
    }

    pub(crate) fn email(&mut self, pointer: &str, text: &str) {
        let plain = |part: &str| {
            let out = |c: char| c.is_whitespace() || c.is_control() || "'\"@".contains(c);
            !part.is_empty() && !part.contains(out)
        };
        let fits = text.chars().count() <= 100
            && text
                .split_once('@')
                .is_some_and(|(local, domain)| plain(local) && domain.split('.').all(plain));
        self.expect(fits, pointer);
    }

    pub(crate) fn issuer(&mut self, pointer: &str, text: &str) {
        let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        self.expect((1..=34).contains(&text.len()) && text.bytes().all(plain), pointer);
    }

    pub(crate) fn metadata(&mut self, pointer: &str, entries: &BTreeMap<String, String>) {
        self.expect(entries.len() <= METADATA_MAX, pointer);
        for (name, value) in entries {
            let named = (1..=40).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !named {
                self.0.push(FieldError::new(
                    format!("{pointer}/{}", name.escape_default()),
                    "invalid",
                    rule(pointer),
                ));
            } else if value.chars().count() > 200 || value.chars().any(char::is_control) {
                let pointer = format!("{pointer}/{name}");
                self.0
                    .push(FieldError::new(pointer.clone(), "invalid", rule(&pointer)));
            }
        }
    }

    pub(crate) fn done(self) -> Result<(), Box<Problem>> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Box::new(Problem::validation(self.0)))
        }
    }
}

/// A language that we do not speak is no error: the shopper is spoken to in English.
pub(crate) fn language(code: &str) -> String {
    let primary = code.split('-').next().unwrap_or_default().to_ascii_lowercase();
    LANGUAGES
        .iter()
        .copied()
        .find(|known| *known == primary)
        .unwrap_or("en")
        .to_owned()
}

pub(crate) fn currency_not_supported() -> Box<Problem> {
    let known = SUPPORTED.join(", ");
    let detail = format!("must be one of {known}");
    Box::new(
        Problem::of(
            "currency_not_supported",
            format!("/amount/currency: {detail}"),
            "send the amount in one of the currencies listed",
        )
        .with_errors(vec![FieldError::new("/amount/currency", "not_supported", detail)]),
    )
}

/// One parse, with the library that will redirect to it later, against exact origins.
///
/// # Errors
/// 422 `return_url_not_allowed`, without the URL.
pub(crate) fn return_url(text: &str, origins: &[url::Origin]) -> Result<String, Box<Problem>> {
    let parsed = url::Url::parse(text).ok().filter(|url| {
        text.len() <= 2_048
            && !text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\')
            && matches!(url.scheme(), "https" | "http")
            && url.username().is_empty()
            && url.password().is_none()
            && origins.contains(&url.origin())
    });
    match parsed {
        Some(url) => Ok(url.into()),
        None => {
            let allowed = origins
                .iter()
                .map(url::Origin::ascii_serialization)
                .collect::<Vec<_>>()
                .join(", ");
            let detail = format!("must start with one of {allowed}");
            Err(Box::new(
                Problem::of(
                    "return_url_not_allowed",
                    format!("/return_url: {detail}"),
                    "use a URL of the shop, or add its origin to shops.<shop>.return_url_origins",
                )
                .with_errors(vec![FieldError::new("/return_url", "not_allowed", detail)]),
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_currencies_of_the_contract_are_those_of_the_domain() {
        assert_eq!(kassa_events_schema::api::lists::CURRENCIES, SUPPORTED);
    }

    #[test]
    fn a_return_url_is_compared_by_its_parsed_origin() {
        let origins = [url::Url::parse("https://shop.example").unwrap().origin()];
        assert!(return_url("https://shop.example/return?x=1", &origins).is_ok());
        for evil in [
            "http://shop.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "//shop.example",
            "https://shop.example@evil.example/",
            "https://shop.example.evil.example/",
            "https://evil.example#shop.example",
            "https://shop.example\\@evil.example/",
            "https://shop.example:22/",
            "https://127.0.0.1/",
            "https://shоp.example/",
            &format!("https://shop.example/{}", "x".repeat(5_000)),
        ] {
            let problem = return_url(evil, &origins).expect_err(evil);
            assert_eq!(
                (problem.status, problem.code.as_str()),
                (422, "return_url_not_allowed")
            );
        }
    }

    #[test]
    fn a_language_that_we_do_not_speak_falls_back() {
        assert_eq!(
            ["nl", "NL", "de-AT", "xx", ""].map(language),
            ["nl", "nl", "de", "en", "en"]
        );
    }
}
