//! Do the servers start, end and start again as promised, and does the bus refuse what it should?
//!
//! Against real servers, in folders of their own below the target folder.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::{self, consumer, stream};
use async_nats::{ConnectOptions, Event};
use futures::StreamExt;
use kassa_infra::nats::{Account, kassa_accounts, render};
use kassa_infra::servers::{Nats, NatsOptions, Postgres, PostgresOptions, ServerError};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::sync::mpsc;

/// Generous, as the machine may be building something else; nothing waits longer than it must.
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_database_keeps_its_promises_on_disk_is_reached_by_its_socket_alone_and_keeps_its_data()
-> Result<()> {
    let folder = Folder::new("postgres")?;
    let mut server = Postgres::start(&folder.postgres())?;
    {
        let client = connect(&server, "postgres").await?;
        for (setting, expected) in [
            ("fsync", "on"),
            ("synchronous_commit", "on"),
            ("listen_addresses", ""),
            ("max_connections", "300"),
            ("server_encoding", "UTF8"),
            ("TimeZone", "UTC"),
        ] {
            let row = client
                .query_one("SELECT current_setting($1)", &[&setting])
                .await?;
            assert_eq!(row.get::<_, String>(0), expected, "{setting}");
        }
        client.batch_execute("CREATE DATABASE \"a shop's\"").await?;
    }
    connect(&server, "a shop's")
        .await?
        .batch_execute("CREATE TABLE kept()")
        .await?;
    let first = server.pid();
    server.stop()?;
    assert!(!alive(first)?);

    let server = Postgres::start(&folder.postgres())?;
    connect(&server, "a shop's")
        .await?
        .batch_execute("SELECT FROM kept")
        .await?;
    let second = server.pid();
    drop(server);
    assert!(!alive(second)?, "dropping it stops it");
    Ok(())
}

#[tokio::test]
async fn a_database_that_was_killed_or_ended_at_once_comes_back_with_all_it_said_it_had() -> Result<()> {
    let folder = Folder::new("recovers")?;
    let mut server = Postgres::start(&folder.postgres())?;
    let url = server.url("postgres");
    connect(&server, "postgres")
        .await?
        .batch_execute("CREATE TABLE kept (n int)")
        .await?;
    type End = fn(&mut Postgres) -> Result<(), ServerError>;
    let ends: [End; 2] = [Postgres::end_immediately, Postgres::kill];
    for (end, n) in ends.into_iter().zip(1..) {
        let client = connect(&server, "postgres").await?;
        client.execute("INSERT INTO kept VALUES ($1)", &[&n]).await?;
        let pid = server.pid();
        end(&mut server)?;
        assert!(!alive(pid)?);
        server.restart()?;
        assert_eq!(server.url("postgres"), url);
        let row = connect(&server, "postgres")
            .await?
            .query_one("SELECT count(*) FROM kept", &[])
            .await?;
        assert_eq!(row.get::<_, i64>(0), i64::from(n));
    }
    Ok(())
}

#[tokio::test]
async fn a_folder_whose_path_is_too_long_for_a_socket_still_works_and_leaves_nothing_in_the_temporary_folder()
-> Result<()> {
    let folder = Folder::new("long")?;
    let options = PostgresOptions {
        dir: folder.path().join("a, \"b\" ".repeat(4) + &"x".repeat(100)),
        ..folder.postgres()
    };
    let mut server = Postgres::start(&options)?;
    let row = connect(&server, "postgres")
        .await?
        .query_one("SHOW unix_socket_directories", &[])
        .await?;
    let socket_dir: String = row.get(0);
    let socket_dir = PathBuf::from(socket_dir.trim_matches('"'));
    assert!(socket_dir.is_dir(), "{}", socket_dir.display());
    server.stop()?;
    assert!(!socket_dir.exists(), "{}", socket_dir.display());
    Ok(())
}

#[test]
fn data_made_by_another_major_version_is_refused_by_name() -> Result<()> {
    let folder = Folder::new("major")?;
    Postgres::start(&folder.postgres())?.stop()?;
    std::fs::write(folder.postgres().dir.join("data/PG_VERSION"), "9\n")?;
    match Postgres::start(&folder.postgres()) {
        Err(ServerError::DataOfAnotherVersion { made_by, .. }) => assert_eq!(made_by, "9"),
        other => bail!("expected a refusal, got {other:?}"),
    }
    Ok(())
}

#[test]
fn a_folder_has_one_owner_and_the_second_is_told_who() -> Result<()> {
    let folder = Folder::new("owners")?;
    let _postgres = Postgres::start(&folder.postgres())?;
    let nats = Nats::start(&folder.nats(String::new()))?;
    let us = std::process::id().to_string();
    for second in [
        Postgres::start(&folder.postgres()).err(),
        Nats::start(&folder.nats(String::new())).err(),
    ] {
        match second {
            Some(ServerError::InUse { owner, .. }) => assert_eq!(owner, us),
            other => bail!("expected a refusal, got {other:?}"),
        }
    }
    assert!(alive(nats.pid())?, "the first is not disturbed");
    Ok(())
}

