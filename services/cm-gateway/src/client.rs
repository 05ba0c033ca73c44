//! How is CM called over REST, and what did it really say? One call, one of three outcomes: yes, no, or not known.

use std::time::{Duration, Instant};

use kassa_chassis::{
    config::{Cm, Mode},
    metrics,
    trace::{self, Kind, Span},
};
use kassa_domain::{order::ProviderOrder, payment::LossClass, report::ProviderReport};
use reqwest::{
    StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;

use crate::{
    circuit::{Call, Circuit, Served},
    wire::{self, CreateBody, StartBody, Started},
};

/// As labels and attributes name this provider.
pub(crate) const PSP: &str = "cm";
/// A report of one order is a few KB; more is a mistake or an attack.
const ANSWER_MAX: usize = 1024 * 1024;
/// The longest that CM may have us wait in one go. It says two minutes at most, where it says anything; a front that says
/// days is mistaken.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// For an account that is not served: a rotated password takes a person.
const ACCOUNT_PAUSE: Duration = Duration::from_secs(30);
/// Where too many calls were made and it is not said when to come again.
const PACE_PAUSE: Duration = Duration::from_secs(5);

/// What one call came to.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    Yes(T),
    /// CM refused; nothing came of it. Holds CM's own words, cut to a bound.
    No(String),
    /// CM refused the account or the pace, not the payment: nothing came of it, and it may be asked again.
    NotServed {
        of: Unserved,
        why: String,
        wait: Duration,
    },
    /// No byte of the request left this machine.
    NotSent(String),
    /// Neither a yes nor a no: the effect may have happened.
    Unknown {
        class: LossClass,
        /// When CM wants to be asked again, if it said so.
        wait: Option<Duration>,
    },
}

/// What CM turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unserved {
    Account,
    Pace,
}

impl<T> Answer<T> {
    /// As it is counted.
    fn word(&self) -> &'static str {
        match self {
            Self::Yes(_) => "ok",
            Self::No(_) => "refused",
            Self::NotServed { .. } => "not_served",
            Self::NotSent(_) => "not_sent",
            Self::Unknown { .. } => "unknown",
        }
    }

    fn unknown(class: LossClass) -> Self {
        Self::Unknown { class, wait: None }
    }

    /// What it says of CM as a whole.
    fn served(&self, call: Call) -> Served {
        match self {
            // Whatever it was, somebody answered.
            Self::Yes(_)
            | Self::No(_)
            | Self::Unknown {
                class: LossClass::Unreadable | LossClass::WorkerLost | LossClass::ReferenceTaken,
                ..
            } => Served::Yes,
            // The report of one order may be kept from us for a reason of its own, again and again: alone it shuts nobody out.
            Self::NotServed {
                of: Unserved::Account,
                ..
            } if call == Call::Read => Served::No,
            Self::NotServed { wait, .. } | Self::Unknown { wait: Some(wait), .. } => Served::Later(*wait),
            Self::NotSent(_)
            | Self::Unknown {
                class: LossClass::Timeout | LossClass::ConnectionLost | LossClass::ServerError,
                wait: None,
            } => Served::No,
        }
    }

    /// CM quotes what it refuses: a value that we sent and that is a person's stays out of what is kept.
    pub(crate) fn without(self, personal: &str) -> Self {
        match self {
            Self::No(message) => Self::No(message.replace(personal, "[personal]")),
            other => other,
        }
    }
}

/// One shop's account at CM.
#[derive(Debug)]
pub(crate) struct Client {
    /// For calls with an effect: a connection of their own each. On a kept one that CM closes at the wrong moment, it
    /// could not be told whether the request arrived.
    effects: reqwest::Client,
    reads: reqwest::Client,
    base: url::Url,
    account: String,
    password: SecretString,
    mode: Mode,
    pub(crate) timeout: Duration,
    circuit: Circuit,
}

