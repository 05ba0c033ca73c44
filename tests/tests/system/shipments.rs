//! What if a shop's own handler fails? Nothing of it stays, the event comes again, and what goes on failing is told to a person.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{self, AckKind, consumer::PullConsumer};
use futures::StreamExt as _;
use kassa_chassis::bus;
use kassa_shipment::{ConsumeError, Consumer, Database, Inbox, Instruction, Settings, Stats};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, Transaction};
use tokio_util::sync::CancellationToken;

use crate::{command_line::run, inbox::kassa, stage::Stage, world::world};

const DURABLE: &str = "failing-shipment";
/// How often an event is delivered before a person is told, as the README of the library says.
const TOLD_AFTER: i64 = 20;

/// A shipment service beside the stage's own, with a database of its own.
struct Failing {
    database_url: String,
    /// What is wrong with its handler.
    mended: Arc<AtomicBool>,
}

impl Failing {
    async fn new() -> Self {
        let failing = Self {
            database_url: world().database().await,
            mended: Arc::new(AtomicBool::new(false)),
        };
        let client = failing.client().await;
        Inbox::prepare(&client).await.expect("the tables are made");
        client
            .batch_execute("CREATE TABLE parcels (order_id text)")
            .await
            .expect("the shop's table is made");
        failing
    }

    async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.database_url, NoTls)
            .await
            .expect("it opens");
        tokio::spawn(connection);
        client
    }

    async fn count(&self, sql: &str) -> i64 {
        self.client().await.query_one(sql, &[]).await.expect(sql).get(0)
    }

    /// Runs it; the handler writes its parcel and then, until it is mended, does `harm` or, without any, says that it failed.
    async fn run(&self, stage: &Stage, harm: Option<&'static str>) -> Service {
        let options = bus::options(&stage.config.nats.url, &stage.logins.shipment).expect("a good address");
        let database = Database::new(self.database_url.parse().expect("an address"), NoTls);
        let settings = Settings::new(&stage.config.nats.url, DURABLE);
        let consumer = Consumer::connect(settings, options, database)
            .await
            .expect("it connects");
        let stats = consumer.stats();
        let (stop, mended) = (CancellationToken::new(), self.mended.clone());
        let task = tokio::spawn(consumer.run(
            async move |told: &Instruction, transaction: &Transaction<'_>| {
                transaction
                    .execute("INSERT INTO parcels VALUES ($1)", &[&told.order_id()])
                    .await?;
                match harm {
                    _ if mended.load(Ordering::Relaxed) => Ok(()),
                    Some(harm) => Ok(transaction.batch_execute(harm).await?),
                    None => Err(Box::<dyn Error + Send + Sync>::from("no parcel service answers")),
                }
            },
            stop.clone(),
        ));
        Service { stats, stop, task }
    }
}

struct Service {
    stats: Arc<Stats>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), ConsumeError>>,
}

impl Service {
    async fn end(self) {
        self.stop.cancel();
        let ended = self.task.await.expect("it does not panic");
        ended.expect("only what waiting cannot mend ends it");
    }
}

/// An order that may be shipped.
async fn safe(stage: &Stage) -> String {
    let (reference, order_id) = stage.create("ideal/success").await;
    stage.start(&order_id).await;
    stage.press(&reference, "ideal/success").await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    order_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_fails_leaves_nothing_and_is_asked_again() {
    let stage = Stage::new().await;
    safe(&stage).await;
    let failing = Failing::new().await;
    let service = failing.run(&stage, None).await;
    stage
        .until("it failed", async |_| service.stats.failed() >= 1)
        .await;
    assert_eq!(
        (
            failing.count("SELECT count(*) FROM parcels").await,
            failing
                .count("SELECT count(*) FROM shipment_service.shipment_inbox")
                .await,
            service.stats.released(),
        ),
        (0, 0, 0),
        "what the handler did stays without the row by which it is known, or the other way round"
    );
    failing.mended.store(true, Ordering::Relaxed);
    stage
        .until("it came again", async |_| service.stats.released() == 1)
        .await;
    assert_eq!(failing.count("SELECT count(*) FROM parcels").await, 1);
    service.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_the_handlers_connection_every_time_is_told_to_a_person_and_goes_on_coming() {
    const BREAKS: Option<&str> = Some("SELECT pg_terminate_backend(pg_backend_pid())");
    let stage = Stage::new().await;
    let order_id = safe(&stage).await;
    let failing = Failing::new().await;
    let service = failing.run(&stage, BREAKS).await;
    stage
        .until("it failed", async |_| service.stats.failed() >= 1)
        .await;
    service.end().await;

    // A quarter of an hour, in which it is delivered again and again.
    let shipment = bus::connect(&stage.config.nats.url, &stage.logins.shipment, "test")
        .await
        .expect("NATS answers");
    let durable: PullConsumer = jetstream::new(shipment)
        .get_consumer_from_stream(DURABLE, "KASSA_EVENTS")
        .await
        .expect("the service has made it");
    let mut messages = durable
        .stream()
        .max_messages_per_batch(1)
        .expires(Duration::from_secs(5))
        .messages()
        .await
        .expect("it can be pulled from");
    loop {
        let message = messages
            .next()
            .await
            .expect("it does not end")
            .expect("a message");
        message
            .ack_with(AckKind::Nak(None))
            .await
            .expect("it is given back");
        if message.info().expect("it was delivered").delivered == TOLD_AFTER - 1 {
            break;
        }
    }
    drop(messages);

    let service = failing.run(&stage, BREAKS).await;
    let file = stage.config_file().to_str().expect("UTF-8").to_owned();
    stage
        .until("a person is told, by the doctor too", async |_| {
            let said = run(&["--config", &file, "doctor"], &[]).await;
            said.out.contains("1 messages wait for a person")
        })
        .await;
    service.end().await;
    assert_eq!(failing.count("SELECT count(*) FROM parcels").await, 0);

    // The shop was told as well as the person: who mends the handler has the order shipped.
    failing.mended.store(true, Ordering::Relaxed);
    let service = failing.run(&stage, BREAKS).await;
    let operator = stage.logins.of("operator");
    let letters = async |stage: &Stage| {
        let (_, text) = kassa(stage, &operator, &["dlq", "ls", "--format", "ndjson"]).await;
        let letter = text
            .lines()
            .next()
            .and_then(|line| serde_json::from_str::<Value>(line).ok());
        letter.map(|letter| letter["number"].to_string())
    };
    let number = letters(&stage).await.expect("one letter");
    stage
        .until("the letter is done again", async |stage| {
            let (code, _) = kassa(stage, &operator, &["dlq", "replay", &number]).await;
            code == 0 && letters(stage).await.is_none()
        })
        .await;
    let parcels = format!("SELECT count(*) FROM parcels WHERE order_id = '{order_id}'");
    assert_eq!(failing.count(&parcels).await, 1);
    service.end().await;
}
