//! What does the stream hold? Ids by sequence, and which messages are not what they should be.

use kassa_events_schema::{Envelope, EventMeta};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    export::BUS,
    read::{Folder, VerifyError, lines, parse},
};

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) line: u32,
    /// Its stream's place in [`Bus::streams`].
    pub(crate) stream: usize,
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
    pub(crate) streams: Vec<String>,
    /// Of the streams that hold events, in the order of the file.
    pub(crate) messages: Vec<Message>,
    pub(crate) misshapen: Vec<(u32, String)>,
}

#[derive(Deserialize)]
struct Line<D> {
    stream: String,
    sequence: u64,
    subject: String,
    msg_id: Option<String>,
    data: D,
}

impl Bus {
    pub(crate) fn read(dir: &Folder<'_>) -> Result<Option<Self>, VerifyError> {
        let mut bus = Self::default();
        let there = lines(dir, BUS, |line, text| {
            // Straight into an envelope, without a tree of values between: nearly all of them are one.
            match serde_json::from_slice::<Line<Envelope>>(text) {
                Ok(row) => {
                    let found = envelope(&row.subject, row.msg_id.as_deref(), &row.data);
                    bus.take(line, &row, found);
                }
                Err(_) => {
                    let row: Line<Value> = parse(BUS, line, text)?;
                    let found = Envelope::deserialize(&row.data)
                        .map_err(|error| in_full(&error))
                        .and_then(|read| envelope(&row.subject, row.msg_id.as_deref(), &read));
                    bus.take(line, &row, found);
                }
            }
            Ok(())
        })?;
        Ok(there.then_some(bus))
    }

    fn take<D>(&mut self, line: u32, row: &Line<D>, found: Result<(), String>) {
        // Commands and dead letters have streams of their own.
        if !row.subject.starts_with("kassa.evt.") {
            return;
        }
        if let Err(why) = found {
            self.misshapen.push((line, why));
        }
        let known = self.streams.iter().position(|name| *name == row.stream);
        let stream = known.unwrap_or_else(|| {
            self.streams.push(row.stream.clone());
            self.streams.len() - 1
        });
        self.messages.push(Message {
            line,
            stream,
            sequence: row.sequence,
            id: row.msg_id.as_ref().and_then(|id| id.parse().ok()),
        });
    }
}

fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Whether the message is the envelope of its subject, and its data what its type promises.
fn envelope(subject: &str, msg_id: Option<&str>, envelope: &Envelope) -> Result<(), String> {
    let expected = envelope.nats_subject().to_string();
    if expected != subject {
        return Err(format!("it came under {subject} and says {expected}"));
    }
    let EventMeta { event_id, .. } = envelope.meta();
    if msg_id != Some(event_id.as_str()) {
        return Err("its Nats-Msg-Id is not the event's id".to_owned());
    }
    match envelope.decode() {
        Err(error) => Err(in_full(&error)),
        Ok(None) if !envelope.is_internal() => Err(format!("{} is not known here", envelope.event_type())),
        Ok(_) => Ok(()),
    }
}
