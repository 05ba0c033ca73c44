//! How fast is the log read again?

use std::process::ExitCode;

use clap::Args;

/// Reading the log again, against a raw ordered COPY.
#[derive(Debug, Args)]
pub struct ReplayArgs {}

pub(crate) async fn run(args: &ReplayArgs, _exe: std::path::PathBuf) -> anyhow::Result<ExitCode> {
    let _ = args;
    anyhow::bail!("not built yet")
}
