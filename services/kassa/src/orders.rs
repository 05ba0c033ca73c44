//! What is there of orders: which, where does one stand, why, and how is one made, canceled or waited for? Asked as any
//! service of a shop would ask.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    ask::{Reach, Service, Wait, named},
    exit::Ended,
    output::{self, Column, Format, Output},
};

/// The most that one page of `list_orders` holds.
const PAGE: u64 = 200;
/// What a service waits for at most in one answer.
const WAIT_ONCE_S: u64 = 25;
/// Between two looks where the service answers at once.
const LOOK: Duration = Duration::from_millis(250);
/// As the services bound a body.
const BODY_MAX: u64 = 1024 * 1024;

/// Orders: which there are, where one stands and why, making, canceling, waiting.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa orders ls --shop demo-shop --status open
  kassa orders show A-1 --shop demo-shop
  kassa orders wait A-1 --for safe --timeout 60s --shop demo-shop")]
pub(crate) enum OrdersVerb {
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    Show(ShowArgs),
    Create(Box<CreateArgs>),
    Cancel(CancelArgs),
    Wait(WaitArgs),
    Why(WhyArgs),
}

/// Lists orders, newest first.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa orders ls --shop demo-shop
  kassa orders ls --shop demo-shop --status paid --limit 1000 --format csv > paid.csv
  KASSA_API_KEY=… kassa orders ls --url https://pay.example --format ndjson | jq .order_id")]
