//! Does a store with a million orders cost more than one with ten thousand? Two installations side by side, of which one
//! has as many orders as after years: the same is done in both, in turns, and the waits are compared.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use kassa_harness::args::between;
use kassa_harness::installation::{Installation, Plan};
use kassa_infra::run::{RunFolder, cache_dir};
use serde_json::{Value, json};

use crate::{
    fill::{self, Desk, Filled, Template, fill, reference},
    machine,
    report::{self, Format, Waits, aligned, median, millis, progress, ratio, thousands},
};

/// All roles in one process, as a small shop runs them.
const PROCESS: &str = "all";
/// Starts of each installation; the middle one counts.
const STARTS: usize = 3;
/// Payments of one installation before it is the other one's turn: what else the machine does then hits both.
const TURN: u64 = 10;
/// Far enough from each other that two old orders share no page.
const STRIDE: u64 = 7_919;

/// Append, judgement, questions and start-up with few orders stored, and with many.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  kassa bench growth
  kassa bench growth --orders 200000 --format json
  kassa bench growth --few 1000 --orders 20000"
)]
pub struct GrowthArgs {
    /// Orders in the store that is small.
    #[arg(long, default_value_t = 10_000, value_parser = between(100_u64, 1_000_000, "orders"))]
    few: u64,
    /// Orders in the store that is large: some 15 KB of disk each.
    #[arg(long, default_value_t = 1_000_000, value_parser = between(100_u64, 10_000_000, "orders"))]
    orders: u64,
    /// New payments that are made in each, one after the other.
    #[arg(long, default_value_t = 500, value_parser = between(10_u64, 100_000, "payments"))]
    payments: u64,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// One installation with its orders.
struct Site {
    installation: Installation,
    filled: Filled,
    /// Where the shop's commands are decided.
    desk: Desk,
    ready: Vec<u64>,
    waits: [Waits; WHAT.len()],
    next: u64,
}

/// What is measured, in the order of `Site::waits`.
const WHAT: [(&str, &str); 5] = [
    ("append", "create_order: decided, appended, answered"),
    ("judgement", "a report asked for, claimed, judged, recorded"),
    ("old_order", "a report of an old order, which no memory holds"),
    ("get_order", "an old order asked for by its reference"),
    (
        "list_open",
        "a list of the orders that are not paid, of which there are none",
    ),
];

impl GrowthArgs {
    /// Two stores of one size, or the wrong way round, compare nothing.
    fn sizes(&self) -> Result<(), clap::Error> {
        if self.few < self.orders {
            return Ok(());
        }
        let (few, orders) = (self.few, self.orders);
        Err(clap::Error::raw(
            clap::error::ErrorKind::ValueValidation,
            format!(
                "--few {few} is not less than --orders {orders}: give fewer orders for the small store\n"
            ),
        ))
    }
}

pub(crate) async fn run(args: &GrowthArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    if let Err(refused) = args.sizes() {
        refused.exit();
    }
    let folder = RunFolder::new(&std::path::absolute(cache_dir())?)?;
    let mut sites = [
        Site::open(&exe, folder.path().join("few"), args.few).await?,
        Site::open(&exe, folder.path().join("many"), args.orders).await?,
    ];
    for site in &mut sites {
        site.start_often().await?;
    }
    progress(&format!(
        "{} payments in each, in turns",
        thousands(args.payments)
    ));
    // Connections are opened and plans are made.
    for site in &mut sites {
        site.payments(TURN).await?;
        site.waits = Default::default();
    }
    let mut made = 0;
    while made < args.payments {
        for site in &mut sites {
            site.payments(TURN.min(args.payments - made)).await?;
        }
        made += TURN;
    }
    let [few, many] = &mut sites;
    told(args.format, few, many)?;
    for site in sites {
        // What does not end well is not what is measured; the servers end with it.
        let _ = site.installation.close().await;
    }
    Ok(ExitCode::SUCCESS)
}

impl Site {
    async fn open(exe: &Path, folder: PathBuf, orders: u64) -> anyhow::Result<Self> {
        let mut plan = Plan::new(exe.to_owned(), folder, cache_dir()).in_one_process();
        plan.shipment = false;
        // The stream is a window on the log: a relay that starts is not asked to fill in years.
        plan.environment
            .push(("KASSA_NATS__WINDOW".to_owned(), "1000".to_owned()));
        let mut installation = Installation::start(plan).await?;
        installation.terminate(PROCESS).await?;
        let url = installation.access().database_url.clone();
        let template: Template = fill::template(&url).await?;
        progress(&format!("storing {} orders", thousands(orders)));
        let filled = fill(&url, &template, 0, orders).await?;
        progress(&format!(
            "{} events in {} s",
            thousands(u64::try_from(filled.events)?),
            filled.took.as_secs()
        ));
        // What it holds is not the log's: with its data gone, the relay makes the stream again at the log's end.
        installation
            .with_nats(|nats| {
                nats.stop()?;
                nats.wipe()?;
                nats.restart()
            })
            .await?;
        Ok(Self {
            desk: Desk::open(&url).await?,
            installation,
            next: filled.orders,
            filled,
            ready: vec![],
            waits: Default::default(),
        })
    }

