//! How does a shop's service behave that knows the rules: one key for one intention, the same key after a lost answer,
//! pauses that grow, and an end?

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use anyhow::Context as _;
use async_nats::{HeaderMap, jetstream};
use jiff::Timestamp;
use kassa_chassis::bus;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    installation::{Access, SHOP, now},
    random::Random,
};

/// For one answer: longer than any that the services owe (a start waits 5 s for its redirect), short enough that a shopper
/// whose answer was lost is not lost, too.
const ANSWER_MAX: Duration = Duration::from_secs(12);
/// For a question: those wait 2 s for their projection.
const QUESTION_MAX: Duration = Duration::from_secs(5);
/// First and last pause before the same is sent again.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// By which way a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Nats,
    Http,
    /// Stored by the bus and answered by nobody; its effect is looked for.
    Inbox,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Accepted(Value),
    /// Its code.
    Refused(String),
    /// No answer, or one that says to try again.
    Nothing,
}

/// Answers as they came, to be held against what was stored.
#[derive(Debug)]
struct Answers {
    file: BufWriter<File>,
    rows: u64,
}

/// One for all shoppers.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) access: Access,
    nats: async_nats::Client,
    jetstream: jetstream::Context,
    pub(crate) http: reqwest::Client,
    api_key: String,
    answers: Mutex<Answers>,
}

/// One intention.
#[derive(Debug, Clone)]
pub(crate) struct Command<'a> {
    pub(crate) via: Via,
    pub(crate) verb: &'a str,
    pub(crate) key: &'a str,
    /// As it goes by the bus.
    pub(crate) body: &'a Value,
}

impl Client {
    pub(crate) async fn connect(access: &Access, answers: &Path) -> anyhow::Result<Self> {
        let login = access.login("checkout");
        let nats = bus::connect(&access.nats_url, &login, "harness shop").await?;
        let key = access
            .tool(&["keys", "create", "--shop", SHOP, "--name", "harness"])
            .await?;
        let file = File::create(answers).with_context(|| format!("make {}", answers.display()))?;
        Ok(Self {
            access: access.clone(),
            jetstream: jetstream::new(nats.clone()),
            nats,
            http: reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(ANSWER_MAX)
                .build()?,
            api_key: key.trim().to_owned(),
            answers: Mutex::new(Answers {
                file: BufWriter::new(file),
                rows: 0,
            }),
        })
    }

