//! What is happening now? Events as they are stored, for eyes, for a pipe, or for a service on a developer's machine.
//!
//! Three sources, by what is given. `--url`: the HTTP API's event stream. `--database-url`: the log itself. Else NATS: by
//! a consumer of the stream where the login may have one, and by the live subjects where it may not. The first three
//! resume by position after a lost connection or a stop, and miss nothing; the live subjects cannot, and it is said.

use std::{
    collections::{BTreeSet, HashMap},
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use clap::Args;
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use kassa_domain::ids::{OrderId, Shop};
use kassa_event_store::Store;
use kassa_relay::{Bound, EventFilter, FilteredLog, TypePattern};
use reqwest::{Method, StatusCode, redirect::Policy};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    ask::{Api, http_url},
    exit::Ended,
    nats_login::{Bus, NatsArgs},
    orders::duration,
    output::{self, Format, Output},
    replay,
};

/// Reads of the log where no hint came: hints may be lost.
const LOOK: Duration = Duration::from_millis(500);
/// Connections for reads; a listener needs one or two.
const POOL: usize = 2;
/// One POST to the service that is forwarded to.
const FORWARD_MAX: Duration = Duration::from_secs(10);
/// Between two tries, growing from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Orders whose creation is remembered, for the time that a line tells.
const REMEMBERED: usize = 10_000;
/// Stream of part 0; a consumer reads one.
const STREAM: &str = kassa_events_schema::subject::STREAM;

/// Prints events as they are stored; with --forward-to, posts each to a service of yours.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa listen --shop demo-shop
  kassa listen --shop demo-shop --type 'order.*' --since 1h --format ndjson | jq .type
  kassa listen --database-url postgresql:///kassa --forward-to http://127.0.0.1:3000/hook --durable dev")]
pub(crate) struct ListenArgs {
    /// Only this shop's; on the live subjects of NATS one has to be named.
    #[arg(long, env = "KASSA_SHOP", value_name = "SHOP", value_parser = replay::shop)]
    shop: Option<Shop>,
    /// Such as payment.* or order.payment_safe; may be given several times.
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<TypePattern>,
    /// This order and its payments.
    #[arg(long, value_name = "ORDER_ID", value_parser = replay::order)]
    order: Option<OrderId>,
    /// From then on: a duration before now, a position `part-number` or a time. Without it, from now on.
    #[arg(long, value_name = "1h|POSITION|TIME", value_parser = since)]
    since: Option<Since>,
    /// Posts each event there, as application/cloudevents+json, in order, one after the other.
    #[arg(long, value_name = "URL")]
    forward_to: Option<url::Url>,
    /// Allows --forward-to another machine: events hold amounts and references of orders.
    #[arg(long, requires = "forward_to")]
    allow_remote: bool,
    /// How long an event is tried again where its service does not answer with 2xx; then this ends with 69.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    retry_for: Duration,
    /// Goes on where the last run with this name stopped: every event comes at least once.
    #[arg(long, value_name = "NAME", value_parser = durable)]
    durable: Option<String>,
    /// At most so many events.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// The HTTP API as the source, else KASSA_URL where no other source is named; its key is taken from KASSA_API_KEY or
    /// --api-key-file.
    #[arg(long, value_name = "URL", conflicts_with_all = ["context", "nats_url", "database_url"])]
    url: Option<String>,
    #[arg(long, env = "KASSA_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The log itself as the source; else DATABASE_URL, unless NATS is named.
    #[arg(long, value_name = "URL", conflicts_with_all = ["context", "nats_url"])]
    database_url: Option<String>,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy)]
enum Since {
    Ago(SignedDuration),
    At(Bound),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(bound) = text.parse() {
        return Ok(Since::At(bound));
    }
    duration(text)
        .ok()
        .and_then(|ago| SignedDuration::try_from(ago).ok())
        .map(Since::Ago)
        .ok_or_else(|| {
            "a duration such as 1h, a position such as 0-41992, or a time such as 2026-11-01T00:00Z"
                .to_owned()
        })
}

