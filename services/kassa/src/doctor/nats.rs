//! Does each login get in, may it do what it must and nothing else, is the server new enough, are the streams as they should
//! be, and is everything published?

use std::time::Duration;

use async_nats::{HeaderMap, Request};
use kassa_chassis::{
    bus,
    config::{Config, Login},
};
use kassa_events_schema::subject;
use kassa_infra::nats::{DEAD_LETTERS, PROBE_STREAM};
use kassa_relay::topology::{self, Difference, Wanted};
use serde_json::Value;
use tokio::time::Instant;

use super::{ANSWER_MAX, Findings, database::Log, now_ms};
use crate::{
    admin::NO_BUS,
    exit::Ended,
    nats_login::{self, Bus},
    nats_setup,
};

const AREA: &str = "nats";
const STREAM: &str = subject::STREAM;
/// As the relay asks for it: atomic batches, and no known hole.
const VERSION_MIN: [u64; 3] = [2, 12, 6];
/// For the server to say no to what was sent before: it answers a flush only after it has.
const REFUSAL_MAX: Duration = Duration::from_millis(200);
/// A subject of the events that no event has.
const PROBE: &str = "kassa.evt.0.doctor.order.ord_0.probe";

/// What to hold the permissions against.
const COMPARE: &str = "kassa nats accounts prints what it should be; compare the permissions only, its passwords are new each time";

