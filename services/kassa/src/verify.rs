//! Do the exports of a run agree with every invariant? A thin front of the crate that checks them.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

/// Checks exported files against every invariant; talks to no service.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The folder that `kassa export` wrote.
    dir: PathBuf,
}

pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let _ = &args.dir;
    anyhow::bail!("not built yet")
}
