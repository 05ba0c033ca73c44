//! Which streams and durables are there to be, and in what do they differ from what the server has?
//!
//! Settings are compared by their names on the wire, with what the server *says* afterwards: servers drop settings that
//! they do not know without a word. Nothing here deletes or purges.

use std::{fmt, time::Duration};

use async_nats::jetstream::{
    Context,
    consumer::{self, DeliverPolicy, IntoConsumerConfig as _, pull},
    stream::{Compression, Config, DiscardPolicy, RetentionPolicy, Source, StorageType},
};
use kassa_events_schema::{dead_letter, subject};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::stream::{self, API_LEVEL_MIN, SERVER_MIN, Version};

/// Commands that wait for the engine.
pub const INBOX: &str = subject::INBOX_STREAM;
/// Refused commands, for shops that were away.
pub const REJECTED: &str = subject::REJECTED_STREAM;
/// A copy of the events, for analysts.
pub const ANALYTICS: &str = "KASSA_ANALYTICS";

/// A body of 64 KiB, and headers.
const COMMAND_BYTES_MAX: i32 = 80 * 1024;
/// An event or a command of 64 KiB, its headers and those of the letter.
const LETTER_BYTES_MAX: i32 = 128 * 1024;
/// Some hours of a busy shop while the engine is away; what comes then is refused at the publish, not lost in silence.
const INBOX_MESSAGES_MAX: i64 = 100_000;
/// Reserved by some servers, so no more than a small disk has.
const BYTES_MAX: i64 = 512 * 1024 * 1024;
/// More than a person will look at one by one; beyond it messages stay where they were and come again.
const LETTERS_MAX: i64 = 100_000;
/// A command may carry a shopper's address, which is not to be kept for ever in a place that nobody looks at.
const LETTER_AGE_MAX: Duration = Duration::from_hours(30 * 24);
/// A shop that was away for a week asks with `get_order` instead.
const REJECTED_AGE_MAX: Duration = Duration::from_hours(7 * 24);
/// Whoever was refused so often has the newest.
const REJECTED_MESSAGES_MAX: i64 = 100_000;
/// Signs of life, by which readiness is told: one message a slot.
pub const PROBE: &str = "KASSA_PROBE";
/// Processes share this many subjects, and rows of the database: what was probed leaves no growing trail, and two that share
/// one only overwrite each other's last sign of life.
pub const PROBE_SLOTS: u32 = 64;
/// A sign of life that is older says nothing.
const PROBE_AGE_MAX: Duration = Duration::from_hours(1);
/// How often it is looked whether the streams are still there.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Settings of streams that may differ: what was true when it was made, and what the server or its operators add.
const STREAM_NOT_COMPARED: [&str; 4] = ["first_seq", "metadata", "description", "placement"];
/// The same for durables; and where it began says nothing once it has.
const CONSUMER_NOT_COMPARED: [&str; 7] = [
    "name",
    "durable_name",
    "description",
    "metadata",
    "opt_start_seq",
    "num_replicas",
    "max_waiting",
];

/// One setting that is not as it should be. As text: what, setting, wanted, found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// `server`, `stream NAME` or `consumer STREAM/NAME`.
    pub what: String,
    /// As it is called on the wire; `exists` when it is not there at all.
    pub setting: String,
    /// As it should be.
    pub wanted: String,
    /// As it is.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} is {}, wanted {}",
            self.what, self.setting, self.found, self.wanted
        )
    }
}

/// A durable that is there to be.
#[derive(Clone, Debug)]
pub struct Durable {
    /// Its stream.
    pub stream: String,
    /// Its settings; the name is in them.
    pub config: pull::Config,
    /// Whether it is made where it is missing; else its owner makes it, who knows where it begins.
    pub made_here: bool,
}

impl Durable {
    fn name(&self) -> &str {
        self.config.durable_name.as_deref().unwrap_or_default()
    }

    fn what(&self) -> String {
        format!("consumer {}/{}", self.stream, self.name())
    }
}

/// Everything that is there to be in one installation.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// In the order of their making.
    pub streams: Vec<Config>,
    /// After the streams.
    pub durables: Vec<Durable>,
}

/// All streams: that of the events, those that every installation has beside it, the analysts' copy, the signs of life.
///
/// # Errors
/// [`crate::RelayError`] for settings that cannot be.
pub fn streams(replicas: usize) -> Result<Vec<Config>, crate::RelayError> {
    let events = stream::Wanted {
        part: crate::PART,
        replicas,
        window: 0,
    };
    let mut all = vec![events.config()?];
    all.extend(beside(replicas));
    all.push(analytics(replicas));
    all.push(probe(replicas));
    Ok(all)
}

