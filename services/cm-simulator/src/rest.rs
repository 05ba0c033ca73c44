//! What does CM's REST v1 API answer?
//!
//! Order: Basic auth (401), merchant key (404), the request's own merits. All errors are `{"messages":[…]}`. Bodies
//! that cannot be read, and times that never come, are the caller's to survive; the ledger has a row for each.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State, rejection::BytesRejection, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    app::{App, Exchange, Reply, hang_up},
    clock::{self, to_seconds},
    ledger::{About, Op},
    order_request,
    scenario::{Scenario, StartFault},
    state::{CreateRefusal, Order, Phase, StartRefusal},
};

const ORDER_NOT_FOUND: &str = "Order could not be found with the given key.";

pub(crate) fn router() -> Router<Arc<App>> {
    let base = "/ps/api/public/v1/merchants/{merchant_key}";
    Router::new()
        .route(&format!("{base}/orders"), post(create).get(list))
        .route(&format!("{base}/orders/{{order_key}}"), get(detail))
        .route(&format!("{base}/orders/{{order_key}}/payments"), post(start))
}

async fn create(
    State(app): State<Arc<App>>,
    Path(merchant_key): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let (json, bytes) = read(&body);
    // For the record only, so whatever looks like it is taken; the checks come below.
    let word = |name: &str| {
        json.as_ref()
            .ok()
            .and_then(|json| json.get(name))
            .and_then(Value::as_str)
    };
    let about = About {
        reference: word("order_reference")
            .filter(|text| text.chars().count() <= 255)
            .map(Into::into),
        currency: word("currency").filter(|text| text.len() == 3).map(Into::into),
        amount: json
            .as_ref()
            .ok()
            .and_then(|json| json.get("amount"))
            .and_then(Value::as_i64),
        ..About::default()
    };
    let mut exchange = match app.received(Op::Create, about, bytes) {
        Ok(exchange) => exchange,
        Err(full) => return full.into_response(),
    };
    let made = admit(&app, &merchant_key, &headers)
        .and_then(|()| json_body(&headers, json))
        .and_then(|json| create_order(&app, &headers, &json));
    match made {
        Ok((order_key, lost, reply)) => {
            exchange.about.order_key = Some(order_key);
            if lost {
                never_answer(&app, exchange).await
            } else {
                exchange.answer(reply)
            }
        }
        Err(refusal) => exchange.answer(refusal),
    }
}

/// The order's key, whether the answer is to be lost, and the answer.
fn create_order(app: &App, headers: &HeaderMap, body: &Value) -> Result<(Arc<str>, bool, Reply), Reply> {
    let bad = |message: String| Reply::messages(StatusCode::BAD_REQUEST, [message]);
    let scenario = match headers.get("x-sim-scenario") {
        None => Scenario::default(),
        Some(name) => {
            let delay_ms = match headers
                .get("x-sim-delay-ms")
                .map(|value| value.to_str().map(str::parse))
            {
                None => None,
                Some(Ok(Ok(ms))) => Some(ms),
                Some(_) => {
                    return Err(bad(
                        "Header 'X-Sim-Delay-Ms' must be a number of milliseconds.".into()
                    ));
                }
            };
            Scenario::parse(&String::from_utf8_lossy(name.as_bytes()), delay_ms)
                .map_err(|unknown| bad(format!("Header 'X-Sim-Scenario': {unknown}.")))?
        }
    };
    let new =
        order_request::parse(body).map_err(|problems| Reply::messages(StatusCode::BAD_REQUEST, problems))?;
    let mut state = app.state();
    let (key, reference, reply) = match state.create(clock::now(), new, scenario) {
        Ok(order) => {
            let reply = Reply::json(
                StatusCode::CREATED,
                &CreatedBody {
                    order_key: &order.key,
                    url: app.menu_url(&order.key, &order.language),
                    expires_on: to_seconds(order.expires_at),
                },
            );
            (order.key.clone(), order.reference.clone(), reply)
        }
        Err(CreateRefusal::DuplicateReference) => {
            return Err(bad("Merchant order reference is not unique.".into()));
        }
        Err(CreateRefusal::Full) => {
            tracing::warn!("the simulator is full and new orders are refused: restart it");
            let message = "The simulator holds as many orders as it can: restart it.";
            return Err(Reply::messages(StatusCode::SERVICE_UNAVAILABLE, [message]));
        }
    };
    Ok((key, state.loses_create_answer(&reference, scenario), reply))
}

