//! How fast is a read model built anew? By `kassa projections rebuild`, beside one that goes on answering questions.

use std::{
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use clap::Args;
use kassa_harness::args::between;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_postgres::Client;

use crate::{
    fill::{Bench, Desk, connect, reference},
    machine,
    replay::seconds,
    report::{self, Format, Waits, aligned, millis, per_second, progress, thousands},
};

/// Between two looks at a rebuild, at each of which one order is asked for.
const LOOK: Duration = Duration::from_millis(20);
/// Questions before the rebuild, to compare with.
const QUESTIONS: u64 = 200;
/// When memory is looked at, in hundredths of all events.
const LOOKS: [i64; 4] = [10, 50, 90, 100];
const MEGABYTE: u64 = 1024 * 1024;

/// Building both read models anew, beside those that serve.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  kassa bench rebuild
  kassa bench rebuild --events 200000 --format json
  kassa bench rebuild --events 20000"
)]
pub struct RebuildArgs {
    /// Events that are stored before; about so many, since an order has more than one.
    #[arg(long, default_value_t = 1_000_000, value_parser = between(100_u64, 50_000_000, "events"))]
    events: u64,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// One read model, built anew.
#[derive(Debug)]
struct Built {
    name: &'static str,
    /// To the swap; what is swept after it keeps nobody waiting.
    took: Duration,
    swept_after: Duration,
    cpu: Duration,
    /// Hundredth of all events, and bytes of memory then.
    resident: Vec<(i64, u64)>,
    asked: Waits,
}

pub(crate) async fn run(args: &RebuildArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    let bench = Bench::start().await?;
    progress("filling the store");
    let filled = bench.fill_events(args.events).await?;
    let desk = Desk::open(&bench.url).await?;
    let client = connect(&bench.url).await?;
    let mut before = Waits::default();
    for n in 0..QUESTIONS {
        before.add(ask(&desk, n * 7_919 % filled.orders).await?);
    }
    let mut built = Vec::new();
    for name in kassa_read_models::PROJECTIONS {
        progress(&format!(
            "{name}: {} events",
            thousands(u64::try_from(filled.events)?)
        ));
        let one = rebuild(
            &exe,
            &bench.url,
            &client,
            &desk,
            name,
            filled.events,
            filled.orders,
        )
        .await?;
        built.push(one);
    }
    let events = usize::try_from(filled.events)?;
    match args.format {
        Format::Json => {
            let told: serde_json::Map<String, Value> = built
                .iter_mut()
                .map(|one| (one.name.to_owned(), one.told(events)))
                .collect();
            report::print_json(&json!({
                "bench": "rebuild",
                "events": events,
                "orders": filled.orders,
                "rebuilt": told,
                "asked_before": { "p50_us": before.at(500), "p99_us": before.at(990) },
                "rig": machine::rig(),
            }))?;
        }
        Format::Table => {
            let heads = [
                "",
                "events/s",
                "to the swap",
                "swept after",
                "cpu",
                "get_order p50",
                "p99",
            ];
            let mut rows = vec![heads.map(ToOwned::to_owned).to_vec()];
            let mut memory = String::new();
            for one in &mut built {
                rows.push(vec![
                    one.name.to_owned(),
                    thousands(per_second(events, one.took)),
                    seconds(one.took),
                    seconds(one.swept_after),
                    seconds(one.cpu),
                    millis(one.asked.at(500)),
                    millis(one.asked.at(990)),
                ]);
                let looks: Vec<String> = one
                    .resident
                    .iter()
                    .map(|(part, bytes)| format!("{} MB at {part} %", bytes / MEGABYTE))
                    .collect();
                memory += &format!("memory of {}: {}\n", one.name, looks.join(", "));
            }
            let nothing = || "-".to_owned();
            let (p50, p99) = (millis(before.at(500)), millis(before.at(990)));
            rows.push(vec![
                "no rebuild".to_owned(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                p50,
                p99,
            ]);
            let events = thousands(u64::try_from(events)?);
            report::print(&format!(
                "{events} events of {} orders\n{}{memory}",
                thousands(filled.orders),
                aligned(&rows)
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Built {
    fn told(&mut self, events: usize) -> Value {
        let resident: Vec<Value> = self
            .resident
            .iter()
            .map(|(part, bytes)| json!({ "percent": part, "mb": bytes / MEGABYTE }))
            .collect();
        json!({
            "events_per_second": per_second(events, self.took),
            "swap_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "sweep_ms": u64::try_from(self.swept_after.as_millis()).unwrap_or(u64::MAX),
            "cpu_ms": u64::try_from(self.cpu.as_millis()).unwrap_or(u64::MAX),
            "resident": resident,
            "asked": { "p50_us": self.asked.at(500), "p99_us": self.asked.at(990), "questions": self.asked.count() },
        })
    }
}

async fn ask(desk: &Desk, n: u64) -> anyhow::Result<Duration> {
    let began = Instant::now();
    desk.get(&reference(n)).await?;
    Ok(began.elapsed())
}

async fn rebuild(
    exe: &Path,
    url: &str,
    client: &Client,
    desk: &Desk,
    name: &'static str,
    head: i64,
    orders: u64,
) -> anyhow::Result<Built> {
    let serving = "SELECT generation FROM projections WHERE name = $1 AND part = 0";
    let old: i32 = client.query_one(serving, &[&name]).await?.get(0);
    let began = Instant::now();
    let mut child = Command::new(exe)
        .args(["projections", "rebuild", name])
        .env("DATABASE_URL", url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("kassa projections rebuild cannot be started")?;
    let pid = child.id().context("it was just started")?;
    let mut built = Built {
        name,
        took: Duration::ZERO,
        swept_after: Duration::ZERO,
        cpu: Duration::ZERO,
        resident: vec![],
        asked: Waits::default(),
    };
    let mut looks = LOOKS.into_iter().peekable();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        built.cpu = machine::cpu(pid).unwrap_or(built.cpu);
        if built.took.is_zero() {
            let position: i64 = client
                .query_opt(
                    "SELECT position FROM projection_builds WHERE name = $1 AND part = 0",
                    &[&name],
                )
                .await?
                .map_or(0, |row| row.get(0));
            let swapped = client.query_one(serving, &[&name]).await?.get::<_, i32>(0) != old;
            if swapped {
                built.took = began.elapsed();
            }
            let reached = if swapped { head } else { position };
            while let Some(look) = looks.next_if(|look| reached * 100 >= head * look) {
                built
                    .resident
                    .push((look, machine::resident_bytes(pid).unwrap_or(0)));
            }
            let n = u64::try_from(built.asked.count())? * 7_919 % orders;
            built.asked.add(ask(desk, n).await?);
        }
        tokio::time::sleep(LOOK).await;
    };
    ensure!(
        status.success(),
        "kassa projections rebuild {name} ended with {status}"
    );
    if built.took.is_zero() {
        built.took = began.elapsed();
    }
    built.swept_after = began.elapsed().saturating_sub(built.took);
    Ok(built)
}
