//! What may each user of kassa do, and why no more?
//!
//! Two facts are worth a forger's trouble: "this order is paid" on the event stream, and a command that makes it so.
//! So only the relay may publish events, commands of the inside never travel on the bus at all, and nobody reads the
//! subjects of the events directly: a plain subscriber there would also see what the stream refused.

use super::{Account, Permissions, User};

/// The streams that hold events, one for each part of the log. The server's wildcards cover whole tokens only, so each
/// is named: a further part is a further name here.
pub const EVENT_STREAMS: [&str; 1] = ["KASSA_EVENTS"];

/// Holds signs of life, by which processes tell whether they are ready; whoever finds it missing makes it.
pub const PROBE_STREAM: &str = "KASSA_PROBE";

/// As in the subjects' grammar: a lower-case token without wildcards, at most 32 characters.
const SHOP_CHARS_MAX: usize = 32;

const INBOX: &str = "_INBOX.>";
/// Discovery, ping and statistics of micro services.
const SERVICES: &str = "$SRV.>";

/// Durables that are named after the worker that reads by them.
const OWN_DURABLES: [&str; 1] = ["cm-gateway"];

/// One account with the users `{prefix}checkout` (for the given shops), `{prefix}shipment`, `{prefix}worker` and
/// `{prefix}relay`. Passwords are asked for by the user's full name.
///
/// Two things that permissions cannot do, so that who must not have them needs an account of its own: all users share
/// the inbox prefix and can listen to each other's answers; and who may ask JetStream anything names the subject of its
/// answer, which the *server* then publishes, whatever that user may publish. So a shipment or worker user cannot write
/// an event, but it can make the server drop an answer of its own into the stream, which the relay finds and stops at.
///
/// # Panics
/// If a shop is not `[a-z0-9-]{1,32}`: a wildcard there would open every shop's commands.
pub fn kassa_account(
    name: &str,
    user_prefix: &str,
    shops: &[&str],
    mut passwords: impl FnMut(&str) -> String,
) -> Account {
    let mut user = |role: &str, publish: Vec<String>, publish_deny: Vec<String>, subscribe: Vec<String>| {
        let name = format!("{user_prefix}{role}");
        let password = passwords(&name);
        let permissions = Permissions {
            publish_allow: publish,
            publish_deny,
            subscribe_allow: subscribe,
            ..Permissions::default()
        };
        User {
            name,
            password,
            permissions,
        }
    };
    let users = vec![
        user(
            "checkout",
            checkout_publish(shops),
            vec![],
            checkout_subscribe(shops),
        ),
        user(
            "shipment",
            reads_events(),
            of_our_own_durables(),
            strings(&[INBOX, "kassa.live.>"]),
        ),
        user(
            "worker",
            worker_publish(),
            vec![],
            strings(&["kassa.cmd.>", "kassa.qry.>", SERVICES, INBOX]),
        ),
        user("relay", relay_publish(), vec![], strings(&[INBOX])),
    ];
    Account {
        name: name.to_owned(),
        users,
    }
}

/// Commands and questions of its own shops. No JetStream: it learns outcomes by answers and by the live subjects.
fn checkout_publish(shops: &[&str]) -> Vec<String> {
    let mut subjects = strings(&[SERVICES]);
    for shop in shops {
        assert_shop(shop);
        subjects.extend([format!("kassa.cmd.{shop}.*"), format!("kassa.qry.{shop}.*")]);
    }
    subjects
}

fn checkout_subscribe(shops: &[&str]) -> Vec<String> {
    let mut subjects = strings(&[INBOX]);
    subjects.extend(shops.iter().map(|shop| format!("kassa.live.{shop}.>")));
    subjects
}

/// What a durable or ephemeral pull consumer needs, from finding the stream to the last acknowledgement.
fn reads_events() -> Vec<String> {
    let mut subjects = strings(&["$JS.API.INFO", "$JS.API.STREAM.NAMES"]);
    for stream in EVENT_STREAMS {
        subjects.extend([
            format!("$JS.API.STREAM.INFO.{stream}"),
            // Without a name or filter in the subject, as older clients ask.
            format!("$JS.API.CONSUMER.CREATE.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.INFO.{stream}.>"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.>"),
            format!("$JS.API.CONSUMER.DELETE.{stream}.>"),
            format!("$JS.ACK.{stream}.>"),
        ]);
    }
    subjects
}

/// What others may not do with the durables of our own workers: who could take their messages, settle them or change their
/// filters could make payments stand still.
fn of_our_own_durables() -> Vec<String> {
    let mut subjects = Vec::new();
    for stream in EVENT_STREAMS {
        for durable in OWN_DURABLES {
            for verb in ["CREATE", "DURABLE.CREATE", "INFO", "MSG.NEXT", "DELETE"] {
                subjects.push(format!("$JS.API.CONSUMER.{verb}.{stream}.{durable}"));
            }
            subjects.push(format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}.>"));
            subjects.push(format!("$JS.ACK.{stream}.{durable}.>"));
        }
    }
    subjects
}

/// Answers commands, reads events, parks what can never succeed.
fn worker_publish() -> Vec<String> {
    let mut subjects = strings(&[INBOX, SERVICES, "kassa.dlq.>"]);
    subjects.extend(reads_events());
    subjects.extend(probes());
    // How many wait for a person.
    subjects.push("$JS.API.STREAM.INFO.KASSA_DLQ".to_owned());
    subjects
}

/// An acknowledged publish that is no event: part of being ready.
fn probes() -> [String; 2] {
    [
        "kassa.probe.*".to_owned(),
        format!("$JS.API.STREAM.CREATE.{PROBE_STREAM}"),
    ]
}

/// Makes the streams and fills them. It may neither delete nor purge: what is gone is made again from the store, and
/// never by taking away.
fn relay_publish() -> Vec<String> {
    let mut subjects = strings(&["kassa.evt.>", "$JS.API.INFO"]);
    for stream in EVENT_STREAMS {
        subjects.extend([
            format!("$JS.API.STREAM.CREATE.{stream}"),
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.STREAM.UPDATE.{stream}"),
            format!("$JS.API.STREAM.MSG.GET.{stream}"),
            format!("$JS.API.DIRECT.GET.{stream}"),
            format!("$JS.API.DIRECT.GET.{stream}.>"),
        ]);
    }
    subjects.extend(probes());
    subjects
}

fn strings(subjects: &[&str]) -> Vec<String> {
    subjects.iter().map(|&subject| subject.to_owned()).collect()
}

fn assert_shop(shop: &str) {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!(
        (1..=SHOP_CHARS_MAX).contains(&shop.len()) && shop.bytes().all(token),
        "the shop {shop:?} is not 1 to {SHOP_CHARS_MAX} of a-z, 0-9 and -"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "is not 1 to 32")]
    fn a_shop_that_is_a_wildcard_is_refused() {
        let _ = kassa_account("A", "", &["*"], |_| String::new());
    }

    #[test]
    fn user_names_carry_the_prefix_and_passwords_are_asked_for_by_that_name() {
        let account = kassa_account("A", "t7-", &["brekz-nl"], |user| format!("secret of {user}"));
        let names: Vec<_> = account.users.iter().map(|user| user.name.as_str()).collect();
        assert_eq!(names, ["t7-checkout", "t7-shipment", "t7-worker", "t7-relay"]);
        assert!(
            account
                .users
                .iter()
                .all(|user| user.password == format!("secret of {}", user.name))
        );
    }
}
