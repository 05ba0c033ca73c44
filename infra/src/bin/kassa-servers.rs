//! A pair of servers for a person at a debugger, or for another program: starts them, prints their addresses, and ends
//! them when its standard input ends.
//!
//! `kassa-servers DIR CACHE_DIR` prints a JSON line `{"database_url", "postgres_pid", "nats_url", "nats_pid"}`.

use std::env;
use std::error::Error;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use kassa_infra::servers::{Nats, NatsOptions, Postgres, PostgresOptions};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            eprintln!("kassa-servers: {text}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut args = env::args_os().skip(1).map(PathBuf::from);
    let (Some(dir), Some(cache_dir), None) = (args.next(), args.next(), args.next()) else {
        return Err("two arguments are needed: a folder for the data and one for downloads".into());
    };
    let postgres = PostgresOptions {
        dir: dir.join("postgres"),
        bin_dir: None,
        cache_dir: cache_dir.clone(),
    };
    let nats = NatsOptions {
        dir: dir.join("nats"),
        server: None,
        cache_dir,
        config: String::new(),
        port: None,
    };
    let mut postgres = Postgres::start(&postgres)?;
    eprintln!("kassa-servers: {}", postgres.origin());
    let mut nats = Nats::start(&nats)?;
    eprintln!("kassa-servers: {}", nats.origin());
    let addresses = serde_json::json!({
        "database_url": postgres.url("postgres"), "postgres_pid": postgres.pid(),
        "nats_url": nats.url(), "nats_pid": nats.pid(),
    });
    writeln!(io::stdout(), "{addresses}")?;

    // Whatever comes is ignored; only the end counts.
    let mut ignored = [0; 64];
    while io::stdin().read(&mut ignored)? > 0 {}
    nats.stop()?;
    postgres.stop()?;
    Ok(())
}