pub(crate) struct LsArgs {
    /// open, pending, partially_paid, paid, canceled or expired.
    #[arg(long)]
    status: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// Where an order stands, by its id or the shop's reference.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa orders show ord_0123… --shop demo-shop
  kassa orders show A-1 --shop demo-shop --format json | jq .safe
  NATS_URL=nats://checkout:secret@127.0.0.1:4222 kassa orders show A-1 --shop demo-shop")]
pub(crate) struct ShowArgs {
    order: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// Creates an order, from flags or from the JSON that the API takes; with --method its payment is started, too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa orders create --reference A-1 --amount 49.95 --email a@b.example --return-url https://b.example/
  kassa orders create --shop demo-shop --file order.json --method ideal
  jq .order cart.json | kassa orders create --shop demo-shop --file - --idempotency-key A-1")]
pub(crate) struct CreateArgs {
    /// The body of create_order as JSON; - reads it from stdin.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["reference", "amount", "email", "return_url"])]
    file: Option<PathBuf>,
    /// The shop's own name for the order.
    #[arg(long, required_unless_present = "file")]
    reference: Option<String>,
    /// In whole units, such as 49.95.
    #[arg(long, required_unless_present = "file")]
    amount: Option<String>,
    #[arg(long, default_value = "EUR")]
    currency: String,
    /// What the shopper reads.
    #[arg(long, default_value = "Order")]
    description: String,
    #[arg(long, default_value = "NL")]
    country: String,
    #[arg(long, default_value = "nl")]
    language: String,
    #[arg(long, required_unless_present = "file")]
    email: Option<String>,
    #[arg(long, required_unless_present = "file", value_name = "URL")]
    return_url: Option<String>,
    /// Kept with the order; may be given several times. `sim_scenario=ideal/success` chooses what the simulator plays.
    #[arg(long = "metadata", value_name = "NAME=VALUE", conflicts_with = "file", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Starts a payment by this method at once.
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// Cancels an order that is not paid.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa orders cancel A-1 --shop demo-shop
  kassa orders cancel ord_0123… --shop demo-shop --reason 'out of stock'
  kassa orders cancel A-1 --shop demo-shop --idempotency-key A-1-cancel")]
pub(crate) struct CancelArgs {
    order: String,
    /// Kept with the order, at most 255 characters; no personal data.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    key: Key,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// Waits until an order is safe to ship, final, or has changed: 0 it is, 3 it will not be, 4 not in time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa orders wait A-1 --for safe --timeout 60s --shop demo-shop; echo $?
  kassa orders wait ord_0123… --for final --shop demo-shop
  kassa orders wait A-1 --for change --shop demo-shop --format json")]
pub(crate) struct WaitArgs {
    order: String,
    #[arg(long = "for", value_enum, default_value_t = For::Safe)]
    until: For,
    /// At most so long, such as 60s or 5m.
    #[arg(long, default_value = "60s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// Why an order is or is not safe to ship: what is missing, what was read last, what is read next.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa orders why A-1 --shop demo-shop
  kassa orders why ord_0123… --shop demo-shop --format json
  KASSA_API_KEY=… kassa orders why A-1 --url https://pay.example")]
pub(crate) struct WhyArgs {
    order: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct Key {
    /// The name of this intention: a repeat with the same key does nothing twice. Without it, one that is new each time.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Key {
    fn text(&self) -> String {
        self.idempotency_key
            .clone()
            .unwrap_or_else(|| Uuid::new_v4().to_string())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum For {
    /// Paid, and safe to ship.
    Safe,
    /// Paid, canceled, expired, or the attempt has failed.
    Final,
    /// Anything new.
    Change,
}

impl For {
    fn word(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Final => "final",
            Self::Change => "change",
        }
    }
}

pub(crate) async fn run(verb: OrdersVerb, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    match verb {
        OrdersVerb::Ls(args) => ls(&args, file).await,
        OrdersVerb::Show(args) => {
            let service = args.reach.connect(file).await?;
            let document = service.query("get_order", &named(&args.order), None).await?;
            one(&document, args.output.or(Format::Json))
        }
        OrdersVerb::Create(args) => create(&args, file).await,
        OrdersVerb::Cancel(args) => {
            let service = args.reach.connect(file).await?;
            let mut body = json!({ "order_id": service.order_id(&args.order).await? });
            if let Some(reason) = &args.reason {
                body["reason"] = json!(reason);
            }
            let key = args.key.text();
            let answer = service.command("cancel_order", &body, &key).await?;
            one(&answer, args.output.or(Format::Json))
        }
        OrdersVerb::Wait(args) => wait(&args, file).await,
        OrdersVerb::Why(args) => why(&args, file).await,
    }
}

const COLUMNS: [Column; 7] = [
    Column {
        name: "order_id",
        shown: |order| format!("{}{}", sim_mark(order), output::plain(&order["order_id"])),
        plain: |order| output::plain(&order["order_id"]),
    },
    Column {
        name: "order_reference",
        shown: |order| output::plain(&order["order_reference"]),
        plain: |order| output::plain(&order["order_reference"]),
    },
    Column {
        name: "status",
        shown: |order| output::plain(&order["status"]),
        plain: |order| output::plain(&order["status"]),
    },
    Column {
        name: "safe",
        shown: |order| safe_word(order).to_owned(),
        plain: |order| safe_word(order).to_owned(),
    },
    Column {
        name: "amount",
        shown: |order| output::money(&order["amount"]),
        plain: |order| output::plain(&order["amount"]["value"]),
    },
    Column {
        name: "currency",
        shown: |order| output::plain(&order["amount"]["currency"]),
        plain: |order| output::plain(&order["amount"]["currency"]),
    },
    Column {
        name: "created_at",
        shown: |order| output::local(&order["created_at"]),
        plain: |order| output::plain(&order["created_at"]),
    },
];

async fn ls(args: &LsArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let service = args.reach.connect(file).await?;
    let mut orders: Vec<Value> = Vec::new();
    let mut after: Option<String> = None;
    let limit = usize::try_from(args.limit)?;
    while orders.len() < limit {
        let missing = u64::try_from(limit - orders.len())?;
        let mut body = json!({ "limit": missing.min(PAGE) });
        if let Some(status) = &args.status {
            body["status"] = json!(status);
        }
        if let Some(after) = &after {
            body["after"] = json!(after);
        }
        let page = service.query("list_orders", &body, None).await?;
        let Some(found) = page["orders"].as_array() else {
            anyhow::bail!("the answer has no orders: this version of the service does not list");
        };
        orders.extend(found.iter().cloned());
        match (page["next"].as_str(), found.is_empty()) {
            (Some(next), false) => after = Some(next.to_owned()),
            _ => break,
        }
    }
    orders.truncate(limit);
    output::list(&orders, &COLUMNS, args.output.or(Format::Ndjson))?;
    Ok(ExitCode::SUCCESS)
}

async fn create(args: &CreateArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    // Before anything is asked: what is malformed here needs no service to say so.
    let body = body_of(args)?;
    let service = args.reach.connect(file).await?;
    let key = args.key.text();
    let mut answer = service.command("create_order", &body, &key).await?;
    if let Some(method) = &args.method {
        let body = json!({ "order_id": answer["order_id"], "method": method });
        // Derived, so that a repeat of the whole repeats both halves.
        let payment = service
            .command("start_payment", &body, &format!("{key}-pay"))
            .await
            .map_err(|error| match error.downcast::<Ended>() {
                Ok(ended) => ended.though_there_is(&output::plain(&answer["order_id"])).into(),
                Err(error) => error,
            })?;
        for field in ["payment_id", "next_action", "position"] {
            answer[field] = payment[field].clone();
        }
        answer["status"] = payment["status"].clone();
    }
    let ended = answer["status"].as_str().unwrap_or_default().to_owned();
    let shown = one(&answer, args.output.or(Format::Json))?;
    if args.method.is_some() && matches!(ended.as_str(), "failed" | "canceled" | "expired") {
        return Err(Ended::new(Ended::NO, format!("the payment is {ended}"))
            .hint(
                "kassa orders why says what was seen; the order is there, and another payment may be started",
            )
            .into());
    }
    Ok(shown)
}

fn body_of(args: &CreateArgs) -> anyhow::Result<Value> {
    let usage = |text: String| Ended::new(Ended::USAGE, text);
    if let Some(path) = &args.file {
        let mut text = String::new();
        if path.as_os_str() == "-" {
            std::io::stdin().take(BODY_MAX).read_to_string(&mut text)
        } else {
            std::fs::File::open(path).and_then(|file| file.take(BODY_MAX).read_to_string(&mut text))
        }
        .map_err(|error| usage(format!("--file: {}: {error}", path.display())))?;
        return serde_json::from_str(&text)
            // Its own text would quote what a shopper typed.
            .map_err(|error| {
                usage(format!(
                    "--file: not JSON at line {}, column {}",
                    error.line(),
                    error.column()
                ))
                .into()
            });
    }
    let minor =
        output::minor_units(args.amount.as_deref().unwrap_or_default(), &args.currency).map_err(usage)?;
    let metadata: serde_json::Map<String, Value> = args
        .metadata
        .iter()
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    Ok(json!({
        "order_reference": args.reference,
        "description": args.description,
        "amount": { "value": minor, "currency": args.currency },
        "country": args.country,
        "language": args.language,
        "shopper": { "email": args.email },
        "return_url": args.return_url,
        "metadata": metadata,
    }))
}

async fn wait(args: &WaitArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + args.timeout;
    let service = args.reach.connect(file).await?;
    let body = json!({ "order_id": service.order_id(&args.order).await? });
    let first = service.query("get_order", &body, None).await?;
    let mut document = first.clone();
    loop {
        match verdict(args.until, &first, &document) {
            Verdict::Yes => {
                one_line(&document, args.output.or(Format::Json))?;
                return Ok(ExitCode::SUCCESS);
            }
            Verdict::No(why) => {
                one_line(&document, args.output.or(Format::Json))?;
                return Err(Ended::new(
                    Ended::NO,
                    format!("the order is not {}: {why}", args.until.word()),
                )
                .hint("kassa orders why says what was seen")
                .into());
            }
            Verdict::NotYet => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!(
                "after {} s the order is {}, and whether it will be {} is not known",
                args.timeout.as_secs(),
                output::plain(&document["status"]),
                args.until.word()
            );
            return Err(Ended::new(Ended::TIMED_OUT, text)
                .hint("kassa orders why says what is missing")
                .into());
        }
        document = look(&service, &body, args.until, left).await?;
    }
}

/// Asks again, for as long as there is time: the service answers when it is so, or at once if it does not know how to wait.
async fn look(service: &Service, body: &Value, until: For, left: Duration) -> anyhow::Result<Value> {
    let asked = Instant::now();
    let wait = Wait {
        seconds: left.as_secs().min(WAIT_ONCE_S),
        until: until.word(),
    };
    let document = service
        .query("get_order", body, (wait.seconds > 0).then_some(wait))
        .await?;
    let pause = LOOK.min(left).saturating_sub(asked.elapsed());
    tokio::time::sleep(pause).await;
    Ok(document)
}

enum Verdict {
    Yes,
    No(String),
    NotYet,
}

fn verdict(until: For, first: &Value, now: &Value) -> Verdict {
    let status = now["status"].as_str().unwrap_or_default();
    let attempts = now["payments"].as_array().map_or(&[][..], Vec::as_slice);
    // Another attempt may follow, but nothing is under way that could still bring money.
    let ended = attempts
        .last()
        .and_then(|attempt| attempt["status"].as_str())
        .filter(|status| ["failed", "canceled", "expired", "declined"].contains(status))
        .filter(|_| now["next_action"]["type"] == "none" || now["next_action"].is_null());
    match until {
        For::Change if now["position"] != first["position"] => Verdict::Yes,
        For::Change => Verdict::NotYet,
        For::Safe if safe_word(now) == "yes" => Verdict::Yes,
        For::Safe if safe_word(now) == "lost" => Verdict::No("it was, and is no more".to_owned()),
        For::Final if status == "paid" => Verdict::Yes,
        For::Safe | For::Final if matches!(status, "canceled" | "expired") => {
            Verdict::No(format!("it is {status}"))
        }
        For::Safe | For::Final => match ended {
            Some(how) if status != "paid" && status != "partially_paid" => {
                Verdict::No(format!("its last payment is {how}"))
            }
            _ => Verdict::NotYet,
        },
    }
}

async fn why(args: &WhyArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let service = args.reach.connect(file).await?;
    let body = json!({ "order_id": service.order_id(&args.order).await? });
    let document = service.query("explain_order", &body, None).await?;
    one(&document, args.output.or(Format::Json))
}

/// One document: all of it for a program, what matters for a person.
fn one(document: &Value, format: Format) -> anyhow::Result<ExitCode> {
    match format {
        Format::Json => output::print(&(serde_json::to_string_pretty(document)? + "\n"))?,
        Format::Ndjson => output::print(&format!("{document}\n"))?,
        Format::Csv => output::list(std::slice::from_ref(document), &COLUMNS, format)?,
        Format::Table => {
            let mut text = String::new();
            for (name, value) in document.as_object().into_iter().flatten() {
                let mark = if name == "order_id" {
                    sim_mark(document)
                } else {
                    ""
                };
                text.push_str(&format!(
                    "{name:16} {mark}{}\n",
                    output::printable(&cell(name, value))
                ));
            }
            output::print(&text)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a wait ends with: one line for a person.
fn one_line(document: &Value, format: Format) -> anyhow::Result<()> {
    if format != Format::Table {
        return one(document, format).map(|_| ());
    }
    let method = document["payments"]
        .as_array()
        .and_then(|p| p.last())
        .map(|p| output::plain(&p["method"]));
    let cells = [
        if safe_word(document) == "yes" {
            "safe".to_owned()
        } else {
            output::plain(&document["status"])
        },
        format!("{}{}", sim_mark(document), output::money(&document["amount"])),
        method.unwrap_or_default(),
    ];
    output::print(&format!("{}\n", output::printable(cells.join("  ").trim_end())))
}

fn cell(name: &str, value: &Value) -> String {
    match value {
        Value::Object(fields) if fields.contains_key("currency") => output::money(value),
        Value::String(_) if name.ends_with("_at") => output::local(value),
        Value::Array(items) if items.iter().all(|item| item["payment_id"].is_string()) => items
            .iter()
            .map(|p| {
                format!(
                    "{} {} {} {}",
                    output::plain(&p["payment_id"]),
                    output::plain(&p["method"]),
                    output::plain(&p["status"]),
                    output::money(&p["amount"])
                )
            })
            .collect::<Vec<_>>()
            .join("; "),
        Value::Object(fields) if fields.contains_key("value") => {
            let reasons = value["reasons"].as_array().map_or_else(String::new, |reasons| {
                let words: Vec<String> = reasons
                    .iter()
                    .map(|reason| {
                        reason["type"]
                            .as_str()
                            .map_or_else(|| output::plain(reason), str::to_owned)
                    })
                    .collect();
                format!("  ({})", words.join(", "))
            });
            format!("{}{reasons}", output::plain(&value["value"]))
        }
        other => output::plain(other),
    }
}

fn safe_word(order: &Value) -> &str {
    order["safe"]["value"]
        .as_str()
        .or_else(|| order["safe"].as_str())
        .unwrap_or("")
}

/// Play money is never mistaken for real money.
fn sim_mark(document: &Value) -> &'static str {
    if document["livemode"] == false { "SIM " } else { "" }
}

fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "NAME=VALUE, such as sim_scenario=ideal/success".to_owned())
}

/// `60s`, `5m`, `1h 30m`, `3d`: as the simulator reads a length of time, and nothing as well.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let nothing = text.parse().ok().filter(SignedDuration::is_zero);
    nothing
        .or_else(|| kassa_cm_simulator::parse_duration(text).ok())
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "a duration such as 500ms, 60s, 5m, 1h or 3d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_read_as_everywhere() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("1h 30m", 5_400), ("3d", 259_200)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "-1s", "soon", "3"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wait_knows_yes_no_and_not_yet() {
        let order = |status: &str, safe: &str, payment: &str, next: &str| {
            json!({ "status": status, "safe": { "value": safe }, "position": "0-9",
                "payments": [{ "status": payment }], "next_action": { "type": next } })
        };
        let before = json!({ "position": "0-1" });
        let word = |until, document: &Value| match verdict(until, &before, document) {
            Verdict::Yes => "yes",
            Verdict::No(_) => "no",
            Verdict::NotYet => "not yet",
        };
        let safe = order("paid", "yes", "authorized", "none");
        let paid = order("paid", "no", "authorized", "none");
        let failed = order("open", "no", "failed", "none");
        let under_way = order("pending", "no", "redirected", "redirect");
        let canceled = order("canceled", "no", "canceled", "none");
        let lost = order("paid", "lost", "authorized", "none");
        let told: Vec<_> = [&safe, &paid, &failed, &under_way, &canceled, &lost]
            .map(|order| (word(For::Safe, order), word(For::Final, order)))
            .into();
        assert_eq!(
            told,
            [
                ("yes", "yes"),
                ("not yet", "yes"),
                ("no", "no"),
                ("not yet", "not yet"),
                ("no", "no"),
                ("no", "yes")
            ]
        );
        assert_eq!(word(For::Change, &paid), "yes");
        assert_eq!(word(For::Change, &before), "not yet");
    }
}
