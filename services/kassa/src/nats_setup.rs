//! Is everything on the bus as it should be, and how is it made so? Streams, durables, accounts and permissions.

use std::{path::Path, process::ExitCode};

use anyhow::Context as _;
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use clap::{Args, Subcommand};
use kassa_chassis::config::Config;
use kassa_infra::nats::{
    ANALYST_DURABLE, PROJECTOR_DURABLE, kassa_accounts, rejected_durable, render, ship_durable,
};
use kassa_relay::topology::{self, Difference, Durable, Wanted};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    exit::Ended,
    nats_login::NatsArgs,
    output::{self, Column, Format, Output},
};

/// Events that a reader may have taken and not settled: some seconds of work, and no more to do again after a crash.
const UNSETTLED_MAX: i64 = 1_000;

/// The bus: its streams, durables, accounts and permissions.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa nats setup --dry-run
  kassa nats setup --context deploy
  kassa nats accounts --shop my-shop > accounts.conf")]
pub(crate) enum NatsVerb {
    Setup(SetupArgs),
    Accounts(AccountsArgs),
}

/// Makes streams and durables that are missing, sets right those that differ, and deletes nothing.
///
/// What the server says afterwards is compared with what was asked for: old servers drop settings without a word. With the
/// login `deploy`. Exit code 0 when nothing differs, 1 when something does.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa nats setup --dry-run
  kassa nats setup --nats-url nats://deploy:secret@127.0.0.1:4222
  kassa nats setup --dry-run --format ndjson | jq -r .what")]
pub(crate) struct SetupArgs {
    /// Only says what differs: setting, wanted, found.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    output: Output,
}

/// Prints the accounts block of a nats-server configuration: every user, with what it may say and hear.
///
/// The passwords are new with every run and are in the output: keep it as a secret.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa nats accounts --shop my-shop > accounts.conf
  kassa nats accounts --shop a --shop b --name KASSA_TEST --prefix test-
  kassa nats accounts --config kassa.toml | grep 'user: '")]
pub(crate) struct AccountsArgs {
    /// May be given several times; without it, the shops of the configuration.
    #[arg(long = "shop", value_name = "SHOP")]
    shops: Vec<String>,
    /// The account that has the streams; the other one is called after it.
    #[arg(long, default_value = "KASSA")]
    name: String,
    /// Before every user's name, where several installations share one server.
    #[arg(long, default_value = "")]
    prefix: String,
}

pub(crate) async fn run(verb: NatsVerb, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    match verb {
        NatsVerb::Setup(args) => setup(&args, file).await,
        NatsVerb::Accounts(args) => accounts(&args, file),
    }
}

