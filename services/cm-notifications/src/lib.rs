#![doc = include_str!("../README.md")]

mod hook;
mod store;

use std::{io, net::SocketAddr, time::Duration};

use kassa_chassis::{
    config::Config,
    http::{self, Limits},
    supervise::keep_running,
};
use kassa_event_store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::store::Hints;

/// The listener for CM, bound and not yet answering.
#[derive(Debug)]
pub struct Notifications {
    listener: TcpListener,
    address: SocketAddr,
}

impl Notifications {
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("http.listen {address}: {error}")))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until shutdown.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(self, store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
        let hints = Hints::new(store);
        let limits = Limits {
            // CM sends no body; a form with one reference fits.
            body_max: 1024,
            head_max: 16 * 1024,
            // CM's patience is not known; an answer that takes longer is none.
            request_deadline: Duration::from_secs(10),
            ..Limits::default()
        };
        let sweeping = keep_running("parked notifications", &shutdown, || {
            hints.sweep(shutdown.clone())
        });
        let serving = http::serve(
            self.listener,
            hook::router(hints.clone()),
            limits,
            shutdown.clone(),
        );
        let (served, ()) = tokio::join!(serving, sweeping);
        Ok(served?)
    }
}

/// The worker: listens where the configuration says, until shutdown.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn run(config: Config, store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
    let bound = Notifications::bind(config.http.listen).await?;
    tracing::info!(address = %bound.local_addr(), "listening for CM's notifications");
    bound.serve(store, shutdown).await
}
