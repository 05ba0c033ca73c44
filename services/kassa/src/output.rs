//! In which form is an answer printed? A table for eyes, JSON, NDJSON or CSV for programs; money and time as each reads them.

use std::io::{IsTerminal as _, Write as _};

use clap::{Args, ValueEnum};
use iso_currency::Currency;
use jiff::{Timestamp, tz::TimeZone};
use kassa_domain::money::{self, Money};
use serde_json::Value;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people: amounts and local times as they are read.
    Table,
    /// One document, as the HTTP API answers it.
    Json,
    /// One document a line.
    Ndjson,
    /// With a line of headings; UTC and minor units.
    Csv,
}

#[derive(Debug, Args)]
pub(crate) struct Output {
    /// Without it: a table on a terminal, JSON elsewhere.
    #[arg(long, value_enum)]
    format: Option<Format>,
}

impl Output {
    /// What is printed where nothing was asked for: `machine` unless a person looks on.
    pub(crate) fn or(&self, machine: Format) -> Format {
        self.format.unwrap_or_else(|| {
            if std::io::stdout().is_terminal() {
                Format::Table
            } else {
                machine
            }
        })
    }
}

/// One column: its heading, how a person reads it, and how a program does.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) shown: fn(&Value) -> String,
    pub(crate) plain: fn(&Value) -> String,
}

/// Prints documents that are alike. Whoever reads may have seen enough: a closed pipe is no error.
pub(crate) fn list(documents: &[Value], columns: &[Column], format: Format) -> anyhow::Result<()> {
    let mut text = String::new();
    match format {
        Format::Table => {
            let rows: Vec<Vec<String>> = std::iter::once(columns.iter().map(|c| c.name.to_owned()).collect())
                .chain(
                    documents
                        .iter()
                        .map(|document| columns.iter().map(|c| printable(&(c.shown)(document))).collect()),
                )
                .collect();
            text.push_str(&aligned(&rows));
        }
        Format::Csv => {
            let line =
                |cells: Vec<String>| cells.iter().map(|c| csv(c)).collect::<Vec<_>>().join(",") + "\r\n";
            text.push_str(&line(columns.iter().map(|c| c.name.to_owned()).collect()));
            for document in documents {
                text.push_str(&line(columns.iter().map(|c| (c.plain)(document)).collect()));
            }
        }
        Format::Ndjson => {
            for document in documents {
                text.push_str(&format!("{document}\n"));
            }
        }
        Format::Json => text.push_str(&(serde_json::to_string_pretty(documents)? + "\n")),
    }
    print(&text)
}

/// Prints text on stdout; a reader that has gone is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// As RFC 4180 quotes it.
fn csv(cell: &str) -> String {
    if cell.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

/// Words of others may hold what a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// `{"value": 4995, "currency": "EUR"}` → `€ 49.95`; empty where there is no amount.
pub(crate) fn money(amount: &Value) -> String {
    let (Some(minor), Some(code)) = (amount["value"].as_i64(), amount["currency"].as_str()) else {
        return String::new();
    };
    money::Currency::parse(code).map_or_else(
        // Of a newer service, perhaps: told as it came.
        |_| format!("{minor} minor units {code}"),
        |currency| Money::new(minor, currency).told(),
    )
}

/// `49.95` or `49,95` of a currency → minor units.
pub(crate) fn minor_units(text: &str, code: &str) -> Result<i64, String> {
    let currency = Currency::from_code(code)
        .ok_or_else(|| format!("--currency: {code} is no currency of ISO 4217; EUR is one"))?;
    let digits = usize::from(currency.exponent().unwrap_or(0));
    let (whole, part) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let plain = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    let example = if digits == 0 { "4995" } else { "49.95" };
    if whole.is_empty() || !plain(whole) || !plain(part) || part.len() > digits {
        return Err(format!(
            "--amount: {code} has {digits} decimals; write it as {example}"
        ));
    }
    format!("{whole}{part:0<digits$}")
        .parse()
        .map_err(|_| "--amount: too large".to_owned())
}

/// A time as a person reads it, here; empty where there is none.
pub(crate) fn local(time: &Value) -> String {
    let Some(at) = time.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else {
        return String::new();
    };
    at.to_zoned(TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S %:z")
        .to_string()
}

/// A text, a number or nothing, as it is.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_read_as_people_write_them() {
        let eur = |value: i64| money(&json!({ "value": value, "currency": "EUR" }));
        assert_eq!(
            [eur(4995), eur(5), eur(-150), eur(100_000)],
            ["€ 49.95", "€ 0.05", "€ -1.50", "€ 1000.00"]
        );
        assert_eq!(money(&json!({ "value": 500, "currency": "JPY" })), "JPY 500");
        assert_eq!(money(&json!(null)), "");
        assert_eq!(minor_units("49.95", "EUR"), Ok(4995));
        assert_eq!(minor_units("49,9", "EUR"), Ok(4990));
        assert_eq!(minor_units("500", "JPY"), Ok(500));
        for (wrong, currency) in [
            ("49.955", "EUR"),
            ("-1", "EUR"),
            ("1e3", "EUR"),
            ("5.0", "JPY"),
            ("1", "EUX"),
            (".5", "EUR"),
        ] {
            assert!(minor_units(wrong, currency).is_err(), "{wrong} {currency}");
        }
    }

    #[test]
    fn cells_with_commas_and_quotes_stay_one_cell() {
        assert_eq!(csv("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv("plain"), "plain");
        assert_eq!(printable("a\u{1b}[31m"), "a\u{fffd}[31m");
    }
}
