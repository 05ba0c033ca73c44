//! Does PostgreSQL keep what it acknowledges, is it ours, and is everybody who reads it up to date?

use std::time::Duration;

use kassa_chassis::config::Config;
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, NoTls, error::SqlState};

use super::{ANSWER_MAX, Findings, now_ms};

const AREA: &str = "database";
/// The only part on one machine.
const PART: i32 = 0;
/// `server_version_num` of PostgreSQL 15.
const VERSION_MIN: i32 = 150_000;
/// A timer is looked at within seconds; one that waits longer has nobody who looks.
const OVERDUE_S: f64 = 120.0;
/// What the log is read into.
const PROJECTIONS: [&str; 2] = ["checkout", "shipping"];

/// What others compare with.
pub(super) struct Log {
    client: Client,
    pub(super) head: i64,
}

impl Log {
    /// For how long the event after a position has been stored, in seconds; `None` where there is none.
    pub(super) async fn waiting_s(&self, after: i64) -> Option<f64> {
        let sql = "SELECT extract(epoch FROM clock_timestamp() - recorded_at)::float8 FROM events
                    WHERE part = $1 AND position > $2 ORDER BY position LIMIT 1";
        let row = self.client.query_opt(sql, &[&PART, &after]).await.ok()??;
        Some(row.get(0))
    }
}

pub(super) async fn examine(config: &Config, lag_max: Duration, findings: &mut Findings) -> Option<Log> {
    let client = connect(config, findings).await?;
    let examined = timeout(ANSWER_MAX * 2, look(&client, lag_max, findings)).await;
    match examined {
        Ok(Ok(head)) => head.map(|head| Log { client, head }),
        Ok(Err(error)) => {
            findings.wrong(
                AREA,
                format!("a question was refused: {}", sentence(&error)),
                "what cannot be read cannot be trusted",
                "grant this login the role kassa_app, or use the one that migrated",
            );
            None
        }
        Err(_) => {
            findings.wrong(
                AREA,
                "it stopped answering",
                "nothing is decided while it is so",
                "look at its log, its disk and its locks (pg_stat_activity)",
            );
            None
        }
    }
}

async fn connect(config: &Config, findings: &mut Findings) -> Option<Client> {
    let url = config.database.url.expose_secret();
    if url.is_empty() {
        // Told with the configuration.
        return None;
    }
    let why = "nothing is decided or answered without it";
    let mut settings: tokio_postgres::Config = match url.parse() {
        Ok(settings) => settings,
        Err(_) => {
            findings.wrong(
                AREA,
                "database.url is no address of a PostgreSQL",
                why,
                "set it as postgresql://user@host:5432/name",
            );
            return None;
        }
    };
    settings.connect_timeout(ANSWER_MAX);
    match timeout(ANSWER_MAX, settings.connect(NoTls)).await {
        Ok(Ok((client, connection))) => {
            tokio::spawn(connection);
            Some(client)
        }
        Ok(Err(error)) => {
            let remedy = match error.code() {
                Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => {
                    "set user and password in database.url to those of a login of this server"
                }
                Some(&SqlState::INVALID_CATALOG_NAME) => {
                    "createdb, then kassa migrate; or name the right database"
                }
                _ => "start it, and check host and port in database.url",
            };
            let what = match error.as_db_error() {
                Some(_) => "it does not let us in",
                None => "it cannot be reached",
            };
            findings.wrong(AREA, format!("{what}: {}", sentence(&error)), why, remedy);
            None
        }
        Err(_) => {
            findings.wrong(
                AREA,
                "it does not answer",
                why,
                "check host, port and firewall of database.url",
            );
            None
        }
    }
}

