//! What happens to PostgreSQL itself: restarted in three ways, locked where everybody writes, left open by somebody?

use std::time::Duration;

use futures::{FutureExt as _, future::BoxFuture};
use rustix::process::Signal;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use super::{Fault, Kind, Targets};
use crate::{installation::Installation, random::Random};

const LOOK: Duration = Duration::from_millis(50);

pub(super) fn kinds() -> Vec<Kind> {
    let kind = |name, lasts_ms: (u64, u64), draw: fn(&mut Random, &Targets) -> Box<dyn Fault>| Kind {
        name,
        lasts: (
            Duration::from_millis(lasts_ms.0),
            Duration::from_millis(lasts_ms.1),
        ),
        absent: |_| None,
        draw,
    };
    vec![
        kind("postgres-restart", (0, 3_000), |_, _| Restarted::by(Signal::INT)),
        kind("postgres-immediate", (0, 3_000), |_, _| {
            Restarted::by(Signal::QUIT)
        }),
        kind("postgres-killed", (0, 5_000), |_, _| Restarted::by(Signal::KILL)),
        // By turns shorter and longer than an append waits for it.
        kind("head-held", (500, 6_000), |_, _| {
            Locked::by("SELECT position FROM log_head WHERE part = 0 FOR UPDATE")
        }),
        // Somebody's forgotten session, in the way of everybody who claims a read, or reads the log.
        kind("table-locked", (500, 6_000), |random, _| {
            let locks = [
                "LOCK TABLE provider_reads IN ACCESS EXCLUSIVE MODE",
                "LOCK TABLE timers IN ACCESS EXCLUSIVE MODE",
                "LOCK TABLE events IN ACCESS EXCLUSIVE MODE",
            ];
            Locked::by(random.pick(&locks).copied().unwrap_or(locks[0]))
        }),
    ]
}

/// A superuser's session, by the socket: no proxy is in its way.
pub async fn session(at: &Installation) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(&at.access().database_url, NoTls).await?;
    tokio::spawn(async move {
        // Its end is seen by whoever uses the client.
        let _ = connection.await;
    });
    Ok(client)
}

struct Restarted {
    signal: Signal,
    pids: (Option<u32>, Option<u32>),
}

impl Restarted {
    fn by(signal: Signal) -> Box<dyn Fault> {
        Box::new(Self {
            signal,
            pids: (None, None),
        })
    }

    fn pid(at: &Installation) -> Option<u32> {
        at.pids().get("postgres").copied()
    }
}

impl Fault for Restarted {
    fn target(&self) -> String {
        "postgres".to_owned()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            self.pids.0 = Self::pid(at);
            at.end_postgres(self.signal).await
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            at.start_postgres().await?;
            self.pids.1 = Self::pid(at);
            Ok(())
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        let (Some(before), Some(after)) = self.pids else {
            return None;
        };
        (before != after).then(|| format!("server {before} ended, {after} took its place"))
    }
}

/// A transaction that holds something and does nothing.
struct Locked {
    sql: &'static str,
    holder: Option<Client>,
    watching: Option<JoinHandle<i64>>,
    waited: i64,
}

impl Locked {
    fn by(sql: &'static str) -> Box<dyn Fault> {
        Box::new(Self {
            sql,
            holder: None,
            watching: None,
            waited: 0,
        })
    }
}

impl Fault for Locked {
    fn target(&self) -> String {
        "postgres".to_owned()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let holder = session(at).await?;
            // Whoever has it now is through in a moment.
            let sql = format!("SET lock_timeout = '10s'; BEGIN; {}", self.sql);
            holder.batch_execute(&sql).await?;
            let row = holder.query_one("SELECT pg_backend_pid()", &[]).await?;
            self.watching = Some(tokio::spawn(most_waiting(session(at).await?, row.get(0))));
            self.holder = Some(holder);
            Ok(())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, _: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            // Whoever came too late for the lock holds nothing that could be let go.
            let Some(holder) = self.holder.take() else {
                return Ok(());
            };
            let released = holder.batch_execute("ROLLBACK").await;
            if let Some(watching) = self.watching.take() {
                self.waited = watching.await?;
            }
            Ok(released?)
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        (self.waited > 0).then(|| format!("{} sessions at a time waited for {}", self.waited, self.sql))
    }
}

/// How many sessions at once waited for another, until that one holds nothing any more.
async fn most_waiting(client: Client, holder: i32) -> i64 {
    let sql = "SELECT count(*), coalesce((SELECT state LIKE 'idle in transaction%' FROM pg_stat_activity WHERE pid = $1), false)
               FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))";
    let mut most = 0;
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        let Ok(row) = client.query_one(sql, &[&holder]).await else {
            return most;
        };
        most = most.max(row.get(0));
        if !row.get::<_, bool>(1) {
            return most;
        }
    }
}
