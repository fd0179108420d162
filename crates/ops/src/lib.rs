//! What every fleetpulse process owes its operators: metrics, health, logs, and settings that are checked
//! whole before anything starts.
//!
//! - [`metrics`]: one Prometheus recorder a process; the buckets of every histogram stand there.
//! - [`Health`]: named conditions that must hold; readiness is all of them.
//! - [`BearerToken`]: what opens routes that are served beside these.
//! - [`server`]: `/metrics`, `/healthz`, `/readyz` over HTTP.
//! - [`Problem`]: one mistake in the settings, with its key.
//! - [`log`]: tracing to standard error, as text or JSON.

mod bearer;
mod health;
pub mod log;
pub mod metrics;
mod problem;
pub mod server;

pub use bearer::{BearerToken, NotAdmitted, TokenError};
pub use health::{Condition, Health};
pub use problem::{Checks, Problem};
