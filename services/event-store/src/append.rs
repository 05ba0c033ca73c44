//! What is one append? All that one decision wants stored, at the versions it was decided on: it wins whole or not at all.

use jiff::Timestamp;
use uuid::Uuid;

/// More than any decision writes; what is larger is a mistake.
const EVENTS_MAX: usize = 200;
const BYTES_MAX: usize = 1024 * 1024;

/// A decision to be stored. With no events it is a refusal or a repeat: its answer is stored if the versions still hold.
#[derive(Debug, Clone)]
pub struct Append {
    pub part: i32,
    pub command_id: Uuid,
    pub fingerprint: Vec<u8>,
    pub outcome: Vec<u8>,
    pub touches: Vec<Touch>,
    /// In the order in which they get their positions.
    pub events: Vec<NewEvent>,
    pub timers: Vec<NewTimer>,
    /// Timers that this decision settles.
    pub done_timers: Vec<Uuid>,
    pub vault: Vec<VaultRow>,
    pub reads: Vec<ReadRequest>,
    pub recorded_at: Timestamp,
}

/// A stream that was looked at, with the version seen; 0 where it did not exist.
#[derive(Debug, Clone, Copy)]
pub struct Touch {
    pub stream_id: Uuid,
    pub expected: i64,
}

/// An event without its place; the version is `expected + 1`, `+ 2`, … of its stream, in order.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub stream_id: Uuid,
    pub event_id: Uuid,
    pub shop: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub event_type: String,
    pub schema_version: i16,
    pub payload: Vec<u8>,
    pub metadata: Vec<u8>,
}

/// Something to be done at a time. A timer that is there already stays as it is: one decision may not settle a timer and
/// set it again under the same id.
#[derive(Debug, Clone)]
pub struct NewTimer {
    pub timer_id: Uuid,
    pub due_at: Timestamp,
    pub kind: String,
    pub stream_id: Uuid,
    pub payload: Vec<u8>,
}

/// Personal data, by its key. A row that is there already stays.
#[derive(Clone)]
pub struct VaultRow {
    pub shopper_id: String,
    pub shop: String,
    pub data: Vec<u8>,
}

impl std::fmt::Debug for VaultRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VaultRow")
            .field("shopper_id", &self.shopper_id)
            .finish_non_exhaustive()
    }
}

/// "Read this order's report": counted in the same commit.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    pub order_id: String,
    pub shop: String,
}

/// What became of an append that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Appended {
    /// `position` of its last event, or the head it was decided at where it has none.
    Stored { position: i64 },
    /// The command was decided before: what is stored for it. Also after a lost connection, for what this very call had
    /// stored by then.
    Duplicate {
        fingerprint: Vec<u8>,
        outcome: Vec<u8>,
        position: i64,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A version race was lost: load, decide again.
    #[error("another writer was first")]
    Conflict,
    #[error("{what} is more than one append takes ({max})")]
    TooLarge { what: String, max: usize },
    #[error("an event is for stream {stream_id}, which the decision did not look at")]
    Untouched { stream_id: Uuid },
    /// Nothing was stored.
    #[error("there is no part {part} of the log here: the tables buckets and log_head disagree")]
    WrongPart { part: i32 },
    /// Nothing was stored.
    #[error("more appends are waiting than are taken; try again shortly")]
    Overloaded,
    /// May or may not have been stored; a repeat with the same command id finds out.
    #[error("the database does not answer: {0}")]
    Unavailable(String),
    /// Nothing was stored, and a repeat will not help.
    #[error("the database refuses the append: {0}")]
    Refused(String),
}

impl Append {
    pub(crate) fn check(&self) -> Result<(), AppendError> {
        if self.events.len() > EVENTS_MAX {
            return Err(AppendError::TooLarge {
                what: format!("{} events", self.events.len()),
                max: EVENTS_MAX,
            });
        }
        if self.bytes() > BYTES_MAX {
            return Err(AppendError::TooLarge {
                what: format!("{} bytes", self.bytes()),
                max: BYTES_MAX,
            });
        }
        match self
            .events
            .iter()
            .find(|event| !self.touches.iter().any(|t| t.stream_id == event.stream_id))
        {
            Some(event) => Err(AppendError::Untouched {
                stream_id: event.stream_id,
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        let events: usize = self
            .events
            .iter()
            .map(|event| event.payload.len() + event.metadata.len() + 200)
            .sum();
        let timers: usize = self.timers.iter().map(|timer| timer.payload.len() + 100).sum();
        let vault: usize = self.vault.iter().map(|row| row.data.len() + 100).sum();
        events + timers + vault + self.outcome.len() + self.fingerprint.len() + 200
    }

    pub(crate) fn writes(&self, stream_id: Uuid) -> bool {
        self.events.iter().any(|event| event.stream_id == stream_id)
    }
}
