//! What is asked on the command line of a run with faults?

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};

use crate::{
    args::between,
    fault::{self, NONE},
    run::Asked,
    shipment::{self, ShipmentArgs},
    sweep::{SWEPT, Sweep},
    verdict::Verdict,
};

/// Runs seeded payments on private servers, with seeded faults, and verifies what is left.
///
/// Every role is a process of its own, twice. The same orders are then played without faults: both must end in the same
/// state. Exit code 1 where an invariant of severity S1 or S2 is violated or was held against nothing, a process broke, an
/// order ends differently, or no fault did anything; the folder with the exports, the logs and the schedule is kept then.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    allow_negative_numbers = true,
    after_help = "Examples:
  kassa chaos --minutes 20 --seed 7
  kassa chaos --minutes 0.5 --seed 7 --only kill
  kassa chaos --sweep --role relay"
)]
pub struct ChaosArgs {
    /// How long payments are made and faults injected; 0.5 is half a minute.
    #[arg(long, default_value = "2", value_name = "M", value_parser = minutes)]
    pub minutes: Minutes,
    /// The same seed, the same payments and faults.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,
    /// How many orders come in a minute.
    #[arg(long, default_value_t = 150, value_name = "N", value_parser = between(1_u64, 6_000, "orders a minute"))]
    pub per_minute: u64,
    /// A fault so many seconds after the other, in the mean.
    #[arg(long, default_value_t = 12, value_name = "SECONDS", value_parser = between(1_u64, 3_600, "seconds"))]
    pub every: u64,
    /// Only faults whose name begins so, or none; --help lists them.
    #[arg(long, value_name = "KIND", value_parser = only, long_help = only_in_full())]
    pub only: Option<String>,
    /// Does not play the same orders without faults.
    #[arg(long)]
    pub alone: bool,
    /// Keeps the folder of a run in which nothing is wrong, too.
    #[arg(long)]
    pub keep: bool,
    /// Instead: kills each process at its 1st, 2nd, 3rd … write until one payment is through.
    #[arg(long, conflicts_with_all = ["minutes", "per_minute", "every", "only", "alone"])]
    pub sweep: bool,
    /// Sweeps this process only.
    #[arg(long, requires = "sweep", value_name = "ROLE", value_parser = clap::builder::PossibleValuesParser::new(SWEPT))]
    pub role: Option<String>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// Processes of a run that are no services.
#[derive(Debug, Subcommand)]
enum Part {
    /// The shop's shipment service of a run.
    #[command(
        hide = true,
        after_help = "Examples:
  kassa chaos shipment-service --database-url URL --nats-url URL
  kassa chaos shipment-service --database-url URL --nats-url URL --durable other
  KASSA_NATS_PASSWORD=x kassa chaos shipment-service --database-url URL --nats-url URL"
    )]
    ShipmentService(ShipmentArgs),
}

/// A length of time, and how it was typed: another spelling may be another length.
#[derive(Debug, Clone)]
pub struct Minutes {
    typed: String,
    lasts: Duration,
}

/// A tenth of a minute to a day.
fn minutes(text: &str) -> Result<Minutes, String> {
    let minutes = between(0.1, 1_440.0, "minutes")(text)?;
    #[expect(clippy::float_arithmetic, reason = "a length of time, typed by a person")]
    let lasts = Duration::try_from_secs_f64(minutes * 60.0).map_err(|error| error.to_string())?;
    Ok(Minutes {
        typed: text.to_owned(),
        lasts,
    })
}

/// The beginning of a kind's name. A run of a kind that there is not would be one without faults.
fn only(text: &str) -> Result<String, String> {
    let known = !text.is_empty() && fault::kinds().iter().any(|kind| kind.name.starts_with(text));
    if known || text == NONE {
        Ok(text.to_owned())
    } else {
        Err(format!("there are {}", kinds()))
    }
}

fn only_in_full() -> String {
    format!(
        "Only faults whose name begins so: {}. Clocks go wrong where the seed is even, or where nothing else is asked for",
        kinds()
    )
}