fn durable(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    // It is a file's name.
    ((1..=64).contains(&text.len()) && text.bytes().all(plain))
        .then(|| text.to_owned())
        .ok_or_else(|| "1 to 64 of a-z, A-Z, 0-9, - and _".to_owned())
}

pub(crate) async fn run(args: &ListenArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut sink = Sink::new(args)?;
    let from = match &sink.mark {
        Some(mark) => mark
            .read()?
            .map(|(part, number)| Since::At(Bound::Position { part, number })),
        None => None,
    };
    if from.is_some() && args.since.is_some() {
        eprintln!("note: --durable goes on where it stopped; --since is not used");
    }
    let from = from.or(args.since);
    let env = std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty());
    let database = args.database_url.clone().or(env.filter(|_| !args.nats.named()));
    let another_named = args.nats.named() || args.database_url.is_some();
    if let Some(url) = http_url(args.url.as_deref(), another_named) {
        let api = Api::new(&url, args.api_key_file.as_deref())?;
        if let Some(shop) = &args.shop {
            api.must_be_of(shop.as_str()).await?;
        }
        by_http(args, &api, from, &mut sink).await
    } else if let Some(url) = database {
        by_log(args, &url, file, from, &mut sink).await
    } else {
        by_nats(args, file, from, &mut sink).await
    }
}

// --- The log -------------------------------------------------------------------------------------------------------

