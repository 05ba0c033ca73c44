//! How does a run go: payments under faults, the end of everything, and what must hold then?

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep};
use tokio_postgres::NoTls;

use crate::{
    fault::{self, Targets},
    installation::{Access, End, Installation, Plan},
    quiet,
    schedule::{self, Planned, Went},
    workload::{Outcome, Progress, Workload},
};

/// A line about how far it is.
const TOLD_EVERY: Duration = Duration::from_secs(5);
/// Without faults payments come as fast as two cores serve them with room to spare, a second.
const FAULTLESS_RATE: u64 = 8;

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Asked {
    pub exe: PathBuf,
    pub cache_dir: PathBuf,
    /// Its own: made, and removed where nothing was found.
    pub folder: PathBuf,
    pub seed: u64,
    pub lasts: Duration,
    pub payments_per_minute: u64,
    /// A fault so often, in the mean.
    pub fault_every: Duration,
    /// Only kinds whose name begins so; empty: all.
    pub only: String,
    /// Two processes of every role.
    pub doubled: bool,
}

/// One installation, used and brought to its end.
#[derive(Debug)]
pub struct Ran {
    /// The export, with everything that the harness knows.
    pub export: PathBuf,
    pub outcome: Outcome,
    pub went: Vec<Went>,
}

impl Asked {
    fn orders(&self) -> u64 {
        (self.lasts.as_secs().max(1) * self.payments_per_minute / 60).max(1)
    }

    pub(crate) fn plan(&self, folder: &Path) -> Plan {
        let mut plan = Plan::new(self.exe.clone(), folder.to_owned(), self.cache_dir.clone());
        for name in ["ORDER_TTL", "ATTEMPT_TTL"] {
            plan.environment
                .push((format!("KASSA_CHECKOUT__{name}"), quiet::ORDER_TTL.to_owned()));
        }
        if self.doubled { plan.doubled() } else { plan }
    }

    /// The same orders without any fault, as fast as they are served.
    ///
    /// # Errors
    /// When it cannot be brought to its end.
    pub async fn faultless(&self, say: &mut dyn FnMut(&str)) -> anyhow::Result<Ran> {
        let folder = self.folder.join("without");
        let at = Installation::start(self.plan(&folder)).await?;
        let lasts = Duration::from_secs((self.orders() / FAULTLESS_RATE).max(1)).min(self.lasts);
        self.play(at, folder, lasts, Vec::new(), say).await
    }

    /// The orders, with faults.
    ///
    /// # Errors
    /// When it cannot be brought to its end.
    pub async fn faulty(&self, say: &mut dyn FnMut(&str)) -> anyhow::Result<Ran> {
        let folder = self.folder.join("with");
        let mut plan = self.plan(&folder);
        plan.wire = fault::wire();
        let at = Installation::start(plan).await?;
        let mut kinds = Vec::new();
        for kind in fault::kinds() {
            if !kind.name.starts_with(&self.only) {
                continue;
            }
            match (kind.absent)(&at) {
                None => kinds.push(kind),
                Some(why) => say(&format!("no {} here: {why}", kind.name)),
            }
        }
        let targets = Targets::of(&at);
        let planned = schedule::draw(self.seed, self.lasts, self.fault_every, &kinds, &targets);
        lines(&folder.join("schedule.ndjson"), planned.iter().map(Planned::row))?;
        self.play(at, folder, self.lasts, planned, say).await
    }

