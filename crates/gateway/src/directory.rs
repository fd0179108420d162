//! Which session holds which device: at most one, the newest (MQTT-3.1.4-3).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use event::{DeviceId, Millis, SessionId};
use tokio_util::sync::CancellationToken;

/// The sessions of this node, by device. Bounded by the connections of the node.
#[derive(Default)]
pub(crate) struct Directory {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    holders: HashMap<DeviceId, Holder>,
    /// When the latest session of all was entered: the node's clock may be set back, the order of sessions may not.
    latest: Option<Millis>,
}

struct Holder {
    session_id: SessionId,
    taken_over: CancellationToken,
}

impl Directory {
    /// Enters a session; the one that held the device is told that it was taken over. Returns when the new session
    /// counts as connected: `at`, or just after the latest one of this node, so that of two sessions of a device the
    /// newer is always the later.
    pub(crate) fn enter(
        &self,
        device_id: &DeviceId,
        session_id: SessionId,
        at: Millis,
        taken_over: CancellationToken,
    ) -> Millis {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let connected_at = entries.latest.map_or(at, |latest| at.max(Millis(latest.0 + 1)));
        entries.latest = Some(connected_at);
        if let Some(old) = entries.holders.insert(device_id.clone(), Holder { session_id, taken_over }) {
            old.taken_over.cancel();
        }
        connected_at
    }

    /// A session ended; a newer one of the same device stays.
    pub(crate) fn leave(&self, device_id: &DeviceId, session_id: SessionId) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.holders.get(device_id).is_some_and(|holder| holder.session_id == session_id) {
            entries.holders.remove(device_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_session_holds_the_device_and_is_the_latest() {
        let directory = Directory::default();
        let device = DeviceId::new("a").expect("a device id");
        let (old, new) = (SessionId::generate(), SessionId::generate());
        let (old_token, new_token) = (CancellationToken::new(), CancellationToken::new());
        assert_eq!(directory.enter(&device, old, Millis(5), old_token.clone()), Millis(5));
        assert_eq!(directory.enter(&device, new, Millis(5), new_token.clone()), Millis(6));
        assert!(old_token.is_cancelled() && !new_token.is_cancelled());

        directory.leave(&device, old);
        directory.leave(&DeviceId::new("b").expect("a device id"), new);
        let third = SessionId::generate();
        assert_eq!(directory.enter(&device, third, Millis(1), CancellationToken::new()), Millis(7));
        assert!(new_token.is_cancelled(), "the old session's end did not remove the new one");
    }
}
