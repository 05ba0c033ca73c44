//! What may a stranger at the notification URL do? Leave a reference. Nothing else is looked at, and every well-formed call
//! gets the same answer.

use std::time::Duration;

use axum::{
    Router,
    body::Bytes,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::any,
};
use kassa_chassis::{metrics, trace::Span};
use kassa_domain::ids::Shop;

use crate::store::{Hints, NotKept};

const PSP: &str = "cm";
/// CM's limit for a merchant reference, in characters.
const REFERENCE_MAX: usize = 255;
/// A reference of 255 characters, percent-encoded, with the rest of a URL.
const QUERY_MAX: usize = 4 * 1024;
/// No reference is answered sooner: an order of ours costs a statement or two more than a stranger, and the difference would
/// tell which references exist. A sixth of the hundred milliseconds that CM may be kept waiting.
const ANSWERED_AFTER: Duration = Duration::from_millis(16);

pub(crate) fn router(hints: Hints) -> Router {
    Router::new()
        .route("/hooks/cm/{shop}", any(hook))
        .with_state(hints)
}

async fn hook(
    State(hints): State<Hints>,
    Path(shop): Path<String>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    // HEAD is what crawlers and scanners send; it must have no effect.
    if method != Method::GET && method != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, POST")]).into_response();
    }
    let Ok(shop) = Shop::parse(&shop) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let query = query.unwrap_or_default();
    if query.len() > QUERY_MAX {
        return StatusCode::URI_TOO_LONG.into_response();
    }
    let form = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| {
            kind.trim()
                .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    let reference = if method == Method::POST && form && !body.is_empty() {
        // One of both, not one hidden behind the other.
        if query.is_empty() { reference(&body) } else { None }
    } else {
        reference(query.as_bytes())
    };
    let Some(reference) = reference else {
        tracing::debug!(%shop, "a notification without one proper id");
        metrics::notification(PSP, "malformed");
        return (StatusCode::BAD_REQUEST, "id is missing or malformed\n").into_response();
    };
    let not_before = tokio::time::Instant::now() + ANSWERED_AFTER;
    // Whatever trace the caller names is a stranger's; ours begins here.
    let span = Span::server("GET /hooks/cm/{shop}", None)
        .with("kassa.psp", PSP)
        .with("kassa.shop", shop.as_str());
    let kept = span.run(hints.keep(shop, reference)).await;
    metrics::notification(PSP, if kept.is_ok() { "stored" } else { "not_stored" });
    tokio::time::sleep_until(not_before).await;
    match kept {
        Ok(()) => StatusCode::OK.into_response(),
        // Logged by whoever tried to store it.
        Err(NotKept) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// The one `id`, decoded once; `None` where it is missing, repeated, an array, too long, not plain text, or encoded twice.
fn reference(pairs: &[u8]) -> Option<String> {
    let mut ids = form_urlencoded::parse(pairs).filter(|(name, _)| name == "id" || name.starts_with("id["));
    let (name, id) = ids.next()?;
    let plain = name == "id"
        && ids.next().is_none()
        && (1..=REFERENCE_MAX).contains(&id.chars().count())
        // Also U+FFFD, by which the decoder stands in for what is not UTF-8.
        && !id.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
        // Orders' references have no such sign: what still has one after decoding was encoded twice.
        && !id.contains('%');
    plain.then(|| id.into_owned())
}

#[cfg(test)]
mod tests {
    use super::reference;

    #[test]
    fn one_plain_id_is_taken_and_nothing_else() {
        assert_eq!(reference(b"id=A-1").as_deref(), Some("A-1"));
        assert_eq!(
            reference(b"id=A%2D1&status=paid&safe=true&amount=0").as_deref(),
            Some("A-1")
        );
        for wrong in [
            "",
            "id=",
            "ID=x",
            "id=a&id=b",
            "id[]=a",
            "id[0]=a",
            "id=a%00",
            "id=a%0Ab",
            "id=%ff",
            "id=A%252D1",
            "id=A%250Ab",
            "x=1",
        ] {
            assert_eq!(reference(wrong.as_bytes()), None, "{wrong}");
        }
        assert!(reference(format!("id={}", "x".repeat(255)).as_bytes()).is_some());
        assert!(reference(format!("id={}", "x".repeat(256)).as_bytes()).is_none());
    }
}
