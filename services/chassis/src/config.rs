//! What can be set, where it comes from, and what it is when nobody sets it.
//!
//! Defaults < `kassa.toml` < environment; `config/read.rs` reads them. Environment names are `KASSA_` and the path with `__`, such as
//! `KASSA_HTTP__LISTEN`; `DATABASE_URL` and `NATS_URL` are honoured too. An unknown key is an error.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::SignedDuration;
use kassa_events_schema::subject::check_shop;
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};

pub use read::{Finding, Loaded, schema};

mod read;

/// What stands for a secret wherever a configuration is shown.
pub const HIDDEN: &str = "(hidden)";

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub database: Database,
    pub nats: Nats,
    /// The listener for CM's notifications.
    pub http: Http,
    pub checkout: Checkout,
    pub rate: Rate,
    pub poll: Poll,
    pub methods: Methods,
    /// By shop token, `[a-z0-9-]{1,32}`.
    pub shops: BTreeMap<String, Shop>,
    /// The role `cm-simulator`.
    pub simulator: Simulator,
    pub log: Log,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// PostgreSQL, as a URL or as `key=value` words.
    #[serde(serialize_with = "hidden")]
    #[schemars(with = "String", extend("writeOnly" = true))]
    pub url: SecretString,
    /// Connections for reads; the appending connection comes on top.
    pub max_connections: usize,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Nats {
    pub url: String,
    /// For every role but the relay.
    pub worker: Login,
    /// The only login that may publish events.
    pub relay: Login,
    pub replicas: usize,
    /// How many of the newest events the stream is refilled with when it is made anew.
    pub window: u64,
}

/// A NATS user. Empty means: as the URL says.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Login {
    pub user: Option<String>,
    #[serde(serialize_with = "hidden_if_any")]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub password: Option<SecretString>,
    pub password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    pub listen: SocketAddr,
    /// For `/livez`, `/readyz`, `/startupz` and `/metrics`; for people and machines of our own only. Empty or `off`: nowhere.
    pub admin_listen: AdminListen,
    /// Where shops reach the HTTP API, without a slash at the end, such as `https://pay.shop.example`: discovery on NATS names
    /// schemas and pages by it. Without it their addresses are relative.
    pub public_url: Option<String>,
}

/// An address, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(with = "String")]
#[serde(try_from = "String")]
pub struct AdminListen(pub Option<SocketAddr>);

impl Serialize for AdminListen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(address) => address.serialize(serializer),
            None => serializer.serialize_str("off"),
        }
    }
}

impl TryFrom<String> for AdminListen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "" | "off" => Ok(Self(None)),
            address => address
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| "an address such as 127.0.0.1:9090, or off".to_owned()),
        }
    }
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Checkout {
    /// The listener for the HTTP API; apart from the one for notifications, whose limits are tighter and which CM must reach.
    pub listen: SocketAddr,
    /// Live streams of events open at once, and of one API key.
    pub streams: usize,
    pub streams_per_key: usize,
    /// How long an order may be paid; after it, a report without money ends it. An attempt that is under way then is
    /// waited for.
    pub order_ttl: SignedDuration,
    /// How long a shopper has for one attempt; after it, a report without money ends the attempt.
    pub attempt_ttl: SignedDuration,
}

/// What one shop may ask of one process; twice as much at once after a quiet second. Others are not touched by it.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    pub commands_per_second: u32,
    pub queries_per_second: u32,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Poll {
    /// Per method: how long after the start, and after each read that brought nothing final, the report is read again
    /// when no notification came. A method that is not named here has the ladder of the methods' file.
    pub ladder: BTreeMap<String, Vec<SignedDuration>>,
}

/// Which payment methods there are.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Methods {
    /// A file like `infra/methods.toml`, to be read instead of it.
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shop {
    pub cm: Cm,
    /// Scheme, host and port that a return URL may have, such as `https://shop.example`.
    pub return_url_origins: Vec<String>,
}

/// A shop's account at CM.com.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cm {
    #[serde(default)]
    pub mode: Mode,
    /// Up to and without `/ps/…`: `https://secure.docdatapayments.com`, a sandbox, or the simulator.
    pub rest_url: String,
    pub account: String,
    #[serde(default, serialize_with = "hidden_if_any")]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub password: Option<SecretString>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    pub merchant_key: String,
    /// For one call, from the first byte to the last.
    #[serde(default = "ten_seconds")]
    pub timeout: SignedDuration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The simulator: scenarios are passed on, plain HTTP is allowed.
    #[default]
    Sim,
    Test,
    Live,
}

#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Simulator {
    pub listen: SocketAddr,
    pub merchant_key: String,
    pub account: String,
    #[serde(serialize_with = "hidden")]
    #[schemars(with = "String", extend("writeOnly" = true))]
    pub password: SecretString,
    /// Ends in `=`; the merchant reference is appended.
    pub notification_url: Option<String>,
    /// How its callers reach it, without a slash at the end; none is `http://` and the address listened on. Links to its
    /// menu stand there: a gateway that goes by another way, such as a proxy, refuses links that lead elsewhere.
    pub public_url: Option<String>,
    /// A folder in which the simulator keeps what it knows, over restarts; without it a restart forgets everything.
    pub state_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Text,
    Json,
}

