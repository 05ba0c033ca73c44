#![doc = include_str!("../README.md")]

mod app;
mod events;
mod feed;
mod handlers;
pub mod keys;
mod pages;
mod query;
mod refusal;
mod stream;

use std::{io, net::SocketAddr, sync::Arc};

use kassa_chassis::{
    config::Config,
    http::{self, Limits},
};
use kassa_engine::{Commands, Executor, Ladders, WAIT_MAX_HTTP_S};
use kassa_read_models::Queries;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::app::App;

/// The only part of the log on one machine.
const PART: i32 = 0;

/// The listener for shops' services, bound and not yet answering.
#[derive(Debug)]
pub struct Checkout {
    listener: TcpListener,
    address: SocketAddr,
}

impl Checkout {
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("checkout.listen {address}: {error}")))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until shutdown.
    ///
    /// # Errors
    /// When the configuration does not hold, or the listener breaks.
    pub async fn serve(
        self,
        config: Config,
        executor: Arc<Executor>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let store = executor.store().clone();
        let (projected, progress) = watch::channel(0);
        let methods = kassa_engine::catalogue(&config)?;
        let ladders = Arc::new(Ladders::new(config.poll.ladder.clone(), &methods));
        let commands = Commands::from_config(&config, executor, ladders, shutdown.clone())?
            .waiting_at_most(WAIT_MAX_HTTP_S);
        let queries =
            Queries::new(&config, store.clone(), progress, shutdown.clone()).waiting_at_most(WAIT_MAX_HTTP_S);
        let app = Arc::new(App::new(
            &config,
            store.clone(),
            commands,
            queries,
            shutdown.clone(),
        ));
        let following = kassa_read_models::follow(&store, &projected, &shutdown);
        let feeding = app.feed.run(&store, &shutdown);
        let serving = http::serve(
            self.listener,
            app::router(app.clone()),
            Limits {
                // Every client of ours knows how long its JSON is.
                chunks: false,
                deadline_of: handlers::deadline,
                ..Limits::default()
            },
            shutdown.clone(),
        );
        let ((), (), served) = tokio::join!(following, feeding, serving);
        Ok(served?)
    }
}

/// The worker: listens where the configuration says, until shutdown.
///
/// # Errors
/// When the address cannot be listened on, or the configuration does not hold.
pub async fn run(config: Config, executor: Arc<Executor>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let bound = Checkout::bind(config.checkout.listen).await?;
    tracing::info!(address = %bound.local_addr(), "listening for shops");
    bound.serve(config, executor, shutdown).await
}
