//! The schema and the inserts on a real ClickHouse; `cargo xtask test` starts one. Each test has a database of its own.

mod billing;
mod cluster;
mod costs;
mod dashboards;
mod database;
mod held;
mod ledger;
mod moving;
mod registry;
mod report;
mod rows;
mod trouble;
mod truth;
mod upgrade;
mod usage;