/// The head of the log, where there is one.
async fn look(
    client: &Client,
    lag_max: Duration,
    findings: &mut Findings,
) -> Result<Option<i64>, tokio_postgres::Error> {
    server(client, findings).await?;
    let asked = Instant::now();
    let before = now_ms();
    let row = client
        .query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8", &[])
        .await?;
    findings.clock("PostgreSQL", row.get(0), before, asked.elapsed());

    let found = kassa_migrations::schema_version(client).await?;
    let needed = kassa_migrations::NEEDED;
    match found {
        Some(found) if found == needed => findings.ok(AREA, format!("schema at step {found}")),
        Some(found) if found > needed => findings.warning(
            AREA,
            format!("the schema is at step {found}, and this version knows {needed}"),
            "a newer version runs beside this one",
            "use the newer kassa here, too",
        ),
        other => {
            let found = other.map_or("was never made".to_owned(), |step| format!("is at step {step}"));
            findings.wrong(
                AREA,
                format!("the schema {found}, and step {needed} is needed"),
                "no role of this version starts",
                "kassa migrate",
            );
        }
    }
    if found.is_none() {
        return Ok(None);
    }
    rights(client, findings).await?;
    let row = client
        .query_one("SELECT offset_ms FROM clock WHERE id = 1", &[])
        .await?;
    match row.get::<_, i64>(0) {
        0 => findings.ok("clock", "kassa's time is the real time"),
        offset => findings.wrong(
            "clock",
            format!("kassa's time was moved by {offset} ms and left so"),
            "expiries, timers and the times of events are off by as much: meant for drills only",
            "UPDATE clock SET offset_ms = 0; NOTIFY kassa_clock (or kassa sim clock)",
        ),
    }
    let row = client
        .query_one("SELECT position FROM log_head WHERE part = $1", &[&PART])
        .await?;
    let head: i64 = row.get(0);
    projections(client, head, lag_max, findings).await?;
    work(client, findings).await?;
    Ok(Some(head))
}

async fn server(client: &Client, findings: &mut Findings) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT current_setting('server_version_num')::int4, current_setting('server_version'),
                    current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes')",
            &[],
        )
        .await?;
    let (number, version): (i32, String) = (row.get(0), row.get(1));
    if number < VERSION_MIN {
        findings.wrong(
            AREA,
            format!("PostgreSQL {version} is too old"),
            "kassa is run on 15 and newer",
            "upgrade it to 15 or newer",
        );
    } else {
        findings.ok(AREA, format!("PostgreSQL {version}"));
    }
    let commit: String = row.get(2);
    if !matches!(commit.as_str(), "on" | "remote_apply") {
        findings.wrong(
            AREA,
            format!("synchronous_commit is {commit}"),
            "a power cut would lose payments that were acknowledged",
            "ALTER DATABASE … SET synchronous_commit = on (also look at ALTER ROLE and postgresql.conf)",
        );
    }
    for (setting, value) in [
        ("fsync", row.get::<_, String>(3)),
        ("full_page_writes", row.get(4)),
    ] {
        if value != "on" {
            findings.wrong(
                AREA,
                format!("{setting} is {value}"),
                "a power cut could leave a database that cannot be read",
                format!("set {setting} = on in postgresql.conf and restart"),
            );
        }
    }
    Ok(())
}

