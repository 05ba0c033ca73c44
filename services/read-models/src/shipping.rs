//! What was released, when, and by which event, and was it taken back? One row an order and epoch, for those who ask and do
//! not consume.

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use kassa_domain::order::OrderEvent;
use kassa_event_store::StoredEvent;
use uuid::Uuid;

use crate::projector::{Projection, Table, read};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Shipping;

impl Projection for Shipping {
    const NAME: &'static str = "shipping";
    const TABLES: &'static [Table] = &[Table {
        name: "read_shipping_all",
        key: "order_id COLLATE \"C\", epoch",
    }];
    const EVENTS: Option<&'static [&'static str]> = Some(&["ConfidenceReachedSafe", "SafetyLost"]);

    async fn apply(
        &self,
        transaction: &Transaction<'_>,
        generation: i32,
        events: &[StoredEvent],
    ) -> anyhow::Result<()> {
        let of = |event_type: &str| -> Vec<&StoredEvent> {
            events
                .iter()
                .filter(|event| event.event_type == event_type)
                .collect()
        };
        release(transaction, generation, &of("ConfidenceReachedSafe")).await?;
        // A hold is of an epoch that was released before it, and never released again.
        for stored in of("SafetyLost") {
            hold(transaction, generation, stored).await?;
        }
        Ok(())
    }
}

async fn release(
    transaction: &Transaction<'_>,
    generation: i32,
    events: &[&StoredEvent],
) -> anyhow::Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let (mut epochs, mut minors, mut currencies) = (Vec::new(), Vec::new(), Vec::new());
    for stored in events {
        let OrderEvent::ConfidenceReachedSafe { epoch, ordered, .. } = read(stored)? else {
            anyhow::bail!(
                "the event at position {}-{} is not what its type says",
                stored.part,
                stored.position
            );
        };
        epochs.push(i32::try_from(epoch)?);
        minors.push(ordered.minor);
        currencies.push(ordered.currency.as_str().to_owned());
    }
    let text =
        |value: fn(&StoredEvent) -> &str| events.iter().map(|stored| value(stored)).collect::<Vec<_>>();
    let number =
        |value: fn(&StoredEvent) -> i64| events.iter().map(|stored| value(stored)).collect::<Vec<_>>();
    let id = |value: fn(&StoredEvent) -> Uuid| events.iter().map(|stored| value(stored)).collect::<Vec<_>>();
    let parts: Vec<i32> = events.iter().map(|stored| stored.part).collect();
    let moments: Vec<Timestamp> = events.iter().map(|stored| stored.recorded_at).collect();
    let statement = transaction
        .prepare_cached(
            "INSERT INTO read_shipping_all (order_id, epoch, shop, order_reference, amount_minor, currency,
                                            safe_at, event_id, position, part, generation)
             SELECT s.order_id, s.epoch, s.shop,
                    convert_from(created.payload, 'UTF8')::jsonb #>> '{OrderCreated,order_reference}',
                    s.minor, s.currency, s.safe_at, s.event_id, s.position, s.part, $11::int
               FROM unnest($1::text[], $2::int[], $3::text[], $4::bigint[], $5::text[], $6::timestamptz[], $7::uuid[],
                           $8::bigint[], $9::uuid[], $10::int[])
                    AS s (order_id, epoch, shop, minor, currency, safe_at, event_id, position, stream_id, part)
               JOIN events AS created ON created.stream_id = s.stream_id AND created.version = 1
             ON CONFLICT DO NOTHING",
        )
        .await?;
    transaction
        .execute(
            &statement,
            &[
                &text(|stored| &stored.aggregate_id),
                &epochs,
                &text(|stored| &stored.shop),
                &minors,
                &currencies,
                &moments,
                &id(|stored| stored.event_id),
                &number(|stored| stored.position),
                &id(|stored| stored.stream_id),
                &parts,
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
