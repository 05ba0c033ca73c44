#![doc = include_str!("../README.md")]

mod checkout;
mod cursor;
mod progress;
mod projector;
mod queries;
mod shipping;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kassa_chassis::{bus, config::Config, micro, supervise::keep_running};
use kassa_event_store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{checkout::Checkout, projector::Projection as _, shipping::Shipping};

pub use queries::Queries;

/// One part on one machine.
const PART: i32 = 0;

/// The worker: keeps the projections up to date and answers questions, until shutdown.
///
/// # Errors
/// When the address or the login for NATS is malformed. A server that is away is waited for.
pub async fn run(config: Config, store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = bus::connect(&config.nats.url, &config.nats.worker, "read-models").await?;
    let (checked_out, progress) = watch::channel(0);
    let (shipped, _) = watch::channel(0);
    let queries = Arc::new(Queries::new(&config, store.clone(), progress, shutdown.clone()));

    let checkout = keep_running("checkout", &shutdown, || {
        projector::run(&Checkout, &store, PART, &checked_out, &shutdown)
    });
    let shipping = keep_running("shipping", &shutdown, || {
        projector::run(&Shipping, &store, PART, &shipped, &shutdown)
    });
    let answering = keep_running("queries", &shutdown, || {
        let queries = queries.clone();
        let about = micro::About::from_config(&config);
        let (client, shutdown) = (client.clone(), shutdown.clone());
        async move {
            micro::serve(&client, queries::SERVICE, &about, &shutdown, move |asked| {
                let queries = queries.clone();
                async move { queries.answer(&asked).await }
            })
            .await
        }
    });
    tokio::join!(checkout, shipping, answering);
    Ok(())
}

/// Tells `progress` how far the projection of orders is, whichever process keeps it, until shutdown: for [`Queries`] in a
/// process that does not project.
pub async fn follow(store: &Store, progress: &watch::Sender<i64>, shutdown: &CancellationToken) {
    keep_running("progress", shutdown, || {
        progress::follow(store, Checkout::NAME, PART, progress, shutdown)
    })
    .await;
}

/// Empties the projection `name`, so that its loop fills it again; `false` where there is none of that name.
///
/// # Errors
/// When the database cannot be written.
pub async fn rebuild(store: &Store, name: &str) -> anyhow::Result<bool> {
    match name {
        "checkout" => projector::rebuild::<Checkout>(store).await?,
        "shipping" => projector::rebuild::<Shipping>(store).await?,
        _ => return Ok(false),
    }
    Ok(true)
}