    async fn play(
        &self,
        mut at: Installation,
        folder: PathBuf,
        lasts: Duration,
        planned: Vec<Planned>,
        say: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Ran> {
        let export = folder.join("export");
        let answers = folder.join("answers.ndjson");
        let access = at.access().clone();
        let workload = Workload {
            seed: self.seed,
            orders: self.orders(),
            lasts,
        };
        let progress = Arc::new(Progress::default());
        let mut log = BufWriter::new(File::create(folder.join("run.log"))?);
        let began = Instant::now();
        let mut note = |text: &str| {
            // Beside the logs of the processes, whose times are the machine's too.
            let _ = writeln!(log, "{} {text}", crate::installation::now());
            let _ = log.flush();
        };
        let faults = async {
            let went = schedule::run(planned, &mut at, &mut note).await?;
            anyhow::Ok(went)
        };
        let playing = workload.play(access.clone(), &answers, progress.clone());
        let earlier = earlier(&access, folder.join("earlier"), lasts / 2);
        let mut ticks = interval(TOLD_EVERY);
        let (mut went, mut outcome, mut seen) = (None, None, None);
        {
            tokio::pin!(faults, playing, earlier);
            while went.is_none() || outcome.is_none() || seen.is_none() {
                tokio::select! {
                    done = &mut faults, if went.is_none() => went = Some(done?),
                    done = &mut playing, if outcome.is_none() => outcome = Some(done?),
                    done = &mut earlier, if seen.is_none() => seen = Some(done),
                    _ = ticks.tick() => say(&format!(
                        "{:>4} s: {} orders came, {} are over",
                        began.elapsed().as_secs(),
                        progress.arrived.load(Ordering::Relaxed),
                        progress.over.load(Ordering::Relaxed),
                    )),
                }
            }
        }
        let (went, outcome) = (went.unwrap_or_default(), outcome.unwrap_or_default());
        for why in &outcome.given_up {
            note(why);
        }
        // What was ended by a fault while the last shoppers were waited for.
        for (name, how) in at.supervise()? {
            note(&format!("{name} ended by itself ({how}) and was started again"));
        }
        quiet::wait(&mut at, &mut note).await?;
        say("everything is quiet; exporting");
        // Moments of services whose clocks were wrong are not those of the provider.
        let clocks_apart = went.iter().any(|one| one.kind.starts_with("clock"));
        self.export(&access, &export, clocks_apart).await?;
        fs::rename(&answers, export.join("answers.ndjson"))?;
        fs::rename(seen.unwrap_or_default(), export.join("events.earlier.ndjson"))?;
        shipped(&access, &export).await?;
        lines(&export.join("processes.ndjson"), at.ends().iter().map(end))?;
        at.close().await;
        Ok(Ran {
            export,
            outcome,
            went,
        })
    }

    pub(crate) async fn export(&self, access: &Access, to: &Path, clocks_apart: bool) -> anyhow::Result<()> {
        let (dir, seed) = (to.to_string_lossy(), self.seed.to_string());
        let mut args = vec!["export", "--to", &dir, "--simulator", &access.cm_url];
        args.extend(["--projections", "--quiescent", "--seed", &seed]);
        access.tool(&args).await?;
        let path = to.join("meta.json");
        let mut meta: Value = serde_json::from_slice(&fs::read(&path)?)?;
        meta["clocks_apart"] = json!(clocks_apart);
        meta["poll_longest_ms"] = json!(self.plan(to).poll_longest().as_millis());
        fs::write(&path, meta.to_string())?;
        Ok(())
    }
}

/// The events as they are `after` a while, in the middle of everything: what was stored then is to stay as it was.
async fn earlier(access: &Access, to: PathBuf, after: Duration) -> PathBuf {
    sleep(after).await;
    let dir = to.to_string_lossy();
    while access
        .tool(&["export", "--to", &dir, "--without-bus"])
        .await
        .is_err()
    {
        // A server is away just now, and what was begun is not an export.
        let _ = fs::remove_dir_all(&to);
        sleep(Duration::from_secs(1)).await;
    }
    to.join("events.ndjson")
}

pub(crate) fn end(end: &End) -> Value {
    json!({
        "role": end.role, "pid": end.pid, "signal": end.signal, "sent_at": end.sent_at, "exited_at": end.exited_at,
        "code": end.code,
    })
}

/// What the shop's database committed, in its order: events that were delivered, releases and holds that came of them.
pub(crate) async fn shipped(access: &Access, export: &Path) -> anyhow::Result<()> {
    let rows = rows(
        access,
        "SELECT json_build_object('n', row_number() OVER (ORDER BY at, rank, event_id), 'what', what,
                'event_id', event_id, 'shop', split_part(subject, '.', 4), 'order_id', order_id, 'epoch', epoch,
                'amount', CASE WHEN currency IS NULL THEN NULL
                               ELSE json_build_object('value', amount_minor, 'currency', currency) END,
                'position', sequence, 'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))::text
           FROM (SELECT 'delivery' AS what, 0 AS rank, event_id, subject, order_id, epoch, NULL::bigint AS amount_minor,
                        NULL AS currency, sequence, received_at AS at
                   FROM shipment_service.shipment_inbox
                 UNION ALL
                 SELECT what, 1, event_id, subject, log.order_id, log.epoch, log.amount_minor, log.currency, sequence,
                        received_at
                   FROM shipment_service.log
                   JOIN (SELECT 'release' AS what, order_id, epoch, event_id FROM shipment_service.shipments
                         UNION ALL SELECT 'hold', order_id, epoch, event_id FROM shipment_service.holds) AS told
                        USING (what, order_id, epoch)
                   JOIN shipment_service.shipment_inbox USING (event_id)) AS happened
          ORDER BY at, rank, event_id",
    )
    .await?;
    text(&export.join("shipment.ndjson"), rows)
}

async fn rows(access: &Access, sql: &str) -> anyhow::Result<Vec<String>> {
    let (client, connection) = tokio_postgres::connect(&access.database_url, NoTls).await?;
    let driving = tokio::spawn(connection);
    let rows = client.query(sql, &[]).await?;
    drop(client);
    driving.await??;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

pub(crate) fn lines(path: &Path, rows: impl Iterator<Item = Value>) -> anyhow::Result<()> {
    text(path, rows.map(|row| row.to_string()))
}

fn text(path: &Path, rows: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("make {}", path.display()))?);
    for row in rows {
        writeln!(file, "{row}")?;
    }
    Ok(file.flush()?)
}
