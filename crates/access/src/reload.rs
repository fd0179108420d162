//! Files that change while the gateway runs.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::Access;

/// What a file looked like; none where there is none. Symbolic links are followed: Kubernetes changes the link.
pub(crate) type Stamp = Option<(i64, i64, u64, u64)>;

pub(crate) fn stamps(paths: &[String]) -> Vec<Stamp> {
    let stamp = |path: &String| {
        let file = std::fs::metadata(path).ok()?;
        Some((file.mtime(), file.mtime_nsec(), file.len(), file.ino()))
    };
    paths.iter().map(stamp).collect()
}

impl Access {
    /// Reads the files anew at each tick and when one of them changed, until it is stopped. A file with mistakes leaves
    /// what stood, is logged and counted. `on_reload` is called after something new stands: sessions may then be asked
    /// about with [`Access::still_valid`].
    pub async fn watch(
        self,
        mut ticks: watch::Receiver<u64>,
        on_reload: impl Fn() + Send,
        stop: CancellationToken,
    ) {
        let mut poll = tokio::time::interval(Duration::from_millis(u64::from(self.poll_ms())));
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read = self.opened_as();
        let mut last = read.clone();
        let mut asked_for = true;
        loop {
            let asked = tokio::select! {
                () = stop.cancelled() => return,
                changed = ticks.changed(), if asked_for => {
                    // Nobody will ask any more: files are still looked at.
                    asked_for = changed.is_ok();
                    asked_for
                }
                _ = poll.tick() => false,
            };
            let looking = self.clone();
            // Ends by itself: it reads some files.
            let Ok(now) = tokio::task::spawn_blocking(move || looking.stamps_now()).await else { return };
            // What is being written changes from one look to the next.
            let settled = now == last;
            last.clone_from(&now);
            if !(asked || settled && now != read) {
                continue;
            }
            read = now;
            let reading = self.clone();
            let Ok(changed) = tokio::task::spawn_blocking(move || reading.read_again()).await else { return };
            if changed {
                on_reload();
            }
        }
    }
}
