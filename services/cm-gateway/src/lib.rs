#![doc = include_str!("../README.md")]

mod circuit;
mod client;
mod read;
mod wire;
mod work;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::jetstream::consumer::pull;
use kassa_chassis::{
    bus::{self, Disposition, Work},
    config::Config,
    supervise::keep_running,
};
use kassa_domain::{
    ids::{PaymentId, Shop},
    methods::Catalogue,
};
use kassa_engine::Executor;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::client::Client;

/// The durable's name, and the worker's in `work_marks`.
const NAME: &str = "cm-gateway";
/// One part on one machine.
const PART: i32 = 0;
const STREAM: &str = kassa_events_schema::subject::STREAM;
const STARTED: &str = "kassa.evt.*.*.payment.*.started";
/// Payments in the making at once; each is mostly waiting for CM.
const CONCURRENCY: usize = 128;
/// The longest that reads of reports go before a payment: it may be CM that is slow.
const READS_FIRST_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Gateway {
    executor: Arc<Executor>,
    clients: BTreeMap<Shop, Client>,
    methods: Catalogue,
    /// One for each report that may be read at once.
    reads: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// The worker: starts payments that were decided on, and reads reports that are asked for, until shutdown.
///
/// # Errors
/// When the configuration does not hold. A server that is away is waited for.
pub async fn run(config: Config, executor: Arc<Executor>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let clients = config
        .shops
        .iter()
        .map(|(name, shop)| Ok((Shop::parse(name)?, Client::new(&shop.cm)?)))
        .collect::<anyhow::Result<_>>()?;
    let gateway = Arc::new(Gateway {
        executor,
        clients,
        methods: kassa_engine::catalogue(&config)?,
        reads: Arc::new(Semaphore::new(read::READS)),
        shutdown: shutdown.clone(),
    });
    let nats = bus::connect_to_hear(&config.nats.url, &config.nats.worker, NAME, &shutdown).await?;
    let jetstream = async_nats::jetstream::new(nats);
    let starting = keep_running("starts", &shutdown, || {
        gateway.clone().start_payments(&jetstream, &shutdown)
    });
    let reading = keep_running("reads", &shutdown, || {
        gateway.clone().read_reports(shutdown.clone())
    });
    let marking = gateway.keep_mark(&jetstream, &shutdown);
    tokio::join!(starting, reading, marking);
    Ok(())
}

/// The durable by which payments are heard of, and how it is read.
#[must_use]
pub fn work(start_sequence: u64) -> Work {
    Work {
        stream: STREAM.to_owned(),
        durable: NAME.to_owned(),
        filter: STARTED.to_owned(),
        // Progress is acknowledged while a call is under way, so this is only how long a payment waits when its
        // worker is gone.
        ack_wait: Duration::from_secs(6),
        concurrency: CONCURRENCY,
        start_sequence,
        // Giving up on a message would give up on a payment; the handler itself ends what it cannot finish.
        deliveries_max: None,
    }
}

impl Gateway {
    async fn start_payments(
        self: Arc<Self>,
        jetstream: &async_nats::jetstream::Context,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<()> {
        let mark = self.executor.store().work_mark(NAME, PART).await?;
        let work = work(u64::try_from(mark)? + 1);
        bus::consume(jetstream, &work, shutdown, |message| {
            let gateway = self.clone();
            async move { gateway.handle(&message).await }
        })
        .await
    }

    /// The message only names a payment; everything else comes from the store.
    async fn handle(&self, message: &async_nats::jetstream::Message) -> Disposition {
        match message
            .subject
            .as_str()
            .split('.')
            .nth(5)
            .and_then(|id| PaymentId::parse(id).ok())
        {
            Some(payment) => {
                self.reads_first().await;
                self.drive(payment).await
            }
            None => Disposition::Park("its subject names no payment".to_owned()),
        }
    }

    /// Lets reports be read before a payment is started, where there are more than can be read: money that moved is worth more
    /// than money that may, and the queue of those who may not start yet is what tells shops to come later.
    async fn reads_first(&self) {
        if self.reads.available_permits() == 0 {
            // Who waits here gives way, no more: the place goes back at once.
            let _ = tokio::time::timeout(READS_FIRST_MAX, self.reads.acquire()).await;
        }
    }

    /// Keeps in Postgres how far the durable is settled, for the day on which the stream and its consumers are wiped: a
    /// stream that was refilled is not history worked again. The durable itself knows what all gateways have settled.
    async fn keep_mark(&self, jetstream: &async_nats::jetstream::Context, shutdown: &CancellationToken) {
        let mut kept = 0;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // Behind by a second means a few payments looked at again, which does nothing.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            let durable = tokio::select! {
                () = shutdown.cancelled() => return,
                durable = jetstream.get_consumer_from_stream::<pull::Config, _, _>(NAME, STREAM) => durable,
            };
            let Ok(durable) = durable else { continue };
            let settled = i64::try_from(durable.cached_info().ack_floor.stream_sequence).unwrap_or(i64::MAX);
            if settled > kept {
                match self.executor.store().advance_work_mark(NAME, PART, settled).await {
                    Ok(()) => kept = settled,
                    Err(error) => tracing::debug!(%error, "the low-water mark could not be kept yet"),
                }
            }
        }
    }
}
