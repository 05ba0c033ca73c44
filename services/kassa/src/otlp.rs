//! Where do traces go? To a collector, by OTLP over HTTP in its JSON form, if the environment names one; nowhere else.
//!
//! The names are OpenTelemetry's own: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or `OTEL_EXPORTER_OTLP_ENDPOINT`,
//! `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SDK_DISABLED`. Spans are lost
//! before anything waits for a collector.

use std::time::{Duration, SystemTime};

use kassa_chassis::trace::{self, Context, Ended as Span, Kind};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::exit::Ended;

/// Spans that wait: some seconds of a busy machine's, in a few megabytes.
const WAITING_MAX: usize = 8_192;
/// Spans in one request; some 300 KB.
const BATCH_MAX: usize = 512;
/// The first span of a batch waits this long for others.
const GATHER: Duration = Duration::from_secs(1);
const POST_MAX: Duration = Duration::from_secs(5);
/// For the last batch, when the process ends.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// The exporter of this process.
#[derive(Debug)]
pub(crate) struct Traces {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Where to, and as whom.
struct Collector {
    client: reqwest::Client,
    url: String,
    headers: HeaderMap,
    resource: Value,
    failures: u32,
}

impl Traces {
    /// `None` where the environment names no collector.
    ///
    /// # Errors
    /// When what it says cannot be used.
    pub(crate) fn from_env() -> anyhow::Result<Option<Self>> {
        let (sender, spans) = mpsc::channel(WAITING_MAX);
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(collector) = Collector::new(given)? else {
            return Ok(None);
        };
        if !trace::export_to(sender) {
            return Ok(None);
        }
        tracing::info!("traces are told to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names");
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(collector, spans, stop.clone()));
        Ok(Some(Self { stop, task }))
    }

    /// Sends what is left.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(CLOSE_MAX, self.task).await;
    }
}

async fn run(mut collector: Collector, mut spans: mpsc::Receiver<Span>, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let stopped = tokio::select! {
            received = spans.recv_many(&mut batch, BATCH_MAX) => received == 0,
            () = stop.cancelled() => true,
        };
        let full_at = tokio::time::Instant::now() + GATHER;
        while !stopped && batch.len() < BATCH_MAX {
            let room = BATCH_MAX - batch.len();
            tokio::select! {
                received = spans.recv_many(&mut batch, room) => if received == 0 { break },
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(full_at) => break,
            }
        }
        if stopped {
            while let Ok(span) = spans.try_recv() {
                batch.push(span);
            }
        }
        if !batch.is_empty() {
            collector.post(&batch).await;
            batch.clear();
        }
        if stopped {
            return;
        }
    }
}

impl Collector {
    fn new(given: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        if given("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(None);
        }
        let below = |base: String| format!("{}/v1/traces", base.trim_end_matches('/'));
        let url = given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
            .or_else(|| given("OTEL_EXPORTER_OTLP_ENDPOINT").map(below));
        let Some(url) = url else { return Ok(None) };
        if !reqwest::Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            return Err(Ended::new(
                Ended::CONFIGURATION,
                "OTEL_EXPORTER_OTLP_ENDPOINT: a URL such as http://127.0.0.1:4318".to_owned(),
            )
            .into());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in pairs(given("OTEL_EXPORTER_OTLP_HEADERS")) {
            // They hold keys: which one is wrong is said, not what is in it.
            let wrong = || {
                Ended::new(
                    Ended::CONFIGURATION,
                    "OTEL_EXPORTER_OTLP_HEADERS: name=value pairs, separated by commas".to_owned(),
                )
            };
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let mut resource = pairs(given("OTEL_RESOURCE_ATTRIBUTES"));
        if let Some(name) = given("OTEL_SERVICE_NAME") {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), name));
        } else if !resource.iter().any(|(key, _)| key == "service.name") {
            resource.push(("service.name".to_owned(), "kassa".to_owned()));
        }
        resource.push(("service.version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
        let resource = resource
            .iter()
            .map(|(key, value)| attribute(key, value))
            .collect();
        Ok(Some(Self {
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .timeout(POST_MAX)
                .build()?,
            url,
            headers,
            resource,
            failures: 0,
        }))
    }

    async fn post(&mut self, batch: &[Span]) {
        let request = self
            .client
            .post(&self.url)
            .headers(self.headers.clone())
            .json(&document(&self.resource, batch));
        let failed = match request.send().await {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answered {}", response.status())),
            // Without the address, which may carry a login.
            Err(error) => Some(error.without_url().to_string()),
        };
        match failed {
            None => self.failures = 0,
            Some(why) => {
                self.failures = self.failures.saturating_add(1);
                if self.failures.is_power_of_two() {
                    tracing::warn!(
                        why,
                        times = self.failures,
                        spans = batch.len(),
                        "the collector takes no traces; they are lost, and nothing else is"
                    );
                }
            }
        }
    }
}

