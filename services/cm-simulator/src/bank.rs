//! What does a shopper see and decide at the test bank, or at the test wallet?
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
    app::{App, Played, Reply},
    clock::to_seconds,
    html,
    ledger::Op,
    order::{BankResult, Method, Order, Payment, Phase},
    scenario::Scenario,
};

pub(crate) fn router() -> Router<Arc<App>> {
    // One page under two names: the payment knows its method.
    Router::new()
        .route("/ps_sim/ideal", get(show).post(press))
        .route("/ps_sim/paypal", get(show).post(press))
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
    let played = match (
        BankResult::parse(&form.result),
        Scenario::parse(&form.result, None),
    ) {
        (Some(pressed), _) => app.bank(&form.trxid, pressed).await.map(Played::Pressed),
        (None, Ok(scenario)) => {
            if let Some(order) = app.state().order_mut(&order_key) {
                order.scenario = scenario;
            }
            app.play(&form.trxid, scenario, None).await
        }
        (None, Err(_)) => {
            let text = "<p>The bank has no such button.</p>\n";
            return exchange.answer(html::page(StatusCode::BAD_REQUEST, "No such button", text));
        }
    };
    exchange.answer(match played {
        None => html::not_found(),
        Some(Played::Pressed(outcome)) => outcome
            .return_url
            .map_or_else(html::done, |url| html::see_other(&url)),
        Some(Played::Later { at, .. }) => {
            let text = format!(
                "<p>The shopper takes until {} by the simulator's clock.</p>\n",
                to_seconds(at)
            );
            html::page(StatusCode::OK, "Later", &text)
        }
        Some(Played::Left) => html::page(StatusCode::OK, "Left", "<p>The shopper has left.</p>\n"),
    })
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
    let (title, page) = match payment.method {
        Method::Ideal => ("Test bank", "ideal"),
        Method::PayPal => ("Test PayPal", "paypal"),
    };
    if payment.phase == Phase::InReview {
        body.push_str("<p>This payment is being reviewed.</p>\n");
        return html::page(StatusCode::OK, title, &body);
    }
    if payment.phase != Phase::AtTheBank {
        let _ = writeln!(body, "<p>This payment has ended: {}.</p>", payment.phase.state());
        return html::page(StatusCode::OK, title, &body);
    }
    let _ = writeln!(
        body,
        "<form method=\"post\" action=\"/ps_sim/{page}\">\n<input type=\"hidden\" name=\"trxid\" value=\"{}\">",
        html::escape(&payment.trxid),
    );
    for result in payment.method.buttons() {
        let (word, label) = (result.word(), result.label(payment.method));
        let _ = writeln!(body, "<button name=\"result\" value=\"{word}\">{label}</button>");
    }
    body.push_str("<h2>Scenarios</h2>\n");
    for name in Scenario::at_the_bank() {
        let _ = writeln!(body, "<button name=\"result\" value=\"{name}\">{name}</button>");
    }
    let _ = writeln!(
        body,
        "</form>\n<p class=\"note\">The order was made with scenario {}.</p>",
        html::escape(&order.scenario.name()),
    );
    html::page(StatusCode::OK, title, &body)
}