/// Everything that is there to be, by the configuration.
pub(crate) fn wanted(config: &Config) -> anyhow::Result<Wanted> {
    let reader = |durable: String, filter: String, description: &str| pull::Config {
        durable_name: Some(durable),
        description: Some(description.to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: std::time::Duration::from_secs(30),
        filter_subject: filter,
        max_ack_pending: UNSETTLED_MAX,
        max_deliver: -1,
        ..pull::Config::default()
    };
    let durable = |stream: &str, config: pull::Config, made_here: bool| Durable {
        stream: stream.to_owned(),
        config,
        made_here,
    };
    let (gateway, inbox) = (kassa_cm_gateway::work(1), kassa_engine::inbox());
    let events = gateway.stream.clone();
    let mut durables = vec![
        // The gateway knows up to where it has worked, and makes its own.
        durable(&events, gateway.consumer(), false),
        durable(&inbox.stream, inbox.consumer(), false),
        durable(
            &events,
            reader(
                PROJECTOR_DURABLE.to_owned(),
                "kassa.evt.>".to_owned(),
                "a read model of others",
            ),
            true,
        ),
        durable(
            topology::ANALYTICS,
            reader(ANALYST_DURABLE.to_owned(), String::new(), "analysts"),
            true,
        ),
    ];
    for shop in config.shops.keys() {
        durables.push(durable(
            &events,
            kassa_shipment::durable(&ship_durable(shop), Some(shop)),
            true,
        ));
        let rejected = reader(
            rejected_durable(shop),
            format!("kassa.rejected.{shop}.>"),
            "what was refused to this shop",
        );
        durables.push(durable(topology::REJECTED, rejected, true));
    }
    Ok(Wanted {
        streams: topology::streams(config.nats.replicas)?,
        durables,
    })
}

async fn setup(args: &SetupArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config =
        Config::unchecked(file).map_err(|error| Ended::new(Ended::CONFIGURATION, error.to_string()))?;
    let wanted = wanted(&config)?;
    let bus = args.nats.connect(file, "kassa nats setup").await?;
    let jetstream = jetstream::new(bus.client.clone());
    let found = async {
        if args.dry_run {
            topology::compare(&jetstream, &wanted).await
        } else {
            topology::setup(&jetstream, &wanted).await
        }
    };
    let found = tokio::select! {
        found = found => found.context("the bus could not be asked or changed")?,
        refused = bus.refusal() => {
            return Err(refused.hint("use the login of deploy, with --context or --nats-url").into());
        }
    };
    show(&found, args.output.or(Format::Json))?;
    if found.is_empty() {
        eprintln!("everything on the bus is as it should be");
        return Ok(ExitCode::SUCCESS);
    }
    if !args.dry_run {
        eprintln!("what is left cannot be changed in place, or the server is too old: a person must look");
    }
    Ok(ExitCode::from(Ended::REFUSED))
}

fn show(found: &[Difference], format: Format) -> anyhow::Result<()> {
    macro_rules! column {
        ($name:literal) => {
            Column {
                name: $name,
                shown: |value| value[$name].as_str().unwrap_or_default().to_owned(),
                plain: |value| value[$name].as_str().unwrap_or_default().to_owned(),
            }
        };
    }
    let documents: Vec<Value> = found.iter().map(serde_json::to_value).collect::<Result<_, _>>()?;
    output::list(
        &documents,
        &[
            column!("what"),
            column!("setting"),
            column!("wanted"),
            column!("found"),
        ],
        format,
    )
}

fn accounts(args: &AccountsArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut shops = args.shops.clone();
    if shops.is_empty() {
        let config =
            Config::unchecked(file).map_err(|error| Ended::new(Ended::CONFIGURATION, error.to_string()))?;
        shops = config.shops.into_keys().collect();
    }
    if let Some(wrong) = shops
        .iter()
        .find(|shop| kassa_events_schema::subject::check_shop(shop).is_err())
    {
        return Err(Ended::new(
            Ended::USAGE,
            format!(
                "--shop {}: a shop is 1 to 32 of a-z, 0-9 and -",
                output::printable(wrong)
            ),
        )
        .into());
    }
    let token = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    if args.name.is_empty() || !token(&args.name) || !token(&args.prefix) {
        return Err(Ended::new(Ended::USAGE, "--name and --prefix: letters, digits, _ and -").into());
    }
    let shops: Vec<&str> = shops.iter().map(String::as_str).collect();
    let accounts = kassa_accounts(&args.name, &args.prefix, &shops, |_| {
        Uuid::new_v4().simple().to_string()
    });
    output::print(&render(&accounts))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use kassa_events_schema::{dead_letter, subject};
    use kassa_infra::nats::{ANALYTICS_STREAM, DEAD_LETTERS, EVENT_STREAMS, INBOX_STREAM, REJECTED_STREAM};

    use super::topology;

    #[test]
    fn permissions_are_for_the_streams_that_there_are() {
        assert_eq!(EVENT_STREAMS, [subject::STREAM]);
        assert_eq!(
            (INBOX_STREAM, REJECTED_STREAM, DEAD_LETTERS, ANALYTICS_STREAM),
            (
                topology::INBOX,
                topology::REJECTED,
                dead_letter::STREAM,
                topology::ANALYTICS
            )
        );
    }
}
