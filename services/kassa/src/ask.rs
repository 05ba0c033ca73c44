//! How are questions and commands sent? On NATS as any service of a shop would, or by HTTP where `--url` is given: the same
//! verbs, bodies and answers.

use std::{path::Path, time::Duration};

use async_nats::{HeaderMap, client::RequestErrorKind};
use clap::Args;
use kassa_events_schema::{headers, subject};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::{
    exit::Ended,
    nats_login::{Bus, NatsArgs},
};

/// For an answer, above what was asked to wait for.
const ANSWER_MAX: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// The shop's token; by HTTP the API key says it, and another than this is refused.
    #[arg(long, env = "KASSA_SHOP", value_name = "SHOP")]
    shop: Option<String>,
    /// The HTTP API instead of NATS, else KASSA_URL where NATS is not named; its key is taken from KASSA_API_KEY or
    /// --api-key-file.
    #[arg(long, value_name = "URL", conflicts_with_all = ["context", "nats_url"])]
    url: Option<String>,
    /// A file that holds the API key.
    #[arg(long, env = "KASSA_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<std::path::PathBuf>,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Where questions go.
#[derive(Debug)]
pub(crate) enum Service {
    Nats { bus: Bus, shop: String },
    Http(Api),
}

/// The HTTP API, with the key for it.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) client: reqwest::Client,
    pub(crate) base: String,
    key: Option<SecretString>,
}

/// A time to wait in, and what for: as `Prefer` says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wait {
    pub(crate) seconds: u64,
    pub(crate) until: &'static str,
}

impl Reach {
    /// # Errors
    /// [`Ended`] with the code for why nothing can be asked.
    pub(crate) async fn connect(&self, file: Option<&Path>) -> anyhow::Result<Service> {
        if let Some(url) = http_url(self.url.as_deref(), self.nats.named()) {
            let api = Api::new(&url, self.api_key_file.as_deref())?;
            if let Some(shop) = &self.shop {
                api.must_be_of(shop).await?;
            }
            return Ok(Service::Http(api));
        }
        let shop = self.shop()?;
        let bus = self.nats.connect(file, "kassa command line").await?;
        Ok(Service::Nats { bus, shop })
    }

    fn shop(&self) -> anyhow::Result<String> {
        let shop = self.shop.clone().ok_or_else(|| {
            Ended::new(
                Ended::USAGE,
                "on NATS the shop stands in the subject, and none was named",
            )
            .hint("give --shop or set KASSA_SHOP; or ask by HTTP with --url")
        })?;
        // A wildcard or a dot here would be another subject.
        match subject::check_shop(&shop) {
            Ok(()) => Ok(shop),
            Err(_) => Err(Ended::new(Ended::USAGE, "--shop: a shop is 1 to 32 of a-z, 0-9 and -").into()),
        }
    }
}

/// Where the HTTP API is, if it is to be asked. What the environment says holds only where nothing else was named: whoever
/// gives a flag means it.
pub(crate) fn http_url(flag: Option<&str>, another_named: bool) -> Option<String> {
    let filled = |url: &String| !url.is_empty();
    let environment = || std::env::var("KASSA_URL").ok().filter(filled);
    match flag {
        Some(url) => Some(url.to_owned()),
        None if another_named => None,
        None => environment(),
    }
}