async fn by_log(
    args: &ListenArgs,
    url: &str,
    file: Option<&Path>,
    from: Option<Since>,
    sink: &mut Sink,
) -> anyhow::Result<ExitCode> {
    let (store, live) = replay::open_log(Some(url), file, POOL).await?;
    let mut filter = EventFilter {
        types: args.types.clone(),
        shop: args.shop.clone(),
        order: args.order,
        ..EventFilter::default()
    };
    match from {
        Some(Since::At(bound)) => filter.set_from(bound),
        Some(Since::Ago(ago)) => filter.from = Some(store.clock().now() - ago),
        None => filter.after = replay::in_time(store.head(filter.part)).await??,
    }
    sink.begin(&format!("log   after {}-{}", filter.part, filter.after));
    let mut hints = store.hints();
    let mut failures = Failures::default();
    loop {
        hints.mark_unchanged();
        match catch_up(&store, &live, &mut filter, sink).await {
            Ok(true) => return Ok(ExitCode::SUCCESS),
            Ok(false) => failures.none(),
            // What the sink says ends it; what the store says heals.
            Err(error) if error.is::<Ended>() => return Err(error),
            Err(error) => failures.wait("the log cannot be read", &error).await,
        }
        tokio::select! {
            _ = hints.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Everything that is stored by now; `true` when that is enough.
async fn catch_up(
    store: &Store,
    live: &BTreeSet<String>,
    filter: &mut EventFilter,
    sink: &mut Sink,
) -> anyhow::Result<bool> {
    let mut log = FilteredLog::open(store.clone(), live.clone(), filter.clone()).await?;
    while let Some(events) = log.next().await? {
        for event in &events {
            let position = i64::try_from(event.meta().position)?;
            let enough = sink
                .take(&serde_json::to_value(event)?, (filter.part, position))
                .await?;
            filter.after = position;
            if enough {
                return Ok(true);
            }
        }
    }
    let (part, position) = log.position();
    if position > filter.after {
        filter.after = position;
        sink.passed((part, position))?;
    }
    Ok(false)
}

// --- HTTP ----------------------------------------------------------------------------------------------------------

async fn by_http(
    args: &ListenArgs,
    api: &Api,
    from: Option<Since>,
    sink: &mut Sink,
) -> anyhow::Result<ExitCode> {
    let mut after = match from {
        Some(Since::At(Bound::Position { part, number })) => Some((part, number)),
        Some(Since::At(Bound::Time(moment))) => before(api, moment).await?,
        Some(Since::Ago(ago)) => before(api, now() - ago).await?,
        None => None,
    };
    sink.begin(&format!("{}/v1/events/stream", api.base));
    let mut failures = Failures::default();
    loop {
        match stream(args, api, &mut after, sink, &mut failures).await {
            Ok(true) => return Ok(ExitCode::SUCCESS),
            // The server has ended it; it goes on from the last id.
            Ok(false) => tokio::time::sleep(PAUSE.0).await,
            Err(error) if error.is::<Ended>() => return Err(error),
            Err(error) => failures.wait("the event stream is away", &error).await,
        }
    }
}

/// The position just before the first event from a moment on; `None` where there is none yet.
async fn before(api: &Api, moment: Timestamp) -> anyhow::Result<Option<(i32, i64)>> {
    let request = api
        .request(Method::GET, "/v1/events")
        .query(&[("from", moment.to_string()), ("limit", "1".to_owned())])
        .header("Accept", "application/x-ndjson")
        .timeout(FORWARD_MAX);
    let response = request.send().await.map_err(|error| api.unreachable(&error))?;
    let status = response.status();
    let body = response.bytes().await?;
    if !status.is_success() {
        return Err(api.refusal(status, &body).into());
    }
    let first = body.split(|b| *b == b'\n').find(|line| !line.is_empty());
    let Some(event) = first.and_then(|line| serde_json::from_slice::<Value>(line).ok()) else {
        return Ok(None);
    };
    Ok(position_of(&event).map(|(part, number)| (part, number - 1)))
}

/// One connection of the event stream, frame by frame; `true` when that is enough.
async fn stream(
    args: &ListenArgs,
    api: &Api,
    after: &mut Option<(i32, i64)>,
    sink: &mut Sink,
    failures: &mut Failures,
) -> anyhow::Result<bool> {
    let mut query = Vec::new();
    if let Some((part, number)) = after {
        query.push(("after", format!("{part}-{number}")));
    }
    if let Some(order) = &args.order {
        query.push(("order", order.to_string()));
    }
    let request = api
        .request(Method::GET, "/v1/events/stream")
        .query(&query)
        .header("Accept", "text/event-stream");
    let mut response = request.send().await?;
    let status = response.status();
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        anyhow::bail!("HTTP {status}");
    }
    if !status.is_success() {
        return Err(api.refusal(status, &response.bytes().await?).into());
    }
    failures.none();
    let mut frames = Frames::default();
    while let Some(chunk) = response.chunk().await? {
        for frame in frames.feed(&chunk)? {
            if frame.event == "end" {
                return Ok(true);
            }
            let Ok(event) = serde_json::from_str::<Value>(&frame.data) else {
                continue;
            };
            let Some(position) = position_of(&event) else {
                continue;
            };
            *after = Some(position);
            if !args.wants(&event) {
                sink.passed(position)?;
            } else if sink.take(&event, position).await? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Server-sent events, as they come in pieces.
#[derive(Debug, Default)]
struct Frames {
    rest: Vec<u8>,
    now: Frame,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    event: String,
    data: String,
}

impl Frames {
    /// Far above an envelope: who sends more without a line's end sends no events.
    const LINE_MAX: usize = 1024 * 1024;

    fn feed(&mut self, chunk: &[u8]) -> anyhow::Result<Vec<Frame>> {
        self.rest.extend_from_slice(chunk);
        let mut done = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    let frame = std::mem::take(&mut self.now);
                    if frame != Frame::default() {
                        done.push(frame);
                    }
                }
                "event" => self.now.event = value.to_owned(),
                "data" => {
                    if !self.now.data.is_empty() {
                        self.now.data.push('\n');
                    }
                    self.now.data.push_str(value);
                }
                // Comments, ids (the envelope has its position) and what is not known.
                _ => {}
            }
        }
        anyhow::ensure!(self.rest.len() <= Self::LINE_MAX, "a line without an end");
        Ok(done)
    }
}

// --- NATS ----------------------------------------------------------------------------------------------------------

async fn by_nats(
    args: &ListenArgs,
    file: Option<&Path>,
    from: Option<Since>,
    sink: &mut Sink,
) -> anyhow::Result<ExitCode> {
    let bus = args.nats.connect(file, "kassa listen").await?;
    // On a connection of its own: what is refused there says nothing of the live subjects.
    let probe = args.nats.connect(file, "kassa listen").await?;
    if may_consume(&probe).await? {
        return by_consumer(args, &bus, from, sink).await;
    }
    drop(probe);
    if from.is_some() || args.durable.is_some() {
        return Err(Ended::new(
            Ended::NO_PERMISSION,
            "this NATS login hears the live subjects only, which do not know what was before",
        )
        .hint("give --url or --database-url, or a login that may have a consumer, for --since and --durable")
        .into());
    }
    let shop = args.shop.as_ref().ok_or_else(|| {
        Ended::new(
            Ended::USAGE,
            "this NATS login hears one shop's live subjects, and none was named",
        )
        .hint("give --shop or set KASSA_SHOP")
    })?;
    let subject = format!("kassa.live.{}.>", shop.as_str());
    let mut messages = bus.client.subscribe(subject.clone()).await?;
    bus.client.flush().await?;
    sink.begin(&format!("{subject}   {}", bus.shown));
    eprintln!("note: live only: what comes while this is not connected is not shown");
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            refused = bus.refusal() => return Err(refused.into()),
        };
        let Some(message) = message else {
            return Err(Ended::new(Ended::UNREACHABLE, "the connection to NATS has ended").into());
        };
        let Ok(event) = serde_json::from_slice::<Value>(&message.payload) else {
            continue;
        };
        let Some(position) = position_of(&event) else {
            continue;
        };
        if args.wants(&event) && sink.take(&event, position).await? {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// Whether the stream is there, and the login may have a consumer of it.
async fn may_consume(bus: &Bus) -> anyhow::Result<bool> {
    let jetstream = jetstream::new(bus.client.clone());
    let tried = async {
        let stream = jetstream.get_stream(STREAM).await.ok()?;
        // It goes by itself, some seconds after nobody asks it any more.
        let config = pull::OrderedConfig {
            deliver_policy: DeliverPolicy::New,
            ..Default::default()
        };
        stream.create_consumer(config).await.ok()
    };
    tokio::select! {
        made = tried => Ok(made.is_some()),
        _ = bus.refusal() => Ok(false),
    }
}

async fn by_consumer(
    args: &ListenArgs,
    bus: &Bus,
    from: Option<Since>,
    sink: &mut Sink,
) -> anyhow::Result<ExitCode> {
    // By its form on the wire: the library's own type for times is that of another crate than ours.
    let time = |moment: Timestamp| {
        serde_json::from_value(json!({ "deliver_policy": "by_start_time", "opt_start_time": moment }))
    };
    let after = |number: i64| DeliverPolicy::ByStartSequence {
        start_sequence: u64::try_from(number + 1).unwrap_or(1),
    };
    let policy = match from {
        Some(Since::At(Bound::Position { number, .. })) => after(number),
        Some(Since::At(Bound::Time(moment))) => time(moment)?,
        Some(Since::Ago(ago)) => time(now() - ago)?,
        None => DeliverPolicy::New,
    };
    let filter = args.shop.as_ref().map_or_else(
        || "kassa.evt.>".to_owned(),
        |shop| format!("kassa.evt.*.{}.>", shop.as_str()),
    );
    sink.begin(&format!("{STREAM} {filter}   {}", bus.shown));
    let jetstream = jetstream::new(bus.client.clone());
    let mut failures = Failures::default();
    let mut policy = policy;
    loop {
        let mut last = None;
        match consume(args, &jetstream, &filter, policy, &mut last, sink).await {
            Ok(()) => return Ok(ExitCode::SUCCESS),
            Err(error) if error.is::<Ended>() => return Err(error),
            Err(error) => {
                if bus.refused().is_some_and(|text| text.contains("JS.API")) && last.is_none() {
                    return Err(
                        Ended::new(Ended::NO_PERMISSION, "this NATS login may not have a consumer").into(),
                    );
                }
                failures.wait("the stream cannot be read", &error).await;
            }
        }
        // From the last one on, or from where it was to begin.
        policy = last.map_or(policy, after);
    }
}

/// An ordered consumer: it is made anew, and goes on from the last sequence, when the server or the connection was gone.
async fn consume(
    args: &ListenArgs,
    jetstream: &jetstream::Context,
    filter: &str,
    policy: DeliverPolicy,
    last: &mut Option<i64>,
    sink: &mut Sink,
) -> anyhow::Result<()> {
    let stream = jetstream.get_stream(STREAM).await?;
    let consumer = stream
        .create_consumer(pull::OrderedConfig {
            filter_subject: filter.to_owned(),
            deliver_policy: policy,
            ..Default::default()
        })
        .await?;
    let mut messages = consumer.messages().await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        let Ok(event) = serde_json::from_slice::<Value>(&message.payload) else {
            continue;
        };
        let Some(position) = position_of(&event) else {
            continue;
        };
        if !args.wants(&event) {
            sink.passed(position)?;
        } else if sink.take(&event, position).await? {
            return Ok(());
        }
        *last = Some(position.1);
    }
    anyhow::bail!("the consumer has ended")
}

// --- What is wanted, and where it goes ---------------------------------------------------------------------------------

impl ListenArgs {
    /// For the sources that do not sort out themselves.
    fn wants(&self, event: &Value) -> bool {
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        let kind = text("type");
        let shop = text("source").rsplit('/').next().unwrap_or_default();
        self.shop.as_ref().is_none_or(|wanted| wanted.as_str() == shop)
            && self
                .order
                .as_ref()
                .is_none_or(|wanted| text("correlationid") == wanted.to_string())
            && (self.types.is_empty() || self.types.iter().any(|wanted| wanted.matches_type(kind)))
    }
}

/// Part and number: the source is `/kassa/{part}/{shop}`.
fn position_of(event: &Value) -> Option<(i32, i64)> {
    let part = event["source"].as_str()?.split('/').nth(2)?.parse().ok()?;
    Some((part, event["sequence"].as_str()?.parse().ok()?))
}

#[expect(
    clippy::disallowed_methods,
    reason = "a span before now is meant by the clock of who asks, and no payment hangs on it"
)]
fn now() -> Timestamp {
    Timestamp::now()
}

