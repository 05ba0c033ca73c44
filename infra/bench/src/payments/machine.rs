//! What did it cost? Processor time and memory of each process from `/proc`, the database's own counters, and what the disk
//! needs to keep a block in the same run.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{clock::Micros, rig::Rig};

/// What `fsync` is asked to keep: as much as a small commit writes.
const BLOCK: [u8; 8192] = [1; 8192];
/// Between two of them: seldom enough to disturb nobody.
const PROBE_EVERY: Duration = Duration::from_millis(200);

/// Of one process and those that it has started.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Used {
    /// Since its start, those of it that ended included.
    pub(super) cpu_ms: u64,
    pub(super) resident_kb: u64,
}

/// Everything by its name, at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample(pub(super) BTreeMap<&'static str, Used>);

/// Names of what is not ours to run.
pub(super) const OTHERS: [&str; 4] = ["generator", "cm-simulator", "postgres", "nats-server"];

impl Sample {
    pub(super) fn of(rig: &Rig) -> Self {
        let all = processes();
        let mut sample = BTreeMap::new();
        for role in &rig.roles {
            sample.insert(role.name, used(&all, role.pid()));
        }
        sample.insert("generator", alone(std::process::id()));
        sample.insert("cm-simulator", used(&all, rig.simulator.pid()));
        sample.insert("postgres", used(&all, rig.postgres.pid()));
        sample.insert("nats-server", used(&all, rig.nats.pid()));
        Self(sample)
    }

    /// Of all our services together.
    pub(super) fn resident_mb(&self) -> u64 {
        let ours = self.0.iter().filter(|(name, _)| !OTHERS.contains(name));
        ours.map(|(_, used)| used.resident_kb).sum::<u64>() / 1024
    }
}

fn alone(pid: u32) -> Used {
    let stat = stat(pid).unwrap_or_default();
    Used {
        cpu_ms: stat.own_ms,
        resident_kb: resident_kb(pid),
    }
}

/// A process with its children, however deep.
fn used(all: &HashMap<u32, Stat>, pid: u32) -> Used {
    let mut used = Used::default();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        let Some(stat) = all.get(&pid) else { continue };
        used.cpu_ms += stat.own_ms + stat.ended_ms;
        used.resident_kb += resident_kb(pid);
        open.extend(
            all.iter()
                .filter(|(_, other)| other.parent == pid)
                .map(|(id, _)| *id),
        );
    }
    used
}

#[derive(Debug, Clone, Copy, Default)]
struct Stat {
    parent: u32,
    own_ms: u64,
    /// Of children that ended and were waited for.
    ended_ms: u64,
}

fn processes() -> HashMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, stat(pid)?))
        })
        .collect()
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |n: usize| {
        fields
            .get(n)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let tick_ms = 1000 / rustix::param::clock_ticks_per_second().max(1);
    Some(Stat {
        parent: u32::try_from(number(1)).ok()?,
        own_ms: (number(11) + number(12)) * tick_ms,
        ended_ms: (number(13) + number(14)) * tick_ms,
    })
}

fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

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
        let mut file = fs::File::create(folder.join("fsync.probe"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(PROBE_EVERY);
                let began = Instant::now();
                file.write_all(&BLOCK)?;
                file.sync_data()?;
                took.push(i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX));
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
