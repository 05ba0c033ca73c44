//! How fast is a read model built anew?

use std::process::ExitCode;

use clap::Args;

/// Building a read model anew from a million events.
#[derive(Debug, Args)]
pub struct RebuildArgs {}

pub(crate) async fn run(args: &RebuildArgs, _exe: std::path::PathBuf) -> anyhow::Result<ExitCode> {
    let _ = args;
    anyhow::bail!("not built yet")
}
