//! How does one intention keep its name from process to process? By the W3C trace context: taken from the request, kept
//! with every event it causes, and passed on with every message and call.
//!
//! The identifiers are ours and are always made, exporter or not: they stand in log lines, answers and events. The current
//! span lives in a task-local, so that whoever logs, appends or calls needs no argument for it.

use std::{
    fmt,
    future::Future,
    str::FromStr,
    sync::{Arc, OnceLock},
    time::SystemTime,
};

use async_nats::HeaderMap;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Names of the headers, in lower case on every transport.
pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";
/// What others put there is carried along and never read; the specification asks for at least this much.
const TRACESTATE_MAX: usize = 512;

/// Where ended spans go, where they are wanted.
static ENDED: OnceLock<mpsc::Sender<Ended>> = OnceLock::new();

tokio::task_local! {
    static CURRENT: Arc<Span>;
}

/// Where in which trace: what travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub trace_id: u128,
    pub span_id: u64,
    pub sampled: bool,
    pub state: Option<String>,
}

/// What a span's name is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Server,
    Client,
    Producer,
    Consumer,
    Internal,
}

/// A piece of work with a beginning and an end. Told to the exporter, where there is one, when it is dropped.
#[derive(Debug)]
pub struct Span {
    pub context: Context,
    pub parent: Option<u64>,
    /// The context that caused this work without waiting for it.
    pub link: Option<Context>,
    pub name: String,
    pub kind: Kind,
    pub began: SystemTime,
    /// Names as in OpenTelemetry's conventions; values are ids and words, never personal data.
    pub attributes: Vec<(&'static str, String)>,
    outcome: std::sync::Mutex<Vec<(&'static str, String)>>,
}

/// A span that is over, for an exporter.
#[derive(Debug, Clone)]
pub struct Ended {
    pub context: Context,
    pub parent: Option<u64>,
    pub link: Option<Context>,
    pub name: String,
    pub kind: Kind,
    pub began: SystemTime,
    pub ended: SystemTime,
    pub attributes: Vec<(&'static str, String)>,
}

/// From now on, ended spans go here; those that find it full are lost, since telling may never hold up doing. `false` where
/// they already go elsewhere.
pub fn export_to(sender: mpsc::Sender<Ended>) -> bool {
    ENDED.set(sender).is_ok()
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(ended) = ENDED.get().filter(|_| self.context.sampled) else {
            return;
        };
        let mut attributes = std::mem::take(&mut self.attributes);
        if let Ok(outcome) = self.outcome.get_mut() {
            attributes.append(outcome);
        }
        let _ = ended.try_send(Ended {
            context: self.context.clone(),
            parent: self.parent,
            link: self.link.take(),
            name: std::mem::take(&mut self.name),
            kind: self.kind,
            began: self.began,
            ended: SystemTime::now(),
            attributes,
        });
    }
}

/// A `traceparent` that is none; it is ignored, and a trace of our own begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAContext;

impl FromStr for Context {
    type Err = NotAContext;

    /// Version 00, and what it guarantees of later ones.
    fn from_str(text: &str) -> Result<Self, NotAContext> {
        let mut parts = text.split('-');
        let mut hex = |length: usize| {
            parts
                .next()
                .filter(|part| {
                    part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
                })
                .ok_or(NotAContext)
        };
        let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        let more = parts.next().is_some();
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| NotAContext)?;
        let span_id = u64::from_str_radix(span, 16).map_err(|_| NotAContext)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| NotAContext)?;
        if version == "ff" || (version == "00" && more) || trace_id == 0 || span_id == 0 {
            return Err(NotAContext);
        }
        Ok(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
            state: None,
        })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }
}

impl Context {
    fn fresh() -> Self {
        let trace_id = Uuid::new_v4().as_u128();
        Self {
            trace_id,
            span_id: span_id(),
            sampled: true,
            state: None,
        }
    }

