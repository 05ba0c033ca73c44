//! How does a shop's shipment service behave that writes down all it is told? A process of its own, to be killed.
//!
//! Its log is a table beside the inbox, written in the transaction that also records the event: what is in the log has
//! happened, in this order, once.

use anyhow::Context as _;
use clap::Args;
use kassa_chassis::{bus, config::LogFormat, supervise, telemetry};
use kassa_shipment::{Consumer, Database, Inbox, Instruction, Settings};
use secrecy::SecretString;
use tokio_postgres::{NoTls, Transaction};

use crate::installation;

/// A shop's shipment service that ships nothing and writes everything down.
#[derive(Debug, Args)]
pub struct ShipmentArgs {
    #[arg(long, value_name = "URL")]
    database_url: String,
    #[arg(long, value_name = "URL")]
    nats_url: String,
    #[arg(long, default_value = "shipment")]
    user: String,
    /// In the environment, so that it is in no list of processes.
    #[arg(long, env = "KASSA_NATS_PASSWORD", hide_env_values = true)]
    password: SecretString,
    #[arg(long, default_value = installation::SHIPMENT_DURABLE)]
    durable: String,
}

/// The lock makes the order of numbers the order of commits, with several instances too.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtext('shipment_service.log'))";
pub(crate) const TABLE: &str = "
    SELECT pg_advisory_xact_lock(hashtext('shipment_service.log'));
    CREATE TABLE IF NOT EXISTS shipment_service.log (
        n            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        what         text NOT NULL,
        order_id     text NOT NULL,
        epoch        int NOT NULL,
        -- Of the delivery that was handled; the library's own tables may lose theirs and this is to stay.
        event_id     uuid,
        amount_minor bigint,
        currency     text,
        at           timestamptz NOT NULL DEFAULT clock_timestamp()
    )";

/// Runs until it is told to stop.
///
/// # Errors
/// What it cannot go on after.
pub async fn run(args: &ShipmentArgs) -> anyhow::Result<()> {
    telemetry::init(LogFormat::Json, "info");
    let shutdown = supervise::until_signal()?;
    let config: tokio_postgres::Config = args.database_url.parse().context("--database-url")?;
    let (client, connection) = config.connect(NoTls).await?;
    let driving = tokio::spawn(connection);
    Inbox::prepare(&client).await?;
    client.batch_execute(TABLE).await?;
    drop(client);
    driving.await??;
    let login = kassa_chassis::config::Login {
        user: Some(args.user.clone()),
        password: Some(args.password.clone()),
        password_file: None,
    };
    let options = bus::options(&args.nats_url, &login)?;
    let settings = Settings::new(&args.nats_url, &args.durable);
    let consumer = Consumer::connect(settings, options, Database::new(config, NoTls)).await?;
    consumer.run(write_down, shutdown).await?;
    Ok(())
}

async fn write_down(told: &Instruction, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
    let epoch = i32::try_from(told.epoch()).unwrap_or(i32::MAX);
    let (what, event, amount) = match told {
        Instruction::Ship(safe) => ("release", "%.payment_safe", Some(&safe.amount)),
        _ => ("hold", "%.payment_safety_lost", None),
    };
    transaction.batch_execute(LOCK).await?;
    transaction
        .execute(
            "INSERT INTO shipment_service.log (what, order_id, epoch, event_id, amount_minor, currency)
             VALUES ($1, $2, $3, (SELECT event_id FROM shipment_service.shipment_inbox
                                   WHERE order_id = $2 AND epoch = $3 AND subject LIKE $6
                                   ORDER BY received_at DESC LIMIT 1), $4, $5)",
            &[
                &what,
                &told.order_id(),
                &epoch,
                &amount.map(|amount| amount.value),
                &amount.map(|amount| amount.currency.as_str()),
                &event,
            ],
        )
        .await?;
    Ok(())
}
