//! On what was it measured? Cores, memory, what a flush to disk takes, and how much of the processors each process had.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::report::Waits;

/// A page of PostgreSQL's log.
const FLUSHED_BYTES: usize = 8 * 1024;

/// What does it take until this much is on disk, as a commit waits for it? Blocks for about `time`.
///
/// # Errors
/// When a file in `dir` cannot be written.
pub fn flushes(dir: &Path, time: Duration) -> std::io::Result<Waits> {
    let path = dir.join("fsync-probe");
    let mut file = File::create(&path)?;
    let page = [0x5a; FLUSHED_BYTES];
    // As in PostgreSQL, the file has its length before: a flush of data only.
    for _ in 0..256 {
        file.write_all(&page)?;
    }
    file.sync_all()?;
    let mut waits = Waits::default();
    let until = Instant::now() + time;
    let mut n = 0_u64;
    while Instant::now() < until {
        file.seek(SeekFrom::Start(n % 256 * 8 * 1024))?;
        let began = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        waits.add(began.elapsed());
        n += 1;
    }
    drop(file);
    fs::remove_file(&path)?;
    Ok(waits)
}

/// Processor time that a process and those it has waited for have used.
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also blanks and parentheses; the numbers follow the last one.
    let numbers: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // utime, stime, cutime, cstime are the fields 14 to 17 of proc(5); the first after the name is 3.
    let ticks: u64 = numbers
        .get(11..15)?
        .iter()
        .map(|field| field.parse::<u64>().unwrap_or(0))
        .sum();
    let a_second = rustix::param::clock_ticks_per_second().max(1);
    Some(Duration::from_millis(ticks.saturating_mul(1_000) / a_second))
}

/// As [`cpu`], with its children that live: PostgreSQL's server processes, for one.
pub fn cpu_with_children(pid: u32) -> Duration {
    let own = cpu(pid).unwrap_or_default();
    own + children(pid).into_iter().filter_map(cpu).sum::<Duration>()
}

/// Those whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|child| child.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// Memory of a process that is not on disk as well, in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Cores, processor, memory and kernel, as found.
pub fn rig() -> Value {
    let first = |path: &str, key: &str| -> Option<String> {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let memory_mb = first("/proc/meminfo", "MemTotal")
        .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kilobytes| kilobytes / 1024);
    json!({
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "processor": first("/proc/cpuinfo", "model name"),
        "memory_mb": memory_mb,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_uses_the_processor() {
        let pid = std::process::id();
        let before = cpu(pid).expect("it is there");
        let until = Instant::now() + Duration::from_secs(30);
        // A tick is ten milliseconds: busy until one was counted.
        while cpu(pid).expect("it is there") == before {
            assert!(Instant::now() < until, "no processor time was counted");
        }
        assert!(resident_bytes(pid).expect("it is there") > 1024 * 1024);
        assert!(rig()["cores"].as_u64().expect("a number") > 0);
    }

    #[test]
    fn a_flush_is_measured_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut waits = flushes(dir.path(), Duration::from_millis(50)).expect("it is written");
        assert!(waits.count() > 0 && waits.at(500) > 0);
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0);
    }
}
