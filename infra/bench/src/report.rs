//! In which form are figures told? Waits by percentile, ratios of one run, a table for eyes or JSON for programs.

use std::{io::Write as _, time::Duration};

use clap::ValueEnum;
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// One document.
    Json,
}

/// How long things took, in whole microseconds.
#[derive(Debug, Default, Clone)]
pub struct Waits {
    micros: Vec<u64>,
    sorted: bool,
}

impl Waits {
    pub fn add(&mut self, wait: Duration) {
        self.micros
            .push(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
        self.sorted = false;
    }

    pub fn append(&mut self, mut other: Self) {
        self.micros.append(&mut other.micros);
        self.sorted = false;
    }

    pub fn count(&self) -> usize {
        self.micros.len()
    }

    /// The wait that `per_mille` of a thousand do not exceed, in microseconds: 500 is the median, 990 the p99. 0 where
    /// nothing was measured.
    pub fn at(&mut self, per_mille: usize) -> u64 {
        if !self.sorted {
            self.micros.sort_unstable();
            self.sorted = true;
        }
        at(&self.micros, per_mille).unwrap_or(0)
    }
}

/// The smallest of sorted values that `per_mille` of a thousand do not exceed: one that was measured. None of none.
pub fn at<T: Copy>(sorted: &[T], per_mille: usize) -> Option<T> {
    let rank = (sorted.len() * per_mille).div_ceil(1_000);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The middle one; of an even number, the lower of the two.
pub fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or(0)
}

/// So many in a second; 0 in no time.
pub fn per_second(count: usize, took: Duration) -> u64 {
    let micros = took.as_micros().max(1);
    u64::try_from(
        u128::try_from(count)
            .unwrap_or(u128::MAX)
            .saturating_mul(1_000_000)
            / micros,
    )
    .unwrap_or(u64::MAX)
}

/// `this` divided by `that`, to two decimals; 0 where there is nothing to compare with.
#[expect(
    clippy::float_arithmetic,
    clippy::cast_precision_loss,
    reason = "a ratio for readers; nobody is paid by it"
)]
pub fn ratio(this: u64, that: u64) -> f64 {
    if that == 0 {
        return 0.0;
    }
    (this as f64 / that as f64 * 100.0).round() / 100.0
}

/// `1234567` → `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds → `0.87 ms`, `12.3 ms`, `1.234 s`.
pub fn millis(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
        10_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{:03} s", micros / 1_000_000, micros % 1_000_000 / 1_000),
    }
}

/// Rows of cells, the first of them headings; all but the first column to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate();
        let line: Vec<String> = cells
            .map(|(n, (cell, width))| match n {
                0 => format!("{cell:width$}"),
                _ => format!("{cell:>width$}"),
            })
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Prints on stdout; a reader that has seen enough is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

pub fn print_json(document: &Value) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(document)? + "\n"))
}

/// Tells a person that it goes on; not part of what is measured, and not on stdout.
pub fn progress(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_waits_that_were_seen() {
        let mut waits = Waits::default();
        for ms in (1..=100).rev() {
            waits.add(Duration::from_millis(ms));
        }
        let seen = [500, 990, 1_000].map(|per_mille| waits.at(per_mille));
        assert_eq!(seen, [50_000, 99_000, 100_000]);
        assert_eq!(Waits::default().at(500), 0);
    }

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(999), "999");
        assert_eq!(
            [870, 12_345, 1_234_567].map(millis),
            ["0.87 ms", "12.3 ms", "1.234 s"]
        );
        assert_eq!(ratio(10, 4).to_string(), "2.5");
        assert_eq!(median(vec![9, 1, 5]), 5);
        assert_eq!(per_second(500, Duration::from_millis(250)), 2_000);
    }
}
