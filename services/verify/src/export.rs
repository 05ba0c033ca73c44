//! What stands in the files of an export? Their names, and the shapes of those that are kept as they are.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader},
    path::Path,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::read::VerifyError;

pub(crate) const META: &str = "meta.json";
pub(crate) const EVENTS: &str = "events.ndjson";
pub(crate) const EARLIER: &str = "events.earlier.ndjson";
pub(crate) const COMMANDS: &str = "commands.ndjson";
pub(crate) const STREAMS: &str = "streams.ndjson";
pub(crate) const READS: &str = "reads.ndjson";
pub(crate) const BUS: &str = "bus.ndjson";
pub(crate) const LEDGER: &str = "ledger.ndjson";
pub(crate) const SHIPMENT: &str = "shipment.ndjson";
pub(crate) const ANSWERS: &str = "answers.ndjson";
pub(crate) const PROJECTIONS: &str = "projections.ndjson";
pub(crate) const PROCESSES: &str = "processes.ndjson";
pub(crate) const REPLAYS: &str = "replays.ndjson";

/// `meta.json`: what must be known of a run to judge it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Of the files; this version reads 1.
    pub format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// When the snapshot of the store was taken.
    pub exported_at: Timestamp,
    /// Whether nothing was under way any more: then what is missing is missing.
    #[serde(default)]
    pub quiescent: bool,
    /// What the judged itself goes by: minor units by which an amount may differ from what was ordered, either way. Held
    /// against [`Yardstick`], which is what is judged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance_minor: Option<i64>,
    /// The longest time between two looks at an order that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_longest_ms: Option<i64>,
    /// What the judged itself goes by: the provider's levels at which goods may leave. Held against [`Yardstick`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safe_levels: Option<Vec<String>>,
    /// How long the provider may hide what it did.
    #[serde(default = "visibility")]
    pub visibility_ms: i64,
    /// The run's clock was moved: how long something took is not known.
    #[serde(default)]
    pub clock_moved: bool,
    /// Services and provider had clocks that differed: their moments cannot be compared.
    #[serde(default)]
    pub clocks_apart: bool,
    /// How many rows were written to each file; a file that has fewer is none of this export.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, u64>,
    /// The sequence at which the stream was told to begin, where it forgets nothing: from there on all must be in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream_from: Option<u64>,
}

/// What it is judged by. The judged has no say in it: what it exports as its own is compared, and not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Yardstick {
    /// Minor units by which an amount may differ from what was ordered, either way.
    pub tolerance_minor: i64,
    /// The provider's levels at which goods may leave.
    pub safe_levels: Vec<String>,
}

impl Default for Yardstick {
    fn default() -> Self {
        Self {
            tolerance_minor: 10,
            safe_levels: vec!["SAFE".to_owned(), "SAFEST".to_owned()],
        }
    }
}

fn visibility() -> i64 {
    90_000
}

impl Meta {
    /// Whether a moment in the store and one in the ledger can be compared.
    pub(crate) fn moments_compare(&self) -> bool {
        !self.clock_moved && !self.clocks_apart
    }

    /// What the snapshot of the store must know of what the provider did: reading and recording take a moment. Microseconds
    /// since 1970.
    pub(crate) fn settled_before(&self) -> i64 {
        if self.moments_compare() {
            self.exported_at.as_microsecond().saturating_sub(2_000_000)
        } else {
            i64::MAX
        }
    }

    pub(crate) fn read(dir: &Path) -> Result<Self, VerifyError> {
        let path = dir.join(META);
        let file = File::open(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound && has_data(dir) {
                VerifyError::Unfinished { path: dir.to_owned() }
            } else {
                VerifyError::Unreadable { path, source }
            }
        })?;
        let meta: Self =
            serde_json::from_reader(BufReader::new(file)).map_err(|source| VerifyError::Line {
                file: META,
                line: 1,
                source,
            })?;
        if meta.format == 1 {
            Ok(meta)
        } else {
            Err(VerifyError::Format { found: meta.format })
        }
    }
}

/// Whether anything in the folder looks like a file of an export.
fn has_data(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries
            .flatten()
            .any(|entry| entry.path().extension().is_some_and(|ending| ending == "ndjson"))
    })
}

/// An answer that somebody outside was given.
#[derive(Debug, Deserialize)]
pub(crate) struct AnswerLine {
    #[serde(default)]
    pub(crate) shop: String,
    pub(crate) verb: String,
    pub(crate) key: Option<String>,
    #[serde(default)]
    pub(crate) body: Value,
    pub(crate) status: String,
    pub(crate) code: Option<String>,
    #[serde(default)]
    pub(crate) answer: Value,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ProjectionLine {
    #[serde(skip)]
    pub(crate) line: u32,
    pub(crate) projection: String,
    pub(crate) generation: String,
    pub(crate) position: String,
    pub(crate) rows: u64,
    pub(crate) sha256: String,
}

impl ProjectionLine {
    /// Part and number.
    pub(crate) fn place(&self) -> Option<(i32, i64)> {
        let (part, number) = self.position.split_once('-')?;
        Some((part.parse().ok()?, number.parse().ok()?))
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct ProcessLine {
    #[serde(skip)]
    pub(crate) line: u32,
    pub(crate) role: String,
    pub(crate) signal: String,
    pub(crate) sent_at: Timestamp,
    pub(crate) exited_at: Option<Timestamp>,
    pub(crate) code: Option<i32>,
}

/// A projection was built anew between two moments, and where the log ended then.
#[derive(Debug, Deserialize)]
pub(crate) struct ReplayLine {
    #[serde(skip)]
    pub(crate) line: u32,
    pub(crate) what: String,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) head_from: i64,
    pub(crate) head_to: i64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReadLine {
    pub(crate) order_id: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct StreamLine {
    pub(crate) stream_id: uuid::Uuid,
    pub(crate) version: i64,
}
