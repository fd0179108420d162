//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::registry_cli::RegistryCommand;

/// Every PUBACK is a row: MQTT heartbeats of a fleet into Kafka and ClickHouse.
///
/// Settings come from the defaults, then a TOML file, then the environment (FLEETPULSE_SECTION_KEY, for example
/// FLEETPULSE_KAFKA_BROKERS), then --set.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    /// The TOML file with the settings; `fleetpulse config example` prints one.
    #[arg(long, global = true, value_name = "FILE", env = "FLEETPULSE_CONFIG")]
    pub config: Option<PathBuf>,
    /// One setting, for example --set kafka.brokers=10.0.0.1:9092; may be repeated.
    #[arg(long, global = true, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take heartbeats in over MQTT and put them on Kafka.
    Gateway,
    /// Put what is on Kafka into ClickHouse.
    Writer,
    /// Migrate, then run gateway and writer in one process; for small fleets.
    All,
    /// Create the Kafka topics and bring the ClickHouse schema up to date.
    Migrate,
    /// Compare what gateways counted with what stands in ClickHouse; exit code 0 where nothing differs, 1 where something does,
    /// 2 where that could not be seen.
    Ledger(Ledger),
    /// Bring rows back that were lost: from Kafka, or what dead letters hold that can be read now. Exit code 0 where all is back, 1
    /// where something is not, 2 where that could not be seen.
    Replay(Replay),
    /// Settle usage and costs now: make the hours and days that were touched anew out of the raw rows, and what SIMs cost in the months of which
    /// something changed. Writers do it by themselves (writer.settle_every_s).
    Settle,
    /// Say what people know of the fleet: customers, fleets, plans, SIMs, devices, budgets, shipments, tickets.
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Answer a question about the fleet; `report --list` names them all. Exit code 0 where there is an answer, 2 where there is none, 64
    /// where the question is wrong.
    Report(crate::report_command::Asked),
    /// Check a batch of devices before it is shipped: pass or fail with every reason. Exit code 0 where all pass, 1 where one does not, 2
    /// where there is no answer.
    Preship(crate::preship_command::Asked),
    /// Act as a fleet of devices.
    Simulate(Simulate),
    /// Look at the settings.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at what clients may do.
    #[command(subcommand)]
    Acl(AclCommand),
    /// Make entries for the file of secrets.
    #[command(subcommand)]
    Secret(SecretCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum AclCommand {
    /// Say which rule decides; exit code 0 where it is allowed, 1 where it is denied.
    Explain(Explain),
}

/// A question about the rules.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub who: Who,
    /// The fleet of the device or service.
    #[arg(long)]
    pub fleet: Option<String>,
    #[command(flatten)]
    pub what: What,
}

/// Who is asked about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Who {
    /// A device.
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
    /// A service.
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
}

/// What is asked about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct What {
    /// Publishing to this topic.
    #[arg(long, value_name = "TOPIC")]
    pub publish: Option<String>,
    /// Subscribing to this filter: allowed if every topic that it matches is.
    #[arg(long, value_name = "FILTER")]
    pub subscribe: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Read a secret from standard input and print its hash for the file of `access.secrets_file`.
    Hash(HashSecret),
}

/// How a secret is hashed.
#[derive(Debug, Args)]
pub(crate) struct HashSecret {
    /// A machine made it, of 128 random bits or more: hash it cheaply, so that a whole fleet gets in soon.
    #[arg(long)]
    pub machine: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Report every mistake in the settings; exit code 64 if there is one.
    Check {
        /// Look at what this command needs alone.
        #[arg(value_enum, default_value_t = Scope::All)]
        scope: Scope,
    },
    /// Print an example file with every setting, its meaning and its default.
    Example,
}

/// Which settings are checked.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Scope {
    /// What `fleetpulse gateway` needs.
    Gateway,
    /// What `fleetpulse writer` needs.
    Writer,
    /// Everything.
    All,
}

/// Which part of the ledger is looked at, and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct Ledger {
    /// From when: a time such as 2026-01-01T12:00:00Z, or how long ago; whole minutes.
    #[arg(long, default_value = "1h", value_parser = moment, value_name = "TIME|AGO")]
    pub since: Moment,
    /// Until when; now if not given.
    #[arg(long, value_parser = moment, value_name = "TIME|AGO")]
    pub until: Option<Moment>,
    /// How it is shown.
    #[arg(long, value_enum, default_value_t = LedgerFormat::Table)]
    pub format: LedgerFormat,
    /// Show every line, and not only those that say more than that all is well.
    #[arg(long)]
    pub all: bool,
    /// Wait so long for minutes that are not over, told or read yet.
    #[arg(long, value_parser = duration)]
    pub wait: Option<Duration>,
}

/// What is brought back.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// From when: a time such as 2026-01-01T12:00:00Z, or how long ago.
    #[arg(long, value_parser = moment, value_name = "TIME|AGO")]
    pub from: Moment,
    /// To when; now if not given.
    #[arg(long, value_parser = moment, value_name = "TIME|AGO")]
    pub to: Option<Moment>,
    /// From the dead letters, and not from Kafka: those that are heartbeats by now are sent as such.
    #[arg(long)]
    pub dead_letters: bool,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// How the ledger is shown.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LedgerFormat {
    /// For people.
    Table,
    /// One object.
    Json,
    /// With a line of names.
    Csv,
}

