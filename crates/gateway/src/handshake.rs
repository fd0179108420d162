//! From an accepted stream to a session: CONNECT in, CONNACK out.

use std::sync::Arc;
use std::time::Duration;

use access::{Action, Credentials, Denied, Kind};
use broker::{Attach, AttachError, Detach, Expiry, Link, Message, Will, WillFate};
use bytes::Bytes;
use event::v1::Traffic;
use event::{DeviceId, InvalidDeviceId, Millis, SessionId};
use mqtt::{ConnackProperties, Connect, DecodeError, Version, reason};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::directory::Holder;
use crate::edge::Peer;
use crate::end::Evict;
use crate::inbox::Inbox;
use crate::session::Session;
use crate::{Shared, now_us};

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the client closed before its CONNECT")]
    Closed,
    #[error("the gateway is stopping")]
    Stopping,
    #[error("no CONNECT in time")]
    Timeout,
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    #[error("enhanced authentication is not offered, the client asked for {0:?}")]
    AuthenticationMethod(String),
    #[error("the client id is not accepted")]
    ClientId(#[from] InvalidDeviceId),
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the will's topic {0:?} is not this client's to publish on")]
    Will(String),
    #[error(transparent)]
    Sessions(#[from] AttachError),
    #[error("the client takes packets of {0} bytes, CONNACK has more")]
    ClientPacketMax(u32),
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
}

impl HandshakeError {
    /// Short name, as in metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Stopping => "stopping",
            Self::Timeout => "connect_timeout",
            Self::Undecodable(error) => error.name(),
            Self::AuthenticationMethod(_) => "authentication_method",
            Self::ClientId(_) => "client_id",
            Self::Denied(denied) => denied.reason(),
            Self::Will(_) => "will_not_authorized",
            Self::Sessions(_) => "sessions_max",
            Self::ClientPacketMax(_) => "client_packet_max",
            Self::Io(_) => "io",
        }
    }

    /// What CONNACK says; `None` where the connection is closed without a word.
    fn connack(&self, version: Version) -> Option<u8> {
        let (v5, v3) = match self {
            Self::Closed | Self::Timeout | Self::ClientPacketMax(_) | Self::Io(_) => return None,
            Self::Stopping => (reason::SERVER_UNAVAILABLE, reason::v3::SERVER_UNAVAILABLE),
            Self::Undecodable(DecodeError::NotConnect) => return None,
            Self::Undecodable(error) if version.is_v5() => return Some(error.reason_code()),
            Self::Undecodable(error) => return error.connack_v3(),
            Self::AuthenticationMethod(_) => (reason::BAD_AUTHENTICATION_METHOD, reason::v3::NOT_AUTHORIZED),
            Self::ClientId(_) => (reason::CLIENT_IDENTIFIER_NOT_VALID, reason::v3::IDENTIFIER_REJECTED),
            Self::Denied(denied) => match denied {
                Denied::ClientIdMismatch | Denied::Name(_) => {
                    (reason::CLIENT_IDENTIFIER_NOT_VALID, reason::v3::IDENTIFIER_REJECTED)
                }
                Denied::Busy => (reason::SERVER_BUSY, reason::v3::SERVER_UNAVAILABLE),
                Denied::Unavailable => (reason::SERVER_UNAVAILABLE, reason::v3::SERVER_UNAVAILABLE),
                denied if denied.is_credentials() => {
                    (reason::BAD_USER_NAME_OR_PASSWORD, reason::v3::BAD_USER_NAME_OR_PASSWORD)
                }
                _ => (reason::NOT_AUTHORIZED, reason::v3::NOT_AUTHORIZED),
            },
            Self::Will(_) => (reason::NOT_AUTHORIZED, reason::v3::NOT_AUTHORIZED),
            Self::Sessions(_) => (reason::QUOTA_EXCEEDED, reason::v3::SERVER_UNAVAILABLE),
        };
        Some(if version.is_v5() { v5 } else { v3 })
    }
}

