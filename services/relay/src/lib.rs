#![doc = include_str!("../README.md")]

mod error;
mod filter;
mod publish;
mod relay;
mod stream;
pub mod topology;
mod translate;

use std::collections::BTreeSet;

use kassa_chassis::{
    bus,
    config::{Config, Mode},
};
use kassa_event_store::Store;
use tokio_util::sync::CancellationToken;

pub use error::RelayError;
pub use filter::{Bound, EventFilter, FilterError, FilteredLog, TypePattern, method, position, time};
pub use translate::{TranslateError, Translator};

/// The only part of the log on one machine.
const PART: i32 = 0;

/// Publishes what is committed, from where the stream ends, until shutdown.
///
/// # Errors
/// When the login or the address is malformed, and a [`RelayError`] that only a person can judge.
pub async fn run(config: Config, store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = bus::connect(&config.nats.url, &config.nats.relay, "kassa-relay").await?;
    let translator = Translator::new(store.clone(), shops_in_live_mode(&config));
    let stream = stream::Wanted {
        part: PART,
        replicas: config.nats.replicas,
        window: config.nats.window,
    };
    let jetstream = async_nats::jetstream::new(client.clone());
    let relay = relay::Relay::new(client, store, translator, stream);
    tokio::select! {
        relayed = relay.run(&shutdown) => relayed?,
        // Ends with the shutdown alone, as the relay does.
        () = topology::keep(&jetstream, config.nats.replicas, &shutdown) => {}
    }
    Ok(())
}

/// Names of the shops whose events are about money that exists.
pub fn shops_in_live_mode(config: &Config) -> BTreeSet<String> {
    let live = config.shops.iter().filter(|(_, shop)| shop.cm.mode == Mode::Live);
    live.map(|(name, _)| name.clone()).collect()
}