    /// From the start of the process until it says that it is ready, which asks database and bus.
    async fn start_often(&mut self) -> anyhow::Result<()> {
        for _ in 0..STARTS {
            let began = Instant::now();
            self.installation.spawn(PROCESS)?;
            self.installation.until_ready(PROCESS).await?;
            self.ready.push(micros(began.elapsed()));
            self.installation.terminate(PROCESS).await?;
        }
        Ok(())
    }

    /// Some payments, one after the other, and as many questions.
    async fn payments(&mut self, count: u64) -> anyhow::Result<()> {
        // A gateway that has just started: it knows no order.
        let gateway = Desk::open(&self.installation.access().database_url).await?;
        for _ in 0..count {
            let old = self.next * STRIDE % self.filled.orders;
            let new = self.desk.names(reference(self.next));
            self.next += 1;
            let began = Instant::now();
            self.desk.create(&new).await?;
            self.waits[0].add(began.elapsed());
            self.desk.start(&new).await?;
            self.desk.redirect(&new).await?;
            let began = Instant::now();
            self.desk.judge(&new).await?;
            self.waits[1].add(began.elapsed());
            let began = Instant::now();
            gateway.judge(&self.desk.names(reference(old))).await?;
            self.waits[2].add(began.elapsed());
            let began = Instant::now();
            self.desk.get(&reference(old)).await?;
            self.waits[3].add(began.elapsed());
            let began = Instant::now();
            self.desk.list_open().await?;
            self.waits[4].add(began.elapsed());
        }
        Ok(())
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn told(format: Format, few: &mut Site, many: &mut Site) -> anyhow::Result<()> {
    let (ready_few, ready_many) = (median(few.ready.clone()), median(many.ready.clone()));
    let mut figures = serde_json::Map::new();
    let mut ratios = serde_json::Map::new();
    let orders = [few.filled.orders, many.filled.orders].map(thousands);
    let heads = [
        "",
        &format!("{} orders", orders[0]),
        &format!("{} orders", orders[1]),
        "ratio",
    ];
    let mut rows = vec![heads.map(ToOwned::to_owned).to_vec()];
    let mut row = |name: &str, few: u64, many: u64| {
        let share = ratio(many, few);
        rows.push(vec![
            name.to_owned(),
            millis(few),
            millis(many),
            share.to_string(),
        ]);
        ratios.insert(name.replace(' ', "_"), share.into());
        json!([few, many])
    };
    for (n, (name, _)) in WHAT.iter().enumerate() {
        for (percentile, per_mille) in [("p50", 500), ("p99", 990)] {
            let (few, many) = (few.waits[n].at(per_mille), many.waits[n].at(per_mille));
            let pair = row(&format!("{name} {percentile}"), few, many);
            figures.insert(format!("{name}_{percentile}_us"), pair);
        }
    }
    figures.insert("ready_us".to_owned(), row("ready", ready_few, ready_many));
    match format {
        Format::Json => report::print_json(&json!({
            "bench": "growth",
            "orders": [few.filled.orders, many.filled.orders],
            "events": [few.filled.events, many.filled.events],
            "payments": few.waits[0].count(),
            "figures": Value::Object(figures),
            "ratios": Value::Object(ratios),
            "rig": machine::rig(),
        })),
        Format::Table => {
            let meant: Vec<String> = WHAT
                .iter()
                .map(|(name, what)| format!("{name}: {what}\n"))
                .collect();
            report::print(&format!("{}{}", aligned(&rows), meant.concat()))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: GrowthArgs,
    }

    #[test]
    fn the_small_store_is_the_smaller_one() {
        for (few, orders, fits) in [
            ("2000", "1000", false),
            ("1000", "1000", false),
            ("999", "1000", true),
        ] {
            let line = Line::try_parse_from(["growth", "--few", few, "--orders", orders]);
            let sizes = line.expect("it is understood").args.sizes();
            assert_eq!(sizes.is_ok(), fits, "{few} {orders}");
            assert!(sizes.err().is_none_or(|refused| refused.exit_code() == 2));
        }
    }
}
