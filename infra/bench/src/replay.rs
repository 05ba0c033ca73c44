//! How fast is the log read again? All of it, filtered, translated and written as NDJSON by `kassa replay`, against a raw
//! ordered COPY of the same rows in the same run.

use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use futures::TryStreamExt as _;
use kassa_harness::args::between;
use serde_json::json;
use tokio::{io::AsyncReadExt as _, process::Command};

use crate::{
    fill::{Bench, connect},
    machine,
    report::{self, Format, aligned, median, per_second, progress, ratio, thousands},
};

/// Of every pipe read: as much as a pipe of Linux holds.
const CHUNK: usize = 64 * 1024;
/// When memory is looked at, in hundredths of all events.
const LOOKS: [u64; 4] = [10, 50, 90, 100];
const MEGABYTE: u64 = 1024 * 1024;

/// Reading the log again, against a raw ordered COPY.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  kassa bench replay
  kassa bench replay --events 200000 --format json
  kassa bench replay --events 20000"
)]
pub struct ReplayArgs {
    /// Events that are stored before; about so many, since an order has more than one.
    #[arg(long, default_value_t = 1_000_000, value_parser = between(100_u64, 50_000_000, "events"))]
    events: u64,
    /// Each way is gone so many times, in turns; the middle one counts.
    #[arg(long, default_value_t = 3, value_parser = between(1_u32, 20, "rounds"))]
    rounds: u32,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// One way gone once.
#[derive(Debug, Default)]
struct Gone {
    took: Duration,
    bytes: u64,
    events: u64,
    /// Processor time of the process that read.
    cpu: Duration,
    /// Hundredth of all events, and bytes of memory then.
    resident: Vec<(u64, u64)>,
}

pub(crate) async fn run(args: &ReplayArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    let bench = Bench::start().await?;
    progress("filling the store");
    let filled = bench.fill_events(args.events).await?;
    let events = u64::try_from(filled.events)?;
    progress(&format!(
        "{} events of {} orders stored in {} s",
        thousands(events),
        thousands(filled.orders),
        filled.took.as_secs()
    ));
    let (mut raw, mut replayed) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        raw.push(copy(&bench.url).await?);
        replayed.push(replay(&exe, &bench.url, events).await?);
        progress(&format!("round {round} of {}", args.rounds));
    }
    for gone in &replayed {
        ensure!(
            gone.events == events,
            "{} of {events} events were replayed",
            gone.events
        );
    }
    let rate = |gone: &[Gone]| median(gone.iter().map(|one| events_per_second(events, one)).collect());
    let (raw_rate, replay_rate) = (rate(&raw), rate(&replayed));
    let share = ratio(replay_rate, raw_rate);
    let last = replayed.last().context("there is a round at least")?;
    let resident: Vec<_> = last
        .resident
        .iter()
        .map(|(part, bytes)| json!({ "percent": part, "mb": bytes / MEGABYTE }))
        .collect();
    match args.format {
        Format::Json => report::print_json(&json!({
            "bench": "replay",
            "events": events,
            "rounds": args.rounds,
            "raw_copy": { "events_per_second": raw_rate, "bytes": raw[0].bytes },
            "replay": {
                "events_per_second": replay_rate,
                "bytes": last.bytes,
                "cpu_ms": u64::try_from(last.cpu.as_millis())?,
                "resident": resident,
            },
            "ratios": { "replay_of_raw_copy": share },
            "rig": machine::rig(),
        }))?,
        Format::Table => {
            let row = |name: &str, rate: u64, gone: &Gone| {
                let bytes = gone.bytes / MEGABYTE;
                vec![
                    name.to_owned(),
                    thousands(rate),
                    thousands(bytes),
                    seconds(gone.took),
                    seconds(gone.cpu),
                ]
            };
            let heads = ["", "events/s", "MB", "took", "cpu"]
                .map(ToOwned::to_owned)
                .to_vec();
            let table = aligned(&[
                heads,
                row("raw ordered COPY", raw_rate, &raw[0]),
                row("kassa replay", replay_rate, last),
            ]);
            let memory: Vec<String> = last
                .resident
                .iter()
                .map(|(part, bytes)| format!("{} MB at {part} %", bytes / MEGABYTE))
                .collect();
            report::print(&format!(
                "{} events\n{table}replay / raw COPY: {share}\nmemory of replay: {}\n",
                thousands(events),
                memory.join(", ")
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn events_per_second(events: u64, gone: &Gone) -> u64 {
    per_second(usize::try_from(events).unwrap_or(usize::MAX), gone.took)
}

pub(crate) fn seconds(time: Duration) -> String {
    format!("{}.{:02} s", time.as_secs(), time.subsec_millis() / 10)
}

/// What PostgreSQL can do: every column of every row in order, to a reader that only counts.
async fn copy(url: &str) -> anyhow::Result<Gone> {
    let client = connect(url).await?;
    let sql = "COPY (SELECT part, position, stream_id, version, event_id, shop, aggregate_type, aggregate_id, event_type,
                            schema_version, payload, metadata, recorded_at
                       FROM events ORDER BY part, position) TO STDOUT";
    let began = Instant::now();
    let mut gone = Gone::default();
    let mut chunks = std::pin::pin!(client.copy_out(sql).await?);
    while let Some(chunk) = chunks.try_next().await? {
        gone.bytes += u64::try_from(chunk.len())?;
    }
    gone.took = began.elapsed();
    Ok(gone)
}

/// As an analyst does it, to a reader that counts lines.
async fn replay(exe: &Path, url: &str, all: u64) -> anyhow::Result<Gone> {
    let began = Instant::now();
    let mut child = Command::new(exe)
        .arg("replay")
        .env("DATABASE_URL", url)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("kassa replay cannot be started")?;
    let pid = child.id().context("it was just started")?;
    let mut out = child.stdout.take().context("its output was asked for")?;
    let mut gone = Gone::default();
    let mut chunk = vec![0; CHUNK];
    let mut looks = LOOKS.into_iter().peekable();
    loop {
        let read = out.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        gone.bytes += u64::try_from(read)?;
        let lines = chunk[..read].iter().filter(|byte| **byte == b'\n').count();
        gone.events += u64::try_from(lines)?;
        while let Some(look) = looks.next_if(|look| gone.events * 100 >= all * look) {
            gone.resident
                .push((look, machine::resident_bytes(pid).unwrap_or(0)));
            gone.cpu = machine::cpu(pid).unwrap_or(gone.cpu);
        }
    }
    let status = child.wait().await?;
    ensure!(status.success(), "kassa replay ended with {status}");
    gone.took = began.elapsed();
    Ok(gone)
}
