use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Parser;

use crate::Error;

/// The statements that make a server of `clickhouse-local`. The last one reads standard input, which is a pipe
/// that nobody writes to: it blocks until the pipe is closed, and then the engine shuts down in order.
const SERVE: &str = "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; \
                     SELECT count() FROM file('-', 'LineAsString', 'line String') FORMAT Null";

/// Runs ClickHouse's engine library as a server with an HTTP and a native port.
#[derive(Debug, Parser)]
#[command(name = "chserver", version)]
pub(crate) struct Arguments {
    /// The engine: libchdb.so.
    #[arg(long, value_name = "FILE")]
    pub(crate) library: PathBuf,
    /// Folder of the data; made where it is missing.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) data: PathBuf,
    /// Server configuration, as of clickhouse-server.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(crate) listen: IpAddr,
    /// Port of the HTTP interface.
    #[arg(long, value_name = "PORT", default_value_t = 8123, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) http_port: u16,
    /// Port of the native interface.
    #[arg(long, value_name = "PORT", default_value_t = 9000, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) tcp_port: u16,
    /// The engine's own log; without it the engine logs nothing.
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// How much the engine logs.
    #[arg(long, value_name = "LEVEL", default_value = "information")]
    pub(crate) log_level: String,
}

impl Arguments {
    /// Where the HTTP interface listens.
    pub(crate) fn http(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.http_port)
    }

    /// Where the native interface listens.
    pub(crate) fn tcp(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.tcp_port)
    }

    /// Refuses what the engine would not: it ignores a missing configuration without a word, and stays alive
    /// without a port that it could not have.
    pub(crate) fn check(&self) -> Result<(), Error> {
        require_file("engine library", &self.library, "name it with --library")?;
        require_file("configuration", &self.config, "name it with --config")?;
        require_port("http", self.http(), "--http-port")?;
        require_port("native", self.tcp(), "--tcp-port")
    }

    /// The command line of `clickhouse-local` that says the same.
    pub(crate) fn to_engine(&self) -> Vec<CString> {
        let mut line = vec![
            option("clickhouse", b""),
            option("--config-file=", self.config.as_os_str().as_bytes()),
            option("--path=", self.data.as_os_str().as_bytes()),
            option("--listen_host=", self.listen.to_string().as_bytes()),
            option("--http_port=", self.http_port.to_string().as_bytes()),
            option("--tcp_port=", self.tcp_port.to_string().as_bytes()),
        ];
        if let Some(log) = &self.log {
            line.push(option("--logger.log=", log.as_os_str().as_bytes()));
            // `logger.level`, on the command line or in the configuration, has no effect here.
            line.push(option("--log-level=", self.log_level.as_bytes()));
        }
        line.push(option("--query=", SERVE.as_bytes()));
        line
    }
}

/// One argument for the engine. A zero byte cannot come in: arguments and environment are C strings already,
/// and should one come all the same, the text ends there, as it would for the engine.
fn option(name: &str, value: &[u8]) -> CString {
    let bytes = name.bytes().chain(value.iter().copied()).take_while(|&byte| byte != 0).collect::<Vec<u8>>();
    CString::new(bytes).unwrap_or_default()
}

fn require_file(what: &'static str, path: &Path, hint: &'static str) -> Result<(), Error> {
    if path.is_file() { Ok(()) } else { Err(Error::Missing { what, path: path.into(), hint }) }
}

fn require_port(port: &'static str, address: SocketAddr, option: &'static str) -> Result<(), Error> {
    match TcpListener::bind(address) {
        Ok(_) => Ok(()),
        Err(source) if source.kind() == std::io::ErrorKind::AddrInUse => {
            Err(Error::PortTaken { port, address, option })
        }
        Err(source) => Err(Error::Port { port, address, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(port: u16) -> Arguments {
        let port = port.to_string();
        let line = ["chserver", "--library=/bin/sh", "--data=/d", "--config=/bin/sh", "--http-port", &port];
        Arguments::try_parse_from(line).expect("arguments")
    }

    #[test]
    fn a_taken_port_is_refused_by_name_with_the_way_out() {
        let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = holder.local_addr().expect("an address").port();
        let error = arguments(port).check().expect_err("the port is taken");
        assert_eq!(error.exit_code(), 98);
        let text = error.to_string();
        assert!(text.contains(&format!("http port 127.0.0.1:{port} is taken")), "{text}");
        assert!(text.contains("--http-port"), "{text}");
    }

    #[test]
    fn a_missing_configuration_is_refused() {
        let mut arguments = arguments(8123);
        arguments.config = "/nowhere/config.xml".into();
        let error = arguments.check().expect_err("there is no such file");
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains("no configuration at /nowhere/config.xml"), "{error}");
    }

    #[test]
    fn port_zero_is_refused_since_nobody_would_know_the_port() {
        let line = ["chserver", "--library=/l", "--data=/d", "--config=/c", "--tcp-port=0"];
        assert!(Arguments::try_parse_from(line).is_err());
    }

    #[test]
    fn the_engine_listens_first_and_blocks_last() {
        let line = arguments(8124).to_engine();
        assert!(line.contains(&CString::new("--http_port=8124").expect("no zero byte")));
        let last = line.last().and_then(|last| last.to_str().ok()).unwrap_or_default();
        assert!(last.starts_with("--query=SYSTEM START LISTEN HTTP;"), "{last}");
    }
}
