//! An MQTT server that answers each heartbeat as the test says.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rmqtt_codec::version::{ProtocolVersion, VersionCodec};
use rmqtt_codec::{MqttCodec, MqttPacket, v3, v5};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::codec::{Decoder, Encoder};

/// A PUBLISH as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Which connection of the responder, from 0.
    pub(crate) connection: usize,
    pub(crate) device_id: String,
    pub(crate) topic: String,
    pub(crate) dup: bool,
    pub(crate) packet_id: NonZeroU16,
    pub(crate) payload: Bytes,
}

impl Seen {
    pub(crate) fn seq(&self) -> u64 {
        let heartbeat: serde_json::Value = serde_json::from_slice(&self.payload).expect("JSON");
        heartbeat["seq"].as_u64().expect("seq")
    }
}

/// What the responder does about a PUBLISH.
pub(crate) enum Answer {
    /// PUBACK with this reason (zero in 3.1.1).
    Acknowledge(u8),
    /// Nothing.
    Hold,
    /// Closes the connection.
    Close,
    /// DISCONNECT with "server shutting down".
    Disconnect,
}

/// What the responder does about a CONNECT.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Welcome {
    Accept,
    /// Accepts, and says that it has kept the session.
    Resume,
    /// Refuses: server unavailable.
    Refuse,
    /// Never answers.
    Ignore,
}

#[derive(Default)]
struct State {
    seen: Mutex<Vec<Seen>>,
    acknowledged: Mutex<Vec<(String, u64)>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    pings: AtomicUsize,
}

/// Runs until dropped.
pub(crate) struct Responder {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

type Decide = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

impl Responder {
    pub(crate) async fn start(
        welcome: Welcome,
        decide: impl Fn(&Seen) -> Answer + Send + Sync + 'static,
    ) -> Responder {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, welcome, Arc::new(decide), state.clone()));
        Responder { address, state, _tasks: tasks }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("not poisoned").clone()
    }

    pub(crate) fn seen_count(&self) -> usize {
        self.state.seen.lock().expect("not poisoned").len()
    }

    /// What was answered with a PUBACK below 0x80, by device and `seq`.
    pub(crate) fn acknowledged(&self) -> Vec<(String, u64)> {
        let mut acknowledged = self.state.acknowledged.lock().expect("not poisoned").clone();
        acknowledged.sort();
        acknowledged.dedup();
        acknowledged
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.state.open.load(SeqCst)
    }

    pub(crate) fn pings(&self) -> usize {
        self.state.pings.load(SeqCst)
    }
}