/// Something that a login must be able to do, or must not.
enum Probe {
    /// Published with a condition that no stream fulfils: nothing of it is stored.
    Publish(&'static str),
    Subscribe(&'static str),
}

/// By login: what is tried, whether it must be allowed, and what hangs on it.
const RIGHTS: [(&str, Probe, bool, &str); 8] = [
    (
        "worker",
        Probe::Subscribe(subject::COMMANDS),
        true,
        "commands are not heard",
    ),
    (
        "worker",
        Probe::Subscribe(subject::QUERIES),
        true,
        "questions are not heard",
    ),
    (
        "worker",
        Probe::Publish(PROBE),
        false,
        "anybody with this login could forge an event",
    ),
    (
        "worker",
        Probe::Subscribe(subject::EVENTS),
        false,
        "it would hear what the stream refused",
    ),
    (
        "worker",
        Probe::Publish("$JS.API.STREAM.DELETE.KASSA_DOCTOR"),
        false,
        "it could take the events away",
    ),
    ("relay", Probe::Publish(PROBE), true, "events are not published"),
    (
        "relay",
        Probe::Publish("$JS.API.STREAM.PURGE.KASSA_DOCTOR"),
        false,
        "it could take the events away",
    ),
    (
        "relay",
        Probe::Subscribe(subject::COMMANDS),
        false,
        "it would hear commands with personal data",
    ),
];

pub(super) async fn examine(config: &Config, log: Option<&Log>, lag_max: Duration, findings: &mut Findings) {
    let worker = connect(config, "worker", &config.nats.worker, findings).await;
    let relay = connect(config, "relay", &config.nats.relay, findings).await;
    if let Some(bus) = worker.as_ref().or(relay.as_ref()) {
        version(bus, findings);
    }
    for (name, bus) in [("worker", &worker), ("relay", &relay)] {
        if let Some(bus) = bus {
            rights(name, bus, config, findings).await;
        }
    }
    if worker.is_some()
        && let Ok(bus) = open(config, &config.nats.worker).await
    {
        workers(&bus, findings).await;
    }
    // Connections of their own: a refusal before would be taken for one of what follows.
    if relay.is_some()
        && let Ok(bus) = open(config, &config.nats.relay).await
    {
        stream(&bus, log, lag_max, findings).await;
        streams(&bus, config, findings).await;
    }
}

async fn open(config: &Config, login: &Login) -> anyhow::Result<Bus> {
    let options = bus::options(&config.nats.url, login)
        .map_err(|error| Ended::new(Ended::CONFIGURATION, error.to_string()))?;
    nats_login::connect(&config.nats.url, options, "kassa doctor").await
}

async fn connect(config: &Config, name: &str, login: &Login, findings: &mut Findings) -> Option<Bus> {
    let error = match open(config, login).await {
        Ok(bus) => return Some(bus),
        Err(error) => error,
    };
    let (why, remedy) = match error.downcast_ref::<Ended>().map(|ended| ended.code) {
        Some(Ended::NO_PERMISSION) => (
            "roles with this login hear and say nothing",
            format!("set nats.{name}.user and nats.{name}.password_file to a login that the server has"),
        ),
        Some(Ended::CONFIGURATION) => (
            "no role gets to the bus",
            "set nats.url to an address such as nats://host:4222".to_owned(),
        ),
        _ => (NO_BUS, "start nats-server, and check nats.url".to_owned()),
    };
    findings.wrong(AREA, format!("login {name}: {error}"), why, remedy);
    None
}

fn version(bus: &Bus, findings: &mut Findings) {
    let version = bus.client.server_info().version;
    let [major, minor, patch] = VERSION_MIN;
    let mut numbers = version
        .split(['-', '+'])
        .next()
        .unwrap_or_default()
        .split('.')
        .map(|number| number.parse::<u64>().unwrap_or(0));
    let found = [(); 3].map(|()| numbers.next().unwrap_or(0));
    if found < VERSION_MIN {
        findings.wrong(
            AREA,
            format!("nats-server {version} is too old"),
            "it drops settings that it does not know, has no atomic batches, and has holes that are known",
            format!("upgrade it to {major}.{minor}.{patch} or newer"),
        );
    } else {
        findings.ok(AREA, format!("nats-server {version}"));
    }
}

async fn rights(name: &str, bus: &Bus, config: &Config, findings: &mut Findings) {
    let login = if name == "relay" {
        &config.nats.relay
    } else {
        &config.nats.worker
    };
    let mut good = true;
    for (of, probe, must, why) in &RIGHTS {
        if *of != name {
            continue;
        }
        // A connection for each: what the server says names a subject, but not which of two tries.
        let Ok(fresh) = open(config, login).await else {
            findings.wrong(
                AREA,
                format!("login {name}: lost while it was tried"),
                why,
                "run this again",
            );
            return;
        };
        let (verb, subject) = match probe {
            Probe::Publish(subject) => ("publish", subject),
            Probe::Subscribe(subject) => ("subscribe", subject),
        };
        let allowed = allowed(&fresh, probe).await;
        if allowed == *must {
            continue;
        }
        good = false;
        let (may, change) = if allowed {
            ("may", "take away")
        } else {
            ("may not", "give")
        };
        findings.wrong(
            "permissions",
            format!("login {name} {may} {verb} {subject}"),
            why,
            format!("{change} {verb} {subject} in the server's configuration: {COMPARE}"),
        );
    }
    if good {
        findings.ok(
            "permissions",
            format!("login {name} at {} may do what it must", bus.shown),
        );
    }
}

/// Whether the server lets it pass.
async fn allowed(bus: &Bus, probe: &Probe) -> bool {
    match probe {
        Probe::Publish(subject) => {
            let mut headers = HeaderMap::new();
            // Wherever it arrives it is refused: nothing is stored, and no request has an effect.
            headers.insert("Nats-Expected-Stream", "KASSA_DOCTOR_NONE");
            let sent = bus
                .client
                .publish_with_headers(*subject, headers, "".into())
                .await;
            sent.is_ok() && !refused(bus).await
        }
        Probe::Subscribe(subject) => {
            let Ok(subscription) = bus.client.subscribe(*subject).await else {
                return false;
            };
            let refused = refused(bus).await;
            drop(subscription);
            !refused
        }
    }
}

async fn refused(bus: &Bus) -> bool {
    let _ = tokio::time::timeout(ANSWER_MAX, bus.client.flush()).await;
    tokio::time::timeout(REFUSAL_MAX, bus.refusal()).await.is_ok()
}

/// Who works off a durable, and who says so.
const AT_WORK: [(&str, &str, &str, &str); 2] = [
    (STREAM, "cm-gateway", "cm-gateway", "no payment is started"),
    (
        subject::INBOX_STREAM,
        "engine-inbox",
        "engine",
        "commands that wait for nobody are not decided",
    ),
];
/// Who answers questions and commands of shops.
const ANSWERING: [(&str, &str, &str); 2] = [
    (
        "kassa-commands",
        "engine",
        "commands on NATS are answered by nobody",
    ),
    (
        "kassa-queries",
        "read-models",
        "questions on NATS are answered by nobody",
    ),
];
/// A reader asks for more all the time, but for moments in which it has as much as it can take, or has just been told.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// Whether the services are there that the bus is made for, and whether something waits for a person.
async fn workers(bus: &Bus, findings: &mut Findings) {
    for (stream, durable, role, why) in AT_WORK {
        let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{durable}");
        let mut at_work = false;
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
            let Some(info) = quietly(bus, &subject).await else {
                break;
            };
            // Where there is none, nobody has ever read with it.
            at_work = info["num_waiting"].as_u64().unwrap_or(0) > 0;
            if at_work || !info["error"].is_null() {
                break;
            }
        }
        if at_work {
            findings.ok("services", format!("{durable} is read from"));
        } else {
            findings.wrong(
                "services",
                format!("nobody reads from {durable}"),
                why,
                format!("start kassa serve --role {role}"),
            );
        }
    }
    for (service, role, why) in ANSWERING {
        if quietly(bus, &format!("$SRV.PING.{service}")).await.is_some() {
            findings.ok("services", format!("{service} answers"));
        } else {
            findings.wrong(
                "services",
                format!("{service} does not answer"),
                why,
                format!("start kassa serve --role {role}"),
            );
        }
    }
    let subject = format!("$JS.API.STREAM.INFO.{DEAD_LETTERS}");
    let waiting = quietly(bus, &subject)
        .await
        .and_then(|info| info["state"]["messages"].as_u64())
        .unwrap_or(0);
    if waiting > 0 {
        findings.warning(
            "dead letters",
            format!("{waiting} messages wait for a person"),
            "whoever sent them believes that they were done",
            "kassa dlq ls says which and why",
        );
    }
}

/// One question; `None` where nobody answers, or the login may not ask.
async fn quietly(bus: &Bus, subject: &str) -> Option<Value> {
    let request = Request::new().payload("".into()).timeout(Some(ANSWER_MAX));
    let answer = tokio::select! {
        answer = bus.client.send_request(subject.to_owned(), request) => answer.ok()?,
        _ = bus.refusal() => return None,
    };
    serde_json::from_slice(&answer.payload).ok()
}

/// One question to JetStream; `None` with its refusal told.
async fn ask(bus: &Bus, subject: &str, findings: &mut Findings) -> Option<Value> {
    let request = Request::new().payload("".into()).timeout(Some(ANSWER_MAX));
    let answer = tokio::select! {
        answer = bus.client.send_request(subject.to_owned(), request) => answer.ok(),
        refused = bus.refusal() => {
            findings.wrong(
                "permissions",
                format!("login relay: {refused}"),
                "the relay cannot look at its stream",
                format!("allow it to publish {subject}: {COMPARE}"),
            );
            return None;
        }
    };
    let Some(answer) = answer else {
        findings.wrong(
            AREA,
            "JetStream does not answer",
            "events wait in the log",
            "enable jetstream in the server's configuration, for this account too",
        );
        return None;
    };
    serde_json::from_slice(&answer.payload).ok()
}

async fn stream(bus: &Bus, log: Option<&Log>, lag_max: Duration, findings: &mut Findings) {
    let asked = Instant::now();
    let before = now_ms();
    let Some(info) = ask(bus, &format!("$JS.API.STREAM.INFO.{STREAM}"), findings).await else {
        return;
    };
    if let Some(at) = info["ts"]
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok())
    {
        findings.clock("nats-server", at.as_millisecond(), before, asked.elapsed());
    }
    if !info["error"].is_null() {
        findings.wrong(
            "streams",
            format!(
                "there is no stream {STREAM}: {}",
                info["error"]["description"].as_str().unwrap_or("missing")
            ),
            "nobody is told of a payment",
            "start kassa serve --role relay, which makes it and fills it from the log",
        );
        return;
    }
    let Some(log) = log else { return };
    let last = info["state"]["last_seq"].as_i64().unwrap_or(0);
    let waiting = log.waiting_s(last).await.unwrap_or(0.0);
    if last > log.head {
        findings.wrong(
            "outbox",
            format!("the stream is at {last}, and the log ends at {}", log.head),
            "the stream holds what the store does not know: another database, or one that was set back",
            "stop the relay; compare database.url and nats.url; if the database was restored, make the stream anew",
        );
    } else if waiting > lag_max.as_secs_f64() {
        findings.wrong(
            "outbox",
            format!(
                "{} events are not published, the oldest for {waiting:.0} s",
                log.head - last
            ),
            "nobody is told of a payment",
            "see that kassa serve --role relay runs, and what its log says it stopped at",
        );
    } else {
        findings.ok("outbox", "everything is published");
    }
}

