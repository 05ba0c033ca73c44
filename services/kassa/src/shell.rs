//! What does the shell need? Completions and manual pages, made from the same description as the help.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, ValueEnum};

use crate::{cli::Cli, output};

/// Prints a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa completions bash > ~/.local/share/bash-completion/completions/kassa
  kassa completions zsh > ~/.zfunc/_kassa
  kassa completions fish > ~/.config/fish/completions/kassa.fish")]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
}

/// Writes a manual page a subcommand.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kassa man --dir ~/.local/share/man/man1
  kassa man --dir target/man && man target/man/kassa-orders-wait.1
  MANPATH=target: kassa man --dir target/man1")]
pub(crate) struct ManArgs {
    /// It is made where it is missing.
    #[arg(long, value_name = "FOLDER")]
    dir: PathBuf,
}

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Powershell => clap_complete::Shell::PowerShell,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kassa", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)?;
    clap_mangen::generate_to(Cli::command(), &args.dir)?;
    eprintln!("manual pages are in {}", args.dir.display());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    #[test]
    fn every_help_ends_with_three_examples_that_parse() {
        let mut root = Cli::command();
        root.build();
        walk(&root, "kassa");
    }

    fn walk(command: &Command, path: &str) {
        if command.get_name() == "help" {
            return;
        }
        let after = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let examples = after
            .strip_prefix("Examples:\n")
            .unwrap_or_else(|| panic!("{path} --help does not end with examples"));
        let lines: Vec<&str> = examples.lines().collect();
        assert_eq!(
            lines.len(),
            3,
            "{path} --help does not end with three examples: {lines:?}"
        );
        for line in lines {
            assert!(line.contains("kassa"), "{path}: {line:?} shows no call of kassa");
        }
        for sub in command.get_subcommands() {
            walk(sub, &format!("{path} {}", sub.get_name()));
        }
    }

    #[test]
    fn the_description_of_the_command_line_holds_together() {
        Cli::command().debug_assert();
    }
}
