//! How does an HTTP request become a command or a question? Its shop comes from the API key, its order from the path, and
//! the rest is what NATS carries as well: the same body, the same headers, the same answer.

use std::{sync::Arc, time::Duration};

use async_nats::HeaderMap as Named;
use axum::{
    body::{Body, Bytes},
    extract::{Path, RawQuery, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use kassa_chassis::{
    micro::{Asked, Reply},
    prefer::Preference,
    problem::Problem,
};
use kassa_engine::{WAIT_DEFAULT_S, WAIT_MAX_HTTP_S};
use serde_json::{Map, Value};

use crate::{
    app::App,
    keys::{ApiKey, Scope},
    query,
    refusal::Refused,
};

const JSON: &str = "application/json";
const BATCH: &str = "application/cloudevents-batch+json";

/// Headers that mean the same here and on NATS, as they are written there. The trace is that of the HTTP request's span.
const CARRIED: [&str; 4] = [
    "Idempotency-Key",
    "Prefer",
    "Content-Encoding",
    "Kassa-Command-Version",
];

type Answer = Result<Response, Refused>;

/// Deciding and looking take milliseconds: a database that needs longer hangs, and whoever asks had better ask again.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// For commands and questions about orders: what they are asked to wait for, and what the work may take beyond that.
/// Whoever reads past events reads as much as there is.
pub(crate) fn deadline(request: &Request<Body>) -> Option<Duration> {
    let path = request.uri().path();
    if !path.starts_with("/v1/orders") {
        return None;
    }
    let asked = request
        .headers()
        .get("prefer")
        .and_then(|value| value.to_str().ok())
        .and_then(|text| Preference::parse(text, WAIT_MAX_HTTP_S).ok()?.wait);
    let starts_payment = request.method() == Method::POST && path.ends_with("/payments");
    let unasked = if starts_payment { WAIT_DEFAULT_S } else { 0 };
    Some(ANSWER_MAX + asked.unwrap_or(Duration::from_secs(unasked)))
}

pub(crate) async fn create_order(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Answer {
    let key = app.caller(&headers, Scope::OrdersWrite).await?;
    is_json(&headers)?;
    command(&app, &key, "create_order", &headers, body, StatusCode::CREATED).await
}

pub(crate) async fn start_payment(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let key = app.caller(&headers, Scope::OrdersWrite).await?;
    is_json(&headers)?;
    let body = with_order(&id, &body);
    command(&app, &key, "start_payment", &headers, body, StatusCode::CREATED).await
}

pub(crate) async fn cancel_order(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let key = app.caller(&headers, Scope::OrdersWrite).await?;
    // There need not be a reason, and so there need not be a body.
    let body = if body.is_empty() {
        with_order(&id, b"{}")
    } else {
        is_json(&headers)?;
        with_order(&id, &body)
    };
    command(&app, &key, "cancel_order", &headers, body, StatusCode::OK).await
}

pub(crate) async fn order(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(asked): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let key = app.caller(&headers, Scope::OrdersRead).await?;
    let mut body = query::as_body(query::parse(asked.as_deref(), &["min_position"])?, &[]);
    body.insert("order_id".to_owned(), id.into());
    question(&app, &key, "get_order", &headers, body, JSON).await
}

/// One order by the shop's own reference, or a page of all.
pub(crate) async fn orders(
    State(app): State<Arc<App>>,
    RawQuery(asked): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let key = app.caller(&headers, Scope::OrdersRead).await?;
    let one = form_urlencoded::parse(asked.as_deref().unwrap_or_default().as_bytes())
        .any(|(name, _)| name == "order_reference");
    if one {
        let given = query::parse(asked.as_deref(), &["order_reference", "min_position"])?;
        return question(
            &app,
            &key,
            "get_order",
            &headers,
            query::as_body(given, &[]),
            JSON,
        )
        .await;
    }
    // Not given here, and known: whoever misspells it is told of it.
    let known = ["order_reference", "status", "limit", "after"];
    let given = query::parse(asked.as_deref(), &known)?;
    let kept: Vec<_> = given
        .iter()
        .filter(|(name, _)| name != "after")
        .cloned()
        .collect();
    let body = query::as_body(given, &["limit"]);
    accepts(&headers, &[JSON])?;
    let asked = ask(&key, "list_orders", &headers, body);
    let reply = app.queries.answer(&asked).await;
    let next = reply.result.as_ref().ok().and_then(|bytes| {
        let page: Value = serde_json::from_slice(bytes).ok()?;
        page["next"].as_str().map(str::to_owned)
    });
    let mut response = respond(reply, StatusCode::OK, JSON)?;
    if let Some(next) = next {
        link(&mut response, "/v1/orders", &kept, &next);
    }
    Ok(response)
}

pub(crate) async fn order_events(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(asked): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let key = app.caller(&headers, Scope::EventsRead).await?;
    let mut body = query::as_body(query::parse(asked.as_deref(), &[])?, &[]);
    body.insert("order_id".to_owned(), id.into());
    question(&app, &key, "get_order_events", &headers, body, BATCH).await
}

pub(crate) async fn why(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(asked): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let key = app.caller(&headers, Scope::OrdersRead).await?;
    let mut body = query::as_body(query::parse(asked.as_deref(), &[])?, &[]);
    body.insert("order_id".to_owned(), id.into());
    question(&app, &key, "explain_order", &headers, body, JSON).await
}

pub(crate) async fn methods(
    State(app): State<Arc<App>>,
    RawQuery(asked): RawQuery,
    headers: HeaderMap,
) -> Answer {
    let key = app.caller(&headers, Scope::OrdersRead).await?;
    let known = ["country", "currency", "amount", "language", "device"];
    let body = query::as_body(query::parse(asked.as_deref(), &known)?, &["amount"]);
    question(&app, &key, "list_methods", &headers, body, JSON).await
}

async fn command(
    app: &App,
    key: &ApiKey,
    verb: &str,
    headers: &HeaderMap,
    body: Bytes,
    success: StatusCode,
) -> Answer {
    // Before anything is decided: an answer that nobody can read is no answer.
    accepts(headers, &[JSON])?;
    let asked = Asked {
        shop: key.shop.clone(),
        verb: verb.to_owned(),
        headers: Some(carried(headers)),
        body,
    };
    // Whether it is there and well-formed is judged by whoever judges it for NATS.
    let name = headers
        .get("idempotency-key")
        .and_then(|value| value.to_str().ok());
    let _taken = name.map(|name| app.take(&key.shop, name)).transpose()?;
    respond(app.commands.answer(&asked).await, success, JSON)
}

async fn question(
    app: &App,
    key: &ApiKey,
    verb: &str,
    headers: &HeaderMap,
    body: Map<String, Value>,
    kind: &'static str,
) -> Answer {
    // What was asked for is what it is called: a batch is JSON as well.
    let kind = accepts(headers, &[kind, JSON])?;
    let asked = ask(key, verb, headers, body);
    respond(app.queries.answer(&asked).await, StatusCode::OK, kind)
}

fn ask(key: &ApiKey, verb: &str, headers: &HeaderMap, body: Map<String, Value>) -> Asked {
    Asked {
        shop: key.shop.clone(),
        verb: verb.to_owned(),
        headers: Some(carried(headers)),
        body: Value::Object(body).to_string().into(),
    }
}

fn carried(headers: &HeaderMap) -> Named {
    let mut named = Named::new();
    for name in CARRIED {
        for value in headers.get_all(name) {
            // What is not text is not left out: it must be refused where a good one would be taken.
            named.append(name, String::from_utf8_lossy(value.as_bytes()).as_ref());
        }
    }
    named
}

/// A body that is not JSON by its own word is not guessed at.
fn is_json(headers: &HeaderMap) -> Result<(), Box<Problem>> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let kind = kinds
        .next()
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut parts = kind.split(';').map(str::trim);
    let json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(JSON));
    let utf8 = parts.filter(|part| !part.is_empty()).all(|part| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        !name.eq_ignore_ascii_case("charset") || value.trim_matches('"').eq_ignore_ascii_case("utf-8")
    });
    if json && utf8 && kinds.next().is_none() {
        return Ok(());
    }
    Err(Box::new(Problem::of(
        "unsupported_media_type",
        "Content-Type must be application/json, in UTF-8",
        "send the body as JSON, and say so",
    )))
}

