//! What came of it? Medians of the turns, ratios within the run, as a table, JSON or a chart.

use serde_json::{Map, Value, json};

use super::slice::Slice;
use crate::{
    chart::{self, Series},
    machine,
    report::{Format, Waits, aligned, median, millis, print, print_json, ratio, thousands},
};

/// One contestant at one concurrency.
#[derive(Debug)]
pub(super) struct Turns {
    name: &'static str,
    parts: usize,
    pool: Option<u32>,
    per_second: Vec<u64>,
    waits: Waits,
}

impl Turns {
    pub(super) fn new(name: &'static str, parts: usize) -> Self {
        Self {
            name,
            parts,
            pool: None,
            per_second: vec![],
            waits: Waits::default(),
        }
    }

    pub(super) fn pool(mut self, pool: u32) -> Self {
        self.pool = Some(pool);
        self
    }

    pub(super) fn add(&mut self, slice: Slice) {
        self.per_second.push(slice.per_second);
        self.waits.append(slice.waits);
    }

    fn rate(&self) -> u64 {
        median(self.per_second.clone())
    }

    fn label(&self) -> String {
        match (self.name, self.parts) {
            ("postgres-es", _) => self.name.to_owned(),
            (name, 1) => format!("{name}, 1 part"),
            (name, parts) => format!("{name}, {parts} parts"),
        }
    }
}

#[derive(Debug)]
pub(super) struct Level {
    pub(super) callers: usize,
    pub(super) contestants: Vec<Turns>,
    /// Commands of ours that were acknowledged and found where they belong.
    pub(super) checked: u64,
}

impl Level {
    fn of(&self, name: &str, parts: usize) -> Option<&Turns> {
        self.contestants
            .iter()
            .find(|turns| turns.name == name && turns.parts == parts)
    }

    fn rate(&self, name: &str, parts: usize) -> Option<u64> {
        self.of(name, parts).map(Turns::rate)
    }
}

#[derive(Debug)]
pub(super) struct Figures {
    server: String,
    pub(super) levels: Vec<Level>,
    pub(super) flushes: Waits,
}

impl Figures {
    pub(super) fn new(server: String) -> Self {
        Self {
            server,
            levels: vec![],
            flushes: Waits::default(),
        }
    }

    pub(super) fn print(&mut self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => print_json(&self.json()),
            Format::Table => print(&self.table()),
        }
    }

    /// By name; those that this run measured what they need for.
    fn ratios(&mut self) -> Map<String, Value> {
        let mut ratios = Map::new();
        let best = self
            .levels
            .iter()
            .filter_map(|level| level.rate("postgres-es", 1))
            .max();
        for level in &mut self.levels {
            let callers = level.callers;
            let theirs = level.rate("postgres-es", 1);
            let their_p50 = level
                .contestants
                .iter_mut()
                .find(|turns| turns.name == "postgres-es")
                .map(|turns| turns.waits.at(500));
            let mut parts: Vec<usize> = level.contestants.iter().map(|turns| turns.parts).collect();
            parts.sort_unstable();
            parts.dedup();
            for parts in parts {
                let suffix = if parts == 1 {
                    String::new()
                } else {
                    format!("_{parts}_parts")
                };
                let limit = level.rate("raw limit", parts);
                let Some(ours) = level
                    .contestants
                    .iter_mut()
                    .find(|turns| turns.name == "kassa" && turns.parts == parts)
                else {
                    continue;
                };
                let rate = ours.rate();
                let mut add = |name: String, this: u64, that: Option<u64>| {
                    if let Some(that) = that {
                        ratios.insert(name + &suffix, ratio(this, that).into());
                    }
                };
                add(format!("postgres_es_at_{callers}"), rate, theirs);
                add(format!("postgres_es_best_at_{callers}"), rate, best);
                add(format!("raw_limit_at_{callers}"), rate, limit);
                add(format!("p50_at_{callers}"), ours.waits.at(500), their_p50);
            }
        }
        ratios
    }

    fn json(&mut self) -> Value {
        let ratios = self.ratios();
        let levels: Vec<Value> = self
            .levels
            .iter_mut()
            .map(|level| {
                let contestants: Vec<Value> = level
                    .contestants
                    .iter_mut()
                    .map(|turns| {
                        json!({
                            "name": turns.name, "parts": turns.parts, "pool": turns.pool,
                            "commands_per_second": turns.rate(), "turns": turns.per_second,
                            "p50_us": turns.waits.at(500), "p99_us": turns.waits.at(990),
                        })
                    })
                    .collect();
                json!({ "concurrency": level.callers, "contestants": contestants, "checked": level.checked })
            })
            .collect();
        json!({
            "bench": "append", "events_per_command": 2, "server": self.server, "rig": machine::rig(),
            "flush_us": { "p50": self.flushes.at(500), "p99": self.flushes.at(990) },
            "levels": levels, "ratios": ratios,
        })
    }

    fn table(&mut self) -> String {
        let ratios = self.ratios();
        let heads = [
            "",
            "at once",
            "commands/s",
            "p50",
            "p99",
            "of the raw limit",
            "postgres-es ×",
        ];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        let mut checked = 0;
        for level in &mut self.levels {
            checked += level.checked;
            let theirs = level.rate("postgres-es", 1);
            let limits: Vec<(usize, u64)> = level
                .contestants
                .iter()
                .filter(|turns| turns.name == "raw limit")
                .map(|turns| (turns.parts, turns.rate()))
                .collect();
            for turns in &mut level.contestants {
                let limit = limits.iter().find(|(parts, _)| *parts == turns.parts);
                let (of_limit, of_theirs) = match (turns.name, limit, theirs) {
                    ("kassa", Some((_, limit)), Some(theirs)) => (
                        format!("{} %", turns.rate().saturating_mul(100) / (*limit).max(1)),
                        ratio(turns.rate(), theirs).to_string(),
                    ),
                    _ => (String::new(), String::new()),
                };
                let label = match turns.pool {
                    Some(pool) => format!("{}, pool of {pool}", turns.label()),
                    None => turns.label(),
                };
                rows.push(vec![
                    label,
                    level.callers.to_string(),
                    thousands(turns.rate()),
                    millis(turns.waits.at(500)),
                    millis(turns.waits.at(990)),
                    of_limit,
                    of_theirs,
                ]);
            }
        }
        let mut text = aligned(&rows);
        let ratios: Vec<Vec<String>> = ratios
            .iter()
            .map(|(name, value)| vec![format!("ratios.{name}"), value.to_string()])
            .collect();
        text.push('\n');
        text.push_str(&aligned(&ratios));
        text.push_str(&format!(
            "\n{}\na flush to disk beside it: p50 {}, p99 {}\n\
             {} commands of ours were acknowledged, and each is there: positions and versions without gaps\n",
            self.server,
            millis(self.flushes.at(500)),
            millis(self.flushes.at(990)),
            thousands(checked),
        ));
        text
    }

    pub(super) fn svg(&self) -> String {
        let groups: Vec<String> = self
            .levels
            .iter()
            .map(|level| format!("{} at once", level.callers))
            .collect();
        let mut series: Vec<Series> = Vec::new();
        for (n, level) in self.levels.iter().enumerate() {
            for turns in &level.contestants {
                let name = turns.label();
                let at = series.iter().position(|one| one.name == name).unwrap_or_else(|| {
                    series.push(Series {
                        name,
                        values: vec![None; groups.len()],
                    });
                    series.len() - 1
                });
                series[at].values[n] = Some(turns.rate());
            }
        }
        chart::bars(
            "Decisions made durable",
            "commands of two events a second",
            &groups,
            &series,
        )
    }
}