/// What holds for a connection, as CONNECT and CONNACK settled it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Publishes to the client at once.
    pub receive_max: u16,
    /// Largest packet to the client.
    pub packet_bytes_max: Option<u32>,
    /// Topic aliases to the client.
    pub topic_alias_max: u16,
    /// How long the session outlives the connection.
    pub session_expiry: Expiry,
    /// Whether the client wants reason strings.
    pub problem_information: bool,
}

/// A session, with the CONNACK in its outbox.
pub(crate) struct Accepted {
    pub session: Session,
    pub version: Version,
    pub inbox: Inbox,
    pub outbox: Vec<u8>,
    pub link: Option<Link>,
    pub limits: Limits,
}

/// Reads CONNECT within its time and decides about it. A refusal is written here; the CONNACK of a session is in its
/// outbox. Not cancel safe: a dropped handshake is over.
pub(crate) async fn greet<S>(
    stream: &mut S,
    peer: &Peer,
    shared: &Shared,
    evict: &Evict,
    stop: &CancellationToken,
) -> Result<Accepted, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let within = Duration::from_millis(shared.config.connect_timeout_ms.into());
    let mut inbox = Inbox::default();
    let read = tokio::time::timeout(within, read_connect(stream, &mut inbox, shared.config.packet_bytes_max));
    let length = tokio::select! {
        () = stop.cancelled() => return Err(HandshakeError::Stopping),
        read = read => read.unwrap_or(Err(HandshakeError::Timeout)),
    };
    let bytes = inbox.take_kept();
    // What came before it was clear that it is no CONNECT is judged like a CONNECT: by its first bytes.
    let decided = match length {
        Ok(length) => decide(&bytes[..length], peer, shared, evict).await.map(|accepted| (accepted, length)),
        Err(error) => Err((error, Version::V311)),
    };
    match decided {
        Ok((mut accepted, length)) => {
            inbox.restore_kept(bytes, length);
            accepted.inbox = inbox;
            Ok(accepted)
        }
        Err((error, version)) => {
            if let HandshakeError::Denied(denied) = &error
                && denied.is_credentials()
            {
                shared.bans.failed(peer.address.ip());
            }
            if let Some(code) = error.connack(version) {
                let mut outbox = Vec::new();
                mqtt::encode::connack(version, false, code, &ConnackProperties::default(), &mut outbox);
                let within = Duration::from_millis(shared.config.write_timeout_ms.into());
                let told = async {
                    stream.write_all(&outbox).await?;
                    stream.shutdown().await
                };
                // Best effort: the client may be gone.
                let _unheard = tokio::time::timeout(within, told).await;
            }
            Err(error)
        }
    }
}

/// Reads until the first packet is whole; its length.
async fn read_connect<S>(
    stream: &mut S,
    inbox: &mut Inbox,
    packet_bytes_max: u32,
) -> Result<usize, HandshakeError>
where
    S: AsyncRead + Unpin,
{
    loop {
        if inbox.read_from(stream).await? == 0 {
            return Err(HandshakeError::Closed);
        }
        mqtt::begins_with_connect(inbox.bytes())?;
        if let Some(frame) = mqtt::frame(inbox.bytes(), packet_bytes_max)? {
            return Ok(frame.len);
        }
    }
}

/// Decides about a CONNECT, and enters the session. The error comes with the version that it is told in.
async fn decide(
    packet: &[u8],
    peer: &Peer,
    shared: &Shared,
    evict: &Evict,
) -> Result<Accepted, (HandshakeError, Version)> {
    let whole = mqtt::frame(packet, shared.config.packet_bytes_max).map_err(|e| (e.into(), Version::V311))?;
    let Some(frame) = whole else {
        return Err((HandshakeError::Closed, Version::V311));
    };
    let connect = mqtt::connect(&frame).map_err(|refused| (refused.error.into(), refused.version))?;
    let version = connect.version;
    enter(&connect, packet.len(), peer, shared, evict).await.map_err(|error| (error, version))
}

