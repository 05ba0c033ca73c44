//! What do all pages and endpoints share, and how is each call put on record?

use std::{
    borrow::Cow,
    io,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::stream;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::{
    garble::Garble,
    ledger::{About, Entry, Kind, Op, Shows, digest},
    notify::Notifier,
    order::{BankResult, Method},
    scenario::{Scenario, Shopper, Timing},
    state::{BankOutcome, StartRefusal, Started, State},
};

/// How long an answer or a shopper is held for a notification that must come first: well below what clients wait, so that a
/// deaf merchant gets his answer all the same.
const FIRST_TOLD_MAX: Duration = Duration::from_secs(1);

/// The one simulated CM, shared by every handler.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) merchant_key: String,
    pub(crate) account: String,
    /// SHA-256 of `account:password`.
    pub(crate) credentials: [u8; 32],
    /// Without a trailing slash.
    pub(crate) base_url: String,
    pub(crate) hold_max: Duration,
    pub(crate) notifier: Notifier,
    /// Cancelled when the program stops, so that held calls and waiting notifications end.
    pub(crate) stop: CancellationToken,
    state: Mutex<State>,
}

impl App {
    #[expect(clippy::too_many_arguments, reason = "called once, where the fields are made")]
    pub(crate) fn new(
        merchant_key: String,
        account: String,
        credentials: [u8; 32],
        base_url: String,
        hold_max: Duration,
        notifier: Notifier,
        stop: CancellationToken,
        state: State,
    ) -> Self {
        Self {
            merchant_key,
            account,
            credentials,
            base_url,
            hold_max,
            notifier,
            stop,
            state: Mutex::new(state),
        }
    }

    /// Held for memory work and a line of the journal only, never across an await.
    pub(crate) fn state(&self) -> Held<'_> {
        // A panic elsewhere must not take the evidence with it.
        Held(self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a payment and has it told.
    pub(crate) async fn start(
        &self,
        op: Op,
        order_key: &str,
        method: Method,
    ) -> Result<Started, StartRefusal> {
        let (started, timing) = {
            let mut state = self.state();
            let now = state.now();
            let started = state.start(now, op, order_key, method)?;
            let timing = state.order(order_key).map(|order| order.scenario.plan().timing);
            (started, timing)
        };
        self.notifier.bell.notify_one();
        if timing == Some(Timing::BeforeAnswer) {
            self.told(&started.told, FIRST_TOLD_MAX).await;
        }
        Ok(started)
    }

    /// Presses a button of the bank and has it told if it changed anything.
    pub(crate) async fn bank(&self, trxid: &str, pressed: BankResult) -> Option<BankOutcome> {
        let (outcome, timing) = {
            let mut state = self.state();
            let now = state.now();
            let timing = state.at_bank(trxid)?.0.scenario.plan().timing;
            (state.bank(now, Op::Bank, trxid, pressed)?, timing)
        };
        self.notifier.bell.notify_one();
        if timing == Timing::BeforeReturn {
            self.told(&outcome.told, FIRST_TOLD_MAX).await;
        }
        Some(outcome)
    }

    /// Has the merchant told of an order that was just made, and waits until he was, for as long as his answer can be held.
    pub(crate) async fn tell_of(&self, order_key: &str) {
        let told = {
            let mut state = self.state();
            let now = state.now();
            let Some(about) = state.order(order_key).map(crate::order::Order::about) else {
                return;
            };
            state.notify_times(now, now, Op::Create, &about, 1)
        };
        self.notifier.bell.notify_one();
        self.told(&told, FIRST_TOLD_MAX).await;
    }

    /// Does at the bank what the shopper of a story does there, `delay` later.
    pub(crate) async fn play(
        &self,
        trxid: &str,
        scenario: Scenario,
        delay: Option<SignedDuration>,
    ) -> Option<Played> {
        let (pressed, after) = match scenario.plan().shopper {
            Shopper::Presses(pressed) => (pressed, None),
            Shopper::PressesAfter(after, pressed) => (pressed, Some(after)),
            Shopper::Leaves => return Some(Played::Left),
        };
        match delay.or(after) {
            None => self.bank(trxid, pressed).await.map(Played::Pressed),
            Some(after) => {
                let mut state = self.state();
                let at = state.now() + after;
                state.at_bank(trxid)?;
                state.press_later(at, trxid, pressed);
                drop(state);
                self.notifier.bell.notify_one();
                Some(Played::Later { at, pressed })
            }
        }
    }

    /// The link that `create` hands out; the shopper can pay there whatever becomes of the merchant.
    pub(crate) fn menu_url(&self, order_key: &str, language: &str) -> String {
        let account: String = url::form_urlencoded::byte_serialize(self.account.as_bytes()).collect();
        let language = language.to_uppercase();
        format!(
            "{}/ps/menu?merchant_name={account}&client_language={language}&payment_cluster_key={order_key}",
            self.base_url
        )
    }

    /// The page where the shopper decides.
    pub(crate) fn bank_url(&self, method: Method, trxid: &str) -> String {
        let page = match method {
            Method::Ideal => "ideal",
            Method::PayPal => "paypal",
        };
        format!("{}/ps_sim/{page}?trxid={trxid}", self.base_url)
    }

    /// Records a request before anything comes of it.
    ///
    /// # Errors
    /// 503 when the ledger is full: what cannot be recorded does not happen.
    pub(crate) fn received(
        self: &Arc<Self>,
        op: Op,
        about: About,
        body: &[u8],
    ) -> Result<Exchange, Box<Reply>> {
        let mut state = self.state();
        if !state.has_room_for_a_request() {
            tracing::warn!("the ledger takes no more rows and calls are refused: start the simulator anew");
            return Err(Box::new(Reply::messages(
                StatusCode::SERVICE_UNAVAILABLE,
                [
                    "The simulator's ledger takes no more rows: start it anew, with an empty state_dir if it has one.",
                ],
            )));
        }
        let entry = Entry {
            kind: Kind::Request,
            op,
            about: about.clone(),
            body_sha256: digest(body),
            status: None,
            detail: None,
            request: None,
            shows: None,
        };
        let now = state.now();
        let request = state.ledger.push(now, entry);
        Ok(Exchange {
            app: self.clone(),
            op,
            about,
            request,
            answered: false,
        })
    }
}

/// The state, locked. What changed is in the journal when it is let go.
#[derive(Debug)]
pub(crate) struct Held<'a>(MutexGuard<'a, State>);

