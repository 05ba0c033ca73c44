//! With which login does the command line go to NATS? That of the `nats` tool, where there is one, so that people who use it
//! have nothing to set up.
//!
//! `--context` or `--nats-url`, then `NATS_CONTEXT`, `NATS_URL`, the context that `nats context select` chose, `nats.url` of
//! the configuration, and at last the address where a server stands on a developer's machine. Context files are those of
//! ADR-21: `~/.config/nats/context/{name}.json`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerError};
use clap::Args;
use kassa_chassis::{
    bus,
    config::{Config, Login},
};
use serde::Deserialize;
use tokio::sync::watch;

use crate::exit::Ended;

/// A server that is there answers at once; a login over a slow line takes a second or two.
const CONNECT_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct NatsArgs {
    /// A context of the `nats` tool; else NATS_CONTEXT.
    #[arg(long, value_name = "NAME", conflicts_with = "nats_url")]
    context: Option<String>,
    /// May carry a login: nats://user:password@host:port; else NATS_URL.
    #[arg(long, value_name = "URL")]
    nats_url: Option<String>,
}

/// Where to connect, and as whom.
struct Found {
    url: String,
    options: ConnectOptions,
    /// Whether there is a login at all.
    given: bool,
}

const NO_LOGIN: &str = "no login was given: name one with --context or --nats-url nats://USER:PASSWORD@host:4222, such as \
    deploy for kassa nats, operator for kassa dlq, checkout-SHOP for orders";

/// A context file; what we do not use is not looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ContextFile {
    url: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    nsc: String,
    inbox_prefix: String,
}

/// A connection, and what the server last refused on it.
#[derive(Debug, Clone)]
pub(crate) struct Bus {
    pub(crate) client: Client,
    /// Where it leads, without a login.
    pub(crate) shown: String,
    refused: watch::Receiver<Option<String>>,
}

impl Bus {
    /// Waits until the server refuses something, and says what. To be raced against what is wanted: the server does not
    /// answer what it refuses.
    pub(crate) async fn refusal(&self) -> Ended {
        let mut refused = self.refused.clone();
        match refused.wait_for(Option::is_some).await {
            Ok(text) => no_permission(text.as_deref().unwrap_or_default()),
            // The connection is gone: whoever asks hears of that first.
            Err(_) => std::future::pending().await,
        }
    }

    /// What the server has refused so far.
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.borrow().clone()
    }
}

fn no_permission(what: &str) -> Ended {
    Ended::new(
        Ended::NO_PERMISSION,
        format!(
            "this NATS login may not do that: {}",
            what.trim_start_matches("nats: ")
        ),
    )
    .hint("use the login of a checkout service of this shop, with --context or --nats-url")
}

impl NatsArgs {
    /// Whether NATS was asked for by name.
    pub(crate) fn named(&self) -> bool {
        self.context.is_some() || self.nats_url.is_some()
    }

    /// # Errors
    /// [`Ended`]: 78 for an address or a context that cannot be used, 69 where nobody answers, 77 for a login that is refused.
    pub(crate) async fn connect(&self, file: Option<&Path>, name: &str) -> anyhow::Result<Bus> {
        let Found { url, options, given } = self.options(file)?;
        connect(&url, options, name)
            .await
            .map_err(|error| match error.downcast::<Ended>() {
                Ok(ended) if ended.code == Ended::NO_PERMISSION && !given => ended.hint(NO_LOGIN).into(),
                Ok(ended) => ended.into(),
                Err(error) => error,
            })
    }

    fn options(&self, file: Option<&Path>) -> anyhow::Result<Found> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(name) = &self.context {
            return of_context(name);
        }
        if let Some(url) = &self.nats_url {
            return of_url(url, "--nats-url");
        }
        if let Some(name) = env("NATS_CONTEXT") {
            return of_context(&name);
        }
        if let Some(url) = env("NATS_URL") {
            return of_url(&url, "NATS_URL");
        }
        if let Some(name) = folder().and_then(|dir| std::fs::read_to_string(dir.join("context.txt")).ok())
            && !name.trim().is_empty()
        {
            return of_context(name.trim());
        }
        let config =
            Config::unchecked(file).map_err(|error| Ended::new(Ended::CONFIGURATION, error.to_string()))?;
        of_url(&config.nats.url, "nats.url")
    }
}