/// Why the configuration cannot be used. Names every problem that was found, never a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration is not usable:\n{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

impl Methods {
    /// The file that is named here or else `built_in`, as `T`; what is wrong with it is told with its line.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`], with the file's name.
    pub fn read<T: DeserializeOwned>(&self, built_in: &str) -> Result<T, ConfigError> {
        let named = |error: &dyn std::fmt::Display| {
            let file = self
                .file
                .as_deref()
                .map_or("built in".into(), Path::to_string_lossy);
            ConfigError::Wrong(vec![format!("methods.file ({file}): {error}")])
        };
        let text = match &self.file {
            None => built_in.to_owned(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| named(&error))?,
        };
        toml::from_str(&text).map_err(|error| named(&error))
    }
}

fn ten_seconds() -> SignedDuration {
    SignedDuration::from_secs(10)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: SecretString::from(""),
            max_connections: 16,
        }
    }
}

impl Default for Nats {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            worker: Login::default(),
            relay: Login::default(),
            replicas: 1,
            // At some ten events a payment, a million payments.
            window: 10_000_000,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: loopback(8080),
            admin_listen: AdminListen(Some(loopback(9090))),
            public_url: None,
        }
    }
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            // Ten times what the busiest shop sells in its busiest minute, and a tenth of what one process can decide.
            commands_per_second: 500,
            queries_per_second: 2_000,
        }
    }
}

impl Default for Checkout {
    fn default() -> Self {
        Self {
            listen: loopback(8081),
            streams: 1_024,
            // A back office with some tabs and services; a client that leaks connections is stopped early.
            streams_per_key: 64,
            order_ttl: SignedDuration::from_mins(30),
            attempt_ttl: SignedDuration::from_mins(30),
        }
    }
}

impl Default for Simulator {
    fn default() -> Self {
        Self {
            listen: loopback(8090),
            merchant_key: "00000000-0000-4000-8000-000000000000".to_owned(),
            account: "simulated".to_owned(),
            password: SecretString::from("simulated"),
            notification_url: None,
            public_url: None,
            state_dir: None,
        }
    }
}

impl Config {
    /// Reads the file, if there is one, and the environment over it.
    ///
    /// # Errors
    /// [`ConfigError`], with everything that is wrong at once.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let loaded = Self::examine(file);
        let wrong: Vec<String> = loaded.errors().map(ToString::to_string).collect();
        if wrong.is_empty() {
            Ok(loaded.config)
        } else {
            Err(ConfigError::Wrong(wrong))
        }
    }

    /// Everything that is known of the configuration: values, where they come from, what is wrong and what is not used.
    pub fn examine(file: Option<&Path>) -> Loaded {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        read::load(file, environment)
    }

    /// As [`Self::load`], for who needs one of the values and no database: what is missing stays empty.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`] for a file that cannot be read or is not TOML.
    pub fn unchecked(file: Option<&Path>) -> Result<Self, ConfigError> {
        let loaded = Self::examine(file);
        let unreadable: Vec<String> = loaded
            .errors()
            .filter(|finding| finding.key.is_empty())
            .map(ToString::to_string)
            .collect();
        if unreadable.is_empty() {
            Ok(loaded.config)
        } else {
            Err(ConfigError::Wrong(unreadable))
        }
    }

    /// # Errors
    /// [`ConfigError::Wrong`] with every problem: its key, and what is allowed there.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = self.wrong();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Wrong(wrong))
        }
    }

    /// Each as `key: what is allowed there`.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.database.url.expose_secret().is_empty() {
            wrong.push("database.url: set it, or DATABASE_URL, to a PostgreSQL 15 or newer".to_owned());
        }
        if !(1..=1_000).contains(&self.database.max_connections) {
            wrong.push("database.max_connections: 1 to 1000".to_owned());
        }
        if let Some(url) = &self.http.public_url {
            let live = self.shops.values().any(|shop| shop.cm.mode == Mode::Live);
            let scheme = url::Url::parse(url).map(|url| url.scheme().to_owned());
            let fits = match scheme.as_deref() {
                Ok("https") => true,
                Ok("http") => !live,
                _ => false,
            };
            if !fits || url.ends_with('/') {
                wrong.push(
                    "http.public_url: an http or https URL without a slash at the end; https in mode live"
                        .to_owned(),
                );
            }
        }
        if self.checkout.order_ttl < SignedDuration::from_secs(1) {
            wrong.push("checkout.order_ttl: at least 1s".to_owned());
        }
        if self.checkout.attempt_ttl < SignedDuration::from_secs(1) {
            wrong.push("checkout.attempt_ttl: at least 1s".to_owned());
        }
        for (method, ladder) in &self.poll.ladder {
            if ladder.is_empty() || ladder.iter().any(|rung| *rung < SignedDuration::from_millis(100)) {
                wrong.push(format!(
                    "poll.ladder.{method}: one or more intervals of at least 100ms"
                ));
            }
        }
        if self.rate.commands_per_second == 0 || self.rate.queries_per_second == 0 {
            wrong.push("rate: at least 1 per second".to_owned());
        }
        if ![1, 3, 5].contains(&self.nats.replicas) {
            wrong.push("nats.replicas: 1, 3 or 5".to_owned());
        }
        if self.nats.window < 1_000 {
            // A stream that is made anew would be filled with next to nothing, and releases would be missing in it.
            wrong.push("nats.window: at least 1000 events".to_owned());
        }
        for (name, shop) in &self.shops {
            shop.check(name, &mut wrong);
        }
        wrong
    }
}

