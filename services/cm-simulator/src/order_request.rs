//! Is this body an order that CM would take, and which fields are wrong if not?
//!
//! Every field is looked at, so that one refusal names all that is wrong. Unknown fields are ignored, as CM's table
//! is longer than what is public.

use jiff::SignedDuration;
use serde_json::{Map, Value};
use url::Url;

use crate::order::{NewOrder, ReturnUrls};

/// CM measured to keep an order 21 days whatever was asked; with `expiry` we do as asked.
const LIFETIME_DEFAULT: SignedDuration = SignedDuration::from_hours(21 * 24);
/// Amounts are 32-bit on CM's side.
const AMOUNT_MAX: i64 = i32::MAX as i64;
/// Longest URL of the older API; the newer one names no limit.
const URL_MAX: usize = 2_048;

/// Reads the body of `POST /orders`.
///
/// # Errors
/// One message per field that is missing or wrong.
pub(crate) fn parse(body: &Value) -> Result<NewOrder, Vec<String>> {
    let Some(fields) = body.as_object() else {
        return Err(vec!["The body must be a JSON object.".to_owned()]);
    };
    let mut form = Form {
        fields,
        problems: Vec::new(),
    };
    let order = NewOrder {
        reference: form.text("order_reference", 255),
        description: form.text("description", 255),
        amount_minor: form.amount("amount"),
        currency: form.letters("currency", 3, Case::Upper),
        email: form.email("email"),
        language: form.letters("language", 2, Case::Lower),
        country: form.letters("country", 2, Case::Upper),
        profile: form.has("profile").then(|| form.text("profile", 50)),
        lifetime: form.lifetime(),
        return_urls: form.return_urls(),
    };
    if form.has("billing_address_key") {
        form.problems
            .push("Property 'billing_address_key' must be a known address key".to_owned());
    }
    if form.problems.is_empty() {
        Ok(order)
    } else {
        Err(form.problems)
    }
}

/// Collects problems; a field with one yields an empty value, which then goes nowhere.
struct Form<'a> {
    fields: &'a Map<String, Value>,
    problems: Vec<String>,
}

#[derive(Clone, Copy)]
enum Case {
    Upper,
    Lower,
}

