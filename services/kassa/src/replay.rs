//! What has happened? Straight from the log, as the bus would carry it, and only to stdout: nothing here can publish, so a
//! replay moves no goods and no money.

use std::{collections::BTreeSet, io::Write as _, path::Path, process::ExitCode};

use clap::Args;
use jiff::Timestamp;
use kassa_chassis::config::{Config, Database};
use kassa_domain::{
    ids::{OrderId, Shop},
    payment::Method,
};
use kassa_event_store::{Store, StoreConfig, StoreError};
use kassa_relay::{Bound, EventFilter, FilteredLog, TypePattern};
use secrecy::ExposeSecret as _;

use crate::{cli, exit::Ended, roles::DATABASE_MAX};

/// About as long as an event is in bytes.
const LINE: usize = 1_024;

/// Prints events from the log as NDJSON, one CloudEvent a line, in order; publishes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa replay --from 0-41992 | jq .type
  kassa replay --from 2026-11-01T00:00Z --type 'payment.*' --method ideal --shop demo-shop
  kassa replay --to 2026-12-01T00:00Z --as-known-at 2026-12-01T00:00Z | wc -l")]
pub(crate) struct ReplayArgs {
    /// A position `part-number`, which is not printed itself, or a time; without it, from the beginning.
    #[arg(long, value_name = "POSITION|TIME")]
    from: Option<Bound>,
    /// A position, which is the last that is printed, or a time, which is not; without it, up to the end as it is now.
    #[arg(long, value_name = "POSITION|TIME")]
    to: Option<Bound>,
    /// Such as payment.*, order.payment_safe or *.internal; may be given several times.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<TypePattern>,
    #[arg(long, value_name = "SHOP", value_parser = shop)]
    shop: Option<Shop>,
    /// Only payments by this method.
    #[arg(long, value_name = "METHOD", value_parser = kassa_relay::method)]
    method: Option<Method>,
    /// This order and its payments.
    #[arg(long, value_name = "ORDER_ID", value_parser = order)]
    order: Option<OrderId>,
    /// Only what was recorded until then: the answer of that day, whatever came later.
    #[arg(long, value_name = "TIME", value_parser = kassa_relay::time)]
    as_known_at: Option<Timestamp>,
    /// At most as many events.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

pub(crate) fn shop(text: &str) -> Result<Shop, String> {
    Shop::parse(text).map_err(|error| error.to_string())
}

pub(crate) fn order(text: &str) -> Result<OrderId, String> {
    OrderId::parse(text).map_err(|error| error.to_string())
}

impl ReplayArgs {
    fn filter(&self) -> anyhow::Result<EventFilter> {
        let usage = |error: kassa_relay::FilterError| Ended::new(Ended::USAGE, error.to_string());
        let mut filter = EventFilter {
            types: self.types.clone(),
            shop: self.shop.clone(),
            method: self.method,
            order: self.order,
            as_known_at: self.as_known_at,
            ..EventFilter::default()
        };
        if let Some(from) = self.from {
            filter.set_from(from);
        }
        if let Some(to) = self.to {
            filter.set_to(to).map_err(usage)?;
        }
        filter.check().map_err(usage)?;
        Ok(filter)
    }
}

pub(crate) async fn run(args: &ReplayArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let filter = args.filter()?;
    let pool_size = Database::default().max_connections;
    let (store, live) = open_log(args.database_url.as_deref(), file, pool_size).await?;
    let log = FilteredLog::open(store, live, filter).await?;
    tokio::select! {
        printed = print(log, args.limit.unwrap_or(u64::MAX)) => printed,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            Ok(ExitCode::from(Ended::INTERRUPTED))
        }
    }
}

