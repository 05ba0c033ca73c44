//! What was released, when, and by which event, and was it taken back? One row an order and epoch, for those who ask and do
//! not consume.

use deadpool_postgres::Transaction;
use kassa_domain::order::OrderEvent;
use kassa_event_store::StoredEvent;

use crate::projector::{Projection, Table, read};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Shipping;

impl Projection for Shipping {
    const NAME: &'static str = "shipping";
    const TABLES: &'static [Table] = &[Table {
        name: "read_shipping_all",
        key: "order_id COLLATE \"C\", epoch",
    }];

    async fn apply(
        &self,
        transaction: &Transaction<'_>,
        generation: i32,
        events: &[StoredEvent],
    ) -> anyhow::Result<()> {
        for stored in events {
            match stored.event_type.as_str() {
                "ConfidenceReachedSafe" => release(transaction, generation, stored).await?,
                "SafetyLost" => hold(transaction, generation, stored).await?,
                _ => {}
            }
        }
        Ok(())
    }
}

async fn release(transaction: &Transaction<'_>, generation: i32, stored: &StoredEvent) -> anyhow::Result<()> {
    let OrderEvent::ConfidenceReachedSafe { epoch, ordered, .. } = read(stored)? else {
        return Ok(());
    };
    let statement = transaction
        .prepare_cached(
            "INSERT INTO read_shipping_all (order_id, epoch, shop, order_reference, amount_minor, currency,
                                            safe_at, event_id, position, part, generation)
             SELECT $1, $2, $3, payload #>> '{OrderCreated,order_reference}', $4, $5, $6, $7, $8, $10, $11
               FROM (SELECT convert_from(payload, 'UTF8')::jsonb AS payload FROM events
                      WHERE stream_id = $9 AND version = 1) AS created
             ON CONFLICT DO NOTHING",
        )
        .await?;
    transaction
        .execute(
            &statement,
            &[
                &stored.aggregate_id,
                &i32::try_from(epoch)?,
                &stored.shop,
                &ordered.minor,
                &ordered.currency.as_str(),
                &stored.recorded_at,
                &stored.event_id,
                &stored.position,
                &stored.stream_id,
                &stored.part,
                &generation,
            ],
        )
        .await?;
    Ok(())
}

async fn hold(transaction: &Transaction<'_>, generation: i32, stored: &StoredEvent) -> anyhow::Result<()> {
    let OrderEvent::SafetyLost { epoch, .. } = read(stored)? else {
        return Ok(());
    };
    transaction
        .execute(
            "UPDATE read_shipping_all SET lost_at = $3, lost_event_id = $4, lost_position = $5
              WHERE order_id = $1 AND epoch = $2 AND generation = $6",
            &[
                &stored.aggregate_id,
                &i32::try_from(epoch)?,
                &stored.recorded_at,
                &stored.event_id,
                &stored.position,
                &generation,
            ],
        )
        .await?;
    Ok(())
}