impl Form<'_> {
    /// An explicit null is the same as leaving it out.
    fn has(&self, name: &str) -> bool {
        self.fields.get(name).is_some_and(|value| !value.is_null())
    }

    fn wrong<T: Default>(&mut self, name: &str, must: &str) -> T {
        self.problems.push(format!("Property '{name}' {must}"));
        T::default()
    }

    fn text(&mut self, name: &str, characters_max: usize) -> String {
        match self.fields.get(name) {
            None | Some(Value::Null) => self.wrong(name, "is mandatory"),
            Some(Value::String(text)) if (1..=characters_max).contains(&text.chars().count()) => text.clone(),
            Some(_) => self.wrong(
                name,
                &format!("must be a string of 1 to {characters_max} characters"),
            ),
        }
    }

    fn amount(&mut self, name: &str) -> i64 {
        match self.fields.get(name) {
            None | Some(Value::Null) => self.wrong(name, "is mandatory"),
            Some(value) => match value.as_i64() {
                Some(minor) if (1..=AMOUNT_MAX).contains(&minor) => minor,
                _ => self.wrong(
                    name,
                    &format!("must be an integer from 1 to {AMOUNT_MAX}, in minor units"),
                ),
            },
        }
    }

    fn letters(&mut self, name: &str, count: usize, case: Case) -> String {
        let (class, fits): (_, fn(&u8) -> bool) = match case {
            Case::Upper => ("[A-Z]", u8::is_ascii_uppercase),
            Case::Lower => ("[a-z]", u8::is_ascii_lowercase),
        };
        match self.fields.get(name) {
            None | Some(Value::Null) => self.wrong(name, "is mandatory"),
            Some(Value::String(text)) if text.len() == count && text.as_bytes().iter().all(fits) => {
                text.clone()
            }
            Some(_) => self.wrong(name, &format!("must match \"{class}{{{count}}}\"")),
        }
    }

    fn email(&mut self, name: &str) -> String {
        let before = self.problems.len();
        let text = self.text(name, 200);
        if self.problems.len() > before {
            return text;
        }
        let fits = text.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && domain
                    .split_once('.')
                    .is_some_and(|(host, top)| !host.is_empty() && !top.is_empty())
        });
        if fits {
            text
        } else {
            self.wrong(name, "must match \".+@.+\\..+\"")
        }
    }

    fn lifetime(&mut self) -> SignedDuration {
        if !self.has("expiry") {
            return LIFETIME_DEFAULT;
        }
        let after = self
            .fields
            .get("expiry")
            .and_then(|expiry| expiry.get("expire_after"));
        let duration = after
            .and_then(|after| after.get("duration"))
            .and_then(Value::as_i64)
            .filter(|duration| (1..=30_240).contains(duration));
        let unit = after.and_then(|after| after.get("unit")).and_then(Value::as_str);
        match (unit, duration) {
            (Some("MINUTES"), Some(n)) => SignedDuration::from_mins(n),
            (Some("HOURS"), Some(n)) => SignedDuration::from_hours(n),
            (Some("DAYS"), Some(n)) => SignedDuration::from_hours(n * 24),
            (_, None) => self.wrong(
                "expiry.expire_after.duration",
                "must be an integer from 1 to 30240",
            ),
            (_, Some(_)) => self.wrong("expiry.expire_after.unit", "must be MINUTES, HOURS or DAYS"),
        }
    }

    fn return_urls(&mut self) -> ReturnUrls {
        if !self.has("return_urls") {
            return ReturnUrls::default();
        }
        let Some(urls) = self.fields.get("return_urls").and_then(Value::as_object) else {
            return self.wrong(
                "return_urls",
                "must be an object of success, pending, canceled, error",
            );
        };
        let mut url = |name: &str| match urls.get(name) {
            None | Some(Value::Null) => None,
            // Only web addresses: a shopper's browser is sent there.
            Some(Value::String(text)) if text.len() <= URL_MAX => match Url::parse(text) {
                Ok(url) if matches!(url.scheme(), "http" | "https") => Some(String::from(url)),
                _ => self.wrong(
                    &format!("return_urls.{name}"),
                    "must be an absolute http or https url",
                ),
            },
            Some(_) => self.wrong(
                &format!("return_urls.{name}"),
                &format!("must be a url of at most {URL_MAX} bytes"),
            ),
        };
        ReturnUrls {
            success: url("success"),
            pending: url("pending"),
            canceled: url("canceled"),
            error: url("error"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_complete_order_is_taken_and_unknown_fields_are_ignored() {
        let mut body = good();
        body["something_new"] = json!({ "a": 1 });
        body["profile"] = Value::Null;
        body["expiry"] = Value::Null;
        let order = parse(&body).expect("good");
        assert_eq!(order.amount_minor, 4_995);
        assert_eq!(order.profile, None);
        assert_eq!(order.lifetime, LIFETIME_DEFAULT);
    }

    #[test]
    fn each_wrong_field_is_named() {
        let long = "x".repeat(256);
        let cases = [
            ("order_reference", json!("")),
            ("order_reference", json!(long)),
            ("order_reference", Value::Null),
            ("description", json!(7)),
            ("amount", json!(0)),
            ("amount", json!(49.95)),
            ("amount", json!("4995")),
            ("amount", json!(2_147_483_648_i64)),
            ("currency", json!("eur")),
            ("currency", json!("EURO")),
            ("email", json!("nobody")),
            ("email", json!("@example.com")),
            ("language", json!("NL")),
            ("country", json!("nl")),
            ("profile", json!("")),
            ("expiry.expire_after.unit", json!("WEEKS")),
            ("expiry.expire_after.duration", json!(30_241)),
            ("return_urls.success", json!("javascript:alert(1)")),
            ("return_urls.error", json!("/relative")),
            ("return_urls.canceled", json!(1)),
            ("billing_address_key", json!("a-key")),
        ];
        for (name, value) in cases {
            let mut body = good();
            let mut at = &mut body;
            for step in name.split('.') {
                at = &mut at[step];
            }
            *at = value.clone();
            let problems = parse(&body).expect_err(name);
            assert_eq!(problems.len(), 1, "{name} = {value}: {problems:?}");
            assert!(
                problems[0].contains(&format!("'{name}'")),
                "{name} = {value}: {problems:?}"
            );
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        assert_eq!(parse(&json!({})).expect_err("empty").len(), 7);
        assert_eq!(parse(&json!([])).expect_err("a list").len(), 1);
    }

    fn good() -> Value {
        json!({
            "order_reference": "A-1", "description": "Dog food", "amount": 4995, "currency": "EUR",
            "email": "a@example.com", "language": "nl", "country": "NL", "profile": "standard",
            "return_urls": { "success": "https://shop.example/done?key=" },
            "expiry": { "expire_after": { "unit": "MINUTES", "duration": 30 } },
        })
    }
}
