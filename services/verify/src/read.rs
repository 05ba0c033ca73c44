//! How is an exported file read? Line by line: memory holds what is kept of a line, not the line.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// An export that cannot be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{path} cannot be read: give a folder that kassa export wrote")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{file} line {line} is not what the export's format says: export anew with this version")]
    Line {
        file: &'static str,
        line: u32,
        #[source]
        source: serde_json::Error,
    },
    #[error("meta.json has format {found} and this version reads 1: use the version that wrote it")]
    Format { found: u32 },
}

/// Calls `each` for every line of a file, with its number from 1. `false` when there is no such file.
pub(crate) fn lines(
    dir: &Path,
    file: &'static str,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), VerifyError>,
) -> Result<bool, VerifyError> {
    let path = dir.join(file);
    let unreadable = |source| VerifyError::Unreadable {
        path: path.clone(),
        source,
    };
    let opened = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened.map_err(unreadable)?,
    };
    // Large enough that the system is asked seldom, small beside what is kept.
    let mut reader = BufReader::with_capacity(1 << 18, opened);
    let (mut number, mut line) = (0, Vec::new());
    while reader.read_until(b'\n', &mut line).map_err(unreadable)? > 0 {
        number += 1;
        let text = line.trim_ascii();
        if !text.is_empty() {
            each(number, text)?;
        }
        line.clear();
    }
    Ok(true)
}

/// The same for lines of one shape.
pub(crate) fn records<T: DeserializeOwned>(
    dir: &Path,
    file: &'static str,
    mut each: impl FnMut(u32, T),
) -> Result<bool, VerifyError> {
    lines(dir, file, |line, text| {
        each(line, parse(file, line, text)?);
        Ok(())
    })
}

pub(crate) fn parse<T: DeserializeOwned>(
    file: &'static str,
    line: u32,
    text: &[u8],
) -> Result<T, VerifyError> {
    serde_json::from_slice(text).map_err(|source| VerifyError::Line { file, line, source })
}