/// The streams that hold no events.
fn beside(replicas: usize) -> [Config; 3] {
    let basic = |name: &str, description: &str, subject: &str| Config {
        name: name.to_owned(),
        description: Some(description.to_owned()),
        subjects: vec![subject.to_owned()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_age: Duration::ZERO,
        max_bytes: BYTES_MAX,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        num_replicas: replicas,
        duplicate_window: Duration::from_mins(2),
        // A login that may make a consumer may have the server push to any subject, that of a purge too.
        deny_purge: true,
        compression: Some(Compression::None),
        ..Config::default()
    };
    [
        Config {
            retention: RetentionPolicy::WorkQueue,
            max_messages: INBOX_MESSAGES_MAX,
            max_message_size: COMMAND_BYTES_MAX,
            deny_delete: true,
            ..basic(
                INBOX,
                "commands of shops that wait for no answer; taken by the engine",
                subject::INBOX,
            )
        },
        Config {
            max_messages: LETTERS_MAX,
            max_message_size: LETTER_BYTES_MAX,
            max_age: LETTER_AGE_MAX,
            ..basic(
                dead_letter::STREAM,
                "messages that were given up, for a person: kassa dlq",
                dead_letter::FILTER,
            )
        },
        Config {
            max_messages: REJECTED_MESSAGES_MAX,
            max_message_size: COMMAND_BYTES_MAX,
            max_age: REJECTED_AGE_MAX,
            // The newest refusals are the ones that are looked for.
            discard: DiscardPolicy::Old,
            deny_delete: true,
            ..basic(
                REJECTED,
                "refused commands of the inbox, with the problem document",
                subject::REJECTED,
            )
        },
    ]
}

/// A mirror has no subjects of its own, so nothing can be published to it.
fn analytics(replicas: usize) -> Config {
    Config {
        name: ANALYTICS.to_owned(),
        description: Some("a copy of the events, for analysts".to_owned()),
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        num_replicas: replicas,
        duplicate_window: Duration::ZERO,
        deny_delete: true,
        deny_purge: true,
        mirror: Some(Source {
            name: subject::STREAM.to_owned(),
            ..Source::default()
        }),
        compression: Some(Compression::None),
        ..Config::default()
    }
}

/// Holds one message a slot, on disk as the events are, and no events. Whoever tells of its life makes it where it is missing.
#[must_use]
pub fn probe(replicas: usize) -> Config {
    Config {
        name: PROBE.to_owned(),
        description: Some("signs of life, by which readiness is told; disposable".to_owned()),
        subjects: vec!["kassa.probe.*".to_owned()],
        storage: StorageType::File,
        num_replicas: replicas,
        max_messages_per_subject: 1,
        max_messages: i64::from(PROBE_SLOTS),
        max_message_size: 1024,
        max_bytes: 256 * 1024,
        max_age: PROBE_AGE_MAX,
        max_consumers: -1,
        duplicate_window: Duration::from_mins(2),
        compression: Some(Compression::None),
        ..Config::default()
    }
}

/// In what the server differs. Changes nothing.
///
/// # Errors
/// When the server does not answer, or may not be asked.
pub async fn compare(jetstream: &Context, wanted: &Wanted) -> anyhow::Result<Vec<Difference>> {
    let mut all = server(jetstream).await?;
    for config in &wanted.streams {
        match found_stream(jetstream, &config.name).await? {
            Some(found) => all.extend(in_stream(config, &found)),
            None => all.push(missing(format!("stream {}", config.name))),
        }
    }
    for durable in &wanted.durables {
        match found_consumer(jetstream, durable).await? {
            Some(found) => all.extend(in_consumer(durable, &found)),
            None if durable.made_here => all.push(missing(durable.what())),
            None => {}
        }
    }
    Ok(all)
}

/// Makes what is missing and sets right what can be changed; what differs afterwards, a person must look at.
///
/// # Errors
/// When the server does not answer, may not be asked, or refuses a change.
pub async fn setup(jetstream: &Context, wanted: &Wanted) -> anyhow::Result<Vec<Difference>> {
    let mut left = server(jetstream).await?;
    if !left.is_empty() {
        // A server that drops settings is not to be given any.
        return Ok(left);
    }
    for config in &wanted.streams {
        match found_stream(jetstream, &config.name).await? {
            None => {
                jetstream.create_stream(config.clone()).await?;
            }
            Some(found) if !in_stream(config, &found).is_empty() => {
                let updated = Config {
                    // Cannot be changed.
                    first_sequence: found.first_sequence,
                    placement: found.placement.clone(),
                    ..config.clone()
                };
                if let Err(error) = jetstream.update_stream(updated).await {
                    tracing::warn!(stream = config.name, %error, "the stream could not be set right");
                }
            }
            Some(_) => {}
        }
    }
    for durable in &wanted.durables {
        let found = found_consumer(jetstream, durable).await?;
        let config = match &found {
            None if durable.made_here => durable.config.clone(),
            Some(found) if !in_consumer(durable, found).is_empty() => pull::Config {
                deliver_policy: found.deliver_policy,
                ..durable.config.clone()
            },
            _ => continue,
        };
        if let Err(error) = jetstream
            .create_consumer_on_stream(config, durable.stream.as_str())
            .await
        {
            tracing::warn!(stream = durable.stream, durable = durable.name(), %error, "the durable could not be made or set right");
        }
    }
    left.extend(compare(jetstream, wanted).await?);
    Ok(left)
}

/// Keeps the streams beside that of the events there, for as long as the relay runs. One that differs is told and left: no
/// payment hangs on it.
pub(crate) async fn keep(jetstream: &Context, replicas: usize, shutdown: &CancellationToken) {
    let mut told: Vec<String> = Vec::new();
    while !shutdown.is_cancelled() {
        for config in beside(replicas) {
            let trouble = match found_stream(jetstream, &config.name).await {
                Ok(Some(found)) => in_stream(&config, &found).first().map(ToString::to_string),
                Ok(None) => match jetstream.create_stream(config.clone()).await {
                    Ok(_) => {
                        tracing::info!(stream = config.name, "the stream was made");
                        None
                    }
                    Err(error) => Some(error.to_string()),
                },
                // Away: the relay itself tells.
                Err(_) => None,
            };
            if let Some(trouble) = trouble
                && !told.contains(&trouble)
                // Each once; a server that thinks of more kinds of trouble than this is told of elsewhere.
                && told.len() < 16
            {
                tracing::error!(
                    stream = config.name,
                    trouble,
                    "a stream is not as it should be: kassa nats setup --dry-run"
                );
                told.push(trouble);
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn server(jetstream: &Context) -> anyhow::Result<Vec<Difference>> {
    let account = jetstream.query_account().await?;
    let version = jetstream.client().server_info().version;
    let mut all = Vec::new();
    if Version::parse(&version).is_none_or(|version| version < SERVER_MIN) {
        all.push(Difference {
            what: "server".to_owned(),
            setting: "version".to_owned(),
            wanted: format!("{SERVER_MIN} or newer"),
            found: version,
        });
    }
    if account.requests.level < API_LEVEL_MIN {
        all.push(Difference {
            what: "server".to_owned(),
            setting: "api_level".to_owned(),
            wanted: format!("at least {API_LEVEL_MIN}"),
            found: account.requests.level.to_string(),
        });
    }
    Ok(all)
}

async fn found_stream(jetstream: &Context, name: &str) -> anyhow::Result<Option<Config>> {
    match jetstream.get_stream(name).await {
        Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
        Err(error) if stream::is_missing(&error.kind()) => Ok(None),
        Err(error) => Err(anyhow::Error::from(error).context(format!("looking for the stream {name}"))),
    }
}

async fn found_consumer(jetstream: &Context, durable: &Durable) -> anyhow::Result<Option<consumer::Config>> {
    use async_nats::jetstream::{ErrorCode, stream::ConsumerErrorKind};
    let found: Result<consumer::PullConsumer, _> = jetstream
        .get_consumer_from_stream(durable.name(), durable.stream.as_str())
        .await;
    match found {
        Ok(found) => Ok(Some(found.cached_info().config.clone())),
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(cause)
                if matches!(
                    cause.error_code(),
                    ErrorCode::CONSUMER_NOT_FOUND | ErrorCode::STREAM_NOT_FOUND
                ) =>
            {
                Ok(None)
            }
            _ => Err(anyhow::Error::from(error).context(format!("looking for the {}", durable.what()))),
        },
    }
}

fn missing(what: String) -> Difference {
    Difference {
        what,
        setting: "exists".to_owned(),
        wanted: "yes".to_owned(),
        found: "no".to_owned(),
    }
}

fn in_stream(wanted: &Config, found: &Config) -> Vec<Difference> {
    differences(
        &format!("stream {}", wanted.name),
        &stream::settings(wanted),
        &stream::settings(found),
        &STREAM_NOT_COMPARED,
    )
}

fn in_consumer(durable: &Durable, found: &consumer::Config) -> Vec<Difference> {
    let settings = |config: &consumer::Config| match serde_json::to_value(config) {
        Ok(Value::Object(settings)) => settings,
        other => unreachable!("a durable's configuration is a JSON object, not {other:?}"),
    };
    let config = durable.config.clone();
    let mut not_compared = CONSUMER_NOT_COMPARED.to_vec();
    if !durable.made_here || !matches!(config.deliver_policy, DeliverPolicy::All) {
        not_compared.push("deliver_policy");
    }
    let wanted = config.into_consumer_config();
    differences(
        &durable.what(),
        &settings(&wanted),
        &settings(found),
        &not_compared,
    )
}

fn differences(
    what: &str,
    wanted: &Map<String, Value>,
    found: &Map<String, Value>,
    not_compared: &[&str],
) -> Vec<Difference> {
    // Absent, empty and zero are one to the server.
    let plain = |value: Option<&Value>| {
        value
            .filter(|value| match value {
                Value::Null | Value::Bool(false) => false,
                Value::Number(number) => number.as_i64() != Some(0),
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(fields) => !fields.is_empty(),
                Value::Bool(true) => true,
            })
            .cloned()
    };
    let mut names: Vec<_> = wanted.keys().chain(found.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| !not_compared.contains(&name.as_str()))
        .filter_map(|name| {
            let (wanted, found) = (plain(wanted.get(name)), plain(found.get(name)));
            let shown = |value: Option<Value>| value.map_or("nothing".to_owned(), |value| value.to_string());
            (wanted != found).then(|| Difference {
                what: what.to_owned(),
                setting: name.clone(),
                wanted: shown(wanted),
                found: shown(found),
            })
        })
        .collect()
}