async fn rights(client: &Client, findings: &mut Findings) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'kassa_app' AND pg_has_role(current_user, oid, 'member'))",
            &[],
        )
        .await?;
    if !row.get::<_, bool>(0) {
        findings.wrong(
            AREA,
            "this login is no member of the role kassa_app",
            "the database does not stop changes to what was written",
            "as an administrator: CREATE ROLE kassa_app NOLOGIN; then kassa migrate",
        );
        return Ok(());
    }
    let right = "SELECT has_table_privilege('kassa_app', $1, $2)";
    let mut good = true;
    for (table, privilege, may) in [
        ("events", "INSERT", true),
        ("events", "SELECT", true),
        ("command_log", "INSERT", true),
        ("projections", "UPDATE", true),
        ("events", "UPDATE", false),
        ("events", "DELETE", false),
        ("events", "TRUNCATE", false),
        ("command_log", "DELETE", false),
    ] {
        let has: bool = client.query_one(right, &[&table, &privilege]).await?.get(0);
        if has == may {
            continue;
        }
        good = false;
        if may {
            findings.wrong(
                AREA,
                format!("the role kassa_app may not {privilege} on {table}"),
                "services cannot do their work",
                format!("GRANT {privilege} ON {table} TO kassa_app"),
            );
        } else {
            findings.wrong(
                AREA,
                format!("the role kassa_app may {privilege} on {table}"),
                "what was written could be changed",
                format!("REVOKE {privilege} ON {table} FROM kassa_app"),
            );
        }
    }
    if good {
        findings.ok(AREA, "the role kassa_app may add to the log and not change it");
    }
    Ok(())
}

async fn projections(
    client: &Client,
    head: i64,
    lag_max: Duration,
    findings: &mut Findings,
) -> Result<(), tokio_postgres::Error> {
    for name in PROJECTIONS {
        let row = client
            .query_opt(
                "SELECT position FROM projections WHERE name = $1 AND part = $2",
                &[&name, &PART],
            )
            .await?;
        let position: i64 = row.map_or(0, |row| row.get(0));
        let waiting = client
            .query_opt(
                "SELECT extract(epoch FROM clock_timestamp() - recorded_at)::float8 FROM events
                  WHERE part = $1 AND position > $2 ORDER BY position LIMIT 1",
                &[&PART, &position],
            )
            .await?
            .map_or(0.0, |row| row.get::<_, f64>(0));
        if waiting > lag_max.as_secs_f64() {
            findings.wrong(
                "projections",
                format!(
                    "{name} is {} events behind, the oldest for {waiting:.0} s",
                    head - position
                ),
                "whoever asks is told how things were",
                "see that kassa serve --role read-models runs, and what its log says it stopped at",
            );
        } else {
            findings.ok("projections", format!("{name} is up to date"));
        }
    }
    Ok(())
}

/// What waits for somebody who does not come.
async fn work(client: &Client, findings: &mut Findings) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT (SELECT count(*) FROM timers WHERE part = $1
                        AND due_at < clock_timestamp()
                                     + make_interval(secs => (SELECT offset_ms FROM clock)::float8 / 1000 - $2)),
                    (SELECT count(*) FROM notifications WHERE state = 'parked')",
            &[&PART, &OVERDUE_S],
        )
        .await?;
    let (overdue, parked): (i64, i64) = (row.get(0), row.get(1));
    if overdue > 0 {
        findings.wrong(
            "timers",
            format!("{overdue} timers are due for more than {OVERDUE_S:.0} s"),
            "payments whose notification was lost are not found, orders do not expire",
            "see that kassa serve --role cm-gateway and --role engine run",
        );
    }
    if parked > 0 {
        findings.warning(
            "notifications",
            format!("{parked} notifications name references that are not known"),
            "CM tells of orders that are not ours, or somebody else uses the address",
            "compare the notification URL at CM.com with the shop in it",
        );
    }
    Ok(())
}

/// The reason under the libraries' own words.
pub(crate) fn sentence(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    loop {
        let refused = cause
            .downcast_ref::<tokio_postgres::Error>()
            .and_then(tokio_postgres::Error::as_db_error);
        if let Some(refused) = refused {
            return format!("{} ({})", refused.message(), refused.code().code());
        }
        match cause.source() {
            Some(next) => cause = next,
            None => return cause.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_cause_is_told_and_not_that_there_was_one() {
        let nobody = tokio_postgres::connect("postgresql://127.0.0.1:1/x", NoTls).await;
        let error = anyhow::Error::from(nobody.err().expect("nobody listens there")).context("the pool");
        let told = sentence(error.as_ref());
        assert!(told.contains("refused"), "{told}");
    }
}
