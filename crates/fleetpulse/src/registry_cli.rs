//! The command line of `fleetpulse registry`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use registry::Kind;

#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Import a file: what differs from what stands is changed, what it does not name stays. Exit code 0 where it is done, 1 where the
    /// file is wrong (every problem is told, nothing is changed), 2 where clickhouse did not do it.
    Import(ImportFile),
    /// Export all entries of a kind.
    Export {
        /// Of which kind.
        kind: Kind,
        /// How it is written.
        #[arg(long, value_enum, default_value_t = FileFormat::Csv)]
        format: FileFormat,
        /// Where to; `-` is standard output.
        #[arg(long, default_value = "-", value_name = "FILE")]
        output: PathBuf,
    },
    /// Who changed an entry, when, why and what; the newest first.
    History {
        /// Of which kind.
        kind: Kind,
        /// Its key; parts of a longer one with commas between them.
        id: String,
        /// Most changes.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Delete an entry that no other refers to; its history stays.
    Delete {
        /// Of which kind.
        kind: Kind,
        /// Its key; parts of a longer one with commas between them.
        id: String,
        #[command(flatten)]
        author: AuthorFlags,
    },
    /// SIMs.
    #[command(subcommand)]
    Sim(SimCommand),
    /// Print a CSV without rows, to be filled in.
    Template {
        /// Of which kind.
        kind: Kind,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SimCommand {
    /// Say in which state a SIM is from now on: inventory, testing, live, paused or retired.
    SetState {
        /// The SIM.
        iccid: String,
        /// Its state.
        state: String,
        #[command(flatten)]
        author: AuthorFlags,
    },
}

/// What is imported.
#[derive(Debug, Args)]
pub(crate) struct ImportFile {
    /// Of which kind.
    pub kind: Kind,
    /// The file; `-` is standard input.
    pub file: PathBuf,
    /// How it is written; by its beginning if not given.
    #[arg(long, value_enum)]
    pub format: Option<FileFormat>,
    /// Tell what would change, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub author: AuthorFlags,
}

/// Who does it, and why.
#[derive(Debug, Args)]
pub(crate) struct AuthorFlags {
    /// Who does it, for the history.
    #[arg(long, env = "USER", default_value = "unknown", value_name = "NAME")]
    pub who: String,
    /// Why, for the history.
    #[arg(long, default_value = "", value_name = "TEXT")]
    pub why: String,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FileFormat {
    /// With a header.
    Csv,
    /// An array of objects; an import takes one object a line, too.
    Json,
}
