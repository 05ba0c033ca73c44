//! Do the exports of a run agree with every invariant? A thin front of the crate that checks them.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::cli::Format;

/// Checks exported files against every invariant; talks to no service. Exit code 1 when money, goods or evidence are wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa verify run-1
  kassa verify run-1 --format json
  kassa verify run-1 --same-orders-as run-2")]
pub(crate) struct VerifyArgs {
    /// The folder that `kassa export` wrote.
    dir: PathBuf,
    /// Another run of the same orders, with other clocks: the order of facts must be the same.
    #[arg(long, value_name = "DIR")]
    same_orders_as: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let report = kassa_verify::check_beside(&args.dir, args.same_orders_as.as_deref())?;
    match args.format {
        Format::Table => print!("{}", report.to_table()),
        Format::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