    fn child(&self) -> Self {
        Self {
            span_id: span_id(),
            ..self.clone()
        }
    }

    /// From what stands in two headers or two fields; `None` where it is missing or malformed.
    pub fn parse(traceparent: Option<&str>, tracestate: Option<&str>) -> Option<Self> {
        let mut context: Self = traceparent?.trim().parse().ok()?;
        context.state = tracestate
            .map(str::trim)
            .filter(|state| {
                (1..=TRACESTATE_MAX).contains(&state.len())
                    && state.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
            })
            .map(str::to_owned);
        Some(context)
    }

    pub fn from_headers(headers: Option<&HeaderMap>) -> Option<Self> {
        let headers = headers?;
        let value = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        Self::parse(value(TRACEPARENT).as_deref(), value(TRACESTATE).as_deref())
    }

    pub fn into_headers(&self, headers: &mut HeaderMap) {
        headers.insert(TRACEPARENT, self.to_string().as_str());
        if let Some(state) = &self.state {
            headers.insert(TRACESTATE, state.as_str());
        }
    }

    /// As it stands in log lines, problem documents and `Trace-Id`.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

/// Not zero, which would mean "none": a version 4 UUID has bits that are always set.
fn span_id() -> u64 {
    u64::from_be_bytes(
        Uuid::new_v4().as_bytes()[8..]
            .try_into()
            .expect("a UUID has sixteen bytes"),
    )
}

impl Span {
    /// Begins in the caller's trace; in one of its own where the caller named none.
    pub fn server(name: impl Into<String>, caller: Option<Context>) -> Self {
        Self::new(name.into(), Kind::Server, caller)
    }

    /// Begins below what is current; a trace of its own where nothing is.
    pub fn begin(name: impl Into<String>, kind: Kind) -> Self {
        Self::new(name.into(), kind, current())
    }

    /// Begins below a context that came with a message.
    pub fn below(name: impl Into<String>, kind: Kind, parent: Option<Context>) -> Self {
        Self::new(name.into(), kind, parent)
    }

