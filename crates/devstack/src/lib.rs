//! The development stack: a real Kafka and a real ClickHouse, without containers.
//!
//! It fetches both, starts them as child processes, waits until they answer, and breaks them on purpose: hang,
//! kill, stop, start again, wipe. `cargo xtask`, the whole-system tests and the benches stand on it.
//!
//! **Contract**
//! - Synchronous: every call may block, and says for how long. From async code, `spawn_blocking`.
//! - `start` returns when the service answers its own protocol, not when a port is open.
//! - Whoever holds a [`Kafka`], a [`ClickHouse`] or a [`Process`] owns the operating system's process: dropping
//!   it kills and reaps. Data stays in its folder until `wipe`. (A holder that is itself killed by SIGKILL
//!   cannot do so: its children live on.)
//! - Children are process groups of their own, so Ctrl-C in a terminal reaches the holder alone, and it decides
//!   the order in which things stop.
//! - Downloads are pinned by checksum in `deploy/dev/`, go through the user's own Maven and npm with their
//!   mirrors, proxies and certificates, and appear in the cache whole or not at all, however many callers race.
//! - With `FLEETPULSE_KAFKA_BROKERS` or `FLEETPULSE_CLICKHOUSE_URL` set, that service is used and nothing is
//!   started: [`KafkaService`] and [`ClickHouseService`].
//!
//! Linux only. Not for production: no replication of ClickHouse, no security, small memory.

pub mod clickhouse;
pub mod fetch;
pub mod kafka;
pub mod packages;
pub mod ports;
pub mod process;

mod error;
mod folder;
mod program;
mod wait;

pub use clickhouse::{ClickHouse, ClickHouseConfig, ClickHouseService, Engine};
pub use error::StackError;
pub use kafka::{Brokers, Kafka, KafkaConfig, KafkaService};
pub use process::Process;
