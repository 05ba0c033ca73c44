//! Where does the demo live? On servers of its own, in a folder of its own, with nothing left behind. What the environment
//! names belongs to another installation, and is not looked at.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use kassa_chassis::{
    bus,
    config::{Config, Login},
};
use kassa_infra::{
    nats::{kassa_accounts, render},
    run::{RunFolder, cache_dir},
    servers::{Nats, NatsOptions, Postgres, PostgresOptions},
};
use secrecy::SecretString;
use uuid::Uuid;

use crate::exit::Ended;

pub(crate) const SHOP: &str = "demo-shop";
const DATABASE: &str = "kassa_demo";
/// Between two looks at the servers: whoever is there reads of it before the first lines of those who miss them.
const LOOK: Duration = Duration::from_millis(100);

/// The servers, which run as long as it lives.
#[derive(Debug)]
pub(crate) struct Servers {
    // Dropped in this order: servers first, their folder last.
    postgres: Postgres,
    nats: Nats,
    _folder: RunFolder,
}

/// Where they are, and who may come in.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) database_url: String,
    pub(crate) nats_url: String,
    pub(crate) logins: Logins,
}

/// The users that the demo plays, and those that it lends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logins {
    pub(crate) checkout: Login,
    pub(crate) shipment: Login,
    pub(crate) worker: Login,
    pub(crate) relay: Login,
    pub(crate) operator: Login,
}

impl Servers {
    /// Finds or fetches the servers and starts them. Blocking.
    pub(crate) fn start() -> anyhow::Result<(Self, Host)> {
        let cache_dir = cache_dir();
        let folder = RunFolder::new(&cache_dir)?;
        let postgres = Postgres::start(&PostgresOptions {
            dir: folder.path().join("pg"),
            bin_dir: None,
            cache_dir: cache_dir.clone(),
        })?;
        let (config, logins) = account();
        let nats = Nats::start(&NatsOptions {
            dir: folder.path().join("nats"),
            server: None,
            cache_dir,
            config,
            port: None,
        })?;
        let host = Host {
            database_url: postgres.url(DATABASE),
            nats_url: nats.url(),
            logins,
        };
        let servers = Self {
            postgres,
            nats,
            _folder: folder,
        };
        Ok((servers, host))
    }

    /// Makes the demo's database, and its schema.
    pub(crate) async fn prepare(&self) -> anyhow::Result<()> {
        let (client, connection) =
            tokio_postgres::connect(&self.postgres.url("postgres"), tokio_postgres::NoTls).await?;
        let driving = tokio::spawn(connection);
        client
            .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
            .await?;
        drop(client);
        let _ = driving.await;
        crate::roles::migrate_url(&self.postgres.url(DATABASE)).await?;
        Ok(())
    }

    /// One line a server: which it is, why that one, and as which process.
    pub(crate) fn origins(&self) -> [String; 2] {
        let (postgres, nats) = (&self.postgres, &self.nats);
        [
            format!("PostgreSQL   {}, pid {}", postgres.origin(), postgres.pid()),
            format!("nats-server  {}, pid {}", nats.origin(), nats.pid()),
        ]
    }

    /// Waits until a server has ended that nobody asked to, and says how.
    pub(crate) async fn until_one_ends(&mut self) -> Ended {
        loop {
            if let Some(ended) = self.one_that_ended() {
                return ended;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) fn one_that_ended(&mut self) -> Option<Ended> {
        let (postgres, nats) = (self.postgres.pid(), self.nats.pid());
        let states = [
            ("PostgreSQL", postgres, self.postgres.ended()),
            ("nats-server", nats, self.nats.ended()),
        ];
        states.into_iter().find_map(|(name, pid, state)| {
            let how = match state {
                Ok(None) => return None,
                Ok(Some(status)) => how(status),
                Err(error) => error.to_string(),
            };
            Some(Ended::new(
                Ended::UNREACHABLE,
                format!("{name} (pid {pid}) ended: {how}"),
            ))
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // That they go now is no news to whoever is still connected.
        bus::expect_the_end();
    }
}

fn how(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => status.to_string(),
    }
}

impl Host {
    pub(crate) fn configure(&self, config: &mut Config) {
        config.database.url = SecretString::from(self.database_url.as_str());
        config.nats.url = self.nats_url.clone();
        config.nats.worker = self.logins.worker.clone();
        config.nats.relay = self.logins.relay.clone();
    }
}

/// Accounts with their users, and passwords that nobody else knows.
fn account() -> (String, Logins) {
    let mut logins = Logins::default();
    let accounts = kassa_accounts("KASSA", "", &[SHOP], |user| {
        let password = Uuid::new_v4().simple().to_string();
        let login = Login {
            user: Some(user.to_owned()),
            password: Some(SecretString::from(password.as_str())),
            password_file: None,
        };
        match user {
            "checkout" => logins.checkout = login,
            "shipment" => logins.shipment = login,
            "worker" => logins.worker = login,
            "relay" => logins.relay = login,
            "operator" => logins.operator = login,
            _ => {}
        }
        password
    });
    (render(&accounts), logins)
}
