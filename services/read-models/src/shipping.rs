//! What was released, when, and by which event, and was it taken back? One row an order and epoch, for those who ask and do
//! not consume.

use kassa_domain::order::OrderEvent;
use kassa_event_store::StoredEvent;
use tokio_postgres::Transaction;

use crate::projector::{Projection, read};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Shipping;

impl Projection for Shipping {
    const NAME: &'static str = "shipping";
    const TABLES: &'static [&'static str] = &["read_shipping"];

    async fn apply(&self, transaction: &Transaction<'_>, events: &[StoredEvent]) -> anyhow::Result<()> {
        for stored in events {
            match stored.event_type.as_str() {
                "ConfidenceReachedSafe" => release(transaction, stored).await?,
                "SafetyLost" => hold(transaction, stored).await?,
                _ => {}
            }
        }
        Ok(())
    }
}

async fn release(transaction: &Transaction<'_>, stored: &StoredEvent) -> anyhow::Result<()> {
    let OrderEvent::ConfidenceReachedSafe { epoch, ordered, .. } = read(stored)? else {
        return Ok(());
    };
    transaction
        .execute(
            "INSERT INTO read_shipping (order_id, epoch, shop, order_reference, amount_minor, currency, safe_at,
                                        event_id, position)
             SELECT $1, $2, $3, payload #>> '{OrderCreated,order_reference}', $4, $5, $6, $7, $8
               FROM (SELECT convert_from(payload, 'UTF8')::jsonb AS payload FROM events
                      WHERE stream_id = $9 AND version = 1) AS created
             ON CONFLICT DO NOTHING",
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
            ],
        )
        .await?;
    Ok(())
}

async fn hold(transaction: &Transaction<'_>, stored: &StoredEvent) -> anyhow::Result<()> {
    let OrderEvent::SafetyLost { epoch, .. } = read(stored)? else {
        return Ok(());
    };
    transaction
        .execute(
            "UPDATE read_shipping SET lost_at = $3, lost_event_id = $4, lost_position = $5
              WHERE order_id = $1 AND epoch = $2",
            &[
                &stored.aggregate_id,
                &i32::try_from(epoch)?,
                &stored.recorded_at,
                &stored.event_id,
                &stored.position,
            ],
        )
        .await?;
    Ok(())
}
