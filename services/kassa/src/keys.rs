//! Who may ask over HTTP? Makes, lists and revokes a shop's API keys, with the login that owns the database: the services'
//! own role can only read them.

use std::{path::Path, process::ExitCode};

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use kassa_chassis::config::{Config, Mode};
use kassa_checkout::keys::{self, ApiKey, NewKey, Scope};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    cli,
    exit::Ended,
    output::{self, Column, Format, Output},
    roles,
};

/// A shop's keys for the HTTP API.
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  kassa keys create --shop demo-shop --name checkout-1
  kassa keys ls --shop demo-shop
  kassa keys revoke abcdefghij12")]
pub(crate) enum KeysVerb {
    /// Makes a key and prints it, once: only its hash is kept. Several are valid at once, so that they can be changed
    /// without a pause: make a new one, use it, revoke the old one.
    #[command(after_help = "Examples:
  kassa keys create --shop demo-shop --name checkout-1
  kassa keys create --shop demo-shop --name warehouse --scope orders:read --scope events:read
  kassa keys create --shop demo-shop --name trial --expires-in 30d")]
    Create(CreateArgs),
    /// Lists keys, without what is secret in them; revoked ones too.
    #[command(
        visible_alias = "list",
        after_help = "Examples:
  kassa keys ls
  kassa keys ls --shop demo-shop
  kassa keys ls --format json"
    )]
    Ls {
        #[arg(long)]
        shop: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Ends a key, by the id in its middle; it is refused within a second.
    #[command(after_help = "Examples:
  kassa keys revoke abcdefghij12
  kassa --config /etc/kassa.toml keys revoke abcdefghij12
  DATABASE_URL=postgresql:///kassa kassa keys revoke abcdefghij12")]
    Revoke { key_id: String },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[arg(long)]
    shop: String,
    /// For people: which service uses it, where.
    #[arg(long)]
    name: String,
    /// May be given several times; without it, all: orders:write, orders:read, events:read.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<Scope>,
    /// Such as 30d or 12h; without it, until it is revoked.
    #[arg(long, value_name = "TIME")]
    expires_in: Option<String>,
}

pub(crate) async fn run(verb: KeysVerb, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = cli::load(file)?;
    let client = roles::database(config.database.url.expose_secret()).await?;
    let now = now(&client).await?;
    match verb {
        KeysVerb::Create(args) => {
            let key = keys::create(&client, &new_key(&config, &args, now)?, now).await?;
            eprintln!("keep it where secrets are kept: it is shown this once");
            println!("{}", key.expose_secret());
        }
        KeysVerb::Ls { shop, output } => {
            let found = keys::list(&client, shop.as_deref()).await?;
            let documents: Vec<Value> = found.iter().map(|key| document(key, now)).collect();
            output::list(&documents, COLUMNS, output.or(Format::Json))?;
        }
        KeysVerb::Revoke { key_id } => {
            if !keys::revoke(&client, &key_id, now).await? {
                return Err(Ended::new(
                    Ended::NOT_FOUND,
                    "there is no key with this id: see kassa keys ls",
                )
                .into());
            }
            eprintln!("revoked: it is refused within a second");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A key for whoever tries the demo out.
pub(crate) async fn of_the_demo(url: &str, shop: &str, now: Timestamp) -> anyhow::Result<SecretString> {
    let client = roles::database(url).await?;
    let new = NewKey {
        shop: shop.to_owned(),
        mode: mode(Mode::Sim),
        name: "demo".to_owned(),
        scopes: Scope::ALL.to_vec(),
        expires_at: None,
    };
    Ok(keys::create(&client, &new, now).await?)
}

fn new_key(config: &Config, args: &CreateArgs, now: Timestamp) -> anyhow::Result<NewKey> {
    let usage = |text: String| anyhow::Error::from(Ended::new(Ended::USAGE, text));
    let shop = config.shops.get(&args.shop).ok_or_else(|| {
        let known: Vec<&str> = config.shops.keys().map(String::as_str).collect();
        usage(format!("--shop: one of those configured: {}", known.join(", ")))
    })?;
    if args.name.is_empty() || args.name.chars().count() > 80 || args.name.chars().any(char::is_control) {
        return Err(usage("--name: 1 to 80 characters".to_owned()));
    }
    let expires_at = args.expires_in.as_deref().map(|text| {
        let span: SignedDuration = days(text).or_else(|| text.parse().ok())?;
        span.is_positive().then(|| now.checked_add(span).ok())?
    });
    let expires_at = match expires_at {
        None => None,
        Some(Some(end)) => Some(end),
        Some(None) => return Err(usage("--expires-in: a time such as 30d or 12h".to_owned())),
    };
    let mut scopes = args.scopes.clone();
    if scopes.is_empty() {
        scopes = Scope::ALL.to_vec();
    }
    scopes.sort();
    scopes.dedup();
    Ok(NewKey {
        shop: args.shop.clone(),
        mode: mode(shop.cm.mode),
        name: args.name.clone(),
        scopes,
        expires_at,
    })
}

/// Whole days; a duration of this library has none, since days differ where clocks change. Ours are 24 hours.
fn days(text: &str) -> Option<SignedDuration> {
    let days: i64 = text.strip_suffix('d')?.parse().ok()?;
    days.checked_mul(24)
        .and_then(|hours| (hours <= 24 * 3_660).then(|| SignedDuration::from_hours(hours)))
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Sim => "sim",
        Mode::Test => "test",
        Mode::Live => "live",
    }
}

/// The database's, with the offset that drills set: the clock by which keys are judged.
async fn now(client: &Client) -> anyhow::Result<Timestamp> {
    let sql = "SELECT clock_timestamp() + offset_ms * interval '1 millisecond' FROM clock";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

fn document(key: &ApiKey, now: Timestamp) -> Value {
    let state = if key.revoked_at.is_some() {
        "revoked"
    } else if key.expires_at.is_some_and(|end| end <= now) {
        "expired"
    } else {
        "valid"
    };
    let mut document = json!({
        "key_id": key.key_id,
        "shop": key.shop,
        "mode": key.mode,
        "name": key.name,
        "state": state,
        "scopes": key.scopes,
        "created_at": key.created_at,
    });
    for (name, at) in [("expires_at", key.expires_at), ("revoked_at", key.revoked_at)] {
        if let Some(at) = at {
            document[name] = json!(at);
        }
    }
    document
}

const COLUMNS: &[Column] = &[
    column("KEY", |key| text(key, "key_id")),
    column("SHOP", |key| text(key, "shop")),
    column("MODE", |key| text(key, "mode")),
    column("NAME", |key| text(key, "name")),
    column("STATE", |key| text(key, "state")),
    column("SCOPES", |key| {
        let scopes = key["scopes"].as_array().into_iter().flatten();
        scopes.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    }),
    column("CREATED", |key| text(key, "created_at")),
    column("EXPIRES", |key| text(key, "expires_at")),
];

const fn column(name: &'static str, shown: fn(&Value) -> String) -> Column {
    Column {
        name,
        shown,
        plain: shown,
    }
}

fn text(document: &Value, field: &str) -> String {
    document[field].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_lasts_as_many_days_as_it_is_given() {
        assert_eq!(days("30d"), Some(SignedDuration::from_hours(720)));
        for wrong in ["d", "30", "-", "1.5d", "99999999d"] {
            assert_eq!(days(wrong), None, "{wrong}");
        }
    }
}
