//! Reading again what may change while the gateway runs: who may connect and what they may do, certificates and keys.
//!
//! On SIGHUP, and when one of the files changes. What stands is looked at again afterwards: a session whose credential is no longer
//! good ends, all others go on. A file that cannot be read leaves what was read before in force.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Shared;
use crate::edge::Tls;

/// How often certificates are looked at. Looking, not listening, also sees a file that is swapped by a link, as Kubernetes does.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// When each file was written last, and how large it is; a file that is not there is a change too.
type Seen = Vec<Option<(SystemTime, u64)>>;

/// Reads again until `stop`. Cancel safe.
pub(crate) async fn watch(shared: Arc<Shared>, tls: Option<Arc<Tls>>, stop: CancellationToken) {
    let (ask, asked) = watch::channel(0);
    let access = shared.access.clone().watch(
        asked,
        || {
            let evicted = shared.directory.evict_unless(|grant| shared.access.still_valid(grant));
            tracing::info!(evicted, "sessions whose credential is no longer good end");
        },
        stop.clone(),
    );
    tokio::join!(access, certificates(tls, ask, stop));
}

/// Reads certificates again, and asks for the same elsewhere on SIGHUP.
async fn certificates(tls: Option<Arc<Tls>>, ask: watch::Sender<u64>, stop: CancellationToken) {
    let mut hang_up = signal(SignalKind::hangup()).ok();
    let files = tls.as_ref().map(|tls| tls.files()).unwrap_or_default();
    let mut seen = look(&files).await;
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let hung_up = tokio::select! {
            () = stop.cancelled() => return,
            () = hung_up(hang_up.as_mut()) => true,
            _ = tick.tick() => false,
        };
        if hung_up {
            ask.send_modify(|count| *count += 1);
        }
        let now = look(&files).await;
        if hung_up || now != seen {
            seen = now;
            if let Some(tls) = tls.clone() {
                read_again(tls).await;
            }
        }
    }
}

async fn read_again(tls: Arc<Tls>) {
    let outcome = match tokio::task::spawn_blocking(move || tls.reload()).await {
        Ok(Ok(())) => "read",
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                error,
                "certificates could not all be read again: what was read before holds for them"
            );
            "failed"
        }
        // The runtime is stopping.
        Err(_cancelled) => return,
    };
    metrics::counter!("fleetpulse_gateway_reloads_total", "what" => "certificates", "outcome" => outcome)
        .increment(1);
    if outcome == "read" {
        tracing::info!("certificates read again");
    }
}

async fn hung_up(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

async fn look(files: &[PathBuf]) -> Seen {
    let mut seen = Vec::with_capacity(files.len());
    for file in files {
        let found = tokio::fs::metadata(file).await.ok();
        seen.push(found.and_then(|found| Some((found.modified().ok()?, found.len()))));
    }
    seen
}
