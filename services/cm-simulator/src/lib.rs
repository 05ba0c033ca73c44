#![doc = include_str!("../README.md")]

mod app;
mod arc;
mod bank;
mod clock;
mod config;
mod drive;
mod fault;
mod garble;
mod html;
mod job;
mod journal;
mod ledger;
mod menu;
mod notify;
mod order;
mod order_request;
mod report;
mod rest;
mod scenario;
mod sim;
mod state;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, Uri},
};
use kassa_chassis::http::{self, Limits};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Reply},
    notify::Notifier,
    state::State,
};
pub use crate::{
    clock::parse_duration,
    config::{Bounds, ConfigError, NotificationPolicy, SimConfig},
    scenario::{Act, EndState, ProviderCalls, SCENARIOS, ScenarioDoc, Stand, Step},
};

/// Orders and payments are small; what is larger is a mistake or an attack.
const BODY_MAX: usize = 64 * 1024;

/// Serves until `shutdown`.
///
/// # Errors
/// A setting that cannot work ([`ConfigError`]), or an address that cannot be listened on.
pub async fn run(config: SimConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let simulator = Simulator::bind(config).await?;
    tracing::info!(url = simulator.base_url(), "the simulated CM listens");
    Ok(simulator.serve(shutdown).await?)
}

/// A CM that listens already and does not answer yet, so that its port can be told to others first.
#[derive(Debug)]
pub struct Simulator {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
}

impl Simulator {
    /// Takes the address.
    ///
    /// # Errors
    /// `InvalidInput` with a [`ConfigError`] inside, or what the operating system says about the address.
    pub async fn bind(config: SimConfig) -> io::Result<Self> {
        config
            .check()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("simulator.listen {}: {error}", config.listen),
            )
        })?;
        let address = listener.local_addr()?;
        let mut state = match &config.state_dir {
            None => State::new(config.bounds),
            Some(dir) => State::open(config.bounds, dir).map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("simulator.state_dir {}: {error}", dir.display()),
                )
            })?,
        };
        state.notifying = config.notification_url.is_some();
        let credentials = format!("{}:{}", config.account, config.password.expose_secret());
        let app = App::new(
            config.merchant_key,
            config.account,
            Sha256::digest(credentials).into(),
            config.public_url.unwrap_or_else(|| format!("http://{address}")),
            config.hold_max,
            Notifier::new(config.notifications, config.notification_url)?,
            CancellationToken::new(),
            state,
        );
        Ok(Self {
            listener,
            address,
            app: Arc::new(app),
        })
    }

    /// The address listened on, with the real port.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What stands before every path, without a trailing slash.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.app.base_url
    }

    /// The base of the merchant's REST calls, without a trailing slash.
    #[must_use]
    pub fn rest_url(&self) -> String {
        format!(
            "{}/ps/api/public/v1/merchants/{}",
            self.app.base_url, self.app.merchant_key
        )
    }

    /// Where notifications go from now on; the receiver often learns its own port later than this one.
    ///
    /// # Errors
    /// [`ConfigError::NotificationUrl`] for a URL the merchant reference cannot be appended to.
    pub fn set_notification_url(&self, url: impl Into<String>) -> Result<(), ConfigError> {
        let url = url.into();
        config::check_notification_url(&url)?;
        self.app.notifier.set_url(Some(url));
        self.app.state().notifying = true;
        Ok(())
    }

    /// Answers until `shutdown`; then held calls are cut. Notifications that wait go on at the next start, if the state is
    /// kept.
    ///
    /// # Errors
    /// Those of the listener.
    pub async fn serve(self, shutdown: CancellationToken) -> io::Result<()> {
        let Self {
            listener,
            app,
            address: _,
        } = self;
        let limits = Limits {
            // A call held by a scenario must be cut by the scenario, not answered 408 by the server.
            request_deadline: app.hold_max.max(Duration::from_secs(60)) + Duration::from_secs(10),
            body_max: BODY_MAX,
            ..Limits::default()
        };
        let agenda = tokio::spawn(app.clone().keep_agenda());
        let serving = http::serve(listener, router(app.clone()), limits, shutdown.clone());
        tokio::pin!(serving);
        let result = tokio::select! {
            result = &mut serving => result,
            () = shutdown.cancelled() => {
                app.stop.cancel();
                serving.await
            }
        };
        app.stop.cancel();
        // It ends at the stop, and only a defect of its own can end it otherwise.
        agenda.await.map_err(io::Error::other)?;
        app.notifier.tasks.close();
        app.notifier.tasks.wait().await;
        result
    }
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .merge(rest::router())
        .merge(menu::router())
        .merge(bank::router())
        .merge(sim::router())
        .merge(drive::router())
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(app)
}

/// Programs get CM's error shape, browsers a page.
async fn unknown_path(uri: Uri) -> Reply {
    if uri.path().starts_with("/ps/api/") || uri.path().starts_with("/sim/") {
        Reply::messages(StatusCode::NOT_FOUND, ["There is nothing at this path."])
    } else {
        html::not_found()
    }
}
