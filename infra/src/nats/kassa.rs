//! What may each user of kassa do, and why no more?
//!
//! Two facts are worth a forger's trouble: "this order is paid" on the event stream, and a command that makes it so.
//! So only the relay may publish events, commands of the inside never travel on the bus at all, and nobody reads the
//! subjects of the events directly: a plain subscriber there would also see what the stream refused.
//!
//! Permissions cannot say where an *answer* goes: who may ask JetStream anything names its subject, and the server then
//! publishes there, whatever that user may publish. So there are two accounts. The streams, and those who make and fill
//! them, live in one; everybody else lives in the other, which has no JetStream and imports what it needs. There,
//! `kassa.evt.…` is a subject like any other, and no stream hears it.

/// What waits for a person.
pub use kassa_events_schema::dead_letter::STREAM as DEAD_LETTERS;
use kassa_events_schema::subject;
/// Commands that wait for the engine, and those that were refused, for shops that were away.
pub use kassa_events_schema::subject::{INBOX_STREAM, REJECTED_STREAM};

use super::{Account, Direction, Kind, Permissions, Share, User};

/// The streams that hold events, one for each part of the log. The server's wildcards cover whole tokens only, so each
/// is named: a further part is a further name here.
pub const EVENT_STREAMS: [&str; 1] = [subject::STREAM];
/// A copy of the events, so that analysts are no load on the stream that payments hang on, and cannot touch it.
pub const ANALYTICS_STREAM: &str = "KASSA_ANALYTICS";

/// Holds signs of life, by which processes tell whether they are ready; whoever finds it missing makes it.
pub const PROBE_STREAM: &str = "KASSA_PROBE";

/// The gateway's durable on the events.
pub const GATEWAY_DURABLE: &str = "cm-gateway";
/// The engine's durable on the inbox.
pub const INBOX_DURABLE: &str = "engine-inbox";
/// A projector's durable on the events.
pub const PROJECTOR_DURABLE: &str = "projector";
/// The analyst's durable on their copy.
pub const ANALYST_DURABLE: &str = "analyst";

/// Discovery, ping and statistics of micro services.
const SERVICES: &str = "$SRV.>";

/// Durables of our own and of other users, which a shipment service that names its own may not touch.
const DURABLES_OF_OTHERS: [&str; 2] = [GATEWAY_DURABLE, PROJECTOR_DURABLE];

/// A shop's own durable on the events, for its shipments.
#[must_use]
pub fn ship_durable(shop: &str) -> String {
    format!("ship-{shop}")
}

/// A shop's own durable on the refused commands.
#[must_use]
pub fn rejected_durable(shop: &str) -> String {
    format!("rejected-{shop}")
}

/// Under which subjects a user hears answers; client libraries call it the inbox prefix. Each has one of its own, so that
/// nobody hears another's answers.
#[must_use]
pub fn inbox_prefix(user: &str) -> String {
    format!("_INBOX_{user}")
}

/// Two accounts. `{name}` has the streams, and the users `{prefix}relay` and `{prefix}deploy`. `{name}_SERVICES` has
/// everybody else: `{prefix}checkout` and `{prefix}checkout-{shop}`, `{prefix}shipment` and `{prefix}ship-{shop}`,
/// `{prefix}worker`, `{prefix}projector`, `{prefix}analyst` and `{prefix}operator`. Passwords are asked for by the
/// user's full name.
///
/// # Panics
/// If a shop is not `[a-z0-9-]{1,32}`: a wildcard there would open every shop's commands.
pub fn kassa_accounts(
    name: &str,
    user_prefix: &str,
    shops: &[&str],
    mut passwords: impl FnMut(&str) -> String,
) -> Vec<Account> {
    shops.iter().for_each(|shop| assert_shop(shop));
    let full = |role: &str| format!("{user_prefix}{role}");
    let mut user = |role: &str, rights: Rights| {
        let name = full(role);
        let mut subscribe_allow = rights.subscribe;
        subscribe_allow.insert(0, format!("{}.>", inbox_prefix(&name)));
        User {
            password: passwords(&name),
            permissions: Permissions {
                publish_allow: rights.publish,
                publish_deny: rights.publish_deny,
                subscribe_allow,
                subscribe_deny: rights.subscribe_deny,
            },
            name,
        }
    };

    let mut outside: Vec<(String, Rights)> = vec![
        ("checkout".to_owned(), checkout(shops)),
        ("shipment".to_owned(), shipment(&full("operator"))),
    ];
    for shop in shops {
        outside.push((format!("checkout-{shop}"), checkout(&[shop])));
        outside.push((ship_durable(shop), ship(shop)));
    }
    outside.extend([
        ("projector".to_owned(), projector()),
        ("analyst".to_owned(), analyst()),
        ("operator".to_owned(), operator()),
    ]);
    let mut answered: Vec<String> = outside.iter().map(|(role, _)| full(role)).collect();
    answered.push(full("worker"));
    outside.insert(1, ("worker".to_owned(), worker(&answered)));

    let services = format!("{name}_SERVICES");
    let streams = Account {
        name: name.to_owned(),
        jetstream: true,
        users: vec![user("relay", relay()), user("deploy", deploy())],
        shared: shared(Direction::ExportTo, &services),
    };
    let services = Account {
        name: services,
        jetstream: false,
        users: outside
            .into_iter()
            .map(|(role, rights)| user(&role, rights))
            .collect(),
        shared: shared(Direction::ImportFrom, name),
    };
    vec![streams, services]
}