/// `a=1,b=2`, as the environment writes lists.
fn pairs(text: Option<String>) -> Vec<(String, String)> {
    let text = text.unwrap_or_default();
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn document(resource: &Value, batch: &[Span]) -> Value {
    let spans: Vec<_> = batch.iter().map(span).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "kassa" }, "spans": spans }],
    }] })
}

fn span(span: &Span) -> Value {
    let kind = match span.kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
        Kind::Producer => 4,
        Kind::Consumer => 5,
    };
    let attributes: Vec<_> = span
        .attributes
        .iter()
        .map(|(key, value)| attribute(key, value))
        .collect();
    let mut told = json!({
        "traceId": span.context.trace_id(),
        "spanId": format!("{:016x}", span.context.span_id),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanoseconds(span.began),
        "endTimeUnixNano": nanoseconds(span.ended),
        "attributes": attributes,
    });
    if let Some(parent) = span.parent {
        told["parentSpanId"] = format!("{parent:016x}").into();
    }
    if let Some(state) = &span.context.state {
        told["traceState"] = state.as_str().into();
    }
    if let Some(link) = &span.link {
        told["links"] = json!([linked(link)]);
    }
    told
}

fn linked(link: &Context) -> Value {
    json!({ "traceId": link.trace_id(), "spanId": format!("{:016x}", link.span_id) })
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// As text: JSON numbers of some readers end before these do.
fn nanoseconds(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    fn collector(vars: &[(&str, &str)]) -> anyhow::Result<Option<Collector>> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Collector::new(|name| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_exported_unless_the_environment_names_a_collector() {
        assert!(collector(&[]).unwrap().is_none());
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/");
        assert!(
            collector(&[endpoint, ("OTEL_SDK_DISABLED", "true")])
                .unwrap()
                .is_none()
        );
        assert_eq!(
            collector(&[endpoint]).unwrap().unwrap().url,
            "http://127.0.0.1:4318/v1/traces"
        );
        assert!(collector(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318")]).is_err());
    }

    #[tokio::test]
    async fn a_span_that_ends_reaches_the_collector_with_its_parent_and_attributes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (told, mut heard) = mpsc::channel(1);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut some = [0; 4096];
                let read = stream.read(&mut some).await.unwrap();
                request.extend_from_slice(&some[..read]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else {
                    continue;
                };
                assert!(
                    head.starts_with("POST /v1/traces ") && head.contains("x-key: k"),
                    "{head}"
                );
                if let Ok(body) = serde_json::from_str::<Value>(body) {
                    break body;
                }
            };
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await
                .unwrap();
            told.send(body).await.unwrap();
        });
        let vars = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=k"),
            ("OTEL_SERVICE_NAME", "kassa-test"),
        ];
        let collector = collector(&vars).unwrap().unwrap();
        let (sender, spans) = mpsc::channel(4);
        assert!(trace::export_to(sender), "this test is the only one that exports");
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(collector, spans, stop.clone()));
        let caller: Context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
            .parse()
            .unwrap();
        trace::Span::server("process kassa.cmd.{shop}.create_order", Some(caller))
            .with("kassa.shop", "demo-shop")
            .run(async { trace::note("kassa.result", "ok") })
            .await;
        stop.cancel();
        let body = tokio::time::timeout(Duration::from_secs(10), heard.recv())
            .await
            .unwrap()
            .unwrap();
        running.await.unwrap();
        let told = &body["resourceSpans"][0];
        assert_eq!(
            told["resource"]["attributes"][0]["value"]["stringValue"],
            "kassa-test"
        );
        let span = &told["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span["parentSpanId"], "00f067aa0ba902b7");
        assert_eq!(span["kind"], 2);
        assert_eq!(span["attributes"][0]["key"], "kassa.shop");
        assert_eq!(span["attributes"][1]["value"]["stringValue"], "ok");
    }
}
