//! How is HTTP served without letting a slow or greedy client take the process?
//!
//! `axum::serve` has no read deadlines, so connections are driven by hyper itself: a deadline for the head of a
//! request, a deadline and a size for its body, and a cap on connections.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// What one listener grants to strangers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections at once; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// From the first byte of a connection, or the end of the last request, to the end of the headers.
    pub header_deadline: Duration,
    /// From the end of the headers to the answer's head: body and handler together.
    pub request_deadline: Duration,
    /// Bytes of a request's body.
    pub body_max: usize,
    /// Bytes of the request line and headers together.
    pub head_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A connection costs some 20 KB; two thousand idle ones must not hurt.
            connections: 4_096,
            header_deadline: Duration::from_secs(5),
            // Longer than any `Prefer: wait` (25 s), so that waiting is not cut.
            request_deadline: Duration::from_secs(30),
            body_max: 64 * 1024,
            head_max: 64 * 1024,
        }
    }
}

/// Serves until `shutdown`, then lets requests under way finish for at most five seconds.
///
/// # Errors
/// Only those of the listener itself; a bad client is dropped and counted as nothing.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let limits = Arc::new(limits);
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = permits.clone().acquire_owned() => permit.map_err(io::Error::other)?,
        };
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: a pause lets some close; giving up would end the service.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        // Answers are small and somebody waits for them.
        let _ = stream.set_nodelay(true);
        let (router, limits, shutdown) = (router.clone(), limits.clone(), shutdown.clone());
        connections.spawn(async move {
            let _permit = permit;
            let service =
                hyper::service::service_fn(|request| answer(router.clone(), limits.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_deadline)
                .max_buf_size(limits.head_max)
                .max_headers(100)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                // A client's broken connection is the client's affair.
                _ = connection.as_mut() => {}
                () = shutdown.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(Duration::from_secs(5), connection).await;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn answer(
    router: Router,
    limits: Arc<Limits>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Infallible> {
    if let Some(refusal) = refuse(&request, &limits) {
        return Ok(refusal);
    }
    let request = request.map(|body| Body::new(http_body_util::Limited::new(body, limits.body_max)));
    Ok(
        match tokio::time::timeout(limits.request_deadline, router.oneshot(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => plain(StatusCode::REQUEST_TIMEOUT),
        },
    )
}

/// What no handler should have to think about: two meanings of one request, and sizes told in advance.
fn refuse<B>(request: &Request<B>, limits: &Limits) -> Option<Response<Body>> {
    let headers = request.headers();
    let count = |name| headers.get_all(name).iter().count();
    if count(header::HOST) != 1 || count(header::CONTENT_LENGTH) > 1 {
        return Some(plain(StatusCode::BAD_REQUEST));
    }
    if headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING) {
        return Some(plain(StatusCode::BAD_REQUEST));
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits.body_max) {
        return Some(plain(StatusCode::PAYLOAD_TOO_LARGE));
    }
    None
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}
