//! What is the stream like, and is the one that is there still so?

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::{
        Compression, Config, DiscardPolicy, Info, PersistenceMode, Republish, RetentionPolicy, StorageType,
        Stream,
    },
};
use kassa_event_store::Store;
use kassa_events_schema::subject;
use serde_json::{Map, Value};
use std::time::Duration;

use crate::{error::RelayError, relay::unsigned};

/// Atomic batches came with 2.12; this is the oldest release of it that kassa is run on. Servers before it take settings
/// that they do not know without a word and drop them, so the version is asked for, and the settings are compared.
pub(crate) const SERVER_MIN: Version = Version([2, 12, 6]);
/// Atomic batches.
pub(crate) const API_LEVEL_MIN: usize = 2;

/// The settings that may differ: what was true when the stream was made, and what the server or its operators add.
const NOT_COMPARED: [&str; 4] = ["first_seq", "metadata", "description", "placement"];

/// What the stream of a part is to be like.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) part: i32,
    pub(crate) replicas: usize,
    /// How many of the newest events it is filled with when it is made anew.
    pub(crate) window: u64,
}

impl Wanted {
    /// # Errors
    /// [`RelayError::Position`] for a negative part.
    pub(crate) fn name(&self) -> Result<String, RelayError> {
        Ok(subject::stream_name(self.part()?))
    }

    fn part(&self) -> Result<u32, RelayError> {
        u32::try_from(self.part).map_err(|_| RelayError::Position(self.part.into()))
    }

    /// Whatever the server would otherwise choose is said, so that every difference is one.
    pub(crate) fn config(&self) -> Result<Config, RelayError> {
        let part = self.part()?;
        Ok(Config {
            name: subject::stream_name(part),
            description: Some(
                "stored events of kassa; sequence = position; written by the relay alone".to_owned(),
            ),
            subjects: vec![subject::part_filter(part)],
            storage: StorageType::File,
            retention: RetentionPolicy::Limits,
            // No limits: consumers may be days behind. Should an account have one, refuse the newest, which comes
            // again, rather than drop the oldest, which may be unread.
            discard: DiscardPolicy::New,
            max_age: Duration::ZERO,
            max_bytes: -1,
            max_messages: -1,
            max_messages_per_subject: -1,
            max_message_size: -1,
            max_consumers: -1,
            num_replicas: self.replicas,
            // The server's own default. Nothing hangs on it: a repeat is refused by the fence, however late it comes.
            duplicate_window: Duration::from_mins(2),
            deny_delete: true,
            deny_purge: true,
            allow_atomic_publish: true,
            republish: Some(Republish {
                source: subject::REPUBLISH_SOURCE.to_owned(),
                destination: subject::LIVE.to_owned(),
                headers_only: false,
            }),
            compression: Some(Compression::None),
            ..Config::default()
        })
    }
}

/// A stream that is as it should be, and how it stood a moment ago.
pub(crate) type Checked = Stream<Info>;

/// Finds the stream, or makes it; in either case it is compared with what was asked for.
///
/// # Errors
/// [`RelayError::ServerTooOld`], [`RelayError::Drift`], or what heals by itself.
pub(crate) async fn ensure(
    jetstream: &Context,
    wanted: &Wanted,
    store: &Store,
) -> Result<Checked, RelayError> {
    check_server(jetstream).await?;
    let config = wanted.config()?;
    let stream = match jetstream.get_stream(&config.name).await {
        Ok(stream) => stream,
        Err(error) if is_missing(&error.kind()) => match make(jetstream, &config, wanted, store).await? {
            Some(stream) => stream,
            // Another relay made it first.
            None => jetstream
                .get_stream(&config.name)
                .await
                .map_err(|error| RelayError::bus("looking for the stream")(error.into()))?,
        },
        Err(error) => return Err(RelayError::bus("looking for the stream")(error.into())),
    };
    compare(&config, &stream.cached_info().config)?;
    Ok(stream)
}

async fn check_server(jetstream: &Context) -> Result<(), RelayError> {
    let account = jetstream
        .query_account()
        .await
        .map_err(|error| RelayError::bus("asking for the JetStream API level")(error.into()))?;
    let version = jetstream.client().server_info().version;
    let level = account.requests.level;
    if level < API_LEVEL_MIN || Version::parse(&version).is_none_or(|version| version < SERVER_MIN) {
        return Err(RelayError::ServerTooOld { version, level });
    }
    Ok(())
}

