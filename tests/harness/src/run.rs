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
    installation::{Access, End, Installation, Plan, Unasked},
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
    pub exports: Exports,
    pub outcome: Outcome,
    /// Whether faults were asked for: then a run in which none did anything has shown nothing.
    pub faults_asked: bool,
    pub went: Vec<Went>,
    pub ends: Ends,
}

/// Everything that happened, with everything that the harness knows, at two moments.
#[derive(Debug, Clone)]
pub struct Exports {
    /// When nothing of what was begun was under way, by clocks that nobody had moved.
    pub begun: PathBuf,
    /// When everything had ended, by clocks that were moved to see it.
    pub ended: PathBuf,
    /// Clocks differed in the middle of it: moments of neither can be compared.
    pub clocks_apart: bool,
}

/// How processes ended that nobody had told to, what they wrote of panics, and what did not end in order in the end.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    pub unasked: Vec<Unasked>,
    pub panics: Vec<String>,
    pub out_of_order: Vec<String>,
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
        self.play(at, folder, lasts, None, say).await
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
        for kind in fault::kinds_of(self.seed, &self.only) {
            match (kind.absent)(&at) {
                None => kinds.push(kind),
                Some(why) => say(&format!("no {} here: {why}", kind.name)),
            }
        }
        let targets = Targets::of(&at);
        let planned = schedule::draw(self.seed, self.lasts, self.fault_every, &kinds, &targets);
        lines(&folder.join("schedule.ndjson"), planned.iter().map(Planned::row))?;
        let planned = (self.only != fault::NONE).then_some(planned);
        self.play(at, folder, self.lasts, planned, say).await
    }

    async fn play(
        &self,
        mut at: Installation,
        folder: PathBuf,
        lasts: Duration,
        planned: Option<Vec<Planned>>,
        say: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Ran> {
        let answers = folder.join(ANSWERS);
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
        let faults_asked = planned.is_some();
        let faults = async {
            let went = schedule::run(planned.unwrap_or_default(), &mut at, &mut note).await?;
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
        schedule::supervise(&mut at, &mut note)?;
        say("everything is over; waiting until all is quiet");
        // Moments of services whose clocks were wrong are not those of the provider.
        let clocks_apart = went.iter().any(|one| fault::clock::moved_by(one.kind));
        let (exports, ends) = self
            .end(at, &folder, clocks_apart, seen.as_deref(), &mut note)
            .await?;
        Ok(Ran {
            exports,
            outcome,
            faults_asked,
            went,
            ends,
        })
    }

    /// Brings what was begun to its end, and takes an export before the clocks are moved for it and one after.
    ///
    /// `earlier`: events as they were in the middle of it.
    pub(crate) async fn end(
        &self,
        mut at: Installation,
        folder: &Path,
        clocks_apart: bool,
        earlier: Option<&Path>,
        note: &mut dyn FnMut(&str),
    ) -> anyhow::Result<(Exports, Ends)> {
        let exports = Exports {
            begun: folder.join("begun"),
            ended: folder.join("export"),
            clocks_apart,
        };
        let answers = folder.join(ANSWERS);
        let looker = quiet::begun(&mut at).await?;
        self.export(&at, &exports.begun, Moment::Begun, clocks_apart)
            .await?;
        fs::copy(&answers, exports.begun.join(ANSWERS))?;
        if let Some(earlier) = earlier {
            fs::rename(earlier, exports.begun.join(EARLIER))?;
        }
        quiet::end(&looker, &mut *note).await?;
        self.export(&at, &exports.ended, Moment::Ended, clocks_apart)
            .await?;
        fs::rename(&answers, exports.ended.join(ANSWERS))?;
        // What was there then is to be there, unchanged.
        fs::copy(exports.begun.join("events.ndjson"), exports.ended.join(EARLIER))?;
        schedule::supervise(&mut at, note)?;
        let mut ends = Ends {
            unasked: at.unasked().to_vec(),
            panics: at.panics(),
            out_of_order: Vec::new(),
        };
        ends.out_of_order = at.close().await;
        Ok((exports, ends))
    }

    async fn export(
        &self,
        at: &Installation,
        to: &Path,
        moment: Moment,
        clocks_apart: bool,
    ) -> anyhow::Result<()> {
        let access = at.access();
        let (dir, seed) = (to.to_string_lossy(), self.seed.to_string());
        // Before the store: what was shipped has its reason there, even if something goes on meanwhile.
        let shipped = shipped(access).await?;
        let mut args = vec!["export", "--to", &dir, "--simulator", &access.cm_url];
        args.extend(["--seed", &seed]);
        if moment == Moment::Ended {
            args.extend(["--projections", "--quiescent"]);
        }
        access.tool(&args).await?;
        let path = to.join("meta.json");
        let mut meta: Value = serde_json::from_slice(&fs::read(&path)?)?;
        meta["clocks_apart"] = json!(clocks_apart);
        meta["poll_longest_ms"] = json!(self.plan(to).poll_longest().as_millis());
        fs::write(&path, meta.to_string())?;
        text(&to.join("shipment.ndjson"), shipped)?;
        lines(&to.join("processes.ndjson"), at.ends().iter().map(end))
    }
}

/// When an export is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// What was begun has ended; a report that is not due yet may still bring news, so that what is missing may come.
    Begun,
    /// Everything has ended: what is missing is missing.
    Ended,
}

