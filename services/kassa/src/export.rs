//! How does everything that happened leave the system, for a checker that trusts nobody?
//!
//! Files of JSON lines in a folder: the store in one snapshot, then the bus and the provider's ledger, which may know more by
//! then. Rows are streamed; the vault, which has the personal data, is not read.

mod bus;
mod folder;
mod ledger;
mod projections;
mod store;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use kassa_chassis::config::{Config, Database};
use kassa_event_store::Store;
use kassa_verify::Meta;
use serde_json::json;
use tokio_postgres::IsolationLevel;

use crate::{
    cli::{self, Format},
    exit::Ended,
    replay,
};
use folder::{File, Folder};

/// Writes events, decisions, the bus' copies and read models to files, for `kassa verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa export --to run-1 --simulator http://127.0.0.1:8090
  kassa export --to run-1 --projections --quiescent && kassa verify run-1
  kassa export --to run-1 --without-bus --format json")]
pub(crate) struct ExportArgs {
    /// The folder to write to; made if it is not there, and refused if anything is in it.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Where the CM simulator is, for the provider's own ledger.
    #[arg(long, env = "KASSA_SIM_URL", value_name = "URL")]
    simulator: Option<String>,
    /// Digests of the read models as they are and as they are when built anew, which takes as long as a rebuild.
    #[arg(long)]
    projections: bool,
    /// Leaves out what the stream holds.
    #[arg(long)]
    without_bus: bool,
    /// Says that nothing is under way any more: then what is missing is missing.
    #[arg(long)]
    quiescent: bool,
    /// The seed of the run, to be told with what is found.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) async fn run(args: &ExportArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = if args.database_url.is_some() {
        cli::load_without_database(file)?
    } else {
        cli::load(file)?
    };
    let folder = Folder::prepare(&args.to)?;
    // Whoever is away is away before anything is written.
    let pool_size = Database::default().max_connections;
    let (store, _) = replay::open_log(args.database_url.as_deref(), file, pool_size).await?;
    let held = match args.without_bus {
        true => None,
        false => Some(bus::find(&config).await?),
    };
    let simulator = match &args.simulator {
        Some(url) => Some(ledger::Simulator::find(url).await?),
        None => None,
    };
    let poll_longest_ms = poll_longest_ms(&config)?;
    let mut written = vec![];

    // Before the snapshot: the snapshot then holds whatever a rebuild would have stored.
    if args.projections {
        written.extend(projections::write(&folder, &store).await?);
    }
    let (exported_at, clock_moved) = of_the_store(&folder, &store, &mut written).await?;
    let mut stream_from = None;
    if let Some(held) = held {
        let (rows, begins) = bus::write(&folder, held).await?;
        written.push((bus::FILE.to_owned(), rows));
        stream_from = begins;
    }
    if let Some(simulator) = simulator {
        written.push((ledger::FILE.to_owned(), simulator.write(&folder).await?));
    }
    let meta = Meta {
        format: 1,
        seed: args.seed,
        revision: None,
        exported_at,
        quiescent: args.quiescent,
        tolerance_minor: Some(policy().tolerance_minor),
        poll_longest_ms,
        safe_levels: Some(policy().levels),
        visibility_ms: kassa_domain::payment::VISIBILITY_HORIZON_MS,
        clock_moved,
        clocks_apart: false,
        rows: written.iter().cloned().collect(),
        stream_from,
    };
    // Last: a folder without it was not finished, and is not an export.
    let mut file = folder.file("meta.json")?;
    file.line(&serde_json::to_vec(&meta)?)?;
    file.finish()?;
    folder.keep();

    match args.format {
        Format::Table => {
            for (name, rows) in &written {
                println!("{rows:>10}  {name}");
            }
            println!("written to {}; kassa verify reads it", args.to.display());
        }
        Format::Json => {
            let files: serde_json::Map<_, _> = written
                .into_iter()
                .map(|(name, rows)| (name, json!(rows)))
                .collect();
            println!("{}", json!({ "folder": args.to, "rows": files, "meta": meta }));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn policy() -> kassa_domain::safety::Policy {
    kassa_domain::safety::Policy::default()
}

/// Of the ladders that are climbed: each method's as it is configured, or else as the methods' file has it.
fn poll_longest_ms(config: &Config) -> anyhow::Result<Option<i64>> {
    let catalogue = kassa_engine::catalogue(config)
        .map_err(|error| Ended::new(Ended::CONFIGURATION, format!("{error:#}")))?;
    let configured = &config.poll.ladder;
    let rungs = catalogue
        .all()
        .iter()
        .flat_map(|entry| configured.get(entry.method.as_str()).unwrap_or(&entry.ladder));
    let longest: Option<SignedDuration> = rungs.copied().max();
    Ok(longest.and_then(|longest| i64::try_from(longest.as_millis()).ok()))
}

/// Everything of the store in one snapshot; when it was taken by the store's clock, and whether that was ever moved.
async fn of_the_store(
    folder: &Folder,
    store: &Store,
    written: &mut Vec<(String, u64)>,
) -> anyhow::Result<(Timestamp, bool)> {
    let mut client = store.pool().get().await.map_err(unreachable)?;
    let snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    // Writing takes as long as the disk does; nothing is locked. As the login itself: a shipment service's tables are not the
    // services' to read.
    snapshot
        .batch_execute(
            "SET LOCAL ROLE NONE; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0",
        )
        .await?;
    // The transaction's beginning, which is before its snapshot: what the provider did until then is all in it.
    let row = snapshot
        .query_one("SELECT now(), offset_ms FROM clock", &[])
        .await?;
    let (wall, offset_ms): (Timestamp, i64) = (row.get(0), row.get(1));
    let exported_at = wall.checked_add(SignedDuration::from_millis(offset_ms))?;
    for table in store::TABLES {
        if let Some(rows) = store::write(folder, &snapshot, table).await? {
            written.push((table.file.to_owned(), rows));
        }
    }
    snapshot.rollback().await?;
    Ok((exported_at, offset_ms != 0))
}

fn unreachable(error: impl std::fmt::Display) -> Ended {
    Ended::new(
        Ended::UNREACHABLE,
        format!("the database cannot be reached: {error}"),
    )
}

/// A line of JSON that is put together from what is JSON already, byte for byte.
#[derive(Debug, Default)]
struct Line {
    text: Vec<u8>,
    /// It is a document of its own and needs no closing bracket.
    whole: bool,
}

impl Line {
    fn document(&mut self, json: &str) {
        self.text.extend_from_slice(json.as_bytes());
        self.whole = true;
    }

    fn raw(&mut self, name: &str, json: &[u8]) {
        self.text.push(if self.text.is_empty() { b'{' } else { b',' });
        self.text.push(b'"');
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(b"\":");
        self.text.extend_from_slice(json);
    }

    fn put(&mut self, name: &str, value: impl serde::Serialize) -> anyhow::Result<()> {
        let json = serde_json::to_vec(&value)?;
        self.raw(name, &json);
        Ok(())
    }

    fn end(&mut self, file: &mut File) -> anyhow::Result<()> {
        if !self.whole {
            self.text.push(b'}');
        }
        file.line(&self.text)?;
        self.text.clear();
        self.whole = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_rung_is_that_of_the_ladders_that_are_climbed() {
        let mut config = Config::default();
        let of_the_file = poll_longest_ms(&config).unwrap();
        assert_eq!(of_the_file, Some(2 * 3_600 * 1_000), "the methods' file has 2h");
        for method in ["ideal", "paypal"] {
            let ladder = [1, 10].map(SignedDuration::from_secs).to_vec();
            config.poll.ladder.insert(method.to_owned(), ladder);
        }
        assert_eq!(poll_longest_ms(&config).unwrap(), Some(10_000));
        // Of a method that there is not: nobody climbs it.
        config
            .poll
            .ladder
            .insert("cash".to_owned(), vec![SignedDuration::from_hours(9)]);
        assert_eq!(poll_longest_ms(&config).unwrap(), Some(10_000));
    }
}
