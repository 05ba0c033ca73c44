//! CM's JSON, in and out. Fields that we do not know are skipped, words that we do not know are kept, and what does not
//! fit its documented shape is not an answer.

use kassa_domain::{
    money::{Currency, Money},
    order::ProviderOrder,
    report::{AuthorizationState, Confidence, ConsideredSafe, ProviderReport, ReportedMove, ReportedPayment},
};
use serde::{Deserialize, Deserializer, Serialize};

/// `POST /orders`.
#[derive(Debug, Serialize)]
pub(crate) struct CreateBody<'a> {
    pub(crate) order_reference: &'a str,
    pub(crate) description: &'a str,
    pub(crate) amount: i64,
    pub(crate) currency: Currency,
    pub(crate) email: &'a str,
    pub(crate) language: &'a str,
    pub(crate) country: &'a str,
    pub(crate) return_urls: ReturnUrls<'a>,
}

/// One URL for all four: which of them is hit proves nothing.
#[derive(Debug, Serialize)]
pub(crate) struct ReturnUrls<'a> {
    pub(crate) success: &'a str,
    pub(crate) pending: &'a str,
    pub(crate) canceled: &'a str,
    pub(crate) error: &'a str,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Created {
    order_key: String,
    url: String,
    expires_on: Option<String>,
}

/// `POST /orders/{order_key}/payments`.
#[derive(Debug, Serialize)]
pub(crate) struct StartBody<'a> {
    pub(crate) method: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ideal_details: Option<IdealDetails<'a>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct IdealDetails<'a> {
    pub(crate) issuer_id: &'a str,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StartAnswer {
    id: String,
    #[serde(default, deserialize_with = "one_or_many")]
    urls: Vec<StartUrl>,
}

#[derive(Debug, Deserialize)]
struct StartUrl {
    purpose: String,
    method: String,
    url: String,
}

/// A started payment: where the shopper has to go.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) provider_payment_id: String,
    /// Absent where nothing is to be done there; then the report tells.
    pub(crate) url: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ErrorBody {
    messages: Vec<String>,
    /// What only a success has; with it, the document says both.
    order_key: Option<serde::de::IgnoredAny>,
    id: Option<serde::de::IgnoredAny>,
    urls: Option<serde::de::IgnoredAny>,
}

/// What a success never has.
#[derive(Debug, Deserialize)]
struct ErrorBeside {
    messages: Option<serde_json::Value>,
    error: Option<serde_json::Value>,
    errors: Option<serde_json::Value>,
}

/// A list; also its one element alone, as some serializers write it, or nothing at all.
fn one_or_many<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either<T> {
        Many(Vec<T>),
        One(T),
        None(()),
    }
    Ok(match Either::deserialize(from)? {
        Either::Many(many) => many,
        Either::One(one) => vec![one],
        Either::None(()) => vec![],
    })
}

/// `GET /orders/{order_key}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Detail {
    order_reference: String,
    amount: Amount,
    currency: Currency,
    considered_safe: Option<Safe>,
    #[serde(default, deserialize_with = "one_or_many")]
    payments: Vec<Payment>,
}

