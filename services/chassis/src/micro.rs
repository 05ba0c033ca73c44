//! How does a NATS micro service of ours answer? One endpoint a verb, one for verbs that do not exist, requests side by
//! side up to a bound, and problem documents with the convention's headers.

use std::{collections::HashMap, future::Future, sync::Arc};

use async_nats::{
    Client, HeaderMap,
    service::{Request, Service, ServiceExt as _},
};
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, Mode},
    metrics,
    problem::{Problem, refusal_headers},
};

/// Requests under way at once: each waits for a commit, and some for the provider's answer.
const UNDER_WAY: usize = 4_096;

/// For answers to leave at the end; a bus that is away takes none.
const FLUSH_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// What is served where: `{prefix}.{shop}.{verb}`.
#[derive(Debug, Clone, Copy)]
pub struct MicroService {
    pub name: &'static str,
    pub description: &'static str,
    pub version: &'static str,
    pub prefix: &'static str,
    pub verbs: &'static [&'static str],
}

/// What discovery tells of a service beside its verbs.
#[derive(Debug, Clone)]
pub struct About {
    /// Where the contract is published, without a slash at the end. Empty: addresses are relative to wherever that is.
    pub public_url: String,
    /// Whether there is a shop whose money is real.
    pub livemode: bool,
    /// Of the source that this was built from.
    pub revision: &'static str,
}

impl About {
    pub fn from_config(config: &Config) -> Self {
        Self {
            public_url: config.http.public_url.clone().unwrap_or_default(),
            livemode: config.shops.values().any(|shop| shop.cm.mode == Mode::Live),
            revision: option_env!("KASSA_REVISION").unwrap_or("unknown"),
        }
    }

    fn of_service(&self) -> HashMap<String, String> {
        let at = |path: &str| format!("{}{path}", self.public_url);
        HashMap::from([
            ("asyncapi".to_owned(), at("/asyncapi.json")),
            ("docs".to_owned(), at("/docs/api")),
            ("livemode".to_owned(), self.livemode.to_string()),
            ("revision".to_owned(), self.revision.to_owned()),
        ])
    }

    fn of_verb(&self, what: MicroService, verb: &str) -> HashMap<String, String> {
        let kind = if what.prefix == "kassa.qry" {
            "queries"
        } else {
            "commands"
        };
        let schema = |name: &str| format!("{}/schemas/{kind}/{name}.v1.json", self.public_url);
        HashMap::from([
            ("request_schema".to_owned(), schema(verb)),
            ("response_schema".to_owned(), schema(&format!("{verb}_answer"))),
            ("docs".to_owned(), format!("{}/docs/api#{verb}", self.public_url)),
            // Questions change nothing, and commands carry a key.
            ("idempotent".to_owned(), "true".to_owned()),
        ])
    }
}

/// One request, with the subject taken apart.
#[derive(Debug)]
pub struct Asked {
    /// As it stands in the subject; not checked.
    pub shop: String,
    /// One of the service's verbs.
    pub verb: String,
    pub headers: Option<HeaderMap>,
    pub body: Bytes,
}

/// An answer, and what stands beside it in headers, whichever way it goes.
#[derive(Debug)]
pub struct Reply {
    pub result: Result<Vec<u8>, Box<Problem>>,
    /// What a result is; `Content-Type`. A problem is what problems are.
    pub content_type: &'static str,
    /// The answer had been given before; `Idempotent-Replayed`.
    pub replayed: bool,
    /// How far the log was read for this answer; `Kassa-Position`.
    pub position: Option<String>,
    /// The preference that was followed; `Preference-Applied`.
    pub preference: Option<String>,
}

impl Reply {
    pub fn new(result: Result<Vec<u8>, Box<Problem>>) -> Self {
        Self {
            result,
            content_type: "application/json",
            replayed: false,
            position: None,
            preference: None,
        }
    }

    #[must_use]
    pub fn replayed(mut self, replayed: bool) -> Self {
        self.replayed = replayed;
        self
    }

    #[must_use]
    pub fn at(mut self, position: impl Into<String>) -> Self {
        self.position = Some(position.into());
        self
    }

    /// Headers beside the content type and those of an error.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let replayed = self.replayed.then_some(("Idempotent-Replayed", "true"));
        let position = self.position.as_deref().map(|at| ("Kassa-Position", at));
        let preference = self.preference.as_deref();
        let preference = preference.map(|applied| ("Preference-Applied", applied));
        [replayed, position, preference].into_iter().flatten()
    }
}

impl From<Box<Problem>> for Reply {
    fn from(problem: Box<Problem>) -> Self {
        Self::new(Err(problem))
    }
}

