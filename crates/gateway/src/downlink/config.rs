//! Settings of section `commands`.

use std::path::PathBuf;
use std::time::Duration;

use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

/// Commands to devices. Section `commands`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// File whose first line is the bearer token of those who may issue commands over HTTP, at least 16 characters. Empty (the
    /// default): nobody may.
    pub token_file: PathBuf,
    /// How long a command waits for its device where its issuer does not say, seconds. Default 300: an unlock that comes later
    /// surprises somebody. Range 1 to `life_max_s`.
    pub life_default_s: u32,
    /// How long a command may wait at most, seconds. Default 86,400, which is how long Kafka keeps it. Range 1 to 86,400.
    pub life_max_s: u32,
    /// Most commands that wait for one device. Default 16: more than that is a device that is gone. Range 1 to 1,000.
    pub pending_per_device_max: u16,
    /// Most commands that wait in all; each gateway keeps every one in memory. Default 100,000: two for each of 50,000 devices.
    /// Range 1 to 1,000,000.
    pub pending_max: u32,
    /// Most bytes of commands that wait in all. Default 134,217,728 (128 MiB). Range 1 MiB to 4 GiB less one.
    pub pending_bytes_max: u32,
    /// Largest payload of a command, bytes. Default 16,384: a command is not a firmware image. Range 1 to 262,144.
    pub payload_bytes_max: u32,
    /// Most HTTP requests at once; each waits for Kafka. Default 64. Range 1 to 10,000.
    pub requests_max: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            token_file: PathBuf::new(),
            life_default_s: 300,
            life_max_s: 86_400,
            pending_per_device_max: 16,
            pending_max: 100_000,
            pending_bytes_max: 128 << 20,
            payload_bytes_max: 16_384,
            requests_max: 64,
        }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        let longest = u32::try_from(bus::topics::COMMANDS_RETENTION.as_secs()).unwrap_or(u32::MAX);
        Checks::of("commands")
            .within("life_max_s", self.life_max_s, 1..=longest)
            .within("life_default_s", self.life_default_s, 1..=self.life_max_s.max(1))
            .within("pending_per_device_max", self.pending_per_device_max, 1..=1_000)
            .within("pending_max", self.pending_max, 1..=1_000_000)
            .within("pending_bytes_max", self.pending_bytes_max, 1 << 20..=u32::MAX)
            .within("payload_bytes_max", self.payload_bytes_max, 1..=262_144)
            .within("requests_max", self.requests_max, 1..=10_000)
            .done()
    }

    /// How far back a starting node reads: nothing older can still wait.
    pub fn history(&self) -> Duration {
        Duration::from_secs(self.life_max_s.into())
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn a_command_cannot_wait_longer_than_kafka_keeps_it() {
        assert_eq!(Config::default().validate(), []);
        let keys = |config: Config| config.validate().into_iter().map(|p| p.key).collect::<Vec<_>>();
        assert_eq!(keys(Config { life_max_s: 86_401, ..Config::default() }), ["commands.life_max_s"]);
        assert_eq!(keys(Config { life_max_s: 60, ..Config::default() }), ["commands.life_default_s"]);
    }
}
