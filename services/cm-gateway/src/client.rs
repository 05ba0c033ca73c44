//! How is CM called over REST, and what did it really say? One call, one of three outcomes: yes, no, or not known.

use std::time::{Duration, Instant};

use kassa_chassis::{
    config::{Cm, Mode},
    metrics,
    trace::{self, Kind, Span},
};
use kassa_domain::{order::ProviderOrder, payment::LossClass, report::ProviderReport};
use reqwest::{StatusCode, header::CONTENT_TYPE};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;

use crate::wire::{self, CreateBody, StartBody, Started};

/// As labels and attributes name this provider.
pub(crate) const PSP: &str = "cm";
/// A report of one order is a few KB; more is a mistake or an attack.
const ANSWER_MAX: usize = 1024 * 1024;

/// What one call came to.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    Yes(T),
    /// CM refused; nothing came of it. Holds CM's own words, cut to a bound.
    No(String),
    /// CM refused the account or the pace, not the payment: nothing came of it, and it may be asked again.
    NotServed {
        why: String,
        wait: Duration,
    },
    /// No byte of the request left this machine.
    NotSent(String),
    /// Neither a yes nor a no: the effect may have happened.
    Unknown(LossClass),
}

impl<T> Answer<T> {
    /// As it is counted.
    fn word(&self) -> &'static str {
        match self {
            Self::Yes(_) => "ok",
            Self::No(_) => "refused",
            Self::NotServed { .. } => "not_served",
            Self::NotSent(_) => "not_sent",
            Self::Unknown(_) => "unknown",
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
        })
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
        let answer = self.send("create", request, true).await;
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
                true,
            )
            .await;
        read_as(answer, |started| wire::started(started, &self.base))
    }

    /// Reads an order's report; may be repeated at will.
    pub(crate) async fn report(&self, order_key: &str) -> Answer<ProviderReport> {
        read_as(
            self.send("report", self.reads.get(self.url(&["orders", order_key])), false)
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
        effect: bool,
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
                let answer = self.exchange(request, effect).await;
                trace::note("kassa.result", answer.word());
                answer
            })
            .await;
        metrics::psp_request(PSP, operation, answer.word(), began.elapsed());
        answer
    }

    /// The body of a 2xx answer, or what its absence means.
    async fn exchange(&self, request: reqwest::RequestBuilder, effect: bool) -> Answer<Vec<u8>> {
        let request = request.basic_auth(&self.account, Some(self.password.expose_secret()));
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Answer::NotSent(cut(&cause(&error))),
            Err(error) if error.is_timeout() => return Answer::Unknown(LossClass::Timeout),
            Err(error) if error.is_builder() => return Answer::NotSent(cut(&cause(&error))),
            Err(_) => return Answer::Unknown(LossClass::ConnectionLost),
        };
        let status = response.status();
        let json = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| {
                value
                    .split(';')
                    .next()
                    .is_some_and(|kind| kind.trim() == "application/json")
            });
        let retry_after = response
            .headers()
            .get(reqwest::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok())
            .map(Duration::from_secs);
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_MAX => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return Answer::Unknown(LossClass::Unreadable),
                Ok(None) => break,
                Err(error) if error.is_timeout() => return Answer::Unknown(LossClass::Timeout),
                Err(_) => return Answer::Unknown(LossClass::ConnectionLost),
            }
        }
        match status {
            _ if status.is_success() && json => Answer::Yes(body),
            // Something in between may answer so after the effect: only CM's own document proves that there was none.
            StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS
                if effect && wire::refusal(&body).is_none() =>
            {
                Answer::Unknown(LossClass::Unreadable)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Answer::NotServed {
                why: format!(
                    "CM answered {status}: check the account, its password and the addresses it allows"
                ),
                // Rotated passwords take a person.
                wait: Duration::from_secs(30),
            },
            StatusCode::TOO_MANY_REQUESTS => Answer::NotServed {
                why: "CM asks for patience".to_owned(),
                wait: retry_after
                    .unwrap_or(Duration::from_secs(5))
                    .min(Duration::from_secs(600)),
            },
            _ if status.is_client_error() => match wire::refusal(&body) {
                Some(message) => Answer::No(cut(&message)),
                // A 4xx that is not CM's own error document may be a proxy's.
                None => Answer::Unknown(LossClass::Unreadable),
            },
            _ if status.is_server_error() => Answer::Unknown(LossClass::ServerError),
            _ => Answer::Unknown(LossClass::Unreadable),
        }
    }
}

