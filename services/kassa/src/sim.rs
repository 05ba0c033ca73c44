//! What can the simulator do, and doing it as a shopper would.

use std::{path::Path, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use kassa_chassis::config::Config;
use serde_json::{Value, json};

use crate::{cli::Format, exit::Ended};

/// The CM simulator: its scenarios, and paying as a shopper would.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa sim scenarios
  kassa sim scenarios --format json
  kassa sim pay A-1 ideal/success")]
pub(crate) enum SimVerb {
    /// Lists the scenarios with their documented ends.
    #[command(after_help = "Examples:
  kassa sim scenarios
  kassa sim scenarios --format json
  kassa sim scenarios --url http://127.0.0.1:8090")]
    Scenarios {
        #[command(flatten)]
        sim: SimAddress,
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Does at the test bank what the scenario says, for an order by its reference or key.
    #[command(after_help = "Examples:
  kassa sim pay A-1 ideal/success
  kassa sim pay A-1 ideal/cancel
  kassa sim pay A-1 any/amount_short_11 --url http://127.0.0.1:8090")]
    Pay {
        order: String,
        scenario: String,
        #[command(flatten)]
        sim: SimAddress,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SimAddress {
    /// Where the simulator is; without it, as configured.
    #[arg(long, env = "KASSA_SIM_URL", value_name = "URL")]
    url: Option<String>,
}

pub(crate) async fn run(verb: SimVerb, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    match verb {
        SimVerb::Scenarios { sim, format } => scenarios(&sim, file, format).await,
        SimVerb::Pay { order, scenario, sim } => pay(&sim, file, &order, &scenario).await,
    }
}

/// What a shopper does for `scenario`, at the simulator that stands at `base`.
pub(crate) async fn press(
    http: &reqwest::Client,
    base: &str,
    order: &str,
    scenario: &str,
) -> anyhow::Result<Value> {
    let key = if order.len() == 32
        && order
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
    {
        "order_key"
    } else {
        "order_reference"
    };
    let body = json!({ key: order, "scenario": scenario });
    let response = http
        .post(format!("{base}/sim/pay"))
        .json(&body)
        .send()
        .await
        .map_err(unreachable)?;
    answer(response).await
}

async fn pay(sim: &SimAddress, file: Option<&Path>, order: &str, scenario: &str) -> anyhow::Result<ExitCode> {
    let done = press(&client()?, &address(sim, file), order, scenario).await?;
    println!("{}", serde_json::to_string_pretty(&done)?);
    Ok(ExitCode::SUCCESS)
}

async fn scenarios(sim: &SimAddress, file: Option<&Path>, format: Format) -> anyhow::Result<ExitCode> {
    let url = format!("{}/sim/scenarios", address(sim, file));
    let listed = answer(client()?.get(url).send().await.map_err(unreachable)?).await?;
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&listed)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "{:32} {:15} {:12} {:5} {:10} {:13}",
        "SIM scenario", "order", "payment", "safe", "shipments", "start calls"
    );
    for scenario in listed.as_array().into_iter().flatten() {
        let end = &scenario["end"];
        let cell = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        println!(
            "{:32} {:15} {:12} {:5} {:10} {:13}",
            cell(&scenario["name"]),
            cell(&end["order"]),
            cell(&end["payment"]),
            cell(&end["safe"]),
            cell(&end["shipments"]),
            cell(&end["provider_calls"]["start"]),
        );
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(10))
        .build()?)
}

fn address(sim: &SimAddress, file: Option<&Path>) -> String {
    // Only the simulator's own address is needed: a configuration without a database will do.
    let configured = || Config::load(file).unwrap_or_default().simulator.listen;
    match &sim.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", configured()),
    }
}

fn unreachable(error: reqwest::Error) -> Ended {
    Ended::new(
        Ended::UNREACHABLE,
        format!("the simulator cannot be reached: {error}; give its address with --url"),
    )
}

async fn answer(response: reqwest::Response) -> anyhow::Result<Value> {
    let status = response.status();
    let body: Value = response.json().await?;
    if status.is_success() {
        return Ok(body);
    }
    let message = body["messages"][0]
        .as_str()
        .unwrap_or("the simulator refuses")
        .to_owned();
    let code = if status == reqwest::StatusCode::NOT_FOUND {
        Ended::NOT_FOUND
    } else {
        1
    };
    Err(Ended::new(code, message).into())
}