async fn detail(
    State(app): State<Arc<App>>,
    Path((merchant_key, order_key)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let exchange = match app.received(Op::Status, about(&app, &order_key), &[]) {
        Ok(exchange) => exchange,
        Err(full) => return full.into_response(),
    };
    let reply = admit(&app, &merchant_key, &headers).and_then(|()| {
        let state = app.state();
        let order = state.order(&order_key).ok_or_else(not_found)?;
        Ok(Reply::json(StatusCode::OK, &detail_body(order)))
    });
    exchange.answer(reply.unwrap_or_else(|refusal| refusal))
}

async fn start(
    State(app): State<Arc<App>>,
    Path((merchant_key, order_key)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let (json, bytes) = read(&body);
    let mut exchange = match app.received(Op::Start, about(&app, &order_key), bytes) {
        Ok(exchange) => exchange,
        Err(full) => return full.into_response(),
    };
    let fault = admit(&app, &merchant_key, &headers)
        .and_then(|()| json_body(&headers, json))
        .and_then(|json| check_start(&app, &order_key, &json));
    let fault = match fault {
        Ok(fault) => fault,
        Err(refusal) => return exchange.answer(refusal),
    };
    if fault == StartFault::Answer503WithoutEffect {
        return exchange.answer(unavailable());
    }
    let started = match app.start(Op::Start, &order_key) {
        Ok(started) => started,
        Err(StartRefusal::UnknownOrder) => return exchange.answer(not_found()),
        Err(StartRefusal::Expired | StartRefusal::TooManyPayments) => {
            let message = "Payment for order could not be authorized.";
            return exchange.answer(Reply::messages(StatusCode::BAD_REQUEST, [message]));
        }
    };
    exchange.about.payment_id = Some(started.payment_id.clone());
    match fault {
        StartFault::None | StartFault::Answer503WithoutEffect => {}
        StartFault::NeverAnswer => return never_answer(&app, exchange).await,
        StartFault::Answer503 => return exchange.answer(unavailable()),
        StartFault::AnswerAfter { delay_ms } => {
            tokio::select! {
                () = app.stop.cancelled() => return hang_up(),
                () = tokio::time::sleep(Duration::from_millis(delay_ms)) => {}
            }
        }
    }
    app.state().link_given(&started.trxid);
    exchange.answer(Reply::json(
        StatusCode::CREATED,
        &StartedBody {
            id: &started.payment_id,
            status: Phase::AtTheBank.state(),
            urls: [StartUrl {
                purpose: "REDIRECT",
                method: "GET",
                url: app.bank_url(&started.trxid),
                order: 1,
            }],
        },
    ))
}

/// What will become of this start, if the request is one that CM would take.
fn check_start(app: &App, order_key: &str, body: &Value) -> Result<StartFault, Reply> {
    let bad = |message: String| Err(Reply::messages(StatusCode::BAD_REQUEST, [message]));
    let fault = app
        .state()
        .order(order_key)
        .ok_or_else(not_found)?
        .scenario
        .start_fault();
    match body.get("method") {
        None | Some(Value::Null) => bad("Property 'method' is mandatory".into()),
        // iDEAL chooses the bank on its own page, so `ideal_details` is neither needed nor looked at.
        Some(Value::String(method)) if method == "IDEAL" => Ok(fault),
        Some(Value::String(method)) => {
            let method: String = method.chars().take(50).collect();
            bad(format!(
                "Property 'method' must be a method that is available for the order, '{method}' is not"
            ))
        }
        Some(_) => bad("Property 'method' must be a string".into()),
    }
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    date: Option<String>,
}

async fn list(
    State(app): State<Arc<App>>,
    Path(merchant_key): Path<String>,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Response {
    let exchange = match app.received(Op::List, About::default(), &[]) {
        Ok(exchange) => exchange,
        Err(full) => return full.into_response(),
    };
    let reply = admit(&app, &merchant_key, &headers).and_then(|()| {
        let date = query.ok().and_then(|Query(query)| query.date);
        let Some(date) = date.and_then(|date| date.parse::<jiff::civil::Date>().ok()) else {
            let message = "Property 'date' must be a date as yyyy-mm-dd";
            return Err(Reply::messages(StatusCode::BAD_REQUEST, [message]));
        };
        let state = app.state();
        // CM documents no pages, and a list that stops somewhere would prove an order absent that is not. The number
        // of orders has a bound of its own.
        let orders: Vec<_> = state
            .orders()
            .filter(|order| clock::day(order.created_at) == date)
            .map(|order| ListedOrder {
                order_reference: &order.reference,
                timestamp: to_seconds(order.created_at),
                expires_on: to_seconds(order.expires_at),
                order_key: &order.key,
                url: app.menu_url(&order.key, &order.language),
            })
            .collect();
        Ok(Reply::json(StatusCode::OK, &orders))
    });
    exchange.answer(reply.unwrap_or_else(|refusal| refusal))
}

/// Holds the call until the client has left, the program stops or the longest hold is over, then hangs up. The
/// exchange is dropped unanswered in each case, also when the client's leaving drops this very future.
async fn never_answer(app: &App, exchange: Exchange) -> Response {
    tokio::select! {
        () = app.stop.cancelled() => {}
        () = tokio::time::sleep(app.hold_max) => {}
    }
    drop(exchange);
    hang_up()
}

/// Who is asking, and for a merchant that is here?
fn admit(app: &App, merchant_key: &str, headers: &HeaderMap) -> Result<(), Reply> {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| STANDARD.decode(encoded.trim()).ok());
    // Digests are compared, so that the time it takes says nothing about the password.
    let known = given.is_some_and(|given| Sha256::digest(given)[..] == app.credentials);
    if !known {
        let mut reply = Reply::messages(
            StatusCode::UNAUTHORIZED,
            ["Authorization is missing or not correct."],
        );
        let realm = HeaderValue::from_static("Basic realm=\"cm-simulator\"");
        reply.headers.push((header::WWW_AUTHENTICATE, realm));
        return Err(reply);
    }
    if merchant_key != app.merchant_key {
        return Err(Reply::messages(
            StatusCode::NOT_FOUND,
            ["Merchant could not be found with the given key."],
        ));
    }
    Ok(())
}

/// The body as JSON, and its bytes for the record (none when it was too large to be read).
fn read(body: &Result<Bytes, BytesRejection>) -> (Result<Value, Reply>, &[u8]) {
    match body {
        Ok(bytes) => {
            let json = serde_json::from_slice(bytes)
                .map_err(|_| Reply::messages(StatusCode::BAD_REQUEST, ["The body must be JSON."]));
            (json, bytes)
        }
        Err(rejection) => (
            Err(Reply::messages(
                rejection.status(),
                ["The body could not be read."],
            )),
            &[],
        ),
    }
}

fn json_body(headers: &HeaderMap, body: Result<Value, Reply>) -> Result<Value, Reply> {
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|mime| mime.trim().eq_ignore_ascii_case("application/json"));
    if !json {
        let message = "Header 'Content-Type' must be application/json.";
        return Err(Reply::messages(StatusCode::BAD_REQUEST, [message]));
    }
    body
}

/// What the ledger can say about an order key out of a path; nothing if it is not one of ours.
fn about(app: &App, order_key: &str) -> About {
    app.state().order(order_key).map(Order::about).unwrap_or_default()
}

fn not_found() -> Reply {
    Reply::messages(StatusCode::NOT_FOUND, [ORDER_NOT_FOUND])
}

fn unavailable() -> Reply {
    Reply::messages(
        StatusCode::SERVICE_UNAVAILABLE,
        ["The service is temporarily unavailable."],
    )
}

#[derive(Debug, Serialize)]
struct CreatedBody<'a> {
    order_key: &'a str,
    url: String,
    expires_on: String,
}

