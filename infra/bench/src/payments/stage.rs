//! What do all benchmarks of payments share? An installation with its shipment service and its shoppers, warmed up; and at the
//! end everything that happened, checked from outside.

use std::{
    collections::HashMap,
    io::{BufWriter, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    clock::{Clock, Micros},
    consumer::Shipment,
    ledger::{self, AtCm},
    rig::{self, Layout, Rig},
    shoppers::{Arrivals, Shoppers, Shopping},
};
use crate::report;

/// Before anything counts: connections are opened and plans are made.
const WARM_UP_S: u32 = 3;
/// For what was paid to be heard of, and for what was asked to be read; what takes longer is missing.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// The checker takes nothing for missing that was said by the provider less than two seconds before the export.
const SETTLED: Duration = Duration::from_millis(2_500);
const POLL: Duration = Duration::from_millis(20);
/// More than any run asks: the shop's own limit is not what is measured.
const UNLIMITED: u32 = 1_000_000;

pub(super) struct Stage {
    pub(super) rig: Rig,
    pub(super) clock: Clock,
    pub(super) shipment: Shipment,
    pub(super) shoppers: std::sync::Arc<Shoppers>,
    pub(super) database: tokio_postgres::Client,
    answers: Vec<Value>,
}

/// What the checker found.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Verified {
    /// Of money, goods or evidence: with one, the run does not count.
    pub(super) violations: u64,
    /// Of service.
    pub(super) minor: u64,
    pub(super) violated: Vec<&'static str>,
    pub(super) events: usize,
    pub(super) orders: usize,
}

impl Stage {
    /// Everything runs, and some shoppers have been served.
    pub(super) async fn start(exe: PathBuf, layout: Layout, rate: u32) -> anyhow::Result<Self> {
        report::progress("servers and roles start");
        let rig = Rig::start(exe, layout, UNLIMITED).await?;
        let clock = Clock::start();
        let shipment = Shipment::start(&rig, clock).await?;
        let shoppers = Shoppers::new(&rig, clock).await?;
        let (database, _) = rig::connect(&rig.database_url()).await?;
        let mut stage = Self {
            rig,
            clock,
            shipment,
            shoppers,
            database,
            answers: Vec::new(),
        };
        let warm_up = Arrivals {
            per_second: rate,
            seconds: WARM_UP_S,
            poisson: false,
            seed: 0,
        };
        let warmed = stage.shop(warm_up).await?;
        stage.drain(&warmed).await;
        Ok(stage)
    }

    /// Lets shoppers arrive; their answers are kept for the checker.
    pub(super) async fn shop(&mut self, arrivals: Arrivals) -> anyhow::Result<Shopping> {
        let mut shopping = self.shoppers.shop(arrivals).await?;
        self.keep(&mut shopping);
        Ok(shopping)
    }

    pub(super) fn keep(&mut self, shopping: &mut Shopping) {
        self.answers.append(&mut shopping.answers);
    }

    /// Waits until all that was paid was heard of.
    pub(super) async fn drain(&self, shopping: &Shopping) {
        let until = Instant::now() + DRAIN_MAX;
        let all_heard = || {
            let heard = self.shipment.deliveries.all();
            let paid = shopping.ways.iter().filter(|way| way.pressed_at.is_some());
            paid.filter_map(|way| way.order_id.as_ref())
                .all(|id| heard.contains_key(id))
        };
        while !all_heard() && Instant::now() < until {
            tokio::time::sleep(POLL).await;
        }
    }

    /// The simulator's side of it, by reference.
    pub(super) async fn at_cm(&self) -> anyhow::Result<HashMap<String, AtCm>> {
        let rows = self.rig.folder.path().join("ledger.ndjson");
        ledger::fetch(&self.rig, &rows).await?;
        ledger::read(&rows, self.clock)
    }

    pub(super) fn delivered(&self) -> HashMap<String, Micros> {
        self.shipment.deliveries.all().clone()
    }

    /// Waits until nothing is under way, exports everything and has it checked.
    pub(super) async fn verify(mut self, seed: u64) -> anyhow::Result<Verified> {
        report::progress("everything that happened is exported and checked");
        let until = Instant::now() + DRAIN_MAX;
        let unread = "SELECT count(*) FROM provider_reads WHERE requests > served";
        while self.database.query_one(unread, &[]).await?.get::<_, i64>(0) > 0 && Instant::now() < until {
            tokio::time::sleep(POLL).await;
        }
        tokio::time::sleep(SETTLED).await;
        self.shipment.stop().await?;
        let folder = self.rig.folder.path().join("export");
        let to = folder.to_str().context("the folder's name is text")?;
        let seed = seed.to_string();
        let args = [
            "export",
            "--to",
            to,
            "--simulator",
            &self.rig.sim_url,
            "--projections",
            "--quiescent",
            "--seed",
            &seed,
        ];
        self.rig.tool(&args).await?;
        Shipment::export(&self.rig, &folder).await?;
        let mut file = BufWriter::new(std::fs::File::create(folder.join("answers.ndjson"))?);
        for (n, mut answer) in (1..).zip(self.answers) {
            answer["n"] = json!(n);
            serde_json::to_writer(&mut file, &answer)?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
        self.rig.stop_roles().await?;
        let found = tokio::task::spawn_blocking(move || kassa_verify::check(&folder)).await??;
        let count = |minor: bool| {
            let of_it = found
                .checked
                .iter()
                .filter(|checked| (checked.severity == kassa_verify::Severity::S3) == minor);
            of_it.map(|checked| checked.violations).sum()
        };
        for violation in found.violations.iter().take(20) {
            report::progress(&format!(
                "{} {}: {} ({})",
                violation.id,
                violation.order.as_deref().unwrap_or_default(),
                violation.what,
                violation.evidence.join(", ")
            ));
        }
        Ok(Verified {
            violations: count(false),
            minor: count(true),
            violated: found.violated(),
            events: found.events,
            orders: found.orders,
        })
    }
}
