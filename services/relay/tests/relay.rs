//! Is the stream the log, whatever happens to the relay, the server and the stream itself?
//!
//! Against a real PostgreSQL, a database per test, and a nats-server per test, with the permissions of production.

#[path = "relay/fence.rs"]
mod fence;

use std::{
    collections::BTreeSet,
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream::{self, ErrorCode, context::GetStreamErrorKind, stream};
use cqrs_es::{Aggregate as _, DomainEvent};
use futures::StreamExt as _;
use jiff::Timestamp;
use kassa_chassis::config::{Config, Login, Nats as NatsConfig};
use kassa_domain::{
    ids::{CommandId, OrderId, PaymentId, Shop, ShopperId, event_id},
    money::{Currency, Money},
    order::{Order, OrderEvent, OrderFacts},
    payment::{Attempt, Method, Payment, PaymentEvent},
};
use kassa_event_store::{Append, NewEvent, Store, StoreConfig, Touch};
use kassa_infra::{
    nats::{Permissions, User, kassa_accounts, render},
    servers::{Nats, NatsOptions, Postgres, PostgresOptions},
};
use kassa_relay::{RelayError, Translator};
use secrecy::SecretString;
use tokio::{
    sync::OnceCell,
    task::{JoinHandle, block_in_place},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Generous, as the machine may be building something else; nothing waits longer than it must.
const DEADLINE: Duration = Duration::from_secs(60);
const SHOP: &str = "demo-shop";
const TEMPLATE: &str = "migrated";
const PASSWORD: &str = "only for this test";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stored_event_is_in_the_stream_at_its_position_under_its_id() -> Result<()> {
    let world = World::start().await?;
    let mut relay = world.relay();
    world.store.append(order(0)).await?;
    relay.reaches(1, &world).await?;
    let alone = world.message(1).await?;
    assert_eq!(alone.header("Nats-Batch-Id"), None, "one event needs no batch");
    assert_eq!(
        alone.header("Nats-Expected-Last-Sequence").as_deref(),
        Some("0"),
        "and is fenced"
    );
    relay.shut_down().await?;

    for n in 1..=500 {
        world.store.append(order_and_attempt(n)).await?;
    }
    let mut relay = world.relay();
    relay.reaches(1_501, &world).await?;
    let messages = world.check().await?;
    let batches = |range: std::ops::Range<usize>| -> BTreeSet<_> {
        messages[range]
            .iter()
            .map(|message| message.header("Nats-Batch-Id"))
            .collect()
    };
    assert_eq!(batches(1..1_001).len(), 1, "a thousand events are one batch");
    assert!(batches(1..1_001).is_disjoint(&batches(1_001..1_501)));
    let fenced: Vec<_> = messages
        .iter()
        .filter_map(|message| Some((message.sequence, message.header("Nats-Expected-Last-Sequence")?)))
        .collect();
    let expected = [(1, "0"), (2, "1"), (1_002, "1001")].map(|(sequence, last)| (sequence, last.to_owned()));
    assert_eq!(fenced, expected, "each batch is fenced by its first message");
    relay.shut_down().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_reaches_subscribers_of_the_live_subjects_once_it_is_stored() -> Result<()> {
    let world = World::start().await?;
    let shipment = world.connect("shipment").await?;
    let mut live = shipment.subscribe("kassa.live.>").await?;
    shipment.flush().await?;
    let mut relay = world.relay();
    world.store.append(order_and_attempt(1)).await?;
    relay.reaches(3, &world).await?;
    for stored in world.store.read_log(0, 0, 10).await? {
        let message = tokio::time::timeout(DEADLINE, live.next())
            .await?
            .context("a live copy")?;
        let envelope = world.translator().envelope(&stored).await?;
        assert_eq!(
            message.subject.as_str(),
            envelope.nats_subject().live().to_string()
        );
        assert_eq!(message.payload, envelope.to_json()?);
        let headers = message.headers.context("headers")?;
        let id = headers.get("Nats-Msg-Id").context("an id")?;
        assert_eq!(id.as_str(), stored.event_id.to_string());
    }
    relay.shut_down().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_relays_at_once_neither_double_an_event_nor_leave_one_out() -> Result<()> {
    let world = World::start().await?;
    let other_store = world.another_store().await?;
    let mut relays = [world.relay(), world.relay_of(other_store, u64::MAX)];
    for n in 0..200 {
        world.store.append(order_and_attempt(n)).await?;
    }
    for relay in &mut relays {
        relay.reaches(600, &world).await?;
    }
    world.check().await?;
    for relay in relays {
        relay.shut_down().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_cut_off_again_and_again_neither_doubles_an_event_nor_leaves_one_out() -> Result<()> {
    let world = World::start().await?;
    let store = world.store.clone();
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            store.append(order_and_attempt(n)).await?;
        }
        anyhow::Ok(())
    });
    for least in (50..=500).step_by(50) {
        let mut relay = world.relay();
        relay.reaches(least, &world).await?;
        // At whatever it is doing just then.
        relay.task.abort();
    }
    writer.await??;
    let mut relay = world.relay();
    relay.reaches(600, &world).await?;
    world.check().await?;
    relay.shut_down().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_was_lost_with_its_server_comes_back_as_it_was() -> Result<()> {
    let mut world = World::start().await?;
    let mut relay = world.relay();
    for n in 0..20 {
        world.store.append(order_and_attempt(n)).await?;
    }
    relay.reaches(60, &world).await?;
    let before = world.check().await?;

    block_in_place(|| {
        world.nats.kill()?;
        world.nats.wipe()?;
        world.nats.restart()
    })?;
    // Nothing new was stored: that the stream is gone is noticed all the same.
    relay.reaches(60, &world).await?;
    let after = world.check().await?;
    assert_eq!(before.len(), after.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.comparable(), after.comparable());
    }

    world.store.append(order_and_attempt(20)).await?;
    relay.reaches(63, &world).await?;
    world.check().await?;
    relay.shut_down().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_between_events_costs_none_of_them() -> Result<()> {
    let mut world = World::start().await?;
    let mut relay = world.relay();
    world.store.append(order_and_attempt(0)).await?;
    relay.reaches(3, &world).await?;
    block_in_place(|| world.nats.kill())?;
    world.store.append(order_and_attempt(1)).await?;
    block_in_place(|| world.nats.restart())?;
    relay.reaches(6, &world).await?;
    world.check().await?;
    relay.shut_down().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_stream_begins_with_the_newest_events_and_keeps_their_positions() -> Result<()> {
    let world = World::start().await?;
    for n in 0..10 {
        world.store.append(order_and_attempt(n)).await?;
    }
    // The first events of the order and the attempt at its beginning are older than it.
    let mut relay = world.relay_of(world.store.clone(), 5);
    relay.reaches(30, &world).await?;
    let info = world
        .admin()
        .await?
        .get_stream("KASSA_EVENTS")
        .await?
        .get_info()
        .await?;
    assert_eq!((info.state.first_sequence, info.state.messages), (26, 5));
    world.check_from(26).await?;
    relay.shut_down().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_no_event_stops_the_relay() -> Result<()> {
    let world = World::start().await?;
    let mut relay = world.relay();
    world.store.append(order_and_attempt(0)).await?;
    relay.reaches(3, &world).await?;
    let subject = world.message(1).await?.subject;
    world
        .admin()
        .await?
        .publish(subject, "forged".into())
        .await?
        .await?;

    let error = relay.failed().await?;
    assert!(
        matches!(error, RelayError::Ahead { last: 4, head: 3, .. }),
        "{error}"
    );
    // Also when the store has an event at that position by now.
    world.store.append(order(1)).await?;
    let error = world.relay().failed().await?;
    assert!(
        matches!(error, RelayError::OtherContent { position: 4, .. }),
        "{error}"
    );
    assert_eq!(world.message(4).await?.payload, "forged", "nothing was repaired");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_equal_numbers_and_another_history_stops_the_relay() -> Result<()> {
    let world = World::start().await?;
    let mut relay = world.relay();
    world.store.append(order_and_attempt(0)).await?;
    relay.reaches(3, &world).await?;
    relay.shut_down().await?;

    let restored = world.another_database().await?;
    restored.append(order_and_attempt(1)).await?;
    restored.append(order_and_attempt(2)).await?;
    let error = world.relay_of(restored, u64::MAX).failed().await?;
    let text = error.to_string();
    assert!(
        matches!(error, RelayError::OtherContent { position: 3, .. }),
        "{error}"
    );
    assert!(
        text.contains("KASSA_EVENTS") && text.contains("at 3") && text.contains("another history"),
        "{text}"
    );
    world.check().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_that_is_missing_stops_the_relay_before_it() -> Result<()> {
    let world = World::start().await?;
    world.store.append(order_and_attempt(0)).await?;
    let (client, connection) = connect_postgres(&world.database).await?;
    let deleted = client
        .execute("DELETE FROM events WHERE position = 2", &[])
        .await?;
    assert_eq!(deleted, 1);
    drop(client);
    connection.await??;
    let error = world.relay().failed().await?;
    assert!(matches!(error, RelayError::Gap { after: 1, found: 3 }), "{error}");
    let info = world
        .admin()
        .await?
        .get_stream("KASSA_EVENTS")
        .await?
        .get_info()
        .await?;
    assert_eq!(info.state.messages, 0, "nothing of that batch was published");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_with_other_settings_is_refused_by_the_name_of_the_setting() -> Result<()> {
    let world = World::start().await?;
    let old = stream::Config {
        name: "KASSA_EVENTS".to_owned(),
        subjects: vec!["kassa.evt.0.>".to_owned()],
        ..Default::default()
    };
    world.admin().await?.create_stream(&old).await?;
    let error = world.relay().failed().await?;
    let RelayError::Drift { stream, setting, .. } = &error else {
        bail!("{error}")
    };
    assert_eq!(stream, "KASSA_EVENTS");
    assert!(error.to_string().contains(setting), "{error}");
    let info = world
        .admin()
        .await?
        .get_stream("KASSA_EVENTS")
        .await?
        .get_info()
        .await?;
    assert!(
        !info.config.allow_atomic_publish && info.config.republish.is_none(),
        "nothing was changed"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_is_changed_by_hand_stops_a_running_relay() -> Result<()> {
    let world = World::start().await?;
    let mut relay = world.relay();
    world.store.append(order(0)).await?;
    relay.reaches(1, &world).await?;
    let admin = world.admin().await?;
    let mut config = admin.get_stream("KASSA_EVENTS").await?.get_info().await?.config;
    config.max_age = Duration::from_hours(24);
    admin.update_stream(&config).await?;
    let error = relay.failed().await?;
    let RelayError::Drift { setting, found, .. } = &error else {
        bail!("{error}")
    };
    assert_eq!((setting.as_str(), found.as_str()), ("max_age", "86400000000000"));
    Ok(())
}

/// A relay that runs.
struct Running {
    task: JoinHandle<Result<()>>,
    shutdown: CancellationToken,
}

impl Running {
    /// Until the stream ends at or after `position`.
    async fn reaches(&mut self, position: u64, world: &World) -> Result<()> {
        tokio::select! {
            reached = world.wait_for(position) => reached,
            ended = &mut self.task => bail!("the relay ended before {position}: {:?}", ended?),
        }
    }

    async fn shut_down(self) -> Result<()> {
        self.shutdown.cancel();
        tokio::time::timeout(DEADLINE, self.task).await??
    }

    /// Why it ended by itself.
    async fn failed(self) -> Result<RelayError> {
        match tokio::time::timeout(DEADLINE, self.task).await?? {
            Ok(()) => bail!("the relay ended without an error"),
            Err(error) => error.downcast(),
        }
    }
}

/// A message as it is in the stream.
#[derive(Debug)]
struct Message {
    sequence: u64,
    subject: String,
    headers: async_nats::HeaderMap,
    payload: bytes::Bytes,
}

impl Message {
    fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).map(ToString::to_string)
    }

    /// All but the fence and the batch, which say how it got there.
    fn comparable(&self) -> (u64, &str, Vec<(String, String)>, &[u8]) {
        let kept = [
            "Content-Type",
            "Nats-Msg-Id",
            "ce-id",
            "ce-type",
            "ce-source",
            "ce-subject",
            "ce-time",
        ];
        let headers = kept.map(|name| (name.to_owned(), self.header(name).unwrap_or_default()));
        (self.sequence, &self.subject, headers.to_vec(), &self.payload)
    }
}

/// Everything that one test has for itself, and the database server that it shares.
struct World {
    store: Store,
    database: String,
    nats: Nats,
    servers: Arc<Servers>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Result<Self> {
        let folder = folder("relay")?;
        let mut accounts = kassa_accounts("KASSA", "", &[SHOP], |_| PASSWORD.to_owned());
        let everything = vec![">".to_owned()];
        // Beside the streams.
        accounts[0].users.push(User {
            name: "admin".to_owned(),
            password: PASSWORD.to_owned(),
            permissions: Permissions {
                publish_allow: everything.clone(),
                subscribe_allow: everything,
                ..Default::default()
            },
        });
        let options = NatsOptions {
            dir: folder.path().join("nats"),
            server: None,
            cache_dir: cache_dir(),
            config: render(&accounts),
            port: None,
        };
        let (servers, nats) = block_in_place(|| anyhow::Ok((Servers::shared()?, Nats::start(&options)?)))?;
        let database = servers.database().await?;
        let store = connect_store(&database).await?;
        Ok(Self {
            store,
            database,
            nats,
            servers,
            _folder: folder,
        })
    }

    async fn another_store(&self) -> Result<Store> {
        connect_store(&self.database).await
    }

    async fn another_database(&self) -> Result<Store> {
        connect_store(&self.servers.database().await?).await
    }

    fn relay(&self) -> Running {
        self.relay_of(self.store.clone(), 10_000_000)
    }

    fn relay_of(&self, store: Store, window: u64) -> Running {
        self.relay_at(self.nats.url(), store, window)
    }

    fn relay_at(&self, url: String, store: Store, window: u64) -> Running {
        let config = Config {
            nats: NatsConfig {
                url,
                relay: Login {
                    user: Some("relay".to_owned()),
                    password: Some(SecretString::from(PASSWORD)),
                    password_file: None,
                },
                window,
                ..Default::default()
            },
            ..Default::default()
        };
        let shutdown = CancellationToken::new();
        Running {
            task: tokio::spawn(kassa_relay::run(config, store, shutdown.clone())),
            shutdown,
        }
    }

    fn translator(&self) -> Translator {
        Translator::new(self.store.clone(), BTreeSet::new())
    }

    async fn connect(&self, user: &str) -> Result<async_nats::Client> {
        let options =
            async_nats::ConnectOptions::with_user_and_password(user.to_owned(), PASSWORD.to_owned());
        Ok(options.connect(self.nats.url()).await?)
    }

    async fn admin(&self) -> Result<jetstream::Context> {
        Ok(jetstream::new(self.connect("admin").await?))
    }

    async fn wait_for(&self, position: u64) -> Result<()> {
        let admin = self.admin().await?;
        until(&format!("the stream reaches {position}"), || async {
            match admin.get_stream("KASSA_EVENTS").await {
                Ok(stream) => Ok(stream.cached_info().state.last_sequence >= position),
                Err(error) => match error.kind() {
                    GetStreamErrorKind::JetStream(refused) => {
                        ensure!(refused.error_code() == ErrorCode::STREAM_NOT_FOUND, refused);
                        Ok(false)
                    }
                    _ => Err(error.into()),
                },
            }
        })
        .await
    }

    async fn message(&self, sequence: u64) -> Result<Message> {
        let stream = self.admin().await?.get_stream("KASSA_EVENTS").await?;
        read(&stream, sequence).await
    }

    /// Compares the whole stream with the whole log.
    async fn check(&self) -> Result<Vec<Message>> {
        self.check_from(1).await
    }

    async fn check_from(&self, first: u64) -> Result<Vec<Message>> {
        let stream = self.admin().await?.get_stream("KASSA_EVENTS").await?;
        let state = &stream.cached_info().state;
        let head = u64::try_from(self.store.head(0).await?)?;
        assert_eq!(
            (state.first_sequence, state.last_sequence, state.deleted_count),
            (first, head, None)
        );
        let stored = self.store.read_log(0, i64::try_from(first)? - 1, 10_000).await?;
        assert_eq!(u64::try_from(stored.len())?, state.messages);
        let mut translator = self.translator();
        let mut messages = Vec::with_capacity(stored.len());
        for stored in stored {
            let message = read(&stream, u64::try_from(stored.position)?).await?;
            let envelope = translator.envelope(&stored).await?;
            assert_eq!(message.header("Nats-Msg-Id"), Some(stored.event_id.to_string()));
            assert_eq!(message.subject, envelope.nats_subject().to_string());
            for (name, value) in envelope.headers() {
                assert_eq!(message.header(name), Some(value), "{name}");
            }
            assert_eq!(message.payload, envelope.to_json()?);
            messages.push(message);
        }
        Ok(messages)
    }
}

async fn read(stream: &stream::Stream, sequence: u64) -> Result<Message> {
    let message = stream.get_raw_message(sequence).await?;
    Ok(Message {
        sequence: message.sequence,
        subject: message.subject.to_string(),
        headers: message.headers,
        payload: message.payload,
    })
}

async fn until<F: Future<Output = Result<bool>>>(what: &str, condition: impl Fn() -> F) -> Result<()> {
    let reached = async {
        while !condition().await? {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, reached)
        .await
        .with_context(|| format!("waited in vain until {what}"))?
}

async fn connect_store(url: &str) -> Result<Store> {
    let config = StoreConfig {
        url: url.to_owned(),
        pool_size: 4,
    };
    Ok(Store::connect(config).await?)
}

/// The database server; the last test that holds it ends it.
struct Servers {
    postgres: Postgres,
    /// Migrated once; the tests' databases are copies.
    template: OnceCell<()>,
    _folder: tempfile::TempDir,
}

static SHARED: Mutex<Weak<Servers>> = Mutex::new(Weak::new());

impl Servers {
    fn shared() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().expect("no test panics while it starts a server");
        if let Some(servers) = shared.upgrade() {
            return Ok(servers);
        }
        let folder = folder("postgres")?;
        let options = PostgresOptions {
            dir: folder.path().join("postgres"),
            bin_dir: None,
            cache_dir: cache_dir(),
        };
        let servers = Arc::new(Self {
            postgres: Postgres::start(&options)?,
            template: OnceCell::new(),
            _folder: folder,
        });
        *shared = Arc::downgrade(&servers);
        Ok(servers)
    }

    /// A new one with all tables; its address.
    async fn database(&self) -> Result<String> {
        self.template.get_or_try_init(|| self.make_template()).await?;
        let name = format!("test_{}", Uuid::new_v4().simple());
        let (client, connection) = connect_postgres(&self.postgres.url("postgres")).await?;
        client
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
            .await?;
        drop(client);
        connection.await??;
        Ok(self.postgres.url(&name))
    }

    async fn make_template(&self) -> Result<()> {
        let (client, connection) = connect_postgres(&self.postgres.url("postgres")).await?;
        client
            .batch_execute(&format!("CREATE DATABASE {TEMPLATE}"))
            .await?;
        drop(client);
        connection.await??;
        let (mut client, connection) = connect_postgres(&self.postgres.url(TEMPLATE)).await?;
        kassa_migrations::migrate(&mut client).await?;
        // A database that somebody is in cannot be copied.
        drop(client);
        connection.await??;
        Ok(())
    }
}

type Connection = JoinHandle<Result<(), tokio_postgres::Error>>;

async fn connect_postgres(url: &str) -> Result<(tokio_postgres::Client, Connection)> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    Ok((client, tokio::spawn(connection)))
}

/// Below the target folder, and open for the user that the database server runs as.
fn folder(name: &str) -> Result<tempfile::TempDir> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let mut builder = tempfile::Builder::new();
    Ok(builder
        .prefix(name)
        .permissions(permissions)
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// Where servers that had to be fetched are kept, for all crates.
fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache")
}

/// An order alone: one event.
fn order(n: u32) -> Append {
    let order = new_order(n);
    let created = created(n);
    append(
        n,
        vec![touch(order.stream())],
        vec![order_event(order, 1, &created)],
    )
}

/// An order and its first attempt: three events in two streams, one of them internal.
fn order_and_attempt(n: u32) -> Append {
    let order = new_order(n);
    let payment = PaymentId::new(order, command(n));
    let opened = OrderEvent::AttemptOpened {
        payment_id: payment,
        method: Method::Ideal,
        number: 1,
    };
    let started = PaymentEvent::PaymentStarted {
        attempt: Attempt {
            payment_id: payment,
            order_id: order,
            shop: shop(),
            method: Method::Ideal,
            amount: eur(4995),
            issuer: None,
            number: 1,
        },
        expires_at: Timestamp::UNIX_EPOCH,
    };
    let events = vec![
        order_event(order, 1, &created(n)),
        order_event(order, 2, &opened),
        new_event(
            order,
            payment.stream(),
            Payment::TYPE,
            payment.to_string(),
            1,
            &started,
        ),
    ];
    append(n, vec![touch(order.stream()), touch(payment.stream())], events)
}

fn append(n: u32, touches: Vec<Touch>, events: Vec<NewEvent>) -> Append {
    Append {
        part: 0,
        command_id: command(n).uuid(),
        fingerprint: vec![],
        outcome: vec![],
        touches,
        events,
        timers: vec![],
        done_timers: vec![],
        vault: vec![],
        reads: vec![],
        recorded_at: Timestamp::from_microsecond(1_763_970_000_123_456 + i64::from(n))
            .expect("a time of our time"),
    }
}

fn touch(stream_id: Uuid) -> Touch {
    Touch {
        stream_id,
        expected: 0,
    }
}

fn created(n: u32) -> OrderEvent {
    OrderEvent::OrderCreated {
        facts: OrderFacts {
            order_id: new_order(n),
            shop: shop(),
            order_reference: format!("A-{n}"),
            description: "two sacks of flour".to_owned(),
            amount: eur(4995),
            country: "NL".to_owned(),
            language: "nl".to_owned(),
            shopper_id: ShopperId::new(new_order(n)),
            return_url: "https://shop.example/thanks".to_owned(),
            expires_at: None,
        },
        metadata: Default::default(),
    }
}

fn order_event(order: OrderId, version: i64, event: &OrderEvent) -> NewEvent {
    new_event(
        order,
        order.stream(),
        Order::TYPE,
        order.to_string(),
        version,
        event,
    )
}

fn new_event<E: DomainEvent + serde::Serialize>(
    order: OrderId,
    stream_id: Uuid,
    aggregate_type: &str,
    aggregate_id: String,
    version: i64,
    event: &E,
) -> NewEvent {
    let metadata = serde_json::json!({
        "command_id": Uuid::nil(),
        "causation_id": Uuid::nil(),
        "correlation_id": order,
        "auth_type": "api_key",
        "auth_id": SHOP,
    });
    NewEvent {
        stream_id,
        event_id: event_id(stream_id, version),
        shop: SHOP.to_owned(),
        aggregate_type: aggregate_type.to_owned(),
        aggregate_id,
        event_type: event.event_type(),
        schema_version: 1,
        payload: serde_json::to_vec(event).expect("an event is plain data"),
        metadata: serde_json::to_vec(&metadata).expect("metadata is plain data"),
    }
}

fn shop() -> Shop {
    Shop::parse(SHOP).expect("it is a shop")
}

fn new_order(n: u32) -> OrderId {
    OrderId::new(&shop(), &format!("A-{n}"))
}

fn command(n: u32) -> CommandId {
    CommandId::from_key(&shop(), &n.to_string())
}

fn eur(minor: i64) -> Money {
    Money::new(minor, Currency::EUR)
}
