//! Has this event been seen? The rows that make a second delivery harmless.

use kassa_events_schema::{envelope::Envelope, order::PaymentSafe};
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

const TABLES: &str = "
    CREATE SCHEMA IF NOT EXISTS shipment_service;
    CREATE TABLE IF NOT EXISTS shipment_service.shipment_inbox (
        event_id    uuid        PRIMARY KEY,
        order_id    text        NOT NULL,
        epoch       int         NOT NULL,
        subject     text        NOT NULL,
        sequence    bigint      NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS shipment_service.shipments (
        order_id     text        NOT NULL,
        epoch        int         NOT NULL,
        event_id     uuid        NOT NULL,
        amount_minor bigint      NOT NULL,
        currency     text        NOT NULL,
        released_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (order_id, epoch)
    );";

/// Makes the tables where they are missing; any number of times.
///
/// # Errors
/// As the database says.
pub async fn prepare(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    // CREATE … IF NOT EXISTS is not safe against itself: two that start at once would collide in the catalogue.
    transaction.batch_execute("SELECT pg_advisory_xact_lock(7810463)").await?;
    transaction.batch_execute(TABLES).await?;
    transaction.commit().await
}

/// `true` when the event is new and its order was not released in this epoch.
pub(crate) async fn admit(
    transaction: &Transaction<'_>,
    envelope: &Envelope,
    safe: &PaymentSafe,
    sequence: u64,
) -> Result<bool, tokio_postgres::Error> {
    let meta = envelope.meta();
    let Ok(event_id) = Uuid::parse_str(&meta.event_id) else { return Ok(false) };
    let epoch = i32::try_from(safe.epoch.get()).unwrap_or(i32::MAX);
    let position = i64::try_from(sequence).unwrap_or(i64::MAX);
    let subject = envelope.nats_subject().to_string();
    let seen = transaction
        .execute(
            "INSERT INTO shipment_service.shipment_inbox (event_id, order_id, epoch, subject, sequence)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            &[&event_id, &safe.order_id, &epoch, &subject, &position],
        )
        .await?;
    let released = transaction
        .execute(
            "INSERT INTO shipment_service.shipments (order_id, epoch, event_id, amount_minor, currency)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            &[&safe.order_id, &epoch, &event_id, &safe.amount.value, &safe.amount.currency],
        )
        .await?;
    Ok(seen == 1 && released == 1)
}
