//! `chserver`: ClickHouse's engine library, run as a server.
//!
//! For machines that have no `clickhouse` binary. The library (`libchdb.so`) is the whole engine behind the
//! front of `clickhouse-local`, which can be told to listen; what answers on the two ports is the genuine
//! HTTP and native server. `devstack` fetches the library and starts this program.
//!
//! **Life.** Refuse what cannot work (a taken port, a missing file) before the engine is loaded; start it;
//! print one line `ready http=http://ADDRESS tcp=ADDRESS pid=PID` to standard output when both ports answer;
//! on SIGTERM, SIGINT or SIGHUP stop in order and exit 0. A second signal ends the process at once.
//!
//! **Durability** is the engine's: inserted data outlives SIGKILL. The `system` database does not outlive a
//! start, since the engine keeps its definition in memory only.
//!
//! **Exit codes**: 0 stopped as asked, 1 the engine failed, 64 wrong arguments, 78 a missing file, or
//! a data folder that cannot be used, 98 a taken port, 128 + N ended by a second signal N.
//!
//! It does not replicate, has no interserver port and is not meant for production.

mod arguments;
mod engine;
mod ready;
mod signals;

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind as ClapError;

use crate::arguments::Arguments;
use crate::signals::StopPipe;

/// Why the server did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no {what} at {}: {hint}", path.display())]
    Missing { what: &'static str, path: PathBuf, hint: &'static str },
    #[error("the {port} port {address} is taken: stop what listens there, or choose another with {option}")]
    PortTaken { port: &'static str, address: std::net::SocketAddr, option: &'static str },
    #[error("the {port} port {address} cannot be used: {source}")]
    Port { port: &'static str, address: std::net::SocketAddr, source: std::io::Error },
    #[error("data folder {}: {source}", path.display())]
    Data { path: PathBuf, source: std::io::Error },
    #[error("data folder {} is in use by another server: stop that one, or choose another with --data", path.display())]
    DataInUse { path: PathBuf },
    #[error("cannot set up the process: {0}")]
    Process(#[from] std::io::Error),
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
}

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Missing { .. } | Self::Data { .. } | Self::DataInUse { .. } => 78,
            Self::PortTaken { .. } | Self::Port { .. } => 98,
            Self::Process(_) | Self::Engine(_) => 1,
        }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked = matches!(error.kind(), ClapError::DisplayHelp | ClapError::DisplayVersion);
            // A closed terminal is no reason to fail in another way.
            let _ = error.print();
            return ExitCode::from(if asked { 0 } else { 64 });
        }
    };
    let code = match serve(&arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("chserver: {error}");
            error.exit_code()
        }
    };
    // Not by returning: the library's static destructors are of no use here, and they can hang.
    engine::exit_at_once(code)
}

/// Checks, starts, and blocks until the engine has stopped.
fn serve(arguments: &Arguments) -> Result<(), Error> {
    arguments.check()?;
    // Before any other thread exists: a thread inherits the mask that its maker has.
    let stop = StopPipe::install()?;
    prepare_data(&arguments.data)?;
    ready::announce_when_ready(arguments)?;
    Ok(engine::run(&arguments.library, &arguments.to_engine(), &stop)?)
}

/// Makes the data folder, and removes the log tables that an earlier run left.
///
/// The engine keeps the definitions of its `system` database in memory, but their data in the data folder:
/// with a table's data left over, each flush of that table's log fails, and `SYSTEM FLUSH LOGS` waits for
/// minutes. A running server would lose those files too, so the folder must not be in use.
fn prepare_data(data: &Path) -> Result<(), Error> {
    let failed = |source| Error::Data { path: data.into(), source };
    fs::create_dir_all(data).map_err(failed)?;
    // The engine locks this file in the same way, for as long as it runs.
    let status = File::options().create(true).append(true).open(data.join("status")).map_err(failed)?;
    match status.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::DataInUse { path: data.into() }),
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    match fs::remove_dir_all(data.join("data/system")) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}
