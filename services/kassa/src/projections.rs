//! How far are the read models, and how are they made anew? Works on the database alone: no service has to be stopped, or told.

use std::{io::Write as _, path::Path, process::ExitCode, time::Instant};

use clap::{Args, Subcommand};
use kassa_chassis::config::Database;
use kassa_event_store::Store;
use kassa_read_models::{Lag, Progress, RebuildError};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{cli::Format, exit::Ended, replay};

/// Chunks between the database and a slow reader.
const CHUNKS: usize = 4;

/// Looks at read models, and builds them anew.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa projections ls
  kassa projections rebuild checkout
  kassa projections dump shipping > shipping.ndjson")]
pub(crate) enum ProjectionsVerb {
    /// Lists the projections: position, lag, and a rebuild that is under way.
    #[command(visible_aliases = ["list", "status"], after_help = "Examples:
  kassa projections ls
  kassa projections ls --format json
  watch kassa projections ls")]
    Ls {
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Builds a projection anew, beside the one that serves, and swaps them when it has caught up.
    #[command(after_help = "Examples:
  kassa projections rebuild checkout
  kassa projections rebuild shipping
  DATABASE_URL=postgresql:///kassa kassa projections rebuild checkout")]
    Rebuild {
        /// As `kassa projections ls` names it.
        name: String,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Prints a projection's rows as NDJSON, ordered by key; the first line tells the position. Dumps of one position are equal.
    #[command(after_help = "Examples:
  kassa projections dump checkout > now.ndjson
  kassa projections dump checkout --at 0-41992 > then.ndjson
  diff <(kassa projections dump shipping) <(kassa projections dump shipping --at 0-41992)")]
    Dump {
        /// As `kassa projections ls` names it.
        name: String,
        /// As it was at this position; builds it aside, which takes as long as a rebuild.
        #[arg(long, value_name = "POSITION", value_parser = kassa_relay::position)]
        at: Option<(i32, i64)>,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DatabaseArgs {
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

impl DatabaseArgs {
    async fn open(&self, file: Option<&Path>) -> anyhow::Result<Store> {
        let pool_size = Database::default().max_connections;
        let (store, _) = replay::open_log(self.database_url.as_deref(), file, pool_size).await?;
        Ok(store)
    }
}

pub(crate) async fn run(verb: ProjectionsVerb, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    match verb {
        ProjectionsVerb::Ls { format, database } => list(format, &database, file).await,
        ProjectionsVerb::Rebuild { name, database } => rebuild(&name, &database, file).await,
        ProjectionsVerb::Dump { name, at, database } => dump(name, at, &database, file).await,
    }
}

async fn list(format: Format, database: &DatabaseArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let store = database.open(file).await?;
    let lags = replay::in_time(kassa_read_models::lag(&store)).await??;
    if format == Format::Table {
        println!(
            "{:<12} {:>10} {:>14} {:>14} {:>10} {:>9}  rebuild",
            "projection", "generation", "position", "head", "lag", "seconds"
        );
        for lag in &lags {
            let build = lag.build.as_ref().map_or("-".to_owned(), |build| {
                let state = if build.alive { "" } else { ", its process is gone" };
                format!(
                    "generation {}, {} %{state}",
                    build.generation,
                    percent(build.position, lag.head)
                )
            });
            println!(
                "{:<12} {:>10} {:>14} {:>14} {:>10} {:>9}  {build}",
                lag.projection,
                lag.generation,
                format!("{}-{}", lag.part, lag.position),
                format!("{}-{}", lag.part, lag.head),
                lag.events(),
                lag.age.as_secs(),
            );
        }
    } else {
        let all: Vec<_> = lags.iter().map(as_json).collect();
        println!("{}", serde_json::to_string(&all)?);
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(lag: &Lag) -> serde_json::Value {
    let mut document = json!({
        "projection": lag.projection,
        "generation": lag.generation,
        "position": format!("{}-{}", lag.part, lag.position),
        "head": format!("{}-{}", lag.part, lag.head),
        "lag_events": lag.events(),
        "lag_seconds": lag.age.as_secs_f64(),
    });
    if let Some(build) = &lag.build {
        document["rebuild"] = json!({
            "generation": build.generation,
            "position": format!("{}-{}", lag.part, build.position),
            "started_at": build.started_at,
            "alive": build.alive,
        });
    }
    document
}

fn percent(position: i64, head: i64) -> i64 {
    position.saturating_mul(100) / head.max(1)
}

async fn rebuild(name: &str, database: &DatabaseArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let store = database.open(file).await?;
    let stop = stopped_by_ctrl_c();
    let began = Instant::now();
    let mut told = began;
    let mut tell = |progress: Progress| {
        // A line a second says that it goes on; more would say no more.
        if told.elapsed().as_secs() >= 1 {
            told = Instant::now();
            eprintln!(
                "{name}: generation {} has {} of {} events, {} %",
                progress.generation,
                progress.position,
                progress.head,
                percent(progress.position, progress.head)
            );
        }
    };
    match kassa_read_models::rebuild(&store, name, &stop, &mut tell).await {
        Ok(swapped) => {
            println!(
                "{name}: generation {} serves, from position 0-{} on, after {} s",
                swapped.generation,
                swapped.position,
                began.elapsed().as_secs()
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => ended(error),
    }
}

async fn dump(
    name: String,
    at: Option<(i32, i64)>,
    database: &DatabaseArgs,
    file: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    if at.is_some_and(|(part, _)| part != 0) {
        return Err(Ended::new(Ended::USAGE, "the log has one part: give --at as 0-number").into());
    }
    let store = database.open(file).await?;
    let stop = stopped_by_ctrl_c();
    let (chunks, mut arriving) = mpsc::channel::<Vec<u8>>(CHUNKS);
    let writing = tokio::task::spawn_blocking(move || {
        let mut out = std::io::stdout().lock();
        while let Some(chunk) = arriving.blocking_recv() {
            out.write_all(&chunk)?;
        }
        out.flush()
    });
    let dumping = kassa_read_models::dump(&store, &name, at.map(|(_, number)| number), &stop, chunks);
    let dumped = tokio::select! {
        dumped = dumping => dumped,
        // A build hears of it at its next step and cleans up; rows that are being written are left where they are.
        () = stop.cancelled(), if at.is_none() => return Ok(ExitCode::from(Ended::INTERRUPTED)),
    };
    if let Err(error) = dumped {
        return ended(error);
    }
    match writing.await? {
        // The reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The second Ctrl-C ends the process at once, as everywhere.
fn stopped_by_ctrl_c() -> CancellationToken {
    kassa_chassis::supervise::until_signal().unwrap_or_else(|error| {
        eprintln!("Ctrl-C cannot be heard and ends this at once, which does no harm: {error}");
        CancellationToken::new()
    })
}

fn ended(error: RebuildError) -> anyhow::Result<ExitCode> {
    match error {
        RebuildError::Unknown { .. } | RebuildError::BeyondTheEnd { .. } => {
            Err(Ended::new(Ended::USAGE, error.to_string()).into())
        }
        RebuildError::Stopped => {
            eprintln!("{error}");
            Ok(ExitCode::from(Ended::INTERRUPTED))
        }
        RebuildError::Busy { .. } | RebuildError::TakenOver { .. } => {
            Err(Ended::new(Ended::CONFLICT, error.to_string()).into())
        }
        RebuildError::Failed { .. } => Err(error.into()),
    }
}
