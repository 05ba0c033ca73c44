//! How does a store come to hold as many orders as after years, within a minute? One order is paid by the engine, and its
//! rows are copied in binary as often as asked, under other names: every event decodes, every id is the derived one, and
//! the read models hold what a rebuild makes of the log. Only the fingerprints of the shop's commands are the first order's.

mod desk;
mod index;
mod template;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::{BufMut as _, BytesMut};
use futures::SinkExt as _;
use kassa_infra::{
    run::{RunFolder, cache_dir},
    servers::{Postgres, PostgresOptions},
};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

pub(crate) use desk::{Desk, Names, SHOP};
pub(crate) use template::Template;

use template::{HEADER, TRAILER, Words};

const DATABASE: &str = "kassa";
/// Orders whose payments are under way at once: their events stand among each other, as in a busy minute.
const AT_ONCE: u64 = 100;
/// From one of those minutes to the next.
const MINUTE_MICROS: i64 = 60_000_000;
/// Bytes in one message to the server.
const CHUNK: usize = 256 * 1024;
/// From so many orders on it pays to make the indexes anew.
const MANY: u64 = 20_000;

/// What there is now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) orders: u64,
    pub(crate) events: i64,
    pub(crate) took: Duration,
}

/// The reference of the `n`-th order; all are of one length.
pub(crate) fn reference(n: u64) -> String {
    format!("bench-{n:09}")
}

/// A connection as the database's owner.
pub(crate) async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("the private PostgreSQL cannot be reached")?;
    tokio::spawn(connection);
    Ok(client)
}

/// Pays one order in a database of its own, on the server of the database `kassa` that `url` names, and takes its rows.
pub(crate) async fn template(url: &str) -> anyhow::Result<Template> {
    const OWN: &str = "bench_template";
    let admin = connect(url).await?;
    admin.batch_execute(&format!("CREATE DATABASE {OWN}")).await?;
    let own = url.replacen(&format!("///{DATABASE}?"), &format!("///{OWN}?"), 1);
    anyhow::ensure!(
        own != url,
        "the private server's address names its database as known"
    );
    let url = own;
    let mut client = connect(&url).await?;
    kassa_migrations::migrate(&mut client).await?;
    let desk = Desk::open(&url).await?;
    let names = desk.names(reference(0));
    desk.pay(&names).await?;
    // As `cm-notifications` keeps it.
    client
        .execute(
            "INSERT INTO notifications VALUES ($1, $2, 'known', clock_timestamp(), clock_timestamp(), 1)",
            &[&SHOP, &names.reference],
        )
        .await?;
    for projection in kassa_read_models::PROJECTIONS {
        let stop = CancellationToken::new();
        kassa_read_models::rebuild(desk.store(), projection, &stop, &mut |_| {}).await?;
    }
    // The serving generation of a new database is the first.
    client
        .batch_execute(
            "UPDATE read_orders_all SET generation = 1; UPDATE read_shipping_all SET generation = 1",
        )
        .await?;
    Template::of(&client, &names).await
}

/// Stores the orders `from..to` at the end of a log that nobody else writes to.
pub(crate) async fn fill(url: &str, template: &Template, from: u64, to: u64) -> anyhow::Result<Filled> {
    let began = Instant::now();
    let client = connect(url).await?;
    let head: i64 = client
        .query_one("SELECT position FROM log_head WHERE part = 0", &[])
        .await?
        .get(0);
    let dropped = match to - from {
        0..MANY => vec![],
        _ => index::drop_all(&client, template.tables.iter().map(|table| table.name)).await?,
    };
    // The log on one connection, everything else on another: there are two processors at least.
    let beside = connect(url).await?;
    let (log, rest): (Vec<usize>, Vec<usize>) =
        (0..template.tables.len()).partition(|table| template.tables[*table].name == "events");
    let copy = async |client: &Client, tables: &[usize]| -> anyhow::Result<()> {
        for table in tables {
            copy_table(client, template, *table, head, from, to).await?;
        }
        Ok(())
    };
    tokio::try_join!(copy(&client, &log), copy(&beside, &rest))?;
    index::make_all(&client, &beside, &dropped).await?;
    let events = template.events() * i64::try_from(to - from)?;
    let head = head + events;
    client
        .execute("UPDATE log_head SET position = $1 WHERE part = 0", &[&head])
        .await?;
    client
        .execute("UPDATE projections SET position = $1 WHERE part = 0", &[&head])
        .await?;
    client
        .execute(
            "INSERT INTO work_marks VALUES ('cm-gateway', 0, $1)
             ON CONFLICT (worker, part) DO UPDATE SET position = excluded.position",
            &[&head],
        )
        .await?;
    // As after years: what autovacuum has done by then.
    client.batch_execute("VACUUM (ANALYZE)").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(Filled {
        orders: to,
        events: head,
        took: began.elapsed(),
    })
}

