#![doc = include_str!("../README.md")]
//!
//! What cannot be had is a broken machine, not a failed test: it panics and says what it wanted.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use kassa_infra::servers::{Postgres, PostgresOptions};
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::{Client, NoTls};

const TEMPLATE: &str = "with_schema";

/// The server of this process.
///
/// # Panics
/// If none can be started.
pub fn postgres() -> &'static Postgres {
    static SERVER: OnceLock<Postgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        Postgres::start(&PostgresOptions {
            dir: run_folder().join("pg"),
            bin_dir: None,
            // Servers that were fetched once serve the demo and all tests.
            cache_dir: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache"),
        })
        .expect("PostgreSQL starts")
    })
}

/// The address of a database that has nothing in it.
///
/// # Panics
/// If the server does not make one.
pub async fn empty_database() -> String {
    let name = new_name();
    make(&format!("CREATE DATABASE {name}")).await;
    postgres().url(&name)
}

/// The address of a database with the schema.
///
/// # Panics
/// If the server does not make one.
pub async fn database() -> String {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_init(async || {
        make(&format!("CREATE DATABASE {TEMPLATE}")).await;
        let (mut client, connection) = tokio_postgres::connect(&postgres().url(TEMPLATE), NoTls)
            .await
            .expect("the template opens");
        let driving = tokio::spawn(connection);
        kassa_migrations::migrate(&mut client)
            .await
            .expect("the template is migrated");
        // A database that somebody is in cannot be copied.
        drop(client);
        let _ = driving.await;
    })
    .await;
    let name = new_name();
    make(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).await;
    postgres().url(&name)
}

/// As the one who owns everything.
///
/// # Panics
/// If the database does not open.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("it opens");
    tokio::spawn(connection);
    client
}

fn new_name() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn make(sql: &str) {
    // One at a time: a template may not be in use while it is copied.
    static ONE: Mutex<()> = Mutex::const_new(());
    let _turn = ONE.lock().await;
    let admin = connect(&postgres().url("postgres")).await;
    admin.batch_execute(sql).await.expect(sql);
}

/// A folder of this process's own; those of processes that are gone are removed.
fn run_folder() -> PathBuf {
    // Test binaries are two folders below the target folder, in `debug/deps`.
    let here = std::env::current_exe().expect("this process has a file");
    let target = here.ancestors().nth(3).expect("cargo has built it");
    let runs = target.join("tmp/crates");
    std::fs::create_dir_all(&runs).expect("the target folder can be written");
    for entry in std::fs::read_dir(&runs).expect("it was just made").flatten() {
        if !Path::new("/proc").join(entry.file_name()).exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let folder = runs.join(std::process::id().to_string());
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}
