//! What did it cost? Processor time and memory of each process from `/proc`, the database's own counters, and what the disk
//! needs to keep a block in the same run.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kassa_harness::installation::{Usage, usage, usage_of};

use super::{clock::Micros, rig::Rig};
use crate::machine::FlushProbe;

/// Between two flushes: seldom enough to disturb nobody.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// This process.
const GENERATOR: &str = "generator";

/// Everything by its name, at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample(pub(super) BTreeMap<String, Usage>);

/// Names of what is not ours to run.
pub(super) const OTHERS: [&str; 4] = [GENERATOR, "cm-simulator", "postgres", "nats-server"];

impl Sample {
    pub(super) fn of(rig: &Rig) -> Self {
        let mut pids: BTreeMap<String, u32> = rig
            .roles
            .iter()
            .map(|role| (role.name.to_owned(), role.pid()))
            .collect();
        pids.insert("cm-simulator".to_owned(), rig.simulator.pid());
        pids.insert("postgres".to_owned(), rig.postgres.pid());
        pids.insert("nats-server".to_owned(), rig.nats.pid());
        let mut sample = usage(&pids);
        // All others are its children.
        sample.insert(
            GENERATOR.to_owned(),
            usage_of(std::process::id()).unwrap_or_default(),
        );
        Self(sample)
    }

    /// Of all our services together.
    pub(super) fn resident_mb(&self) -> u64 {
        let ours = self.0.iter().filter(|(name, _)| !OTHERS.contains(&name.as_str()));
        ours.map(|(_, used)| used.rss_bytes).sum::<u64>() / MEGABYTE
    }
}

pub(super) const MEGABYTE: u64 = 1024 * 1024;

/// The database's own account of its work.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Commits(pub(super) i64);

impl Commits {
    pub(super) async fn so_far(client: &tokio_postgres::Client) -> anyhow::Result<Self> {
        let row = client
            .query_one(
                "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
                &[],
            )
            .await?;
        Ok(Self(row.get(0)))
    }
}

/// Asks the disk to keep a block now and then, as long as it lives.
#[derive(Debug)]
pub(super) struct FsyncProbe {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<std::io::Result<Vec<Micros>>>,
}

impl FsyncProbe {
    pub(super) fn start(folder: &Path) -> std::io::Result<Self> {
        let mut probe = FlushProbe::new(folder)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(PROBE_EVERY);
                took.push(i64::try_from(probe.flush()?.as_micros()).unwrap_or(i64::MAX));
            }
            Ok(took)
        });
        Ok(Self { stop, thread })
    }

    pub(super) fn end(self) -> anyhow::Result<Vec<Micros>> {
        self.stop.store(true, Ordering::Relaxed);
        let took = self
            .thread
            .join()
            .map_err(|_| anyhow::anyhow!("the probe of the disk ended early"))?;
        Ok(took?)
    }
}