/// The store by its address, or as configured; and the shops in live mode, which the configuration alone knows: with an
/// address given as well, or money that exists would be told as a test.
pub(crate) async fn open_log(
    database_url: Option<&str>,
    file: Option<&Path>,
    pool_size: usize,
) -> anyhow::Result<(Store, BTreeSet<String>)> {
    let (url, live) = whose_log(database_url, file)?;
    // One that says nothing is as good as away.
    let store = in_time(Store::connect(StoreConfig { url, pool_size }))
        .await?
        .map_err(|error| match error {
            StoreError::Unreachable(_) => Ended::new(Ended::UNREACHABLE, error.to_string()),
            other => Ended::new(Ended::CONFIGURATION, other.to_string()),
        })?;
    Ok((store, live))
}

/// What a database answers, if it answers in time; for questions that it needs no time for.
pub(crate) async fn in_time<T>(asked: impl Future<Output = T>) -> anyhow::Result<T> {
    tokio::time::timeout(DATABASE_MAX, asked).await.map_err(|_| {
        let text = format!("the database does not answer within {} s", DATABASE_MAX.as_secs());
        Ended::new(Ended::UNREACHABLE, text)
            .hint("look at its log, its disk and its locks (pg_stat_activity)")
            .into()
    })
}

fn whose_log(database_url: Option<&str>, file: Option<&Path>) -> anyhow::Result<(String, BTreeSet<String>)> {
    let config = match database_url {
        // Of the file only the shops are needed; but what cannot be read must not pass for "no shop is live".
        Some(_) => {
            Config::unchecked(file).map_err(|error| Ended::new(Ended::CONFIGURATION, error.to_string()))?
        }
        None => cli::load(file)?,
    };
    let live = kassa_relay::shops_in_live_mode(&config);
    let url = database_url.map_or_else(
        || config.database.url.expose_secret().to_owned(),
        ToOwned::to_owned,
    );
    Ok((url, live))
}

async fn print(mut log: FilteredLog, mut left: u64) -> anyhow::Result<ExitCode> {
    // While some are written, the next ones are translated, and those after them are read.
    let mut writing: Option<tokio::task::JoinHandle<std::io::Result<()>>> = None;
    while left > 0 {
        let mut events = match log.next().await {
            Ok(Some(events)) => events,
            Ok(None) => break,
            Err(error) => {
                // What was before it is told.
                written(writing).await?;
                return Err(error.into());
            }
        };
        events.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= u64::try_from(events.len())?;
        if !written(writing.take()).await? {
            return Ok(ExitCode::SUCCESS);
        }
        // On a thread of its own: a reader that stands still must not keep Ctrl-C from being heard.
        writing = Some(tokio::task::spawn_blocking(move || {
            let mut lines = Vec::with_capacity(events.len() * LINE);
            for event in &events {
                serde_json::to_writer(&mut lines, event)?;
                lines.push(b'\n');
            }
            let mut out = std::io::stdout().lock();
            out.write_all(&lines).and_then(|()| out.flush())
        }));
    }
    written(writing).await?;
    Ok(ExitCode::SUCCESS)
}

/// Whether what was being written is out, and more is wanted.
async fn written(writing: Option<tokio::task::JoinHandle<std::io::Result<()>>>) -> anyhow::Result<bool> {
    let Some(writing) = writing else {
        return Ok(true);
    };
    match writing.await? {
        // The reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => {
            written?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_that_exists_is_told_as_such_whoever_names_the_database() {
        let folder = std::env::temp_dir().join(format!("kassa-replay-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (good, broken) = (folder.join("kassa.toml"), folder.join("broken.toml"));
        let text = "[database]\nurl = \"postgresql:///kassa\"\n[shops.real-shop.cm]\nmode = \"live\"\n";
        std::fs::write(&good, text).expect("a file");
        std::fs::write(&broken, "[shops").expect("a file");
        let (url, live) = whose_log(Some("postgresql:///other"), Some(&good)).expect("it can be read");
        assert_eq!(url, "postgresql:///other");
        assert!(live.contains("real-shop"), "{live:?}");
        assert!(whose_log(Some("postgresql:///other"), Some(&broken)).is_err());
        std::fs::remove_dir_all(&folder).expect("it was made here");
    }
}
