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
    fault::Felt,
    ledger::{About, Op},
    order::{Method, NewOrder, Order, Phase},
    order_request, report,
    scenario::{CallFault, Scenario, Timing},
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
    let (scenario, new) = match asked_for(&headers, &json) {
        Ok(asked) => asked,
        Err(refusal) => return exchange.answer(refusal),
    };
    let mut felt = app.state().feel(Op::Create);
    if felt.fault.is_none() {
        felt.fault = Some(app.state().felt_by_create(&new.reference, scenario));
    }
    let mut exchange = match before_effect(&app, exchange, felt).await {
        Ok(exchange) => exchange,
        Err(response) => return response,
    };
    let fault = felt.fault.unwrap_or(CallFault::None);
    let (order_key, reply) = match create_order(&app, new, scenario, fault) {
        Ok(made) => made,
        Err(refusal) => return exchange.answer(refusal),
    };
    if scenario.plan().timing == Timing::BeforeCreateAnswer {
        app.tell_of(&order_key).await;
    }
    exchange.about.order_key = Some(order_key);
    after_effect(&app, exchange, felt, reply).await
}

/// The story, and the order, if the request is one that CM would take.
fn asked_for(headers: &HeaderMap, body: &Value) -> Result<(Scenario, NewOrder), Reply> {
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
    Ok((scenario, new))
}