#[derive(Debug, Deserialize)]
struct Safe {
    level: String,
    timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Payment {
    id: String,
    method: String,
    authorization: Authorization,
    #[serde(default, deserialize_with = "one_or_many")]
    captures: Vec<Move>,
    #[serde(default, deserialize_with = "one_or_many")]
    refunds: Vec<Move>,
    #[serde(default, deserialize_with = "one_or_many")]
    chargebacks: Vec<Move>,
}

#[derive(Debug, Deserialize)]
struct Authorization {
    amount: Amount,
    currency: Currency,
    confidence: Option<String>,
    state: String,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Move {
    amount: Amount,
    currency: Currency,
    state: String,
}

/// CM counts in int32; in a report no amount is below zero.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "i64")]
struct Amount(i64);

impl TryFrom<i64> for Amount {
    type Error = &'static str;
    fn try_from(minor: i64) -> Result<Self, Self::Error> {
        if (0..=i64::from(i32::MAX)).contains(&minor) {
            Ok(Self(minor))
        } else {
            Err("an amount is an int32 of 0 or more")
        }
    }
}

/// CM's own words for a refusal; `None` where the body is not CM's error document, or is that and a success too.
pub(crate) fn refusal(body: &[u8]) -> Option<String> {
    let refused = serde_json::from_slice::<ErrorBody>(body).ok()?;
    if refused.order_key.is_some() || refused.id.is_some() || refused.urls.is_some() {
        return None;
    }
    refused.messages.into_iter().next()
}

/// Whether an answer that looks like a success tells of an error as well. The error wins: what was done is not known.
pub(crate) fn tells_of_an_error(body: &[u8]) -> bool {
    let says = |what: &Option<serde_json::Value>| {
        what.as_ref().is_some_and(|value| match value {
            serde_json::Value::Null | serde_json::Value::Bool(false) => false,
            serde_json::Value::String(text) => !text.is_empty(),
            serde_json::Value::Array(list) => !list.is_empty(),
            serde_json::Value::Object(map) => !map.is_empty(),
            serde_json::Value::Bool(true) | serde_json::Value::Number(_) => true,
        })
    };
    serde_json::from_slice::<ErrorBeside>(body)
        .is_ok_and(|beside| says(&beside.messages) || says(&beside.error) || says(&beside.errors))
}

pub(crate) fn registered(created: Created, reference: &str, base: &url::Url) -> Option<ProviderOrder> {
    let key = created.order_key;
    let fits = key.len() == 32 && key.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    // The menu stands where the API stands: an answer may not send shoppers elsewhere.
    let menu = browser_url(&created.url, base).filter(|url| url.origin() == base.origin())?;
    fits.then(|| ProviderOrder {
        order_key: key,
        menu_url: menu.into(),
        reference: reference.to_owned(),
        expires_at: created.expires_on.and_then(|text| text.parse().ok()),
    })
}

pub(crate) fn started(answer: StartAnswer, base: &url::Url) -> Option<Started> {
    let url = match answer.urls.iter().find(|url| url.purpose == "REDIRECT") {
        Some(redirect) if redirect.method == "GET" => Some(browser_url(&redirect.url, base)?.into()),
        Some(_) => return None,
        None if answer.urls.is_empty() => None,
        None => return None,
    };
    Some(Started {
        provider_payment_id: payment_id(answer.id)?,
        url,
    })
}

pub(crate) fn report(detail: Detail) -> Option<ProviderReport> {
    let payments = detail
        .payments
        .into_iter()
        .map(reported)
        .collect::<Option<Vec<_>>>()?;
    let mut ids: Vec<&str> = payments.iter().map(|payment| payment.id.as_str()).collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        // One payment twice would be counted twice.
        return None;
    }
    Some(ProviderReport {
        reference: detail.order_reference,
        ordered: Money::new(detail.amount.0, detail.currency),
        considered_safe: detail.considered_safe.map(|safe| ConsideredSafe {
            level: word(&safe.level),
            at: safe.timestamp.and_then(|text| text.parse().ok()),
        }),
        payments,
    })
}

/// Words of a report that we do not know, which are no verdict: CM has new ones, or something is wrong.
pub(crate) fn unknown_words(report: &ProviderReport) -> Vec<String> {
    report
        .payments
        .iter()
        .flat_map(|payment| {
            let state = match &payment.state {
                AuthorizationState::Unknown(word) => Some(word),
                AuthorizationState::WithShopper(_)
                | AuthorizationState::WithAcquirer(_)
                | AuthorizationState::Authorized
                | AuthorizationState::Canceled
                | AuthorizationState::Failed(_) => None,
            };
            let confidence = match &payment.confidence {
                Some(Confidence::Unknown(word)) => Some(word),
                Some(
                    Confidence::AcquirerApproved | Confidence::AcquirerPending | Confidence::ShopperPending,
                )
                | None => None,
            };
            state.into_iter().chain(confidence).cloned()
        })
        .collect()
}

fn reported(payment: Payment) -> Option<ReportedPayment> {
    let authorization = payment.authorization;
    let moves = |moves: Vec<Move>| {
        moves
            .into_iter()
            .map(|m| ReportedMove {
                amount: Money::new(m.amount.0, m.currency),
                state: word(&m.state),
            })
            .collect()
    };
    Some(ReportedPayment {
        id: payment_id(payment.id)?,
        method: word(&payment.method),
        state: word(&authorization.state).into(),
        confidence: authorization
            .confidence
            .filter(|word| !word.is_empty())
            .map(Into::into),
        amount: Money::new(authorization.amount.0, authorization.currency),
        reason: authorization
            .reason
            .map(|text| text.chars().filter(|c| !c.is_control()).take(250).collect()),
        captures: moves(payment.captures),
        refunds: moves(payment.refunds),
        chargebacks: moves(payment.chargebacks),
    })
}

/// A word of CM's, known or not, as it may be kept: bounded, and with a mark for every control character. Never without it:
/// that could make a word that we know.
fn word(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .take(64)
        .collect()
}

fn payment_id(id: String) -> Option<String> {
    ((1..=50).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(id)
}

/// A URL that a shopper's browser may be sent to: https, or http where CM itself is spoken to by http (the simulator).
fn browser_url(text: &str, base: &url::Url) -> Option<url::Url> {
    if text.len() > 2_048 || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return None;
    }
    let url = url::Url::parse(text).ok()?;
    (url.scheme() == "https" || url.scheme() == base.scheme())
        .then_some(url)
        .filter(|url| url.has_host())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> url::Url {
        url::Url::parse("https://cm.example/ps/api").unwrap()
    }

    fn detail(json: &str) -> Option<ProviderReport> {
        serde_json::from_str(json).ok().and_then(report)
    }

    const PAID: &str = r#"{"order_reference":"A-1","amount":4995,"currency":"EUR","new_field":[1],
        "considered_safe":{"level":"SAFE","timestamp":"2026-11-24T10:00:00Z"},
        "payments":[{"id":"pid1t","method":"IDEAL","authorization":{"amount":4995,"currency":"EUR",
        "confidence":"ACQUIRER_APPROVED","state":"AUTHORIZED"},
        "captures":[{"amount":4995,"currency":"EUR","state":"CAPTURED"}]}]}"#;