/// Answers requests until shutdown, then finishes those under way.
///
/// # Errors
/// When the subscriptions cannot be made or end; the caller runs it again.
pub async fn serve<F>(
    client: &Client,
    what: MicroService,
    about: &About,
    shutdown: &CancellationToken,
    handle: impl Fn(Asked) -> F + Clone + Send + Sync + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = Reply> + Send + 'static,
{
    // The service lives as long as this is kept.
    let (_service, endpoints) = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        started = start(client, what, about) => started?,
    };
    let permits = Arc::new(Semaphore::new(UNDER_WAY));
    let under_way = TaskTracker::new();
    let mut requests = futures::stream::select_all(endpoints);
    let mut turned_away: u32 = 0;
    let result = loop {
        let (known, request) = tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            request = requests.next() => match request {
                Some(request) => request,
                None => break Err(anyhow::anyhow!("the subscriptions of {} ended", what.name)),
            },
        };
        let (shop, verb) = tokens(what.prefix, request.message.subject.as_str());
        // A known verb reaches the fallback too; its own endpoint answers it.
        if !known && what.verbs.contains(&verb.as_str()) {
            continue;
        }
        // Whoever waits for no answer has the inbox, which keeps what it is given. And an answer goes where answers go: a
        // requester names its subject, and may not have us speak on another.
        let reply = request.message.reply.as_ref().map(|subject| subject.as_str());
        if !reply.is_some_and(|subject| subject.starts_with("_INBOX")) {
            let times = turned_away.saturating_add(1);
            turned_away = times;
            // What stands in an unknown subject is anybody's text.
            metrics::turned_away(if known { &verb } else { "unknown" });
            if times.is_power_of_two() {
                tracing::warn!(
                    service = what.name,
                    times,
                    "a request without a subject for its answer below _INBOX is not processed"
                );
            }
            continue;
        }
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            respond(&request, Box::new(Problem::overloaded()).into()).await;
            continue;
        };
        let handle = handle.clone();
        // Spawned: somebody who waits ten seconds for a redirect may not hold up the next one.
        under_way.spawn(async move {
            let _permit = permit;
            let reply = if known {
                let message = &request.message;
                let headers = message.headers.clone();
                handle(Asked {
                    shop: shop.clone(),
                    verb: verb.clone(),
                    headers,
                    body: message.payload.clone(),
                })
                .await
            } else {
                Box::new(unknown_verb(what)).into()
            };
            // Known verbs are told of by whoever answers them, whichever way they come.
            if !known {
                // What stands in an unknown subject is anybody's text.
                tracing::info!(service = what.name, "request with an unknown verb");
            }
            respond(&request, reply).await;
        });
    };
    under_way.close();
    under_way.wait().await;
    // Said before the connection goes, so that requesters are not left waiting.
    let _ = tokio::time::timeout(FLUSH_MAX, client.flush()).await;
    result
}

/// Subscribes to every verb (`true`) and to whatever else comes (`false`).
async fn start(
    client: &Client,
    what: MicroService,
    about: &About,
) -> anyhow::Result<(Service, Vec<BoxStream<'static, (bool, Request)>>)> {
    let service = client
        .service_builder()
        .description(what.description)
        .metadata(about.of_service())
        .start(what.name, what.version)
        .await
        .map_err(anyhow::Error::from_boxed)?;
    let mut endpoints = Vec::new();
    for verb in what.verbs {
        let endpoint = service
            .endpoint_builder()
            .name(verb)
            .metadata(about.of_verb(what, verb))
            .add(format!("{}.*.{verb}", what.prefix))
            .await
            .map_err(anyhow::Error::from_boxed)?;
        endpoints.push(endpoint.map(|request| (true, request)).boxed());
    }
    // A queue group of its own: in that of the verbs it would take their requests.
    let fallback = service
        .endpoint_builder()
        .name("unknown")
        .queue_group(format!("{}-unknown", what.name))
        .add(format!("{}.*.>", what.prefix))
        .await
        .map_err(anyhow::Error::from_boxed)?;
    endpoints.push(fallback.map(|request| (false, request)).boxed());
    Ok((service, endpoints))
}

fn tokens(prefix: &str, subject: &str) -> (String, String) {
    let rest = subject
        .strip_prefix(prefix)
        .unwrap_or_default()
        .trim_start_matches('.');
    let (shop, verb) = rest.split_once('.').unwrap_or((rest, ""));
    (shop.to_owned(), verb.to_owned())
}

fn unknown_verb(what: MicroService) -> Problem {
    Problem::of(
        "not_found",
        "there is no such verb",
        format!(
            "publish on {}.<shop>.<verb> with one of {}",
            what.prefix,
            what.verbs.join(", ")
        ),
    )
}

/// The convention for errors, with the problem document as the body: the library's own error answer is empty.
async fn respond(request: &Request, reply: Reply) {
    if request.message.reply.is_none() {
        return;
    }
    let mut headers = HeaderMap::new();
    for (name, value) in reply.headers() {
        headers.insert(name, value);
    }
    let payload = match reply.result {
        Ok(payload) => {
            headers.insert("Content-Type", reply.content_type);
            payload
        }
        Err(problem) => {
            refusal_headers(&mut headers, &problem);
            serde_json::to_vec(&problem).unwrap_or_default()
        }
    };
    if let Err(error) = request
        .respond_with_headers(Ok(Bytes::from(payload)), headers)
        .await
    {
        // The requester repeats with the same key and gets the same answer.
        tracing::warn!(%error, "an answer could not be sent");
    }
}