fn read_as<W: DeserializeOwned, T>(
    answer: Answer<Vec<u8>>,
    translate: impl FnOnce(W) -> Option<T>,
) -> Answer<T> {
    match answer {
        Answer::Yes(body) => match serde_json::from_slice(&body).ok().and_then(translate) {
            Some(said) => Answer::Yes(said),
            None => Answer::Unknown(LossClass::Unreadable),
        },
        Answer::No(message) => Answer::No(message),
        Answer::NotServed { why, wait } => Answer::NotServed { why, wait },
        Answer::NotSent(why) => Answer::NotSent(why),
        Answer::Unknown(class) => Answer::Unknown(class),
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
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// A CM that answers every request with these bytes and closes; `None` closes without an answer.
    async fn cm(answer: Option<Vec<u8>>) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let _ = stream.read(&mut request).await;
                    if let Some(answer) = answer {
                        let _ = stream.write_all(&answer).await;
                    }
                });
            }
        });
        client(&format!("http://{address}"))
    }

    fn client(rest_url: &str) -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(&Cm {
            mode: Mode::Sim,
            rest_url: rest_url.to_owned(),
            account: "account".to_owned(),
            password: Some(SecretString::from("hunter2")),
            password_file: None,
            merchant_key: "merchant".to_owned(),
            timeout: jiff::SignedDuration::from_millis(500),
        })
        .unwrap()
    }

    fn http(status: &str, headers: &str, body: &str) -> Option<Vec<u8>> {
        let length = body.len();
        Some(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes())
    }

    const JSON: &str = "Content-Type: application/json\r\n";
    const KEY: &str = "0287A1617D93780EF28044B98438BF2F";

    async fn start(client: &Client) -> Answer<Started> {
        client
            .start(
                KEY,
                &StartBody {
                    method: "IDEAL",
                    ideal_details: None,
                },
            )
            .await
    }

    #[tokio::test]
    async fn what_is_not_cms_own_answer_leaves_the_outcome_unknown() {
        let started = r#"{"id":"pid1t","urls":[{"purpose":"REDIRECT","method":"GET","url":"http://bank/1","order":1}]}"#;
        assert!(matches!(
            start(&cm(http("201 Created", JSON, started)).await).await,
            Answer::Yes(_)
        ));
        let endless = format!(
            "HTTP/1.1 200 OK\r\n{JSON}Content-Length: 104857600\r\n\r\n{}",
            " ".repeat(2_000_000)
        );
        for (what, answer) in [
            (
                "an HTML page",
                http("200 OK", "Content-Type: text/html\r\n", started),
            ),
            ("no content type", http("200 OK", "", started)),
            ("a list", http("200 OK", JSON, &format!("[{started}]"))),
            (
                "an error document with 200",
                http("200 OK", JSON, r#"{"messages":["no"]}"#),
            ),
            ("an empty 200", http("200 OK", JSON, "")),
            ("204", Some(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())),
            (
                "junk after the end",
                http("201 Created", JSON, &format!("{started} x")),
            ),
            (
                "cut in the middle",
                Some(
                    format!("HTTP/1.1 201 Created\r\n{JSON}Content-Length: 900\r\n\r\n{started}")
                        .into_bytes(),
                ),
            ),
            ("a hundred megabytes", Some(endless.into_bytes())),
            (
                "a redirect",
                http("302 Found", "Location: http://127.0.0.1:1/\r\n", ""),
            ),
            (
                "a proxy's 404",
                http("404 Not Found", "Content-Type: text/html\r\n", "<html>"),
            ),
            (
                "500 with an error document",
                http("500 Internal Server Error", JSON, r#"{"messages":["no"]}"#),
            ),
            ("503", http("503 Service Unavailable", "", "")),
            ("a closed connection", None),
            ("not HTTP", Some(b"hello".to_vec())),
            (
                "nested a hundred thousand times",
                http("200 OK", JSON, &"[".repeat(100_000)),
            ),
        ] {
            let said = start(&cm(answer).await).await;
            assert!(matches!(said, Answer::Unknown(_)), "{what}: {said:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_trickles_is_cut_off_by_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{JSON}Content-Length: 9999\r\n\r\n").as_bytes())
                .await;
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            // One byte at a time: never idle, never done.
            while stream.write_all(b" ").await.is_ok() {
                tick.tick().await;
            }
        });
        let said = start(&client(&format!("http://{address}"))).await;
        assert!(matches!(said, Answer::Unknown(LossClass::Timeout)), "{said:?}");
    }

    #[tokio::test]
    async fn cms_own_refusal_is_a_no_and_its_words_are_kept_short() {
        let words = format!(
            r#"{{"messages":["Order could not be found {}"]}}"#,
            "x".repeat(1_000)
        );
        let Answer::No(kept) = start(&cm(http("400 Bad Request", JSON, &words)).await).await else {
            panic!()
        };
        assert!(kept.starts_with("Order could not be found") && kept.chars().count() == 250);
    }

    #[tokio::test]
    async fn an_account_that_is_not_served_is_not_a_refused_payment() {
        for status in ["403 Forbidden", "429 Too Many Requests"] {
            let said = start(&cm(http(status, "", "")).await).await;
            assert!(
                matches!(said, Answer::Unknown(_)),
                "{status} may be a proxy's: {said:?}"
            );
        }
        for status in ["401 Unauthorized", "403 Forbidden", "429 Too Many Requests"] {
            let headers = format!("{JSON}Retry-After: 7\r\n");
            let said = start(&cm(http(status, &headers, r#"{"messages":["no"]}"#)).await).await;
            assert!(matches!(said, Answer::NotServed { .. }), "{status}: {said:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_was_sent_nothing() {
        let free = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(matches!(
            start(&client(&format!("http://{free}"))).await,
            Answer::NotSent(_)
        ));
    }

    #[test]
    fn the_password_is_in_no_debug_output() {
        assert!(!format!("{:?}", client("https://cm.example")).contains("hunter2"));
    }
}