#[derive(Debug, Serialize)]
struct StartedBody<'a> {
    id: &'a str,
    status: &'a str,
    urls: [StartUrl; 1],
}

#[derive(Debug, Serialize)]
struct StartUrl {
    purpose: &'static str,
    method: &'static str,
    url: String,
    order: u32,
}

#[derive(Debug, Serialize)]
struct ListedOrder<'a> {
    order_reference: &'a str,
    timestamp: String,
    expires_on: String,
    order_key: &'a str,
    url: String,
}

/// There is no status and there are no totals: who asks must judge.
#[derive(Debug, Serialize)]
struct DetailBody<'a> {
    order_reference: &'a str,
    description: &'a str,
    amount: i64,
    currency: &'a str,
    email: &'a str,
    language: &'a str,
    country: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
    timestamp: String,
    expires_on: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    considered_safe: Option<ConsideredSafe>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    payments: Vec<PaymentBody<'a>>,
}

#[derive(Debug, Serialize)]
struct ConsideredSafe {
    level: &'static str,
    timestamp: String,
}

#[derive(Debug, Serialize)]
struct PaymentBody<'a> {
    id: &'a str,
    method: &'static str,
    authorization: AuthorizationBody<'a>,
    captures: Vec<CaptureBody<'a>>,
}

#[derive(Debug, Serialize)]
struct AuthorizationBody<'a> {
    amount: i64,
    currency: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<&'static str>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct CaptureBody<'a> {
    amount: i64,
    currency: &'a str,
    state: &'static str,
    date_last_modified: String,
}

fn detail_body(order: &Order) -> DetailBody<'_> {
    let currency = &*order.currency;
    let payments = order.payments.iter().map(|payment| {
        let state = payment.phase.state();
        let reason = payment.phase.reason();
        let (amount, confidence, captures) = match payment.phase {
            Phase::Authorized {
                amount_minor: amount,
                captured_at,
            } => (
                amount,
                Some("ACQUIRER_APPROVED"),
                vec![CaptureBody {
                    amount,
                    currency,
                    state: "CAPTURED",
                    date_last_modified: to_seconds(captured_at),
                }],
            ),
            Phase::AtTheBank | Phase::Ended(_) => (payment.amount_minor, None, Vec::new()),
        };
        PaymentBody {
            id: &payment.id,
            method: "IDEAL",
            authorization: AuthorizationBody {
                amount,
                currency,
                confidence,
                state,
                reason,
            },
            captures,
        }
    });
    DetailBody {
        order_reference: &order.reference,
        description: &order.description,
        amount: order.amount_minor,
        currency,
        email: &order.email,
        language: &order.language,
        country: &order.country,
        profile: order.profile.as_deref(),
        timestamp: to_seconds(order.created_at),
        expires_on: to_seconds(order.expires_at),
        considered_safe: order.safe_since.map(|since| ConsideredSafe {
            level: "SAFE",
            timestamp: to_seconds(since),
        }),
        payments: payments.collect(),
    }
}