/// Which of `kinds`, the best one first, the caller takes; the first where he does not say.
///
/// # Errors
/// 406 `not_acceptable`.
pub(crate) fn accepts(headers: &HeaderMap, kinds: &[&'static str]) -> Result<&'static str, Box<Problem>> {
    let given: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .collect();
    let taken = |kind: &str| {
        given.is_empty()
            || given.iter().any(|range| {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next().unwrap_or_default();
                let refused = parts.any(|part| ["q=0", "q=0.0", "q=0.00", "q=0.000"].contains(&part));
                let family = kind.split('/').next().unwrap_or_default();
                let fits = name == "*/*"
                    || name.eq_ignore_ascii_case(kind)
                    || name
                        .strip_suffix("/*")
                        .is_some_and(|wanted| wanted.eq_ignore_ascii_case(family));
                fits && !refused
            })
    };
    let found = kinds.iter().copied().find(|kind| taken(kind));
    found.ok_or_else(|| {
        Box::new(Problem::of(
            "not_acceptable",
            format!("Accept: there is {}", kinds.join(", ")),
            "ask for one of the forms named in detail, or leave Accept out",
        ))
    })
}

/// The body with the order of the path in it. Bytes are put in front, so that what follows is still read as it was sent:
/// an `order_id` of its own is a field given twice.
fn with_order(id: &str, body: &[u8]) -> Bytes {
    let start = body.iter().position(|b| !b" \t\r\n".contains(b));
    let Some((start, rest)) = start.and_then(|at| Some((at, body[at..].strip_prefix(b"{")?))) else {
        return Bytes::copy_from_slice(body);
    };
    let empty = rest.iter().find(|b| !b" \t\r\n".contains(b)) == Some(&b'}');
    let named = format!(
        "{{\"order_id\":{}{}",
        Value::from(id),
        if empty { "" } else { "," }
    );
    [&body[..start], named.as_bytes(), rest].concat().into()
}

pub(crate) fn respond(reply: Reply, success: StatusCode, kind: &'static str) -> Answer {
    let beside: Vec<(HeaderName, HeaderValue)> = reply
        .headers()
        .filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?)))
        .collect();
    let mut response = match reply.result {
        Ok(bytes) => (success, [(header::CONTENT_TYPE, kind)], bytes).into_response(),
        Err(problem) => Refused(problem).into_response(),
    };
    // Of one shop, and true now: no cache in between may keep it.
    let private = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, private);
    response.headers_mut().extend(beside);
    Ok(response)
}