impl Client {
    /// # Errors
    /// When the address or the password cannot be used.
    pub(crate) fn new(cm: &Cm) -> anyhow::Result<Self> {
        let mut base = url::Url::parse(&cm.rest_url)?;
        base.path_segments_mut()
            .map_err(|()| anyhow::anyhow!("rest_url cannot carry a path"))?
            .pop_if_empty()
            .extend(["ps", "api", "public", "v1", "merchants", &cm.merchant_key]);
        let builder = || {
            reqwest::Client::builder()
                // Credentials go to the configured host and nowhere else.
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .no_proxy()
                .connect_timeout(Duration::from_secs(3).min(cm.timeout()))
                .timeout(cm.timeout())
        };
        Ok(Self {
            effects: builder().pool_max_idle_per_host(0).build()?,
            reads: builder().build()?,
            base,
            account: cm.account.clone(),
            password: cm.secret()?,
            mode: cm.mode,
            timeout: cm.timeout(),
            circuit: Circuit::default(),
        })
    }

    /// Whether CM is to be called now; otherwise how long to wait. Asked before anything is recorded of a call.
    pub(crate) fn enter(&self, call: Call) -> Result<(), Duration> {
        // Longer than any call: recording the intent comes before it.
        self.circuit
            .enter(call, Instant::now(), self.timeout + Duration::from_secs(2))
    }

    /// Where this account is, for names that are unique there.
    pub(crate) fn base(&self) -> &url::Url {
        &self.base
    }

    /// Registers an order; nothing is paid by it. `scenario` is for the simulator only.
    pub(crate) async fn create(
        &self,
        body: &CreateBody<'_>,
        scenario: Option<&str>,
    ) -> Answer<ProviderOrder> {
        let mut request = self.effects.post(self.url(&["orders"])).json(body);
        if let (Mode::Sim, Some(scenario)) = (self.mode, scenario) {
            request = request.header("X-Sim-Scenario", scenario);
        }
        let answer = self.send("create", request, Call::Effect).await;
        read_as(answer, |created| {
            wire::registered(created, body.order_reference, &self.base)
        })
    }

    /// Starts a payment; twice is two payments.
    pub(crate) async fn start(&self, order_key: &str, body: &StartBody<'_>) -> Answer<Started> {
        let answer = self
            .send(
                "start",
                self.effects
                    .post(self.url(&["orders", order_key, "payments"]))
                    .json(body),
                Call::Effect,
            )
            .await;
        read_as(answer, |started| wire::started(started, &self.base))
    }

    /// Reads an order's report; may be repeated at will.
    pub(crate) async fn report(&self, order_key: &str) -> Answer<ProviderReport> {
        read_as(
            self.send(
                "report",
                self.reads.get(self.url(&["orders", order_key])),
                Call::Read,
            )
            .await,
            wire::report,
        )
    }

