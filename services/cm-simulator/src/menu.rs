//! What does a shopper see who pays on CM's own page?
//!
//! Each press of the button is a new payment. Reached by the link that `create` gave, it works when the merchant never
//! learned what became of his start.

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
    order::{Method, Order},
    state::StartRefusal,
};

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new().route("/ps/menu", get(show).post(pay))
}

/// Of the link's parameters only the order key is looked at.
#[derive(Debug, Deserialize)]
struct MenuQuery {
    payment_cluster_key: String,
}

#[derive(Debug, Deserialize)]
struct PayForm {
    payment_cluster_key: String,
    method: String,
}

async fn show(State(app): State<Arc<App>>, query: Result<Query<MenuQuery>, QueryRejection>) -> Response {
    let state = app.state();
    let order = query
        .ok()
        .and_then(|Query(query)| state.order(&query.payment_cluster_key));
    let reply = order.map_or_else(html::not_found, |order| {
        back_if_paid(order).unwrap_or_else(|| menu(order))
    });
    reply.into_response()
}

async fn pay(State(app): State<Arc<App>>, form: Result<Form<PayForm>, FormRejection>) -> Response {
    let Ok(Form(form)) = form else {
        return html::not_found().into_response();
    };
    let Some(method) = Method::parse(&form.method) else {
        let text = "<p>This way to pay is not available.</p>\n";
        return html::page(StatusCode::BAD_REQUEST, "Not available", text).into_response();
    };
    let (about, paid) = {
        let state = app.state();
        let Some(order) = state.order(&form.payment_cluster_key) else {
            return html::not_found().into_response();
        };
        (order.about(), back_if_paid(order))
    };
    let mut exchange = match app.received(Op::MenuStart, about, &[]) {
        Ok(exchange) => exchange,
        Err(full) => return full.into_response(),
    };
    if let Some(back) = paid {
        return exchange.answer(back);
    }
    match app.start(Op::MenuStart, &form.payment_cluster_key, method).await {
        Ok(started) => {
            exchange.about.payment_id = Some(started.payment_id);
            app.state().link_given(&started.trxid);
            exchange.answer(html::see_other(&app.bank_url(method, &started.trxid)))
        }
        Err(StartRefusal::UnknownOrder) => exchange.answer(html::not_found()),
        Err(StartRefusal::Expired | StartRefusal::TooManyPayments) => {
            let text = "<p>This order cannot be paid any more.</p>\n";
            exchange.answer(html::page(StatusCode::GONE, "Too late", text))
        }
    }
}

/// A shopper who has paid is sent back to the shop.
fn back_if_paid(order: &Order) -> Option<Reply> {
    order.safe_since?;
    let paid = order
        .payments
        .iter()
        .find(|payment| payment.phase.state() == "AUTHORIZED")?;
    Some(
        order
            .return_url(paid.phase)
            .map_or_else(html::done, |url| html::see_other(&url)),
    )
}

fn menu(order: &Order) -> Reply {
    let mut body = String::new();
    // Writing to a string cannot fail, hence the ignored results.
    let _ = writeln!(
        body,
        "<p>{}</p>\n<p>Order {}: <strong>{}</strong></p>",
        html::escape(&order.description),
        html::escape(&order.reference),
        html::money(order.amount_minor, &order.currency),
    );
    if !order.payments.is_empty() {
        body.push_str("<table>\n<tr><th>Attempt</th><th>Method</th><th>State</th></tr>\n");
        for payment in &order.payments {
            let _ = writeln!(
                body,
                "<tr><td>{}</td><td>{}</td><td>{}</td></tr>",
                html::escape(&payment.id),
                html::escape(payment.method.label()),
                payment.phase.state()
            );
        }
        body.push_str("</table>\n");
    }
    let _ = writeln!(
        body,
        "<form method=\"post\" action=\"/ps/menu\">\n\
         <input type=\"hidden\" name=\"payment_cluster_key\" value=\"{}\">",
        html::escape(&order.key),
    );
    for method in Method::ALL {
        let _ = writeln!(
            body,
            "<button name=\"method\" value=\"{}\">Pay with {}</button>",
            method.word(),
            html::escape(method.label()),
        );
    }
    body.push_str("</form>\n");
    if let Some(url) = order.canceled_url() {
        let _ = writeln!(
            body,
            "<p><a href=\"{}\">Back to the shop</a></p>",
            html::escape(&url)
        );
    }
    html::page(StatusCode::OK, "Payment", &body)
}
