//! How many payments a second come to their end, and how soon?
//!
//! Whole iDEAL payments through simulator, notification, judgement and shipment, on private servers. Shoppers arrive when
//! they arrive, whatever the others wait for; latency counts from the moment at which a command was due.

mod clock;
mod consumer;
mod ledger;
mod machine;
pub(crate) mod overload;
mod report;
mod rig;
mod shoppers;
mod stage;
mod stats;
pub(crate) mod storm;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use kassa_harness::args::between;

use self::{
    machine::{Commits, FsyncProbe, MEGABYTE, OTHERS, Sample},
    report::{Latencies, Report},
    rig::Layout,
    shoppers::Arrivals,
    stage::Stage,
    stats::Spread,
};
use crate::report::{self as told, Format};

/// Whole payments: through simulator, notification, judgement and shipment.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  kassa bench payments --rate 100 --seconds 60
  kassa bench payments --rate 200 --seconds 60 --poisson --format json
  kassa bench payments --rate 50 --seconds 20 --roles apart"
)]
pub struct PaymentsArgs {
    /// Shoppers who arrive in a second.
    #[arg(long, default_value_t = 100, value_parser = between(1_u32, 10_000, "shoppers a second"))]
    rate: u32,
    #[arg(long, default_value_t = 60, value_parser = between(1_u32, 3_600, "seconds"))]
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

pub(crate) async fn run(args: &PaymentsArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    let mut stage = Stage::start(exe, args.roles, args.rate).await?;
    let arrivals = Arrivals {
        per_second: args.rate,
        seconds: args.seconds,
        poisson: args.poisson,
        seed: args.seed,
    };
    told::progress(&format!("{} shoppers/s for {} s", args.rate, args.seconds));
    let fsync = FsyncProbe::start(stage.rig.folder.path())?;
    let commits = Commits::so_far(&stage.database).await?;
    let began = stage.clock.now();
    let before = Sample::of(&stage.rig);
    let shoppers = stage.shoppers.clone();
    let middle = async {
        tokio::time::sleep(Duration::from_secs(u64::from(args.seconds / 2))).await;
        Sample::of(&stage.rig)
    };
    let (shopping, middle) = tokio::join!(shoppers.shop(arrivals), middle);
    let mut shopping = shopping?;
    let after = Sample::of(&stage.rig);
    let span = stage.clock.now() - began;
    stage.keep(&mut shopping);
    stage.drain(&shopping).await;
    let commits = Commits::so_far(&stage.database).await?.0 - commits.0;
    let fsync = fsync.end()?;
    let latencies = Latencies::of(&shopping, &stage.at_cm().await?, &stage.delivered());
    let verified = stage.verify(args.seed).await?;
    let by_role: BTreeMap<_, _> = after
        .0
        .iter()
        .filter(|(name, _)| !OTHERS.contains(&name.as_str()))
        .map(|(name, used)| (name.clone(), used.rss_bytes / MEGABYTE))
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
        unserved: latencies.unserved,
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
        verified,
    };
    match args.format {
        Format::Table => told::print(&report.as_table())?,
        Format::Json => told::print_json(&serde_json::to_value(&report)?)?,
    }
    Ok(if report.is_valid() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
