//! Reading again what may change while the gateway runs: who may connect and what they may do, certificates and keys.
//!
//! On SIGHUP, and when one of the files changes. What stands is looked at again afterwards: a session whose credential is no longer
//! good ends, all others go on. A file that cannot be read leaves what was read before in force.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::edge::Tls;

/// How often files are looked at: a revocation holds within seconds. Looking, not listening, also sees a file that is
/// swapped by a link, as Kubernetes does.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// When each file was written last, and how large it is; a file that is not there is a change too.
type Seen = Vec<Option<(SystemTime, u64)>>;

/// Reads again until `stop`. Cancel safe.
pub(crate) async fn watch(shared: Arc<Shared>, tls: Option<Arc<Tls>>, stop: CancellationToken) {
    let mut hang_up = signal(SignalKind::hangup()).ok();
    let mut files = shared.access.files();
    files.extend(tls.iter().flat_map(|tls| tls.files()));
    let mut seen = look(&files).await;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            () = hung_up(hang_up.as_mut()) => true,
            _ = tick.tick() => false,
        };
        let now = look(&files).await;
        if asked || now != seen {
            seen = now;
            read_again(&shared, tls.as_deref()).await;
        }
    }
}

async fn hung_up(signal: Option<&mut tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

async fn look(files: &[PathBuf]) -> Seen {
    let mut seen = Vec::with_capacity(files.len());
    for file in files {
        seen.push(stamp(file).await);
    }
    seen
}

async fn stamp(file: &Path) -> Option<(SystemTime, u64)> {
    let found = tokio::fs::metadata(file).await.ok()?;
    Some((found.modified().ok()?, found.len()))
}

async fn read_again(shared: &Arc<Shared>, tls: Option<&Tls>) {
    let access = {
        let access = shared.access.clone();
        tokio::task::spawn_blocking(move || access.reload()).await
    };
    let access = match access {
        Ok(Ok(())) => "read",
        Ok(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "who may connect was not read again: what was read before holds");
            "failed"
        }
        // The runtime is stopping.
        Err(_cancelled) => return,
    };
    let certificates = match tls.map(Tls::reload) {
        None => "none",
        Some(Ok(())) => "read",
        Some(Err(error)) => {
            tracing::error!(error = &error as &dyn std::error::Error, "certificates were not read again: what was read before holds");
            "failed"
        }
    };
    for (what, outcome) in [("access", access), ("certificates", certificates)] {
        metrics::counter!("fleetpulse_gateway_reloads_total", "what" => what, "outcome" => outcome).increment(1);
    }
    let evicted = shared.directory.evict_unless(|grant| shared.access.still_valid(grant));
    tracing::info!(access, certificates, evicted, "read again");
}
