//! Who may say what on the bus?
//!
//! Accounts, users and permissions as values, [`render`]ed to the text of a nats-server configuration. An account is a
//! bus of its own: nothing of one can be heard in another but what one exports and the other imports, so environments,
//! tenants and tests are accounts. The users of kassa, and why each may do what it may, are in [`kassa_accounts`].

mod kassa;

use std::fmt;
use std::fmt::Write;

pub use kassa::{
    ANALYST_DURABLE, ANALYTICS_STREAM, DEAD_LETTERS, EVENT_STREAMS, GATEWAY_DURABLE, INBOX_DURABLE,
    INBOX_STREAM, PROBE_STREAM, PROJECTOR_DURABLE, REJECTED_STREAM, inbox_prefix, kassa_accounts,
    rejected_durable, ship_durable,
};

/// A bus of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Printable ASCII without spaces or quotes; the program chooses it, not a user.
    pub name: String,
    /// Whether it may have streams.
    pub jetstream: bool,
    /// Who may connect to it; a user's name is unique on the whole server.
    pub users: Vec<User>,
    /// What other accounts have of it, and it of them.
    pub shared: Vec<Share>,
}

/// Subjects of one account that another can use; each of the two has to say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which way.
    pub direction: Direction,
    /// The other account's name.
    pub account: String,
    /// What travels.
    pub kind: Kind,
    /// Subject, with wildcards.
    pub subject: String,
}

/// Whose subjects they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ours, for the other.
    ExportTo,
    /// The other's, for us.
    ImportFrom,
}

/// What travels between accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Messages, from the exporting account to whoever subscribes in the importing one.
    Stream,
    /// A request to the exporting account and its answer. The server replaces the subject of the answer, so that it
    /// arrives in the importing account and nowhere else.
    Service,
    /// A request with many answers.
    ServiceOfMany,
}

/// Somebody who may connect.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// As given to the client library.
    pub name: String,
    /// In clear text, or as a bcrypt hash (`$2a$…`), which the server recognises.
    pub password: String,
    /// What this user may do; with the default, nothing.
    pub permissions: Permissions,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            password: _,
            permissions,
        } = self;
        f.debug_struct("User")
            .field("name", name)
            .field("permissions", permissions)
            .finish_non_exhaustive()
    }
}

/// Subjects, with wildcards. A subject passes if an allowed one covers it and no denied one does; so an empty list of
/// allowed subjects allows nothing, other than in the server's own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// What may be published to.
    pub publish_allow: Vec<String>,
    /// Exceptions from it.
    pub publish_deny: Vec<String>,
    /// What may be subscribed to.
    pub subscribe_allow: Vec<String>,
    /// Exceptions from it.
    pub subscribe_deny: Vec<String>,
}

/// The `accounts` block of a nats-server configuration.
///
/// # Panics
/// If an account's name is empty or has a character outside printable ASCII, a space or a quote: the format has no way
/// to write those in a key.
#[must_use]
pub fn render(accounts: &[Account]) -> String {
    let mut text = String::from("accounts {\n");
    for account in accounts {
        let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\'';
        assert!(
            !account.name.is_empty() && account.name.chars().all(plain),
            "the account name {:?} cannot be written in a nats-server configuration",
            account.name
        );
        text.push_str(&format!("  \"{}\" {{\n", account.name));
        if account.jetstream {
            text.push_str("    jetstream: enabled\n");
        }
        for (block, direction) in [
            ("exports", Direction::ExportTo),
            ("imports", Direction::ImportFrom),
        ] {
            let shared: Vec<_> = account
                .shared
                .iter()
                .filter(|share| share.direction == direction)
                .collect();
            if !shared.is_empty() {
                text.push_str(&format!("    {block}: [\n"));
                for share in shared {
                    text.push_str(&format!("      {}\n", line(share)));
                }
                text.push_str("    ]\n");
            }
        }
        text.push_str("    users: [\n");
        for user in &account.users {
            let permissions = &user.permissions;
            text.push_str(&format!(
                "      {{ user: {}, password: {}, permissions: {{\n        publish: {}\n        subscribe: {}\n      }} }}\n",
                quoted(&user.name),
                quoted(&user.password),
                rule(&permissions.publish_allow, &permissions.publish_deny),
                rule(&permissions.subscribe_allow, &permissions.subscribe_deny),
            ));
        }
        text.push_str("    ]\n  }\n");
    }
    text.push_str("}\n");
    text
}

fn line(share: &Share) -> String {
    let (account, subject) = (quoted(&share.account), quoted(&share.subject));
    let kind = match share.kind {
        Kind::Stream => "stream",
        Kind::Service | Kind::ServiceOfMany => "service",
    };
    match share.direction {
        Direction::ImportFrom => format!("{{ {kind}: {{ account: {account}, subject: {subject} }} }}"),
        Direction::ExportTo => {
            let many = if share.kind == Kind::ServiceOfMany {
                ", response_type: stream"
            } else {
                ""
            };
            format!("{{ {kind}: {subject}{many}, accounts: [{account}] }}")
        }
    }
}

fn rule(allow: &[String], deny: &[String]) -> String {
    // To the server an empty list of allowed subjects means all of them.
    if allow.is_empty() {
        return r#"{ deny: [">"] }"#.to_owned();
    }
    if deny.is_empty() {
        return format!("{{ allow: {} }}", list(allow));
    }
    format!("{{ allow: {}, deny: {} }}", list(allow), list(deny))
}

fn list(subjects: &[String]) -> String {
    let subjects: Vec<_> = subjects.iter().map(|subject| quoted(subject)).collect();
    format!("[{}]", subjects.join(", "))
}

/// A string in the configuration's syntax. Quotes also keep a leading `$` from being taken for a variable.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_ascii_control() => {
                // Writing to a string cannot fail.
                write!(quoted, "\\x{:02X}", u32::from(c)).ok();
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_permissions_may_do_nothing() {
        let user = User {
            name: "idle".into(),
            password: "x".into(),
            permissions: Permissions::default(),
        };
        let text = render(&[Account {
            name: "A".into(),
            jetstream: true,
            users: vec![user],
            shared: Vec::new(),
        }]);
        assert!(text.contains(r#"publish: { deny: [">"] }"#), "{text}");
        assert!(text.contains(r#"subscribe: { deny: [">"] }"#), "{text}");
    }

    #[test]
    fn a_string_cannot_end_early_or_start_a_new_line() {
        assert_eq!(quoted("a\"b\\c\nd\u{1}$X é"), r#""a\"b\\c\nd\x01$X é""#);
    }

    #[test]
    #[should_panic(expected = "cannot be written")]
    fn an_account_name_that_would_end_its_quotes_is_refused() {
        let _ = render(&[Account {
            name: "a\" { }".into(),
            jetstream: true,
            users: Vec::new(),
            shared: Vec::new(),
        }]);
    }

    #[test]
    fn passwords_are_not_printed() {
        let user = User {
            name: "u".into(),
            password: "geheim".into(),
            permissions: Permissions::default(),
        };
        assert!(!format!("{user:?}").contains("geheim"));
    }
}
