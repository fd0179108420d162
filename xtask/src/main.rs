//! The project's own commands: `cargo xtask demo`, `up`, `test`, `bench`, `drill`, `fuzz`, `tidy`.
//!
//! Each starts what it needs (system packages, builds, Kafka, ClickHouse, the pipeline), says what it does on standard
//! error, and stops all of it, however it ends: every process stands in a value that kills it when dropped. Results
//! go to standard output.

mod bench;
mod build;
mod clickhouse;
mod demo;
mod drill;
mod fleet;
mod fuzz;
mod ledger;
mod live;
mod machine;
mod orphans;
mod pipeline;
mod run;
mod scrape;
mod stack;
mod stop;
mod test;
mod tidy;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The commands of the fleetpulse project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start everything, run a simulated fleet against it, and compare what was acknowledged with what is stored.
    Demo(demo::Flags),
    /// Start Kafka, ClickHouse, gateway and writer, and stay until Ctrl-C or SIGTERM.
    Up(up::Flags),
    /// Format, lints, house rules and every test, on a Kafka and a ClickHouse of its own.
    Test(test::Flags),
    /// Measure.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Break everything, as a seed says, and see whether each acknowledged heartbeat is a row.
    Drill(drill::Flags),
    /// Feed the parsers of foreign bytes with what nobody would send, for a while.
    Fuzz(fuzz::Flags),
    /// Check the rules of the house that no compiler knows.
    Tidy,
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let done = stop::Stop::on_signals().and_then(|stop| match command {
        Command::Demo(flags) => demo::run(&flags, &stop),
        Command::Up(flags) => up::run(&flags, &stop),
        Command::Test(flags) => test::run(&flags, &stop),
        Command::Bench(bench) => bench::run(&bench, &stop),
        Command::Drill(flags) => drill::run(&flags, &stop),
        Command::Fuzz(flags) => fuzz::run(&flags, &stop),
        Command::Tidy => tidy::run(),
    });
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
