//! On what was it measured? Cores, memory, what a flush to disk takes, and how much of the processors each process had.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use kassa_harness::installation::usage_of;
use serde_json::{Value, json};

use crate::report::Waits;

/// A page of PostgreSQL's log.
const FLUSHED_BYTES: usize = 8 * 1024;

/// Has the disk keep a page, as a commit does, and tells how long that took.
#[derive(Debug)]
pub struct FlushProbe {
    file: File,
    path: PathBuf,
    n: u64,
}

/// As in PostgreSQL, the file has its length before: a flush of data only.
const PAGES: u64 = 256;
const PAGE: [u8; FLUSHED_BYTES] = [0x5a; FLUSHED_BYTES];

impl FlushProbe {
    /// # Errors
    /// When a file in `dir` cannot be written.
    pub fn new(dir: &Path) -> std::io::Result<Self> {
        let path = dir.join("fsync-probe");
        let mut file = File::create(&path)?;
        for _ in 0..PAGES {
            file.write_all(&PAGE)?;
        }
        file.sync_all()?;
        Ok(Self { file, path, n: 0 })
    }

    /// # Errors
    /// The disk's.
    pub fn flush(&mut self) -> std::io::Result<Duration> {
        let bytes = u64::try_from(FLUSHED_BYTES).unwrap_or(u64::MAX);
        self.file.seek(SeekFrom::Start(self.n % PAGES * bytes))?;
        self.n += 1;
        let began = Instant::now();
        self.file.write_all(&PAGE)?;
        self.file.sync_data()?;
        Ok(began.elapsed())
    }
}

impl Drop for FlushProbe {
    fn drop(&mut self) {
        // The folder of the run goes, too.
        let _ = fs::remove_file(&self.path);
    }
}

/// What does it take until a page is on disk? Blocks for about `time`.
///
/// # Errors
/// When a file in `dir` cannot be written.
pub fn flushes(dir: &Path, time: Duration) -> std::io::Result<Waits> {
    let mut probe = FlushProbe::new(dir)?;
    let mut waits = Waits::default();
    let until = Instant::now() + time;
    while Instant::now() < until {
        waits.add(probe.flush()?);
    }
    Ok(waits)
}

/// Processor time that a process and those it has waited for have used.
pub fn cpu(pid: u32) -> Option<Duration> {
    usage_of(pid).map(|usage| usage.cpu)
}

/// Memory of a process that is not on disk as well, in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    usage_of(pid).map(|usage| usage.rss_bytes)
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
