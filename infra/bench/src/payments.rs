//! How many payments a second come to their end, and how soon?
//!
//! Whole iDEAL payments through simulator, notification, judgement and shipment, on private servers. Shoppers arrive when
//! they arrive, whatever the others wait for; latency counts from the moment at which a command was due.

mod clock;
mod consumer;
mod ledger;
mod machine;
mod report;
mod rig;
mod shoppers;
mod stats;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, ValueEnum};
use tokio::time::Instant;

use self::{
    clock::Clock,
    consumer::Shipment,
    machine::{Commits, FsyncProbe, OTHERS, Sample},
    report::{Latencies, Report},
    rig::{Layout, Rig},
    shoppers::{Arrivals, Shoppers, Shopping},
    stats::Spread,
};

/// Before anything counts: connections are opened and plans are made.
const WARM_UP_S: u32 = 3;
/// For what was paid to be heard of; what takes longer is missing.
const DRAIN_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// More than any run asks: the shop's own limit is not what is measured.
const UNLIMITED: u32 = 1_000_000;

/// Whole payments: through simulator, notification, judgement and shipment.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa bench payments --rate 100 --seconds 60
  kassa bench payments --rate 200 --seconds 60 --poisson --format json
  kassa bench payments --rate 50 --seconds 20 --roles apart")]
pub struct PaymentsArgs {
    /// Shoppers who arrive in a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// At random moments, as independent shoppers arrive, rather than evenly.
    #[arg(long)]
    poisson: bool,
    /// Of the random moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Our roles in one process, or each in its own.
    #[arg(long, value_enum, default_value_t = Layout::Together)]
    roles: Layout,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(crate) async fn run(args: &PaymentsArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    let mut rig = Rig::start(exe, args.roles, UNLIMITED).await?;
    let clock = Clock::start();
    let shipment = Shipment::start(&rig, clock).await?;
    let shoppers = Shoppers::new(&rig, clock).await?;
    let (database, _driving) = rig::connect(&rig.database_url()).await?;

    let arrivals = Arrivals {
        per_second: args.rate,
        seconds: args.seconds,
        poisson: args.poisson,
        seed: args.seed,
    };
    let warm_up = Arrivals {
        seconds: WARM_UP_S,
        ..arrivals
    };
    let warmed = shoppers.shop(warm_up).await?;
    drain(&shipment, &warmed).await;

    let fsync = FsyncProbe::start(&rig.folder.0)?;
    let commits = Commits::so_far(&database).await?;
    let began = clock.now();
    let before = Sample::of(&rig);
    let middle = async {
        tokio::time::sleep(Duration::from_secs(u64::from(args.seconds / 2))).await;
        Sample::of(&rig)
    };
    let (shopping, middle) = tokio::join!(shoppers.shop(arrivals), middle);
    let mut shopping = shopping?;
    let after = Sample::of(&rig);
    let span = clock.now() - began;
    drain(&shipment, &shopping).await;
    let commits = Commits::so_far(&database).await?.0 - commits.0;
    let fsync = fsync.end()?;

    let rows = rig.folder.0.join("ledger.ndjson");
    ledger::fetch(&rig, &rows).await?;
    let at_cm = ledger::read(&rows, clock)?;
    let latencies = Latencies::of(&shopping, &at_cm, &shipment.deliveries.all());
    shopping.answers.splice(0..0, warmed.answers);
    shipment.stop().await?;
    rig.stop_roles().await?;

    let by_role: BTreeMap<_, _> = after
        .0
        .iter()
        .filter(|(name, _)| !OTHERS.contains(name))
        .map(|(name, used)| (*name, used.resident_kb / 1024))
        .collect();
    let report = Report {
        layout: args.roles.name(),
        offered_per_second: args.rate,
        seconds: args.seconds,
        poisson: args.poisson,
        seed: args.seed,
        shoppers: shopping.ways.len(),
        delivered: latencies.delivered.len(),
        missing: latencies.missing,
        dropped: shopping.dropped,
        held_per_second_tenths: latencies.held_tenths(),
        generator_late_max_us: shopping.late_max,
        refused: latencies.refused,
        created: latencies.created,
        redirected: latencies.redirected,
        redirected_beyond_cm: latencies.redirected_beyond_cm,
        cm_answering: latencies.cm_answering,
        notified: latencies.notified,
        reported_to_safe: latencies.reported_to_safe,
        paid_to_safe: latencies.paid_to_safe,
        reads_per_order_max: latencies.reads_per_order_max,
        fsync: Spread::of(fsync),
        commits,
        cpu_ms_per_second: report::cpu(&before, &after, span),
        resident_mb: [before.resident_mb(), middle.resident_mb(), after.resident_mb()],
        resident_by_role_mb: by_role,
        violations: None,
    };
    match args.format {
        Format::Table => print!("{}", report.as_table()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    let valid =
        report.dropped == 0 && report.missing == 0 && report.violations.is_none_or(|found| found == 0);
    Ok(if valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until all that was paid was heard of.
async fn drain(shipment: &Shipment, shopping: &Shopping) {
    let until = Instant::now() + DRAIN_MAX;
    let all_heard = || {
        let heard = shipment.deliveries.all();
        let paid = shopping.ways.iter().filter(|way| way.pressed_at.is_some());
        paid.filter_map(|way| way.order_id.as_ref())
            .all(|id| heard.contains_key(id))
    };
    while !all_heard() && Instant::now() < until {
        tokio::time::sleep(POLL).await;
    }
}
