//! How does a test driver play the shopper, the clock and bad luck?
//!
//! Open to whoever reaches it, as everything under `/sim`. What is asked for has bounds: a slip of the hand must not be a
//! flood.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    app::{App, Played, Reply},
    clock::{parse_duration, to_millis},
    fault::{Asked, Fault},
    ledger::Op,
    order::{Method, Order, Phase},
    sim::{bad_json, parse_scenario, unknown_order},
    state::StartRefusal,
};

/// Notifications in one request: enough to try a flood, few enough to be over soon.
const NOTIFICATIONS_MAX: usize = 1_000;
/// The longest that a shopper takes: longer than any order lives.
const DELAY_MAX: SignedDuration = SignedDuration::from_hours(366 * 24);

type Body<T> = Result<Json<T>, JsonRejection>;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/sim/pay", post(pay))
        .route("/sim/notify", post(notify))
        .route("/sim/clock", get(clock).post(move_clock))
        .route("/sim/faults", get(faults).post(add_fault).delete(clear_faults))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayBody {
    order_key: Option<String>,
    order_reference: Option<String>,
    /// The order's own when left out.
    scenario: Option<String>,
    /// How long the shopper takes, such as `90s`.
    delay: Option<String>,
}

#[derive(Debug, Serialize)]
struct PaidBody<'a> {
    order_key: &'a str,
    order_reference: &'a str,
    scenario: String,
    payment_id: &'a str,
    /// `start`: the merchant's payment; `menu`: one made on the menu, as no link of another had been given.
    via: &'static str,
    /// `left` for a shopper who pressed nothing.
    pressed: &'static str,
    state: &'static str,
    return_url: Option<String>,
    /// When the button will be pressed, by the simulator's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
}

/// Plays the shopper: goes to the bank by the newest link that was given, or else by the menu, and presses a button.
async fn pay(State(app): State<Arc<App>>, body: Body<PayBody>) -> Result<Response, Reply> {
    let Json(body) = body.map_err(bad_json)?;
    let wanted = body.scenario.as_deref().map(parse_scenario).transpose()?;
    let delay = body
        .delay
        .as_deref()
        .map(parse_duration)
        .transpose()
        .map_err(|why| bad_request(format!("delay: {why}")))?;
    if delay.is_some_and(|delay| delay > DELAY_MAX) {
        return Err(bad_request("delay: at most 366d".to_owned()));
    }
    let (order_key, order_reference, scenario, open) = {
        let mut state = app.state();
        let key = named(&state, body.order_key.as_deref(), body.order_reference.as_deref())?
            .key
            .clone();
        let order = state.order_mut(&key).ok_or_else(unknown_order)?;
        if order.safe_since.is_some() {
            let message = "the order is paid already: CM's menu would send the shopper back";
            return Err(Reply::messages(StatusCode::CONFLICT, [message]));
        }
        if let Some(wanted) = wanted {
            order.scenario = wanted;
        }
        let open = order
            .payments
            .iter()
            .rev()
            .find(|payment| payment.link_given && payment.phase == Phase::AtTheBank)
            .map(|payment| payment.trxid.clone());
        (key, order.reference.clone(), order.scenario, open)
    };
    let (trxid, via) = match open {
        Some(trxid) => (trxid, "start"),
        None => {
            let method = Method::parse(scenario.method()).ok_or_else(unknown_order)?;
            (menu_payment(&app, &order_key, method).await?, "menu")
        }
    };
    let about = app
        .state()
        .at_bank(&trxid)
        .map(|(order, payment)| order.about_payment(payment));
    let exchange = app
        .received(Op::Bank, about.unwrap_or_default(), &[])
        .map_err(|full| *full)?;
    let played = app
        .play(&trxid, scenario, delay)
        .await
        .ok_or_else(unknown_order)?;
    let (payment_id, state) = {
        let state = app.state();
        let (_, payment) = state.at_bank(&trxid).ok_or_else(unknown_order)?;
        (payment.id.clone(), payment.phase.state())
    };
    let (pressed, return_url, at) = match played {
        Played::Pressed(outcome) => (outcome.pressed.word(), outcome.return_url, None),
        Played::Later { at, pressed } => (pressed.word(), None, Some(to_millis(at))),
        Played::Left => ("left", None, None),
    };
    Ok(exchange.answer(Reply::json(
        StatusCode::OK,
        &PaidBody {
            order_key: &order_key,
            order_reference: &order_reference,
            scenario: scenario.name().into_owned(),
            payment_id: &payment_id,
            via,
            pressed,
            state,
            return_url,
            at,
        },
    )))
}

