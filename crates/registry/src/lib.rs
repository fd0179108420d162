//! What people know of the fleet, beside what it tells: customers, fleets, plans, SIMs, devices, budgets, shipments, tickets.
//!
//! - [`Kind`]: the kinds, and [`Column`]s that say all about them: files, tables, API and documentation follow from the same lines
//!   (`kinds.rs`). Values are checked when they are read, down to the check digits of SIMs and modems.
//! - [`drafts`] and [`compare`]: a file, and what it would change. Pure. Everything that is wrong is told at once, with line and column
//!   ([`Problem`]); a file with a problem changes nothing.
//! - [`import`], [`put`], [`delete`]: make the change, and note who, when, why and what. The same import again changes nothing.
//! - [`write`]: exports, which can be imported again.
//! - [`Endpoint`]: the same over HTTP, for whoever has the token; `openapi.rs` describes it from the same table of routes.
//!
//! Limits: a file is held in memory whole (the API bounds it by `registry.body_bytes_max`). What stands is read whole for more than a few rows:
//! meant for up to some million entries. Two changes of one entry at the same time are not kept apart; the later insert stands, and the
//! history has both.

pub mod amount;
mod config;
mod difference;
mod endpoint;
mod entry;
mod fault;
mod formula;
mod import;
mod kinds;
pub mod number;
mod openapi;
mod read;
mod sim_state;
pub mod time;
pub mod value;
mod write;

pub use config::Config;
pub use difference::{Change, Difference, Standing, compare};
pub use endpoint::Endpoint;
pub use entry::{Before, Column, Entry};
pub use fault::{Fault, Problem, Wrong};
pub use import::{DeleteError, Import, ImportError, Progress, Run, delete, id, import, page, put, row, rows};
pub use kinds::{Budget, Customer, Device, Fleet, Kind, Plan, PlanKind, Shipment, Sim, Ticket, UnknownKind};
pub use read::{Draft, Format, drafts};
pub use sim_state::SimState;
pub use store::Author;
pub use write::{WriteError, object, write};
