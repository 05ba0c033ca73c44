//! How does a run of messages get into the stream all at once, and only at its end?

use std::time::Duration;

use async_nats::{
    Client, HeaderMap, Request, RequestErrorKind,
    header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE},
    jetstream::{ErrorCode, publish::PublishAck, response::Response},
};
use bytes::Bytes;
use kassa_chassis::trace::{Context, Kind, Span};
use kassa_events_schema::{Envelope, EnvelopeError, headers};
use uuid::Uuid;

use crate::error::RelayError;

/// The server's own limit for one atomic batch.
pub(crate) const BATCH_MAX: usize = 1_000;
/// Bytes of bodies in one batch. Both sides hold all of it in memory; a batch of usual events has a tenth of this.
pub(crate) const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// For all of one publish. The server gives up on a batch that stands still for 10 s.
const PUBLISH_MAX: Duration = Duration::from_secs(10);

/// One event, ready to be sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    subject: String,
    headers: HeaderMap,
    body: Bytes,
    /// Ends when it was sent.
    _hop: Option<Span>,
}

/// From the event's making to its place in the stream.
fn hop(subject: &str, envelope: &Envelope, made_in: Context) -> Span {
    let meta = envelope.meta();
    let template = format!(
        "kassa.evt.{{part}}.{{shop}}.{}.{{id}}.{}",
        meta.aggregate,
        envelope.event()
    );
    Span::below(format!("send {template}"), Kind::Producer, Some(made_in))
        .with("messaging.system", "nats")
        .with("messaging.operation.name", "send")
        .with("messaging.operation.type", "send")
        .with("messaging.destination.template", template)
        .with("messaging.destination.name", subject)
        .with("messaging.message.id", meta.event_id.as_str())
        .with("messaging.message.conversation_id", meta.correlation_id.as_str())
        .with("cloudevents.event_id", meta.event_id.as_str())
        .with("cloudevents.event_type", envelope.event_type())
        .with("kassa.shop", meta.shop.as_str())
}

/// What the server made of it.
#[derive(Debug)]
pub(crate) enum Outcome {
    Stored(PublishAck),
    /// The stream does not end where we thought: another relay was faster, or an answer got lost. Nothing was stored.
    EndMoved,
}

impl Outgoing {
    pub(crate) fn new(envelope: &Envelope) -> Result<Self, EnvelopeError> {
        let mut headers = HeaderMap::new();
        for (name, value) in envelope.headers() {
            headers.insert(name, value);
        }
        let subject = envelope.nats_subject().to_string();
        let made_in = envelope.trace();
        let made_in = Context::parse(made_in.traceparent.as_deref(), made_in.tracestate.as_deref());
        let hop = made_in.map(|made_in| hop(&subject, envelope, made_in));
        if let Some(hop) = &hop {
            hop.context.into_headers(&mut headers);
        }
        Ok(Self {
            _hop: hop,
            subject,
            headers,
            body: envelope.to_json()?.into(),
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// Appends all of `messages`, or none, to a stream that ends with `last`.
///
/// # Errors
/// [`RelayError::Bus`]. A time-out says nothing about whether they were stored: read the stream's end.
pub(crate) async fn publish(
    client: &Client,
    last: u64,
    messages: Vec<Outgoing>,
) -> Result<Outcome, RelayError> {
    match tokio::time::timeout(PUBLISH_MAX, send(client, last, messages)).await {
        Ok(outcome) => outcome,
        Err(elapsed) => Err(RelayError::bus("publishing")(elapsed.into())),
    }
}

async fn send(client: &Client, last: u64, mut messages: Vec<Outgoing>) -> Result<Outcome, RelayError> {
    if let Some(first) = messages.first_mut() {
        first
            .headers
            .insert(headers::EXPECTED_LAST_SEQUENCE, last.to_string());
    }
    // A batch of one would cost 20 ms; a plain message is as atomic.
    if messages.len() > 1 {
        // Another one for every try: the server may still hold the beginning of the one before.
        let batch = Uuid::new_v4().to_string();
        for (n, message) in messages.iter_mut().enumerate() {
            message.headers.insert(NATS_BATCH_ID, batch.as_str());
            message.headers.insert(NATS_BATCH_SEQUENCE, (n + 1).to_string());
        }
    }
    let Some(mut commit) = messages.pop() else {
        return Ok(Outcome::EndMoved);
    };
    if !messages.is_empty() {
        commit.headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
    }
    // Only the commit is answered. What was wrong with the ones before it is said there.
    for message in messages {
        client
            .publish_with_headers(message.subject, message.headers, message.body)
            .await
            .map_err(|error| RelayError::bus("publishing a batch")(error.into()))?;
    }
    let request = Request::new().headers(commit.headers).payload(commit.body);
    let answer = match client.send_request(commit.subject, request).await {
        Ok(message) => message.payload,
        Err(error) if error.kind() == RequestErrorKind::NoResponders => {
            return Err(RelayError::bus("publishing to a stream that is not there")(
                error.into(),
            ));
        }
        Err(error) => return Err(RelayError::bus("waiting for an acknowledgement")(error.into())),
    };
    match serde_json::from_slice(&answer)
        .map_err(|error| RelayError::bus("reading an acknowledgement")(error.into()))?
    {
        Response::Ok(ack) => Ok(Outcome::Stored(ack)),
        Response::Err { error } => match error.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
            // The stream holds one of them already, so it does not end where we thought.
            | ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => Ok(Outcome::EndMoved),
            _ => Err(RelayError::bus("publishing")(error.into())),
        },
    }
}
