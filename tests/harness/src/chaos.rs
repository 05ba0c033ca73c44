//! What is asked on the command line of a run with faults?

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};

use crate::{
    run::Asked,
    shipment::{self, ShipmentArgs},
    sweep::{SWEPT, Sweep},
    verdict::Verdict,
};

/// Runs seeded payments on private servers, with seeded faults, and verifies what is left.
///
/// Every role is a process of its own, twice. The same orders are then played without faults: both must end in the same
/// state. Exit code 1 where an invariant of severity S1 or S2 is violated, or an order ends differently; the folder with the
/// exports, the logs and the schedule is kept then.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  kassa chaos --minutes 20 --seed 7
  kassa chaos --minutes 0.5 --seed 7 --only kill
  kassa chaos --sweep --role relay"
)]
pub struct ChaosArgs {
    /// How long payments are made and faults injected; 0.5 is half a minute.
    #[arg(long, default_value = "2", value_name = "M", value_parser = minutes)]
    pub minutes: Duration,
    /// The same seed, the same payments and faults.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,
    /// How many orders come in a minute.
    #[arg(long, default_value_t = 150, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=6_000))]
    pub per_minute: u64,
    /// A fault so many seconds after the other, in the mean.
    #[arg(long, default_value_t = 12, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub every: u64,
    /// Only faults whose name begins so.
    #[arg(long, default_value = "", value_name = "KIND")]
    pub only: String,
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

/// A tenth of a minute to a day.
fn minutes(text: &str) -> Result<Duration, String> {
    let wrong = || "0.1 to 1440".to_owned();
    let minutes: f64 = text.parse().map_err(|_| wrong())?;
    #[expect(clippy::float_arithmetic, reason = "a length of time, typed by a person")]
    let length = Duration::try_from_secs_f64(minutes * 60.0).map_err(|_| wrong())?;
    let fits = Duration::from_secs(6)..=Duration::from_secs(24 * 3_600);
    if fits.contains(&length) {
        Ok(length)
    } else {
        Err(wrong())
    }
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
    let asked = Asked {
        exe,
        folder: folder(&cache_dir, args.seed)?,
        cache_dir,
        seed: args.seed,
        lasts: args.minutes,
        payments_per_minute: args.per_minute,
        fault_every: Duration::from_secs(args.every),
        only: args.only.clone(),
        doubled: true,
    };
    let verdict = both(&asked, !args.alone, &mut |text: &str| eprintln!("{text}")).await;
    let good = verdict.as_ref().is_ok_and(Verdict::good);
    if good && !args.keep {
        std::fs::remove_dir_all(&asked.folder)?;
    } else {
        keep(&asked.folder)?;
        eprintln!("kept       {}", asked.folder.display());
    }
    if !good {
        eprintln!("again      {}", again(args));
    }
    println!("{}", verdict?.told().trim_end());
    Ok(ExitCode::from(u8::from(!good)))
}

/// Sweeps, and keeps the folder where a payment did not end well.
async fn swept(args: &ChaosArgs, exe: PathBuf, cache_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let sweep = Sweep {
        exe,
        folder: folder(&cache_dir, args.seed)?,
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
    let good = swept.as_ref().is_ok_and(|swept| swept.failures.is_empty());
    if good && !args.keep {
        std::fs::remove_dir_all(&sweep.folder)?;
    } else {
        keep(&sweep.folder)?;
        eprintln!("kept       {}", sweep.folder.display());
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
    let mut words = format!(
        "kassa chaos --minutes {} --seed {} --per-minute {} --every {}",
        decimal(args.minutes),
        args.seed,
        args.per_minute,
        args.every
    );
    if !args.only.is_empty() {
        words += &format!(" --only {}", args.only);
    }
    words
}

/// Minutes, with hundredths.
fn decimal(length: Duration) -> String {
    let hundredths = length.as_millis() / 600;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// Found by the next run, which removes those that nobody wanted kept.
const KEPT: &str = "KEPT";

fn keep(folder: &Path) -> anyhow::Result<()> {
    for part in ["with", "without"] {
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
