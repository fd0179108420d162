//! ClickHouse: one server, from a real `clickhouse` binary or from the engine library.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::fetch::{Cache, FetchError};
use crate::ports::{or_free, require_free};
use crate::process::Process;
use crate::program::on_path;
use crate::{StackError, folder, wait};

/// Set to `http://HOST:PORT`, it means: use that ClickHouse and start none.
pub const URL_VARIABLE: &str = "FLEETPULSE_CLICKHOUSE_URL";

const CONFIG: &str = include_str!("../../../deploy/dev/clickhouse/config.xml");
const USERS: &str = include_str!("../../../deploy/dev/clickhouse/users.xml");

const NAME: &str = "clickhouse";
/// How long the server may take to stop in order before it is killed.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Far above what the answer to a ping takes.
const PING_BYTES_MAX: u64 = 16 << 10;

/// The program that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A real `clickhouse` binary.
    Binary(PathBuf),
    /// The engine library, run by our own `chserver`.
    Library {
        /// `chserver`.
        launcher: PathBuf,
        /// `libchdb.so`: [`Cache::clickhouse_library`].
        library: PathBuf,
    },
}

impl Engine {
    /// The `clickhouse` of PATH where there is one, else the library, fetched where it is not in the cache, to be
    /// run by this `chserver`.
    ///
    /// # Errors
    /// As [`Cache::clickhouse_library`].
    pub fn find(launcher: impl Into<PathBuf>, cache: &Cache) -> Result<Self, FetchError> {
        match on_path("clickhouse") {
            Some(binary) => Ok(Self::Binary(binary)),
            None => Ok(Self::Library { launcher: launcher.into(), library: cache.clickhouse_library()? }),
        }
    }

    /// Whether a real `clickhouse` binary stands on PATH, so that nothing needs to be built or fetched.
    pub fn is_installed() -> bool {
        on_path("clickhouse").is_some()
    }
}

/// How to run ClickHouse.
#[derive(Clone, Debug)]
pub struct ClickHouseConfig {
    /// What serves.
    pub engine: Engine,
    /// Where the data is kept: in `clickhouse` below it.
    pub data: PathBuf,
    /// Port of the HTTP interface; 0 picks a free one.
    pub http_port: u16,
    /// Port of the native interface; 0 picks a free one.
    pub tcp_port: u16,
    /// Settings of user `writer`, name and value, where they differ from the server's own. Default: none.
    pub profile: Vec<(String, String)>,
}

impl ClickHouseConfig {
    /// On free ports.
    pub fn new(engine: Engine, data: impl Into<PathBuf>) -> Self {
        Self { engine, data: data.into(), http_port: 0, tcp_port: 0, profile: Vec::new() }
    }
}

/// A ClickHouse of our own, on 127.0.0.1. Dropping it kills the server; the data stays.
///
/// Users, all without a password: `default`; `viewer`, who may only read; and `writer`, whose settings can be chosen.
#[derive(Debug)]
pub struct ClickHouse {
    engine: Engine,
    folder: PathBuf,
    http: SocketAddr,
    tcp: SocketAddr,
    profile: Vec<(String, String)>,
    process: Option<Process>,
}

