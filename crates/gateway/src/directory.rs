//! Which session holds which key: at most one, the newest [MQTT-3.1.4-3]. A device's key is its id; a service's is its
//! name and client id, so that a back end may hold several sessions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use access::Grant;
use event::SessionId;

use crate::end::{Evict, Eviction};

/// The sessions of this node, by key. Bounded by the connections of the node.
#[derive(Default)]
pub(crate) struct Directory {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    holders: HashMap<Arc<str>, Holder>,
    /// When the latest session of all was entered, microseconds: the node's clock may be set back, the order of sessions
    /// may not.
    latest_us: u64,
}

/// A session that stands.
pub(crate) struct Holder {
    pub session_id: SessionId,
    pub evict: Evict,
    pub grant: Grant,
}

impl Directory {
    /// Enters a session; the one that held the key is told that it was taken over. Returns the session's place in the
    /// order of all sessions of this node, in microseconds: the clock's, or one after the latest, so that of two sessions
    /// of a device the newer always has the larger one.
    pub(crate) fn enter(&self, key: &Arc<str>, clock_us: u64, holder: Holder) -> u64 {
        let mut entries = self.lock();
        entries.latest_us = clock_us.max(entries.latest_us + 1);
        if let Some(old) = entries.holders.insert(key.clone(), holder) {
            old.evict.evict(Eviction::TakenOver);
        }
        entries.latest_us
    }

    /// A session ended; a newer one of the same key stays.
    pub(crate) fn leave(&self, key: &str, session_id: SessionId) {
        let mut entries = self.lock();
        if entries.holders.get(key).is_some_and(|holder| holder.session_id == session_id) {
            entries.holders.remove(key);
        }
    }

    /// Whether the device is connected here.
    pub(crate) fn holds(&self, key: &str) -> bool {
        self.lock().holders.contains_key(key)
    }

    /// Ends every session whose credential is no longer good. Returns how many.
    pub(crate) fn evict_unless(&self, still_valid: impl Fn(&Grant) -> bool) -> usize {
        // Asked outside of the lock: there may be many, and connections come and go meanwhile.
        let standing: Vec<(Evict, Grant)> =
            self.lock().holders.values().map(|holder| (holder.evict.clone(), holder.grant.clone())).collect();
        let gone = standing.into_iter().filter(|(_, grant)| !still_valid(grant));
        gone.map(|(evict, _)| evict.evict(Eviction::Revoked)).count()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