/// Where events go: to the screen or the pipe, and to a service.
struct Sink {
    format: Format,
    forward: Option<Forward>,
    mark: Option<Mark>,
    /// Wanted still.
    left: Option<u64>,
    internal: bool,
    created: HashMap<String, Timestamp>,
}

struct Forward {
    http: reqwest::Client,
    to: url::Url,
    retry_for: Duration,
}

impl Sink {
    fn new(args: &ListenArgs) -> anyhow::Result<Self> {
        let forward = match &args.forward_to {
            None => None,
            Some(to) => {
                if !matches!(to.scheme(), "http" | "https") {
                    return Err(Ended::new(Ended::USAGE, "--forward-to: an http or https address").into());
                }
                if !args.allow_remote && !is_loopback(to) {
                    return Err(Ended::new(Ended::USAGE, "--forward-to leads to another machine")
                        .hint("use 127.0.0.1 or localhost, or say --allow-remote")
                        .into());
                }
                let http = reqwest::Client::builder()
                    .no_proxy()
                    // Where it leads is said once, by who starts this.
                    .redirect(Policy::none())
                    .timeout(FORWARD_MAX)
                    .build()?;
                Some(Forward {
                    http,
                    to: to.clone(),
                    retry_for: args.retry_for,
                })
            }
        };
        Ok(Self {
            format: args.output.or(Format::Ndjson),
            forward,
            mark: args.durable.as_deref().map(Mark::named).transpose()?,
            left: args.limit,
            // What is ours alone is shown to who asks for it by name.
            internal: args.types.iter().any(|pattern| pattern.is_internal()),
            created: HashMap::new(),
        })
    }