async fn compared(
    bus: &Bus,
    jetstream: &async_nats::jetstream::Context,
    wanted: &Wanted,
) -> Result<anyhow::Result<Vec<Difference>>, tokio::time::error::Elapsed> {
    let comparing = async {
        tokio::select! {
            compared = topology::compare(jetstream, wanted) => compared,
            refused = bus.refusal() => Err(refused.into()),
        }
    };
    tokio::time::timeout(ANSWER_MAX, comparing).await
}

/// Streams and durables against what they are to be: what `kassa nats setup --dry-run` says, with the relay's login.
async fn streams(bus: &Bus, config: &Config, findings: &mut Findings) {
    let jetstream = async_nats::jetstream::new(bus.client.clone());
    let mut compared = match nats_setup::wanted(config) {
        Ok(wanted) => compared(bus, &jetstream, &wanted).await,
        Err(error) => Ok(Err(error)),
    };
    // A server whose accounts are older permits it to look at streams only.
    if bus.refused().is_some()
        && let Ok(mut streams) = topology::streams(config.nats.replicas)
        && let Ok(fresh) = open(config, &config.nats.relay).await
    {
        findings.warning(
            "permissions",
            "login relay may not look at durables",
            "whether shops' durables are there is not seen",
            format!(
                "allow it to publish $JS.API.CONSUMER.INFO.{STREAM}.* and what else it is to have: {COMPARE}"
            ),
        );
        streams.retain(|stream| stream.name != PROBE_STREAM);
        let jetstream = async_nats::jetstream::new(fresh.client.clone());
        let durables = vec![];
        compared = self::compared(&fresh, &jetstream, &Wanted { streams, durables }).await;
    }
    let differences = match compared {
        Ok(Ok(differences)) => differences,
        Ok(Err(error)) => {
            let remedy = "run it again; kassa nats setup --dry-run asks the same with the login deploy";
            findings.wrong(
                "streams",
                format!("they cannot be compared: {error:#}"),
                "a stream may lose what it is given",
                remedy,
            );
            return;
        }
        Err(_) => {
            let remedy = "look at the server's log and its disk";
            findings.wrong(
                "streams",
                "JetStream stopped answering",
                "events wait in the log",
                remedy,
            );
            return;
        }
    };
    for difference in &differences {
        // Told already, with more words.
        let told = (difference.what == "server" && difference.setting == "version")
            || (difference.what == format!("stream {STREAM}") && difference.setting == "exists")
            // Made by the first process whose readiness is asked after.
            || (difference.what == format!("stream {PROBE_STREAM}") && difference.setting == "exists");
        let analysts = difference.what == format!("stream {}", topology::ANALYTICS);
        let remedy = format!(
            "kassa nats setup sets {} to {}",
            difference.setting, difference.wanted
        );
        if told {
            continue;
        }
        if difference.what.starts_with("consumer ") {
            let (why, remedy) = (
                "whoever reads with it hears nothing: a shop ships nothing",
                "kassa nats setup makes it",
            );
            findings.warning("streams", difference.to_string(), why, remedy);
        } else if analysts {
            findings.warning(
                "streams",
                difference.to_string(),
                "analysts have no copy to read from",
                remedy,
            );
        } else {
            let why = "messages could be lost to those who read them, and the relay does not start on a stream that differs";
            findings.wrong("streams", difference.to_string(), why, remedy);
        }
    }
    if differences.is_empty() {
        findings.ok("streams", "all are as they should be");
    }
}
