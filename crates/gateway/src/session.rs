//! A session: who, since when, and what moved.

use std::net::SocketAddr;
use std::sync::Arc;

use access::Grant;
use broker::Expiry;
use event::v1::{Event, Traffic, event::Kind};
use event::{DeviceId, Millis, SessionId};

use crate::Shared;

/// One MQTT network connection of one client, from CONNECT accepted to its end.
pub(crate) struct Session {
    pub id: SessionId,
    /// What no two sessions of a node share.
    pub key: Arc<str>,
    /// The device; of a service, its client id.
    pub device_id: DeviceId,
    pub client_id: Arc<str>,
    pub grant: Arc<Grant>,
    pub peer: SocketAddr,
    pub transport: &'static str,
    /// Empty without TLS.
    pub tls_version: &'static str,
    pub protocol_level: u8,
    pub clean_start: bool,
    pub session_present: bool,
    pub expiry: Expiry,
    pub keep_alive_s: u16,
    pub connected_at: Millis,
    /// Orders the sessions of a device; see `Connected` in the schema of events.
    pub presence_sequence: u64,
    pub traffic: Traffic,
}

impl Session {
    /// An event of this session.
    pub(crate) fn event(&self, shared: &Shared, at: Millis, kind: Kind) -> Event {
        Event {
            device_id: self.device_id.as_str().to_owned(),
            received_at_ms: at.0,
            node_id: shared.node_id.0.as_ref().to_owned(),
            epoch: shared.epoch,
            session_id: self.id_bytes(),
            session_traffic: Some(self.traffic),
            kind: Some(kind),
        }
    }

    /// The session id as it stands in events.
    pub(crate) fn id_bytes(&self) -> bytes::Bytes {
        bytes::Bytes::copy_from_slice(self.id.0.as_bytes())
    }
}