    #[test]
    fn a_paid_order_reads_as_one_and_new_fields_are_skipped() {
        let report = detail(PAID).unwrap();
        assert_eq!(report.ordered, Money::new(4995, Currency::EUR));
        assert!(report.considered_safe.is_some() && report.payments[0].is_approved());
        assert_eq!(report.payments[0].captures.len(), 1);
    }

    #[test]
    fn p_15_one_element_alone_null_and_another_order_of_fields_read_as_before() {
        let before = detail(PAID).unwrap();
        for same in [
            PAID.replace("\"payments\":[", "\"payments\":").replace("}]}]}", "}]}}"),
            PAID.replace("\"captures\":[", "\"captures\":").replace("}]}]}", "}}]}"),
            PAID.replace("\"captures\":[", "\"refunds\":null,\"chargebacks\":[],\"captures\":["),
            // Every field before what comes before it now.
            r#"{"payments":[{"captures":[{"state":"CAPTURED","currency":"EUR","amount":4995}],"authorization":{
                "state":"AUTHORIZED","confidence":"ACQUIRER_APPROVED","currency":"EUR","amount":4995},"method":"IDEAL",
                "id":"pid1t"}],"considered_safe":{"timestamp":"2026-11-24T10:00:00Z","level":"SAFE"},"currency":"EUR",
                "amount":4995,"order_reference":"A-1"}"#
                .to_owned(),
        ] {
            assert_eq!(detail(&same).as_ref(), Some(&before), "{same}");
        }
        assert!(unknown_words(&before).is_empty());
        let odd = PAID
            .replace("\"AUTHORIZED\"", "\"SETTLED\"")
            .replace("ACQUIRER_APPROVED", "SCHEME_APPROVED");
        assert_eq!(
            unknown_words(&detail(&odd).unwrap()),
            ["SETTLED", "SCHEME_APPROVED"]
        );
    }

    #[test]
    fn p_17_an_error_beside_a_success_is_seen_and_a_success_beside_an_error_is_no_refusal() {
        for both in [
            r#"{"id":"pid1t","messages":["no"]}"#,
            r#"{"id":"pid1t","error":{"code":7}}"#,
            r#"{"id":"pid1t","errors":"no"}"#,
        ] {
            assert!(tells_of_an_error(both.as_bytes()), "{both}");
            assert_eq!(refusal(both.as_bytes()), None, "{both}");
        }
        for success in [
            r#"{"id":"pid1t"}"#,
            r#"{"id":"pid1t","messages":[],"error":null,"errors":""}"#,
        ] {
            assert!(!tells_of_an_error(success.as_bytes()), "{success}");
        }
        // A code that is new says no more than the words do.
        assert_eq!(
            refusal(br#"{"messages":["no"],"code":"NEW_RULE"}"#).as_deref(),
            Some("no")
        );
    }

    #[test]
    fn an_order_without_payments_reads_as_nothing_paid() {
        let report = detail(r#"{"order_reference":"A-1","amount":50,"currency":"USD"}"#).unwrap();
        assert!(report.payments.is_empty() && report.considered_safe.is_none());
    }

    #[test]
    fn unknown_words_are_kept_and_are_no_verdict() {
        for odd in [r"AUTHORIZED\u0000", r"AUTHO\nRIZED"] {
            let report = detail(&PAID.replace("AUTHORIZED", odd)).unwrap();
            assert!(!report.payments[0].is_authorized(), "{odd}");
        }
        let report = detail(&PAID.replace("\"AUTHORIZED\"", "\"SETTLED\"")).unwrap();
        assert_eq!(
            report.payments[0].state,
            AuthorizationState::Unknown("SETTLED".to_owned())
        );
        assert!(!report.payments[0].is_authorized());
        assert!(
            !detail(&PAID.replace(r#""confidence":"ACQUIRER_APPROVED","#, ""))
                .unwrap()
                .payments[0]
                .is_authorized()
        );
    }

    #[test]
    fn answers_that_do_not_fit_are_not_answers() {
        for wrong in [
            PAID.replace("4995", "49.95"),
            PAID.replace("4995", "-4995"),
            PAID.replace("4995", "2147483648"),
            PAID.replace("4995", "\"4995\""),
            PAID.replace("4995", "1e3"),
            PAID.replace("\"EUR\"", "\"euro\""),
            PAID.replace("pid1t", "pid 1t"),
            PAID.replace("\"amount\":4995,\"currency\"", "\"currency\""),
            {
                let one = &PAID[PAID.find(r#"{"id""#).unwrap()..PAID.len() - 2];
                PAID.replace(one, &format!("{one},{one}"))
            },
            format!("[{PAID}]"),
            format!("{PAID} x"),
            r#"{"messages":["x"]}"#.to_owned(),
            "<html></html>".to_owned(),
            String::new(),
        ] {
            assert!(detail(&wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn an_order_key_or_a_url_that_is_not_cms_is_not_taken() {
        let created = |key: &str, url: &str| {
            let created = Created {
                order_key: key.to_owned(),
                url: url.to_owned(),
                expires_on: None,
            };
            registered(created, "A-1", &base())
        };
        let key = "0287A1617D93780EF28044B98438BF2F";
        assert!(created(key, "https://cm.example/ps/menu?payment_cluster_key=1").is_some());
        for odd in [
            key.to_lowercase(),
            key[1..].to_owned(),
            format!("{key}0"),
            key.replace('F', "\n"),
        ] {
            assert!(created(&odd, "https://cm.example/ps/menu").is_none(), "{odd}");
        }
        assert!(created("0287A1617D93780EF28044B98438BF2,", "https://cm.example/ps/menu").is_none());
        for url in [
            "https://evil.example/",
            "javascript:alert(1)",
            "http://cm.example/ps/menu",
            "https://cm.example/\r\nx",
            "",
        ] {
            assert!(created(key, url).is_none(), "{url}");
        }
    }

    #[test]
    fn a_start_answer_gives_a_redirect_or_nothing_to_do() {
        let read = |json: &str| {
            serde_json::from_str(json)
                .ok()
                .and_then(|answer| started(answer, &base()))
        };
        let redirect = r#"{"id":"pid1t","status":"X","urls":[{"purpose":"REDIRECT","method":"GET","url":"https://bank.example/1","order":1}]}"#;
        assert_eq!(
            read(redirect).unwrap().url.as_deref(),
            Some("https://bank.example/1")
        );
        assert!(
            read(r#"{"id":"pid1t","status":"AUTHORIZED"}"#)
                .unwrap()
                .url
                .is_none()
        );
        assert!(read(&redirect.replace("https", "javascript")).is_none());
        assert!(read(&redirect.replace("REDIRECT", "IFRAME")).is_none());
        assert!(read(&redirect.replace("GET", "POST")).is_none());
    }
}
