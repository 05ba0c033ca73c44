//! What do shoppers notice of a storm of notifications? Nothing: hints are stored together, coalesced, and read at CM's pace.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use kassa_harness::args::between;
use serde_json::json;
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;

use super::{
    clock::Micros,
    report::Latencies,
    rig::Layout,
    shoppers::Arrivals,
    stage::Stage,
    stats::{Spread, ms},
};
use crate::report::{self, Format};

/// How long the storm lasts, and shoppers are measured without it before.
const STORM_S: u32 = 10;
/// Calls under way at once: CM has as many connections as it likes, and this machine has two cores.
const CALLS_MAX: usize = 64;
/// A storm may make the slowest hundredth of the links so much slower.
const SLOWER_PERCENT_MAX: i64 = 20;
/// Of one order: three at once, then one a second, for as long as the storm lasts; and those of its own payment.
const READS_MAX: usize = 3 + STORM_S as usize + 4;

/// A storm of notifications, half of them about orders that nobody knows, while shoppers pay.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  kassa bench storm
  kassa bench storm --rate 30 --notifications 20000 --format json
  kassa bench storm --notifications 2000"
)]
pub struct StormArgs {
    /// Shoppers a second.
    #[arg(long, default_value_t = 30, value_parser = between(1_u32, 5_000, "shoppers a second"))]
    rate: u32,
    /// In ten seconds.
    #[arg(long, default_value_t = 20_000, value_parser = between(1_u32, 1_000_000, "notifications"))]
    notifications: u32,
    /// Our roles in one process, or each in its own.
    #[arg(long, value_enum, default_value_t = Layout::Together)]
    roles: Layout,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// How the storm itself was answered.
#[derive(Debug, Default)]
struct Storm {
    answered: Vec<Micros>,
    not_200: usize,
}

pub(crate) async fn run(args: &StormArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    let mut stage = Stage::start(exe, args.roles, args.rate).await?;
    let arrivals = Arrivals {
        per_second: args.rate,
        seconds: STORM_S,
        poisson: false,
        seed: 0,
    };
    report::progress("shoppers, and no storm");
    let calm = stage.shop(arrivals).await?;
    stage.drain(&calm).await;
    let known: Vec<String> = calm.ways.iter().map(|way| way.reference.clone()).collect();
    report::progress("shoppers, and the storm");
    let raging = rage(&stage, args.notifications, known);
    let shoppers = stage.shoppers.clone();
    let (shopping, storm) = tokio::join!(shoppers.shop(arrivals), raging);
    let (mut shopping, storm) = (shopping?, storm?);
    stage.keep(&mut shopping);
    stage.drain(&shopping).await;
    let at_cm = stage.at_cm().await?;
    let delivered = stage.delivered();
    let without = Latencies::of(&calm, &at_cm, &delivered);
    let with = Latencies::of(&shopping, &at_cm, &delivered);
    let reads_max = at_cm.values().map(|order| order.reads).max().unwrap_or(0);
    let reads: usize = at_cm.values().map(|order| order.reads).sum();
    let verified = stage.verify(0).await?;
    let slower_percent =
        (with.redirected.p99_us - without.redirected.p99_us) * 100 / without.redirected.p99_us.max(1);
    let answered = Spread::of(storm.answered);
    let missing = without.missing + with.missing + calm.dropped + shopping.dropped;
    let good = slower_percent <= SLOWER_PERCENT_MAX
        && reads_max <= READS_MAX
        && missing == 0
        // A notification that is not answered 200 comes again, or is lost.
        && storm.not_200 == 0
        && without.unserved == 0
        && with.unserved == 0
        && with.refused.is_empty()
        && verified.violations == 0;
    let document = json!({
        "notifications": args.notifications, "not_200": storm.not_200, "answered": answered,
        "redirected_without": without.redirected, "redirected_with": with.redirected, "slower_percent": slower_percent,
        "safe_without": without.reported_to_safe, "safe_with": with.reported_to_safe, "reads_per_order_max": reads_max,
        "reads": reads, "missing": missing, "verified": verified, "good": good,
    });
    match args.format {
        Format::Json => report::print_json(&document)?,
        Format::Table => {
            let row = |name: &str, redirect: &Spread, safe: &Spread| {
                vec![
                    name.to_owned(),
                    ms(redirect.p50_us),
                    ms(redirect.p99_us),
                    ms(safe.p50_us),
                    ms(safe.p99_us),
                ]
            };
            let rows = [
                ["ms", "redirect p50", "p99", "report -> safe p50", "p99"]
                    .map(str::to_owned)
                    .to_vec(),
                row(
                    "without the storm",
                    &without.redirected,
                    &without.reported_to_safe,
                ),
                row("in the storm", &with.redirected, &with.reported_to_safe),
            ];
            report::print(&report::aligned(&rows))?;
            report::print(&format!(
                "{} notifications in {STORM_S} s, answered in {} ms (p50), {} (p99), {} not by 200; links {slower_percent} % \
                 slower at p99\nreads: {reads} in all, at most {reads_max} of one order; missing {missing}; verify: {} violations in {} events\n",
                args.notifications,
                ms(answered.p50_us),
                ms(answered.p99_us),
                storm.not_200,
                verified.violations,
                verified.events,
            ))?;
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Calls evenly over the time, every other one about an order that there is.
async fn rage(stage: &Stage, count: u32, known: Vec<String>) -> anyhow::Result<Storm> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let places = Arc::new(Semaphore::new(CALLS_MAX));
    let (clock, began) = (stage.clock, stage.clock.now());
    let mut calls = JoinSet::new();
    let mut storm = Storm::default();
    let mut known = known.iter().cycle();
    for n in 0..count {
        let due = began + i64::from(n) * i64::from(STORM_S) * 1_000_000 / i64::from(count);
        tokio::time::sleep_until(clock.moment(due)).await;
        let place = places.clone().acquire_owned().await?;
        let reference = match known.next() {
            Some(known) if n % 2 == 0 => known.clone(),
            _ => format!("N-{}", Uuid::new_v4().simple()),
        };
        let call = http.get(format!("{}?id={reference}", stage.rig.hooks_url));
        calls.spawn(async move {
            let sent = clock.now();
            let answer = call.send().await;
            drop(place);
            (
                answer.is_ok_and(|answer| answer.status() == 200),
                clock.now() - sent,
            )
        });
        while let Some(ended) = calls.try_join_next() {
            storm.note(ended?);
        }
    }
    while let Some(ended) = calls.join_next().await {
        storm.note(ended?);
    }
    Ok(storm)
}

impl Storm {
    fn note(&mut self, (good, took): (bool, Micros)) {
        self.answered.push(took);
        self.not_200 += usize::from(!good);
    }
}
