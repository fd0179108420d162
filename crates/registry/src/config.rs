//! Settings of section `registry`.

use std::path::PathBuf;

use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

/// The registry over HTTP, on the writer's operations port. Section `registry`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// File whose first line is the bearer token of those who may read and change the registry over HTTP, at least 16 characters.
    /// Empty (the default): nobody may.
    pub token_file: PathBuf,
    /// Largest body of a request, bytes. Default 33,554,432 (32 MiB): 100,000 devices as CSV are 12 MB. Range 1 KiB to 1 GiB.
    pub body_bytes_max: u32,
    /// Most requests at once; an import of 100,000 rows takes some hundred MB while it runs. Default 4. Range 1 to 1,000.
    pub requests_max: u16,
    /// Most entries of a page. Default 1,000: what a screen or a script takes at once. Range 1 to 100,000.
    pub page_rows_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { token_file: PathBuf::new(), body_bytes_max: 32 << 20, requests_max: 4, page_rows_max: 1_000 }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        Checks::of("registry")
            .within("body_bytes_max", self.body_bytes_max, 1 << 10..=1 << 30)
            .within("requests_max", self.requests_max, 1..=1_000)
            .within("page_rows_max", self.page_rows_max, 1..=100_000)
            .done()
    }
}
