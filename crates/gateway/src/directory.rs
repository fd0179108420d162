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
    /// The gateway stops: who enters now is told at once.
    stopping: bool,
}

/// A session that stands.
pub(crate) struct Holder {
    pub session_id: SessionId,
    pub evict: Evict,
    pub grant: Arc<Grant>,
}

impl Directory {
    /// Enters a session; the one that held the key is told that it was taken over. Returns the session's place in the
    /// order of all sessions of this node, in microseconds: the clock's, or one after the latest, so that of two sessions
    /// of a device the newer always has the larger one.
    pub(crate) fn enter(&self, key: &Arc<str>, clock_us: u64, holder: Holder) -> u64 {
        let mut entries = self.lock();
        entries.latest_us = clock_us.max(entries.latest_us + 1);
        if entries.stopping {
            holder.evict.evict(Eviction::ShuttingDown);
        }
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

    /// Ends every session, and whoever enters from now on, as the gateway stops.
    pub(crate) fn stop(&self) {
        let mut entries = self.lock();
        entries.stopping = true;
        for holder in entries.holders.values() {
            holder.evict.evict(Eviction::ShuttingDown);
        }
    }

    /// Ends every session whose credential is no longer good. Returns how many.
    pub(crate) fn evict_unless(&self, still_valid: impl Fn(&Grant) -> bool) -> usize {
        // Asked outside of the lock: there may be many, and connections come and go meanwhile.
        let standing: Vec<(Evict, Arc<Grant>)> =
            self.lock().holders.values().map(|holder| (holder.evict.clone(), holder.grant.clone())).collect();
        let gone = standing.into_iter().filter(|(_, grant)| !still_valid(grant));
        gone.map(|(evict, _)| evict.evict(Eviction::Revoked)).count()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use access::{Access, Credentials, Source};

    use super::*;

    async fn holder() -> Holder {
        let config = access::Config { chain: vec![Source::Anonymous], ..access::Config::default() };
        let access = Access::open(config).expect("no files");
        let credentials = Credentials {
            client_id: "a",
            username: None,
            password: None,
            certificate: None,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let grant = access.authenticate(credentials).await.expect("everybody comes in");
        Holder { session_id: SessionId::generate(), evict: Evict::default(), grant: Arc::new(grant) }
    }

    #[tokio::test]
    async fn the_newest_session_holds_the_key_and_is_the_latest() {
        let (directory, key) = (Directory::default(), Arc::from("a"));
        let (first, second, third) = (holder().await, holder().await, holder().await);
        let (first_evict, second_evict, first_id) =
            (first.evict.clone(), second.evict.clone(), first.session_id);
        assert_eq!(directory.enter(&key, 5, first), 5);
        assert_eq!(directory.enter(&key, 5, second), 6, "later, whatever the clock says");
        first_evict.evicted().await;
        assert_eq!(first_evict.why(), Eviction::TakenOver);
        directory.leave(&key, first_id);
        assert_eq!(directory.enter(&key, 1, third), 7);
        assert_eq!(
            second_evict.why(),
            Eviction::TakenOver,
            "the old session's end did not remove the new one"
        );
    }

    #[tokio::test]
    async fn sessions_end_whose_credential_is_no_longer_good() {
        let directory = Directory::default();
        let holder = holder().await;
        let evict = holder.evict.clone();
        directory.enter(&Arc::from("a"), 1, holder);
        assert_eq!(directory.evict_unless(|_| true), 0);
        assert_eq!(directory.evict_unless(|_| false), 1);
        evict.evicted().await;
        assert_eq!(evict.why(), Eviction::Revoked);
    }

    #[tokio::test]
    async fn a_gateway_that_stops_ends_who_stands_and_who_enters_after() {
        let directory = Directory::default();
        let (before, after) = (holder().await, holder().await);
        let evicts = [before.evict.clone(), after.evict.clone()];
        directory.enter(&Arc::from("a"), 1, before);
        directory.stop();
        directory.enter(&Arc::from("b"), 2, after);
        for evict in evicts {
            evict.evicted().await;
            assert_eq!(evict.why(), Eviction::ShuttingDown);
        }
    }
}
