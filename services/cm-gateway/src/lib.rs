#![doc = include_str!("../README.md")]

mod client;
mod mark;
mod read;
mod wire;
mod work;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kassa_chassis::{
    bus::{self, Disposition, Work},
    config::Config,
    supervise::keep_running,
};
use kassa_domain::ids::{PaymentId, Shop};
use kassa_engine::Executor;
use tokio_util::sync::CancellationToken;

use crate::{client::Client, mark::LowWater};

/// The durable's name, and the worker's in `work_marks`.
const NAME: &str = "cm-gateway";
/// One part on one machine.
const PART: i32 = 0;
const STREAM: &str = "KASSA_EVENTS";
const STARTED: &str = "kassa.evt.*.*.payment.*.started";
/// Payments in the making at once; each is mostly waiting for CM.
const CONCURRENCY: usize = 128;

#[derive(Debug)]
pub(crate) struct Gateway {
    executor: Arc<Executor>,
    clients: BTreeMap<Shop, Client>,
    water: LowWater,
}

/// The worker: starts payments that were decided on, and reads reports that are asked for, until shutdown.
///
/// # Errors
/// When the configuration does not hold, or NATS cannot be reached at all.
pub async fn run(config: Config, executor: Arc<Executor>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let clients = config
        .shops
        .iter()
        .map(|(name, shop)| Ok((Shop::parse(name)?, Client::new(&shop.cm)?)))
        .collect::<anyhow::Result<_>>()?;
    let gateway = Arc::new(Gateway {
        executor,
        clients,
        water: LowWater::default(),
    });
    let nats = bus::connect(&config.nats.url, &config.nats.worker, NAME).await?;
    let jetstream = async_nats::jetstream::new(nats);
    let starting = keep_running("starts", &shutdown, || {
        gateway.clone().start_payments(&jetstream, &shutdown)
    });
    let reading = keep_running("reads", &shutdown, || {
        gateway.clone().read_reports(shutdown.clone())
    });
    let marking = gateway.keep_mark(&shutdown);
    tokio::join!(starting, reading, marking);
    Ok(())
}

impl Gateway {
    async fn start_payments(
        self: Arc<Self>,
        jetstream: &async_nats::jetstream::Context,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mark = self.executor.store().work_mark(NAME, PART).await?;
        let work = Work {
            stream: STREAM.to_owned(),
            durable: NAME.to_owned(),
            filter: STARTED.to_owned(),
            // Progress is acknowledged while a call is under way, so this is only how long a payment waits when its
            // worker is gone.
            ack_wait: Duration::from_secs(6),
            concurrency: CONCURRENCY,
            start_sequence: u64::try_from(mark)? + 1,
        };
        bus::consume(jetstream, &work, shutdown, |message| {
            let gateway = self.clone();
            async move { gateway.handle(&message).await }
        })
        .await
    }

    /// The message only names a payment; everything else comes from the store.
    async fn handle(&self, message: &async_nats::jetstream::Message) -> Disposition {
        let payment = message
            .subject
            .as_str()
            .split('.')
            .nth(5)
            .and_then(|id| PaymentId::parse(id).ok());
        let (Some(payment), Ok(info)) = (payment, message.info()) else {
            tracing::error!(subject = %message.subject.escape_debug(), "a message that names no payment");
            return Disposition::Park;
        };
        let sequence = info.stream_sequence;
        self.water.delivered(sequence);
        let disposition = self.drive(payment).await;
        if !matches!(disposition, Disposition::RetryAfter(_)) {
            self.water.settled(sequence);
        }
        disposition
    }

    async fn keep_mark(&self, shutdown: &CancellationToken) {
        let mut kept = 0;
        loop {
            let last = tokio::select! {
                () = shutdown.cancelled() => true,
                // Behind by half a second means a few payments looked at again, which does nothing.
                () = tokio::time::sleep(Duration::from_millis(500)) => false,
            };
            let mark = self.water.mark();
            if mark > kept {
                let position = i64::try_from(mark).unwrap_or(i64::MAX);
                match self
                    .executor
                    .store()
                    .advance_work_mark(NAME, PART, position)
                    .await
                {
                    Ok(()) => kept = mark,
                    Err(error) => tracing::debug!(%error, "the low-water mark could not be kept yet"),
                }
            }
            if last {
                return;
            }
        }
    }
}