/// The order's key, and the answer.
fn create_order(
    app: &App,
    new: NewOrder,
    scenario: Scenario,
    fault: CallFault,
) -> Result<(Arc<str>, Reply), Reply> {
    let not_unique = || {
        let message = "Merchant order reference is not unique.";
        Reply::messages(StatusCode::BAD_REQUEST, [message])
    };
    let mut state = app.state();
    let now = state.now();
    let (order_key, url, expires_on) = match state.create(now, new, scenario, fault != CallFault::None) {
        Ok(order) => (
            order.key.clone(),
            app.menu_url(&order.key, &order.language),
            to_seconds(order.expires_at),
        ),
        Err(CreateRefusal::DuplicateReference) => return Err(not_unique()),
        Err(CreateRefusal::Full) => {
            tracing::warn!("the simulator is full and new orders are refused: start it anew");
            let message = "The simulator holds as many orders as it can: start it anew, with an empty state_dir if it \
                           has one.";
            return Err(Reply::messages(StatusCode::SERVICE_UNAVAILABLE, [message]));
        }
    };
    let told = match fault {
        CallFault::SameKey => state.key_before_the_last(),
        _ => None,
    };
    let reply = match fault {
        CallFault::ReferenceTaken => not_unique(),
        _ => Reply::json(
            StatusCode::CREATED,
            &CreatedBody {
                order_key: told.as_ref().unwrap_or(&order_key),
                url,
                expires_on,
            },
        ),
    };
    Ok((order_key, reply))
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
    let mut felt = app.state().feel(Op::Status);
    if felt.fault.is_none() {
        felt.fault = app.state().felt_by_read(&order_key);
    }
    let exchange = match before_effect(&app, exchange, felt).await {
        Ok(exchange) => exchange,
        Err(response) => return response,
    };
    let reply = {
        let state = app.state();
        let now = state.now();
        state.order(&order_key).map_or_else(not_found, |order| {
            Reply::json(StatusCode::OK, &report::written(order, now))
        })
    };
    after_effect(&app, exchange, felt, reply).await
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
    let method = match checked {
        Ok(checked) => checked,
        Err(refusal) => return exchange.answer(refusal),
    };
    let mut felt = app.state().feel(Op::Start);
    if felt.fault.is_none() {
        // Not in the match itself: the state would be locked in all of it.
        let story = app.state().felt_by_start(&order_key);
        match story {
            CallFault::AnswerLater => {
                let delay_ms = app
                    .state()
                    .order(&order_key)
                    .map_or(0, |order| order.scenario.delay_ms());
                felt.latency_ms += delay_ms;
            }
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
    let answered = matches!(felt.fault, None | Some(CallFault::None));
    let response = after_effect(&app, exchange, felt, reply).await;
    if answered {
        app.state().link_given(&started.trxid);
    }
    response
}

/// What a call feels before it has done anything; it goes on with the exchange, or is over.
async fn before_effect(app: &App, exchange: Exchange, felt: Felt) -> Result<Exchange, Response> {
    let refused = match felt.fault {
        Some(CallFault::Answer503WithoutEffect) => unavailable(felt.retry_after_s),
        Some(CallFault::TurnedAway(status)) => turned_away(status, felt.retry_after_s),
        Some(CallFault::Refused(status)) => refused(status),
        Some(CallFault::NeverAnswerWithoutEffect) => return Err(never_answer(app, exchange).await),
        Some(
            CallFault::None
            | CallFault::AnswerLater
            | CallFault::NeverAnswer
            | CallFault::Answer503
            | CallFault::ReferenceTaken
            | CallFault::SameKey
            | CallFault::Garbled(_),
        )
        | None => return Ok(exchange),
    };
    wait(app, felt.latency_ms).await;
    Err(exchange.answer(refused))
}

/// What becomes of the answer to a call that has done its work.
async fn after_effect(app: &App, exchange: Exchange, felt: Felt, reply: Reply) -> Response {
    if felt.fault == Some(CallFault::NeverAnswer) {
        return never_answer(app, exchange).await;
    }
    if !wait(app, felt.latency_ms).await {
        return hang_up();
    }
    match felt.fault {
        Some(CallFault::Answer503) => exchange.answer(unavailable(felt.retry_after_s)),
        Some(CallFault::Garbled(garble)) => exchange.spoilt(reply, garble),
        Some(
            CallFault::None
            | CallFault::AnswerLater
            | CallFault::NeverAnswer
            | CallFault::Answer503WithoutEffect
            | CallFault::NeverAnswerWithoutEffect
            | CallFault::TurnedAway(_)
            | CallFault::Refused(_)
            | CallFault::ReferenceTaken
            | CallFault::SameKey,
        )
        | None => exchange.answer(reply),
    }
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

/// The method, if the request is one that CM would take.
fn check_start(app: &App, order_key: &str, body: &Value) -> Result<Method, Reply> {
    let bad = |message: String| Err(Reply::messages(StatusCode::BAD_REQUEST, [message]));
    app.state().order(order_key).ok_or_else(not_found)?;
    match body.get("method") {
        None | Some(Value::Null) => bad("Property 'method' is mandatory".into()),
        // iDEAL chooses the bank on its own page, so `ideal_details` is neither needed nor looked at.
        Some(Value::String(word)) => match Method::parse(word) {
            Some(method) => Ok(method),
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

fn unavailable(retry_after_s: Option<u64>) -> Reply {
    let mut reply = Reply::messages(
        StatusCode::SERVICE_UNAVAILABLE,
        ["The service is temporarily unavailable."],
    );
    come_again(&mut reply, retry_after_s);
    reply
}

/// CM's own document, before the request was looked at.
fn turned_away(status: u16, retry_after_s: Option<u64>) -> Reply {
    let (status, message) = match status {
        401 => (
            StatusCode::UNAUTHORIZED,
            "Authorization is missing or not correct.",
        ),
        403 => (StatusCode::FORBIDDEN, "This address may not use the account."),
        _ => (StatusCode::TOO_MANY_REQUESTS, "Too many requests."),
    };
    let mut reply = Reply::messages(status, [message]);
    if status == StatusCode::TOO_MANY_REQUESTS {
        come_again(&mut reply, Some(retry_after_s.unwrap_or(1)));
    }
    reply
}

/// A refusal with a code beside its words, which CM's documents do not have today.
fn refused(status: u16) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
    let body =
        serde_json::json!({ "messages": ["A rule that is new refuses this."], "error_code": "NEW_RULE" });
    Reply::json(status, &body)
}

fn come_again(reply: &mut Reply, retry_after_s: Option<u64>) {
    if let Some(seconds) = retry_after_s {
        reply
            .headers
            .push((header::RETRY_AFTER, HeaderValue::from(seconds)));
    }
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