/// What crosses from one account to the other: as little of JetStream's interface as the users can use together.
fn shared(direction: Direction, other: &str) -> Vec<Share> {
    let share = |kind: Kind, subject: String| Share {
        direction,
        account: other.to_owned(),
        kind,
        subject,
    };
    let mut shared = vec![share(Kind::Stream, "kassa.live.>".to_owned())];
    let once = |subject: &str| share(Kind::Service, subject.to_owned());
    shared.extend(
        [
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            "kassa.inbox.>",
            "kassa.dlq.>",
            "kassa.rejected.>",
        ]
        .map(once),
    );
    shared.extend(probes().map(|subject| once(&subject)));
    for stream in
        EVENT_STREAMS
            .into_iter()
            .chain([INBOX_STREAM, DEAD_LETTERS, REJECTED_STREAM, ANALYTICS_STREAM])
    {
        shared.push(once(&format!("$JS.API.STREAM.INFO.{stream}")));
    }
    for stream in EVENT_STREAMS.into_iter().chain([DEAD_LETTERS]) {
        shared.push(once(&format!("$JS.API.STREAM.MSG.GET.{stream}")));
    }
    shared.push(once(&format!("$JS.API.STREAM.MSG.DELETE.{DEAD_LETTERS}")));
    for stream in EVENT_STREAMS.into_iter().chain([INBOX_STREAM]) {
        shared.push(once(&format!("$JS.API.CONSUMER.CREATE.{stream}")));
        shared.push(once(&format!("$JS.API.CONSUMER.CREATE.{stream}.>")));
        shared.push(once(&format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.>")));
        shared.push(once(&format!("$JS.API.CONSUMER.DELETE.{stream}.>")));
    }
    for stream in EVENT_STREAMS
        .into_iter()
        .chain([INBOX_STREAM, REJECTED_STREAM, ANALYTICS_STREAM])
    {
        shared.push(once(&format!("$JS.API.CONSUMER.INFO.{stream}.>")));
        // One request, many messages.
        shared.push(share(
            Kind::ServiceOfMany,
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.>"),
        ));
        shared.push(once(&format!("$JS.ACK.{stream}.>")));
    }
    shared
}

/// What a user may do beside listening for its own answers.
#[derive(Default)]
struct Rights {
    publish: Vec<String>,
    publish_deny: Vec<String>,
    subscribe: Vec<String>,
    subscribe_deny: Vec<String>,
}

/// Commands and questions of its own shops, and what became of them. It learns of events by the live subjects alone.
fn checkout(shops: &[&str]) -> Rights {
    let mut rights = Rights {
        publish: strings(&[SERVICES]),
        ..Rights::default()
    };
    for shop in shops {
        rights
            .publish
            .extend(["cmd", "qry", "inbox"].map(|family| format!("kassa.{family}.{shop}.*")));
        rights
            .publish
            .extend(reads(REJECTED_STREAM, &rejected_durable(shop)));
        rights
            .subscribe
            .extend(["live", "rejected"].map(|family| format!("kassa.{family}.{shop}.>")));
    }
    rights
}

/// Answers commands and questions, reads its own durables, parks what can never succeed.
fn worker(answered: &[String]) -> Rights {
    // Named one by one, and not "whoever asked": who asks names the subject of the answer, and could have this user
    // publish where only this user may.
    let mut publish: Vec<_> = answered
        .iter()
        .map(|user| format!("{}.>", inbox_prefix(user)))
        .collect();
    publish.extend(strings(&[SERVICES, "kassa.dlq.>", "kassa.rejected.>"]));
    publish.extend(strings(&["$JS.API.INFO", "$JS.API.STREAM.NAMES"]));
    publish.extend(probes());
    // How many wait for a person.
    publish.push(format!("$JS.API.STREAM.INFO.{DEAD_LETTERS}"));
    for (stream, durable) in EVENT_STREAMS
        .map(|stream| (stream, GATEWAY_DURABLE))
        .into_iter()
        .chain([(INBOX_STREAM, INBOX_DURABLE)])
    {
        publish.extend([
            format!("$JS.API.STREAM.INFO.{stream}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}"),
            format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}.>"),
            format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{durable}"),
        ]);
        publish.extend(reads(stream, durable));
    }
    Rights {
        publish,
        subscribe: vec![
            "kassa.cmd.>".to_owned(),
            "kassa.qry.>".to_owned(),
            // For those who listen by HTTP.
            "kassa.live.>".to_owned(),
            format!("kassa.redeliver.{GATEWAY_DURABLE}.>"),
            SERVICES.to_owned(),
        ],
        ..Rights::default()
    }
}

/// A shipment service of all shops, with a durable that it names and makes itself. The durables of others are not its
/// own: who could take their messages, settle them or change their filters could make payments stand still.
fn shipment(operator: &str) -> Rights {
    let mut publish = strings(&["$JS.API.INFO", "$JS.API.STREAM.NAMES", "kassa.dlq.*.*.order.*"]);
    publish.push(format!("{}.>", inbox_prefix(operator)));
    for stream in EVENT_STREAMS {
        publish.extend([
            format!("$JS.API.STREAM.INFO.{stream}"),
            // An event that is to be delivered again is read from the stream, not from whoever asks for it.
            format!("$JS.API.STREAM.MSG.GET.{stream}"),
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
    let mut publish_deny = Vec::new();
    for durable in DURABLES_OF_OTHERS {
        for stream in EVENT_STREAMS {
            for verb in ["CREATE", "DURABLE.CREATE", "INFO", "MSG.NEXT", "DELETE"] {
                publish_deny.push(format!("$JS.API.CONSUMER.{verb}.{stream}.{durable}"));
            }
            publish_deny.push(format!("$JS.API.CONSUMER.CREATE.{stream}.{durable}.>"));
            publish_deny.push(format!("$JS.ACK.{stream}.{durable}.>"));
        }
    }
    for durable in [GATEWAY_DURABLE, INBOX_DURABLE] {
        publish_deny.push(format!("kassa.dlq.{durable}.>"));
    }
    Rights {
        publish,
        publish_deny,
        subscribe: strings(&["kassa.live.>", "kassa.redeliver.>"]),
        subscribe_deny: vec![format!("kassa.redeliver.{GATEWAY_DURABLE}.>")],
    }
}

/// A shipment service of one shop: it reads from the durable that was made for it, and makes none.
fn ship(shop: &str) -> Rights {
    let durable = ship_durable(shop);
    let mut publish = vec![format!("kassa.dlq.{durable}.{shop}.order.*")];
    for stream in EVENT_STREAMS {
        publish.extend(reads(stream, &durable));
    }
    Rights {
        publish,
        subscribe: vec![format!("kassa.live.{shop}.order.*.payment_safe")],
        ..Rights::default()
    }
}

/// A read model of somebody else's making.
fn projector() -> Rights {
    Rights {
        publish: EVENT_STREAMS
            .into_iter()
            .flat_map(|stream| reads(stream, PROJECTOR_DURABLE))
            .collect(),
        ..Rights::default()
    }
}

/// Reads the copy, by a durable that is made for it: who may make consumers chooses where the server pushes, and could
/// have it push the copy's events into the stream of commands.
fn analyst() -> Rights {
    let mut publish = vec![format!("$JS.API.STREAM.INFO.{ANALYTICS_STREAM}")];
    publish.extend(reads(ANALYTICS_STREAM, ANALYST_DURABLE));
    Rights {
        publish,
        ..Rights::default()
    }
}

/// A person who looks after dead letters: reads them, has them done again, drops them one by one.
fn operator() -> Rights {
    Rights {
        publish: vec![
            SERVICES.to_owned(),
            "$JS.API.INFO".to_owned(),
            format!("$JS.API.STREAM.INFO.{DEAD_LETTERS}"),
            format!("$JS.API.STREAM.MSG.GET.{DEAD_LETTERS}"),
            format!("$JS.API.STREAM.MSG.DELETE.{DEAD_LETTERS}"),
            "kassa.inbox.*.*".to_owned(),
            "kassa.redeliver.*.*".to_owned(),
        ],
        ..Rights::default()
    }
}

/// Makes the streams and fills that of the events. It may neither delete nor purge: what is gone is made again from the
/// store, and never by taking away.
fn relay() -> Rights {
    let mut publish = strings(&["kassa.evt.>"]);
    publish.extend(makes_streams());
    publish.extend(probes());
    for stream in EVENT_STREAMS {
        publish.extend([
            format!("$JS.API.STREAM.MSG.GET.{stream}"),
            format!("$JS.API.DIRECT.GET.{stream}"),
            format!("$JS.API.DIRECT.GET.{stream}.>"),
        ]);
    }
    // With which kassa doctor compares all that there is to be, and sees durables that went with an older stream.
    publish.push(format!("$JS.API.STREAM.INFO.{PROBE_STREAM}"));
    for stream in EVENT_STREAMS
        .into_iter()
        .chain([INBOX_STREAM, REJECTED_STREAM, ANALYTICS_STREAM])
    {
        publish.push(format!("$JS.API.CONSUMER.INFO.{stream}.*"));
    }
    Rights {
        publish,
        ..Rights::default()
    }
}

/// Makes streams and durables and changes their settings; takes nothing away, and sees no message.
fn deploy() -> Rights {
    let mut publish = makes_streams();
    publish.extend(["CREATE", "INFO", "UPDATE"].map(|verb| format!("$JS.API.STREAM.{verb}.{PROBE_STREAM}")));
    for stream in EVENT_STREAMS
        .into_iter()
        .chain([INBOX_STREAM, REJECTED_STREAM, ANALYTICS_STREAM])
    {
        publish.extend([
            format!("$JS.API.CONSUMER.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.>"),
            format!("$JS.API.CONSUMER.INFO.{stream}.>"),
        ]);
    }
    Rights {
        publish,
        ..Rights::default()
    }
}

/// An acknowledged publish that is no event: part of being ready.
fn probes() -> [String; 2] {
    [
        "kassa.probe.*".to_owned(),
        format!("$JS.API.STREAM.CREATE.{PROBE_STREAM}"),
    ]
}

fn makes_streams() -> Vec<String> {
    let mut subjects = strings(&["$JS.API.INFO", "$JS.API.STREAM.NAMES"]);
    for stream in
        EVENT_STREAMS
            .into_iter()
            .chain([INBOX_STREAM, DEAD_LETTERS, REJECTED_STREAM, ANALYTICS_STREAM])
    {
        subjects.extend(["CREATE", "INFO", "UPDATE"].map(|verb| format!("$JS.API.STREAM.{verb}.{stream}")));
    }
    subjects
}

/// What a durable that is there already takes, from finding it to the last acknowledgement.
fn reads(stream: &str, durable: &str) -> [String; 3] {
    [
        format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"),
        format!("$JS.ACK.{stream}.{durable}.>"),
    ]
}

fn strings(subjects: &[&str]) -> Vec<String> {
    subjects.iter().map(|&subject| subject.to_owned()).collect()
}

fn assert_shop(shop: &str) {
    assert!(
        subject::check_shop(shop).is_ok(),
        "the shop {shop:?} is not 1 to 32 of a-z, 0-9 and -"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "is not 1 to 32")]
    fn a_shop_that_is_a_wildcard_is_refused() {
        let _ = kassa_accounts("A", "", &["*"], |_| String::new());
    }

    #[test]
    fn user_names_carry_the_prefix_and_passwords_are_asked_for_by_that_name() {
        let accounts = kassa_accounts("A", "t7-", &["brekz-nl"], |user| format!("secret of {user}"));
        let users: Vec<_> = accounts.iter().flat_map(|account| &account.users).collect();
        for role in [
            "relay",
            "deploy",
            "checkout",
            "checkout-brekz-nl",
            "worker",
            "shipment",
            "ship-brekz-nl",
            "projector",
            "analyst",
            "operator",
        ] {
            let name = format!("t7-{role}");
            let found = users.iter().find(|user| user.name == name);
            let user = found.unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(user.password, format!("secret of {name}"));
            assert!(
                user.permissions
                    .subscribe_allow
                    .contains(&format!("_INBOX_{name}.>"))
            );
        }
        assert_eq!(users.len(), 10);
    }
}