    fn begin(&self, source: &str) {
        let hint = if std::io::stderr().is_terminal() {
            "   (Ctrl-C stops; --since 1h replays)"
        } else {
            ""
        };
        eprintln!("{source}{hint}");
    }

    /// One event that is wanted; `true` when that was the last one. It is done with when this returns.
    async fn take(&mut self, event: &Value, position: (i32, i64)) -> anyhow::Result<bool> {
        let kind = event["type"].as_str().unwrap_or_default();
        if kind.contains(".internal.") && !self.internal {
            self.passed(position)?;
            return Ok(false);
        }
        if let Some(forward) = &self.forward {
            forward.post(event).await?;
        }
        match self.format {
            Format::Table => {
                let line = self.line(event);
                output::print(&line)?;
            }
            Format::Csv => {
                let cell = |field: &str| output::plain(&event[field]);
                output::print(&format!(
                    "{},{},{},{}\r\n",
                    cell("time"),
                    cell("sequence"),
                    cell("type"),
                    cell("subject")
                ))?;
            }
            Format::Json | Format::Ndjson => output::print(&format!("{event}\n"))?,
        }
        self.passed(position)?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(self.left == Some(0))
    }

    /// Everything up to there is done with.
    fn passed(&self, position: (i32, i64)) -> anyhow::Result<()> {
        self.mark.as_ref().map_or(Ok(()), |mark| mark.write(position))
    }

