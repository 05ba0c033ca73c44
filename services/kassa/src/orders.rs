//! Where does an order stand? Asked as any shop would ask: on NATS.

use std::{process::ExitCode, time::Duration};

use clap::Subcommand;
use kassa_chassis::{bus, config::Login, problem::Problem};
use serde_json::{Value, json};

use crate::exit::Ended;

/// Looks at orders.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa orders show ord_0123… --shop demo-shop
  kassa orders show A-1 --shop demo-shop
  NATS_URL=nats://checkout:secret@127.0.0.1:4222 kassa orders show A-1 --shop demo-shop")]
pub(crate) enum OrdersVerb {
    /// Where an order stands, by its id or the shop's reference; asks kassa-queries on NATS.
    #[command(after_help = "Examples:
  kassa orders show ord_0123… --shop demo-shop
  kassa orders show A-1 --shop demo-shop
  NATS_URL=nats://checkout:secret@127.0.0.1:4222 kassa orders show A-1 --shop demo-shop")]
    Show {
        order: String,
        #[arg(long)]
        shop: String,
        /// May carry a login: nats://user:password@host:port
        #[arg(
            long,
            env = "NATS_URL",
            default_value = "nats://127.0.0.1:4222",
            hide_env_values = true
        )]
        nats_url: String,
    },
}

pub(crate) async fn run(verb: OrdersVerb) -> anyhow::Result<ExitCode> {
    match verb {
        OrdersVerb::Show {
            order,
            shop,
            nats_url,
        } => show(&nats_url, &shop, &order).await,
    }
}

async fn show(nats_url: &str, shop: &str, order: &str) -> anyhow::Result<ExitCode> {
    let body = if order.starts_with("ord_") {
        json!({ "order_id": order })
    } else {
        json!({ "order_reference": order })
    };
    let client = tokio::time::timeout(Duration::from_secs(5), async {
        let client = bus::connect(nats_url, &Login::default(), "kassa orders").await?;
        client.flush().await?;
        anyhow::Ok(client)
    })
    .await
    .map_err(|_| {
        Ended::new(
            Ended::UNREACHABLE,
            "NATS cannot be reached: check --nats-url and its login",
        )
    })??;
    let answer = client
        .request(
            format!("kassa.qry.{shop}.get_order"),
            serde_json::to_vec(&body)?.into(),
        )
        .await
        .map_err(|error| {
            Ended::new(
                Ended::UNREACHABLE,
                format!("kassa-queries does not answer for this shop and login: {error}"),
            )
        })?;
    let refused = answer
        .headers
        .as_ref()
        .is_some_and(|headers| headers.get("Nats-Service-Error-Code").is_some());
    if refused {
        let problem: Problem = serde_json::from_slice(&answer.payload)?;
        let code = if problem.status == 404 {
            Ended::NOT_FOUND
        } else {
            1
        };
        return Err(Ended::new(
            code,
            format!("{}: {}\n  hint: {}", problem.code, problem.detail, problem.hint),
        )
        .into());
    }
    let document: Value = serde_json::from_slice(&answer.payload)?;
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(ExitCode::SUCCESS)
}
