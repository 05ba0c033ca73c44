//! What was released, when, and by which event? One row an order and epoch, for those who ask and do not consume.

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
        for stored in events
            .iter()
            .filter(|stored| stored.event_type == "ConfidenceReachedSafe")
        {
            let OrderEvent::ConfidenceReachedSafe { epoch, ordered, .. } = read(stored)? else {
                continue;
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
        }
        Ok(())
    }
}