    fn line(&mut self, event: &Value) -> String {
        let text = |field: &str| event[field].as_str().unwrap_or_default();
        let at = text("time").parse::<Timestamp>().ok();
        let clock = at.map_or(String::new(), |at| {
            at.to_zoned(TimeZone::system())
                .strftime("%H:%M:%S%.3f")
                .to_string()
        });
        let kind = text("type");
        let what = kind.strip_prefix("kassa.").unwrap_or(kind);
        let what = what.rsplit_once(".v").map_or(what, |(name, _)| name);
        let id = text("subject").rsplit('/').next().unwrap_or_default();
        let data = &event["data"];
        let mut note = ["amount", "paid", "found"]
            .iter()
            .map(|field| output::money(&data[*field]))
            .find(|amount| !amount.is_empty())
            .or_else(|| data["method"].as_str().map(str::to_owned))
            .unwrap_or_default();
        let order = text("correlationid").to_owned();
        if let Some(at) = at {
            if what == "order.created" {
                if self.created.len() >= REMEMBERED {
                    self.created.clear();
                }
                self.created.insert(order, at);
            } else if let (Some(created), true) = (self.created.get(&order), what == "order.payment_safe") {
                let ms = at.duration_since(*created).as_millis();
                note.push_str(&format!("   {}.{} s after created", ms / 1000, ms % 1000 / 100));
            }
        }
        let sim = if event["livemode"] == false { "SIM  " } else { "" };
        output::printable(&format!("{clock}  {what:26}  {id}  {sim}{note}"))
            .trim_end()
            .to_owned()
            + "\n"
    }
}

