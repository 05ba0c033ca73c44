//! What happens when more shoppers come than can be served? Those who are let in are served, the others are told at once to
//! come back, and soon after nobody notices any more.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use kassa_harness::args::between;
use serde::Serialize;
use serde_json::json;

use super::{
    clock::Micros,
    report::Latencies,
    rig::Layout,
    shoppers::{Arrivals, Shopping},
    stage::Stage,
    stats::{Spread, ms},
};
use crate::report::{self, Format};

/// Between refusal and a second look at the recovery, the calm phase lasts as long as the others, and at least this.
const CALM_MIN_S: u32 = 12;
/// The share of the peak that has to come through, and the time in which all is well again.
const GOODPUT_PERCENT_MIN: u64 = 80;
const RECOVERED_S_MAX: usize = 10;

/// More shoppers than can be served: what comes through, how the others are told, and how soon it is over.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  kassa bench overload --rate 150 --seconds 15
  kassa bench overload --rate 100 --times 5 --format json
  kassa bench overload --rate 50 --times 2"
)]
pub struct OverloadArgs {
    /// Shoppers a second that can be served: what `kassa bench payments` holds.
    #[arg(long, default_value_t = 100, value_parser = between(1_u32, 5_000, "shoppers a second"))]
    rate: u32,
    /// So many times as many come.
    #[arg(long, default_value_t = 3, value_parser = between(2_u32, 10, "times"))]
    times: u32,
    /// Of each phase: before, during, after.
    #[arg(long, default_value_t = 15, value_parser = between(5_u32, 600, "seconds"))]
    seconds: u32,
    /// Our roles in one process, or each in its own.
    #[arg(long, value_enum, default_value_t = Layout::Together)]
    roles: Layout,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// One phase, as told.
#[derive(Debug, Serialize)]
struct Phase {
    name: &'static str,
    offered_per_second: u32,
    shoppers: usize,
    refused: usize,
    refused_with_retry_after: usize,
    /// Neither refused nor answered.
    unanswered: usize,
    refusal: Spread,
    redirected: Spread,
    reported_to_safe: Spread,
    /// Releases heard in its time, tenths a second.
    goodput_tenths: u64,
    missing: usize,
    dropped: usize,
}

pub(crate) async fn run(args: &OverloadArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    let mut stage = Stage::start(exe, args.roles, args.rate).await?;
    let calm = Arrivals {
        per_second: args.rate,
        seconds: args.seconds,
        poisson: false,
        seed: 0,
    };
    let crowd = Arrivals {
        per_second: args.rate * args.times,
        ..calm
    };
    let after = Arrivals {
        seconds: args.seconds.max(CALM_MIN_S),
        ..calm
    };
    let mut phases = Vec::new();
    // Shoppers of one phase are still at the bank when those of the next arrive: one follows the other without a pause.
    let shoppers = stage.shoppers.clone();
    for (name, arrivals) in [("before", calm), ("crowd", crowd), ("after", after)] {
        report::progress(&format!(
            "{name}: {} shoppers/s for {} s",
            arrivals.per_second, arrivals.seconds
        ));
        let began = stage.clock.now();
        let shoppers = shoppers.clone();
        let shopping = tokio::spawn(async move { shoppers.shop(arrivals).await });
        let end = began + i64::from(arrivals.seconds) * 1_000_000;
        tokio::time::sleep_until(stage.clock.moment(end)).await;
        phases.push((name, arrivals, began, end, shopping));
    }
    let mut shopped: Vec<(&'static str, Arrivals, Micros, Micros, Shopping)> = Vec::new();
    for (name, arrivals, began, end, shopping) in phases {
        let mut shopping = shopping.await??;
        stage.keep(&mut shopping);
        stage.drain(&shopping).await;
        shopped.push((name, arrivals, began, end, shopping));
    }
    let at_cm = stage.at_cm().await?;
    let delivered = stage.delivered();
    let told: Vec<Phase> = shopped
        .iter()
        .map(|(name, arrivals, began, end, shopping)| {
            let latencies = Latencies::of(shopping, &at_cm, &delivered);
            let answers = shopping
                .ways
                .iter()
                .flat_map(|way| [&way.create, &way.start])
                .flatten();
            let refusals: Vec<_> = answers
                .filter_map(|answered| Some((answered, answered.result.as_ref().err()?)))
                .collect();
            let (refused, unanswered): (Vec<_>, Vec<_>) =
                refusals.into_iter().partition(|(_, no)| no.status != 0);
            let span = u64::try_from(end - began).unwrap_or(1).max(1);
            let heard = delivered.values().filter(|at| (began..end).contains(at)).count() as u64;
            Phase {
                name,
                offered_per_second: arrivals.per_second,
                shoppers: shopping.ways.len(),
                refused: refused.len(),
                refused_with_retry_after: refused.iter().filter(|(_, no)| no.retry_after).count(),
                unanswered: unanswered.len(),
                refusal: Spread::of(
                    refused
                        .iter()
                        .map(|(answered, _)| answered.at - answered.due)
                        .collect(),
                ),
                redirected: latencies.redirected,
                reported_to_safe: latencies.reported_to_safe,
                goodput_tenths: heard * 10_000_000 / span,
                missing: latencies.missing,
                dropped: shopping.dropped,
            }
        })
        .collect();
    let [before, crowd, after] = &told[..] else {
        anyhow::bail!("there are three phases");
    };
    let recovered_s = recovery(&shopped[2].4, shopped[2].2, before.redirected.p50_us);
    let goodput_percent = crowd.goodput_tenths * 100 / before.goodput_tenths.max(1);
    let verified = stage.verify(0).await?;
    let lost: usize = told
        .iter()
        .map(|phase| phase.missing + phase.dropped + phase.unanswered)
        .sum();
    let polite = crowd.refused == crowd.refused_with_retry_after;
    let good = goodput_percent >= GOODPUT_PERCENT_MIN
        && recovered_s.is_some_and(|s| s <= RECOVERED_S_MAX)
        && lost == 0
        && polite
        && verified.violations == 0;
    let document = json!({
        "phases": told, "goodput_percent": goodput_percent, "recovered_s": recovered_s, "verified": verified, "good": good,
    });
    match args.format {
        Format::Json => report::print_json(&document)?,
        Format::Table => {
            let mut rows = vec![
                [
                    "",
                    "offered/s",
                    "through/s",
                    "refused",
                    "Retry-After",
                    "refusal p99",
                    "redirect p50",
                    "p99",
                    "safe p99",
                    "lost",
                ]
                .map(str::to_owned)
                .to_vec(),
            ];
            for phase in [before, crowd, after] {
                rows.push(vec![
                    phase.name.to_owned(),
                    phase.offered_per_second.to_string(),
                    format!("{}.{}", phase.goodput_tenths / 10, phase.goodput_tenths % 10),
                    phase.refused.to_string(),
                    phase.refused_with_retry_after.to_string(),
                    ms(phase.refusal.p99_us),
                    ms(phase.redirected.p50_us),
                    ms(phase.redirected.p99_us),
                    ms(phase.reported_to_safe.p99_us),
                    (phase.missing + phase.dropped + phase.unanswered).to_string(),
                ]);
            }
            report::print(&report::aligned(&rows))?;
            let recovered = recovered_s.map_or("not in this time".to_owned(), |s| format!("{s} s after"));
            report::print(&format!(
                "goodput {goodput_percent} % of the peak, recovered {recovered}, verify: {} violations in {} events\n",
                verified.violations, verified.events
            ))?;
        }
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// After how many seconds every shopper is let in, and gets the link in at most twice the usual time.
fn recovery(shopping: &Shopping, began: Micros, usual: Micros) -> Option<usize> {
    // Whether somebody was not let in, and how long the others' links took.
    let mut seconds: Vec<(bool, Vec<Micros>)> = Vec::new();
    for way in &shopping.ways {
        let Some(create) = &way.create else { continue };
        let second = usize::try_from((create.due - began) / 1_000_000).unwrap_or(0);
        if seconds.len() <= second {
            seconds.resize_with(second + 1, Default::default);
        }
        let (kept_out, took) = &mut seconds[second];
        match &way.start {
            Some(start) if way.redirected => took.push(start.at - start.due),
            _ => *kept_out = true,
        }
    }
    let well =
        |(kept_out, took): &(bool, Vec<Micros>)| !kept_out && Spread::of(took.clone()).p50_us <= 2 * usual;
    let last_bad = seconds.iter().rposition(|second| !well(second));
    match last_bad {
        None => Some(0),
        Some(last) if last + 1 < seconds.len() => Some(last + 1),
        Some(_) => None,
    }
}
