//! What is asked on the command line of a run with faults?

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

/// Runs seeded payments on private servers, with seeded faults, and verifies what is left.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa chaos --minutes 2 --seed 1")]
pub struct ChaosArgs {
    /// How long payments are made and faults injected.
    #[arg(long, default_value_t = 2, value_name = "M")]
    pub minutes: u32,
    /// The same seed, the same payments and faults.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,
}

/// Runs it; `exe` is the binary whose `serve` starts a role.
///
/// # Errors
/// What keeps it from running at all.
pub async fn run(args: &ChaosArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    let _ = (args, exe);
    anyhow::bail!("not built yet")
}