impl Forward {
    /// Until the service has taken it, or the time for it is over.
    async fn post(&self, event: &Value) -> anyhow::Result<()> {
        let deadline = Instant::now() + self.retry_for;
        let body = serde_json::to_vec(event)?;
        let mut pause = PAUSE.0;
        loop {
            let sent = self
                .http
                .post(self.to.clone())
                .header("Content-Type", "application/cloudevents+json")
                .body(body.clone())
                .send()
                .await;
            let why = match sent {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) => format!("it answers {}", response.status()),
                Err(error) => {
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
                }
            };
            let id = output::plain(&event["id"]);
            if Instant::now() + pause >= deadline {
                return Err(Ended::new(
                    Ended::UNREACHABLE,
                    format!("{} did not take the event {id}: {why}", self.to),
                )
                .hint("start that service and run this again; with --durable it goes on with this event")
                .into());
            }
            eprintln!("{id} is not taken: {why}; again in {} ms", pause.as_millis());
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// How far a run with a name came, in a file.
struct Mark {
    path: PathBuf,
}

impl Mark {
    /// `KASSA_STATE_DIR`, else the user's folder for such things.
    fn named(name: &str) -> anyhow::Result<Self> {
        let set = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let dir = set("KASSA_STATE_DIR")
            .or_else(|| set("XDG_STATE_HOME").map(|dir| dir.join("kassa")))
            .or_else(|| set("HOME").map(|home| home.join(".local/state/kassa")))
            .ok_or_else(|| {
                Ended::new(
                    Ended::CONFIGURATION,
                    "there is no folder to remember --durable in",
                )
                .hint("set KASSA_STATE_DIR")
            })?
            .join("listen");
        std::fs::create_dir_all(&dir)
            .map_err(|error| Ended::new(Ended::CONFIGURATION, format!("{}: {error}", dir.display())))?;
        Ok(Self {
            path: dir.join(format!("{name}.json")),
        })
    }

    fn read(&self) -> anyhow::Result<Option<(i32, i64)>> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.wrong(&error.to_string()).into()),
        };
        let position = serde_json::from_str::<Value>(&text)
            .ok()
            .and_then(|mark| kassa_relay::position(mark["after"].as_str()?).ok());
        position
            .map(Some)
            // Beginning anew would forward again what was done long ago.
            .ok_or_else(|| self.wrong("it holds no position; remove it to begin anew").into())
    }

    fn write(&self, (part, number): (i32, i64)) -> anyhow::Result<()> {
        let new = self.path.with_extension("new");
        let text = json!({ "after": format!("{part}-{number}") }).to_string();
        // Whole or not at all: a crash in between leaves the older mark, and an event comes twice.
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &self.path))
            .map_err(|error| self.wrong(&error.to_string()).into())
    }

    fn wrong(&self, why: &str) -> Ended {
        Ended::new(Ended::CONFIGURATION, format!("{}: {why}", self.path.display()))
    }
}

/// A source that is away comes back: it is said at the 1st, 2nd, 4th … time, and waited for.
#[derive(Debug, Default)]
struct Failures(u32);

impl Failures {
    fn none(&mut self) {
        self.0 = 0;
    }

    async fn wait(&mut self, what: &str, error: &anyhow::Error) {
        self.0 += 1;
        if self.0.is_power_of_two() {
            eprintln!("{what}: {error:#}; tried again until it is back, nothing is missed");
        }
        let pause = PAUSE.0 * (1 << self.0.min(5));
        tokio::time::sleep(pause.min(PAUSE.1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole_however_they_come() {
        let mut frames = Frames::default();
        let text = ": ping\n\nid: 0-7\nevent: order.created\ndata: {\"a\":1}\n\nevent: end\ndata: {}\n\n";
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(5) {
            found.extend(frames.feed(piece).expect("short lines"));
        }
        let told: Vec<_> = found
            .iter()
            .map(|frame| (frame.event.as_str(), frame.data.as_str()))
            .collect();
        assert_eq!(told, [("order.created", "{\"a\":1}"), ("end", "{}")]);
    }

    #[test]
    fn events_are_forwarded_to_this_machine_only_unless_it_is_said() {
        for (url, near) in [
            ("http://127.0.0.1:3000/", true),
            ("http://localhost/x", true),
            ("http://[::1]:1/", true),
            ("http://localhost.example/", false),
            ("http://10.0.0.1/", false),
            ("https://shop.example/hook", false),
        ] {
            assert_eq!(is_loopback(&url.parse().expect("a URL")), near, "{url}");
        }
    }

    #[test]
    fn since_is_a_span_a_position_or_a_time() {
        assert!(matches!(since("1h"), Ok(Since::Ago(_))));
        assert!(matches!(since("0-41992"), Ok(Since::At(Bound::Position { .. }))));
        assert!(matches!(
            since("2026-11-01T00:00Z"),
            Ok(Since::At(Bound::Time(_)))
        ));
        assert!(since("yesterday").is_err());
    }
}