impl ClickHouse {
    /// Starts the server, on new data or on what an earlier run left, and waits until it answers: under 1 s,
    /// at most 90 s.
    ///
    /// # Errors
    /// Where a port is taken, the program is not there, or it ends or stays silent: with the end of its log.
    pub fn start(config: &ClickHouseConfig) -> Result<Self, StackError> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut clickhouse = Self {
            engine: config.engine.clone(),
            folder: config.data.join("clickhouse"),
            http: local(or_free(config.http_port)?),
            tcp: local(or_free(config.tcp_port)?),
            profile: config.profile.clone(),
            process: None,
        };
        clickhouse.start_again()?;
        Ok(clickhouse)
    }

    /// `http://127.0.0.1:PORT`, the same for the whole life of this value.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Where the native interface listens.
    pub fn tcp(&self) -> SocketAddr {
        self.tcp
    }

    /// Its log: what the process printed.
    pub fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// Its process, to measure.
    ///
    /// # Errors
    /// Where it is stopped.
    pub fn process(&mut self) -> Result<&mut Process, StackError> {
        self.process.as_mut().ok_or_else(|| StackError::NotRunning { name: NAME.into() })
    }

    /// Gives user `writer` other settings, which hold from the next start: the engine library does not read its users
    /// again while it runs.
    pub fn set_profile(&mut self, profile: Vec<(String, String)>) {
        self.profile = profile;
    }

    /// Asks it for a sign of life.
    ///
    /// # Errors
    /// Where it does not answer in time, or not with `Ok.`.
    pub fn ping(&self, within: Duration) -> io::Result<()> {
        ping(self.http, within)
    }

    /// Hangs it: connections stay open, nothing answers.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn hang(&mut self) -> Result<(), StackError> {
        Ok(self.process()?.hang()?)
    }

    /// Lets it go on after [`ClickHouse::hang`].
    ///
    /// # Errors
    /// Where it does not run.
    pub fn resume(&mut self) -> Result<(), StackError> {
        Ok(self.process()?.resume()?)
    }

    /// Ends it at once, as a power cut would. One that does not run is no error.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn kill(&mut self) -> Result<(), StackError> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Stops it in order; kills it when it has not stopped within 20 s. One that does not run is no error.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn stop(&mut self) -> Result<(), StackError> {
        if let Some(mut process) = self.process.take() {
            process.terminate(STOP_MAX)?;
        }
        Ok(())
    }

    /// Starts it on the same ports and data where it does not run, and waits until it answers.
    ///
    /// # Errors
    /// As [`ClickHouse::start`].
    pub fn start_again(&mut self) -> Result<(), StackError> {
        if !self.process.as_mut().is_some_and(Process::is_running) {
            let remedy = "give ClickHouse another port in its configuration";
            require_free("clickhouse (http)", self.http, remedy)?;
            require_free("clickhouse (native)", self.tcp, remedy)?;
            let mut command = self.command()?;
            self.process = Some(Process::spawn(NAME, &mut command, &self.log())?);
        }
        let (http, url) = (self.http, self.url());
        wait::until_it_answers(self.process()?, &url, |within| ping(http, within).is_ok())
    }

    /// Kills it and removes its data. [`ClickHouse::start_again`] then starts an empty one.
    ///
    /// # Errors
    /// Where the process cannot be killed or the data cannot be removed.
    pub fn wipe(&mut self) -> Result<(), StackError> {
        self.kill()?;
        folder::remove(&self.folder).map_err(StackError::file("remove", &self.folder))
    }

    fn command(&self) -> Result<Command, StackError> {
        let data = self.folder.join("data");
        let config = self.folder.join("config.xml");
        fs::create_dir_all(&data).map_err(StackError::file("make the folder", &data))?;
        fs::write(&config, CONFIG).map_err(StackError::file("write", &config))?;
        let users = self.folder.join("users.xml");
        let settings = self.profile.iter().map(|(name, value)| format!("<{name}>{value}</{name}>"));
        let text = USERS.replace("{profile}", &settings.collect::<String>());
        fs::write(&users, text).map_err(StackError::file("write", &users))?;
        Ok(match &self.engine {
            Engine::Binary(binary) => self.server_command(binary, &config, &data),
            Engine::Library { launcher, library } => self.launcher_command(launcher, library, &config, &data),
        })
    }

    fn launcher_command(&self, launcher: &Path, library: &Path, config: &Path, data: &Path) -> Command {
        let mut command = Command::new(launcher);
        command.arg("--library").arg(library).arg("--config").arg(config).arg("--data").arg(data);
        command.arg("--log").arg(self.folder.join("engine.log"));
        command.args(["--listen", &self.http.ip().to_string()]);
        command.args(["--http-port", &self.http.port().to_string()]);
        command.args(["--tcp-port", &self.tcp.port().to_string()]);
        command
    }

    fn server_command(&self, binary: &Path, config: &Path, data: &Path) -> Command {
        let mut command = Command::new(binary);
        // Its watchdog would be a second process, which SIGSTOP and SIGKILL would hit in place of the server.
        command.env("CLICKHOUSE_WATCHDOG_ENABLE", "0");
        command.arg("server").arg(format!("--config-file={}", config.display())).arg("--");
        command.arg(format!("--path={}/", data.display()));
        for (setting, folder) in
            [("tmp_path", "tmp"), ("user_files_path", "user_files"), ("format_schema_path", "format_schemas")]
        {
            command.arg(format!("--{setting}={}/", data.join(folder).display()));
        }
        command.arg(format!("--logger.log={}", self.folder.join("engine.log").display()));
        command.arg(format!("--listen_host={}", self.http.ip()));
        command.arg(format!("--http_port={}", self.http.port()));
        command.arg(format!("--tcp_port={}", self.tcp.port()));
        command
    }
}

/// The ClickHouse to work with: somebody's, or our own.
#[derive(Debug)]
pub enum ClickHouseService {
    /// Named by `FLEETPULSE_CLICKHOUSE_URL`. It is not touched.
    External {
        /// Its HTTP interface.
        url: String,
    },
    /// Started here.
    Own(Box<ClickHouse>),
}

impl ClickHouseService {
    /// The external one where the environment names it, else one of our own. `config` is asked only then, so it
    /// may fetch.
    ///
    /// # Errors
    /// As `config` and [`ClickHouse::start`].
    pub fn start<E: From<StackError>>(
        config: impl FnOnce() -> Result<ClickHouseConfig, E>,
    ) -> Result<Self, E> {
        match std::env::var(URL_VARIABLE) {
            Ok(url) if !url.trim().is_empty() => {
                Ok(Self::External { url: url.trim().trim_end_matches('/').into() })
            }
            _ => Ok(Self::Own(Box::new(ClickHouse::start(&config()?)?))),
        }
    }

    /// Its HTTP interface.
    pub fn url(&self) -> String {
        match self {
            Self::External { url } => url.clone(),
            Self::Own(clickhouse) => clickhouse.url(),
        }
    }

    /// Our own one, to break; `None` where it is somebody's.
    pub fn own(&mut self) -> Option<&mut ClickHouse> {
        match self {
            Self::External { .. } => None,
            Self::Own(clickhouse) => Some(clickhouse),
        }
    }
}

fn ping(address: SocketAddr, within: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&address, within)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    stream.write_all(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(PING_BYTES_MAX).read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.contains("Ok.\n") {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "the answer to a ping is not `Ok.`"))
}
