//! How many payments a second come to their end, and how soon?

use std::process::ExitCode;

use clap::Args;

/// Whole payments: through simulator, notification, judgement and shipment.
#[derive(Debug, Args)]
pub struct PaymentsArgs {}

pub(crate) async fn run(args: &PaymentsArgs, _exe: std::path::PathBuf) -> anyhow::Result<ExitCode> {
    let _ = args;
    anyhow::bail!("not built yet")
}