/// A time, as somebody gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    At(jiff::Timestamp),
    Ago(Duration),
}

/// How devices behave.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// The gateway; may be repeated: each device goes on to the next one when it has to connect again.
    #[arg(long, default_value = "127.0.0.1:1883")]
    pub mqtt: Vec<SocketAddr>,
    /// Speak TLS, and trust the authorities in this PEM file.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The name in the gateway's certificate.
    #[arg(long, value_name = "NAME", default_value = "localhost", requires = "tls_ca")]
    pub tls_name: String,
    /// How many devices.
    #[arg(long, default_value_t = 1_000)]
    pub devices: u32,
    /// Their names: this and a number.
    #[arg(long, default_value = "device-")]
    pub prefix: String,
    /// Between two heartbeats of one device.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub interval: Duration,
    /// Heartbeats per second of the whole fleet, instead of --interval.
    #[arg(long, conflicts_with_all = ["interval", "saturate"])]
    pub rate: Option<u32>,
    /// As fast as acknowledgements come back, instead of --interval.
    #[arg(long, conflicts_with = "interval")]
    pub saturate: bool,
    /// Unacknowledged heartbeats of one device at once.
    #[arg(long, default_value_t = 1)]
    pub in_flight: u16,
    /// How long; until it is stopped if not given.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// New connections per second.
    #[arg(long, default_value_t = 1_000)]
    pub connect_rate: u32,
    /// Once, so long after all are online: all lose their connection, and come back at the connect rate.
    #[arg(long, value_parser = duration)]
    pub reconnect_after: Option<Duration>,
    /// Longest wait before a device connects or sends again.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub backoff_max: Duration,
    /// How long the devices go on delivering what they have stored, once they are stopped.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub drain: Duration,
    /// From then on, for so long, one device in so many has a clock that is off by so many seconds:
    /// `AFTER,LASTS,ONE_IN,SECONDS`, for example `30s,10s,3,-7200`; may be repeated.
    #[arg(long, value_parser = clock_step, allow_hyphen_values = true)]
    pub clock_step: Vec<simulator::ClockStep>,
    /// MQTT version.
    #[arg(long, value_enum, default_value_t = Protocol::Both)]
    pub protocol: Protocol,
    /// Seed of everything random.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Source addresses of the connections, for more than 28,000 to one address; may be repeated.
    #[arg(long)]
    pub source: Vec<std::net::IpAddr>,
    /// Write what was acknowledged to this file: device id, tab, sequence number.
    #[arg(long, value_name = "FILE")]
    pub acknowledged: Option<PathBuf>,
    /// Print JSON, one object a second and a last one with "final": true.
    #[arg(long)]
    pub json: bool,
}

/// MQTT version of simulated devices.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Protocol {
    /// 3.1.1
    V311,
    /// 5.0
    V5,
    /// Half and half.
    Both,
}

/// `2026-01-01T12:00:00Z`, or `90m` ago.
fn moment(text: &str) -> Result<Moment, String> {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => Ok(Moment::At(at)),
        Err(_) => {
            duration(text).map(Moment::Ago).map_err(|error| format!("{error}, or 2026-01-01T12:00:00Z"))
        }
    }
}

/// `10s`, `500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|error| format!("{error}; write for example 10s or 500ms"))?;
    Duration::try_from(span).map_err(|_| "may not be negative".to_owned())
}

/// `30s,10s,3,-7200`.
fn clock_step(text: &str) -> Result<simulator::ClockStep, String> {
    let example = || format!("{text:?} is not AFTER,LASTS,ONE_IN,SECONDS; write for example 30s,10s,3,-7200");
    let parts: Vec<&str> = text.split(',').collect();
    let [after, lasts, one_in, off_s] = parts[..] else {
        return Err(example());
    };
    Ok(simulator::ClockStep {
        after: duration(after)?,
        lasts: duration(lasts)?,
        one_in: one_in.parse().map_err(|_| example())?,
        off_s: off_s.parse().map_err(|_| example())?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Cli, Moment, clock_step, duration, moment};
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_moment_is_a_time_or_so_long_ago() {
        assert_eq!(moment("2h"), Ok(Moment::Ago(std::time::Duration::from_secs(7_200))));
        assert!(matches!(moment("2026-01-01T12:00:00Z"), Ok(Moment::At(_))));
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn durations_carry_their_unit() {
        assert_eq!(duration("1500ms"), Ok(std::time::Duration::from_millis(1500)));
        assert!(duration("10").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn a_clock_step_is_whole_or_refused() {
        let step = clock_step("30s,10s,3,-7200").expect("a step");
        assert_eq!((step.after.as_secs(), step.lasts.as_secs(), step.one_in, step.off_s), (30, 10, 3, -7200));
        assert!(clock_step("30s,10s,3").is_err() && clock_step("30s,10s,x,1").is_err());
    }
}
