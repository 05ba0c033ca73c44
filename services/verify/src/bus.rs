//! What does the stream hold? Ids by sequence, and which messages are not what they should be.

use std::path::Path;

use kassa_events_schema::{Envelope, EventMeta};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    export::BUS,
    read::{VerifyError, records},
};

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) line: u32,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    pub(crate) id: Option<Uuid>,
}

impl Message {
    pub(crate) fn row(&self) -> String {
        format!("{BUS}:{}", self.line)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Bus {
    /// Of the streams that hold events, in the order of the file.
    pub(crate) messages: Vec<Message>,
    pub(crate) misshapen: Vec<(u32, String)>,
}

#[derive(Deserialize)]
struct Line {
    stream: String,
    sequence: u64,
    subject: String,
    msg_id: Option<String>,
    data: Value,
}

impl Bus {
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, VerifyError> {
        let mut bus = Self::default();
        let there = records(dir, BUS, |line, row: Line| {
            // Commands and dead letters have streams of their own.
            if !row.subject.starts_with("kassa.evt.") {
                return;
            }
            if let Err(why) = envelope(&row) {
                bus.misshapen.push((line, why));
            }
            bus.messages.push(Message {
                line,
                stream: row.stream,
                sequence: row.sequence,
                id: row.msg_id.and_then(|id| id.parse().ok()),
            });
        })?;
        Ok(there.then_some(bus))
    }
}

/// Whether the message is the envelope of its subject, and its data what its type promises.
fn envelope(row: &Line) -> Result<(), String> {
    let said = |error: &dyn std::error::Error| {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    };
    let envelope = Envelope::deserialize(&row.data).map_err(|error| said(&error))?;
    let expected = envelope.nats_subject().to_string();
    if expected != row.subject {
        return Err(format!("it came under {} and says {expected}", row.subject));
    }
    let EventMeta { event_id, .. } = envelope.meta();
    if row.msg_id.as_deref() != Some(event_id.as_str()) {
        return Err("its Nats-Msg-Id is not the event's id".to_owned());
    }
    match envelope.decode() {
        Err(error) => Err(said(&error)),
        Ok(None) if !envelope.is_internal() => Err(format!("{} is not known here", envelope.event_type())),
        Ok(_) => Ok(()),
    }
}
