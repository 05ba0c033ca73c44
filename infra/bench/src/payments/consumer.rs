//! Who is told that goods may leave? A shop's own shipment service, as the library for shops makes one; it notes when it
//! heard of each order.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kassa_shipment::{ConsumeError, Consumer, Database, Inbox, Instruction, Settings};
use tokio::task::JoinSet;
use tokio_postgres::{NoTls, Transaction};
use tokio_util::sync::CancellationToken;

use super::{
    clock::{Clock, Micros},
    rig::{self, Rig},
};

/// What the shop's database committed, as a row of `shipment.ndjson`: each event that was delivered, and each release.
const COMMITTED: &str = "
    SELECT json_build_object('n', row_number() OVER (ORDER BY at, rank, event_id), 'what', what, 'event_id', event_id,
               'shop', split_part(subject, '.', 4), 'order_id', order_id, 'epoch', epoch,
               'amount', CASE WHEN currency IS NULL THEN NULL
                              ELSE json_build_object('value', amount_minor, 'currency', currency) END,
               'position', sequence,
               'at', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'))::text
      FROM (SELECT 'delivery' AS what, 0 AS rank, event_id, subject, order_id, epoch, NULL::bigint AS amount_minor,
                   NULL::text AS currency, sequence, received_at AS at
              FROM shipment_service.shipment_inbox
            UNION ALL
            SELECT 'release', 1, event_id, subject, i.order_id, i.epoch, amount_minor, currency, sequence, released_at
              FROM shipment_service.shipments JOIN shipment_service.shipment_inbox AS i USING (event_id)
            UNION ALL
            SELECT 'hold', 1, event_id, subject, i.order_id, i.epoch, NULL, NULL, sequence, held_at
              FROM shipment_service.holds JOIN shipment_service.shipment_inbox AS i USING (event_id)) AS happened
     ORDER BY at, rank, event_id";

/// Of one durable. Each handles one order at a time, and its commit takes a few milliseconds.
const INSTANCES: usize = 4;

/// When each order's release was heard, by order id.
#[derive(Debug, Clone, Default)]
pub(super) struct Deliveries(Arc<Mutex<HashMap<String, Micros>>>);

impl Deliveries {
    pub(super) fn all(&self) -> MutexGuard<'_, HashMap<String, Micros>> {
        // A panic while it was held left it whole: every change to it is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Instances that read until they are stopped.
#[derive(Debug)]
pub(super) struct Shipment {
    pub(super) deliveries: Deliveries,
    stop: CancellationToken,
    running: JoinSet<Result<(), ConsumeError>>,
}

impl Shipment {
    pub(super) async fn start(rig: &Rig, clock: Clock) -> anyhow::Result<Self> {
        let (client, driving) = rig::connect(&rig.shop_database_url()).await?;
        Inbox::prepare(&client).await?;
        drop(client);
        driving.await?;
        let deliveries = Deliveries::default();
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();
        for _ in 0..INSTANCES {
            let consumer = Consumer::connect(
                Settings::new(rig.nats.url(), "bench-shipment"),
                rig.options("shipment"),
                Database::new(rig.shop_database_url().parse()?, NoTls),
            )
            .await?;
            let (heard, stop) = (deliveries.clone(), stop.clone());
            running.spawn(consumer.run(
                async move |told: &Instruction,
                            _: &Transaction<'_>|
                            -> Result<(), std::convert::Infallible> {
                    if let Instruction::Ship(safe) = told {
                        heard.all().entry(safe.order_id.clone()).or_insert(clock.now());
                    }
                    Ok(())
                },
                stop,
            ));
        }
        Ok(Self {
            deliveries,
            stop,
            running,
        })
    }

    /// What was delivered and what came of it, into the folder of an export.
    pub(super) async fn export(rig: &Rig, folder: &Path) -> anyhow::Result<()> {
        let (client, driving) = rig::connect(&rig.shop_database_url()).await?;
        let rows = client.query(COMMITTED, &[]).await?;
        drop(client);
        driving.await?;
        let mut file = BufWriter::new(File::create(folder.join("shipment.ndjson"))?);
        for row in rows {
            writeln!(file, "{}", row.get::<_, String>(0))?;
        }
        Ok(file.flush()?)
    }

    /// Lets what was begun end, and has it acknowledged.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        Ok(())
    }
}
