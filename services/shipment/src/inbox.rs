//! Was this order released before?

use tokio_postgres::{Client, Transaction};

use crate::judge::Permission;

/// The two tables by which a repeat is known. They are the shop's own, in the schema `shipment_service`.
#[derive(Clone, Copy, Debug)]
pub struct Inbox;

/// One statement list is one transaction; the lock keeps two instances that start at once from creating the schema twice.
const TABLES: &str = "
    SELECT pg_advisory_xact_lock(hashtext('shipment_service'));
    CREATE SCHEMA IF NOT EXISTS shipment_service;
    CREATE TABLE IF NOT EXISTS shipment_service.shipment_inbox (
        event_id    uuid PRIMARY KEY,
        order_id    text NOT NULL,
        epoch       int NOT NULL,
        subject     text NOT NULL,
        -- Of the stream that delivered it first; a wiped stream is refilled with the same sequences.
        sequence    bigint NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE IF NOT EXISTS shipment_service.shipments (
        order_id     text NOT NULL,
        epoch        int NOT NULL,
        event_id     uuid NOT NULL,
        amount_minor bigint NOT NULL,
        currency     text NOT NULL,
        released_at  timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (order_id, epoch)
    );
";

impl Inbox {
    /// Makes the tables where they are missing; may be called at every start, by several instances at once.
    ///
    /// # Errors
    /// Postgres' error, such as a role that may not create a schema: then let one that may call this once.
    pub async fn prepare(client: &Client) -> Result<(), tokio_postgres::Error> {
        client.batch_execute(TABLES).await
    }

    /// Records the event and the release; false when either was there, and then nothing is to be done. Another
    /// transaction that is recording the same event is waited for.
    pub(crate) async fn admit(
        transaction: &Transaction<'_>,
        permission: &Permission,
        subject: &str,
        sequence: i64,
    ) -> Result<bool, tokio_postgres::Error> {
        let Permission {
            event_id,
            epoch,
            safe,
        } = permission;
        let event_is_new = transaction
            .execute(
                "INSERT INTO shipment_service.shipment_inbox (event_id, order_id, epoch, subject, sequence)
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                &[event_id, &safe.order_id, epoch, &subject, &sequence],
            )
            .await?;
        if event_is_new == 0 {
            return Ok(false);
        }
        // The id of this event is made of the order and the epoch, so this finds a repeat only when that promise broke.
        // Then too, goods leave once.
        let release_is_new = transaction
            .execute(
                "INSERT INTO shipment_service.shipments (order_id, epoch, event_id, amount_minor, currency)
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                &[
                    &safe.order_id,
                    epoch,
                    event_id,
                    &safe.amount.value,
                    &safe.amount.currency,
                ],
            )
            .await?;
        Ok(release_is_new == 1)
    }

    /// Whether the transaction still holds what [`Inbox::admit`] recorded. Postgres answers `COMMIT` of a transaction in
    /// which a statement failed with a rollback, and without an error: a handler that swallowed one would lose the order.
    pub(crate) async fn still_holds(
        transaction: &Transaction<'_>,
        permission: &Permission,
    ) -> Result<bool, tokio_postgres::Error> {
        let found = transaction
            .query_opt(
                "SELECT 1 FROM shipment_service.shipment_inbox WHERE event_id = $1",
                &[&permission.event_id],
            )
            .await?;
        Ok(found.is_some())
    }
}
