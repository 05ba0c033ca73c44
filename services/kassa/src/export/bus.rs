//! What does the stream hold? Every message by its sequence, asked for as the relay's login may.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    stream::{Config as StreamConfig, DiscardPolicy, LastRawMessageErrorKind, Stream},
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kassa_chassis::{bus, config::Config};
use kassa_events_schema::{headers, subject};
use serde_json::{Value, json};

use super::{Folder, Line};
use crate::{
    exit::Ended,
    nats_login::{self, Bus},
};

pub(super) const FILE: &str = "bus.ndjson";
/// Questions on their way at once; the server answers them one by one, and this hides the way.
const IN_FLIGHT: usize = 256;

/// The stream, before anything of it is read.
pub(super) struct Held {
    name: String,
    stream: Stream,
    /// For as long as it is asked.
    _connected: Bus,
}

/// # Errors
/// [`Ended`] where the bus or its stream cannot be asked.
pub(super) async fn find(config: &Config) -> anyhow::Result<Held> {
    let options = bus::options(&config.nats.url, &config.nats.relay)?;
    let connected = nats_login::connect(&config.nats.url, options, "kassa export")
        .await
        .map_err(|error| match error.downcast::<Ended>() {
            Ok(ended) => anyhow::Error::from(
                ended.hint("--without-bus leaves the stream out; nats.relay is the login"),
            ),
            Err(error) => error,
        })?;
    let jetstream = jetstream::new(connected.client.clone());
    let name = subject::stream_name(0);
    let stream = jetstream
        .get_stream(&name)
        .await
        .map_err(|error| gone(&name, &error))?;
    Ok(Held {
        name,
        stream,
        _connected: connected,
    })
}

fn gone(stream: &str, error: &dyn std::fmt::Display) -> Ended {
    Ended::new(
        Ended::UNREACHABLE,
        format!("the stream {stream} cannot be asked: {error}"),
    )
    .hint("--without-bus leaves it out; kassa doctor tells what is wrong with it")
}

/// Where a stream was told to begin; none where it may have forgotten what it held since.
fn begins(config: &StreamConfig) -> Option<u64> {
    let keeps = config.max_age == Duration::ZERO
        && config.max_messages_per_subject <= 0
        && (config.discard == DiscardPolicy::New || (config.max_messages <= 0 && config.max_bytes <= 0));
    keeps.then(|| config.first_sequence.unwrap_or(1).max(1))
}

/// The number of messages, and where the stream begins, where that is known.
pub(super) async fn write(folder: &Folder, held: Held) -> anyhow::Result<(u64, Option<u64>)> {
    let Held {
        name: of,
        stream: mut held,
        _connected,
    } = held;
    let info = held.info().await.map_err(|error| gone(&of, &error))?;
    let (state, begins) = (info.state.clone(), begins(&info.config));
    let mut file = folder.file(FILE)?;
    let mut messages = stream::iter(state.first_sequence.max(1)..=state.last_sequence)
        .map(|sequence| {
            let held = &held;
            async move {
                match held.get_raw_message(sequence).await {
                    Ok(message) => Ok(Some(message)),
                    // Nothing is ever deleted; if something was, its absence is the finding.
                    Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                    Err(error) => Err(anyhow::anyhow!("message {sequence} cannot be read: {error}")),
                }
            }
        })
        .buffered(IN_FLIGHT);
    let mut line = Line::default();
    while let Some(message) = messages.try_next().await? {
        let Some(message) = message else { continue };
        line.put("stream", &of)?;
        line.put("sequence", message.sequence)?;
        line.put("subject", message.subject.as_str())?;
        let id = message.headers.get(headers::MSG_ID).map(|id| id.as_str());
        line.put("msg_id", id)?;
        match serde_json::from_slice::<Value>(&message.payload) {
            Ok(_) if !message.payload.contains(&b'\n') => line.raw("data", &message.payload),
            _ => line.put(
                "data",
                json!({ "base64": data_encoding::BASE64.encode(&message.payload) }),
            )?,
        }
        line.end(&mut file)?;
    }
    Ok((file.finish()?, begins))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_forgets_has_no_beginning_that_is_known() {
        let kept = StreamConfig {
            discard: DiscardPolicy::New,
            ..StreamConfig::default()
        };
        assert_eq!(begins(&kept), Some(1));
        let anew = StreamConfig {
            first_sequence: Some(77),
            ..kept.clone()
        };
        assert_eq!(begins(&anew), Some(77));
        let for_an_hour = StreamConfig {
            max_age: Duration::from_hours(1),
            ..kept.clone()
        };
        assert_eq!(begins(&for_an_hour), None);
        let the_newest = StreamConfig {
            discard: DiscardPolicy::Old,
            max_messages: 1_000,
            ..kept
        };
        assert_eq!(begins(&the_newest), None);
    }
}
