//! What does a shopper see and decide at the test bank?
//!
//! A form without JavaScript. A plain button does what it says; a scenario's button first puts the order in that
//! scenario, then presses what its story presses.

use std::{fmt::Write as _, sync::Arc};

use axum::{
    Form, Router,
    extract::{Query, State, rejection::FormRejection, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;

use crate::{
    app::{App, Reply},
    html,
    ledger::Op,
    scenario::Scenario,
    state::{BankResult, Order, Payment, Phase},
};

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/ps_sim/ideal", get(show).post(press))
}

#[derive(Debug, Deserialize)]
struct BankQuery {
    trxid: String,
}

#[derive(Debug, Deserialize)]
struct PressForm {
    trxid: String,
    result: String,
}

async fn show(State(app): State<Arc<App>>, query: Result<Query<BankQuery>, QueryRejection>) -> Response {
    let state = app.state();
    let found = query.ok().and_then(|Query(query)| state.at_bank(&query.trxid));
    found
        .map_or_else(html::not_found, |(order, payment)| bank(order, payment))
        .into_response()
}

async fn press(State(app): State<Arc<App>>, form: Result<Form<PressForm>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else {
        return html::not_found().into_response();
    };
    let Some((about, order_key)) = app
        .state()
        .at_bank(&form.trxid)
        .map(|(order, payment)| (order.about_payment(payment), order.key.clone()))
    else {
        return html::not_found().into_response();
    };
    let exchange = match app.received(Op::Bank, about, &[]) {
        Ok(exchange) => exchange,
        Err(full) => return full.into_response(),
    };
    let pressed = match BankResult::parse(&form.result) {
        Some(pressed) => pressed,
        None => match Scenario::parse(&form.result, None) {
            Ok(scenario) => {
                if let Some(order) = app.state().order_mut(&order_key) {
                    order.scenario = scenario;
                }
                scenario.bank_result()
            }
            Err(_) => {
                let text = "<p>The bank has no such button.</p>\n";
                return exchange.answer(html::page(StatusCode::BAD_REQUEST, "No such button", text));
            }
        },
    };
    let reply = app
        .bank(&form.trxid, pressed)
        .map_or_else(html::not_found, |outcome| {
            outcome
                .return_url
                .map_or_else(html::done, |url| html::see_other(&url))
        });
    exchange.answer(reply)
}

fn bank(order: &Order, payment: &Payment) -> Reply {
    let mut body = String::new();
    // Writing to a string cannot fail, hence the ignored results.
    let _ = writeln!(
        body,
        "<p>{}</p>\n<p>Payment {} for order {}: <strong>{}</strong></p>",
        html::escape(&order.description),
        html::escape(&payment.id),
        html::escape(&order.reference),
        html::money(payment.amount_minor, &order.currency),
    );
    if payment.phase != Phase::AtTheBank {
        let _ = writeln!(body, "<p>This payment has ended: {}.</p>", payment.phase.state());
        return html::page(StatusCode::OK, "Test bank", &body);
    }
    let _ = writeln!(
        body,
        "<form method=\"post\" action=\"/ps_sim/ideal\">\n<input type=\"hidden\" name=\"trxid\" value=\"{}\">",
        html::escape(&payment.trxid),
    );
    for result in BankResult::ALL {
        let word = result.word();
        let _ = writeln!(body, "<button name=\"result\" value=\"{word}\">{word}</button>");
    }
    body.push_str("<h2>Scenarios</h2>\n");
    for scenario in Scenario::AT_THE_BANK {
        let name = scenario.name();
        let _ = writeln!(body, "<button name=\"result\" value=\"{name}\">{name}</button>");
    }
    let _ = writeln!(
        body,
        "</form>\n<p class=\"note\">The order was made with scenario {}.</p>",
        html::escape(&order.scenario.name()),
    );
    html::page(StatusCode::OK, "Test bank", &body)
}