    fn new(name: String, kind: Kind, parent: Option<Context>) -> Self {
        Self {
            context: parent.as_ref().map_or_else(Context::fresh, Context::child),
            parent: parent.map(|parent| parent.span_id),
            link: None,
            name,
            kind,
            began: SystemTime::now(),
            attributes: vec![],
            outcome: std::sync::Mutex::default(),
        }
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn linked(mut self, cause: Option<Context>) -> Self {
        self.link = cause;
        self
    }

    /// What was learned while it lasted.
    pub fn note(&self, name: &'static str, value: impl Into<String>) {
        if let Ok(mut outcome) = self.outcome.lock() {
            outcome.push((name, value.into()));
        }
    }

    /// What is known under this name, from the start or since.
    pub fn attribute(&self, name: &str) -> Option<String> {
        let known = |given: &[(&'static str, String)]| {
            let found = given.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.clone())
        };
        known(&self.attributes).or_else(|| self.outcome.lock().ok().and_then(|outcome| known(&outcome)))
    }

    /// Runs `work` with this as the current span.
    pub async fn run<F: Future>(self, work: F) -> F::Output {
        CURRENT.scope(Arc::new(self), work).await
    }
}

/// The span in which a consumer handles one message, below the hop that brought it.
pub fn consumed(message: &async_nats::Message, durable: &str) -> Span {
    let header = |name: &str| {
        let headers = message.headers.as_ref()?;
        headers.get(name).map(|value| value.as_str().to_owned())
    };
    let template = template(&message.subject);
    let mut span = Span::below(
        format!("process {template}"),
        Kind::Consumer,
        Context::from_headers(message.headers.as_ref()),
    )
    .with("messaging.system", "nats")
    .with("messaging.operation.name", "process")
    .with("messaging.operation.type", "process")
    .with("messaging.destination.template", template)
    .with("messaging.destination.name", message.subject.as_str())
    .with("messaging.consumer.group.name", durable);
    if let Some(id) = header("ce-id") {
        span = span.with("cloudevents.event_id", id);
    }
    if let Some(kind) = header("ce-type") {
        span = span.with("cloudevents.event_type", kind);
    }
    span
}

/// A subject with its variable tokens named: as many templates as there are kinds of events and verbs.
fn template(subject: &str) -> String {
    let tokens: Vec<&str> = subject.split('.').collect();
    match tokens[..] {
        ["kassa", "evt", _, _, aggregate, _, event] => {
            format!("kassa.evt.{{part}}.{{shop}}.{aggregate}.{{id}}.{event}")
        }
        ["kassa", family, _, verb] => format!("kassa.{family}.{{shop}}.{verb}"),
        ["kassa", family, ..] => format!("kassa.{family}.>"),
        _ => ">".to_owned(),
    }
}

/// The current span's context.
pub fn current() -> Option<Context> {
    CURRENT.try_with(|span| span.context.clone()).ok()
}

/// Adds to the current span what was learned, if there is one.
pub fn note(name: &'static str, value: impl Into<String>) {
    let _ = CURRENT.try_with(|span| span.note(name, value));
}

/// Looks at the current span, if there is one.
pub fn with_current<T>(look: impl FnOnce(&Span) -> T) -> Option<T> {
    CURRENT.try_with(|span| look(span)).ok()
}

/// Runs `work`, in a task of its own, as part of the current span.
pub async fn carried<F: Future>(span: Option<Arc<Span>>, work: F) -> F::Output {
    match span {
        Some(span) => CURRENT.scope(span, work).await,
        None => work.await,
    }
}

/// For [`carried`]: a spawned task does not inherit its parent's span.
pub fn carry() -> Option<Arc<Span>> {
    CURRENT.try_with(Arc::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_read_and_written_as_the_specification_has_it() {
        let context: Context = GIVEN.parse().expect("the specification's own example");
        assert_eq!(context.to_string(), GIVEN);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        for wrong in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e473+-00f067aa0ba902b7-01",
        ] {
            assert_eq!(wrong.parse::<Context>(), Err(NotAContext), "{wrong}");
        }
        assert!(GIVEN.replacen("00", "01", 1).parse::<Context>().is_ok());
        assert!(format!("01{}-more", &GIVEN[2..]).parse::<Context>().is_ok());
    }

    #[test]
    fn a_state_that_could_split_a_header_is_dropped_and_the_trace_goes_on() {
        let context = Context::parse(Some(GIVEN), Some("a=1\r\nNats-Msg-Id: x")).expect("a context");
        assert_eq!(context.state, None);
        let context = Context::parse(Some(GIVEN), Some("a=1,b=2")).expect("a context");
        assert_eq!(context.state.as_deref(), Some("a=1,b=2"));
        let long = "a".repeat(TRACESTATE_MAX + 1);
        assert_eq!(
            Context::parse(Some(GIVEN), Some(&long)).and_then(|c| c.state),
            None
        );
    }

    #[tokio::test]
    async fn work_below_a_span_is_in_its_trace_and_a_spawned_task_when_it_is_carried() {
        assert_eq!(current(), None);
        let caller: Context = GIVEN.parse().expect("a context");
        let (here, below, carried_along) = Span::server("create_order", Some(caller.clone()))
            .run(async {
                let below = Span::begin("call", Kind::Client).run(async { current() }).await;
                let spawned = tokio::spawn(carried(carry(), async { current() }));
                (current(), below, spawned.await.expect("it ends"))
            })
            .await;
        let here = here.expect("a span");
        assert_eq!(here.trace_id, caller.trace_id);
        assert_ne!(here.span_id, caller.span_id);
        assert_eq!(below.expect("a span").trace_id, caller.trace_id);
        assert_eq!(carried_along, Some(here));
        assert_eq!(current(), None);
    }
}
