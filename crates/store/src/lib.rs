//! ClickHouse, as fleetpulse needs it. No other crate sees `clickhouse`.
//!
//! - [`Store`]: a connection (HTTP, LZ4, RowBinary with the names and types of its columns before it).
//! - [`rows`]: one struct per table that is inserted into, each field with the type of its column.
//! - [`Store::insert`]: one batch, under a token. The same rows under the same token are the same insert: the table
//!   and every view on it take them once, however often the answer was lost.
//! - [`Store::held`] and [`Store::complete_views`]: what to ask and to do where an insert is repeated so late that its token may be
//!   forgotten.
//! - [`Store::ledger`] and beside it: what adds up, and what does not.
//! - [`Store::dead_letters`]: dead letters, to be read again.
//! - [`Store::settle`]: usage by the hour and day, made out of the raw rows.
//! - [`Store::registry_rows`] and beside it: the tables that people fill (`registry` says with what).
//! - [`Store::report`]: the questions of `reports/*.sql`, bounded and read-only.
//! - [`Store::migrate`]: brings the schema (`migrations/*.sql`) up to date; forward only, checked, repeatable.
//!   With `clickhouse.cluster` set, on every server of a cluster: docs/cluster.md.
//!
//! What it does not do: retry, batch or decide what to do about an error: it tells the [`Trouble`], the writer acts.

mod client;
mod cluster;
mod columns;
mod config;
mod held;
mod insert;
mod ledger;
mod letters;
mod migrate;
mod registry;
mod report;
pub mod rows;
mod settle;
mod trouble;

pub use client::{QueryError, Store};
pub use cluster::Step;
pub use config::{Config, ConfigError};
pub use held::Held;
pub use insert::InsertError;
pub use ledger::{HeartbeatKey, LedgerLine, Standing};
pub use letters::{DeadLetter, LetterPlace};
pub use migrate::{Applied, MigrateError};
pub use registry::{
    Author, Form, RegistryAct, RegistryChange, RegistryColumn, RegistryInsertError, RegistryNote,
    RegistryRow, RegistryTable, SimHistory, SimTurn,
};
pub use report::{Answer, Column, Kind, Parameter, Report, ReportError};
pub use settle::{Months, Settled};
pub use trouble::{Class, Trouble};
