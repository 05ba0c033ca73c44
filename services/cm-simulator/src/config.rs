//! What must be told before the simulator can start?

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use secrecy::SecretString;
use url::Url;

/// One merchant at one simulated CM.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Where to listen; port 0 takes a free one. Keep it on loopback: `/sim` has no password.
    pub listen: SocketAddr,
    /// The key in the REST path. Letters, digits, `-` and `_`.
    pub merchant_key: String,
    /// Basic auth name, also `merchant_name` in menu URLs; without a colon.
    pub account: String,
    /// Basic auth password.
    pub password: SecretString,
    /// Where to tell of changes, in the classic form: ends in `=`, the url-encoded merchant reference is appended.
    /// `None` sends nothing.
    pub notification_url: Option<String>,
    /// How browsers and clients reach this program, without a trailing slash; `None` is `http://` and the address
    /// listened on.
    pub public_url: Option<String>,
    /// How often a notification is tried.
    pub notifications: NotificationPolicy,
    /// Longest time that a call is left without an answer by the scenarios which never answer.
    pub hold_max: Duration,
    /// What fits in memory.
    pub bounds: Bounds,
    /// A folder to keep everything in, so that a start goes on where the last run ended; `None` keeps nothing.
    pub state_dir: Option<PathBuf>,
}

impl SimConfig {
    /// Loopback, a free port, no notification URL, and the default bounds.
    #[must_use]
    pub fn new(merchant_key: impl Into<String>, account: impl Into<String>, password: SecretString) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            merchant_key: merchant_key.into(),
            account: account.into(),
            password,
            notification_url: None,
            public_url: None,
            notifications: NotificationPolicy::default(),
            // Clients give up after 10 to 30 s; a minute outlasts them, so that their timeout is what is tested.
            hold_max: Duration::from_secs(60),
            bounds: Bounds::default(),
            state_dir: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.merchant_key.is_empty() || !self.merchant_key.chars().all(plain) {
            return Err(ConfigError::MerchantKey);
        }
        if self.account.is_empty() || self.account.contains(':') {
            return Err(ConfigError::Account);
        }
        if let Some(url) = &self.notification_url {
            check_notification_url(url)?;
        }
        if let Some(url) = &self.public_url
            && (url.ends_with('/') || !is_web_url(url))
        {
            return Err(ConfigError::PublicUrl(url.clone()));
        }
        Ok(())
    }
}

/// Repeats of one notification. CM's manual says at most ten attempts and does not say how far apart.
#[derive(Debug, Clone, Copy)]
pub struct NotificationPolicy {
    /// Attempts in all, the first included.
    pub attempts_max: u32,
    /// Pause after the first failed attempt; it doubles with each further one.
    pub backoff_first: Duration,
    /// The pause never grows beyond this.
    pub backoff_max: Duration,
    /// How long one attempt waits for its answer.
    pub timeout: Duration,
}

impl Default for NotificationPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 10,
            // Short, so that a test with a deaf receiver ends: ten attempts take 26 s.
            backoff_first: Duration::from_millis(200),
            backoff_max: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
        }
    }
}

/// What is kept at most. Nothing is ever dropped to make room, because the ledger is evidence: work is refused.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Orders; some 1 KB each.
    pub orders_max: usize,
    /// Ledger rows (some 300 bytes each) from which on new orders are refused. One tenth more is kept free, so that
    /// orders under way can end and be recorded; beyond that every recorded call is refused.
    pub ledger_rows_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        // 200 MB of orders and 300 MB of rows: what a development machine can spare.
        Self {
            orders_max: 200_000,
            ledger_rows_max: 1_000_000,
        }
    }
}

/// A setting that cannot work, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// See [`SimConfig::merchant_key`].
    #[error("merchant_key is part of a path: use letters, digits, '-' and '_'")]
    MerchantKey,
    /// See [`SimConfig::account`].
    #[error("account must not be empty nor hold ':', which ends the name in basic auth")]
    Account,
    /// See [`SimConfig::notification_url`].
    #[error(
        "notification_url '{0}' must be an absolute http or https url that ends in '=': the reference follows it"
    )]
    NotificationUrl(String),
    /// See [`SimConfig::public_url`].
    #[error("public_url '{0}' must be an absolute http or https url without a trailing slash")]
    PublicUrl(String),
}

pub(crate) fn check_notification_url(url: &str) -> Result<(), ConfigError> {
    if url.ends_with('=') && is_web_url(url) {
        Ok(())
    } else {
        Err(ConfigError::NotificationUrl(url.to_owned()))
    }
}

fn is_web_url(url: &str) -> bool {
    Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
}
