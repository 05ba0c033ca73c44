#![doc = include_str!("../README.md")]

mod append;
pub mod chart;
mod fill;
mod growth;
pub mod machine;
mod payments;
mod rebuild;
mod replay;
pub mod report;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

/// Measures: ours, the peers and the machine's limit in one run.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa bench append
  kassa bench payments --rate 100 --seconds 60
  kassa bench replay --events 1000000")]
pub enum BenchVerb {
    Append(append::AppendArgs),
    Payments(payments::PaymentsArgs),
    Overload(payments::overload::OverloadArgs),
    Storm(payments::storm::StormArgs),
    Replay(replay::ReplayArgs),
    Rebuild(rebuild::RebuildArgs),
    Growth(growth::GrowthArgs),
}

/// Runs it; `exe` is the binary whose `serve` starts a role.
///
/// # Errors
/// What keeps it from measuring.
pub async fn run(verb: BenchVerb, exe: PathBuf) -> anyhow::Result<ExitCode> {
    match verb {
        BenchVerb::Append(args) => append::run(&args).await,
        BenchVerb::Payments(args) => payments::run(&args, exe).await,
        BenchVerb::Overload(args) => payments::overload::run(&args, exe).await,
        BenchVerb::Storm(args) => payments::storm::run(&args, exe).await,
        BenchVerb::Replay(args) => replay::run(&args, exe).await,
        BenchVerb::Rebuild(args) => rebuild::run(&args, exe).await,
        BenchVerb::Growth(args) => growth::run(&args, exe).await,
    }
}