impl Api {
    pub(crate) fn new(url: &str, key_file: Option<&Path>) -> anyhow::Result<Self> {
        let wrong = |text: String| Ended::new(Ended::CONFIGURATION, text);
        let parsed = url::Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| wrong("--url: an address such as https://pay.example".to_owned()))?;
        let key = match (
            std::env::var("KASSA_API_KEY").ok().filter(|key| !key.is_empty()),
            key_file,
        ) {
            (Some(key), _) => Some(key),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| wrong(format!("--api-key-file: {}: {error}", path.display())))?;
                Some(text.trim().to_owned())
            }
            (None, None) => None,
        };
        Ok(Self {
            client: reqwest::Client::builder()
                .no_proxy()
                .connect_timeout(Duration::from_secs(5))
                .build()?,
            base: parsed.as_str().trim_end_matches('/').to_owned(),
            key: key.map(SecretString::from),
        })
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key.expose_secret()),
            None => request,
        }
    }

    /// By HTTP the key decides whose orders are meant. Who names a shop as well means that one: nothing is asked of another,
    /// and nothing is done to it.
    ///
    /// # Errors
    /// 77 where the key is another shop's. A key that may not read events is not asked after.
    pub(crate) async fn must_be_of(&self, shop: &str) -> anyhow::Result<()> {
        let response = self
            .request(Method::GET, "/v1/events")
            .query(&[("shop", shop), ("limit", "1")])
            .timeout(ANSWER_MAX)
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        match status {
            StatusCode::NOT_FOUND if is_problem(&body) => Err(Ended::new(
                Ended::NO_PERMISSION,
                format!(
                    "the API key is of another shop than {}",
                    crate::output::printable(shop)
                ),
            )
            .hint("leave out --shop and KASSA_SHOP, or give a key of that shop")
            .into()),
            StatusCode::UNAUTHORIZED => Err(self.refusal(status, &body).into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn unreachable(&self, error: &reqwest::Error) -> Ended {
        let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
        Ended::new(
            Ended::UNREACHABLE,
            format!("{} cannot be reached{cause}", self.base),
        )
        .hint("check --url, and that kassa serve --role checkout runs there")
    }

    async fn answer(&self, request: reqwest::RequestBuilder, changes: bool) -> anyhow::Result<Value> {
        let response = request
            .send()
            .await
            .map_err(|error| match error.is_timeout() && changes {
                true => no_answer_to_a_command(),
                false => self.unreachable(&error),
            })?;
        let status = response.status();
        if status.is_success() {
            let body = response.bytes().await?;
            return serde_json::from_slice(&body).map_err(|_| self.not_ours(status).into());
        }
        Err(self
            .refusal(status, &response.bytes().await.unwrap_or_default())
            .into())
    }

    /// Something answers there, and it is something else.
    fn not_ours(&self, status: StatusCode) -> Ended {
        Ended::new(
            Ended::UNREACHABLE,
            format!("{} answers HTTP {status}, and not as kassa's API does", self.base),
        )
        .hint("this is not kassa's API: --url leads to where checkout.listen is, or to a proxy before it")
    }

    pub(crate) fn refusal(&self, status: StatusCode, body: &[u8]) -> Ended {
        let Some(mut problem) = serde_json::from_slice::<Value>(body)
            .ok()
            .filter(|_| is_problem(body))
        else {
            return self.not_ours(status);
        };
        problem["status"] = json!(status.as_u16());
        // Relative to where it was asked.
        if let Some(page) = problem["type"].as_str().filter(|page| page.starts_with('/')) {
            problem["docs"] = json!(format!("{}{page}", self.base));
        }
        Ended::refused(problem)
    }
}

/// Whether a body is a refusal of ours.
fn is_problem(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|problem| problem["code"].is_string())
}

impl Service {
    /// # Errors
    /// [`Ended`] with what the service said, or why it said nothing.
    pub(crate) async fn query(&self, verb: &str, body: &Value, wait: Option<Wait>) -> anyhow::Result<Value> {
        match self {
            Self::Nats { bus, shop } => {
                let mut headers = HeaderMap::new();
                if let Some(wait) = wait {
                    headers.insert("Prefer", format!("wait={}; for={}", wait.seconds, wait.until));
                }
                let subject = subject::query(shop, verb);
                nats(bus, subject, headers, body, patience(wait), false).await
            }
            Self::Http(api) => {
                let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
                let order = |tail: &str| format!("/v1/orders/{}{tail}", path_segment(&text("order_id")));
                let mut request = match verb {
                    "get_order" if body["order_id"].is_string() => api.request(Method::GET, &order("")),
                    "get_order_events" => api.request(Method::GET, &order("/events")),
                    "explain_order" => api.request(Method::GET, &order("/why")),
                    _ => {
                        let query: Vec<(String, String)> = body
                            .as_object()
                            .into_iter()
                            .flatten()
                            .map(|(name, value)| (name.clone(), crate::output::plain(value)))
                            .collect();
                        api.request(Method::GET, "/v1/orders").query(&query)
                    }
                };
                if let Some(wait) = wait {
                    request = request.header("Prefer", format!("wait={}; for={}", wait.seconds, wait.until));
                }
                api.answer(request.timeout(patience(wait)), false).await
            }
        }
    }

    /// # Errors
    /// As [`Self::query`]; and 4 where no answer came: what was decided is not known.
    pub(crate) async fn command(&self, verb: &str, body: &Value, key: &str) -> anyhow::Result<Value> {
        let wait = Some(Wait {
            seconds: 10,
            until: "",
        });
        match self {
            Self::Nats { bus, shop } => {
                let mut headers = HeaderMap::new();
                headers.insert("Idempotency-Key", key);
                headers.insert("Prefer", "wait=10");
                let subject = subject::command(shop, verb);
                nats(bus, subject, headers, body, patience(wait), true).await
            }
            Self::Http(api) => {
                let mut body = body.clone();
                let order = match (verb, body.as_object_mut()) {
                    // The path names the order, and nothing may be said twice.
                    ("start_payment" | "cancel_order", Some(fields)) => fields.shift_remove("order_id"),
                    _ => None,
                };
                let order = path_segment(order.as_ref().and_then(Value::as_str).unwrap_or_default());
                let path = match verb {
                    "create_order" => "/v1/orders".to_owned(),
                    "start_payment" => format!("/v1/orders/{order}/payments"),
                    _ => format!("/v1/orders/{order}/cancel"),
                };
                let request = api
                    .request(Method::POST, &path)
                    .header("Idempotency-Key", key)
                    .header("Prefer", "wait=10")
                    .json(&body)
                    .timeout(patience(wait));
                api.answer(request, true).await
            }
        }
    }

    /// An order's id, from it or from the shop's own reference.
    pub(crate) async fn order_id(&self, order: &str) -> anyhow::Result<String> {
        if order.starts_with("ord_") {
            return Ok(order.to_owned());
        }
        let document = self.query("get_order", &named(order), None).await?;
        document["order_id"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| anyhow::anyhow!("the answer has no order_id"))
    }
}

/// `ord_…` is an id; everything else is the shop's own reference.
pub(crate) fn named(order: &str) -> Value {
    if order.starts_with("ord_") {
        json!({ "order_id": order })
    } else {
        json!({ "order_reference": order })
    }
}

fn patience(wait: Option<Wait>) -> Duration {
    ANSWER_MAX + Duration::from_secs(wait.map_or(0, |wait| wait.seconds))
}

/// Somebody's text as one segment of a path: what is no id stays what it is, and leads nowhere else.
fn path_segment(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let mut segment = String::new();
    for b in text.bytes() {
        if plain(b) {
            segment.push(char::from(b));
        } else {
            segment.push_str(&format!("%{b:02X}"));
        }
    }
    segment
}

fn no_answer_to_a_command() -> Ended {
    Ended::new(
        Ended::TIMED_OUT,
        "no answer came in time: whether it was done is not known",
    )
    .hint("repeat it with the same --idempotency-key, which never does it twice")
}

async fn nats(
    bus: &Bus,
    subject: String,
    headers: HeaderMap,
    body: &Value,
    patience: Duration,
    changes: bool,
) -> anyhow::Result<Value> {
    let request = async_nats::Request::new()
        .headers(headers)
        .payload(serde_json::to_vec(body)?.into())
        .timeout(Some(patience));
    let answer = tokio::select! {
        answer = bus.client.send_request(subject, request) => answer,
        refused = bus.refusal() => return Err(refused.into()),
    };
    let answer = answer.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => Ended::new(
            Ended::UNREACHABLE,
            format!("nobody at {} answers for this shop", bus.shown),
        )
        .hint("check --shop, and that kassa serve runs with the roles engine and read-models"),
        RequestErrorKind::TimedOut if changes => no_answer_to_a_command(),
        _ => Ended::new(
            Ended::UNREACHABLE,
            format!("no answer from {}: {error}", bus.shown),
        )
        .hint("kassa doctor says what is away"),
    })?;
    let document: Value = serde_json::from_slice(&answer.payload)?;
    let refused = answer
        .headers
        .as_ref()
        .is_some_and(|headers| headers.get(headers::SERVICE_ERROR_CODE).is_some());
    if refused {
        return Err(Ended::refused(document).into());
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::path_segment;

    #[test]
    fn an_id_with_a_slash_leads_nowhere_else() {
        assert_eq!(path_segment("ord_0a/../x?y"), "ord_0a%2F..%2Fx%3Fy");
    }
}
