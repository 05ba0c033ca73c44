//! What does a process cost: memory and processor time, as the kernel counts them?

use std::{collections::BTreeMap, fs, time::Duration};

/// Of a process and its children.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory. Pages that several processes share (PostgreSQL's buffers) are counted in each.
    pub rss_bytes: u64,
    /// User and system time since the start; that of children that ended is in it.
    pub cpu: Duration,
}

/// The kernel's unit of processor time on every Linux there is (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);
/// As on every machine that this runs on (`getconf PAGESIZE`).
const PAGE_BYTES: u64 = 4_096;

/// Of one process, without its children that live. None where it is gone.
#[must_use]
pub fn usage_of(pid: u32) -> Option<Usage> {
    read(pid).map(|(_, usage)| usage)
}

/// By name of the process. One that is gone has nothing.
#[must_use]
pub fn usage(pids: &BTreeMap<String, u32>) -> BTreeMap<String, Usage> {
    let mut all = BTreeMap::new();
    let mut parents: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in folders.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        if let Some((parent, of_it)) = read(pid) {
            all.insert(pid, of_it);
            parents.entry(parent).or_default().push(pid);
        }
    }
    pids.iter()
        .map(|(name, pid)| {
            let mut sum = Usage::default();
            let mut left = vec![*pid];
            while let Some(pid) = left.pop() {
                let of_it = all.get(&pid).copied().unwrap_or_default();
                sum.rss_bytes += of_it.rss_bytes;
                sum.cpu += of_it.cpu;
                left.extend(parents.get(&pid).into_iter().flatten());
            }
            (name.clone(), sum)
        })
        .collect()
}

/// The parent of a process, and its cost.
fn read(pid: u32) -> Option<(u32, Usage)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows it is numbers.
    let numbers: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| numbers.get(index)?.parse::<u64>().ok();
    let parent = u32::try_from(number(1)?).ok()?;
    // utime, stime, and those of children that were waited for.
    let ticks = number(11)? + number(12)? + number(13)? + number(14)?;
    let usage = Usage {
        rss_bytes: number(21)? * PAGE_BYTES,
        cpu: TICK * u32::try_from(ticks).unwrap_or(u32::MAX),
    };
    Some((parent, usage))
}
