//! What was given up on the bus, why, and what is to become of it? A person looks, has it done again, or drops it.
//!
//! A command of the inbox is put into the inbox again, with its Idempotency-Key: the command log knows whether it was done.
//! An event is done again by the consumer that gave up on it, which reads it from the stream itself. Nothing is ever
//! published as a command that somebody waits for, as an event, or on a live subject.

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Context as _;
use async_nats::{
    HeaderMap,
    jetstream::{
        self,
        message::StreamMessage,
        stream::{RawMessageErrorKind, Stream},
    },
};
use clap::{Args, Subcommand};
use kassa_events_schema::{
    dead_letter::{self, DeadLetter, Redeliver, Redelivered},
    subject,
};
use kassa_infra::nats::INBOX_DURABLE;
use serde_json::{Value, json};

use crate::{
    exit::Ended,
    nats_login::{Bus, NatsArgs},
    output::{self, Column, Format, Output},
};

/// A handler may take as long as a message may be unsettled.
const REDELIVER_MAX: Duration = Duration::from_secs(30);
/// Bytes of a body that are shown; it is a page of JSON at most.
const SHOWN_MAX: usize = 64 * 1024;

/// Dead letters: messages that were given up, and wait for a person.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa dlq ls --context operator
  kassa dlq show 17
  kassa dlq replay 17 18")]
pub(crate) enum DlqVerb {
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    Show(ShowArgs),
    Replay(ReplayArgs),
    Drop(DropArgs),
}

/// Lists dead letters, oldest first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa dlq ls
  kassa dlq ls --consumer engine-inbox --shop my-shop
  kassa dlq ls --format ndjson | jq -r .error | sort | uniq -c")]
pub(crate) struct LsArgs {
    /// Only what this durable gave up.
    #[arg(long, value_parser = token)]
    consumer: Option<String>,
    #[arg(long, value_parser = token)]
    shop: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    output: Output,
}

/// Shows one dead letter with its headers and its body. Of a command that could not be read there is none (`null`), only its
/// length and hash: it may have held a card number or an address.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa dlq show 17
  kassa dlq show 17 | jq -r .body
  kassa dlq show 17 --context operator | jq .headers")]
pub(crate) struct ShowArgs {
    /// As `kassa dlq ls` numbers them.
    number: u64,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Has dead letters done again; each is removed once that is certain.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa dlq replay 17
  kassa dlq replay 17 18 19 --context operator
  kassa dlq ls --consumer engine-inbox --format ndjson | jq .number | xargs kassa dlq replay")]
pub(crate) struct ReplayArgs {
    #[arg(required = true)]
    numbers: Vec<u64>,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Removes dead letters for good.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa dlq drop 17
  kassa dlq drop 17 18 19 --context operator
  kassa dlq ls --shop gone --format ndjson | jq .number | xargs kassa dlq drop")]
pub(crate) struct DropArgs {
    #[arg(required = true)]
    numbers: Vec<u64>,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Where a letter goes when it is done again.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// To the inbox, under the subject that it came by.
    Inbox(String),
    /// To the consumer that gave up, by a request on this subject.
    Consumer { subject: String, sequence: u64 },
}

fn token(text: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    fits.then(|| text.to_owned())
        .ok_or_else(|| "1 to 64 letters, digits, - and _".to_owned())
}

pub(crate) async fn run(verb: DlqVerb, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let nats = match &verb {
        DlqVerb::Ls(args) => &args.nats,
        DlqVerb::Show(args) => &args.nats,
        DlqVerb::Replay(args) => &args.nats,
        DlqVerb::Drop(args) => &args.nats,
    };
    let bus = nats.connect(file, "kassa dlq").await?;
    let letters = Letters { bus: bus.clone() };
    let work = async {
        match &verb {
            DlqVerb::Ls(args) => letters.ls(args).await,
            DlqVerb::Show(args) => letters.show(args.number).await,
            DlqVerb::Replay(args) => letters.each(&args.numbers, Doing::Replay).await,
            DlqVerb::Drop(args) => letters.each(&args.numbers, Doing::Drop).await,
        }
    };
    tokio::select! {
        done = work => done,
        refused = bus.refusal() => {
            Err(refused.hint("use the login of operator, with --context or --nats-url").into())
        }
    }
}

#[derive(Clone, Copy)]
enum Doing {
    Replay,
    Drop,
}

struct Letters {
    bus: Bus,
}

impl Letters {
    async fn stream(&self) -> anyhow::Result<Stream> {
        jetstream::new(self.bus.client.clone())
            .get_stream(dead_letter::STREAM)
            .await
            .map_err(|error| {
                Ended::new(
                    Ended::UNREACHABLE,
                    format!("the stream {} cannot be read: {error}", dead_letter::STREAM),
                )
                .hint("the relay makes it; or run kassa nats setup")
                .into()
            })
    }

