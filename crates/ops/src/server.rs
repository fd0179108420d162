//! The operations port of a role: `/metrics`, `/healthz` (the process answers) and `/readyz` (it can do its
//! work: 200, else 503; the body names each condition); and what a role serves beside them ([`Operations::with_routes`]).

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Health;

/// Histogram samples wait in memory until they are folded into buckets; a scrape does that too, but a process
/// that nobody scrapes must not grow.
const FOLD_EVERY: Duration = Duration::from_secs(5);

/// Why the operations port could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen for operations on {address} (setting `{setting}`)")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The setting to change.
        setting: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The server broke.
    #[error("the operations server on {address} broke")]
    Broke {
        /// Where it listened.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A bound operations port, not serving yet.
#[derive(Debug)]
pub struct Operations {
    listener: TcpListener,
    address: SocketAddr,
    routes: Router,
}

impl Operations {
    /// Binds the port, so that a taken one is known before any work starts.
    ///
    /// # Errors
    /// Where the address is taken; `setting` names the key to change.
    pub async fn bind(address: SocketAddr, setting: &'static str) -> Result<Self, ServeError> {
        let wrap = |source| ServeError::Listen { address, setting, source };
        let listener = TcpListener::bind(address).await.map_err(wrap)?;
        let address = listener.local_addr().map_err(wrap)?;
        Ok(Self { listener, address, routes: Router::new() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves these too. Whoever hands them in bounds what they cost, and says who may ask.
    #[must_use]
    pub fn with_routes(mut self, routes: Router) -> Self {
        self.routes = self.routes.merge(routes);
        self
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// Where the server breaks. Cancel safe: dropping it ends the server.
    pub async fn serve(
        self,
        metrics: PrometheusHandle,
        health: Health,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        let address = self.address;
        let fold = {
            let metrics = metrics.clone();
            async move {
                loop {
                    tokio::time::sleep(FOLD_EVERY).await;
                    metrics.run_upkeep();
                }
            }
        };
        let routes = Router::new()
            .route("/metrics", get(move || async move { render(&metrics) }))
            .route("/healthz", get(|| async { "alive\n" }))
            .route("/readyz", get(readiness))
            .with_state(health)
            .merge(self.routes);
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = fold => Ok(()),
            served = axum::serve(self.listener, routes) => {
                served.map_err(|source| ServeError::Broke { address, source })
            }
        }
    }
}

fn render(metrics: &PrometheusHandle) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render())
}

async fn readiness(State(health): State<Health>) -> impl IntoResponse {
    let conditions: serde_json::Map<_, _> =
        health.conditions().into_iter().map(|(name, holds)| (name.to_owned(), holds.into())).collect();
    let ready = health.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::json!({ "ready": ready, "conditions": conditions });
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n"))
}
