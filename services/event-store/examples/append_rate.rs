//! How many decisions does one process store a second, and how long does each wait?
//!
//! `cargo run --release -p kassa-event-store --example append_rate -- [callers] [seconds]`, 64 and 5 by default. On a
//! private PostgreSQL, or on the one that `DATABASE_URL` names: it is migrated and written to.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use kassa_event_store::{Append, NewEvent, Store, StoreConfig, Touch};
use kassa_infra::servers::{Postgres, PostgresOptions};
use uuid::Uuid;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let callers: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;

    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let run = target.join("append_rate").join(std::process::id().to_string());
    let (server, url) = match std::env::var("DATABASE_URL") {
        Ok(url) => (None, url),
        Err(_) => {
            let server = Postgres::start(&PostgresOptions {
                dir: run.clone(),
                bin_dir: None,
                cache_dir: target.join("../.cache"),
            })?;
            println!("{}", server.origin());
            let url = server.url("postgres");
            (Some(server), url)
        }
    };
    let (mut client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    kassa_migrations::migrate(&mut client).await?;

    let store = Store::connect(StoreConfig { url, pool_size: 2 }).await?;
    let began = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|_| tokio::spawn(call(store.clone(), began + Duration::from_secs(seconds))))
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await??);
    }
    let took_ms = began.elapsed().as_millis().max(1);
    waits.sort_unstable();
    let at = |percent: usize| {
        waits
            .get(waits.len() * percent / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{callers} callers, two events and two streams a decision: {} decisions/s, p50 {:?}, p99 {:?}",
        u128::from(u64::try_from(waits.len())?) * 1_000 / took_ms,
        at(50),
        at(99),
    );
    drop(server);
    let _ = std::fs::remove_dir_all(run);
    Ok(())
}

/// One caller: decides again as soon as it is answered.
async fn call(store: Store, until: Instant) -> Result<Vec<Duration>, Failure> {
    let mut waits = Vec::new();
    while Instant::now() < until {
        let decision = decision(&store);
        let asked = Instant::now();
        store.append(decision).await?;
        waits.push(asked.elapsed());
    }
    Ok(waits)
}

/// An order and its payment, each with one event of the usual size.
fn decision(store: &Store) -> Append {
    let streams = [Uuid::new_v4(), Uuid::new_v4()];
    Append {
        part: 0,
        command_id: Uuid::new_v4(),
        fingerprint: vec![0; 33],
        outcome: json(60),
        touches: streams
            .map(|stream_id| Touch {
                stream_id,
                expected: 0,
            })
            .to_vec(),
        events: streams
            .map(|stream_id| NewEvent {
                stream_id,
                event_id: Uuid::new_v4(),
                shop: "demo-shop".to_owned(),
                aggregate_type: "order".to_owned(),
                aggregate_id: stream_id.to_string(),
                event_type: "OrderCreated".to_owned(),
                schema_version: 1,
                payload: json(350),
                metadata: json(180),
            })
            .to_vec(),
        timers: vec![],
        done_timers: vec![],
        vault: vec![],
        reads: vec![],
        recorded_at: store.clock().now(),
    }
}

/// An empty object of this many bytes.
fn json(bytes: usize) -> Vec<u8> {
    let mut text = b"{}".to_vec();
    text.resize(bytes, b' ');
    text
}