impl Shop {
    fn check(&self, name: &str, wrong: &mut Vec<String>) {
        if check_shop(name).is_err() {
            wrong.push(format!("shops.{name}: a shop is 1 to 32 of a-z, 0-9 and -"));
        }
        match url::Url::parse(&self.cm.rest_url) {
            Ok(url) if url.scheme() == "https" => {}
            Ok(url) if url.scheme() == "http" && self.cm.mode != Mode::Live => {}
            Ok(_) => wrong.push(format!("shops.{name}.cm.rest_url: https in mode live")),
            Err(_) => wrong.push(format!("shops.{name}.cm.rest_url: an absolute URL")),
        }
        if self.cm.timeout < SignedDuration::from_millis(100)
            || self.cm.timeout > SignedDuration::from_secs(60)
        {
            wrong.push(format!("shops.{name}.cm.timeout: 100ms to 60s"));
        }
        for origin in &self.return_url_origins {
            if !url::Url::parse(origin).is_ok_and(|url| url.origin().is_tuple()) {
                wrong.push(format!(
                    "shops.{name}.return_url_origins: scheme, host and port, such as https://shop.example"
                ));
            }
        }
        if let Err(error) = self.cm.secret() {
            wrong.push(format!("shops.{name}.cm.password_file: {error}"));
        }
    }
}

impl Cm {
    /// # Errors
    /// When neither a password nor a readable file is given.
    pub fn secret(&self) -> Result<SecretString, std::io::Error> {
        secret(self.password.as_ref(), self.password_file.as_deref())?.ok_or_else(|| {
            std::io::Error::other("set password_file to a file that holds the account's password")
        })
    }

    pub fn timeout(&self) -> Duration {
        self.timeout.unsigned_abs()
    }
}

impl Login {
    /// `None` where the URL carries the login.
    ///
    /// # Errors
    /// When the password file cannot be read.
    pub fn resolve(&self) -> Result<Option<(String, SecretString)>, std::io::Error> {
        let Some(user) = &self.user else { return Ok(None) };
        let password = secret(self.password.as_ref(), self.password_file.as_deref())?;
        Ok(Some((
            user.clone(),
            password.unwrap_or_else(|| SecretString::from("")),
        )))
    }
}

fn hidden<S: Serializer>(_: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(HIDDEN)
}

fn hidden_if_any<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| HIDDEN).serialize(serializer)
}

fn secret(given: Option<&SecretString>, file: Option<&Path>) -> Result<Option<SecretString>, std::io::Error> {
    match (given, file) {
        (Some(secret), _) => Ok(Some(secret.clone())),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(|text| Some(SecretString::from(text.trim_end_matches(['\r', '\n']))))
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(toml: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(toml)
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = parsed("[database]\nurll = 'x'").expect_err("a slip of the pen must not be silent");
        assert!(error.to_string().contains("urll"), "{error}");
    }

    #[test]
    fn every_problem_is_named_at_once_and_no_secret_is() {
        let config = parsed(
            "[shops.Demo]\nreturn_url_origins = ['shop']\n\
             cm = { mode = 'live', rest_url = 'http://cm.example', account = 'a', password = 'hunter2', \
             merchant_key = 'm', timeout = '2m' }",
        )
        .unwrap();
        let text = config.check().expect_err("five things are wrong").to_string();
        for named in [
            "database.url",
            "shops.Demo:",
            "rest_url",
            "timeout",
            "return_url_origins",
        ] {
            assert!(text.contains(named), "{named} is missing in {text}");
        }
        assert!(!text.contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn the_admin_listener_can_be_moved_and_turned_off() {
        let listen = |text: &str| {
            parsed(&format!("[http]\nadmin_listen = '{text}'")).map(|config| config.http.admin_listen.0)
        };
        assert_eq!(listen("127.0.0.1:9").unwrap(), Some(loopback(9)));
        assert_eq!((listen("").unwrap(), listen("off").unwrap()), (None, None));
        assert!(listen("9090").is_err_and(|error| error.to_string().contains("or off")));
    }

    #[test]
    fn listeners_bind_to_loopback_unless_told_otherwise() {
        let config = Config::default();
        assert!(
            config
                .http
                .admin_listen
                .0
                .is_some_and(|address| address.ip().is_loopback())
        );
        assert!(config.http.listen.ip().is_loopback() && config.simulator.listen.ip().is_loopback());
    }
}