impl Deref for Held<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.commit();
    }
}

/// What a story's shopper did.
#[derive(Debug)]
pub(crate) enum Played {
    Pressed(BankOutcome),
    Later { at: Timestamp, pressed: BankResult },
    Left,
}

/// A request on record that still owes its answer row. Dropped without one, it was cut: the client left, or a
/// scenario let it wait for ever.
#[derive(Debug)]
pub(crate) struct Exchange {
    app: Arc<App>,
    op: Op,
    /// Completed by the handler as it learns more.
    pub(crate) about: About,
    /// The row of the request.
    request: usize,
    answered: bool,
}

impl Exchange {
    pub(crate) fn answer(mut self, reply: Reply) -> Response {
        self.answered = true;
        let shows = (self.op == Op::Status && reply.status == StatusCode::OK)
            .then(|| Shows::said(&reply.body))
            .flatten();
        self.record(
            digest(reply.body.as_bytes()),
            Some(reply.status.as_u16()),
            None,
            shows,
        );
        reply.into_response()
    }

    /// Answers with what a spoiler makes of the answer; on record with the digest of what was meant.
    pub(crate) fn spoilt(mut self, reply: Reply, garble: Garble) -> Response {
        self.answered = true;
        let meant = digest(reply.body.as_bytes());
        let response = garble.response(reply);
        let detail = format!("spoilt: {garble:?}").into();
        self.record(meant, Some(response.status().as_u16()), Some(detail), None);
        response
    }

    fn record(
        &self,
        body_sha256: Option<[u8; 32]>,
        status: Option<u16>,
        detail: Option<Cow<'static, str>>,
        shows: Option<Shows>,
    ) {
        let entry = Entry {
            kind: Kind::Answer,
            op: self.op,
            about: self.about.clone(),
            body_sha256,
            status,
            detail,
            request: Some(self.request),
            shows: shows.map(Box::new),
        };
        let mut state = self.app.state();
        let now = state.now();
        state.ledger.push(now, entry);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.answered {
            self.record(None, None, Some(Cow::Borrowed("cut without an answer")), None);
        }
    }
}

/// An answer whose body is known, so that the ledger can hold its digest.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(status: StatusCode, body: &impl serde::Serialize) -> Self {
        let body = serde_json::to_string(body).expect("answers are plain structs with text keys");
        Self {
            status,
            headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
            body,
        }
    }

    /// CM's only shape of an error.
    pub(crate) fn messages<M: Into<String>>(
        status: StatusCode,
        messages: impl IntoIterator<Item = M>,
    ) -> Self {
        let messages: Vec<String> = messages.into_iter().map(Into::into).collect();
        Self::json(status, &serde_json::json!({ "messages": messages }))
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        // `String` answers as text/plain; the reply's own type takes its place.
        response.headers_mut().remove(header::CONTENT_TYPE);
        response
            .headers_mut()
            .extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        response
    }
}

/// Breaks the connection instead of answering: the body fails before the head was flushed, so that not one byte of
/// an answer leaves.
pub(crate) fn hang_up() -> Response {
    Response::new(Body::from_stream(stream::once(async {
        Err::<String, _>(io::Error::other("the scenario ends without an answer"))
    })))
}
