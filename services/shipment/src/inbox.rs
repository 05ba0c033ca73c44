//! Was this order released before, or its release taken back?

use tokio_postgres::{
    Client, Transaction,
    types::{ToSql, Type},
};

use crate::judge::{Instruction, Order};

/// A value with its type: so a statement needs no way there and back to be prepared.
type Word<'a> = (&'a (dyn ToSql + Sync), Type);

/// Whether a message is news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    New,
    /// Seen before, under this or another event id.
    Known,
    /// A release whose hold, or a later release, was delivered first: the bus promises no order. It is not released.
    Overtaken,
}

/// The three tables by which a repeat is known. They are the shop's own, in the schema `shipment_service`.
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
    -- Releases that were taken back. What was released and is here too is to be held.
    CREATE TABLE IF NOT EXISTS shipment_service.holds (
        order_id text NOT NULL,
        epoch    int NOT NULL,
        event_id uuid NOT NULL,
        held_at  timestamptz NOT NULL DEFAULT now(),
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

    /// Records the event and what it says; only [`Admission::New`] is to be acted on. Another transaction that is recording
    /// something about the same order is waited for.
    pub(crate) async fn admit(
        transaction: &Transaction<'_>,
        order: &Order,
        subject: &str,
        sequence: i64,
    ) -> Result<Admission, tokio_postgres::Error> {
        let Order {
            event_id,
            epoch,
            instruction,
        } = order;
        let order_id = instruction.order_id();
        // Sent together, and done one after the other. A release and its hold, in two instances at once: one of them sees the
        // other. The last epoch decides: an older release says nothing that a newer one, or a hold, did not say better.
        let order_words: [Word<'_>; 1] = [(&order_id, Type::TEXT)];
        let event_words: [Word<'_>; 5] = [
            (event_id, Type::UUID),
            (&order_id, Type::TEXT),
            (epoch, Type::INT4),
            (&subject, Type::TEXT),
            (&sequence, Type::INT8),
        ];
        let epoch_words: [Word<'_>; 2] = [(&order_id, Type::TEXT), (epoch, Type::INT4)];
        let (locked, recorded, overtaken) = futures::join!(
            transaction.query_typed(
                "SELECT pg_advisory_xact_lock(hashtextextended('shipment_service/' || $1, 0))",
                &order_words,
            ),
            transaction.execute_typed(
                "INSERT INTO shipment_service.shipment_inbox (event_id, order_id, epoch, subject, sequence)
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                &event_words,
            ),
            transaction.query_typed(
                "SELECT WHERE EXISTS (SELECT FROM shipment_service.holds WHERE order_id = $1 AND epoch >= $2)
                            OR EXISTS (SELECT FROM shipment_service.shipments WHERE order_id = $1 AND epoch > $2)",
                &epoch_words,
            ),
        );
        locked?;
        let (recorded, overtaken) = (recorded?, overtaken?);
        if recorded == 0 {
            return Ok(Admission::Known);
        }
        // The id of these events is made of the order and the epoch, so this finds a repeat only when that promise broke.
        // Then too, goods leave once.
        let is_new = match instruction {
            Instruction::Ship(_) if !overtaken.is_empty() => return Ok(Admission::Overtaken),
            Instruction::Ship(safe) => {
                transaction
                    .execute_typed(
                        "INSERT INTO shipment_service.shipments (order_id, epoch, event_id, amount_minor, currency)
                         VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
                        &[
                            (&order_id, Type::TEXT),
                            (epoch, Type::INT4),
                            (event_id, Type::UUID),
                            (&safe.amount.value, Type::INT8),
                            (&safe.amount.currency, Type::TEXT),
                        ],
                    )
                    .await?
            }
            Instruction::Hold(_) => {
                transaction
                    .execute_typed(
                        "INSERT INTO shipment_service.holds (order_id, epoch, event_id)
                         VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                        &[(&order_id, Type::TEXT), (epoch, Type::INT4), (event_id, Type::UUID)],
                    )
                    .await?
            }
        };
        Ok(if is_new == 1 {
            Admission::New
        } else {
            Admission::Known
        })
    }

    /// Whether the transaction still holds what [`Inbox::admit`] recorded. Postgres answers `COMMIT` of a transaction in
    /// which a statement failed with a rollback, and without an error: a handler that swallowed one would lose the order.
    pub(crate) async fn still_holds(
        transaction: &Transaction<'_>,
        order: &Order,
    ) -> Result<bool, tokio_postgres::Error> {
        let found = transaction
            .query_typed(
                "SELECT FROM shipment_service.shipment_inbox WHERE event_id = $1",
                &[(&order.event_id, Type::UUID)],
            )
            .await?;
        Ok(!found.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kassa_infra::servers::{Postgres, PostgresOptions};
    use tokio_postgres::NoTls;
    use uuid::Uuid;

    use super::*;
    use crate::judge::judge;

    const SAFE: &[u8] = include_bytes!("../../../events-schema/samples/order/payment_safe.v1.json");
    const LOST: &[u8] = include_bytes!("../../../events-schema/samples/order/payment_safety_lost.v1.json");

    /// The sample, as it comes under another epoch: that is another event.
    fn order(sample: &[u8], event: &str, epoch: i32) -> Order {
        let subject = format!("kassa.evt.0.brekz-nl.order.ord_5k3m01kb2m8x4r7fezd9t6hqnvsg.{event}");
        let order = judge(&subject, sample).expect("a sample is one");
        let name = format!("{event}/{epoch}");
        Order {
            event_id: Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()),
            epoch,
            ..order
        }
    }

    fn release(epoch: i32) -> Order {
        order(SAFE, "payment_safe", epoch)
    }

    fn hold(epoch: i32) -> Order {
        order(LOST, "payment_safety_lost", epoch)
    }

    async fn connect(url: &str) -> Client {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("it opens");
        tokio::spawn(connection);
        client
    }

    #[tokio::test]
    async fn what_comes_late_never_releases_an_order_again() {
        use Admission::{Known, New, Overtaken};
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let runs = here.join("../../target/tmp");
        std::fs::create_dir_all(&runs).expect("the target folder can be written");
        let folder = tempfile::tempdir_in(runs).expect("the target folder can be written");
        let postgres = Postgres::start(&PostgresOptions {
            dir: folder.path().join("pg"),
            bin_dir: None,
            cache_dir: here.join("../../.cache"),
        })
        .expect("PostgreSQL starts");
        let maker = connect(&postgres.url("postgres")).await;
        for (name, told) in [
            (
                "in_order",
                vec![
                    (release(1), New),
                    (hold(1), New),
                    (release(2), New),
                    (release(2), Known),
                ],
            ),
            ("hold_first", vec![(hold(1), New), (release(1), Overtaken)]),
            // The second release came, the first was stuck in a consumer, or in the dead letters.
            (
                "newer_release_first",
                vec![
                    (release(2), New),
                    (release(1), Overtaken),
                    (hold(1), New),
                    (release(1), Known),
                    (hold(2), New),
                ],
            ),
        ] {
            maker
                .batch_execute(&format!("CREATE DATABASE {name}"))
                .await
                .expect("it is made");
            let mut client = connect(&postgres.url(name)).await;
            Inbox::prepare(&client).await.expect("the tables are made");
            for (n, (order, expected)) in (1..).zip(told) {
                let transaction = client.transaction().await.expect("it begins");
                let admission = Inbox::admit(&transaction, &order, "a.subject", n)
                    .await
                    .expect("it is recorded");
                transaction.commit().await.expect("it is kept");
                assert_eq!(admission, expected, "{name}: number {n}");
            }
        }
    }
}
