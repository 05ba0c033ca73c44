//! What can be asked of the binary: which subcommands are there? Each family's arguments live in its own file; this one
//! lists them.

use std::{path::PathBuf, process::ExitCode};

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use kassa_chassis::config::Config;

use crate::{
    demo, dlq, doctor, exit, exit::Ended, export, keys, listen, nats_setup, orders, projections, replay,
    serve, settings, shell, sim, verify,
};

/// Brings a webshop's orders to a fact that can be trusted: safe to ship, or not, and why.
#[derive(Debug, Parser)]
#[command(name = "kassa", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Configuration; without it, kassa.toml in this folder if there is one. The environment (KASSA_…) wins over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "Examples:
  kassa demo                              everything in one process, with a payment to watch
  kassa serve --role engine --role relay  two roles of a real installation
  kassa replay --from 0-0 | wc -l         every event there is, one JSON document a line";

// One line a family, in the order in which a newcomer meets them.
#[derive(Debug, Subcommand)]
enum Verb {
    Demo(demo::DemoArgs),
    Serve(serve::ServeArgs),
    Migrate(serve::MigrateArgs),
    #[command(subcommand)]
    Sim(sim::SimVerb),
    #[command(subcommand)]
    Orders(orders::OrdersVerb),
    #[command(subcommand)]
    Keys(keys::KeysVerb),
    Listen(listen::ListenArgs),
    Replay(replay::ReplayArgs),
    Export(export::ExportArgs),
    Verify(verify::VerifyArgs),
    Doctor(doctor::DoctorArgs),
    #[command(subcommand)]
    Config(settings::ConfigVerb),
    #[command(subcommand)]
    Nats(nats_setup::NatsVerb),
    #[command(subcommand)]
    Dlq(dlq::DlqVerb),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
    ExitCodes(exit::CodesArgs),
    #[command(subcommand)]
    Projections(projections::ProjectionsVerb),
    #[cfg(feature = "drills")]
    Chaos(kassa_harness::chaos::ChaosArgs),
    #[cfg(feature = "drills")]
    #[command(subcommand)]
    Bench(kassa_bench::BenchVerb),
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let file = cli.config.as_deref();
    match cli.verb {
        Verb::Demo(args) => demo::run(&args).await,
        Verb::Serve(args) => serve::run(&args, file).await,
        Verb::Migrate(args) => serve::migrate(&args, file).await,
        Verb::Sim(verb) => sim::run(verb, file).await,
        Verb::Orders(verb) => orders::run(verb, file).await,
        Verb::Keys(verb) => keys::run(verb, file).await,
        Verb::Listen(args) => listen::run(&args, file).await,
        Verb::Replay(args) => replay::run(&args, file).await,
        Verb::Export(args) => export::run(&args, file).await,
        Verb::Verify(args) => verify::run(&args),
        Verb::Doctor(args) => doctor::run(&args, file).await,
        Verb::Config(verb) => settings::run(&verb, file),
        Verb::Nats(verb) => nats_setup::run(verb, file).await,
        Verb::Dlq(verb) => dlq::run(verb, file).await,
        Verb::Completions(args) => shell::completions(&args),
        Verb::Man(args) => shell::man(&args),
        Verb::ExitCodes(_) => Ok(exit::print()),
        Verb::Projections(verb) => projections::run(verb, file).await,
        #[cfg(feature = "drills")]
        Verb::Chaos(args) => kassa_harness::chaos::run(&args, std::env::current_exe()?).await,
        #[cfg(feature = "drills")]
        Verb::Bench(verb) => kassa_bench::run(verb, std::env::current_exe()?).await,
    }
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
    let matches = Cli::command().get_matches();
    let as_json = asks_for_json(&matches);
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&error.into(), as_json),
    };
    let code = match runtime.block_on(until_interrupted(cli)) {
        Ok(code) => code,
        Err(error) => exit::report(&error, as_json),
    };
    // What still waits for a server that is away is not waited for.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    code
}

/// Whether `--format json` or `ndjson` was given, whichever subcommand it was given to: then errors are JSON, too.
fn asks_for_json(matches: &ArgMatches) -> bool {
    if let Some((_, of_subcommand)) = matches.subcommand() {
        return asks_for_json(of_subcommand);
    }
    let given = matches.try_get_raw("format").ok().flatten();
    given.is_some_and(|mut words| words.any(|word| word == "json" || word == "ndjson"))
}

/// What runs until it is told to stop ends itself, in order; everything else is left where it is.
async fn until_interrupted(cli: Cli) -> anyhow::Result<ExitCode> {
    if matches!(cli.verb, Verb::Demo(_) | Verb::Serve(_)) {
        return run(cli).await;
    }
    tokio::select! {
        ended = run(cli) => ended,
        signal = tokio::signal::ctrl_c() => {
            signal?;
            Ok(ExitCode::from(Ended::INTERRUPTED))
        }
    }
}

pub(crate) fn load(file: Option<&std::path::Path>) -> anyhow::Result<Config> {
    load_but_for(file, &[])
}

/// For what works without a database, as the simulator and who talks to it: all else must be right.
pub(crate) fn load_without_database(file: Option<&std::path::Path>) -> anyhow::Result<Config> {
    load_but_for(file, &["database.url"])
}

fn load_but_for(file: Option<&std::path::Path>, keys: &[&str]) -> anyhow::Result<Config> {
    let (config, warnings) = examined(file, keys)?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(config)
}

/// The configuration and what else is to be said of it, by whoever knows where; all but `keys` must be right.
pub(crate) fn examined(
    file: Option<&std::path::Path>,
    keys: &[&str],
) -> anyhow::Result<(Config, Vec<String>)> {
    let loaded = Config::examine(file);
    let warnings = loaded.warnings().map(ToString::to_string).collect();
    let errors: Vec<String> = loaded
        .errors()
        .filter(|error| !keys.contains(&error.key.as_str()))
        .map(|error| format!("\n  {error}"))
        .collect();
    if errors.is_empty() {
        return Ok((loaded.config, warnings));
    }
    let text = format!("the configuration is not usable:{}", errors.concat());
    Err(Ended::new(Ended::CONFIGURATION, text)
        .hint("kassa config show says where each value comes from")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_called_at_night_is_there() {
        let page = include_str!("../../../docs/how-to/at-night.md");
        let calls: Vec<&str> = page
            .split('`')
            .filter(|code| code.starts_with("kassa "))
            .collect();
        assert!(calls.len() > 8, "{calls:?}");
        for call in calls {
            let mut at = Cli::command();
            for word in call.split(' ').skip(1) {
                let Some(next) = at.find_subcommand(word).cloned() else {
                    break;
                };
                at = next;
            }
            assert!(
                at.get_name() != "kassa" && !at.has_subcommands(),
                "`{call}` is no call of the command line"
            );
        }
    }
}
