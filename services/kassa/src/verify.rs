//! Do the exports of a run agree with every invariant? A thin front of the crate that checks them.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use kassa_verify::{TABLE, VerifyError, Yardstick, check_by};

use crate::{cli::Format, exit::Ended};

/// Checks exported files against every invariant; talks to no service.
///
/// Exit code 1: money, goods or evidence are wrong, or nothing was held against an invariant that is required. Exit code 2: the
/// folder cannot be read, is no export, or not a whole one.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa verify run-1
  kassa verify run-1 --require I-10,I-11,I-12
  kassa verify run-1 --same-orders-as run-2")]
pub(crate) struct VerifyArgs {
    /// The folder that `kassa export` wrote.
    dir: PathBuf,
    /// Another run of the same orders, with other clocks: the order of facts must be the same.
    #[arg(long, value_name = "DIR")]
    same_orders_as: Option<PathBuf>,
    /// Invariants that must have been held against something: their ids, or all. An invariant without facts proves nothing.
    #[arg(long, value_name = "all|ID,ID…", value_delimiter = ',')]
    require: Vec<String>,
    /// By how many minor units an amount may differ from what was ordered; another value in the export is a violation.
    #[arg(long, value_name = "N", default_value_t = Yardstick::default().tolerance_minor)]
    tolerance_minor: i64,
    /// The provider's levels at which goods may leave; others in the export are a violation.
    #[arg(long, value_name = "LEVEL,LEVEL…", value_delimiter = ',', default_values_t = Yardstick::default().safe_levels)]
    safe_levels: Vec<String>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<ExitCode> {
    let required = required(&args.require)?;
    let yardstick = Yardstick {
        tolerance_minor: args.tolerance_minor,
        safe_levels: args.safe_levels.clone(),
    };
    let report = check_by(&args.dir, args.same_orders_as.as_deref(), yardstick).map_err(unusable)?;
    match args.format {
        Format::Table => print!("{}", report.to_table()),
        Format::Json => println!("{}", serde_json::to_string(&report)?),
    }
    let unproven = report.unproven(&required);
    if !unproven.is_empty() {
        let text = format!("required, and not checked: {}", unproven.join(", "));
        return Err(Ended::new(Ended::REFUSED, text)
            .hint("the report says what is missing, and what had no facts")
            .into());
    }
    Ok(if report.failed() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// # Errors
/// [`Ended`] for an id that is not in the table.
fn required(asked: &[String]) -> anyhow::Result<Vec<&'static str>> {
    if asked.iter().any(|word| word == "all") {
        return Ok(TABLE.iter().map(|invariant| invariant.id).collect());
    }
    let known = |word: &String| {
        let found = TABLE.iter().find(|invariant| invariant.id == word);
        let unknown = || Ended::new(Ended::USAGE, format!("--require: there is no invariant {word}"));
        anyhow::Ok(found.ok_or_else(unknown)?.id)
    };
    asked.iter().map(known).collect()
}

fn unusable(error: VerifyError) -> Ended {
    Ended::new(Ended::USAGE, format!("{:#}", anyhow::Error::from(error)))
}
