use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fetch::FetchError;
use crate::ports::PortError;
use crate::process::ProcessError;

/// Why a service of the development stack could not be started, stopped or wiped.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A port of it is taken.
    #[error(transparent)]
    Port(#[from] PortError),
    /// Its process could not be handled.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Its files could not be read, written or removed.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried: a verb.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Its process ended before it answered.
    #[error("{name} ended before it answered ({status}); the end of {}:\n{tail}", log.display())]
    Ended {
        /// Which service.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// It runs, but did not answer in time.
    #[error("{name} did not answer at {address} within {waited:?}; the end of {}:\n{tail}", log.display())]
    Silent {
        /// Which service.
        name: String,
        /// Where it should answer.
        address: String,
        /// How long it had.
        waited: Duration,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// Something was asked of a service that is stopped, or that has no such broker.
    #[error("{name} is not running: start it again first")]
    NotRunning {
        /// Which service.
        name: String,
    },
}

impl StackError {
    /// For `map_err` after a file operation: what was tried, on what.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { what, path: path.into(), source }
    }
}
