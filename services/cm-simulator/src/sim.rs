//! What can a test driver see that CM's own API does not offer?
//!
//! Open to whoever reaches it, so the listener belongs on loopback. Bodies must be sent as JSON, which a foreign web
//! page cannot do without asking first.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::stream;
use serde::{Deserialize, Serialize};

use crate::{
    app::{App, Reply},
    clock::to_millis,
    order::Order,
    scenario::{SCENARIOS, Scenario},
};

/// Rows looked at per chunk: the state is locked that long, and a chunk is some 400 KB at most.
const LEDGER_CHUNK_ROWS: usize = 1_000;
/// Orders in one answer, the newest first; filters find older ones.
const ORDERS_LISTED_MAX: usize = 1_000;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/sim/ledger", get(ledger))
        .route("/sim/orders", get(orders))
        .route("/sim/orders/{order_key}/scenario", post(set_scenario))
        .route(
            "/sim/scenarios",
            get(async || Reply::json(StatusCode::OK, &SCENARIOS)),
        )
}

#[derive(Debug, Default, Deserialize)]
struct Filter {
    order_key: Option<String>,
    reference: Option<String>,
}

impl Filter {
    fn admits(&self, order_key: Option<&str>, reference: Option<&str>) -> bool {
        let fits =
            |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|w| is == Some(w));
        fits(&self.order_key, order_key) && fits(&self.reference, reference)
    }
}

fn filter(query: Result<Query<Filter>, QueryRejection>) -> Result<Filter, Reply> {
    query
        .map(|Query(filter)| filter)
        .map_err(|_| Reply::messages(StatusCode::BAD_REQUEST, ["use order_key or reference, each once"]))
}

/// NDJSON, as long as the ledger was when it was asked for.
async fn ledger(
    State(app): State<Arc<App>>,
    query: Result<Query<Filter>, QueryRejection>,
) -> Result<Response, Reply> {
    let filter = filter(query)?;
    let end = app.state().ledger.len();
    let chunks = stream::unfold(0, move |from| {
        let chunk = (from < end).then(|| {
            let to = (from + LEDGER_CHUNK_ROWS).min(end);
            let mut chunk = Vec::new();
            for row in app.state().ledger.slice(from, to) {
                if filter.admits(row.about.order_key.as_deref(), row.about.reference.as_deref()) {
                    serde_json::to_writer(&mut chunk, row).expect("rows are plain structs with text keys");
                    chunk.push(b'\n');
                }
            }
            (Ok::<_, Infallible>(chunk), to)
        });
        std::future::ready(chunk)
    });
    Ok((
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(chunks),
    )
        .into_response())
}

#[derive(Debug, Serialize)]
struct SimOrder<'a> {
    order_key: &'a str,
    order_reference: &'a str,
    amount: i64,
    currency: &'a str,
    scenario: String,
    created: String,
    authorized: i64,
    safe: bool,
    menu_url: String,
    notifications_pending: usize,
    payments: Vec<SimPayment<'a>>,
}

#[derive(Debug, Serialize)]
struct SimPayment<'a> {
    id: &'a str,
    method: &'static str,
    state: &'static str,
    amount: i64,
    bank_url: String,
    link_given: bool,
}

async fn orders(
    State(app): State<Arc<App>>,
    query: Result<Query<Filter>, QueryRejection>,
) -> Result<Reply, Reply> {
    let filter = filter(query)?;
    let state = app.state();
    let orders: Vec<_> = state
        .orders()
        .rev()
        .filter(|order| filter.admits(Some(&order.key), Some(&order.reference)))
        .take(ORDERS_LISTED_MAX)
        .map(|order| sim_order(&app, order))
        .collect();
    Ok(Reply::json(StatusCode::OK, &orders))
}

fn sim_order<'a>(app: &App, order: &'a Order) -> SimOrder<'a> {
    SimOrder {
        order_key: &order.key,
        order_reference: &order.reference,
        amount: order.amount_minor,
        currency: &order.currency,
        scenario: order.scenario.name().into_owned(),
        created: to_millis(order.created_at),
        authorized: order.authorized_minor(),
        safe: order.safe_since.is_some(),
        menu_url: app.menu_url(&order.key, &order.language),
        notifications_pending: order.notifications_pending,
        payments: order
            .payments
            .iter()
            .map(|payment| SimPayment {
                id: &payment.id,
                method: payment.method.word(),
                state: payment.phase.state(),
                amount: payment.amount_minor,
                bank_url: app.bank_url(payment.method, &payment.trxid),
                link_given: payment.link_given,
            })
            .collect(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioBody {
    scenario: String,
}

async fn set_scenario(
    State(app): State<Arc<App>>,
    Path(order_key): Path<String>,
    body: Result<Json<ScenarioBody>, JsonRejection>,
) -> Result<Reply, Reply> {
    let Json(body) = body.map_err(bad_json)?;
    let scenario = parse_scenario(&body.scenario)?;
    let mut state = app.state();
    let order = state.order_mut(&order_key).ok_or_else(unknown_order)?;
    order.scenario = scenario;
    Ok(Reply::json(StatusCode::OK, &sim_order(&app, order)))
}

pub(crate) fn parse_scenario(name: &str) -> Result<Scenario, Reply> {
    Scenario::parse(name, None)
        .map_err(|unknown| Reply::messages(StatusCode::BAD_REQUEST, [unknown.to_string()]))
}

pub(crate) fn bad_json(rejection: JsonRejection) -> Reply {
    Reply::messages(rejection.status(), [rejection.body_text()])
}

pub(crate) fn unknown_order() -> Reply {
    let message = "no such order here: it is made when its first payment starts, and without a state_dir a restart forgets it";
    Reply::messages(StatusCode::NOT_FOUND, [message])
}