/// `None` when it is there by now, possibly with another beginning.
async fn make(
    jetstream: &Context,
    config: &Config,
    wanted: &Wanted,
    store: &Store,
) -> Result<Option<Stream>, RelayError> {
    let head = unsigned(store.head(wanted.part).await?)?;
    let first = (head + 1).saturating_sub(wanted.window).max(1);
    let config = Config {
        first_sequence: Some(first),
        ..config.clone()
    };
    match jetstream.create_stream(&config).await {
        Ok(stream) => {
            tracing::info!(
                stream = config.name,
                first_sequence = first,
                "the stream was made; it is filled from the store"
            );
            if head > 0 {
                tracing::warn!(
                    stream = config.name,
                    "durables of shops, such as ship-…, are gone with the stream that was there before: run kassa nats setup"
                );
            }
            Ok(Some(stream))
        }
        Err(error) => match error.kind() {
            CreateStreamErrorKind::JetStream(refused)
                if refused.error_code() == ErrorCode::STREAM_NAME_EXIST =>
            {
                Ok(None)
            }
            _ => Err(RelayError::bus("making the stream")(error.into())),
        },
    }
}

pub(crate) fn is_missing(kind: &GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

fn compare(wanted: &Config, found: &Config) -> Result<(), RelayError> {
    let (wanted_settings, found_settings) = (settings(wanted), settings(found));
    let names = wanted_settings.keys().chain(found_settings.keys());
    for setting in names.filter(|name| !NOT_COMPARED.contains(&name.as_str())) {
        let (wanted_value, found_value) = (wanted_settings.get(setting), found_settings.get(setting));
        if wanted_value != found_value {
            let shown = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            return Err(RelayError::Drift {
                stream: wanted.name.clone(),
                setting: setting.clone(),
                wanted: shown(wanted_value),
                found: shown(found_value),
            });
        }
    }
    Ok(())
}

/// By their names on the wire, so that one that the library learns later is compared as well.
pub(crate) fn settings(config: &Config) -> Map<String, Value> {
    let config = Config {
        // Servers leave the default out; should one say it, that is no difference.
        persist_mode: config
            .persist_mode
            .filter(|mode| *mode != PersistenceMode::Default),
        ..config.clone()
    };
    match serde_json::to_value(config) {
        Ok(Value::Object(settings)) => settings,
        other => unreachable!("a stream's configuration is a JSON object, not {other:?}"),
    }
}

/// Major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version([u32; 3]);

impl Version {
    /// `2.12.6`, `v2.12.6` or `2.12.6-RC.1`, which is taken for the release that it leads to.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let plain = text.strip_prefix('v').unwrap_or(text).split(['-', '+']).next()?;
        let mut numbers = plain.split('.').map(|number| number.parse().ok());
        let version = [numbers.next()??, numbers.next()??, numbers.next()??];
        numbers.next().is_none().then_some(Self(version))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Config {
        Wanted {
            part: 0,
            replicas: 1,
            window: 10,
        }
        .config()
        .unwrap()
    }

    #[test]
    fn versions_are_compared_as_numbers_and_what_is_none_is_too_old() {
        let new_enough = |text| Version::parse(text).is_some_and(|version| version >= SERVER_MIN);
        for text in ["2.12.6", "v2.12.10", "2.15.1", "3.0.0", "2.13.0-RC.1"] {
            assert!(new_enough(text), "{text}");
        }
        for text in ["2.12.5", "2.9.10", "1.99.99", "", "2.12", "2.15.x", "2.15.1.1"] {
            assert!(!new_enough(text), "{text}");
        }
    }

    type Change = fn(&mut Config);

    #[test]
    fn a_difference_is_named_whichever_side_has_it() {
        assert!(compare(&wanted(), &wanted()).is_ok());
        let changes: [(&str, Change); 5] = [
            ("max_age", |config| config.max_age = Duration::from_hours(1)),
            ("republish", |config| config.republish = None),
            ("allow_atomic", |config| config.allow_atomic_publish = false),
            ("sealed", |config| config.sealed = true),
            ("num_replicas", |config| config.num_replicas = 3),
        ];
        for (setting, change) in changes {
            let mut changed = wanted();
            change(&mut changed);
            for (asked, found) in [(wanted(), changed.clone()), (changed, wanted())] {
                match compare(&asked, &found) {
                    Err(RelayError::Drift { setting: named, .. }) => assert_eq!(named, setting),
                    other => panic!("{setting}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn where_a_stream_began_is_no_drift() {
        let begun = Config {
            first_sequence: Some(77),
            ..wanted()
        };
        assert!(compare(&wanted(), &begun).is_ok());
    }
}
