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
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    app::{App, Exchange, Reply, hang_up},
    clock::{self, to_seconds},
    fault::Felt,
    ledger::{About, Op},
    order::{Method, Order, Phase},
    order_request,
    scenario::{Scenario, StartFault},
    state::{CreateRefusal, StartRefusal},
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
    let exchange = match app.received(Op::Create, about, bytes) {
        Ok(exchange) => exchange,
        Err(full) => return full.into_response(),
    };
    let ready = admit(&app, &merchant_key, &headers).and_then(|()| json_body(&headers, json));
    let json = match ready {
        Ok(json) => json,
        Err(refusal) => return exchange.answer(refusal),
    };
    let felt = app.state().feel(Op::Create);
    let exchange = match before_effect(&app, exchange, felt).await {
        Ok(exchange) => exchange,
        Err(response) => return response,
    };
    match create_order(&app, &headers, &json) {
        Ok((order_key, lost, reply)) => {
            let mut exchange = exchange;
            exchange.about.order_key = Some(order_key);
            let fault = if lost {
                Some(StartFault::NeverAnswer)
            } else {
                felt.fault
            };
            after_effect(&app, exchange, fault, felt.latency_ms, reply).await
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
    let now = state.now();
    match state.create(now, new, scenario) {
        Ok(order) => {
            let reply = Reply::json(
                StatusCode::CREATED,
                &CreatedBody {
                    order_key: &order.key,
                    url: app.menu_url(&order.key, &order.language),
                    expires_on: to_seconds(order.expires_at),
                },
            );
            Ok((order.key.clone(), order.answer_lost, reply))
        }
        Err(CreateRefusal::DuplicateReference) => Err(bad("Merchant order reference is not unique.".into())),
        Err(CreateRefusal::Full) => {
            tracing::warn!("the simulator is full and new orders are refused: start it anew");
            let message = "The simulator holds as many orders as it can: start it anew, with an empty state_dir if it \
                           has one.";
            Err(Reply::messages(StatusCode::SERVICE_UNAVAILABLE, [message]))
        }
    }
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
    if let Err(refusal) = admit(&app, &merchant_key, &headers) {
        return exchange.answer(refusal);
    }
    let felt = app.state().feel(Op::Status);
    let exchange = match before_effect(&app, exchange, felt).await {
        Ok(exchange) => exchange,
        Err(response) => return response,
    };
    let reply = {
        let state = app.state();
        let now = state.now();
        state.order(&order_key).map_or_else(not_found, |order| {
            Reply::json(StatusCode::OK, &detail_body(order, now))
        })
    };
    after_effect(&app, exchange, felt.fault, felt.latency_ms, reply).await
}

async fn start(
    State(app): State<Arc<App>>,
    Path((merchant_key, order_key)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let (json, bytes) = read(&body);
    let exchange = match app.received(Op::Start, about(&app, &order_key), bytes) {
        Ok(exchange) => exchange,
        Err(full) => return full.into_response(),
    };
    let checked = admit(&app, &merchant_key, &headers)
        .and_then(|()| json_body(&headers, json))
        .and_then(|json| check_start(&app, &order_key, &json));
    let (method, scenario) = match checked {
        Ok(checked) => checked,
        Err(refusal) => return exchange.answer(refusal),
    };
    let mut felt = app.state().feel(Op::Start);
    if felt.fault.is_none() {
        match scenario.plan().start {
            StartFault::AnswerLater => felt.latency_ms += scenario.delay_ms(),
            fault => felt.fault = Some(fault),
        }
    }
    let mut exchange = match before_effect(&app, exchange, felt).await {
        Ok(exchange) => exchange,
        Err(response) => return response,
    };
    let started = match app.start(Op::Start, &order_key, method).await {
        Ok(started) => started,
        Err(StartRefusal::UnknownOrder) => return exchange.answer(not_found()),
        Err(StartRefusal::Expired | StartRefusal::TooManyPayments) => {
            let message = "Payment for order could not be authorized.";
            return exchange.answer(Reply::messages(StatusCode::BAD_REQUEST, [message]));
        }
    };
    exchange.about.payment_id = Some(started.payment_id.clone());
    let reply = Reply::json(
        StatusCode::CREATED,
        &StartedBody {
            id: &started.payment_id,
            status: Phase::AtTheBank.state(),
            urls: [StartUrl {
                purpose: "REDIRECT",
                method: "GET",
                url: app.bank_url(method, &started.trxid),
                order: 1,
            }],
        },
    );
    let answered = matches!(felt.fault, None | Some(StartFault::None));
    let response = after_effect(&app, exchange, felt.fault, felt.latency_ms, reply).await;
    if answered {
        app.state().link_given(&started.trxid);
    }
    response
}

/// What a call feels before it has done anything; it goes on with the exchange, or is over.
async fn before_effect(app: &App, exchange: Exchange, felt: Felt) -> Result<Exchange, Response> {
    match felt.fault {
        Some(StartFault::Answer503WithoutEffect) => {
            wait(app, felt.latency_ms).await;
            Err(exchange.answer(unavailable()))
        }
        Some(StartFault::NeverAnswerWithoutEffect) => Err(never_answer(app, exchange).await),
        Some(
            StartFault::None | StartFault::AnswerLater | StartFault::NeverAnswer | StartFault::Answer503,
        )
        | None => Ok(exchange),
    }
}

/// What becomes of the answer to a call that has done its work.
async fn after_effect(
    app: &App,
    exchange: Exchange,
    fault: Option<StartFault>,
    latency_ms: u64,
    reply: Reply,
) -> Response {
    match fault {
        Some(StartFault::NeverAnswer) => return never_answer(app, exchange).await,
        Some(StartFault::Answer503) => {
            wait(app, latency_ms).await;
            return exchange.answer(unavailable());
        }
        Some(
            StartFault::None
            | StartFault::AnswerLater
            | StartFault::Answer503WithoutEffect
            | StartFault::NeverAnswerWithoutEffect,
        )
        | None => {}
    }
    if !wait(app, latency_ms).await {
        return hang_up();
    }
    exchange.answer(reply)
}

/// By the machine's clock, since a caller is held by it; false when the program stops first.
async fn wait(app: &App, latency_ms: u64) -> bool {
    if latency_ms == 0 {
        return true;
    }
    tokio::select! {
        () = app.stop.cancelled() => false,
        () = tokio::time::sleep(Duration::from_millis(latency_ms)) => true,
    }
}

/// The method, and the story the order is in, if the request is one that CM would take.
fn check_start(app: &App, order_key: &str, body: &Value) -> Result<(Method, Scenario), Reply> {
    let bad = |message: String| Err(Reply::messages(StatusCode::BAD_REQUEST, [message]));
    let scenario = app.state().order(order_key).ok_or_else(not_found)?.scenario;
    match body.get("method") {
        None | Some(Value::Null) => bad("Property 'method' is mandatory".into()),
        // iDEAL chooses the bank on its own page, so `ideal_details` is neither needed nor looked at.
        Some(Value::String(word)) => match Method::parse(word) {
            Some(method) => Ok((method, scenario)),
            None => {
                let word: String = word.chars().take(50).collect();
                bad(format!(
                    "Property 'method' must be a method that is available for the order, '{word}' is not"
                ))
            }
        },
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
    captures: Vec<MoveBody<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chargebacks: Vec<MoveBody<'a>>,
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
struct MoveBody<'a> {
    amount: i64,
    currency: &'a str,
    state: &'static str,
    date_last_modified: String,
}

fn detail_body(order: &Order, now: Timestamp) -> DetailBody<'_> {
    // The mix-up of a story: everything that names the order or its payment is another's.
    let foreign = order.scenario.plan().foreign_report && order.safe_since.is_some();
    let shown = order
        .payments
        .iter()
        .filter(|payment| payment.visible_from <= now);
    let payments = shown.map(|payment| {
        let currency = &*payment.currency;
        let (amount, confidence, captures) = match payment.phase {
            Phase::Authorized {
                amount_minor: amount,
                captured_at,
            } => (
                amount,
                Some("ACQUIRER_APPROVED"),
                vec![MoveBody {
                    amount,
                    currency,
                    state: "CAPTURED",
                    date_last_modified: to_seconds(captured_at),
                }],
            ),
            Phase::AtTheBank | Phase::InReview | Phase::Ended(_) => (payment.amount_minor, None, Vec::new()),
        };
        let chargebacks = payment.charged_back_at.map(|at| MoveBody {
            amount,
            currency,
            state: "CHARGED",
            date_last_modified: to_seconds(at),
        });
        PaymentBody {
            id: if foreign { "pid4900000000t" } else { &payment.id },
            method: payment.method.word(),
            authorization: AuthorizationBody {
                amount,
                currency,
                confidence,
                state: payment.phase.state(),
                reason: payment.phase.reason(),
            },
            captures,
            chargebacks: chargebacks.into_iter().collect(),
        }
    });
    DetailBody {
        order_reference: if foreign {
            "another-shoppers-order"
        } else {
            &order.reference
        },
        description: &order.description,
        amount: order.amount_minor,
        currency: &order.currency,
        email: &order.email,
        language: &order.language,
        country: &order.country,
        profile: order.profile.as_deref(),
        timestamp: to_seconds(order.created_at),
        expires_on: to_seconds(order.expires_at),
        // Whether it goes away after a chargeback is not known: it stays, so that nobody may rely on its going.
        considered_safe: order.considered_safe().map(|(level, since)| ConsideredSafe {
            level,
            timestamp: to_seconds(since),
        }),
        payments: payments.collect(),
    }
}
