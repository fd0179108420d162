//! Logs go to standard error; standard output belongs to what a command prints.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use crate::{Checks, Problem};

/// How a process logs. Section `log`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which events are logged, as `tracing` directives: `info`, or `info,gateway=debug`. Default `info`:
    /// start, stop and trouble; nothing per message.
    pub filter: String,
    /// Default `text`; `json` for collectors.
    pub format: Format,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self { filter: "info".into(), format: Format::Text }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        let parsed = EnvFilter::try_new(&self.filter);
        let message = parsed.as_ref().err().map(ToString::to_string).unwrap_or_default();
        Checks::of("log").require("filter", parsed.is_ok(), message).done()
    }
}

/// Starts logging; a second call does nothing.
pub fn install(config: &Config) {
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = match config.format {
        Format::Text => builder.with_ansi(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
    if let Err(error) = installed {
        tracing::debug!(%error, "logging stands already");
    }
}