/// # Errors
/// As [`NatsArgs::connect`].
pub(crate) async fn connect(url: &str, options: ConnectOptions, name: &str) -> anyhow::Result<Bus> {
    let (tell, refused) = watch::channel(None);
    let options = options
        .name(name)
        .connection_timeout(CONNECT_MAX)
        .event_callback(move |event| {
            let tell = tell.clone();
            async move {
                if let Event::ServerError(error) = event {
                    let text = error.to_string();
                    let about_rights = matches!(error, ServerError::AuthorizationViolation)
                        || text.to_lowercase().contains("permissions");
                    if about_rights {
                        tell.send_replace(Some(text));
                    }
                }
            }
        });
    let shown =
        bus::without_login(url).map_err(|error| Ended::new(Ended::CONFIGURATION, error.to_string()))?;
    let client = tokio::time::timeout(CONNECT_MAX, options.connect(&shown))
        .await
        .map_err(|_| unreachable(&shown, "no answer in time"))?
        .map_err(|error| match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => Ended::new(
                Ended::NO_PERMISSION,
                format!("NATS at {shown} refuses this login"),
            )
            .hint("check the user and the password, or choose another --context"),
            ConnectErrorKind::ServerParse => Ended::new(
                Ended::CONFIGURATION,
                "the NATS address is not one such as nats://host:4222",
            ),
            ConnectErrorKind::Tls => Ended::new(
                Ended::CONFIGURATION,
                format!("NATS at {shown} does not agree on TLS: {error}"),
            ),
            _ => unreachable(&shown, &error.to_string()),
        })?;
    Ok(Bus {
        client,
        shown,
        refused,
    })
}

fn unreachable(shown: &str, why: &str) -> Ended {
    Ended::new(
        Ended::UNREACHABLE,
        format!("NATS at {shown} cannot be reached: {why}"),
    )
    .hint("start it, or name another with --context, --nats-url or NATS_URL")
}

fn of_url(url: &str, from: &str) -> anyhow::Result<Found> {
    let options = bus::options(url, &Login::default()).map_err(|error| {
        // The text speaks of nats.url; whoever gave it another way knows it by that name.
        let text = error.to_string().replace("nats.url", from);
        Ended::new(Ended::CONFIGURATION, text)
    })?;
    let given = url::Url::parse(url).is_ok_and(|url| !url.username().is_empty());
    Ok(Found {
        url: url.to_owned(),
        options,
        given,
    })
}

fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(base.join("nats"))
}

fn of_context(name: &str) -> anyhow::Result<Found> {
    let wrong = |text: String| {
        Ended::new(Ended::CONFIGURATION, text).hint("nats context ls shows those that there are")
    };
    let plain = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
    let path = folder()
        .filter(|_| plain)
        .map(|dir| dir.join("context").join(format!("{name}.json")))
        .ok_or_else(|| wrong(format!("{name} is no name of a NATS context")))?;
    let text = std::fs::read_to_string(&path).map_err(|error| {
        wrong(format!(
            "the NATS context {name} cannot be read: {}: {error}",
            path.display()
        ))
    })?;
    // The place and the reason, without the text: a password stands in it.
    let context: ContextFile = serde_json::from_str(&text).map_err(|error| {
        wrong(format!(
            "the NATS context {name} is not JSON as it should be: {}: line {}",
            path.display(),
            error.line()
        ))
    })?;
    if !context.nsc.is_empty() {
        let text = format!("the NATS context {name} takes its login from nsc, which is not supported");
        return Err(Ended::new(Ended::CONFIGURATION, text)
            .hint("nats context edit: set creds to a file")
            .into());
    }
    let url = if context.url.is_empty() {
        "nats://127.0.0.1:4222".to_owned()
    } else {
        // Several are tried by the library itself; one is enough to get in.
        context
            .url
            .split(',')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let Found {
        url,
        mut options,
        given,
    } = of_url(&url, "url of the NATS context")?;
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    if let Some(creds) = filled(&context.creds) {
        let text = std::fs::read_to_string(&creds).map_err(|error| wrong(format!("{creds}: {error}")))?;
        options = options
            .credentials(&text)
            .map_err(|error| wrong(format!("{creds} holds no NATS credentials: {error}")))?;
    } else if let Some(user) = filled(&context.user) {
        if let Some(prefix) = bus::inbox_prefix(&user) {
            options = options.custom_inbox_prefix(prefix);
        }
        options = options.user_and_password(user, context.password);
    } else if let Some(token) = filled(&context.token) {
        options = options.token(token);
    } else if let Some(nkey) = filled(&context.nkey) {
        let seed = std::fs::read_to_string(&nkey).map_err(|error| wrong(format!("{nkey}: {error}")))?;
        options = options.nkey(seed.trim().to_owned());
    }
    if let Some(ca) = filled(&context.ca) {
        options = options.add_root_certificates(ca.into());
    }
    if let (Some(cert), Some(key)) = (filled(&context.cert), filled(&context.key)) {
        options = options.add_client_certificate(cert.into(), key.into());
    }
    if let Some(prefix) = filled(&context.inbox_prefix) {
        options = options.custom_inbox_prefix(prefix);
    }
    let login = [&context.creds, &context.user, &context.token, &context.nkey];
    Ok(Found {
        url,
        options,
        given: given || login.iter().any(|text| !text.is_empty()),
    })
}
