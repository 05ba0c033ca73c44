//! What is configured, from where, and is it right? `kassa config check`, `show` and `schema`; no server is asked.

use std::{path::Path, process::ExitCode};

use clap::{Args, Subcommand};
use kassa_chassis::config::{self, Config, Finding};
use serde_json::{Value, json};

use crate::{
    exit::Ended,
    output::{self, Column, Format, Output},
};

/// The configuration: checking it, showing it, its schema.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa config check
  kassa --config /etc/kassa.toml config show
  kassa config schema > kassa.schema.json")]
pub(crate) enum ConfigVerb {
    Check(CheckArgs),
    Show(ShowArgs),
    Schema(SchemaArgs),
}

/// Names everything that is wrong at once: place, key, what is allowed; ends with 78 if something is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa config check
  kassa --config /etc/kassa.toml config check --format json
  kassa config check && systemctl restart kassa")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    output: Output,
}

/// Every value, and where it comes from; secrets are hidden.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa config show
  kassa config show --format json | jq .nats
  KASSA_LOG__FORMAT=json kassa config show --format csv")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    output: Output,
}

/// The JSON Schema of kassa.toml, also for editors.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa config schema > kassa.schema.json
  kassa config schema | jq '.properties | keys'
  kassa config schema | jq '.\"$defs\".Http'")]
pub(crate) struct SchemaArgs {}

pub(crate) fn run(verb: &ConfigVerb, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    match verb {
        ConfigVerb::Check(args) => check(args, file),
        ConfigVerb::Show(args) => show(args, file),
        ConfigVerb::Schema(_) => {
            output::print(&(serde_json::to_string_pretty(&config::schema())? + "\n"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The level of a finding, as a word.
fn level(finding: &Finding) -> &'static str {
    if finding.is_error { "error" } else { "warning" }
}

fn check(args: &CheckArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    const COLUMNS: [Column; 4] = [
        Column {
            name: "level",
            shown: |finding| output::plain(&finding["level"]),
            plain: |finding| output::plain(&finding["level"]),
        },
        Column {
            name: "place",
            shown: |finding| output::plain(&finding["place"]),
            plain: |finding| output::plain(&finding["place"]),
        },
        Column {
            name: "key",
            shown: |finding| output::plain(&finding["key"]),
            plain: |finding| output::plain(&finding["key"]),
        },
        Column {
            name: "what",
            shown: |finding| output::plain(&finding["text"]),
            plain: |finding| output::plain(&finding["text"]),
        },
    ];
    let loaded = Config::examine(file);
    let findings: Vec<Value> = loaded
        .findings
        .iter()
        .map(|finding| {
            json!({ "level": level(finding), "place": finding.place, "key": finding.key, "text": finding.text })
        })
        .collect();
    match args.output.or(Format::Ndjson) {
        Format::Table if findings.is_empty() => {}
        format => output::list(&findings, &COLUMNS, format)?,
    }
    let errors = loaded.errors().count();
    if errors == 0 {
        eprintln!("the configuration is usable");
        return Ok(ExitCode::SUCCESS);
    }
    let text = match errors {
        1 => "the configuration has 1 error".to_owned(),
        _ => format!("the configuration has {errors} errors"),
    };
    Err(Ended::new(Ended::CONFIGURATION, text).into())
}

fn show(args: &ShowArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    const COLUMNS: [Column; 3] = [
        Column {
            name: "key",
            shown: |row| output::plain(&row["key"]),
            plain: |row| output::plain(&row["key"]),
        },
        Column {
            name: "value",
            shown: |row| readable(&row["value"]),
            plain: |row| output::plain(&row["value"]),
        },
        Column {
            name: "from",
            shown: |row| output::plain(&row["from"]),
            plain: |row| output::plain(&row["from"]),
        },
    ];
    let loaded = Config::examine(file);
    let mut values = serde_json::to_value(&loaded.config)?;
    without_logins(&mut values);
    let format = args.output.or(Format::Json);
    if format == Format::Json {
        output::print(&(serde_json::to_string_pretty(&values)? + "\n"))?;
    } else {
        let mut rows = Vec::new();
        leaves("", &values, &mut |key, value| {
            let from = loaded.origins.get(key).map_or("default", String::as_str);
            rows.push(json!({ "key": key, "value": value, "from": from }));
        });
        output::list(&rows, &COLUMNS, format)?;
    }
    for finding in &loaded.findings {
        eprintln!("{}: {finding}", level(finding));
    }
    if loaded.errors().next().is_some() {
        let text = "the configuration is not usable: what is wrong is shown with its default";
        return Err(Ended::new(Ended::CONFIGURATION, text).into());
    }
    Ok(ExitCode::SUCCESS)
}

fn leaves(prefix: &str, value: &Value, leaf: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let key = if prefix.is_empty() {
                    name.clone()
                } else {
                    format!("{prefix}.{name}")
                };
                leaves(&key, inner, leaf);
            }
        }
        other => leaf(prefix, other),
    }
}

/// An address may carry a password.
fn without_logins(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Ok(mut url) = url::Url::parse(text)
                && url.password().is_some()
                && url.set_password(Some("hidden")).is_ok()
            {
                *text = url.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_logins),
        Value::Object(fields) => fields.values_mut().for_each(without_logins),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Durations as people write them.
fn readable(value: &Value) -> String {
    match value {
        Value::String(text) => match text.parse::<jiff::SignedDuration>() {
            Ok(duration) if text.starts_with('P') => format!("{duration:#}"),
            _ => text.clone(),
        },
        Value::Array(items) => items.iter().map(readable).collect::<Vec<_>>().join(", "),
        other => output::plain(other),
    }
}
