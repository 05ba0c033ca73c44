//! What becomes of a command that waits for nobody? `kassa.inbox.{shop}.{verb}` takes the bodies and headers of `kassa.cmd`
//! into a stream; it is decided when its turn comes, and the shop hears of what came of it by events, or of a refusal on
//! `kassa.rejected.{shop}.{verb}`.
//!
//! Every message may come twice: the command log knows the Idempotency-Key, so it has its effect once. Commands are taken
//! side by side: a shop that needs one to follow the other waits for the first one's event.

use std::{sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{Context, Message},
};
use bytes::Bytes;
use kassa_chassis::{
    bus::{self, Disposition, Work},
    micro::Asked,
    problem::{Problem, refusal_headers},
};
use kassa_events_schema::subject;
use tokio_util::sync::CancellationToken;

use crate::service::{Commands, SERVICE};

const PREFIX: &str = "kassa.inbox";
/// Commands under way at once; each waits for a commit, and they share commits.
const CONCURRENCY: usize = 32;
/// Some hour and a half with the pauses between them: longer than a restart or a failover of the database.
const DELIVERIES_MAX: i64 = 100;
/// Before a refusal is published again that could not be; what was refused is not decided again, it is looked up.
const REJECT_AGAIN: Duration = Duration::from_secs(5);
/// What a refusal carries of the command, so that the shop finds what it belongs to.
const KEPT: [&str; 4] = ["Idempotency-Key", "Correlation-Id", "traceparent", "tracestate"];

/// The durable, and how it is read.
#[must_use]
pub fn inbox() -> Work {
    Work {
        stream: subject::INBOX_STREAM.to_owned(),
        durable: "engine-inbox".to_owned(),
        filter: subject::INBOX.to_owned(),
        ack_wait: Duration::from_secs(30),
        concurrency: CONCURRENCY,
        start_sequence: 1,
        deliveries_max: Some(DELIVERIES_MAX),
    }
}

pub(crate) async fn run(
    commands: Arc<Commands>,
    jetstream: Context,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    bus::consume(&jetstream, &inbox(), &shutdown, |message| {
        let (commands, jetstream) = (commands.clone(), jetstream.clone());
        async move { take(&commands, &jetstream, &message).await }
    })
    .await
}

async fn take(commands: &Commands, jetstream: &Context, message: &Message) -> Disposition {
    let tokens: Vec<&str> = message.subject.split('.').collect();
    let [_, _, shop, verb] = tokens[..] else {
        return Disposition::ParkUnread(format!(
            "its subject is not of the form {PREFIX}.{{shop}}.{{verb}}"
        ));
    };
    let problem = if SERVICE.verbs.contains(&verb) {
        let mut headers = message.headers.clone().unwrap_or_default();
        // Nobody waits for the redirect.
        headers.insert("Prefer", "wait=0");
        let asked = Asked {
            shop: shop.to_owned(),
            verb: verb.to_owned(),
            headers: Some(headers),
            body: message.payload.clone(),
        };
        match commands.answer(&asked).await.result {
            Ok(_) => {
                tracing::info!(shop, verb, result = "ok", "command of the inbox");
                return Disposition::Settle;
            }
            Err(problem) => problem,
        }
    } else {
        Box::new(Problem::of(
            "not_found",
            "there is no such verb",
            format!(
                "publish on {PREFIX}.<shop>.<verb> with one of {}",
                SERVICE.verbs.join(", ")
            ),
        ))
    };
    if is_ours(&problem) {
        return Disposition::Failed(format!("{}: {}", problem.code, problem.detail));
    }
    tracing::info!(shop, verb, result = problem.code, "command of the inbox");
    if let Err(error) = reject(jetstream, message, shop, verb, &problem).await {
        tracing::warn!(
            shop,
            verb,
            error = format!("{error:#}"),
            "a refusal could not be published yet"
        );
        return Disposition::RetryAfter(REJECT_AGAIN);
    }
    if is_undecodable(&problem) {
        // The shop's program is wrong, which the shop may not notice: a person can ask the shop for what it sent.
        Disposition::ParkUnread(format!("{}: {}", problem.code, problem.detail))
    } else {
        Disposition::Settle
    }
}

/// Whether the same command may be accepted later.
fn is_ours(problem: &Problem) -> bool {
    problem.status >= 500 || problem.status == 429 || problem.code == "idempotency_in_flight"
}

/// Whether nothing could be read. Not what holds a card number: that is kept nowhere.
fn is_undecodable(problem: &Problem) -> bool {
    matches!(problem.status, 413 | 415)
        || problem
            .errors
            .iter()
            // `invalid` as a whole: JSON, and no object.
            .any(|error| error.pointer.is_empty() && matches!(error.code.as_str(), "malformed" | "invalid"))
}

/// Tells the shop, at once where it listens and later where it was away.
async fn reject(
    jetstream: &Context,
    message: &Message,
    shop: &str,
    verb: &str,
    problem: &Problem,
) -> anyhow::Result<()> {
    let mut headers = HeaderMap::new();
    for name in KEPT {
        if let Some(value) = message.headers.as_ref().and_then(|headers| headers.get(name)) {
            headers.insert(name, value.clone());
        }
    }
    refusal_headers(&mut headers, problem);
    let info = message.info().map_err(anyhow::Error::from_boxed)?;
    // Delivered twice, told once.
    let id = format!(
        "{}:{}:{}",
        info.stream,
        info.stream_sequence,
        info.published.unix_timestamp()
    );
    headers.insert("Nats-Msg-Id", id.as_str());
    let body = Bytes::from(serde_json::to_vec(problem)?);
    jetstream
        .publish_with_headers(subject::rejected(shop, verb), headers, body)
        .await?
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kassa_chassis::problem::FieldError;

    #[test]
    fn what_cannot_be_read_is_told_to_a_person_and_what_holds_a_card_number_is_not() {
        let malformed = Problem::validation(vec![FieldError::new("", "malformed", "must be JSON")]);
        let array = Problem::validation(vec![FieldError::new("", "invalid", "must be a JSON object")]);
        let wrong = Problem::validation(vec![FieldError::new("/amount", "required", "must be given")]);
        let card = Problem::of("card_data_refused", "d", "h").with_errors(vec![FieldError::new(
            "",
            "card_data",
            "d",
        )]);
        let large = Problem::of("payload_too_large", "d", "h");
        assert!(is_undecodable(&malformed) && is_undecodable(&array) && is_undecodable(&large));
        assert!(!is_undecodable(&wrong) && !is_undecodable(&card));
    }

    #[test]
    fn only_what_time_can_mend_is_tried_again() {
        assert!(is_ours(&Problem::store_unavailable()) && is_ours(&Problem::overloaded()));
        assert!(!is_ours(&Problem::not_found("order")) && !is_ours(&Problem::unknown_shop()));
    }
}
