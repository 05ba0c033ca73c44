//! How does everything that happened leave the system, for a checker that trusts nobody?

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

/// Writes events, decisions, the bus' copies and read models to files, for `kassa verify`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

pub(crate) async fn run(args: &ExportArgs, _: Option<&Path>) -> anyhow::Result<ExitCode> {
    let _ = &args.to;
    anyhow::bail!("not built yet")
}