async fn enter(
    connect: &Connect<'_>,
    bytes: usize,
    peer: &Peer,
    shared: &Shared,
    evict: &Evict,
) -> Result<Accepted, HandshakeError> {
    if let Some(method) = connect.authentication_method {
        return Err(HandshakeError::AuthenticationMethod(method.chars().take(64).collect()));
    }
    let credentials = Credentials {
        client_id: connect.client_id,
        username: connect.username,
        password: connect.password,
        certificate: peer.certificate(),
        peer: peer.address.ip(),
    };
    let grant = Arc::new(shared.access.authenticate(credentials).await?);
    // [MQTT-3.1.3-6]: a client without an id is given one; a device has its own.
    let assigned = connect.client_id.is_empty().then(|| match grant.principal.kind {
        Kind::Device => grant.principal.name.to_string(),
        Kind::Service => format!("{}-{}", grant.principal.name, SessionId::generate()),
    });
    let client_id = assigned.as_deref().unwrap_or(connect.client_id);
    let device_id = match grant.principal.kind {
        Kind::Device => DeviceId::new(&grant.principal.name)?,
        Kind::Service => DeviceId::new(client_id)?,
    };
    if let Some(will) = &connect.will
        && !shared.access.allows(&grant.principal, Action::Publish, will.topic)
    {
        return Err(HandshakeError::Will(will.topic.chars().take(120).collect()));
    }

    let key: Arc<str> = match grant.principal.kind {
        Kind::Device => device_id.as_str().into(),
        // A device id has no slash, so that no service stands in a device's way.
        Kind::Service => format!("{}/{client_id}", grant.principal.name).into(),
    };
    let id = SessionId::generate();
    let holder = Holder { session_id: id, evict: evict.clone(), grant: grant.clone() };
    let presence_sequence = shared.directory.enter(&key, now_us(), holder);
    let limits = limits(connect, shared);
    let attached = attach(connect, &key, &limits, shared);
    let (link, session_present) = match attached {
        Ok(attached) => attached,
        Err(error) => {
            shared.directory.leave(&key, id);
            return Err(error.into());
        }
    };

    let keep_alive = KeepAliveInForce::of(connect, shared.config.keep_alive_max_s);
    let mut outbox = Vec::new();
    let properties = ConnackProperties {
        session_expiry_s: told_expiry(connect, limits.session_expiry),
        receive_max: Some(shared.config.in_flight_per_connection_max),
        packet_bytes_max: Some(shared.config.packet_bytes_max),
        topic_alias_max: shared.config.topic_alias_max,
        assigned_client_id: assigned.as_deref(),
        server_keep_alive_s: keep_alive.told,
        ..ConnackProperties::default()
    };
    mqtt::encode::connack(connect.version, session_present, reason::SUCCESS, &properties, &mut outbox);
    if let Some(max) = connect.packet_bytes_max.filter(|max| outbox.len() > *max as usize) {
        // It must not be sent [MQTT-3.1.2-24], and without it the client knows nothing.
        shared.directory.leave(&key, id);
        if let Some(link) = link {
            // There was no connection, so nobody was lost.
            link.detach(Detach { will: WillFate::Discard, expiry: limits.session_expiry });
        }
        return Err(HandshakeError::ClientPacketMax(max));
    }
    let session = Session {
        id,
        device_id,
        // Of a device the two are mostly one.
        client_id: if client_id == &*key { key.clone() } else { client_id.into() },
        key,
        peer: peer.address,
        transport: peer.transport.name(),
        tls_version: peer.tls_version(),
        protocol_level: connect.version.level(),
        clean_start: connect.clean_start,
        session_present,
        expiry: limits.session_expiry,
        keep_alive_s: keep_alive.seconds,
        connected_at: Millis(i64::try_from(presence_sequence / 1_000).unwrap_or(i64::MAX)),
        presence_sequence,
        grant,
        traffic: Traffic { bytes_in: bytes as u64, ..Traffic::default() },
    };
    Ok(Accepted { session, version: connect.version, inbox: Inbox::default(), outbox, link, limits })
}

