//! What can be asked of the binary.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kassa_chassis::{
    config::{Config, LogFormat},
    supervise, telemetry,
};

use crate::{
    demo, exit,
    exit::Ended,
    orders, replay,
    roles::{self, Role},
    sim,
};

/// Brings a webshop's orders to a fact that can be trusted: safe to ship, or not, and why.
#[derive(Debug, Parser)]
#[command(name = "kassa", version, propagate_version = true, after_help = EXAMPLES)]
struct Cli {
    /// Configuration; without it, kassa.toml in this folder if there is one. The environment (KASSA_…) wins over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  kassa demo                              everything in one process, with a payment to watch
  kassa serve --role engine --role relay  two roles of a real installation
  kassa replay --from 0-0 | wc -l         every event there is, one JSON document a line

Exit codes: 0 done, 1 refused or failed, 2 usage, 4 timed out, 5 not found,
69 a service cannot be reached, 78 configuration, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs everything in one process, with servers and a simulator of its own, and plays a payment.
    #[command(after_help = "Examples:
  kassa demo                                plays ideal/success, then stays until Ctrl-C
  kassa demo --once --format json           ends after the shipment; the last line is the result
  kassa demo --scenario any/amount_short_11 plays what must not be shipped")]
    Demo(DemoArgs),
    /// Runs roles against the configured servers, until SIGTERM or Ctrl-C.
    #[command(after_help = "Examples:
  kassa serve --role all
  kassa serve --role engine --role read-models
  kassa serve --role cm-simulator")]
    Serve(ServeArgs),
    /// Brings the database's schema up to date.
    #[command(after_help = "Examples:
  kassa migrate
  DATABASE_URL=postgresql:///kassa kassa migrate
  kassa --config /etc/kassa.toml migrate")]
    Migrate,
    /// The CM simulator: its scenarios, and paying as a shopper would.
    #[command(subcommand)]
    Sim(SimVerb),
    /// Looks at orders.
    #[command(subcommand)]
    Orders(OrdersVerb),
    /// Prints events from the log as NDJSON, one CloudEvent a line, in order.
    #[command(after_help = "Examples:
  kassa replay --from 0-0
  kassa replay --from 0-41992 | jq .type
  kassa replay --from 0-0 | wc -l")]
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End after the payment has come to its end, instead of staying.
    #[arg(long)]
    pub(crate) once: bool,
    /// A scenario of `kassa sim scenarios`.
    #[arg(long, default_value = "ideal/success", value_name = "NAME")]
    pub(crate) scenario: String,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// May be given several times.
    #[arg(long = "role", required = true, value_enum, value_name = "ROLE")]
    roles: Vec<Role>,
}

#[derive(Debug, Subcommand)]
enum SimVerb {
    /// Lists the scenarios with their documented ends.
    Scenarios {
        #[command(flatten)]
        sim: SimAddress,
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
    },
    /// Does at the test bank what the scenario says, for an order by its reference or key.
    #[command(after_help = "Examples:
  kassa sim pay A-1 ideal/success
  kassa sim pay A-1 ideal/cancel
  kassa sim pay A-1 any/amount_short_11 --url http://127.0.0.1:8090")]
    Pay {
        order: String,
        scenario: String,
        #[command(flatten)]
        sim: SimAddress,
    },
}

#[derive(Debug, Args)]
pub(crate) struct SimAddress {
    /// Where the simulator is; without it, as configured.
    #[arg(long, env = "KASSA_SIM_URL", value_name = "URL")]
    pub(crate) url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum OrdersVerb {
    /// Where an order stands, by its id or the shop's reference; asks kassa-queries on NATS.
    #[command(after_help = "Examples:
  kassa orders show ord_0123… --shop demo-shop
  kassa orders show A-1 --shop demo-shop
  NATS_URL=nats://checkout:secret@127.0.0.1:4222 kassa orders show A-1 --shop demo-shop")]
    Show {
        order: String,
        #[arg(long)]
        shop: String,
        /// May carry a login: nats://user:password@host:port
        #[arg(
            long,
            env = "NATS_URL",
            default_value = "nats://127.0.0.1:4222",
            hide_env_values = true
        )]
        nats_url: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A position, `part-number`; what comes after it is printed.
    #[arg(long, value_name = "POSITION", value_parser = replay::position)]
    pub(crate) from: (i32, i64),
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub(crate) database_url: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

/// Runs the command line to its end.
pub fn main() -> ExitCode {
    // The one crypto provider; reqwest is built without a choice of its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&error.into()),
    };
    let code = match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    };
    // What still waits for a server that is away is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let file = cli.config.as_deref();
    match cli.verb {
        Verb::Demo(args) => {
            // The servers are its own: that they go when it goes is no news.
            telemetry::init(LogFormat::Auto, "warn,async_nats=error,kassa_chassis::bus=error");
            demo::run(&args).await
        }
        Verb::Serve(args) => {
            let config = load(file)?;
            telemetry::init(
                config.log.format,
                "info,async_nats=warn,async_nats::connector=off,deadpool=off",
            );
            let shutdown = supervise::until_signal()?;
            roles::serve(&config, &args.roles, shutdown).await?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::Migrate => {
            let config = load(file)?;
            telemetry::init(config.log.format, "info");
            let steps = roles::migrate(&config).await?;
            eprintln!("{steps} steps taken");
            Ok(ExitCode::SUCCESS)
        }
        Verb::Sim(SimVerb::Scenarios { sim, format }) => sim::scenarios(&sim, file, format).await,
        Verb::Sim(SimVerb::Pay { order, scenario, sim }) => sim::pay(&sim, file, &order, &scenario).await,
        Verb::Orders(OrdersVerb::Show {
            order,
            shop,
            nats_url,
        }) => orders::show(&nats_url, &shop, &order).await,
        Verb::Replay(args) => replay::run(&args, file).await,
    }
}

pub(crate) fn load(file: Option<&std::path::Path>) -> anyhow::Result<Config> {
    Config::load(file).map_err(|error| {
        let chain = anyhow::Error::from(error);
        Ended::new(Ended::CONFIGURATION, format!("{chain:#}")).into()
    })
}
