//! What does the stream hold? Every message by its sequence, asked for as the relay's login may.

use async_nats::jetstream::{self, stream::LastRawMessageErrorKind};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kassa_chassis::{bus, config::Config};
use kassa_events_schema::{headers, subject};
use serde_json::{Value, json};

use super::{Folder, Line};
use crate::{exit::Ended, nats_login};

/// Questions on their way at once; the server answers them one by one, and this hides the way.
const IN_FLIGHT: usize = 256;

pub(super) async fn write(folder: &Folder, config: &Config) -> anyhow::Result<(String, u64)> {
    let name = "bus.ndjson";
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
    let of = subject::stream_name(0);
    let mut file = folder.file(name)?;
    let held = jetstream.get_stream(&of).await.map_err(|error| {
        Ended::new(
            Ended::UNREACHABLE,
            format!("the stream {of} cannot be asked: {error}"),
        )
        .hint("--without-bus leaves it out; kassa doctor tells what is wrong with it")
    })?;
    let state = held.cached_info().state.clone();
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
    Ok((name.to_owned(), file.finish()?))
}