#[tokio::test]
async fn a_killed_bus_keeps_its_streams_and_a_wiped_one_starts_empty_on_the_same_port() -> Result<()> {
    let folder = Folder::new("wiped")?;
    let mut server = Nats::start(&folder.nats(String::new()))?;
    let (port, first) = (server.port(), server.pid());
    // This client lives through all of it, as a service would.
    let client = async_nats::connect(server.url()).await?;
    let mut bus = jetstream::new(client);
    // A question that went down with the server is not answered by the next one: ask again soon.
    bus.set_timeout(Duration::from_secs(1));
    bus.create_stream(stream::Config {
        name: "KEPT".to_owned(),
        ..Default::default()
    })
    .await?;
    bus.publish("KEPT", "x".into()).await?.await?;

    assert!(
        matches!(server.wipe(), Err(ServerError::InUse { .. })),
        "a running server is not wiped"
    );
    server.kill()?;
    assert!(!alive(first)?);
    server.restart()?;
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), first);
    assert_eq!(
        eventually(|| async { Ok(bus.get_stream("KEPT").await?.cached_info().state.messages) }).await?,
        1
    );

    server.kill()?;
    server.wipe()?;
    assert!(!server.store_dir().exists());
    server.restart()?;
    let gone = eventually(|| async {
        match bus.get_stream("KEPT").await {
            Ok(_) => Ok("it is still there".to_owned()),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error) => Ok(error.to_string()),
                _ => Err(error.into()),
            },
        }
    });
    let gone = gone.await?;
    assert!(gone.contains("stream not found"), "{gone}");
    Ok(())
}

#[test]
fn no_server_outlives_an_owner_that_is_killed_or_interrupted_and_its_folder_can_be_used_at_once() -> Result<()>
{
    let folder = Folder::new("orphans")?;
    // With the kernel's signal where there is one, and with the guard process that serves where there is none.
    for (guard, signal) in [
        ("", Signal::KILL),
        ("", Signal::INT),
        ("", Signal::TERM),
        ("pipe", Signal::KILL),
        ("pipe", Signal::INT),
    ] {
        let mut owner = Owner::start(&folder, &[("KASSA_SERVER_GUARD", guard)])?;
        kill_process(Pid::from_child(&owner.child), signal)?;
        let status = owner.child.wait()?;
        assert!(!status.success(), "{status}");
        for (server, pid) in owner.servers {
            let deadline = Instant::now() + DEADLINE;
            while alive(pid)? {
                ensure!(
                    Instant::now() < deadline,
                    "{server} outlived its owner ({guard} {signal:?})"
                );
                std::thread::yield_now();
            }
        }
    }
    let mut owner = Owner::start(&folder, &[])?;
    kill_process(Pid::from_child(&owner.child), Signal::KILL)?;
    owner.child.wait()?;
    // Its servers may still be on their way out: their folder is waited for.
    Owner::start(&folder, &[])?.end()
}

#[test]
fn an_owner_that_ends_in_order_stops_both_and_so_do_the_servers_that_are_downloaded() -> Result<()> {
    let folder = Folder::new("managed")?;
    let owner = Owner::start(&folder, &[("KASSA_MANAGED_SERVERS", "1")])?;
    for (server, pid) in &owner.servers {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let cache = cache_dir().canonicalize()?;
        // Only Linux tells; elsewhere the start alone is the test.
        assert!(
            command.is_empty() || command.starts_with(cache.as_os_str().as_encoded_bytes()),
            "{server} is {}",
            String::from_utf8_lossy(&command)
        );
    }
    owner.end()
}

#[test]
fn root_without_user_namespaces_hands_the_data_to_nobody() -> Result<()> {
    // As a normal user there is nothing to give up, and this shows that the missing program is not asked for.
    let folder = Folder::new("nobody")?;
    let programs = folder.path().join("programs");
    std::fs::create_dir(&programs)?;
    std::os::unix::fs::symlink("/bin/false", programs.join("unshare"))?;
    let path = std::env::var("PATH").context("a PATH")?;
    let path = format!("{}:{path}", programs.display());
    for _first_and_again in 0..2 {
        Owner::start(&folder, &[("PATH", &path)])?.end()?;
    }
    if rustix::process::geteuid().is_root() {
        let data = std::fs::metadata(folder.postgres().dir.join("data"))?;
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&data), 65_534);
    }
    // And back: what belongs to nobody is still served when namespaces are allowed again.
    Owner::start(&folder, &[])?.end()
}

/// Every user, and the letter for it in the table.
const USERS: &[(char, &str)] = &[
    ('c', "checkout"),
    ('C', "checkout-brekz-nl"),
    ('o', "checkout-other-shop"),
    ('s', "shipment"),
    ('S', "ship-brekz-nl"),
    ('T', "ship-other-shop"),
    ('w', "worker"),
    ('p', "projector"),
    ('a', "analyst"),
    ('x', "operator"),
    ('r', "relay"),
    ('d', "deploy"),
];

