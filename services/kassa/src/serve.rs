//! How are the roles of a real installation started, and its schema kept up to date?

use std::{path::Path, process::ExitCode};

use clap::Args;
use kassa_chassis::{supervise, telemetry};

use crate::{
    cli,
    roles::{self, Role},
};

/// Runs roles against the configured servers, until SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa serve --role all
  kassa serve --role engine --role read-models
  kassa serve --role cm-simulator")]
pub(crate) struct ServeArgs {
    /// May be given several times.
    #[arg(long = "role", required = true, value_enum, value_name = "ROLE")]
    roles: Vec<Role>,
}

/// Brings the database's schema up to date.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa migrate
  DATABASE_URL=postgresql:///kassa kassa migrate
  kassa --config /etc/kassa.toml migrate")]
pub(crate) struct MigrateArgs {}

pub(crate) async fn run(args: &ServeArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    // The simulator is another company's: it has no business with our database.
    let simulator_alone = args.roles.iter().all(|role| *role == Role::CmSimulator);
    let keys: &[&str] = if simulator_alone { &["database.url"] } else { &[] };
    let (config, warnings) = cli::examined(file, keys)?;
    telemetry::init(
        config.log.format,
        "info,async_nats=warn,async_nats::connector=off,deadpool=off",
    );
    // In the log's own form: what reads it takes JSON for JSON.
    for warning in warnings {
        tracing::warn!(
            finding = warning,
            "the configuration is usable, and not as it should be"
        );
    }
    let shutdown = supervise::until_signal()?;
    roles::serve(&config, &args.roles, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn migrate(_: &MigrateArgs, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = cli::load(file)?;
    telemetry::init(config.log.format, "info");
    let steps = roles::migrate(&config).await?;
    eprintln!("{steps} steps taken");
    Ok(ExitCode::SUCCESS)
}