/// Polls until `condition` holds.
///
/// Panics if it does not within 20 s.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn accept(listener: TcpListener, welcome: Welcome, decide: Decide, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (decide, state) = (decide.clone(), state.clone());
        connections.spawn(async move {
            let number = state.connections.fetch_add(1, SeqCst);
            state.open.fetch_add(1, SeqCst);
            // A connection that fails is one that ended.
            let _ended = serve(stream, number, welcome, decide, &state).await;
            state.open.fetch_sub(1, SeqCst);
        });
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    welcome: Welcome,
    decide: Decide,
    state: &State,
) -> std::io::Result<()> {
    let mut inbound = BytesMut::new();
    let mut codec: Option<MqttCodec> = None;
    let mut device_id = String::new();
    loop {
        if stream.read_buf(&mut inbound).await? == 0 {
            return Ok(());
        }
        if codec.is_none() {
            codec = VersionCodec.decode(&mut inbound).expect("CONNECT").map(|version| match version {
                ProtocolVersion::MQTT3 => MqttCodec::V3(v3::Codec::new(0)),
                ProtocolVersion::MQTT5 => MqttCodec::V5(v5::Codec::new(0, 0)),
            });
        }
        let Some(codec) = &mut codec else { continue };
        while let Some((packet, _)) = codec.decode(&mut inbound).expect("a well-formed packet") {
            let v5 = matches!(packet, MqttPacket::V5(_));
            let publish = match packet {
                MqttPacket::V3(v3::Packet::Connect(connect)) => {
                    device_id = connect.client_id.to_string();
                    None
                }
                MqttPacket::V5(v5::Packet::Connect(connect)) => {
                    device_id = connect.client_id.to_string();
                    None
                }
                MqttPacket::V3(v3::Packet::Publish(publish))
                | MqttPacket::V5(v5::Packet::Publish(publish)) => Some(publish),
                MqttPacket::V3(v3::Packet::PingRequest) | MqttPacket::V5(v5::Packet::PingRequest) => {
                    state.pings.fetch_add(1, SeqCst);
                    stream.write_all(&[0xD0, 0]).await?;
                    continue;
                }
                MqttPacket::V3(v3::Packet::Disconnect) | MqttPacket::V5(v5::Packet::Disconnect(_)) => {
                    return Ok(());
                }
                other => panic!("a device that only publishes sent {other:?}"),
            };
            let Some(publish) = publish else {
                match welcome {
                    Welcome::Ignore => continue,
                    Welcome::Accept => send(&mut stream, codec, connack(v5, false, false)).await?,
                    Welcome::Resume => send(&mut stream, codec, connack(v5, true, false)).await?,
                    Welcome::Refuse => {
                        send(&mut stream, codec, connack(v5, false, true)).await?;
                        return Ok(());
                    }
                }
                continue;
            };
            let seen = Seen {
                connection,
                device_id: device_id.clone(),
                topic: publish.topic.to_string(),
                dup: publish.dup,
                packet_id: publish.packet_id.expect("QoS 1"),
                payload: publish.payload,
            };
            state.seen.lock().expect("not poisoned").push(seen.clone());
            match decide(&seen) {
                Answer::Acknowledge(reason) => {
                    if reason < 0x80 {
                        let identity = (device_id.clone(), seen.seq());
                        state.acknowledged.lock().expect("not poisoned").push(identity);
                    }
                    send(&mut stream, codec, puback(v5, seen.packet_id, reason)).await?;
                }
                Answer::Hold => {}
                Answer::Close => return Ok(()),
                Answer::Disconnect => {
                    let reason = v5::DisconnectReasonCode::ServerShuttingDown;
                    let packet = MqttPacket::V5(v5::Packet::Disconnect(v5::Disconnect::new(reason)));
                    return send(&mut stream, codec, packet).await;
                }
            }
        }
    }
}

fn connack(v5: bool, session_present: bool, refuse: bool) -> MqttPacket {
    if v5 {
        let reason_code =
            if refuse { v5::ConnectAckReason::ServerUnavailable } else { v5::ConnectAckReason::Success };
        MqttPacket::V5(v5::ConnectAck { session_present, reason_code, ..v5::ConnectAck::default() }.into())
    } else {
        let return_code = if refuse {
            v3::ConnectAckReason::ServiceUnavailable
        } else {
            v3::ConnectAckReason::ConnectionAccepted
        };
        MqttPacket::V3(v3::Packet::ConnectAck(v3::ConnectAck { return_code, session_present }))
    }
}

fn puback(v5: bool, packet_id: NonZeroU16, reason: u8) -> MqttPacket {
    if v5 {
        let reason_code = reason.try_into().expect("a PUBACK reason code");
        MqttPacket::V5(v5::PublishAck { packet_id, reason_code, ..v5::PublishAck::default() }.into())
    } else {
        MqttPacket::V3(v3::Packet::PublishAck { packet_id })
    }
}

async fn send(stream: &mut TcpStream, codec: &mut MqttCodec, packet: MqttPacket) -> std::io::Result<()> {
    let mut outbound = BytesMut::new();
    codec.encode(packet, &mut outbound).expect("encodes");
    stream.write_all(&outbound).await
}
