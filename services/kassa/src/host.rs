//! Where does the demo live? On servers of its own, in a folder of its own, with nothing left behind; or on those that
//! `DATABASE_URL` and `NATS_URL` name.

use kassa_chassis::config::{Config, Login};
use kassa_infra::{
    nats::{kassa_accounts, render},
    run::{RunFolder, cache_dir},
    servers::{Nats, NatsOptions, Postgres, PostgresOptions},
};
use secrecy::SecretString;
use uuid::Uuid;

pub(crate) const SHOP: &str = "demo-shop";
const DATABASE: &str = "kassa_demo";

/// Servers, as long as it lives.
#[derive(Debug)]
pub(crate) struct Host {
    // Dropped in this order: servers first, their folder last.
    postgres: Option<Postgres>,
    nats: Option<Nats>,
    _folder: RunFolder,
    pub(crate) database_url: String,
    pub(crate) nats_url: String,
    pub(crate) logins: Logins,
}

/// The users that the demo plays, and the one for its dead letters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Logins {
    pub(crate) checkout: Login,
    pub(crate) shipment: Login,
    pub(crate) worker: Login,
    pub(crate) relay: Login,
    pub(crate) operator: Login,
}

impl Host {
    /// Finds or fetches the servers and starts them. Blocking.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let cache_dir = cache_dir();
        let folder = RunFolder::new(&cache_dir)?;
        let given = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());

        let (postgres, database_url) = match given("DATABASE_URL") {
            Some(url) => (None, url),
            None => {
                let options = PostgresOptions {
                    dir: folder.path().join("pg"),
                    bin_dir: None,
                    cache_dir: cache_dir.clone(),
                };
                let server = Postgres::start(&options)?;
                let url = server.url(DATABASE);
                (Some(server), url)
            }
        };
        let (nats, nats_url, logins) = match given("NATS_URL") {
            Some(url) => (None, url, Logins::default()),
            None => {
                let (config, logins) = account();
                let options = NatsOptions {
                    dir: folder.path().join("nats"),
                    server: None,
                    cache_dir,
                    config,
                    port: None,
                };
                let server = Nats::start(&options)?;
                let url = server.url();
                (Some(server), url, logins)
            }
        };
        Ok(Self {
            postgres,
            nats,
            _folder: folder,
            database_url,
            nats_url,
            logins,
        })
    }

    /// Makes the demo's database where the server is its own, and brings the schema up to date.
    pub(crate) async fn prepare(&self) -> anyhow::Result<()> {
        if let Some(server) = &self.postgres {
            let (client, connection) =
                tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls).await?;
            let driving = tokio::spawn(connection);
            client
                .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
                .await?;
            drop(client);
            let _ = driving.await;
        }
        crate::roles::migrate_url(&self.database_url).await?;
        Ok(())
    }

    /// One line a server: which it is, and why that one.
    pub(crate) fn origins(&self) -> Vec<String> {
        let postgres = self
            .postgres
            .as_ref()
            .map_or("as DATABASE_URL says".to_owned(), Postgres::origin);
        let nats = self
            .nats
            .as_ref()
            .map_or("as NATS_URL says".to_owned(), Nats::origin);
        vec![format!("PostgreSQL   {postgres}"), format!("nats-server  {nats}")]
    }

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