const ANSWERS: &str = "answers.ndjson";
const EARLIER: &str = "events.earlier.ndjson";

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

fn end(end: &End) -> Value {
    json!({
        "role": end.role, "pid": end.pid, "signal": end.signal, "sent_at": end.sent_at, "exited_at": end.exited_at,
        "code": end.code,
    })
}

/// What the shop's database committed, in its order: events that were delivered, releases and holds that came of them.
async fn shipped(access: &Access) -> anyhow::Result<Vec<String>> {
    rows(
        access,
        // What the handler wrote down is told whatever the library's tables have by then, and what it could not say of the
        // delivery has an id that no fact has.
        "SELECT json_build_object('n', row_number() OVER (ORDER BY at, rank, event_id), 'what', what,
                'event_id', event_id, 'shop', split_part(subject, '.', 4), 'order_id', order_id, 'epoch', epoch,
                'amount', CASE WHEN currency IS NULL THEN NULL
                               ELSE json_build_object('value', amount_minor, 'currency', currency) END,
                'position', sequence, 'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))::text
           FROM (SELECT 'delivery' AS what, 0 AS rank, event_id, subject, order_id, epoch, NULL::bigint AS amount_minor,
                        NULL AS currency, sequence, received_at AS at
                   FROM shipment_service.shipment_inbox
                 UNION ALL
                 SELECT log.what, 1, coalesce(log.event_id, '00000000-0000-0000-0000-000000000000'), inbox.subject,
                        log.order_id, log.epoch, log.amount_minor, log.currency, inbox.sequence, log.at
                   FROM shipment_service.log
                   LEFT JOIN shipment_service.shipment_inbox AS inbox ON inbox.event_id = log.event_id) AS happened
          ORDER BY at, rank, event_id",
    )
    .await
}

async fn rows(access: &Access, sql: &str) -> anyhow::Result<Vec<String>> {
    let (client, connection) = tokio_postgres::connect(&access.database_url, NoTls).await?;
    let driving = tokio::spawn(connection);
    let rows = client.query(sql, &[]).await?;
    drop(client);
    driving.await??;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn lines(path: &Path, rows: impl Iterator<Item = Value>) -> anyhow::Result<()> {
    text(path, rows.map(|row| row.to_string()))
}

fn text(path: &Path, rows: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path).with_context(|| format!("make {}", path.display()))?);
    for row in rows {
        writeln!(file, "{row}")?;
    }
    Ok(file.flush()?)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::{installation::Direct, shipment::TABLE};

    #[tokio::test]
    async fn a_release_that_the_librarys_tables_do_not_know_is_in_the_log_all_the_same() {
        let database_url = kassa_test_servers::empty_database().await;
        let client = kassa_test_servers::connect(&database_url).await;
        kassa_shipment::Inbox::prepare(&client)
            .await
            .expect("the library's tables");
        client.batch_execute(TABLE).await.expect("the handler's log");
        let told = "INSERT INTO shipment_service.log (what, order_id, epoch, event_id, amount_minor, currency) VALUES
            ('release', 'ord_lost', 1, 'fdbe31c3-ad31-5ddc-8194-855ee3e510ce', 4995, 'EUR'),
            ('hold', 'ord_unknown', 1, NULL, NULL, NULL)";
        client.batch_execute(told).await.expect("two rows");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let access = Access {
            exe: PathBuf::new(),
            folder: PathBuf::new(),
            config: PathBuf::new(),
            direct: Direct {
                postgres_url: String::new(),
                postgres_socket: PathBuf::new(),
                nats: nobody,
                cm: nobody,
                hooks: nobody,
                checkout: nobody,
            },
            database_url,
            nats_url: String::new(),
            cm_url: String::new(),
            api_url: String::new(),
        };
        let rows: Vec<Value> = shipped(&access)
            .await
            .expect("it is read")
            .iter()
            .map(|row| serde_json::from_str(row).expect("JSON"))
            .collect();
        let told: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row["what"].as_str(),
                    row["order_id"].as_str(),
                    row["event_id"].as_str(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (
                    Some("release"),
                    Some("ord_lost"),
                    Some("fdbe31c3-ad31-5ddc-8194-855ee3e510ce")
                ),
                (
                    Some("hold"),
                    Some("ord_unknown"),
                    Some("00000000-0000-0000-0000-000000000000")
                ),
            ]
        );
        assert_eq!(rows[0]["amount"], json!({ "value": 4995, "currency": "EUR" }));
    }
}
