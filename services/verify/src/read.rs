//! How is an exported file read? Line by line: memory holds what is kept of a line, not the line.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// A folder, and how many rows were written to each of its files, where that is told.
#[derive(Debug)]
pub(crate) struct Folder<'d> {
    pub(crate) path: &'d Path,
    pub(crate) rows: BTreeMap<String, u64>,
}

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
    #[error("{path} has no meta.json: the export was not finished; export anew, into another folder")]
    Unfinished { path: PathBuf },
    #[error("{file} has {found} rows and {written} were exported: it was cut or emptied; export anew")]
    Cut {
        file: &'static str,
        found: u64,
        written: u64,
    },
    #[error("{file} was exported, and is not there any more: export anew")]
    Gone { file: &'static str },
}

/// Calls `each` for every line of a file, with its number from 1. `false` when there is no such file.
pub(crate) fn lines(
    dir: &Folder<'_>,
    file: &'static str,
    mut each: impl FnMut(u32, &[u8]) -> Result<(), VerifyError>,
) -> Result<bool, VerifyError> {
    let path = dir.path.join(file);
    let written = dir.rows.get(file).copied();
    let unreadable = |source| VerifyError::Unreadable {
        path: path.clone(),
        source,
    };
    let opened = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match written {
                Some(_) => Err(VerifyError::Gone { file }),
                None => Ok(false),
            };
        }
        opened => opened.map_err(unreadable)?,
    };
    // Large enough that the system is asked seldom, small beside what is kept.
    let mut reader = BufReader::with_capacity(1 << 18, opened);
    let (mut number, mut found, mut line) = (0, 0, Vec::new());
    while reader.read_until(b'\n', &mut line).map_err(unreadable)? > 0 {
        number += 1;
        let text = line.trim_ascii();
        if !text.is_empty() {
            found += 1;
            each(number, text)?;
        }
        line.clear();
    }
    // Whoever drives a run may know more than the export, and add to a file; nobody takes away from it.
    match written {
        Some(written) if found < written => Err(VerifyError::Cut { file, found, written }),
        _ => Ok(true),
    }
}

/// The same for lines of one shape.
pub(crate) fn records<T: DeserializeOwned>(
    dir: &Folder<'_>,
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
