//! The events of a fleet: the generated protobuf types, and the ids and keys around them.
//!
//! Pure: no I/O, no clock (a time is an argument). The schema is `proto/fleetpulse/events/v1/events.proto`;
//! its comments are the reference for every field.

mod id;
mod record;
mod wire;

pub use id::{DeviceId, InvalidDeviceId, NodeId, SessionId};
pub use record::{SessionPrefix, encode_heartbeat};
pub use wire::{PlainMessage, Written};

/// The generated types of `fleetpulse.events.v1`.
#[expect(missing_docs, reason = "generated; documented in the schema")]
#[expect(
    clippy::large_enum_variant,
    reason = "events come one at a time: a box for each heartbeat would cost more"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/fleetpulse.events.v1.rs"));
}

/// Milliseconds since 1970-01-01 UTC: what every time in an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

/// The node in whose name heartbeats of dead letters are sent again: no gateway may be called so, as none has counted them.
pub const REPLAY_NODE_ID: &str = "replay";

/// Short name of a reason, as in metrics and columns: `keep_alive_timeout`.
pub fn disconnect_reason_name(reason: v1::DisconnectReason) -> &'static str {
    use v1::DisconnectReason as R;
    match reason {
        R::Unspecified => "unspecified",
        R::Client => "client",
        R::KeepAliveTimeout => "keep_alive_timeout",
        R::ConnectionLost => "connection_lost",
        R::TakenOver => "taken_over",
        R::ProtocolError => "protocol_error",
        R::NotAuthorized => "not_authorized",
        R::PacketTooLarge => "packet_too_large",
        R::StoreUnavailable => "store_unavailable",
        R::ServerShuttingDown => "server_shutting_down",
        R::WriteTimeout => "write_timeout",
        R::NotSupported => "not_supported",
        R::ClientWithWill => "client_with_will",
        R::ConnectionReset => "connection_reset",
        R::CredentialsExpired => "credentials_expired",
        R::CredentialsRevoked => "credentials_revoked",
        R::Quota => "quota",
        R::ServerError => "server_error",
        R::GatewayLost => "gateway_lost",
    }
}

/// Short name of a step of a command, as in columns: `delivered`.
pub fn command_step_name(step: v1::CommandStep) -> &'static str {
    use v1::CommandStep as S;
    match step {
        S::Unspecified => "unspecified",
        S::Issued => "issued",
        S::Sent => "sent",
        S::Delivered => "delivered",
        S::Refused => "refused",
        S::Expired => "expired",
    }
}

/// Short name of a reason, as in metrics and columns: `wrong_type`.
pub fn reject_reason_name(reason: v1::RejectReason) -> &'static str {
    use v1::RejectReason as R;
    match reason {
        R::Unspecified => "unspecified",
        R::NotJson => "not_json",
        R::NotAnObject => "not_an_object",
        R::WrongType => "wrong_type",
        R::OutOfRange => "out_of_range",
        R::TooLarge => "too_large",
        R::NotAnEvent => "not_an_event",
    }
}