fn limits(connect: &Connect<'_>, shared: &Shared) -> Limits {
    let session_expiry = match (connect.version.is_v5(), connect.clean_start) {
        (true, _) => shared.session_expiry(connect.session_expiry_s.unwrap_or(0)),
        // MQTT 3 knows sessions that last for ever; here they last as long as any may.
        (false, true) => Expiry::AtEnd,
        (false, false) => shared.session_expiry(u32::MAX),
    };
    Limits {
        receive_max: connect.receive_max,
        packet_bytes_max: connect.packet_bytes_max,
        topic_alias_max: connect.topic_alias_max,
        session_expiry,
        problem_information: connect.request_problem_information,
    }
}

/// Takes up the client's kept session, or begins one that will be kept, or that has a will. A client that wants none
/// of it, as a device that only publishes, costs nothing here.
fn attach(
    connect: &Connect<'_>,
    key: &str,
    limits: &Limits,
    shared: &Shared,
) -> Result<(Option<Link>, bool), AttachError> {
    let needs_link = limits.session_expiry != Expiry::AtEnd || connect.will.is_some() || !connect.clean_start;
    if !needs_link {
        if !shared.broker.is_empty() {
            shared.broker.forget(key);
        }
        return Ok((None, false));
    }
    let will = connect.will.as_ref().map(|will| Will {
        message: Message {
            topic: will.topic.into(),
            payload: Bytes::copy_from_slice(will.payload),
            qos: will.qos,
            retain: will.retain,
            properties: will.properties.to_bytes(),
            // It lives from its publication on, not from CONNECT.
            expires_at: None,
            tag: None,
        },
        delay: Duration::from_secs(will.delay_s.into()),
        expiry: will.message_expiry_s.map(|seconds| Duration::from_secs(seconds.into())),
    });
    let attach = Attach {
        clean_start: connect.clean_start,
        expiry: limits.session_expiry,
        will,
        receive_max: limits.receive_max,
    };
    let (link, present) = shared.broker.attach(key, attach)?;
    Ok((Some(link), present))
}

/// What CONNACK says about the expiry: only where it is not what was asked for. [MQTT-3.2.2-21]
fn told_expiry(connect: &Connect<'_>, expiry: Expiry) -> Option<u32> {
    let asked = connect.session_expiry_s.unwrap_or(0);
    let given = match expiry {
        Expiry::AtEnd => 0,
        Expiry::After(span) => u32::try_from(span.as_secs()).unwrap_or(u32::MAX),
        Expiry::Never => u32::MAX,
    };
    (connect.version.is_v5() && given != asked).then_some(given)
}

struct KeepAliveInForce {
    seconds: u16,
    /// What CONNACK says, where it is not what the client asked for. [MQTT-3.2.2-21]
    told: Option<u16>,
}

impl KeepAliveInForce {
    fn of(connect: &Connect<'_>, max_s: u16) -> Self {
        let asked = connect.keep_alive_s;
        if connect.version.is_v5() && (asked == 0 || asked > max_s) {
            return Self { seconds: max_s, told: Some(max_s) };
        }
        // MQTT 3 cannot be told another one, so the client's holds; the operating system finds a peer that is gone.
        Self { seconds: asked, told: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_word_of_its_own() {
        let errors = [
            HandshakeError::Closed,
            HandshakeError::Stopping,
            HandshakeError::Timeout,
            HandshakeError::AuthenticationMethod("x".into()),
            HandshakeError::Will("x".into()),
        ];
        let mut names: Vec<_> = errors.iter().map(HandshakeError::reason).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), errors.len());
        assert_eq!(errors[0].connack(Version::V5), None);
    }
}
