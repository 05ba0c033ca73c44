#![doc = include_str!("../README.md")]

mod admission;
mod commands;
mod counts;
mod executor;
mod expiry;
mod inbox;
mod input;
mod internal;
mod methods;
mod poll;
mod service;
mod session;

use std::sync::Arc;

use kassa_chassis::{bus, config::Config, micro::About, supervise::keep_running};
use tokio_util::sync::CancellationToken;

pub use commands::{CancelOrder, CreateOrder, OrderMade, PaymentMade, StartPayment};
pub use executor::{Caller, Decide, Executed, Executor, Fault, Refusal};
pub use inbox::inbox;
pub use internal::{
    KeyOwner, ObserveReport, OrderRegistered, Recorded, Said, SharedKeyFound, StartNow, Word, key_id,
};
pub use methods::catalogue;
pub use poll::Ladders;
pub use service::{Commands, ShopRules, WAIT_DEFAULT_S, WAIT_MAX_HTTP_S};
pub use session::{Session, Told};

/// The worker: serves commands from NATS, takes those of the inbox, and fires the ladder of reads, until shutdown.
///
/// # Errors
/// When the configuration does not hold. A server that is away is waited for.
pub async fn run(config: Config, executor: Arc<Executor>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = bus::connect_to_hear(&config.nats.url, &config.nats.worker, "engine", &shutdown).await?;
    let ladders = Arc::new(Ladders::new(
        config.poll.ladder.clone(),
        &methods::catalogue(&config)?,
    ));
    let commands = Commands::from_config(&config, executor.clone(), ladders.clone(), shutdown.clone())?;
    let commands = Arc::new(commands);
    let serving = keep_running("commands", &shutdown, || {
        commands
            .clone()
            .serve(client.clone(), About::from_config(&config), shutdown.clone())
    });
    let jetstream = async_nats::jetstream::new(client.clone());
    let taking = keep_running("inbox", &shutdown, || {
        inbox::run(commands.clone(), jetstream.clone(), shutdown.clone())
    });
    let polling = keep_running("poll", &shutdown, || {
        poll::run(executor.clone(), ladders.clone(), PART, shutdown.clone())
    });
    tokio::join!(serving, taking, polling);
    Ok(())
}

/// One part on one machine.
const PART: i32 = 0;
