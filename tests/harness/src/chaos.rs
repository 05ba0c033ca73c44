//! What is asked on the command line of a run with faults?

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use crate::shipment::{self, ShipmentArgs};

/// Runs seeded payments on private servers, with seeded faults, and verifies what is left.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  kassa chaos --minutes 2 --seed 1
  kassa chaos --minutes 20 --seed 7
  kassa chaos --minutes 0.5 --seed 7 --no-faults"
)]
pub struct ChaosArgs {
    /// How long payments are made and faults injected.
    #[arg(long, default_value_t = 2.0, value_name = "M")]
    pub minutes: f64,
    /// The same seed, the same payments and faults.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,
    /// The payments alone.
    #[arg(long)]
    pub no_faults: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Processes of a run that are no services.
#[derive(Debug, Subcommand)]
enum Part {
    /// The shop's shipment service of a run.
    #[command(
        hide = true,
        after_help = "Examples:
  kassa chaos shipment-service --database-url URL --nats-url URL
  kassa chaos shipment-service --database-url URL --nats-url URL --durable other
  KASSA_NATS_PASSWORD=x kassa chaos shipment-service --database-url URL --nats-url URL"
    )]
    ShipmentService(ShipmentArgs),
}

/// Runs it; `exe` is the binary whose `serve` starts a role.
///
/// # Errors
/// What keeps it from running at all.
pub async fn run(args: &ChaosArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    if let Some(Part::ShipmentService(args)) = &args.part {
        shipment::run(args).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let _ = exe;
    anyhow::bail!("not built yet")
}
