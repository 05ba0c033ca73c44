//! A whole shipment service: `release DATABASE_URL NATS_URL USER PASSWORD DURABLE`, until Ctrl-C.
//!
//! It puts a job into a table of its own, in the transaction that also says that the order was seen: exactly once.

use anyhow::Context;
use async_nats::ConnectOptions;
use kassa_shipment::{Consumer, Database, Inbox, Instruction, Settings};
use tokio_postgres::{NoTls, Transaction};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let [_, database_url, nats_url, user, password, durable] = std::env::args()
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow::anyhow!("usage: release DATABASE_URL NATS_URL USER PASSWORD DURABLE"))?;

    let config: tokio_postgres::Config = database_url.parse().context("DATABASE_URL")?;
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Inbox::prepare(&client).await?;
    // One job per order, whatever its epoch.
    client
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS shipment_service.pick_jobs
                 (order_id text PRIMARY KEY, epoch bigint, amount_minor bigint, held boolean NOT NULL DEFAULT false)",
        )
        .await?;

    let shutdown = CancellationToken::new();
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            // Without a handler for Ctrl-C there is no clean end; stop at once, nothing is lost by it.
            tokio::signal::ctrl_c().await.ok();
            shutdown.cancel();
        }
    });

    // Each user of the bus hears answers under a prefix of its own.
    let options = ConnectOptions::new()
        .custom_inbox_prefix(format!("_INBOX_{user}"))
        .user_and_password(user, password);
    let consumer = Consumer::connect(
        Settings::new(nats_url, durable),
        options,
        Database::new(config, NoTls),
    )
    .await?;
    let stats = consumer.stats();
    consumer.run(pick, shutdown).await?;
    println!(
        "released {}, held {}, duplicates {}, refused {}",
        stats.released(),
        stats.held(),
        stats.duplicates(),
        stats.refused()
    );
    Ok(())
}

async fn pick(told: &Instruction, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
    let epoch = i64::from(told.epoch());
    match told {
        // A later epoch lifts the hold, it is not a second parcel.
        Instruction::Ship(safe) => {
            transaction
                .execute(
                    "INSERT INTO shipment_service.pick_jobs AS job VALUES ($1, $2, $3)
                     ON CONFLICT (order_id) DO UPDATE
                     SET epoch = excluded.epoch, amount_minor = excluded.amount_minor, held = false
                     WHERE job.epoch < excluded.epoch",
                    &[&safe.order_id, &epoch, &safe.amount.value],
                )
                .await?
        }
        Instruction::Hold(lost) => {
            transaction
                .execute(
                    "UPDATE shipment_service.pick_jobs SET held = true WHERE order_id = $1 AND epoch <= $2",
                    &[&lost.order_id, &epoch],
                )
                .await?
        }
        // Nothing that is not known here is a permission to ship.
        _ => 0,
    };
    Ok(())
}
