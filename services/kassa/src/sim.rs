//! How is the CM simulator played with: as a shopper, as a clock, as bad luck?

use std::{path::Path, process::ExitCode, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use jiff::{Timestamp, Unit};
use kassa_chassis::config::{Config, Mode};
use kassa_cm_simulator::parse_duration;
use kassa_event_store::{Store, StoreConfig, StoreError};
use serde_json::{Value, json};

use crate::{
    cli::{self, Format},
    doctor::sentence,
    exit::Ended,
    output,
};

/// The CM simulator: its scenarios, and playing the shopper, the clock and bad luck.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa sim scenarios
  kassa sim pay A-1 ideal/success
  kassa sim clock +3d")]
pub(crate) enum SimVerb {
    /// Lists the scenarios with their documented ends.
    #[command(after_help = "Examples:
  kassa sim scenarios
  kassa sim scenarios --format json
  kassa sim scenarios --url http://127.0.0.1:8090")]
    Scenarios {
        #[command(flatten)]
        at: At,
    },
    /// Does at the test bank or wallet what a scenario's shopper does there.
    #[command(after_help = "Examples:
  kassa sim pay A-1
  kassa sim pay A-1 ideal/cancel --delay 90s
  kassa sim pay A-1 any/amount_short_11 --url http://127.0.0.1:8090")]
    Pay {
        /// The shop's reference, or CM's order key.
        order: String,
        /// A scenario of `kassa sim scenarios`; without it, the one that the order was made with.
        scenario: Option<String>,
        /// How long the shopper takes, by the simulator's clock: 90s, 45m, 25h, 3d.
        #[arg(long, value_name = "TIME", value_parser = length)]
        delay: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Notifies of an order, although nothing changed.
    #[command(after_help = "Examples:
  kassa sim notify A-1
  kassa sim notify A-1 --times 100
  kassa sim notify A-1 --format json")]
    Notify {
        /// The shop's reference, or CM's order key.
        order: String,
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        times: u32,
        #[command(flatten)]
        at: At,
    },
    /// Shows the simulator's clock, or moves it forward, and the store's with it where a database is given.
    #[command(after_help = "Examples:
  kassa sim clock
  kassa sim clock +3d --database-url postgresql:///kassa
  kassa sim clock --set 2027-01-31T12:00:00Z")]
    Clock {
        /// How far: +90s, +45m, +25h, +3d.
        #[arg(value_name = "TIME", value_parser = length)]
        advance: Option<String>,
        /// To which moment.
        #[arg(long, value_name = "MOMENT", conflicts_with = "advance")]
        set: Option<Timestamp>,
        /// The store whose clock goes along; both then have the same time. Its login must own the table.
        #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
        database_url: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Makes the next calls to CM go wrong, for every order; without arguments, shows what waits.
    #[command(after_help = "Examples:
  kassa sim fault psp_503 --operation start --count 3
  kassa sim fault latency --latency 2s --count 100
  kassa sim fault clear")]
    Fault {
        fault: Option<Fault>,
        /// Which calls.
        #[arg(long, value_enum, default_value_t = Operation::Any)]
        operation: Operation,
        /// How many of them.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        count: u32,
        /// How late the answer comes, at most 60s.
        #[arg(long, value_name = "TIME", value_parser = length)]
        latency: Option<String>,
        #[command(flatten)]
        at: At,
    },
}

/// Where the simulator is, and how its answer is printed.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// Where the simulator is; without it, as configured.
    #[arg(long, env = "KASSA_SIM_URL", value_name = "URL")]
    url: Option<String>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// 503, and nothing happened.
    #[value(name = "psp_503")]
    Psp503,
    /// 503, although it happened.
    #[value(name = "psp_503_after_effect")]
    Psp503AfterEffect,
    /// No answer, and nothing happened.
    PspTimeout,
    /// No answer, although it happened.
    PspTimeoutAfterEffect,
    /// 401: the account is not served, and nothing happened.
    #[value(name = "psp_401")]
    Psp401,
    /// 403: the account is not served, and nothing happened.
    #[value(name = "psp_403")]
    Psp403,
    /// 429: too many calls, and nothing happened.
    #[value(name = "psp_429")]
    Psp429,
    /// 422 with an error code that is new, and nothing happened.
    #[value(name = "psp_422")]
    Psp422,
    /// An order is made, and its reference is called taken (create only).
    ReferenceTaken,
    /// An order is made, and the key of the one before it is named (create only).
    SameKey,
    /// It happened, and a proxy's page answers.
    Html,
    /// It happened, and half of the answer arrives.
    Cut,
    /// It happened, and the answer never ends.
    Endless,
    /// It happened, and the answer is empty.
    Empty,
    /// It happened, and the answer tells of an error too.
    SuccessAndError,
    /// It happened, and the answer is another order's.
    OtherOrder,
    /// The right answer, later.
    Latency,
    /// Ends all faults.
    Clear,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    Create,
    Start,
    Status,
    Any,
}

pub(crate) async fn run(verb: SimVerb, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    match verb {
        SimVerb::Scenarios { at } => scenarios(&at, file).await,
        SimVerb::Pay {
            order,
            scenario,
            delay,
            at,
        } => {
            known_to_cm(&order)?;
            let mut body = json!({ order_name(&order): order });
            for (field, value) in [("scenario", scenario), ("delay", delay)] {
                if let Some(value) = value {
                    body[field] = value.into();
                }
            }
            show(&at, &ask(&at, file, Ask::Post("/sim/pay", &body)).await?)
        }
        SimVerb::Notify { order, times, at } => {
            known_to_cm(&order)?;
            let body = json!({ order_name(&order): order, "times": times });
            show(&at, &ask(&at, file, Ask::Post("/sim/notify", &body)).await?)
        }
        SimVerb::Clock {
            advance,
            set,
            database_url,
            at,
        } => clock(&at, file, advance, set, database_url).await,
        SimVerb::Fault {
            fault,
            operation,
            count,
            latency,
            at,
        } => {
            let mut body = json!({ "operation": word(&operation), "count": count });
            if let Some(latency) = &latency {
                body["latency"] = latency.as_str().into();
            }
            let ask_for = match fault {
                None if latency.is_none() => Ask::Get("/sim/faults"),
                Some(Fault::Clear) => Ask::Delete("/sim/faults"),
                None => Ask::Post("/sim/faults", &body),
                Some(fault) => {
                    body["fault"] = word(&fault).into();
                    Ask::Post("/sim/faults", &body)
                }
            };
            faults(&at, &ask(&at, file, ask_for).await?)
        }
    }
}

/// The word that the command line and the simulator have for a choice.
fn word(choice: &impl ValueEnum) -> String {
    choice
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A length of time, handed on as it was written.
fn length(text: &str) -> Result<String, String> {
    parse_duration(text).map(|_| text.to_owned())
}

/// CM knows nothing of our ids.
fn known_to_cm(order: &str) -> anyhow::Result<()> {
    if !order.starts_with("ord_") {
        return Ok(());
    }
    Err(Ended::new(
        Ended::USAGE,
        "the simulator does not know kassa's ids, as CM does not",
    )
    .hint("use the shop's reference of the order: kassa orders show tells it")
    .into())
}

/// CM's keys are 32 capitals and digits; a shop's reference that looks so would have to be changed.
fn order_name(order: &str) -> &'static str {
    let is_key = order.len() == 32
        && order
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    if is_key { "order_key" } else { "order_reference" }
}

/// What a shopper does for `scenario`, at the simulator that stands at `base`.
pub(crate) async fn press(
    http: &reqwest::Client,
    base: &str,
    order: &str,
    scenario: &str,
) -> anyhow::Result<Value> {
    let body = json!({ order_name(order): order, "scenario": scenario });
    let response = http
        .post(format!("{base}/sim/pay"))
        .json(&body)
        .send()
        .await
        .map_err(|error| nobody(base, &sentence(&error)))?;
    answer(base, response).await
}

async fn scenarios(at: &At, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let listed = ask(at, file, Ask::Get("/sim/scenarios")).await?;
    if at.format == Format::Json {
        return show(at, &listed);
    }
    let line = |cells: [&str; 8]| {
        let [name, method, order, payment, safe, shipments, create, start] = cells;
        format!("{name:32} {method:7} {order:15} {payment:11} {safe:5} {shipments:10} {create:7} {start:5}")
            .trim_end()
            .to_owned()
    };
    let mut text = vec![line([
        "SIM scenario",
        "method",
        "order",
        "payment",
        "safe",
        "shipments",
        "creates",
        "starts",
    ])];
    for scenario in listed.as_array().into_iter().flatten() {
        let end = &scenario["end"];
        let calls = &end["provider_calls"];
        let cells = [
            &scenario["name"],
            &scenario["method"],
            &end["order"],
            &end["payment"],
            &end["safe"],
            &end["shipments"],
            &calls["create"],
            &calls["start"],
        ]
        .map(cell);
        text.push(line(cells.each_ref().map(String::as_str)));
    }
    output::print(&(text.join("\n") + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn faults(at: &At, answer: &Value) -> anyhow::Result<ExitCode> {
    if at.format == Format::Json {
        return show(at, answer);
    }
    let mut text = format!(
        "{:24} {:10} {:>7} {:>10}\n",
        "SIM fault", "operation", "left", "latency"
    );
    for fault in answer["faults"].as_array().into_iter().flatten() {
        let latency = fault["latency_ms"]
            .as_u64()
            .map_or_else(String::new, |ms| format!("{ms} ms"));
        text.push_str(&format!(
            "{:24} {:10} {:>7} {latency:>10}\n",
            cell(&fault["fault"]),
            cell(&fault["operation"]),
            cell(&fault["left"]),
        ));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The simulator's clock, and the store's. Moved together they end at the same time; neither ever goes back.
async fn clock(
    at: &At,
    file: Option<&Path>,
    advance: Option<String>,
    set: Option<Timestamp>,
    database_url: Option<String>,
) -> anyhow::Result<ExitCode> {
    let database_url = database_url.filter(|url| !url.is_empty());
    let moves = advance.is_some() || set.is_some();
    if moves {
        refuse_in_live_mode(&cli::load_without_database(file)?)?;
    }
    let store = match database_url {
        None => None,
        Some(url) => Some(
            Store::connect(StoreConfig { url, pool_size: 1 })
                .await
                .map_err(store_error)?,
        ),
    };
    if let (Some(advance), Some(store)) = (&advance, &store) {
        // From where the later of the two stands.
        let length = parse_duration(advance).map_err(|why| Ended::new(Ended::USAGE, why))?;
        let here = time_of(&ask(at, file, Ask::Get("/sim/clock")).await?)?;
        let to = here.max(store.clock().now()).checked_add(length)?;
        let body = json!({ "set": to.to_string() });
        ask(at, file, Ask::Post("/sim/clock", &body)).await?;
    } else if let Some(advance) = &advance {
        let body = json!({ "advance": advance });
        ask(at, file, Ask::Post("/sim/clock", &body)).await?;
    } else if let Some(set) = set {
        if let Some(store) = &store
            && set < store.clock().now()
        {
            let message = "the store's clock is later than that already, and does not go back";
            return Err(Ended::new(Ended::REFUSED, message).into());
        }
        let body = json!({ "set": set.to_string() });
        ask(at, file, Ask::Post("/sim/clock", &body)).await?;
    }
    let mut answer = ask(at, file, Ask::Get("/sim/clock")).await?;
    if let Some(store) = &store {
        if moves {
            let offset_ms = answer["offset_ms"].as_i64().unwrap_or_default();
            store.set_clock_offset(offset_ms).await.map_err(store_error)?;
        }
        let now = store.clock().now().round(Unit::Millisecond)?;
        answer["store_now"] = now.to_string().into();
    }
    show(at, &answer)
}

/// Time is real where money is.
fn refuse_in_live_mode(config: &Config) -> anyhow::Result<()> {
    let live = config.shops.iter().find(|(_, shop)| shop.cm.mode == Mode::Live);
    match live {
        None => Ok(()),
        Some((shop, _)) => Err(Ended::new(
            Ended::REFUSED,
            format!("the shop {shop} is in mode live: no clock is moved where money is real"),
        )
        .into()),
    }
}

fn time_of(clock: &Value) -> anyhow::Result<Timestamp> {
    Ok(clock["now"].as_str().unwrap_or_default().parse()?)
}

fn store_error(error: StoreError) -> Ended {
    match error {
        StoreError::Unreachable(why) => Ended::new(
            Ended::UNREACHABLE,
            format!("the database cannot be reached: {why}"),
        ),
        other => Ended::new(
            Ended::REFUSED,
            format!("the store's clock: {other}; use the login that owns the tables"),
        ),
    }
}

/// Prints an answer: as JSON, or a line a field.
fn show(at: &At, answer: &Value) -> anyhow::Result<ExitCode> {
    let text = match (at.format, answer.as_object()) {
        (Format::Table, Some(fields)) => fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name:16} {}\n", output::printable(&cell(value))))
            .collect(),
        _ => serde_json::to_string_pretty(answer)? + "\n",
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A call to the simulator.
enum Ask<'a> {
    Get(&'a str),
    Post(&'a str, &'a Value),
    Delete(&'a str),
}

async fn ask(at: &At, file: Option<&Path>, call: Ask<'_>) -> anyhow::Result<Value> {
    let (http, base) = (client()?, address(at, file)?);
    let request = match call {
        Ask::Get(path) => http.get(format!("{base}{path}")),
        Ask::Post(path, body) => http.post(format!("{base}{path}")).json(body),
        Ask::Delete(path) => http.delete(format!("{base}{path}")),
    };
    let response = request
        .send()
        .await
        .map_err(|error| nobody(&base, &sentence(&error)))?;
    answer(&base, response).await
}

pub(crate) fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()?)
}

/// A configuration that cannot be used is an error even where `--url` says it all: a slip in it must not go unseen.
fn address(at: &At, file: Option<&Path>) -> anyhow::Result<String> {
    let configured = cli::load_without_database(file)?.simulator.listen;
    Ok(match &at.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{configured}"),
    })
}

fn nobody(base: &str, why: &str) -> Ended {
    Ended::new(
        Ended::UNREACHABLE,
        format!("no simulator answers at {base}: {why}"),
    )
    .hint("give --url the address that the demo prints after CM, such as http://127.0.0.1:8090")
}

async fn answer(base: &str, response: reqwest::Response) -> anyhow::Result<Value> {
    let status = response.status();
    let body: Option<Value> = response.json().await.ok();
    let (body, refusal) = match body {
        Some(body) if status.is_success() => return Ok(body),
        Some(body) => {
            let refusal = body["messages"][0].as_str().map(str::to_owned);
            (body, refusal)
        }
        None => (Value::Null, None),
    };
    // Whoever refuses in other words is somebody else: kassa's own API, or another program altogether.
    let Some(message) = refusal else {
        let said = body["title"]
            .as_str()
            .map_or(String::new(), |title| format!(" ({title})"));
        return Err(nobody(base, &format!("something else does, with {status}{said}")).into());
    };
    let code = match status {
        reqwest::StatusCode::NOT_FOUND => Ended::NOT_FOUND,
        reqwest::StatusCode::CONFLICT => Ended::CONFLICT,
        _ => Ended::REFUSED,
    };
    Err(Ended::new(code, message).into())
}

#[cfg(test)]
mod tests {
    use kassa_chassis::config::Shop;

    use super::*;

    #[test]
    fn no_clock_is_moved_where_a_shop_is_live() {
        let shop: Shop = serde_json::from_value(json!({
            "cm": { "mode": "live", "rest_url": "https://cm.example", "account": "a", "password": "p", "merchant_key": "m" },
            "return_url_origins": [],
        }))
        .expect("a shop");
        let mut config = Config::default();
        assert!(refuse_in_live_mode(&config).is_ok());
        config.shops.insert("real".to_owned(), shop);
        let error = refuse_in_live_mode(&config).expect_err("live");
        assert!(error.to_string().contains("real"), "{error}");
    }

    #[test]
    fn a_missing_database_is_all_that_a_configuration_may_lack_here() {
        let file = std::env::temp_dir().join(format!("kassa-sim-{}.toml", std::process::id()));
        let said = |toml: &str| {
            std::fs::write(&file, toml).expect("a temporary file");
            cli::load_without_database(Some(&file)).map_err(|error| error.to_string())
        };
        assert!(said("[simulator]\nlisten = \"127.0.0.1:1\"\n").is_ok());
        let error = said("[simulator]\nlisten = \"nowhere\"\n").expect_err("no address");
        assert!(error.contains("simulator.listen"), "{error}");
        let _ = std::fs::remove_file(&file);
    }

    #[test]
    fn an_order_is_named_by_its_key_or_its_reference() {
        assert_eq!(order_name("0287A1617D93780EF28044B98438BF2F"), "order_key");
        assert_eq!(order_name("A-1"), "order_reference");
    }
}
