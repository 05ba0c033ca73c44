#![doc = include_str!("../README.md")]

mod checkout;
mod cursor;
mod dump;
mod lag;
mod methods;
mod progress;
mod projector;
mod queries;
mod rebuild;
mod shipping;
#[cfg(test)]
mod tests;
mod why;

use std::sync::Arc;

use kassa_chassis::{bus, config::Config, micro, supervise::keep_running};
use kassa_event_store::Store;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{checkout::Checkout, projector::Projection as _, shipping::Shipping};

pub use lag::{Build, Lag, lag};
pub use queries::{ASK_AGAIN, Queries};
pub use rebuild::{Progress, RebuildError, Swapped};

/// One part on one machine.
const PART: i32 = 0;

/// The worker: keeps the projections up to date and answers questions, until shutdown.
///
/// # Errors
/// When the address or the login for NATS is malformed. A server that is away is waited for.
pub async fn run(config: Config, store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client =
        bus::connect_to_hear(&config.nats.url, &config.nats.worker, "read-models", &shutdown).await?;
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
/// The projections that there are, by name.
pub const PROJECTIONS: [&str; 2] = [Checkout::NAME, Shipping::NAME];

/// Builds the projection `name` anew, beside the one that serves, and swaps them when the new one has all that the old one
/// has. `tell` hears how far it is. Publishes nothing and appends nothing.
///
/// # Errors
/// [`RebuildError`]; the projection that served goes on serving, and a later call begins from the beginning.
pub async fn rebuild(
    store: &Store,
    name: &str,
    stop: &CancellationToken,
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Swapped, RebuildError> {
    match name {
        Checkout::NAME => rebuild::rebuild(&Checkout, store, PART, stop, tell).await,
        Shipping::NAME => rebuild::rebuild(&Shipping, store, PART, stop, tell).await,
        _ => Err(RebuildError::unknown(name)),
    }
}

/// Sends the rows of the projection `name` as NDJSON in chunks of whole lines: first a line that tells the position, then a
/// row a line, ordered by key. Two dumps of one position are equal byte for byte. With `at`, the rows as they were at that
/// position, from a build of their own; else those that serve. Ends early when nobody receives.
///
/// # Errors
/// [`RebuildError`]; with `at`, a build of the same projection may be under way already.
pub async fn dump(
    store: &Store,
    name: &str,
    at: Option<i64>,
    stop: &CancellationToken,
    out: mpsc::Sender<Vec<u8>>,
) -> Result<(), RebuildError> {
    match name {
        Checkout::NAME => dump::dump(&Checkout, store, PART, at, stop, out).await,
        Shipping::NAME => dump::dump(&Shipping, store, PART, at, stop, out).await,
        _ => Err(RebuildError::unknown(name)),
    }
}