    fn url(&self, segments: &[&str]) -> url::Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(segments);
        }
        url
    }

    /// One call, counted and in a span of its own.
    async fn send(
        &self,
        operation: &'static str,
        request: reqwest::RequestBuilder,
        call: Call,
    ) -> Answer<Vec<u8>> {
        let span = Span::begin(format!("cm {operation}"), Kind::Client)
            .with("kassa.psp", PSP)
            .with("kassa.psp.operation", operation)
            .with("server.address", self.base.host_str().unwrap_or_default());
        let request = match self.mode {
            Mode::Sim => request.header(trace::TRACEPARENT, span.context.to_string()),
            // CM sees nothing that its manual does not know.
            Mode::Test | Mode::Live => request,
        };
        let began = Instant::now();
        let answer = span
            .run(async {
                let answer = self.exchange(request, call).await;
                trace::note("kassa.result", answer.word());
                answer
            })
            .await;
        metrics::psp_request(PSP, operation, answer.word(), began.elapsed());
        if let Some(pause) = self.circuit.ended(answer.served(call), Instant::now()) {
            let host = self.base.host_str().unwrap_or_default();
            tracing::error!(
                host,
                account = self.account,
                ?answer,
                pause_s = pause.as_secs(),
                "CM is not called for a while; orders wait for it"
            );
        }
        answer
    }

    /// The body of a 2xx answer, or what its absence means.
    async fn exchange(&self, request: reqwest::RequestBuilder, call: Call) -> Answer<Vec<u8>> {
        let request = request.basic_auth(&self.account, Some(self.password.expose_secret()));
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Answer::NotSent(cut(&cause(&error))),
            Err(error) if error.is_timeout() => return Answer::unknown(LossClass::Timeout),
            Err(error) if error.is_builder() => return Answer::NotSent(cut(&cause(&error))),
            Err(_) => return Answer::unknown(LossClass::ConnectionLost),
        };
        let status = response.status();
        let json = is_plain_json(response.headers());
        let retry_after = retry_after(response.headers());
        // A server's error says nothing but that: its body, which may never end, is nobody's to wait for.
        if status.is_server_error() {
            return Answer::Unknown {
                class: LossClass::ServerError,
                wait: retry_after,
            };
        }
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_MAX => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return Answer::unknown(LossClass::Unreadable),
                Ok(None) => break,
                Err(error) if error.is_timeout() => return Answer::unknown(LossClass::Timeout),
                Err(_) => return Answer::unknown(LossClass::ConnectionLost),
            }
        }
        match status {
            // No others are documented: 202 has not happened yet, 203 was changed on its way, 206 is a part.
            StatusCode::OK | StatusCode::CREATED if json => Answer::Yes(body),
            // Something in between may answer so after the effect: only CM's own document proves that there was none.
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
                if call == Call::Effect && wire::refusal(&body).is_none() =>
            {
                Answer::Unknown {
                    class: LossClass::Unreadable,
                    wait: retry_after,
                }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Answer::NotServed {
                of: Unserved::Account,
                why: format!(
                    "CM answered {status}: check the account, its password and the addresses it allows"
                ),
                wait: ACCOUNT_PAUSE,
            },
            StatusCode::TOO_MANY_REQUESTS => Answer::NotServed {
                of: Unserved::Pace,
                why: "CM asks for patience".to_owned(),
                wait: retry_after.unwrap_or(PACE_PAUSE),
            },
            _ if status.is_client_error() => match wire::refusal(&body) {
                Some(message) => Answer::No(cut(&message)),
                // A 4xx that is not CM's own error document may be a proxy's.
                None => Answer::unknown(LossClass::Unreadable),
            },
            _ => Answer::unknown(LossClass::Unreadable),
        }
    }
}

/// JSON, in the one encoding that JSON has, and not packed: nobody asked for that.
fn is_plain_json(headers: &HeaderMap) -> bool {
    let mut parts = text(headers, &CONTENT_TYPE).split(';').map(str::trim);
    let json = parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let utf8 = parts
        .filter_map(|part| part.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .all(|(_, charset)| charset.trim().trim_matches('"').eq_ignore_ascii_case("utf-8"));
    let packed = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|encoding| encoding != "identity");
    json && utf8 && !packed
}

/// How long CM wants to be left alone: seconds, or a moment, which is compared with the answer's own. Within a bound.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let asked = text(headers, &RETRY_AFTER);
    let wait = match asked.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let moment = |text: &str| jiff::fmt::rfc2822::parse(text).ok();
            let until = moment(asked)?
                .timestamp()
                .duration_since(moment(text(headers, &DATE))?.timestamp());
            Duration::try_from(until).ok()?
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim()
}

fn read_as<W: DeserializeOwned, T>(
    answer: Answer<Vec<u8>>,
    translate: impl FnOnce(W) -> Option<T>,
) -> Answer<T> {
    match answer {
        // A list of values in the right order would pass for an object.
        Answer::Yes(body) if body.trim_ascii_start().first() != Some(&b'{') => {
            Answer::unknown(LossClass::Unreadable)
        }
        Answer::Yes(body) if wire::tells_of_an_error(&body) => Answer::unknown(LossClass::Unreadable),
        Answer::Yes(body) => match serde_json::from_slice(&body).ok().and_then(translate) {
            Some(said) => Answer::Yes(said),
            None => Answer::unknown(LossClass::Unreadable),
        },
        Answer::No(message) => Answer::No(message),
        Answer::NotServed { of, why, wait } => Answer::NotServed { of, why, wait },
        Answer::NotSent(why) => Answer::NotSent(why),
        Answer::Unknown { class, wait } => Answer::Unknown { class, wait },
    }
}

fn cause(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(next) = source.source() {
        source = next;
    }
    source.to_string()
}

/// CM's words are kept with the payment; a bound keeps a hostile answer small.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(250).collect()
}

#[cfg(test)]
mod tests;
