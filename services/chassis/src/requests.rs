//! What is told of a request, whichever way it came? One span, one log line, one count; and the trace's id in a refusal.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use kassa_events_schema::subject::check_shop;

use crate::{
    metrics,
    micro::{Asked, Reply},
    problem::Problem,
    trace::{self, Context, Span},
};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To decide something: a line at `info`, and counted.
    Command,
    /// To know something: a line at `debug`. Shops ask often.
    Query,
}

/// Answers within a span: below the transport's, or else in the trace that the request names. `asked.verb` is one of the
/// service's verbs.
pub async fn answered(kind: Kind, asked: &Asked, answer: impl Future<Output = Reply>) -> Reply {
    let prefix = match kind {
        Kind::Command => "kassa.cmd",
        Kind::Query => "kassa.qry",
    };
    let template = format!("{prefix}.{{shop}}.{}", asked.verb);
    let transport = trace::current();
    let over_bus = transport.is_none();
    let caller = transport.or_else(|| Context::from_headers(asked.headers.as_ref()));
    let mut span = Span::server(format!("process {template}"), caller);
    if over_bus {
        span = span
            .with("messaging.system", "nats")
            .with("messaging.operation.name", "process")
            .with("messaging.operation.type", "process")
            .with("messaging.destination.template", template);
    }
    if is_token(&asked.shop) {
        span = span.with("kassa.shop", asked.shop.as_str());
    }
    span.run(async {
        let began = Instant::now();
        let mut reply = match too_much_head(asked.headers.as_ref()) {
            None => answer.await,
            Some(refusal) => Reply::from(refusal),
        };
        let took = began.elapsed();
        if let Err(problem) = &mut reply.result {
            problem.trace_id = trace::current().map(|here| here.trace_id());
        }
        tell(kind, asked, &reply, took);
        reply
    })
    .await
}

/// Names and values of the headers together, as over HTTP: the bus itself would carry a megabyte of them.
const HEAD_MAX: usize = 64 * 1024;

fn too_much_head(headers: Option<&HeaderMap>) -> Option<Box<Problem>> {
    let size: usize = headers
        .into_iter()
        .flat_map(HeaderMap::iter)
        .flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| name.len() + value.as_str().len())
        })
        .sum();
    (size > HEAD_MAX).then(|| {
        Box::new(Problem::of(
            "headers_too_large",
            format!("the headers together have {size} bytes, at most {HEAD_MAX} are taken"),
            "send fewer or shorter headers",
        ))
    })
}

fn tell(kind: Kind, asked: &Asked, reply: &Reply, took: Duration) {
    let code = reply
        .result
        .as_ref()
        .map_or_else(|problem| problem.code.as_str(), |_| "ok");
    let (verb, replayed) = (asked.verb.as_str(), reply.replayed);
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    trace::note("kassa.result", code);
    match kind {
        Kind::Command => {
            metrics::command(verb, code, took);
            tracing::info!(verb, result = code, replayed, ms, "command");
        }
        Kind::Query => tracing::debug!(verb, result = code, ms, "query"),
    }
}

/// Whatever else stands in the place of a shop is anybody's text.
fn is_token(shop: &str) -> bool {
    check_shop(shop).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refusal_names_the_trace_that_the_caller_named() {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(
            trace::TRACEPARENT,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        );
        let asked = Asked {
            shop: "demo-shop".to_owned(),
            verb: "create_order".to_owned(),
            headers: Some(headers),
            body: bytes::Bytes::new(),
        };
        let refused = || async { Reply::from(Box::new(Problem::not_found("order"))) };
        let reply = answered(Kind::Command, &asked, refused()).await;
        let named = |reply: Reply| reply.result.expect_err("it is refused").trace_id;
        assert_eq!(named(reply).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        // Over HTTP the request's own span is there already.
        let http = Span::server("POST /v1/orders", None);
        let outer = http.context.trace_id();
        let reply = http.run(answered(Kind::Command, &asked, refused())).await;
        assert_eq!(named(reply), Some(outer));
    }
}
