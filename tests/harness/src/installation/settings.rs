//! What is each process told? One configuration file a process, since each reaches the servers by a way of its own.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use kassa_chassis::config::Login;
use secrecy::{ExposeSecret as _, SecretString};

use super::Plan;

/// Play money, and play passwords.
pub(super) const CM_PASSWORD: &str = "harness-cm-password";
pub(super) const MERCHANT: &str = "merchant";
pub(super) const ACCOUNT: &str = "account";

/// The users of the bus that an installation and its clients have.
#[must_use]
pub fn login(user: &str) -> Login {
    Login {
        user: Some(user.to_owned()),
        password: Some(SecretString::from(password(user))),
        password_file: None,
    }
}

pub(super) fn password(user: &str) -> String {
    format!("{user}-secret")
}

/// By which ways a process goes, and where it listens.
#[derive(Debug, Clone)]
pub(super) struct Ways<'a> {
    pub(super) postgres: &'a str,
    pub(super) nats: &'a str,
    pub(super) cm: &'a str,
    pub(super) hooks: &'a str,
    pub(super) listen: SocketAddr,
    pub(super) checkout: SocketAddr,
    pub(super) admin: Option<SocketAddr>,
    pub(super) simulator: SocketAddr,
    pub(super) state: &'a std::path::Path,
}

pub(super) fn toml(plan: &Plan, ways: &Ways<'_>) -> String {
    let login = |user: &str| {
        let login = login(user);
        let password = login
            .password
            .as_ref()
            .map_or("", |password| password.expose_secret());
        format!("{{ user = {}, password = {} }}", quoted(user), quoted(password))
    };
    let ladder: Vec<String> = plan.ladder.iter().map(|rung| quoted(&span(*rung))).collect();
    let ladder = ladder.join(", ");
    let admin = ways.admin.map_or("off".to_owned(), |address| address.to_string());
    let mut text = format!(
        "[database]\nurl = {}\nmax_connections = {}\n\
         [nats]\nurl = {}\nworker = {}\nrelay = {}\n\
         [checkout]\nlisten = \"{}\"\n\
         [http]\nlisten = \"{}\"\nadmin_listen = {}\n\
         [rate]\ncommands_per_second = {}\nqueries_per_second = {}\n\
         [poll.ladder]\nideal = [{ladder}]\npaypal = [{ladder}]\n\
         [simulator]\nlisten = \"{}\"\nmerchant_key = \"{MERCHANT}\"\naccount = \"{ACCOUNT}\"\npassword = \"{CM_PASSWORD}\"\n\
         notification_url = {}\npublic_url = {}\nstate_dir = {}\n",
        quoted(ways.postgres),
        plan.database_connections,
        quoted(ways.nats),
        login("worker"),
        login("relay"),
        ways.checkout,
        ways.listen,
        quoted(&admin),
        plan.commands_per_second,
        plan.commands_per_second.saturating_mul(4),
        ways.simulator,
        quoted(&format!("{}?id=", ways.hooks)),
        quoted(ways.cm),
        quoted(&ways.state.to_string_lossy()),
    );
    for shop in &plan.shops {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "[shops.{shop}]\nreturn_url_origins = [\"{}\"]\n\
             cm = {{ mode = \"sim\", rest_url = {}, account = \"{ACCOUNT}\", password = \"{CM_PASSWORD}\", \
             merchant_key = \"{MERCHANT}\", timeout = {} }}\n",
            super::RETURN_ORIGIN,
            quoted(ways.cm),
            quoted(&span(plan.cm_timeout)),
        );
    }
    text
}

fn span(length: Duration) -> String {
    format!("{}ms", length.as_millis())
}

/// TOML's basic string; the values are addresses and paths.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
