//! fleetpulse: every PUBACK is a row.
//!
//! This binary only composes: it reads the settings, starts the roles that were asked for, and stops them in order on
//! SIGTERM or Ctrl-C. What each role does stands in its own crate.

mod access_command;
mod cli;
mod ledger_command;
mod preship_command;
mod print;
mod progress;
mod registry_cli;
mod registry_command;
mod replay_command;
mod report_command;
mod roles;
mod settings;
mod simulate;

use std::process::ExitCode;

use clap::Parser;

use cli::{AclCommand, Cli, Command, ConfigCommand, Scope, SecretCommand};
use roles::Role;
use settings::{Invalid, Settings};

/// A setting is wrong (`EX_USAGE`).
const EXIT_SETTINGS: u8 = 64;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => match error.downcast_ref::<Invalid>() {
            Some(invalid) => {
                eprintln!("fleetpulse: {invalid}");
                ExitCode::from(EXIT_SETTINGS)
            }
            None => {
                eprintln!("fleetpulse: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let load = || Settings::load(cli.config.as_deref(), std::env::vars(), &cli.set);
    match cli.command {
        Command::Gateway => roles::run(load()?, &[Role::Gateway]),
        Command::Writer => roles::run(load()?, &[Role::Writer]),
        Command::All => roles::run(load()?, &[Role::Gateway, Role::Writer]),
        Command::Migrate => roles::migrate(&load()?),
        Command::Ledger(asked) => ledger_command::run(&load()?, &asked),
        Command::Replay(asked) => replay_command::run(&load()?, &asked),
        Command::Settle => roles::settle(&load()?),
        Command::Registry(asked) => registry_command::run(&load()?, &asked),
        Command::Report(asked) => report_command::run(load, &asked),
        Command::Preship(asked) => preship_command::run(&load()?, &asked),
        Command::Simulate(flags) => simulate::run(&flags),
        Command::Config(ConfigCommand::Check { scope }) => {
            let roles: &[Role] = match scope {
                Scope::Gateway => &[Role::Gateway],
                Scope::Writer => &[Role::Writer],
                Scope::All => &[Role::Gateway, Role::Writer],
            };
            load()?.validate(&roles::sections(roles))?;
            println!("the settings are valid");
            Ok(ExitCode::SUCCESS)
        }
        Command::Acl(AclCommand::Explain(asked)) => access_command::explain(&load()?.access, &asked),
        Command::Secret(SecretCommand::Hash(asked)) => access_command::hash(&asked),
        Command::Config(ConfigCommand::Example) => {
            print!("{}", settings::EXAMPLE);
            Ok(ExitCode::SUCCESS)
        }
    }
}
