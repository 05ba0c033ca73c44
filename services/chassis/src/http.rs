//! How is HTTP served without letting a slow or greedy client take the process?
//!
//! `axum::serve` has no read deadlines, so connections are driven by hyper itself: a deadline for the head of a
//! request, a deadline and a size for its body, and a cap on connections, in all and from one source. What could be read
//! in two ways is refused before any handler sees it, with a problem document, and the connection is closed.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::IpAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{self, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Method, Request, Response, StatusCode, Version, header},
};
use futures::FutureExt as _;
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::{
    problem::Problem,
    trace::{self, Context, Span},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::Sleep,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// What one listener grants to strangers.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open connections at once; further ones wait in the kernel's backlog.
    pub connections: usize,
    /// Open connections from one address; further ones are told so and closed.
    pub per_source: usize,
    /// From the first byte of a connection, or the end of the last request, to the end of the headers.
    pub header_deadline: Duration,
    /// From the end of the headers to the end of the body.
    pub body_deadline: Duration,
    /// From the end of the body to the answer's head; the answer's own body may take its time.
    pub request_deadline: Duration,
    /// The same, of a request that has a deadline of its own.
    pub deadline_of: fn(&Request<Body>) -> Option<Duration>,
    /// How long a client may take nothing of what is written to it. An answer that goes on for days is not cut by this, as
    /// long as it is read.
    pub write_deadline: Duration,
    /// Bytes of a request's body.
    pub body_max: usize,
    /// Bytes of the request line and headers together.
    pub head_max: usize,
    /// Whether a body may come in chunks instead of with its length. The parser drops a length that comes beside chunks, so
    /// that the two can only be told apart by taking neither together nor chunks alone.
    pub chunks: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A connection costs some 20 KB; two thousand idle ones must not hurt.
            connections: 4_096,
            // A proxy in front speaks for many; it may not take every place, or nobody could look what it does.
            per_source: 3_072,
            header_deadline: Duration::from_secs(5),
            body_deadline: Duration::from_secs(10),
            // Longer than any `Prefer: wait` (30 s), so that waiting is not cut.
            request_deadline: Duration::from_secs(40),
            deadline_of: |_| None,
            // A phone in a tunnel comes out of it or resumes; a client that will never read holds nothing for longer.
            write_deadline: Duration::from_secs(30),
            body_max: 64 * 1024,
            head_max: 64 * 1024,
            chunks: true,
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
    let sources = Sources::default();
    // Whatever was asked for: one source does not get every place.
    let per_source = limits.per_source.min((limits.connections * 3 / 4).max(1));
    let limits = Arc::new(limits);
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = permits.clone().acquire_owned() => permit.map_err(io::Error::other)?,
        };
        let (stream, source) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => (stream, address.ip()),
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
        let Some(place) = sources.enter(source, per_source) else {
            // Whoever has so many open can read the reason on one of them; this one is not worth a task.
            let _ = stream.try_write(CROWDED.as_bytes());
            continue;
        };
        let (router, limits, shutdown) = (router.clone(), limits.clone(), shutdown.clone());
        connections.spawn(async move {
            let _places = (permit, place);
            let stream = Patient::new(stream, limits.write_deadline);
            let service =
                hyper::service::service_fn(|request| answer(router.clone(), limits.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_deadline)
                // Twice what is taken: a head somewhat too large is told so, and only a monstrous one meets hyper's own
                // bare answer.
                .max_buf_size(limits.head_max * 2)
                .max_headers(HEADERS_MAX * 4)
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

/// A connection whose writes fail once the other side has taken nothing for a while: hyper has no deadline for them.
#[derive(Debug)]
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while something is to be written and nothing is taken.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    fn judged<T>(&mut self, written: Poll<io::Result<T>>, cx: &mut task::Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let patience = self.patience;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match waiting.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judged(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.judged(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Nothing is kept back here, so that this says nothing about whether the other side reads.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Headers of one request; browsers and proxies send some thirty.
const HEADERS_MAX: usize = 100;

/// The answer to one connection too many, as bytes: nothing of a request was read.
const CROWDED: &str =
    "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Open connections by address.
#[derive(Debug, Clone, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One open connection; leaves its place when it goes.
#[derive(Debug)]
struct Place(Sources, IpAddr);

impl Sources {
    fn enter(&self, source: IpAddr, max: usize) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place(self.clone(), source))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.1);
            }
        }
    }
}

/// Under which a request is found in logs and traces: 32 hexadecimal digits, the caller's where it sent a `traceparent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceId(pub String);

async fn answer(
    router: Router,
    limits: Arc<Limits>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, Infallible> {
    let sent = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let caller = Context::parse(sent(trace::TRACEPARENT), sent(trace::TRACESTATE));
    let method = method_of(&request);
    // Without the path: tokens that open a page may stand in it.
    let span = Span::server(method, caller).with("http.request.method", method);
    let trace = TraceId(span.context.trace_id());
    span.run(answer_within(router, limits, request, trace)).await
}

/// One of the methods that have a name here; anything else would be a stranger's text.
fn method_of<B>(request: &Request<B>) -> &'static str {
    match *request.method() {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

async fn answer_within(
    router: Router,
    limits: Arc<Limits>,
    request: Request<hyper::body::Incoming>,
    trace: TraceId,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let method = method_of(&request);
    let mut response = match read(&limits, request).await {
        Ok(mut request) => {
            request.extensions_mut().insert(trace.clone());
            let deadline = (limits.deadline_of)(&request).unwrap_or(limits.request_deadline);
            // A handler's panic is this request's misfortune: it is told so, and the connection lives.
            let answered = AssertUnwindSafe(router.oneshot(request)).catch_unwind();
            match tokio::time::timeout(deadline, answered).await {
                Ok(Ok(Ok(response))) => response,
                Ok(Ok(Err(never))) => match never {},
                Ok(Err(_)) => problem(&panicked(), &path, &trace),
                Err(_) => {
                    // Without the path, as the span: whoever asked finds his line by the trace, which he is told as well.
                    tracing::warn!(
                        trace_id = trace.0,
                        method,
                        after_s = deadline.as_secs_f64(),
                        "a request had no answer in time and was told 503: what it waited for does not answer, as a rule \
                         the database"
                    );
                    problem(&slow_answer(), &path, &trace)
                }
            }
        }
        Err(refusal) => {
            let mut response = problem(&refusal, &path, &trace);
            // What follows on this connection may be the rest of what was refused.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            response
        }
    };
    if let Ok(value) = HeaderValue::from_str(&trace.0) {
        response.headers_mut().insert("Trace-Id", value);
    }
    Ok(response)
}

/// The request with its body, or why it is not taken.
async fn read(
    limits: &Limits,
    request: Request<hyper::body::Incoming>,
) -> Result<Request<Body>, Box<Problem>> {
    if let Some(refusal) = refuse(&request, limits) {
        return Err(Box::new(refusal));
    }
    let (head, body) = request.into_parts();
    let limited = http_body_util::Limited::new(body, limits.body_max);
    let bytes = match tokio::time::timeout(limits.body_deadline, limited.collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Box::new(too_large(limits)));
        }
        Ok(Err(_)) => {
            return Err(Box::new(malformed(
                "the body must end as its length or its chunks say",
            )));
        }
        Err(_) => {
            return Err(Box::new(Problem::of(
                "request_timeout",
                format!(
                    "the body must be here within {} s",
                    limits.body_deadline.as_secs()
                ),
                "send it again, on a connection that is fast enough",
            )));
        }
    };
    Ok(Request::from_parts(head, Body::from(bytes)))
}

/// What no handler should have to think about: two meanings of one request, and sizes told in advance.
fn refuse<B>(request: &Request<B>, limits: &Limits) -> Option<Problem> {
    let headers = request.headers();
    let count = |name| headers.get_all(name).iter().count();
    if count(header::HOST) != 1 {
        return Some(malformed("Host must be given once"));
    }
    if count(header::CONTENT_LENGTH) > 1
        || (headers.contains_key(header::CONTENT_LENGTH) && headers.contains_key(header::TRANSFER_ENCODING))
    {
        return Some(malformed(
            "the body must have one length: Content-Length, once, or chunks",
        ));
    }
    if !limits.chunks && headers.contains_key(header::TRANSFER_ENCODING) {
        return Some(malformed(
            "the body must have its length in Content-Length, and not come in chunks",
        ));
    }
    if request.version() < Version::HTTP_10 {
        return Some(malformed("the request must be HTTP/1.1"));
    }
    let origin_form = request.uri().scheme().is_none() && request.uri().authority().is_none();
    if !origin_form {
        return Some(malformed("the request line must hold a path, and no address"));
    }
    for name in ["x-http-method-override", "x-http-method", "x-method-override"] {
        if headers.contains_key(name) {
            return Some(malformed(
                "the method must stand in the request line, and nowhere else",
            ));
        }
    }
    let size: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let line = request
        .uri()
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    if headers.len() > HEADERS_MAX || size + line > limits.head_max {
        return Some(Problem::of(
            "headers_too_large",
            format!(
                "request line and headers together: at most {} bytes, and at most {HEADERS_MAX} headers",
                limits.head_max
            ),
            "send fewer or shorter headers",
        ));
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<usize>().ok());
    length
        .is_some_and(|length| length > limits.body_max)
        .then(|| too_large(limits))
}

/// What can be read in two ways, or in none.
fn malformed(detail: &str) -> Problem {
    Problem::of(
        "malformed_request",
        detail,
        "send it with a library for HTTP that is kept up to date",
    )
}

fn too_large(limits: &Limits) -> Problem {
    Problem::of(
        "payload_too_large",
        format!("at most {} bytes are taken", limits.body_max),
        "send less: long texts do not belong in a command",
    )
}

fn panicked() -> Problem {
    Problem::of(
        "internal",
        "the request met a mistake in kassa; nothing was decided or, if it was, a repeat tells what",
        "send the same request again with the same Idempotency-Key, and tell us the trace_id if it stays so",
    )
}

fn slow_answer() -> Problem {
    let mut problem = Problem::store_unavailable();
    problem.detail =
        "the answer was not ready in time; nothing was decided or, if it was, a repeat tells what".to_owned();
    problem
}

/// A problem as a response, with the path that was asked and the trace that it belongs to.
pub fn problem(problem: &Problem, path: &str, trace: &TraceId) -> Response<Body> {
    let mut document = serde_json::to_value(problem).unwrap_or_default();
    document["instance"] = path.into();
    document["docs"] = problem.kind.as_str().into();
    document["trace_id"] = trace.0.as_str().into();
    let mut response = Response::new(Body::from(document.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(seconds) = problem.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::timeout,
    };

    use super::*;
    use crate::logged::Log;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// A front with deadlines short enough for a test, over a stream of ten frames and a handler that panics.
    async fn front(per_source: usize) -> (SocketAddr, tokio_util::sync::DropGuard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let limits = Limits {
            per_source,
            header_deadline: Duration::from_millis(300),
            body_deadline: Duration::from_millis(300),
            request_deadline: Duration::from_millis(300),
            deadline_of: |request| (request.uri().path() == "/patient").then_some(DEADLINE),
            write_deadline: Duration::from_millis(300),
            ..Limits::default()
        };
        let slow = || async {
            let frames = futures::stream::unfold(0, |n| async move {
                // Longer, all together, than any deadline of the front.
                tokio::time::sleep(Duration::from_millis(100)).await;
                (n < 10).then(|| (Ok::<_, Infallible>("frame\n"), n + 1))
            });
            Body::from_stream(frames)
        };
        #[expect(unreachable_code, reason = "the handler's type")]
        let broken = || async {
            panic!("a handler's mistake");
            ""
        };
        let router = Router::new()
            .route("/slow", get(slow).post(async || "done"))
            .route(
                "/patient",
                get(async || {
                    // Longer than the deadline of all others.
                    tokio::time::sleep(Duration::from_millis(600)).await;
                    "done"
                }),
            )
            .route("/never", get(std::future::pending::<&'static str>))
            .route("/broken", get(broken));
        tokio::spawn(serve(listener, router, limits, shutdown.clone()));
        (address, shutdown.drop_guard())
    }

    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        let read = timeout(DEADLINE, stream.read_to_string(&mut answer)).await;
        let _ = read.expect("the connection is closed in time");
        answer
    }

    #[tokio::test]
    async fn a_slow_client_is_let_go_and_a_slow_answer_is_not_cut() {
        let (address, _guard) = front(10).await;
        let head = exchange(address, "GET /slow HTTP/1.1\r\nHost: a\r\nX-Slow").await;
        assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
        let body = "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab";
        let body = exchange(address, body).await;
        assert!(
            body.starts_with("HTTP/1.1 408") && body.contains("request_timeout"),
            "{body}"
        );
        let streamed = exchange(
            address,
            "GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert_eq!(streamed.matches("frame").count(), 10, "{streamed}");
        let never = exchange(
            address,
            "GET /never HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .await;
        assert!(
            never.starts_with("HTTP/1.1 503") && never.contains("retry-after"),
            "{never}"
        );
    }

    #[tokio::test]
    async fn a_request_without_an_answer_leaves_a_line_with_its_trace_and_another_may_have_longer() {
        let (log, _kept) = Log::here();
        let (address, _guard) = front(10).await;
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let ask = |path: &str| {
            format!(
                "GET {path} HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\nConnection: close\r\n\r\n"
            )
        };
        let patient = exchange(address, &ask("/patient")).await;
        assert!(patient.starts_with("HTTP/1.1 200"), "{patient}");
        assert_eq!(log.text(), "", "nothing was late");
        let never = exchange(address, &ask("/never")).await;
        assert!(never.starts_with("HTTP/1.1 503"), "{never}");
        let text = log.text();
        assert!(
            text.contains("WARN") && text.contains(trace) && !text.contains("/never"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn what_can_be_read_in_two_ways_has_a_code_of_its_own() {
        let (address, _guard) = front(10).await;
        for request in [
            "GET /slow HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET http://a/slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "GET /slow HTTP/1.1\r\nHost: a\r\nX-HTTP-Method-Override: POST\r\nConnection: close\r\n\r\n",
        ] {
            let answer = exchange(address, request).await;
            assert!(
                answer.starts_with("HTTP/1.1 400") && answer.contains("\"code\":\"malformed_request\""),
                "{request}{answer}"
            );
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_let_go() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let _guard = shutdown.clone().drop_guard();
        let limits = Limits {
            connections: 1,
            write_deadline: Duration::from_millis(300),
            ..Limits::default()
        };
        // More than any buffer on the way takes, and no end of it.
        let endless = || async {
            let chunk = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
            Body::from_stream(futures::stream::repeat(Ok::<_, Infallible>(chunk)))
        };
        let router = Router::new()
            .route("/endless", get(endless))
            .route("/", get(async || "hello"));
        tokio::spawn(serve(listener, router, limits, shutdown));
        let mut deaf = TcpStream::connect(address).await.expect("it listens");
        let request = b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n";
        deaf.write_all(request).await.expect("it reads");
        // It has the only place; the next is served once it has lost it.
        let next = exchange(address, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(next.starts_with("HTTP/1.1 200"), "{next}");
        drop(deaf);
    }

    #[tokio::test]
    async fn a_handlers_panic_is_told_and_ends_nothing_else() {
        let (address, _guard) = front(10).await;
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let request = format!(
            "GET /broken HTTP/1.1\r\nHost: a\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\n\
             GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        let answers = exchange(address, &request).await;
        assert!(
            answers.starts_with("HTTP/1.1 500") && answers.contains("HTTP/1.1 200"),
            "{answers}"
        );
        assert!(!answers.contains("a handler's mistake"), "{answers}");
        assert!(
            answers.contains(&format!("trace-id: {trace}"))
                && answers.contains(&format!("\"trace_id\":\"{trace}\""))
        );
    }

    #[tokio::test]
    async fn one_source_cannot_take_every_connection() {
        let (address, _guard) = front(2).await;
        let first = TcpStream::connect(address).await.expect("it listens");
        let second = TcpStream::connect(address).await.expect("it listens");
        let crowded = exchange(address, "").await;
        assert!(crowded.starts_with("HTTP/1.1 429"), "{crowded}");
        drop((first, second));
        // Once the others are gone, there is a place again.
        let again = async {
            loop {
                let answer = exchange(
                    address,
                    "POST /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                )
                .await;
                if answer.starts_with("HTTP/1.1 200") {
                    break;
                }
            }
        };
        timeout(DEADLINE, again).await.expect("there is a place in time");
    }
}
