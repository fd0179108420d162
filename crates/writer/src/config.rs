//! Settings of section `writer`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

use crate::batch::Limits;

/// How a writer works. Section `writer`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where metrics and health are served. Default `127.0.0.1:9465`.
    pub operations_listen: SocketAddr,
    /// The consumer group that all writers of an installation form. Default `fleetpulse-writer`.
    pub group: String,
    /// Name of this member, stable over restarts and unique in the group: a restarted writer takes its partitions back
    /// at once. Default empty: the group waits for `kafka.session_timeout_ms` after a crash.
    pub instance_id: String,
    /// Most rows of a batch, and of batches that are inserted together. Default 100,000: where ClickHouse's cost per row stops falling. Range 1 to 1,000,000, the
    /// most that ClickHouse takes as one block.
    pub batch_rows_max: u32,
    /// Most bytes of a batch in memory, and of batches that are inserted together. Default 67,108,864 (64 MiB). Range 1 KiB to 1 GiB.
    pub batch_bytes_max: u32,
    /// How long a batch waits for more rows, milliseconds. Default 1,000: a row is fresh within a second and a half, and
    /// ClickHouse, for which an insert of ten rows costs nearly what one of a thousand does, sees one insert a second and
    /// writer: what is due of one partition takes what fills of the others with it. Range 1 to 60,000.
    pub batch_age_ms: u32,
    /// Most bytes of all batches in memory. Default 402,653,184 (384 MiB). Range 1 MiB to 64 GiB.
    pub buffered_bytes_max: u64,
    /// Most records of one batch that may become dead letters because ClickHouse refuses them. Default 100: a few damaged ones must
    /// not hold up a partition, but where it refuses them by the hundred the schema is wrong, and the writer stops before
    /// it has thrown away what could have been stored. Range 0 (stop at the first) to 1,000,000.
    pub refused_rows_max: u32,
    /// How long a stopping writer waits for the batches under way, milliseconds. Default 10,000. Range 100 to 600,000.
    pub shutdown_grace_ms: u32,
    /// How often the writer looks whether the ledger of the last quarter of an hour adds up, seconds. Default 60: the ledger goes
    /// by minutes. Range 0 (never: one of many writers is enough) to 86,400.
    pub ledger_look_every_s: u32,
    /// How often usage is settled (hours and days made out of the raw rows, by one of the writers), seconds. Default 3,600: every run
    /// reads the hours under way anew, so that one a minute would cost more than the ingest (`docs/usage.md`); figures are an hour old
    /// at most. What SIMs cost goes with it, and is looked at every minute for open bills. Range 0 (never: somebody else
    /// runs `fleetpulse settle`) to 86,400.
    pub settle_every_s: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            operations_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9465)),
            group: "fleetpulse-writer".into(),
            instance_id: String::new(),
            batch_rows_max: 100_000,
            batch_bytes_max: 64 << 20,
            batch_age_ms: 1_000,
            buffered_bytes_max: 384 << 20,
            refused_rows_max: 100,
            shutdown_grace_ms: 10_000,
            ledger_look_every_s: 60,
            settle_every_s: 3_600,
        }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        Checks::of("writer")
            .present("group", &self.group)
            .within("batch_rows_max", self.batch_rows_max, 1..=1_000_000)
            .within("batch_bytes_max", self.batch_bytes_max, 1 << 10..=1 << 30)
            .within("batch_age_ms", self.batch_age_ms, 1..=60_000)
            .within("buffered_bytes_max", self.buffered_bytes_max, 1 << 20..=1 << 36)
            .within("refused_rows_max", self.refused_rows_max, 0..=1_000_000)
            .within("shutdown_grace_ms", self.shutdown_grace_ms, 100..=600_000)
            .within("ledger_look_every_s", self.ledger_look_every_s, 0..=86_400)
            .within("settle_every_s", self.settle_every_s, 0..=86_400)
            .done()
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            rows: self.batch_rows_max as usize,
            bytes: self.batch_bytes_max as usize,
            age: Duration::from_millis(self.batch_age_ms.into()),
        }
    }
}
