//! Presence events: a session was accepted, a session ended.

use std::time::Duration;

use broker::Expiry;
use bus::{Delivery, SendError, Stream};
use event::Millis;
use event::v1::{Connected, DisconnectReason, Disconnected, event::Kind};
use prost::Message;

use crate::end::End;
use crate::session::Session;
use crate::{Shared, now};

/// Between two attempts to store the end of a session.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// Sends the `Connected` event of a session. Waits for room in the window.
pub(crate) async fn connected(session: &Session, shared: &Shared) -> Result<Delivery, SendError> {
    let connected = Connected {
        peer: session.peer.to_string(),
        protocol_level: session.protocol_level.into(),
        clean_start: session.clean_start,
        keep_alive_s: session.keep_alive_s.into(),
        client_id: session.client_id.as_ref().to_owned(),
        tls_version: session.tls_version.to_owned(),
        transport: session.transport.to_owned(),
        fleet: session.grant.principal.fleet.as_deref().unwrap_or_default().to_owned(),
        session_expiry_s: seconds(session.expiry),
        session_present: session.session_present,
        presence_sequence: session.presence_sequence,
    };
    let at = session.connected_at;
    send(session, shared, at, &session.event(shared, at, Kind::Connected(connected)).encode_to_vec()).await
}

/// Stores the `Disconnected` event of a session: repeated until Kafka holds it, or until the process ends its
/// grace by dropping this. A repetition is the same event: its key in the table is the session.
pub(crate) async fn disconnected(session: &Session, shared: &Shared, end: &End) {
    let disconnected = Disconnected {
        connected_at_ms: session.connected_at.0,
        reason: end.reason.into(),
        detail: end.detail.clone(),
        presence_sequence: session.presence_sequence,
        client_code: end.client_code.into(),
    };
    let at = now().max(session.connected_at);
    let payload = session.event(shared, at, Kind::Disconnected(disconnected)).encode_to_vec();
    // Between two attempts its minute is not complete either.
    let _minute = shared.ledger.minute(at);
    loop {
        let failure: Box<dyn std::error::Error + Send + Sync> =
            match send(session, shared, at, &payload).await {
                Ok(delivery) => match delivery.await {
                    Ok(_) => return,
                    Err(error) => error.into(),
                },
                Err(error) => error.into(),
            };
        shared.meter.presence_repeated.increment(1);
        tracing::debug!(device_id = %session.device_id, session_id = %session.id, %failure, "end of session not stored, again");
        tokio::time::sleep(REPEAT_AFTER).await;
    }
}

fn seconds(expiry: Expiry) -> u32 {
    match expiry {
        Expiry::AtEnd => 0,
        Expiry::After(span) => u32::try_from(span.as_secs()).unwrap_or(u32::MAX),
        Expiry::Never => u32::MAX,
    }
}

async fn send(session: &Session, shared: &Shared, at: Millis, payload: &[u8]) -> Result<Delivery, SendError> {
    let key = session.device_id.as_str();
    // Held while it waits for room, too: its minute is not complete before it is reported.
    let witness = shared.ledger.other(at);
    let permit = shared.producer.window().clone().reserve(payload.len() + key.len()).await;
    shared.producer.send_witnessed(permit, Stream::Events, key, payload, witness)
}

/// Reasons whose end is nobody's fault are not worth a log line each.
pub(crate) fn is_ordinary(reason: DisconnectReason) -> bool {
    use DisconnectReason as R;
    matches!(
        reason,
        R::Client
            | R::ClientWithWill
            | R::ConnectionLost
            | R::ConnectionReset
            | R::KeepAliveTimeout
            | R::TakenOver
            | R::ServerShuttingDown
    )
}
