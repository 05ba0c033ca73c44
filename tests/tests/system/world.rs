//! The servers that all tests of this binary share. They end with the process.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use kassa_chassis::config::Login;
use kassa_infra::{
    nats::{Account, kassa_accounts, render},
    servers::{Nats, NatsOptions, Postgres, PostgresOptions},
};
use secrecy::SecretString;
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

pub(crate) const SHOP: &str = "demo-shop";
/// One for each test that asks; far more than there are.
const ACCOUNTS: usize = 192;
const TEMPLATE: &str = "kassa_template";

pub(crate) struct World {
    postgres: Postgres,
    nats: Nats,
    next_account: AtomicUsize,
    next_database: AtomicUsize,
    pub(crate) folder: PathBuf,
}

/// The users of one pair of accounts that tests play; others are made by [`Logins::of`].
#[derive(Debug, Clone)]
pub(crate) struct Logins {
    n: usize,
    pub(crate) checkout: Login,
    pub(crate) shipment: Login,
    pub(crate) worker: Login,
    pub(crate) relay: Login,
}

pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        // Tests build reqwest clients themselves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = run_folder();
        let postgres = Postgres::start(&PostgresOptions {
            dir: folder.join("pg"),
            bin_dir: None,
            cache_dir: cache_dir(),
        })
        .expect("PostgreSQL starts");
        let accounts: Vec<Account> = (0..ACCOUNTS).flat_map(accounts).collect();
        let nats = start_nats(&folder.join("nats"), &accounts);
        World {
            postgres,
            nats,
            next_account: AtomicUsize::new(0),
            next_database: AtomicUsize::new(0),
            folder,
        }
    })
}

impl Logins {
    /// Another user of the same accounts, such as `operator` or `ship-{shop}`.
    pub(crate) fn of(&self, role: &str) -> Login {
        login(self.n, role)
    }
}

impl World {
    /// An account that no other test has.
    pub(crate) fn logins(&self) -> Logins {
        let n = self.next_account.fetch_add(1, Ordering::Relaxed);
        assert!(n < ACCOUNTS, "more tests than accounts: raise ACCOUNTS");
        logins(n)
    }

    pub(crate) fn nats_url(&self) -> String {
        self.nats.url()
    }

    /// The address of a fresh database with the schema in it.
    pub(crate) async fn database(&self) -> String {
        static PREPARED: OnceCell<()> = OnceCell::const_new();
        PREPARED
            .get_or_init(async || {
                self.admin(&format!("CREATE DATABASE {TEMPLATE}")).await;
                let (mut client, connection) = tokio_postgres::connect(&self.postgres.url(TEMPLATE), NoTls)
                    .await
                    .expect("the template opens");
                let driving = tokio::spawn(connection);
                kassa_migrations::migrate(&mut client)
                    .await
                    .expect("the template is migrated");
                drop(client);
                let _ = driving.await;
            })
            .await;
        let name = format!("kassa_{}", self.next_database.fetch_add(1, Ordering::Relaxed));
        self.admin(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))
            .await;
        self.postgres.url(&name)
    }

    async fn admin(&self, sql: &str) {
        // One at a time: a template may not be in use while it is copied.
        static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = ONE.lock().await;
        let (client, connection) = tokio_postgres::connect(&self.postgres.url("postgres"), NoTls)
            .await
            .expect("the server answers");
        let driving = tokio::spawn(connection);
        client.batch_execute(sql).await.expect(sql);
        drop(client);
        let _ = driving.await;
    }
}

/// A PostgreSQL of a test's own, to be stopped, and the address of a database with the schema.
pub(crate) async fn own_postgres(name: &str) -> (Postgres, String) {
    let dir = world().folder.join(name);
    let options = PostgresOptions {
        dir,
        bin_dir: None,
        cache_dir: cache_dir(),
    };
    let postgres = tokio::task::spawn_blocking(move || Postgres::start(&options).expect("PostgreSQL starts"))
        .await
        .expect("it does not panic");
    let url = postgres.url("postgres");
    let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("it opens");
    let driving = tokio::spawn(connection);
    kassa_migrations::migrate(&mut client)
        .await
        .expect("it is migrated");
    drop(client);
    let _ = driving.await;
    (postgres, url)
}

/// A nats-server of a test's own, to be killed and wiped, with one account.
pub(crate) fn own_nats(name: &str) -> (Nats, Logins) {
    let nats = start_nats(&world().folder.join(name), &accounts(0));
    (nats, logins(0))
}

fn start_nats(dir: &Path, accounts: &[Account]) -> Nats {
    Nats::start(&NatsOptions {
        dir: dir.to_owned(),
        server: None,
        cache_dir: cache_dir(),
        config: render(accounts),
        port: None,
    })
    .expect("nats-server starts")
}

fn accounts(n: usize) -> Vec<Account> {
    kassa_accounts(
        &format!("T{n}"),
        &format!("t{n}-"),
        &[SHOP, "other-shop"],
        |user| format!("{user}-secret"),
    )
}

fn logins(n: usize) -> Logins {
    let login = |role: &str| login(n, role);
    Logins {
        n,
        checkout: login("checkout"),
        shipment: login("shipment"),
        worker: login("worker"),
        relay: login("relay"),
    }
}

fn login(n: usize, role: &str) -> Login {
    Login {
        user: Some(format!("t{n}-{role}")),
        password: Some(SecretString::from(format!("t{n}-{role}-secret"))),
        password_file: None,
    }
}

/// Servers that were downloaded once serve the demo and the tests.
pub(crate) fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache")
}

/// A folder for this process below the target folder; those of processes that are gone are removed.
fn run_folder() -> PathBuf {
    let runs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("runs");
    std::fs::create_dir_all(&runs).expect("the target folder can be written");
    for entry in std::fs::read_dir(&runs)
        .expect("it was made a line ago")
        .flatten()
    {
        let pid = entry
            .file_name()
            .to_string_lossy()
            .parse::<u32>()
            .unwrap_or(u32::MAX);
        if !Path::new(&format!("/proc/{pid}")).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let folder = runs.join(std::process::id().to_string());
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}