/// RFC 8288: where the next page is.
pub(crate) fn link(response: &mut Response, path: &str, kept: &[(String, String)], after: &str) {
    let mut next = form_urlencoded::Serializer::new(String::new());
    next.extend_pairs(kept).append_pair("after", after);
    let value = format!("<{path}?{}>; rel=\"next\"", next.finish());
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(header::LINK, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_path_stands_first_in_the_body_and_nothing_else_is_changed() {
        let spliced = |body: &[u8]| String::from_utf8_lossy(&with_order("ord_1", body)).into_owned();
        assert_eq!(
            spliced(br#"{"method":"ideal"}"#),
            r#"{"order_id":"ord_1","method":"ideal"}"#
        );
        assert_eq!(spliced(b" { } "), r#" {"order_id":"ord_1" } "#);
        assert_eq!(
            spliced(br#"{"order_id":"x"}"#),
            r#"{"order_id":"ord_1","order_id":"x"}"#,
            "given twice, and refused as such"
        );
        for other in ["", "[]", "null", "\u{feff}{}", "x{"] {
            assert_eq!(spliced(other.as_bytes()), other);
        }
        let quoted = String::from_utf8_lossy(&with_order("a\"},{\"b", b"{}")).into_owned();
        assert_eq!(quoted, r#"{"order_id":"a\"},{\"b"}"#);
    }

    #[test]
    fn an_answer_has_ten_seconds_beside_what_it_is_asked_to_wait_for() {
        let seconds = |method: Method, path: &str, prefer: &str| {
            let mut request = Request::new(Body::empty());
            *request.method_mut() = method;
            *request.uri_mut() = path.parse().expect("a path");
            let value = HeaderValue::from_str(prefer).expect("a header");
            request.headers_mut().insert("prefer", value);
            deadline(&request).map(|deadline| deadline.as_secs())
        };
        let (get, post) = (Method::GET, Method::POST);
        assert_eq!(seconds(post.clone(), "/v1/orders", ""), Some(10));
        assert_eq!(seconds(post.clone(), "/v1/orders/ord_1/payments", ""), Some(20));
        assert_eq!(
            seconds(post.clone(), "/v1/orders/ord_1/payments", "wait=2"),
            Some(12)
        );
        assert_eq!(seconds(post, "/v1/orders/ord_1/cancel", ""), Some(10));
        assert_eq!(
            seconds(get.clone(), "/v1/orders/ord_1", "wait=90; for=safe"),
            Some(40)
        );
        assert_eq!(seconds(get.clone(), "/v1/orders/ord_1", "wait=soon"), Some(10));
        assert_eq!(seconds(get, "/v1/events", ""), None);
    }

    #[test]
    fn the_form_is_the_callers_choice_among_those_that_there_are() {
        let chosen = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            accepts(&headers, &[JSON, "application/x-ndjson"]).map_err(|problem| problem.status)
        };
        assert_eq!(accepts(&HeaderMap::new(), &[JSON]).ok(), Some(JSON));
        for any in ["*/*", "application/*", "text/html, application/json;q=0.9", ""] {
            assert_eq!(chosen(any), Ok(JSON), "{any}");
        }
        assert_eq!(chosen("application/x-ndjson"), Ok("application/x-ndjson"));
        assert_eq!(chosen("text/html"), Err(406));
        assert_eq!(chosen("application/json;q=0"), Err(406));
    }

    #[test]
    fn only_json_in_utf_8_is_taken() {
        let judged = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_str(kind).expect("a header"),
            );
            is_json(&headers).is_ok()
        };
        assert!(judged("application/json") && judged("Application/JSON; charset=UTF-8"));
        for wrong in [
            "",
            "text/plain",
            "application/json; charset=utf-16",
            "application/jsonp",
            "*/*",
        ] {
            assert!(!judged(wrong), "{wrong}");
        }
    }
}