/// Verb, subject, and the letters of the users who may. The `checkout` and `shipment` of all shops serve `brekz-nl` and
/// `other-shop`.
#[rustfmt::skip]
const MATRIX: &[(Verb, &str, &str)] = &[
    (Verb::Publish, "kassa.cmd.brekz-nl.create_order", "cC"),
    (Verb::Publish, "kassa.cmd.brekz-nl.create_order.more", ""),
    (Verb::Publish, "kassa.cmd.other-shop.create_order", "co"),
    (Verb::Publish, "kassa.cmd.third-shop.create_order", ""),
    (Verb::Publish, "kassa.qry.brekz-nl.get_order", "cC"),
    (Verb::Publish, "kassa.qry.brekz-nl.get_order.more", ""),
    (Verb::Publish, "kassa.qry.other-shop.get_order", "co"),
    (Verb::Publish, "kassa.qry.third-shop.get_order", ""),
    (Verb::Publish, "kassa.inbox.brekz-nl.create_order", "cCx"),
    (Verb::Publish, "kassa.inbox.brekz-nl.create_order.more", ""),
    (Verb::Publish, "kassa.inbox.other-shop.create_order", "cox"),
    (Verb::Publish, "kassa.inbox.third-shop.create_order", "x"),
    (Verb::Publish, "kassa.evt.0.brekz-nl.order.ord_1.payment_safe", "r"),
    (Verb::Publish, "kassa.live.brekz-nl.order.ord_1.payment_safe", ""),
    (Verb::Publish, "kassa.rejected.brekz-nl.create_order", "w"),
    (Verb::Publish, "kassa.dlq.cm-gateway.brekz-nl.payment.pay_1", "w"),
    (Verb::Publish, "kassa.dlq.cm-gateway.brekz-nl.order.ord_1", "w"),
    (Verb::Publish, "kassa.dlq.engine-inbox.brekz-nl.command.create_order", "w"),
    (Verb::Publish, "kassa.dlq.my-shipments.brekz-nl.order.ord_1", "ws"),
    (Verb::Publish, "kassa.dlq.ship-brekz-nl.brekz-nl.order.ord_1", "wsS"),
    (Verb::Publish, "kassa.dlq.ship-brekz-nl.other-shop.order.ord_1", "ws"),
    (Verb::Publish, "kassa.redeliver.cm-gateway.KASSA_EVENTS", "x"),
    (Verb::Publish, "kassa.redeliver.ship-brekz-nl.KASSA_EVENTS", "x"),
    (Verb::Publish, "_INBOX_checkout.1", "w"),
    (Verb::Publish, "_INBOX_checkout-brekz-nl.1", "w"),
    (Verb::Publish, "_INBOX_operator.1", "ws"),
    (Verb::Publish, "_INBOX_worker.1", "w"),
    (Verb::Publish, "_INBOX_relay.1", ""),
    (Verb::Publish, "_INBOX.somebody.1", ""),
    (Verb::Publish, "_R_.1", ""),
    (Verb::Publish, "$SRV.PING", "cCowx"),
    (Verb::Publish, "$SRV.INFO.kassa-commands", "cCowx"),
    (Verb::Publish, "$JS.API.INFO", "swxrd"),
    (Verb::Publish, "$JS.API.STREAM.NAMES", "swrd"),
    (Verb::Publish, "$JS.API.STREAM.LIST", ""),
    (Verb::Publish, "$JS.API.STREAM.INFO.KASSA_EVENTS", "swrd"),
    (Verb::Publish, "$JS.API.STREAM.INFO.KASSA_INBOX", "wrd"),
    (Verb::Publish, "$JS.API.STREAM.INFO.KASSA_DLQ", "wxrd"),
    (Verb::Publish, "$JS.API.STREAM.INFO.KASSA_ANALYTICS", "ard"),
    (Verb::Publish, "$JS.API.STREAM.INFO.OTHER", ""),
    (Verb::Publish, "$JS.API.STREAM.CREATE.KASSA_EVENTS", "rd"),
    (Verb::Publish, "$JS.API.STREAM.UPDATE.KASSA_EVENTS", "rd"),
    (Verb::Publish, "$JS.API.STREAM.DELETE.KASSA_EVENTS", ""),
    (Verb::Publish, "$JS.API.STREAM.PURGE.KASSA_EVENTS", ""),
    (Verb::Publish, "$JS.API.STREAM.SNAPSHOT.KASSA_EVENTS", ""),
    (Verb::Publish, "$JS.API.STREAM.RESTORE.KASSA_EVENTS", ""),
    (Verb::Publish, "$JS.API.STREAM.PEER.REMOVE.KASSA_EVENTS", ""),
    (Verb::Publish, "$JS.API.STREAM.LEADER.STEPDOWN.KASSA_EVENTS", ""),
    (Verb::Publish, "$JS.API.STREAM.MSG.DELETE.KASSA_EVENTS", ""),
    (Verb::Publish, "$JS.API.STREAM.CREATE.KASSA_INBOX", "rd"),
    (Verb::Publish, "$JS.API.STREAM.UPDATE.KASSA_INBOX", "rd"),
    (Verb::Publish, "$JS.API.STREAM.DELETE.KASSA_INBOX", ""),
    (Verb::Publish, "$JS.API.STREAM.PURGE.KASSA_INBOX", ""),
    (Verb::Publish, "$JS.API.STREAM.SNAPSHOT.KASSA_INBOX", ""),
    (Verb::Publish, "$JS.API.STREAM.RESTORE.KASSA_INBOX", ""),
    (Verb::Publish, "$JS.API.STREAM.PEER.REMOVE.KASSA_INBOX", ""),
    (Verb::Publish, "$JS.API.STREAM.LEADER.STEPDOWN.KASSA_INBOX", ""),
    (Verb::Publish, "$JS.API.STREAM.MSG.DELETE.KASSA_INBOX", ""),
    (Verb::Publish, "$JS.API.STREAM.CREATE.KASSA_DLQ", "rd"),
    (Verb::Publish, "$JS.API.STREAM.UPDATE.KASSA_DLQ", "rd"),
    (Verb::Publish, "$JS.API.STREAM.DELETE.KASSA_DLQ", ""),
    (Verb::Publish, "$JS.API.STREAM.PURGE.KASSA_DLQ", ""),
    (Verb::Publish, "$JS.API.STREAM.SNAPSHOT.KASSA_DLQ", ""),
    (Verb::Publish, "$JS.API.STREAM.RESTORE.KASSA_DLQ", ""),
    (Verb::Publish, "$JS.API.STREAM.PEER.REMOVE.KASSA_DLQ", ""),
    (Verb::Publish, "$JS.API.STREAM.LEADER.STEPDOWN.KASSA_DLQ", ""),
    (Verb::Publish, "$JS.API.STREAM.MSG.DELETE.KASSA_DLQ", "x"),
    (Verb::Publish, "$JS.API.STREAM.CREATE.KASSA_REJECTED", "rd"),
    (Verb::Publish, "$JS.API.STREAM.UPDATE.KASSA_REJECTED", "rd"),
    (Verb::Publish, "$JS.API.STREAM.DELETE.KASSA_REJECTED", ""),
    (Verb::Publish, "$JS.API.STREAM.PURGE.KASSA_REJECTED", ""),
    (Verb::Publish, "$JS.API.STREAM.SNAPSHOT.KASSA_REJECTED", ""),
    (Verb::Publish, "$JS.API.STREAM.RESTORE.KASSA_REJECTED", ""),
    (Verb::Publish, "$JS.API.STREAM.PEER.REMOVE.KASSA_REJECTED", ""),
    (Verb::Publish, "$JS.API.STREAM.LEADER.STEPDOWN.KASSA_REJECTED", ""),
    (Verb::Publish, "$JS.API.STREAM.MSG.DELETE.KASSA_REJECTED", ""),
    (Verb::Publish, "$JS.API.STREAM.CREATE.KASSA_ANALYTICS", "rd"),
    (Verb::Publish, "$JS.API.STREAM.UPDATE.KASSA_ANALYTICS", "rd"),
    (Verb::Publish, "$JS.API.STREAM.DELETE.KASSA_ANALYTICS", ""),
    (Verb::Publish, "$JS.API.STREAM.PURGE.KASSA_ANALYTICS", ""),
    (Verb::Publish, "$JS.API.STREAM.SNAPSHOT.KASSA_ANALYTICS", ""),
    (Verb::Publish, "$JS.API.STREAM.RESTORE.KASSA_ANALYTICS", ""),
    (Verb::Publish, "$JS.API.STREAM.PEER.REMOVE.KASSA_ANALYTICS", ""),
    (Verb::Publish, "$JS.API.STREAM.LEADER.STEPDOWN.KASSA_ANALYTICS", ""),
    (Verb::Publish, "$JS.API.STREAM.MSG.DELETE.KASSA_ANALYTICS", ""),
    (Verb::Publish, "$JS.API.STREAM.CREATE.OTHER", ""),
    (Verb::Publish, "$JS.API.STREAM.MSG.GET.KASSA_EVENTS", "sr"),
    (Verb::Publish, "$JS.API.STREAM.MSG.GET.KASSA_INBOX", ""),
    (Verb::Publish, "$JS.API.STREAM.MSG.GET.KASSA_DLQ", "x"),
    (Verb::Publish, "$JS.API.STREAM.MSG.GET.KASSA_ANALYTICS", ""),
    (Verb::Publish, "$JS.API.DIRECT.GET.KASSA_EVENTS", "r"),
    (Verb::Publish, "$JS.API.DIRECT.GET.KASSA_EVENTS.kassa.evt.0.brekz-nl.order.ord_1.created", "r"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS", "s"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.my-shipments", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.my-shipments.kassa.>", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_EVENTS.my-shipments", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_EVENTS.my-shipments", "srd"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_EVENTS.my-shipments", "s"),
    (Verb::Publish, "$JS.ACK.KASSA_EVENTS.my-shipments.1.1.1.1.0", "s"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_EVENTS.my-shipments", "s"),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_EVENTS.my-shipments", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.ship-brekz-nl", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.ship-brekz-nl.kassa.>", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_EVENTS.ship-brekz-nl", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_EVENTS.ship-brekz-nl", "sSrd"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_EVENTS.ship-brekz-nl", "sS"),
    (Verb::Publish, "$JS.ACK.KASSA_EVENTS.ship-brekz-nl.1.1.1.1.0", "sS"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_EVENTS.ship-brekz-nl", "s"),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_EVENTS.ship-brekz-nl", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.ship-other-shop", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.ship-other-shop.kassa.>", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_EVENTS.ship-other-shop", "sd"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_EVENTS.ship-other-shop", "sTrd"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_EVENTS.ship-other-shop", "sT"),
    (Verb::Publish, "$JS.ACK.KASSA_EVENTS.ship-other-shop.1.1.1.1.0", "sT"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_EVENTS.ship-other-shop", "s"),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_EVENTS.ship-other-shop", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.cm-gateway", "wd"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.cm-gateway.kassa.>", "wd"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_EVENTS.cm-gateway", "wd"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_EVENTS.cm-gateway", "wrd"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_EVENTS.cm-gateway", "w"),
    (Verb::Publish, "$JS.ACK.KASSA_EVENTS.cm-gateway.1.1.1.1.0", "w"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_EVENTS.cm-gateway", ""),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_EVENTS.cm-gateway", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.projector", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_EVENTS.projector.kassa.>", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_EVENTS.projector", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_EVENTS.projector", "prd"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_EVENTS.projector", "p"),
    (Verb::Publish, "$JS.ACK.KASSA_EVENTS.projector.1.1.1.1.0", "p"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_EVENTS.projector", ""),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_EVENTS.projector", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_INBOX.engine-inbox", "wd"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_INBOX.engine-inbox.kassa.>", "wd"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_INBOX.engine-inbox", "wd"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_INBOX.engine-inbox", "wrd"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_INBOX.engine-inbox", "w"),
    (Verb::Publish, "$JS.ACK.KASSA_INBOX.engine-inbox.1.1.1.1.0", "w"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_INBOX.engine-inbox", ""),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_INBOX.engine-inbox", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_INBOX.another", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_INBOX.another.kassa.>", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_INBOX.another", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_INBOX.another", "rd"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_INBOX.another", ""),
    (Verb::Publish, "$JS.ACK.KASSA_INBOX.another.1.1.1.1.0", ""),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_INBOX.another", ""),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_INBOX.another", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_ANALYTICS.analyst", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_ANALYTICS.analyst.kassa.>", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_ANALYTICS.analyst", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_ANALYTICS.analyst", "ard"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_ANALYTICS.analyst", "a"),
    (Verb::Publish, "$JS.ACK.KASSA_ANALYTICS.analyst.1.1.1.1.0", "a"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_ANALYTICS.analyst", ""),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_ANALYTICS.analyst", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_REJECTED.rejected-brekz-nl", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_REJECTED.rejected-brekz-nl.kassa.>", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_REJECTED.rejected-brekz-nl", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_REJECTED.rejected-brekz-nl", "cCrd"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_REJECTED.rejected-brekz-nl", "cC"),
    (Verb::Publish, "$JS.ACK.KASSA_REJECTED.rejected-brekz-nl.1.1.1.1.0", "cC"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_REJECTED.rejected-brekz-nl", ""),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_REJECTED.rejected-brekz-nl", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_REJECTED.rejected-other-shop", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.KASSA_REJECTED.rejected-other-shop.kassa.>", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.DURABLE.CREATE.KASSA_REJECTED.rejected-other-shop", "d"),
    (Verb::Publish, "$JS.API.CONSUMER.INFO.KASSA_REJECTED.rejected-other-shop", "cord"),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.KASSA_REJECTED.rejected-other-shop", "co"),
    (Verb::Publish, "$JS.ACK.KASSA_REJECTED.rejected-other-shop.1.1.1.1.0", "co"),
    (Verb::Publish, "$JS.API.CONSUMER.DELETE.KASSA_REJECTED.rejected-other-shop", ""),
    (Verb::Publish, "$JS.API.CONSUMER.PAUSE.KASSA_REJECTED.rejected-other-shop", ""),
    (Verb::Publish, "$JS.API.CONSUMER.CREATE.OTHER.ship", ""),
    (Verb::Publish, "$JS.API.CONSUMER.MSG.NEXT.OTHER.ship", ""),
    (Verb::Publish, "$JS.ACK.OTHER.ship.1.1.1.1.0", ""),
    (Verb::Publish, "$JS.API.CONSUMER.NAMES.KASSA_EVENTS", ""),
    (Verb::Publish, "$JS.API.CONSUMER.LIST.KASSA_EVENTS", ""),
    (Verb::Publish, "kassa.probe.1", "wr"),
    (Verb::Publish, "$JS.API.STREAM.CREATE.KASSA_PROBE", "wrd"),
    (Verb::Publish, "$JS.API.STREAM.INFO.KASSA_PROBE", "rd"),
    (Verb::Publish, "$JS.API.STREAM.UPDATE.KASSA_PROBE", "d"),
    (Verb::Publish, "$JS.API.STREAM.DELETE.KASSA_PROBE", ""),
    (Verb::Publish, "$SYS.REQ.SERVER.PING", ""),
    (Verb::Publish, "$SYS.REQ.ACCOUNT.PING.CONNZ", ""),
    (Verb::Publish, "anything", ""),
    (Verb::Subscribe, "kassa.cmd.>", "w"),
    (Verb::Subscribe, "kassa.cmd.brekz-nl.create_order", "w"),
    (Verb::Subscribe, "kassa.qry.>", "w"),
    (Verb::Subscribe, "kassa.inbox.>", ""),
    (Verb::Subscribe, "kassa.inbox.brekz-nl.create_order", ""),
    (Verb::Subscribe, "kassa.evt.>", ""),
    (Verb::Subscribe, "kassa.evt.0.brekz-nl.order.*.payment_safe", ""),
    (Verb::Subscribe, "kassa.>", ""),
    (Verb::Subscribe, ">", ""),
    (Verb::Subscribe, "*.>", ""),
    (Verb::Subscribe, "kassa.live.>", "sw"),
    (Verb::Subscribe, "kassa.live.brekz-nl.>", "cCsw"),
    (Verb::Subscribe, "kassa.live.other-shop.>", "cosw"),
    (Verb::Subscribe, "kassa.live.brekz-nl.order.*.payment_safe", "cCsSw"),
    (Verb::Subscribe, "kassa.live.other-shop.order.*.payment_safe", "cosTw"),
    (Verb::Subscribe, "kassa.rejected.brekz-nl.>", "cC"),
    (Verb::Subscribe, "kassa.rejected.other-shop.>", "co"),
    (Verb::Subscribe, "kassa.rejected.>", ""),
    (Verb::Subscribe, "kassa.dlq.>", ""),
    (Verb::Subscribe, "kassa.redeliver.cm-gateway.>", "w"),
    (Verb::Subscribe, "kassa.redeliver.my-shipments.KASSA_EVENTS", "s"),
    (Verb::Subscribe, "_INBOX.>", ""),
    (Verb::Subscribe, "_INBOX.mine.*", ""),
    (Verb::Subscribe, "_INBOX_checkout.>", "c"),
    (Verb::Subscribe, "_INBOX_checkout-brekz-nl.>", "C"),
    (Verb::Subscribe, "_INBOX_checkout-other-shop.>", "o"),
    (Verb::Subscribe, "_INBOX_shipment.>", "s"),
    (Verb::Subscribe, "_INBOX_ship-brekz-nl.>", "S"),
    (Verb::Subscribe, "_INBOX_ship-other-shop.>", "T"),
    (Verb::Subscribe, "_INBOX_worker.>", "w"),
    (Verb::Subscribe, "_INBOX_projector.>", "p"),
    (Verb::Subscribe, "_INBOX_analyst.>", "a"),
    (Verb::Subscribe, "_INBOX_operator.>", "x"),
    (Verb::Subscribe, "_INBOX_relay.>", "r"),
    (Verb::Subscribe, "_INBOX_deploy.>", "d"),
    (Verb::Subscribe, "$SRV.PING", "w"),
    (Verb::Subscribe, "$JS.API.>", ""),
    (Verb::Subscribe, "$JS.ACK.>", ""),
    (Verb::Subscribe, "$JS.EVENT.>", ""),
    (Verb::Subscribe, "$SYS.>", ""),
    (Verb::Subscribe, "_R_.>", ""),
];

#[test]
fn every_user_may_do_exactly_what_the_matrix_says() -> Result<()> {
    let folder = Folder::new("matrix")?;
    let server = Nats::start(&folder.nats(render(&accounts("MATRIX", ""))))?;
    let mut wrong = Vec::new();
    for (letter, user) in USERS {
        let mut connection = Connection::open(server.port(), user, &password(user))?;
        for (verb, subject, may) in MATRIX {
            let expected = may.contains(*letter);
            if connection.allows(*verb, subject)? != expected {
                wrong.push(format!("{user} {verb:?} {subject}: allowed should be {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[tokio::test]
async fn the_users_can_do_their_work_on_a_server_with_a_hundred_accounts_and_hear_nothing_of_another()
-> Result<()> {
    let folder = Folder::new("work")?;
    let accounts: Vec<_> = (0..100)
        .flat_map(|n| accounts(&format!("POOL_{n}"), &format!("p{n}-")))
        .collect();
    let server = Nats::start(&folder.nats(render(&accounts)))?;
    let (events, mut problems) = mpsc::unbounded_channel();
    let connect = async |user: &str| -> Result<async_nats::Client> {
        let events = events.clone();
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password(user))
            .custom_inbox_prefix(kassa_infra::nats::inbox_prefix(user));
        let options = options.event_callback(move |event| {
            let events = events.clone();
            async move {
                if matches!(event, Event::ServerError(_)) {
                    events.send(event).ok();
                }
            }
        });
        Ok(options.connect(server.url()).await?)
    };

    let relay = jetstream::new(connect("p0-relay").await?);
    let config = stream::Config {
        name: "KASSA_EVENTS".to_owned(),
        subjects: vec!["kassa.evt.0.>".to_owned()],
        // More than the disk has, times a hundred accounts: reserved, not used.
        max_bytes: 8 << 30,
        republish: Some(stream::Republish {
            source: "kassa.evt.*.>".to_owned(),
            destination: "kassa.live.>".to_owned(),
            headers_only: false,
        }),
        ..Default::default()
    };
    relay.create_stream(&config).await?;
    for n in 1..100 {
        let other = jetstream::new(connect(&format!("p{n}-relay")).await?);
        other.create_stream(&config).await?;
    }

    let checkout = connect("p0-checkout").await?;
    let mut live = checkout.subscribe("kassa.live.brekz-nl.>").await?;
    let shipment = jetstream::new(connect("p0-shipment").await?);
    let durable = consumer::pull::Config {
        durable_name: Some("ship".to_owned()),
        filter_subject: "kassa.evt.*.*.order.*.payment_safe".to_owned(),
        ..Default::default()
    };
    let consumer = shipment
        .get_stream("KASSA_EVENTS")
        .await?
        .create_consumer(durable)
        .await?;
    checkout.flush().await?;
    // The answer to a command comes after the subscription above is known to the server.
    let worker = connect("p0-worker").await?;
    let mut commands = worker.subscribe("kassa.cmd.*.create_order").await?;
    worker.flush().await?;
    let answering = tokio::spawn(async move {
        let command = commands.next().await.context("a command")?;
        let reply = command.reply.context("a reply subject")?;
        worker.publish(reply, "answer".into()).await?;
        worker.flush().await?;
        anyhow::Ok(())
    });
    let answer = eventually(|| async {
        Ok(checkout
            .request("kassa.cmd.brekz-nl.create_order", "order".into())
            .await?)
    });
    assert_eq!(&answer.await?.payload[..], b"answer");
    answering.await??;

    let subject = "kassa.evt.0.brekz-nl.order.ord_1.payment_safe";
    let ack = relay.publish(subject, "safe".into()).await?.await?;
    assert_eq!(ack.sequence, 1);
    let mut messages = consumer
        .fetch()
        .max_messages(1)
        .expires(DEADLINE)
        .messages()
        .await?;
    let message = messages
        .next()
        .await
        .context("an event")?
        .map_err(anyhow::Error::from_boxed)?;
    assert_eq!(message.subject.as_str(), subject);
    message.double_ack().await.map_err(anyhow::Error::from_boxed)?;
    let heard = tokio::time::timeout(DEADLINE, live.next())
        .await?
        .context("the live copy")?;
    assert_eq!(
        heard.subject.as_str(),
        "kassa.live.brekz-nl.order.ord_1.payment_safe"
    );

    // The relay reads its own checkpoint; the neighbour's stream of the same name got nothing.
    let stream = relay.get_stream("KASSA_EVENTS").await?;
    assert_eq!(&stream.get_raw_message(1).await?.payload[..], b"safe");
    let other = jetstream::new(connect("p1-shipment").await?);
    assert_eq!(
        other
            .get_stream("KASSA_EVENTS")
            .await?
            .cached_info()
            .state
            .messages,
        0
    );

    assert!(problems.try_recv().is_err(), "nobody needed more than it may do");
    // A client library is told of a refusal; and the event never arrives.
    checkout.publish(subject, "forged".into()).await?;
    checkout.flush().await?;
    let refusal = tokio::time::timeout(DEADLINE, problems.recv())
        .await?
        .context("a refusal")?;
    // The library reports in lower case.
    let refusal = refusal.to_string().to_lowercase();
    assert!(
        refusal.contains("permissions violation") && refusal.contains(subject),
        "{refusal}"
    );
    assert_eq!(
        relay
            .get_stream("KASSA_EVENTS")
            .await?
            .cached_info()
            .state
            .messages,
        1
    );
    Ok(())
}

#[test]
fn any_password_and_user_name_survives_the_configuration_and_no_other_opens_the_door() -> Result<()> {
    let folder = Folder::new("quoting")?;
    let nasty = "$HOME \"q\" \\ ' # // ; } \t\u{1}é";
    let mut account = accounts("QUOTING", "a\"b\\").remove(0);
    account.shared.clear();
    for user in &mut account.users {
        user.password = format!("{nasty}{}", user.name);
    }
    let server = Nats::start(&folder.nats(render(&[account.clone()])))?;
    for user in &account.users {
        Connection::open(server.port(), &user.name, &user.password)?;
        let error = Connection::open(server.port(), &user.name, nasty)
            .err()
            .context("a refusal")?;
        assert!(error.to_string().contains("Authorization Violation"), "{error}");
    }
    Ok(())
}

#[test]
fn a_configuration_that_the_server_refuses_is_shown_with_its_reason() -> Result<()> {
    let folder = Folder::new("refused")?;
    match Nats::start(&folder.nats("accounts { A { users: [ { user: x } }".to_owned())) {
        Err(ServerError::Ended { tail, .. }) => assert!(tail.contains("Parse error on line"), "{tail}"),
        other => bail!("expected a refusal, got {other:?}"),
    }
    Ok(())
}

// Below: what the tests use.

fn accounts(name: &str, prefix: &str) -> Vec<Account> {
    kassa_accounts(name, prefix, &["brekz-nl", "other-shop"], password)
}

fn password(user: &str) -> String {
    format!("secret of {user}")
}

/// The project's ignored cache, so that a test run downloads nothing that an earlier one has.
fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache")
}

/// A folder for one test, removed after it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        Ok(Self(
            tempfile::Builder::new()
                .prefix(name)
                .permissions(public())
                .tempdir_in(env!("CARGO_TARGET_TMPDIR"))?,
        ))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn postgres(&self) -> PostgresOptions {
        PostgresOptions {
            dir: self.path().join("postgres"),
            bin_dir: None,
            cache_dir: cache_dir(),
        }
    }

    fn nats(&self, config: String) -> NatsOptions {
        NatsOptions {
            dir: self.path().join("nats"),
            server: None,
            cache_dir: cache_dir(),
            config,
            port: None,
        }
    }
}

/// One test hands a folder below to another user, who must get there.
fn public() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

/// Whether a process runs; one that only waits to be reaped does not.
fn alive(pid: u32) -> Result<bool> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(_) if Path::new("/proc/self").exists() => return Ok(false),
        Err(_) => {
            let pid = Pid::from_raw(i32::try_from(pid)?).context("a process id")?;
            return Ok(test_kill_process(pid).is_ok());
        }
    };
    // The state follows the name, which is in brackets and may hold any character.
    let state = stat
        .rsplit_once(')')
        .context("a name in brackets")?
        .1
        .trim_start();
    Ok(!state.starts_with(['Z', 'X']))
}

/// Another process that owns both servers.
struct Owner {
    child: Child,
    servers: [(&'static str, u32); 2],
}

impl Owner {
    fn start(folder: &Folder, env: &[(&str, &str)]) -> Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kassa-servers"))
            .args([folder.path(), &cache_dir()])
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
        let addresses: serde_json::Value =
            serde_json::from_str(&line).context("the servers did not start")?;
        let pid =
            |name: &str| -> Result<u32> { Ok(u32::try_from(addresses[name].as_u64().context("a pid")?)?) };
        let servers = [
            ("postgres", pid("postgres_pid")?),
            ("nats-server", pid("nats_pid")?),
        ];
        for (server, pid) in servers {
            ensure!(alive(pid)?, "{server} does not run");
        }
        Ok(Self { child, servers })
    }

    /// In order: what it reads ends.
    fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}");
        for (server, pid) in self.servers {
            ensure!(!alive(pid)?, "{server} was left behind");
        }
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // After a failed assertion; else it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

async fn connect(server: &Postgres, database: &str) -> Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(&server.url(database), tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Tries until it succeeds: the client may be on its way back to a server that was restarted.
async fn eventually<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> Result<T> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt().await {
            Err(_) if Instant::now() < deadline => tokio::task::yield_now().await,
            other => return other,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Publish,
    Subscribe,
}

/// The bus's own protocol: unlike a client library it tells of each single operation whether it was refused, as the
/// server answers in order.
struct Connection {
    stream: BufReader<TcpStream>,
    subscriptions: u32,
    seen: BTreeSet<String>,
}

impl Connection {
    fn open(port: u16, user: &str, password: &str) -> Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut connection = Self {
            stream: BufReader::new(stream),
            subscriptions: 0,
            seen: BTreeSet::new(),
        };
        let hello =
            serde_json::json!({ "user": user, "pass": password, "verbose": false, "pedantic": false });
        let errors = connection.say(&format!("CONNECT {hello}\r\n"))?;
        ensure!(errors.is_empty(), "{errors:?}");
        Ok(connection)
    }

    fn allows(&mut self, verb: Verb, subject: &str) -> Result<bool> {
        ensure!(
            self.seen.insert(format!("{verb:?} {subject}")),
            "{verb:?} {subject} is twice in the table"
        );
        let operation = match verb {
            Verb::Publish => format!("PUB {subject} 0\r\n\r\n"),
            Verb::Subscribe => {
                self.subscriptions += 1;
                format!("SUB {subject} {}\r\n", self.subscriptions)
            }
        };
        let errors = self.say(&operation)?;
        for error in &errors {
            ensure!(
                error.contains("Permissions Violation") && error.contains(subject),
                "{error}"
            );
        }
        Ok(errors.is_empty())
    }

    /// The errors that came before the server's answer to a ping after the operation.
    fn say(&mut self, operation: &str) -> Result<Vec<String>> {
        self.stream
            .get_mut()
            .write_all(format!("{operation}PING\r\n").as_bytes())?;
        let mut errors = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(
                self.stream.read_line(&mut line)? > 0 || !errors.is_empty(),
                "the server hung up"
            );
            match line.split_whitespace().next() {
                Some("PONG") | None => return Ok(errors),
                Some("-ERR") => errors.push(line),
                Some("PING") => self.stream.get_mut().write_all(b"PONG\r\n")?,
                Some("MSG" | "HMSG") => {
                    let length: usize = line.split_whitespace().next_back().context("a length")?.parse()?;
                    let mut payload = vec![0; length + 2];
                    self.stream.read_exact(&mut payload)?;
                }
                _ => {}
            }
        }
    }
}
