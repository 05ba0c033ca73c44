//! Is everything as it should be, and if not, what is to be done? Looks at the configuration, the database, the bus and the
//! addresses, and changes nothing: whatever it publishes is refused where it arrives.

mod addresses;
mod database;
mod nats;

use std::{path::Path, process::ExitCode, time::Duration};

use clap::Args;
pub(crate) use database::sentence;
use kassa_chassis::config::Config;
use serde::Serialize;
use serde_json::json;

use crate::{
    exit::Ended,
    orders::duration,
    output::{self, Format, Output},
};

/// For one server to say anything at all.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Clocks that differ by more turn deadlines and expiries into guesses.
const SKEW_MS_MAX: i64 = 2_000;

/// Looks for what is wrong, and says why it matters and what to do; ends with 1 if something is wrong.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa doctor
  kassa --config /etc/kassa.toml doctor --format json | jq '.findings[] | .remedy'
  kassa doctor --lag-max 5s")]
pub(crate) struct DoctorArgs {
    /// How long a stored event may wait to be published or projected.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    lag_max: Duration,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Level {
    Wrong,
    Warning,
    Ok,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    level: Level,
    area: &'static str,
    what: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn wrong(
        &mut self,
        area: &'static str,
        what: impl Into<String>,
        why: &'static str,
        remedy: impl Into<String>,
    ) {
        self.push(Level::Wrong, area, what.into(), why, remedy.into());
    }

    fn warning(
        &mut self,
        area: &'static str,
        what: impl Into<String>,
        why: &'static str,
        remedy: impl Into<String>,
    ) {
        self.push(Level::Warning, area, what.into(), why, remedy.into());
    }

    fn ok(&mut self, area: &'static str, what: impl Into<String>) {
        self.push(Level::Ok, area, what.into(), "", String::new());
    }

    fn push(&mut self, level: Level, area: &'static str, what: String, why: &'static str, remedy: String) {
        self.0.push(Finding {
            level,
            area,
            what,
            why,
            remedy,
        });
    }

    /// A clock against ours, both in milliseconds, read within `spread`.
    fn clock(&mut self, whose: &str, theirs_ms: i64, ours_ms: i64, spread: Duration) {
        let slack = SKEW_MS_MAX + i64::try_from(spread.as_millis()).unwrap_or(0);
        let off = theirs_ms - ours_ms;
        if off.abs() > slack {
            self.wrong(
                "clock",
                format!("the clock of {whose} is {off} ms from this machine's"),
                "deadlines of calls, expiries and the times of events come from different clocks",
                "let NTP set both: timedatectl set-ntp true",
            );
        } else {
            self.ok(
                "clock",
                format!("{whose} and this machine agree to {SKEW_MS_MAX} ms"),
            );
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this machine's own clock is what is compared"
)]
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

pub(crate) async fn run(args: &DoctorArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let loaded = Config::examine(file);
    let mut findings = Findings::default();
    for finding in &loaded.findings {
        let remedy = "kassa config check says it again, with line and key, once it is changed";
        let why = "no role starts with a configuration that is not usable";
        if finding.is_error {
            findings.wrong("configuration", finding.to_string(), why, remedy);
        } else {
            findings.warning(
                "configuration",
                finding.to_string(),
                "what is not used misleads whoever reads it",
                remedy,
            );
        }
    }
    if loaded.errors().next().is_none() {
        findings.ok("configuration", "usable");
    }
    let log = database::examine(&loaded.config, args.lag_max, &mut findings).await;
    nats::examine(&loaded.config, log.as_ref(), args.lag_max, &mut findings).await;
    addresses::examine(&loaded.config, &mut findings).await;

    print(&findings, args.output.or(Format::Json))?;
    let wrong = findings
        .0
        .iter()
        .filter(|finding| finding.level == Level::Wrong)
        .count();
    if wrong == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let things = if wrong == 1 { "thing is" } else { "things are" };
    Err(Ended::new(Ended::REFUSED, format!("{wrong} {things} wrong")).into())
}

fn print(findings: &Findings, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => {
            let ok = findings.0.iter().all(|finding| finding.level != Level::Wrong);
            let document = json!({ "ok": ok, "findings": findings.0 });
            output::print(&(serde_json::to_string_pretty(&document)? + "\n"))
        }
        Format::Ndjson | Format::Csv => {
            let mut text = String::new();
            for finding in &findings.0 {
                text.push_str(&(serde_json::to_string(finding)? + "\n"));
            }
            output::print(&text)
        }
        Format::Table => {
            let mut text = String::new();
            for finding in &findings.0 {
                let level = match finding.level {
                    Level::Wrong => "WRONG",
                    Level::Warning => "warning",
                    Level::Ok => "ok",
                };
                let what = output::printable(&finding.what);
                text.push_str(&format!("{level:8} {:14} {what}\n", finding.area));
                if !finding.why.is_empty() {
                    text.push_str(&format!("{:24}why:    {}\n", "", finding.why));
                }
                if !finding.remedy.is_empty() {
                    text.push_str(&format!(
                        "{:24}remedy: {}\n",
                        "",
                        output::printable(&finding.remedy)
                    ));
                }
            }
            output::print(&text)
        }
    }
}
