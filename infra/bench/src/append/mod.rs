//! How many decisions a second are made durable? The machine's limit, `postgres-es` and our store, in turns on one
//! PostgreSQL, so that the machine's moods hit all alike.

mod figures;
mod ours;
mod raw;
mod slice;
mod strangers;
mod work;

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use kassa_harness::args::between;
use kassa_infra::{
    run::{RunFolder, cache_dir},
    servers::{Postgres, PostgresOptions},
};
use tokio_postgres::{Client, NoTls};

use self::{
    figures::{Figures, Level, Turns},
    ours::Ours,
    raw::{Raw, What},
    slice::{Slice, Window},
    strangers::Strangers,
};
use crate::{
    machine,
    report::{Format, progress},
};

/// The append: the machine's limit, postgres-es and ours, on one PostgreSQL.
#[derive(Debug, Args)]
#[command(
    allow_negative_numbers = true,
    after_help = "Examples:
  kassa bench append
  kassa bench append --concurrency 64,512 --seconds 10 --format json
  kassa bench append --svg append.svg"
)]
pub struct AppendArgs {
    /// Commands under way at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512", value_name = "N,…", value_parser = between(1, CALLERS_MAX, "commands at once"))]
    concurrency: Vec<usize>,
    /// How long each contestant is measured at each of them, in three turns.
    #[arg(long, default_value_t = 4, value_parser = between(1_u64, 600, "seconds"))]
    seconds: u64,
    /// Parts of the log; each is written on a connection of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,4", value_name = "N,…", value_parser = between(1, PARTS_MAX, "parts"))]
    parts: Vec<usize>,
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// A chart of the commands a second.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// The median of three is not moved by one that was disturbed.
const TURNS: u32 = 3;
/// Connections that are tried for `postgres-es`; ten is its own default.
const POOLS: [u32; 4] = [4, 10, 24, 64];
/// More than a machine opens at once, and more than one part a connection makes sense for.
const PARTS_MAX: usize = 64;
const CALLERS_MAX: usize = 4_000;

pub(crate) async fn run(args: &AppendArgs) -> anyhow::Result<ExitCode> {
    // Before anything is measured: a chart that cannot be written is not worth minutes.
    let chart = args.svg.as_deref().map(Chart::create).transpose()?;
    let cache = cache_dir();
    let folder = RunFolder::new(&cache).context("the folder of this run")?;
    let options = PostgresOptions {
        dir: folder.path().join("pg"),
        bin_dir: None,
        cache_dir: cache,
    };
    // Starting and stopping block, and nothing else runs meanwhile.
    let server = Postgres::start(&options)?;
    let figures = measure(args, &server, folder.path()).await;
    drop(server);
    let mut figures = figures?;
    figures.print(args.format)?;
    if let Some(chart) = chart {
        chart.draw(&figures)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A file that can be written.
struct Chart<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Chart<'a> {
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        // What is there already stays until there is something to be put in its place.
        let file = File::options().create(true).append(true).open(path);
        let file = file.with_context(|| format!("--svg: {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn draw(mut self, figures: &Figures) -> anyhow::Result<()> {
        let drawn = self
            .file
            .set_len(0)
            .and_then(|()| self.file.write_all(figures.svg().as_bytes()));
        drawn.with_context(|| format!("--svg: {}", self.path.display()))
    }
}

async fn measure(args: &AppendArgs, server: &Postgres, folder: &Path) -> anyhow::Result<Figures> {
    let mut figures = Figures::new(server.origin());
    for (n, &callers) in args.concurrency.iter().enumerate() {
        progress(&format!("{callers} at once …"));
        let databases = Databases { server, level: n };
        let level = level(args, &databases, callers).await?;
        figures.levels.push(level);
        // Beside the others' turns, not at the quiet end of the run.
        let flushes = machine::flushes(folder, Duration::from_millis(400)).context("the flush probe")?;
        figures.flushes.append(flushes);
    }
    Ok(figures)
}

enum Contestant {
    Raw(Raw),
    Strangers(Strangers),
    Ours(Ours),
}

impl Contestant {
    async fn slice(&mut self, callers: usize, time: Duration) -> anyhow::Result<Slice> {
        let window = Window::of(time);
        match self {
            Self::Raw(raw) => raw.slice(callers, window).await,
            Self::Strangers(strangers) => strangers.slice(callers, window).await,
            Self::Ours(ours) => ours.slice(callers, window).await,
        }
    }
}

/// All contestants at one concurrency, in turns, on tables that were empty before.
async fn level(args: &AppendArgs, databases: &Databases<'_>, callers: usize) -> anyhow::Result<Level> {
    let mut field = Vec::new();
    let mut strangers = Strangers::new(databases.make("postgres_es").await?, POOLS[0]).await?;
    calibrate(&mut strangers, callers).await?;
    let pool = strangers.pool();
    field.push((
        Turns::new("postgres-es", 1).pool(pool),
        Contestant::Strangers(strangers),
    ));
    for &parts in &args.parts {
        let database = databases.make(&format!("raw_{parts}")).await?;
        let raw = Raw::new(&database, parts, What::All).await?;
        field.push((Turns::new("raw limit", parts), Contestant::Raw(raw)));
        let database = databases.make(&format!("ours_{parts}")).await?;
        let ours = Ours::new(database, parts).await?;
        field.push((Turns::new("kassa", parts), Contestant::Ours(ours)));
    }
    if Some(&callers) == args.concurrency.iter().max() {
        let database = databases.make("raw_events").await?;
        let raw = Raw::new(&database, 1, What::EventsAlone).await?;
        field.push((Turns::new("raw, events alone", 1), Contestant::Raw(raw)));
    }
    let time = Duration::from_secs(args.seconds) / TURNS;
    for _ in 0..TURNS {
        for (turns, contestant) in &mut field {
            turns.add(contestant.slice(callers, time).await?);
        }
    }
    let mut checked = 0;
    let mut measured = Vec::new();
    for (turns, contestant) in field {
        if let Contestant::Ours(ours) = &contestant {
            checked += ours.check().await?;
        }
        measured.push(turns);
    }
    databases.drop_all().await?;
    Ok(Level {
        callers,
        contestants: measured,
        checked,
    })
}

/// Finds the pool with which `postgres-es` is fastest at that many callers.
async fn calibrate(strangers: &mut Strangers, callers: usize) -> anyhow::Result<()> {
    let mut best = (0, POOLS[0]);
    if callers > 1 {
        for pool in POOLS {
            strangers.resize(pool).await?;
            let slice = strangers.slice(callers, Window::of(ours::PROBE)).await?;
            best = best.max((slice.per_second, pool));
        }
    }
    strangers.resize(best.1).await
}

/// A database a contestant and level.
struct Databases<'s> {
    server: &'s Postgres,
    level: usize,
}

impl Databases<'_> {
    async fn make(&self, name: &str) -> anyhow::Result<String> {
        let name = format!("{name}_{}", self.level);
        let admin = connect(&self.server.url("postgres")).await?;
        admin
            .batch_execute(&format!("CREATE DATABASE bench_{name}"))
            .await?;
        Ok(self.server.url(&format!("bench_{name}")))
    }

    /// So that the next level begins with as little on disk, and no checkpoint due.
    async fn drop_all(&self) -> anyhow::Result<()> {
        let admin = connect(&self.server.url("postgres")).await?;
        let made = admin
            .query("SELECT datname FROM pg_database WHERE datname LIKE 'bench%'", &[])
            .await?;
        for row in made {
            let name: String = row.get(0);
            admin
                .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .await?;
        }
        admin.batch_execute("CHECKPOINT").await?;
        Ok(())
    }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Our schema, with so many parts.
async fn migrated(url: &str, parts: usize) -> anyhow::Result<()> {
    let mut client = connect(url).await?;
    kassa_migrations::migrate(&mut client).await?;
    kassa_migrations::add_parts(&mut client, i32::try_from(parts)?).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_that_cannot_be_written_is_refused_before_anything_is_measured() {
        let folder = tempfile::tempdir().expect("a folder");
        let nowhere = folder.path().join("no/such/chart.svg");
        let refused = Chart::create(&nowhere).err().expect("there is no such folder");
        assert!(format!("{refused:#}").contains("--svg"), "{refused:#}");
        let path = folder.path().join("chart.svg");
        std::fs::write(&path, "an older and longer one").expect("it is written");
        let chart = Chart::create(&path).expect("it can be written");
        let figures = Figures::new("a server".to_owned());
        chart.draw(&figures).expect("it is drawn");
        let drawn = std::fs::read_to_string(&path).expect("it is there");
        assert_eq!(drawn, figures.svg());
    }
}
