//! How does what CM knows survive a `kill -9`?
//!
//! A file of JSON lines, one line a change, written before the call that made the change is answered. A line holds the
//! orders that changed, whole, the new ledger rows and the jobs; reading them in order gives the state again. Nothing is
//! computed a second time, so a newer program reads what an older one did. The last line may be torn: then its call was
//! never answered, and the line is cut off. It is not flushed to the disk: a power cut may take the last seconds, which a
//! simulator may lose.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{fault::Fault, job::Job, ledger::Row, order::Order};

const FILE: &str = "journal.ndjson";
const FORMAT: u32 = 1;
/// A file that has grown by this much and to twice its size is written anew, without what was replaced since.
const GROWTH_MIN: u64 = 64 * 1024 * 1024;

/// What is not an order, a row or a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub(crate) format: u32,
    pub(crate) clock_offset_ms: i64,
    pub(crate) next_payment: u64,
    pub(crate) next_job: u64,
    pub(crate) faults: Vec<Fault>,
}

impl Meta {
    pub(crate) fn new(next_payment: u64) -> Self {
        Self {
            format: FORMAT,
            clock_offset_ms: 0,
            next_payment,
            next_job: 1,
            faults: Vec::new(),
        }
    }
}

/// One change, as written.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Change<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) meta: Option<&'a Meta>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) orders: Vec<&'a Order>,
    #[serde(skip_serializing_if = "<[Row]>::is_empty")]
    pub(crate) rows: &'a [Row],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) jobs: Vec<&'a Job>,
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    pub(crate) ended: &'a [u64],
}

/// One change, as read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Read {
    pub(crate) meta: Option<Meta>,
    pub(crate) orders: Vec<Order>,
    pub(crate) rows: Vec<Row>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) ended: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    file: File,
    /// Held as long as the program lives: two on one folder would write over each other.
    _lock: File,
    bytes: u64,
    rewrite_at: u64,
}

impl Journal {
    /// Opens the folder, making it where it is not there, and hands each change of earlier runs to `take`.
    ///
    /// # Errors
    /// What the file system says; `InvalidData` for a line that is not one of ours and not the last.
    pub(crate) fn open(dir: &Path, mut take: impl FnMut(Read)) -> io::Result<Self> {
        // Orders hold what a shop said of its shopper: nobody else's to read.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let lock = private().open(dir.join("lock"))?;
        lock.try_lock().map_err(|_| {
            io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another simulator runs on this folder: give each its own simulator.state_dir",
            )
        })?;
        let path = dir.join(FILE);
        let mut file = private().read(true).open(&path)?;
        let mut reader = BufReader::new(&mut file);
        let (mut good, mut number, mut line) = (0, 0_u64, Vec::new());
        loop {
            line.clear();
            let length = reader.read_until(b'\n', &mut line)?;
            if length == 0 {
                break;
            }
            number += 1;
            let read = line
                .ends_with(b"\n")
                .then(|| serde_json::from_slice::<Read>(&line));
            match read {
                Some(Ok(read)) if read.meta.as_ref().is_none_or(|meta| meta.format == FORMAT) => take(read),
                // Written when the program was killed.
                None => break,
                Some(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "{} line {number} is not what this version writes: move the file away to begin anew",
                            path.display()
                        ),
                    ));
                }
            }
            good += length as u64;
        }
        file.set_len(good)?;
        Ok(Self {
            dir: dir.to_owned(),
            file: OpenOptions::new().append(true).open(path)?,
            _lock: lock,
            bytes: good,
            rewrite_at: 0,
        })
    }

    /// # Errors
    /// What the file system says.
    pub(crate) fn write(&mut self, change: &Change<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(change).map_err(io::Error::other)?;
        line.push(b'\n');
        self.bytes += line.len() as u64;
        self.file.write_all(&line)
    }

    pub(crate) fn is_long(&self) -> bool {
        self.bytes > self.rewrite_at
    }

    /// Puts a file with these changes in the place of the old one, which is there until the new one is whole.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn rewrite<'a>(&mut self, changes: impl Iterator<Item = Change<'a>>) -> io::Result<()> {
        let (new, path) = (self.dir.join("journal.new"), self.dir.join(FILE));
        let mut writer = BufWriter::new(private().truncate(true).open(&new)?);
        for change in changes {
            serde_json::to_writer(&mut writer, &change).map_err(io::Error::other)?;
            writer.write_all(b"\n")?;
        }
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.dir)?.sync_all()?;
        self.bytes = file.metadata()?.len();
        self.rewrite_at = self.bytes.saturating_mul(2).saturating_add(GROWTH_MIN);
        self.file = OpenOptions::new().append(true).open(path)?;
        Ok(())
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    options
}