    /// Sends it until there is an answer that settles it; the same key each time. Gives up at `until`.
    pub(crate) async fn command(&self, command: &Command<'_>, until: Instant, chance: &mut Random) -> Said {
        let mut pause = PAUSE_MIN;
        loop {
            match self.once(command).await {
                Said::Nothing if Instant::now() < until => {
                    sleep(pause + chance.between(Duration::ZERO, pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                settled => return settled,
            }
        }
    }

    /// Sends it once.
    pub(crate) async fn once(&self, command: &Command<'_>) -> Said {
        let sent_at = now();
        let answer = match command.via {
            Via::Nats => self.by_nats(command).await,
            Via::Http => self.by_http(command).await,
            Via::Inbox => self.by_inbox(command).await,
        };
        let answered_at = answer.is_some().then(now);
        let (said, status, code) = match &answer {
            None => (Said::Nothing, "none", None),
            Some(Ok(document)) if command.via == Via::Inbox => {
                // Taken, not decided.
                let _ = document;
                (Said::Nothing, "none", None)
            }
            Some(Ok(document)) => (Said::Accepted(document.clone()), "accepted", None),
            Some(Err(problem)) => {
                let code = problem["code"].as_str().unwrap_or("unreadable").to_owned();
                if again(problem) {
                    // Nothing was decided: the same may be asked again.
                    (Said::Nothing, "none", Some(code))
                } else {
                    (Said::Refused(code.clone()), "refused", Some(code))
                }
            }
        };
        let document = match answer {
            Some(Ok(document) | Err(document)) => document,
            None => Value::Null,
        };
        self.write_down(command, sent_at, answered_at, status, code.as_deref(), &document);
        said
    }

    async fn by_nats(&self, command: &Command<'_>) -> Option<Result<Value, Value>> {
        let subject = format!("kassa.cmd.{SHOP}.{}", command.verb);
        let payload = serde_json::to_vec(command.body).ok()?;
        let request = async_nats::Request::new()
            .headers(headers(command.key))
            .payload(payload.into())
            .timeout(Some(ANSWER_MAX));
        let answer = self.nats.send_request(subject, request).await.ok()?;
        let failed = answer.headers.as_ref();
        let failed = failed.is_some_and(|headers| headers.get("Nats-Service-Error-Code").is_some());
        let document = serde_json::from_slice(&answer.payload).ok()?;
        Some(if failed { Err(document) } else { Ok(document) })
    }

    async fn by_http(&self, command: &Command<'_>) -> Option<Result<Value, Value>> {
        let api = &self.access.api_url;
        let (url, body) = if command.verb == "start_payment" {
            let mut body = command.body.clone();
            let order_id = body.as_object_mut()?.shift_remove("order_id")?;
            (format!("{api}/v1/orders/{}/payments", order_id.as_str()?), body)
        } else {
            (format!("{api}/v1/orders"), command.body.clone())
        };
        let sent = self
            .http
            .post(url)
            .bearer_auth(&self.api_key)
            .header("Idempotency-Key", command.key)
            .header("Prefer", "wait=5")
            .json(&body)
            .send()
            .await
            .ok()?;
        let good = sent.status().is_success();
        let document = sent.json().await.ok()?;
        Some(if good { Ok(document) } else { Err(document) })
    }

    async fn by_inbox(&self, command: &Command<'_>) -> Option<Result<Value, Value>> {
        let subject = format!("kassa.inbox.{SHOP}.{}", command.verb);
        let payload = serde_json::to_vec(command.body).ok()?;
        let stored = async {
            let sent = self
                .jetstream
                .publish_with_headers(subject, headers(command.key), payload.into());
            sent.await.ok()?.await.ok()
        };
        timeout(ANSWER_MAX, stored).await.ok()??;
        Some(Ok(Value::Null))
    }

    /// An order's document; nothing while nobody can answer, or there is none.
    pub(crate) async fn order(&self, reference: &str, via: Via) -> Option<Value> {
        let document = if via == Via::Http {
            let url = format!("{}/v1/orders?order_reference={reference}", self.access.api_url);
            let asked = self
                .http
                .get(url)
                .bearer_auth(&self.api_key)
                .timeout(QUESTION_MAX);
            let list: Value = asked.send().await.ok()?.json().await.ok()?;
            // The list is of orders in short; what to do next stands in the order itself.
            let order_id = list["orders"].get(0)?["order_id"].as_str()?.to_owned();
            let url = format!("{}/v1/orders/{order_id}", self.access.api_url);
            let asked = self
                .http
                .get(url)
                .bearer_auth(&self.api_key)
                .timeout(QUESTION_MAX);
            asked.send().await.ok()?.json().await.ok()?
        } else {
            let body = serde_json::to_vec(&json!({ "order_reference": reference })).ok()?;
            let subject = format!("kassa.qry.{SHOP}.get_order");
            let request = async_nats::Request::new()
                .payload(body.into())
                .timeout(Some(QUESTION_MAX));
            let answer = self.nats.send_request(subject, request).await.ok()?;
            serde_json::from_slice::<Value>(&answer.payload).ok()?
        };
        document["order_id"].is_string().then_some(document)
    }

    fn write_down(
        &self,
        command: &Command<'_>,
        sent_at: Timestamp,
        answered_at: Option<Timestamp>,
        status: &str,
        code: Option<&str>,
        answer: &Value,
    ) {
        let via = match command.via {
            Via::Nats => "nats",
            Via::Http => "http",
            Via::Inbox => "inbox",
        };
        let mut answers = self.answers.lock().expect("no writer panics");
        answers.rows += 1;
        let row = json!({
            "n": answers.rows, "sent_at": sent_at, "answered_at": answered_at, "via": via, "shop": SHOP,
            "verb": command.verb, "key": command.key, "body": command.body, "status": status, "code": code,
            "answer": answer,
        });
        writeln!(answers.file, "{row}").expect("the run's folder can be written");
    }

    /// Everything is in the file.
    pub(crate) fn flush(&self) -> anyhow::Result<()> {
        let mut answers = self.answers.lock().expect("no writer panics");
        answers.file.flush().context("write the answers")
    }
}

fn headers(key: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Idempotency-Key", key);
    headers.insert("Prefer", "wait=5");
    headers
}

/// Whether a problem says that nothing was decided.
fn again(problem: &Value) -> bool {
    let status = problem["status"].as_u64().unwrap_or(500);
    status >= 500 || status == 429 || status == 408 || problem["code"] == "idempotency_in_flight"
}