fn kinds() -> String {
    let names: Vec<&str> = fault::kinds().iter().map(|kind| kind.name).collect();
    format!("{}, and {NONE} for a run without any", names.join(", "))
}

/// Runs it; `exe` is the binary whose `serve` starts a role.
///
/// # Errors
/// What keeps it from running at all.
pub async fn run(args: &ChaosArgs, exe: PathBuf) -> anyhow::Result<ExitCode> {
    if let Some(Part::ShipmentService(args)) = &args.part {
        shipment::run(args).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let cache_dir = kassa_infra::run::cache_dir();
    if args.sweep {
        return swept(args, exe, cache_dir).await;
    }
    let kept = Kept::new(&cache_dir, args.seed)?;
    let asked = Asked {
        exe,
        folder: kept.folder.clone(),
        cache_dir,
        seed: args.seed,
        lasts: args.minutes.lasts,
        payments_per_minute: args.per_minute,
        fault_every: Duration::from_secs(args.every),
        only: args.only.clone().unwrap_or_default(),
        doubled: true,
    };
    let verdict = both(&asked, !args.alone, &mut |text: &str| eprintln!("{text}")).await;
    let good = verdict.as_ref().is_ok_and(Verdict::good);
    kept.end(good && !args.keep)?;
    if !good {
        eprintln!("again      {}", again(args));
    }
    println!("{}", verdict?.told().trim_end());
    Ok(ExitCode::from(u8::from(!good)))
}

/// Sweeps, and keeps the folder where a payment did not end well.
async fn swept(args: &ChaosArgs, exe: PathBuf, cache_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let kept = Kept::new(&cache_dir, args.seed)?;
    let sweep = Sweep {
        exe,
        folder: kept.folder.clone(),
        cache_dir,
        roles: args
            .role
            .clone()
            .map_or_else(|| SWEPT.map(str::to_owned).to_vec(), |role| vec![role]),
        first: 1,
        step: 1,
        budget: None,
    };
    let swept = sweep.run(|line| eprintln!("{line}")).await;
    // One that killed nobody has proven nothing.
    let good = swept
        .as_ref()
        .is_ok_and(|swept| swept.failures.is_empty() && swept.kills > 0);
    kept.end(good && !args.keep)?;
    if !good {
        eprintln!("again      {}", again(args));
    }
    let swept = swept?;
    println!("kills      {}", swept.kills);
    for (role, n) in &swept.complete {
        println!("complete   {role}: a payment is through before write {n}");
    }
    for failure in &swept.failures {
        println!("WRONG      {failure}");
    }
    Ok(ExitCode::from(u8::from(!good)))
}

/// With faults, and then the same without.
///
/// # Errors
/// When one of the two cannot be brought to its end.
pub async fn both(asked: &Asked, compare: bool, say: &mut dyn FnMut(&str)) -> anyhow::Result<Verdict> {
    say(&format!("seed {}: with faults", asked.seed));
    let with = asked.faulty(say).await?;
    let without = if compare {
        say("the same orders without faults");
        Some(asked.faultless(say).await?)
    } else {
        None
    };
    Verdict::of(&with, without.as_ref(), &asked.folder)
}

/// The one command that repeats it.
fn again(args: &ChaosArgs) -> String {
    let mut words = vec!["kassa chaos".to_owned()];
    if args.sweep {
        words.push("--sweep".to_owned());
        words.extend(args.role.iter().map(|role| format!("--role {role}")));
        return words.join(" ");
    }
    words.push(format!("--minutes {}", args.minutes.typed));
    words.push(format!("--seed {}", args.seed));
    words.push(format!("--per-minute {}", args.per_minute));
    words.push(format!("--every {}", args.every));
    words.extend(args.only.iter().map(|only| format!("--only {only}")));
    words.extend(args.alone.then(|| "--alone".to_owned()));
    words.join(" ")
}

/// The folder of a run. Who ends before the run does, as by Ctrl-C, leaves it and is told where.
#[derive(Debug)]
struct Kept {
    folder: PathBuf,
    told: bool,
}

impl Kept {
    fn new(cache_dir: &Path, seed: u64) -> anyhow::Result<Self> {
        Ok(Self {
            folder: folder(cache_dir, seed)?,
            told: false,
        })
    }

    fn end(mut self, unwanted: bool) -> anyhow::Result<()> {
        self.told = true;
        if unwanted {
            return Ok(std::fs::remove_dir_all(&self.folder)?);
        }
        keep(&self.folder)?;
        eprintln!("kept       {}", self.folder.display());
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if !self.told {
            // Where even this fails, the next run removes it.
            let _ = keep(&self.folder);
            eprintln!("kept       {}", self.folder.display());
        }
    }
}

/// Found by the next run, which removes those that nobody wanted kept.
const KEPT: &str = "KEPT";

fn keep(folder: &Path) -> anyhow::Result<()> {
    // A sweep has one installation, in the folder itself.
    for part in ["with", "without", "."] {
        for data in ["pg", "nats", "simulator"] {
            // Large, and not what a person reads; the servers' logs go with it.
            let data = folder.join(part).join(data);
            for log in ["postgres.log", "nats.log"] {
                let _ = std::fs::copy(data.join(log), folder.join(part).join(log));
            }
            let _ = std::fs::remove_dir_all(data);
        }
    }
    Ok(std::fs::write(folder.join(KEPT), "")?)
}

/// A folder for this run. Those of runs that were killed are removed.
fn folder(cache_dir: &Path, seed: u64) -> anyhow::Result<PathBuf> {
    let runs = cache_dir.join("chaos");
    std::fs::create_dir_all(&runs)?;
    for entry in std::fs::read_dir(&runs)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let gone = name
            .rsplit('-')
            .next()
            .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if gone && !entry.path().join(KEPT).exists() {
            // Another run may be removing it, too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let folder = runs.join(format!("seed-{seed}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ChaosArgs,
    }

    fn parsed(words: &[&str]) -> Result<ChaosArgs, String> {
        let line = Line::try_parse_from([&["chaos"][..], words].concat());
        line.map(|line| line.args).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn the_command_that_repeats_a_run_is_that_of_the_run() {
        for line in [
            "--minutes 0.333 --seed 7 --per-minute 60 --every 3 --only kill --alone",
            "--minutes 20 --seed 1 --per-minute 150 --every 12",
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            let args = parsed(&words).expect("it is understood");
            assert_eq!(again(&args), format!("kassa chaos {line}"));
        }
        let swept = parsed(&["--sweep", "--role", "relay"]).expect("it is understood");
        assert_eq!(again(&swept), "kassa chaos --sweep --role relay");
    }

    #[test]
    fn a_kind_that_there_is_not_is_refused_with_those_that_there_are() {
        let refused = parsed(&["--only", "nonsense"]).expect_err("there is no such kind");
        assert!(
            refused.contains("stop-cont") && refused.contains("cm-answer-lost"),
            "{refused}"
        );
        let line = <Line as clap::CommandFactory>::command()
            .render_long_help()
            .to_string();
        for kind in fault::kinds() {
            assert!(parsed(&["--only", kind.name]).is_ok() && refused.contains(kind.name));
            assert!(line.contains(kind.name), "{line}");
        }
        assert!(parsed(&["--only", "cm-"]).is_ok() && parsed(&["--only", NONE]).is_ok());
        assert!(parsed(&["--only", ""]).is_err());
    }

    #[test]
    fn what_is_out_of_range_is_told_name_value_range_and_unit() {
        for (words, wanted) in [
            (["--minutes", "0"], "0.1 to 1440 minutes"),
            (["--minutes", "-3"], "0.1 to 1440 minutes"),
            (["--every", "-3"], "1 to 3600 seconds"),
        ] {
            let refused = parsed(&words).expect_err("it is out of range");
            for part in [words[0], format!("'{}'", words[1]).as_str(), wanted] {
                assert!(refused.contains(part), "{refused}");
            }
        }
    }
}
