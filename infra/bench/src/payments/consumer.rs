//! Who is told that goods may leave? A shop's own shipment service, as the library for shops makes one; it notes when it
//! heard of each order.

use std::{
    collections::HashMap,
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
        let (client, driving) = rig::connect(&rig.database_url()).await?;
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
                Database::new(rig.database_url().parse()?, NoTls),
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

    /// Lets what was begun end, and has it acknowledged.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended??;
        }
        Ok(())
    }
}
