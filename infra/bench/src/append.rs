//! How many decisions a second are made durable?

use std::process::ExitCode;

use clap::Args;

/// The append: the machine's limit, postgres-es and ours, on one PostgreSQL.
#[derive(Debug, Args)]
pub struct AppendArgs {}

pub(crate) async fn run(args: &AppendArgs) -> anyhow::Result<ExitCode> {
    let _ = args;
    anyhow::bail!("not built yet")
}