async fn copy_table(
    client: &Client,
    template: &Template,
    table: usize,
    head: i64,
    from: u64,
    to: u64,
) -> anyhow::Result<()> {
    let table = &template.tables[table];
    let shop = template::shop()?;
    let sql = format!(
        "COPY {} ({}) FROM STDIN (FORMAT binary)",
        table.name, table.columns
    );
    let mut sink = std::pin::pin!(client.copy_in(&sql).await?);
    let mut out = BytesMut::with_capacity(CHUNK * 2);
    out.put_slice(HEADER);
    let mut base = head;
    let mut first = from;
    while first < to {
        let orders = AT_ONCE.min(to - first);
        let at_once = i64::try_from(orders)?;
        // In the past, so that what is stored from now on is the newest.
        let later = (i64::try_from(first)? - i64::try_from(to)?) / i64::try_from(AT_ONCE)? * MINUTE_MICROS
            - MINUTE_MICROS;
        let place = |nth: i64, position: i64| {
            let (mut before, mut own) = (0, 0);
            for events in &template.steps {
                if position <= own + events {
                    return base + before + nth * events + (position - own);
                }
                own += events;
                before += events * at_once;
            }
            base + before
        };
        let words: Vec<Words> = (0..orders)
            .zip(0_i64..)
            .map(|(n, nth)| {
                let names = Names::new(&shop, reference(first + n));
                template.words(&names, later, place(nth, template.events()))
            })
            .collect();
        for step in 0..template.steps.len() {
            for (words, nth) in words.iter().zip(0_i64..) {
                for (_, fields) in table.rows.iter().filter(|(at, _)| *at == step) {
                    out.put_i16(i16::try_from(fields.len())?);
                    for field in fields {
                        field.put(&mut out, words, later, |position| place(nth, position));
                    }
                }
                if out.len() >= CHUNK {
                    sink.send(out.split().freeze()).await?;
                }
            }
        }
        base += template.events() * at_once;
        first += orders;
    }
    out.put_slice(TRAILER);
    sink.send(out.freeze()).await?;
    sink.finish().await?;
    Ok(())
}

/// A server, a database and a template on it, in a folder that goes with them.
#[derive(Debug)]
pub(crate) struct Bench {
    _postgres: Postgres,
    pub(crate) url: String,
    pub(crate) template: Template,
    _folder: RunFolder,
}

impl Bench {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let cache_dir = cache_dir();
        let folder = RunFolder::new(&cache_dir)?;
        let postgres = Postgres::start(&PostgresOptions {
            dir: folder.path().join("pg"),
            bin_dir: None,
            cache_dir,
        })?;
        connect(&postgres.url("postgres"))
            .await?
            .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
            .await?;
        let url = postgres.url(DATABASE);
        let template = template(&url).await?;
        kassa_migrations::migrate(&mut connect(&url).await?).await?;
        Ok(Self {
            _postgres: postgres,
            url,
            template,
            _folder: folder,
        })
    }

    /// As many orders as hold about so many events.
    pub(crate) async fn fill_events(&self, events: u64) -> anyhow::Result<Filled> {
        let orders = events / u64::try_from(self.template.events())?.max(1);
        fill(&self.url, &self.template, 0, orders.max(1)).await
    }
}

#[cfg(test)]
mod tests;
