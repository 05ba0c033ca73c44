//! How many decisions a second are made durable? The machine's limit, `postgres-es` and our store, in turns on one
//! PostgreSQL, so that the machine's moods hit all alike.

mod figures;
mod ours;
mod raw;
mod slice;
mod strangers;
mod work;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Args;
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
#[command(after_help = "Examples:
  kassa bench append
  kassa bench append --concurrency 64,512 --seconds 10 --format json
  kassa bench append --svg append.svg")]
pub struct AppendArgs {
    /// Commands under way at once.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,512", value_name = "N,…")]
    concurrency: Vec<usize>,
    /// How long each contestant is measured at each of them, in three turns.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Parts of the log; each is written on a connection of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,4", value_name = "N,…")]
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
    anyhow::ensure!(
        args.parts.iter().all(|parts| (1..=PARTS_MAX).contains(parts)),
        "--parts: between 1 and {PARTS_MAX}"
    );
    anyhow::ensure!(
        args.concurrency
            .iter()
            .all(|callers| (1..=CALLERS_MAX).contains(callers)),
        "--concurrency: between 1 and {CALLERS_MAX}"
    );
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
    if let Some(path) = &args.svg {
        std::fs::write(path, figures.svg()).with_context(|| format!("--svg: {}", path.display()))?;
    }
    figures.print(args.format)?;
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &AppendArgs, server: &Postgres, folder: &std::path::Path) -> anyhow::Result<Figures> {
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
