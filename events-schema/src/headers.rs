//! Which NATS headers carry what, in exactly which spelling?
//!
//! NATS keeps the case of a header name and most clients look it up case-sensitively, so the spelling is part of
//! the contract. The body is authoritative: headers of events only repeat what a router needs.

/// Says how to read the body; its value on events is [`EVENT_CONTENT_TYPE`].
pub const CONTENT_TYPE: &str = "Content-Type";
/// The event id, or the command id: `JetStream` drops repeats within its window.
pub const MSG_ID: &str = "Nats-Msg-Id";
/// The relay's fence, on the first message of a batch: the sequence that the stream must end with.
pub const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Sequence";
/// Copy of the envelope's `id`.
pub const CE_ID: &str = "ce-id";
/// Copy of the envelope's `type`.
pub const CE_TYPE: &str = "ce-type";
/// Copy of the envelope's `source`.
pub const CE_SOURCE: &str = "ce-source";
/// Copy of the envelope's `subject` (`order/ord_…`), not of the NATS subject.
pub const CE_SUBJECT: &str = "ce-subject";
/// Copy of the envelope's `time`.
pub const CE_TIME: &str = "ce-time";
/// W3C trace context of this hop.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace state of this hop.
pub const TRACESTATE: &str = "tracestate";

/// On commands, required: the caller's name for one intention; a UUID or at most 64 printable ASCII characters.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// On commands: `wait=N`, in seconds.
pub const PREFER: &str = "Prefer";
/// On refusals: the HTTP status number.
pub const SERVICE_ERROR_CODE: &str = "Nats-Service-Error-Code";
/// On refusals: the problem's title.
pub const SERVICE_ERROR: &str = "Nats-Service-Error";

/// `Content-Type` of an event: by this a receiver knows that the envelope is in the body.
pub const EVENT_CONTENT_TYPE: &str = "application/cloudevents+json; charset=utf-8";
/// `Content-Type` of a refusal.
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";
