//! What did a server say since we started it?

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::ServerError;

/// Runs are appended, so that the words of one that was killed are still there; a longer file starts again.
const KEPT_BYTES_MAX: u64 = 8 << 20;
/// Enough for the last dozen lines in an error message.
const TAIL_BYTES: u64 = 2_000;

/// A log file and the place in it where this run began.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    begin: u64,
}

impl Log {
    /// Opens the log for one more run; the file is for the child's output.
    pub(crate) fn open(path: &Path) -> Result<(Self, File), ServerError> {
        let io = |action| ServerError::io(action, path);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(io("open"))?;
        let mut begin = file.metadata().map_err(io("read"))?.len();
        if begin > KEPT_BYTES_MAX {
            file.set_len(0).map_err(io("truncate"))?;
            begin = 0;
        }
        Ok((
            Self {
                path: path.to_path_buf(),
                begin,
            },
            file,
        ))
    }

    /// The end of what this run said; empty if that cannot be read, since it only ever decorates another error.
    pub(crate) fn tail(&self) -> String {
        File::open(&self.path)
            .and_then(|file| tail(file, self.begin))
            .unwrap_or_default()
    }
}

/// The last [`TAIL_BYTES`] of a file, none of them before `begin`.
pub(crate) fn tail(mut file: File, begin: u64) -> std::io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(begin.max(length.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
