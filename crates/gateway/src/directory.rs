//! Which session holds which device: at most one, the newest (MQTT-3.1.4-3).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use event::{DeviceId, Millis, SessionId};
use tokio_util::sync::CancellationToken;

/// The sessions of this node, by device. Bounded by the connections of the node.
#[derive(Default)]
pub(crate) struct Directory {
    holders: Mutex<HashMap<DeviceId, Holder>>,
}

struct Holder {
    session_id: SessionId,
    connected_at: Millis,
    taken_over: CancellationToken,
}

impl Directory {
    /// Enters a session; the one that held the device is told that it was taken over. Returns when the new session
    /// counts as connected: `at`, or just after the old one, so that of two sessions the newer is always the later.
    pub(crate) fn enter(
        &self,
        device_id: &DeviceId,
        session_id: SessionId,
        at: Millis,
        taken_over: CancellationToken,
    ) -> Millis {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let connected_at = match holders.get(device_id) {
            Some(old) => at.max(Millis(old.connected_at.0 + 1)),
            None => at,
        };
        let holder = Holder { session_id, connected_at, taken_over };
        if let Some(old) = holders.insert(device_id.clone(), holder) {
            old.taken_over.cancel();
        }
        connected_at
    }

    /// A session ended; a newer one of the same device stays.
    pub(crate) fn leave(&self, device_id: &DeviceId, session_id: SessionId) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if holders.get(device_id).is_some_and(|holder| holder.session_id == session_id) {
            holders.remove(device_id);
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
        let third = SessionId::generate();
        assert_eq!(directory.enter(&device, third, Millis(1), CancellationToken::new()), Millis(7));
        assert!(new_token.is_cancelled(), "the old session's end did not remove the new one");
    }
}
