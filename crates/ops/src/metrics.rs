//! The Prometheus recorder of a process.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Seconds; for what a device or a reader waits for: PUBACK, delivery to Kafka, freshness, insert.
/// Fine around the goals (freshness p99 under 1.5 s), coarse where only "far too long" matters.
const SECONDS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9,
    1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// Rows of a batch.
const ROWS: &[f64] = &[1.0, 10.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 25_000.0, 50_000.0, 100_000.0];

/// Why there is no recorder.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the metrics recorder")]
pub struct InstallError(#[source] metrics_exporter_prometheus::BuildError);

/// Installs the recorder of this process. To be called once, before anything counts.
///
/// # Errors
/// Where another recorder stands already.
pub fn install() -> Result<PrometheusHandle, InstallError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_rows".into()), ROWS))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(InstallError)
}