    async fn ls(&self, args: &LsArgs) -> anyhow::Result<ExitCode> {
        let any = "*".to_owned();
        let filter = format!(
            "kassa.dlq.{}.{}.>",
            args.consumer.as_ref().unwrap_or(&any),
            args.shop.as_ref().unwrap_or(&any)
        );
        let stream = self.stream().await?;
        let mut documents = Vec::new();
        let mut next = 1;
        while documents.len() < usize::try_from(args.limit).unwrap_or(usize::MAX) {
            match stream.get_first_raw_message_by_subject(&filter, next).await {
                Ok(letter) => {
                    next = letter.sequence + 1;
                    documents.push(summary(&letter));
                }
                Err(error) if is_none(&error.kind()) => break,
                Err(error) => return Err(error).context("the dead letters cannot be read"),
            }
        }
        let columns = [
            column("number", |letter| letter["number"].to_string()),
            column("consumer", |letter| text(letter, "consumer")),
            column("shop", |letter| text(letter, "shop")),
            column("about", |letter| text(letter, "about")),
            column("deliveries", |letter| letter["deliveries"].to_string()),
            column("time", |letter| text(letter, "time")),
            column("error", |letter| text(letter, "error")),
        ];
        output::list(&documents, &columns, args.output.or(Format::Ndjson))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn letter(&self, stream: &Stream, number: u64) -> anyhow::Result<StreamMessage> {
        match stream.get_raw_message(number).await {
            Ok(letter) => Ok(letter),
            Err(error) if is_none(&error.kind()) => Err(Ended::new(
                Ended::NOT_FOUND,
                format!("there is no dead letter {number}"),
            )
            .hint("kassa dlq ls numbers those that there are")
            .into()),
            Err(error) => Err(error).context("the dead letter cannot be read"),
        }
    }

    async fn show(&self, number: u64) -> anyhow::Result<ExitCode> {
        let letter = self.letter(&self.stream().await?, number).await?;
        let mut document = summary(&letter);
        let headers: serde_json::Map<String, Value> = letter
            .headers
            .iter()
            .filter_map(|(name, values)| Some((name.to_string(), values.first()?.as_str().into())))
            .collect();
        document["headers"] = headers.into();
        document["body"] = if is_withheld(&letter.headers) {
            let header = |name: &str| letter.headers.get(name).map(ToString::to_string);
            document["body_bytes"] =
                json!(header(dead_letter::BODY_BYTES).and_then(|n| n.parse::<u64>().ok()));
            document["body_sha256"] = json!(header(dead_letter::BODY_SHA256));
            Value::Null
        } else {
            let shown = &letter.payload[..letter.payload.len().min(SHOWN_MAX)];
            String::from_utf8_lossy(shown).into_owned().into()
        };
        output::print(&format!("{}\n", serde_json::to_string_pretty(&document)?))?;
        Ok(ExitCode::SUCCESS)
    }

    /// One after the other; the first that cannot be done ends it, and says how far it came.
    async fn each(&self, numbers: &[u64], doing: Doing) -> anyhow::Result<ExitCode> {
        let stream = self.stream().await?;
        for number in numbers {
            let letter = self.letter(&stream, *number).await?;
            let detail = match doing {
                Doing::Replay => self.replay(&letter).await?,
                Doing::Drop => "dropped".to_owned(),
            };
            // A crash before this line: it is done again, and the command log or the consumer's own inbox knows it.
            stream
                .delete_message(*number)
                .await
                .with_context(|| format!("{number} was done, and could not be removed"))?;
            output::print(&format!("{number}  {detail}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn replay(&self, letter: &StreamMessage) -> anyhow::Result<String> {
        let number = letter.sequence;
        match target(&letter.subject, &letter.headers)
            .map_err(|why| Ended::new(Ended::REFUSED, format!("{number} is not replayed: {why}")))?
        {
            Target::Inbox(subject) => {
                let mut headers = HeaderMap::new();
                for (name, values) in letter.headers.iter() {
                    if DeadLetter::keeps(name.as_ref()) {
                        values
                            .iter()
                            .for_each(|value| headers.append(name.clone(), value.clone()));
                    }
                }
                jetstream::new(self.bus.client.clone())
                    .publish_with_headers(subject.clone(), headers, letter.payload.clone())
                    .await?
                    .await
                    .with_context(|| format!("{number} could not be put into the inbox again"))?;
                Ok(format!("put into {subject} again"))
            }
            Target::Consumer { subject, sequence } => {
                let request = async_nats::Request::new()
                    .payload(serde_json::to_vec(&Redeliver { sequence })?.into())
                    .timeout(Some(REDELIVER_MAX));
                let answer = self
                    .bus
                    .client
                    .send_request(subject.clone(), request)
                    .await
                    .map_err(|error| {
                        Ended::new(
                            Ended::UNREACHABLE,
                            format!("nobody does {number} again: {error} on {subject}"),
                        )
                        .hint("start the service that gave up on it; one of a single shop delivers again by a new durable")
                    })?;
                let answer: Redelivered = serde_json::from_slice(&answer.payload)?;
                if answer.settled {
                    Ok(answer.detail)
                } else {
                    Err(Ended::new(
                        Ended::REFUSED,
                        format!("{number} failed again: {}", output::printable(&answer.detail)),
                    )
                    .into())
                }
            }
        }
    }
}

/// `kept` is the subject of the letter, which is all that the server answers for: a login may write letters of its own durable
/// and shop alone, while the headers are the words of whoever wrote it.
///
/// # Errors
/// Why there is none.
fn target(kept: &str, headers: &HeaderMap) -> Result<Target, String> {
    let header = |name: &str| headers.get(name).map(ToString::to_string);
    let stream = header(dead_letter::ORIGIN_STREAM).ok_or("it does not say which stream it came from")?;
    let subject = header(dead_letter::ORIGIN_SUBJECT).ok_or("it does not say under which subject it came")?;
    let consumer = header(dead_letter::CONSUMER).filter(|name| token(name).is_ok());
    let consumer = consumer.ok_or("it does not say which consumer gave up")?;
    if dead_letter::subject(&consumer, &subject) != kept {
        return Err(format!(
            "its headers tell of {} and {}, and it is kept under {}: whoever wrote it may not speak for them",
            output::printable(&consumer),
            output::printable(&subject),
            output::printable(kept)
        ));
    }
    let tokens: Vec<&str> = subject.split('.').collect();
    match (stream.as_str(), tokens.as_slice()) {
        (subject::INBOX_STREAM, ["kassa", "inbox", shop, verb])
            if token(shop).is_ok() && token(verb).is_ok() =>
        {
            // No shipment service may write letters of this durable; of any other it may, and would have us send commands.
            if consumer != INBOX_DURABLE {
                return Err(format!(
                    "only {INBOX_DURABLE} gives up commands, and it is of {consumer}"
                ));
            }
            if is_withheld(headers) {
                return Err(
                    "its body was not kept, because it could not be read or held a card number: have the shop send the \
                     command again, and drop this letter"
                        .to_owned(),
                );
            }
            Ok(Target::Inbox(subject.clone()))
        }
        (events, ["kassa", "evt", ..]) if events.starts_with(subject::STREAM) && token(events).is_ok() => {
            let sequence = header(dead_letter::ORIGIN_SEQUENCE).and_then(|number| number.parse().ok());
            Ok(Target::Consumer {
                subject: dead_letter::redeliver_subject(&consumer, events),
                sequence: sequence.ok_or("it does not say where in the stream it stands")?,
            })
        }
        _ => Err(format!(
            "{} of {} is neither a command of the inbox nor a stored event",
            output::printable(&subject),
            output::printable(&stream)
        )),
    }
}

fn is_withheld(headers: &HeaderMap) -> bool {
    headers.get(dead_letter::BODY_BYTES).is_some()
}

fn is_none(kind: &RawMessageErrorKind) -> bool {
    matches!(kind, RawMessageErrorKind::NoMessageFound)
        || matches!(kind, RawMessageErrorKind::JetStream(error)
            if error.error_code() == jetstream::ErrorCode::NO_MESSAGE_FOUND)
}

fn column(name: &'static str, value: fn(&Value) -> String) -> Column {
    Column {
        name,
        shown: value,
        plain: value,
    }
}

fn text(letter: &Value, field: &str) -> String {
    letter[field].as_str().unwrap_or_default().to_owned()
}

fn summary(letter: &StreamMessage) -> Value {
    let header = |name: &str| letter.headers.get(name).map(ToString::to_string);
    let number = |name: &str| header(name).and_then(|text| text.parse::<u64>().ok());
    let tokens: Vec<&str> = letter.subject.as_str().split('.').collect();
    let token = |n: usize| tokens.get(n).copied().unwrap_or_default();
    let time = jiff::Timestamp::from_second(letter.time.unix_timestamp()).map(|time| time.to_string());
    json!({
        "number": letter.sequence,
        "consumer": token(2),
        "shop": token(3),
        "about": tokens.get(4..).unwrap_or_default().join(" "),
        "error": header(dead_letter::ERROR),
        "deliveries": number(dead_letter::DELIVERIES),
        "stream": header(dead_letter::ORIGIN_STREAM),
        "sequence": number(dead_letter::ORIGIN_SEQUENCE),
        "subject": header(dead_letter::ORIGIN_SUBJECT),
        "time": time.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: &str = "kassa.evt.0.a.order.ord_1.payment_safe";
    const CREATE: &str = "kassa.inbox.a.create_order";

    fn letter(consumer: &str, stream: &str, subject: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(dead_letter::ORIGIN_STREAM, stream);
        headers.insert(dead_letter::ORIGIN_SUBJECT, subject);
        headers.insert(dead_letter::ORIGIN_SEQUENCE, "17");
        headers.insert(dead_letter::CONSUMER, consumer);
        headers
    }

    #[test]
    fn a_letter_goes_to_the_inbox_or_to_the_consumer_that_gave_up_and_nowhere_else() {
        assert_eq!(
            target(
                "kassa.dlq.engine-inbox.a.command.create_order",
                &letter("engine-inbox", "KASSA_INBOX", CREATE)
            ),
            Ok(Target::Inbox(CREATE.to_owned()))
        );
        let subject = "kassa.redeliver.my-shipments.KASSA_EVENTS".to_owned();
        assert_eq!(
            target(
                "kassa.dlq.my-shipments.a.order.ord_1",
                &letter("my-shipments", "KASSA_EVENTS", SAFE)
            ),
            Ok(Target::Consumer {
                subject,
                sequence: 17
            })
        );
        for (stream, subject) in [
            ("KASSA_INBOX", "kassa.cmd.a.create_order"),
            ("KASSA_INBOX", SAFE),
            ("KASSA_INBOX", "kassa.inbox.a.*"),
            ("KASSA_INBOX", "kassa.inbox.a.create_order.more"),
            ("KASSA_EVENTS", "kassa.live.a.order.ord_1.payment_safe"),
            ("KASSA_EVENTS", "kassa.qry.a.get_order"),
            ("OTHER", SAFE),
            ("KASSA_EVENTS.>", SAFE),
        ] {
            let kept = dead_letter::subject("engine-inbox", subject);
            let headers = letter("engine-inbox", stream, subject);
            assert!(target(&kept, &headers).is_err(), "{stream} {subject}");
        }
        assert!(target("kassa.dlq.engine-inbox.a.order.ord_1", &HeaderMap::new()).is_err());
    }

    #[test]
    fn a_command_whose_body_was_not_kept_is_not_put_into_the_inbox_and_an_event_is_read_from_its_stream() {
        let kept = "kassa.dlq.engine-inbox.a.command.create_order";
        let mut headers = letter("engine-inbox", "KASSA_INBOX", CREATE);
        headers.insert(dead_letter::BODY_BYTES, "20");
        let why = target(kept, &headers).unwrap_err();
        assert!(why.contains("have the shop send the command again"), "{why}");
        let mut headers = letter("mine", "KASSA_EVENTS", SAFE);
        headers.insert(dead_letter::BODY_BYTES, "20");
        assert!(target("kassa.dlq.mine.a.order.ord_1", &headers).is_ok());
    }

    #[test]
    fn a_login_that_may_write_letters_of_one_durable_has_nothing_done_for_another() {
        // What the login of shop a's shipment service may write under, and what it could say there.
        let kept = "kassa.dlq.ship-a.a.order.ord_1";
        assert!(target(kept, &letter("ship-a", "KASSA_EVENTS", SAFE)).is_ok());
        for (consumer, stream, subject) in [
            ("engine-inbox", "KASSA_INBOX", CREATE),
            ("ship-a", "KASSA_INBOX", CREATE),
            ("ship-a", "KASSA_INBOX", "kassa.inbox.b.create_order"),
            ("cm-gateway", "KASSA_EVENTS", SAFE),
            ("ship-a", "KASSA_EVENTS", "kassa.evt.0.b.order.ord_1.payment_safe"),
            ("ship-a", "KASSA_EVENTS", "kassa.evt.0.a.order.ord_2.payment_safe"),
        ] {
            let headers = letter(consumer, stream, subject);
            assert!(target(kept, &headers).is_err(), "{consumer} {stream} {subject}");
        }
        // A shipment service of all shops names its durable itself.
        let kept = "kassa.dlq.mine.a.command.create_order";
        assert!(target(kept, &letter("mine", "KASSA_INBOX", CREATE)).is_err());
    }
}
