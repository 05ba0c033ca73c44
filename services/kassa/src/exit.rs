//! What does the shell learn? One exit code a kind of ending, as listed in the README.

use std::{fmt, process::ExitCode};

/// An ending that is not "done", with the code for it. Anything else that fails is 1.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Ended {
    pub(crate) const USAGE: u8 = 2;
    /// Waited in vain: the outcome is not known.
    pub(crate) const TIMED_OUT: u8 = 4;
    pub(crate) const NOT_FOUND: u8 = 5;
    pub(crate) const UNREACHABLE: u8 = 69;
    pub(crate) const CONFIGURATION: u8 = 78;

    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Ended {}

/// Tells a person on stderr what went wrong, and the shell by the code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::from(error.downcast_ref::<Ended>().map_or(1, |ended| ended.code))
}