/// What the menu's button does, on record like a browser's press of it.
async fn menu_payment(app: &Arc<App>, order_key: &str, method: Method) -> Result<Arc<str>, Reply> {
    let about = app.state().order(order_key).map(Order::about).unwrap_or_default();
    let mut exchange = app.received(Op::MenuStart, about, &[]).map_err(|full| *full)?;
    match app.start(Op::MenuStart, order_key, method).await {
        Ok(started) => {
            exchange.about.payment_id = Some(started.payment_id);
            app.state().link_given(&started.trxid);
            // The redirect that a browser would have followed.
            drop(exchange.answer(crate::html::see_other(&app.bank_url(method, &started.trxid))));
            Ok(started.trxid)
        }
        Err(refusal) => {
            let reply = match refusal {
                StartRefusal::UnknownOrder => unknown_order(),
                StartRefusal::Expired => Reply::messages(StatusCode::CONFLICT, ["the order has expired"]),
                StartRefusal::TooManyPayments => Reply::messages(
                    StatusCode::CONFLICT,
                    ["the order has as many payments as it may have"],
                ),
            };
            drop(exchange.answer(reply.clone()));
            Err(reply)
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotifyBody {
    order_key: Option<String>,
    order_reference: Option<String>,
    times: Option<usize>,
}

/// Has the merchant told of an order although nothing changed, each time with all its attempts.
async fn notify(State(app): State<Arc<App>>, body: Body<NotifyBody>) -> Result<Reply, Reply> {
    let Json(body) = body.map_err(bad_json)?;
    let times = body.times.unwrap_or(1);
    if !(1..=NOTIFICATIONS_MAX).contains(&times) {
        return Err(bad_request(format!("times: 1 to {NOTIFICATIONS_MAX}")));
    }
    let mut state = app.state();
    let about = named(&state, body.order_key.as_deref(), body.order_reference.as_deref())?.about();
    let now = state.now();
    let sent = state.notify_times(now, now, Op::Notify, &about, times);
    drop(state);
    app.notifier.bell.notify_one();
    if sent.is_empty() {
        let message = "nothing is sent: no notification url is set, or too many notifications are waiting";
        return Err(Reply::messages(StatusCode::CONFLICT, [message]));
    }
    let body =
        serde_json::json!({ "order_reference": about.reference.as_deref(), "notifications": sent.len() });
    Ok(Reply::json(StatusCode::ACCEPTED, &body))
}

#[derive(Debug, Serialize)]
struct ClockBody {
    now: String,
    /// Ahead of the machine's clock by so much.
    offset_ms: i64,
    /// When the next notification, late effect or decision is due.
    next_due: Option<String>,
}

fn clock_body(app: &App) -> Reply {
    let state = app.state();
    Reply::json(
        StatusCode::OK,
        &ClockBody {
            now: to_millis(state.now()),
            offset_ms: state.clock_offset_ms(),
            next_due: state.next_due().map(to_millis),
        },
    )
}

async fn clock(State(app): State<Arc<App>>) -> Reply {
    clock_body(&app)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MoveBody {
    /// Such as `3d`.
    advance: Option<String>,
    /// RFC 3339.
    set: Option<String>,
}

/// Moves the clock; what is due by then has happened when this is answered, and notifications go out.
async fn move_clock(State(app): State<Arc<App>>, body: Body<MoveBody>) -> Result<Reply, Reply> {
    let Json(body) = body.map_err(bad_json)?;
    {
        let mut state = app.state();
        let to = match (&body.advance, &body.set) {
            (Some(advance), None) => {
                let length = parse_duration(advance).map_err(|why| bad_request(format!("advance: {why}")))?;
                state
                    .now()
                    .checked_add(length)
                    .map_err(|_| bad_request("advance: beyond the calendar".to_owned()))?
            }
            (None, Some(set)) => set
                .parse::<Timestamp>()
                .map_err(|_| bad_request("set: a moment such as 2027-01-31T12:00:00Z".to_owned()))?,
            _ => return Err(bad_request("give either advance or set".to_owned())),
        };
        state.move_clock(to).map_err(bad_request)?;
    }
    app.notifier.bell.notify_one();
    Ok(clock_body(&app))
}

#[derive(Debug, Serialize)]
struct FaultsBody<'a> {
    faults: &'a [Fault],
}

fn faults_body(app: &App) -> Reply {
    let state = app.state();
    Reply::json(
        StatusCode::OK,
        &FaultsBody {
            faults: state.faults(),
        },
    )
}

async fn faults(State(app): State<Arc<App>>) -> Reply {
    faults_body(&app)
}

/// The next calls of an operation go wrong, for every order.
async fn add_fault(State(app): State<Arc<App>>, body: Body<Asked>) -> Result<Reply, Reply> {
    let Json(asked) = body.map_err(bad_json)?;
    let fault = asked.check().map_err(bad_request)?;
    app.state()
        .add_fault(fault)
        .map_err(|why| Reply::messages(StatusCode::CONFLICT, [why]))?;
    Ok(faults_body(&app))
}

async fn clear_faults(State(app): State<Arc<App>>) -> Reply {
    app.state().clear_faults();
    faults_body(&app)
}

/// The order that a body names, by one of its two names.
fn named<'a>(
    state: &'a crate::state::State,
    key: Option<&str>,
    reference: Option<&str>,
) -> Result<&'a Order, Reply> {
    let order = match (key, reference) {
        (Some(key), None) => state.order(key),
        (None, Some(reference)) => state.order_by_reference(reference),
        _ => return Err(bad_request("give either order_key or order_reference".to_owned())),
    };
    order.ok_or_else(unknown_order)
}

fn bad_request(message: String) -> Reply {
    Reply::messages(StatusCode::BAD_REQUEST, [message])
}
