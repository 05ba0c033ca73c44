//! What has happened, from a position on? Straight from the log, as the bus would carry it.

use std::{io::Write as _, path::Path, process::ExitCode};

use clap::Args;
use kassa_chassis::config::Database;
use kassa_event_store::{Store, StoreConfig, StoreError};
use kassa_relay::Translator;
use secrecy::ExposeSecret as _;

use crate::{cli, exit::Ended};

const STEP: usize = 1_000;

/// Prints events from the log as NDJSON, one CloudEvent a line, in order.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa replay --from 0-0
  kassa replay --from 0-41992 | jq .type
  kassa replay --from 0-0 | wc -l")]
pub(crate) struct ReplayArgs {
    /// A position, `part-number`; what comes after it is printed.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    from: (i32, i64),
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

/// `0-41992` → part 0, position 41992.
fn position(text: &str) -> Result<(i32, i64), String> {
    let parsed = text.split_once('-').and_then(|(part, at)| {
        let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        (plain(part) && plain(at)).then_some(())?;
        Some((part.parse().ok()?, at.parse().ok()?))
    });
    parsed.ok_or_else(|| "a position is part-number, such as 0-41992; 0-0 is the beginning".to_owned())
}

pub(crate) async fn run(args: &ReplayArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let (url, live) = match &args.database_url {
        Some(url) => (url.clone(), Default::default()),
        None => {
            let config = cli::load(file)?;
            let live = kassa_relay::shops_in_live_mode(&config);
            (config.database.url.expose_secret().to_owned(), live)
        }
    };
    let pool_size = Database::default().max_connections;
    let store = Store::connect(StoreConfig { url, pool_size })
        .await
        .map_err(|error| match error {
            StoreError::Unreachable(_) => Ended::new(Ended::UNREACHABLE, error.to_string()),
            other => Ended::new(Ended::CONFIGURATION, other.to_string()),
        })?;
    let mut translator = Translator::new(store.clone(), live);
    let (part, mut after) = args.from;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // Up to the end as it is now: what comes later is for who follows the bus.
    let end = store.head(part).await?;
    while after < end {
        for stored in store.read_log(part, after, STEP).await? {
            after = stored.position;
            let envelope = translator.envelope(&stored).await?;
            let mut line = serde_json::to_vec(&envelope)?;
            line.push(b'\n');
            if let Err(error) = out.write_all(&line) {
                // The reader has seen enough.
                return if error.kind() == std::io::ErrorKind::BrokenPipe {
                    Ok(ExitCode::SUCCESS)
                } else {
                    Err(error.into())
                };
            }
            if after >= end {
                break;
            }
        }
    }
    match out.flush() {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::position;

    #[test]
    fn a_position_is_a_part_and_a_number() {
        assert_eq!(position("0-0"), Ok((0, 0)));
        assert_eq!(position("3-41992"), Ok((3, 41_992)));
        for wrong in [
            "",
            "0",
            "-1",
            "0-",
            "0--1",
            "a-1",
            "0-1-2",
            "0-99999999999999999999",
        ] {
            assert!(position(wrong).is_err(), "{wrong}");
        }
    }
}
