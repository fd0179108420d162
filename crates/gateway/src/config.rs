//! Settings of section `gateway`.

use std::net::{Ipv4Addr, SocketAddr};

use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

/// How a gateway serves. Section `gateway`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where MQTT is spoken. Default `127.0.0.1:1883`.
    pub mqtt_listen: SocketAddr,
    /// Where metrics and health are served. Default `127.0.0.1:9464`.
    pub operations_listen: SocketAddr,
    /// Name of this node: stable over restarts, unique in the installation. Default `gateway-1`.
    pub node_id: String,
    /// Most connections at once. Default 15,000: below the usual 20,000 open files. Range 1 to 1,000,000.
    pub connections_max: u32,
    /// How long a client may take to send CONNECT, milliseconds. Default 10,000: two round trips of the slowest
    /// radio. Range 100 to 120,000.
    pub connect_timeout_ms: u32,
    /// Largest MQTT packet, bytes. Default 65,536: a heartbeat has some hundred bytes, a drained buffer some
    /// thousand. Range 1,024 to 900,000: Kafka takes records up to a million.
    pub packet_bytes_max: u32,
    /// Most publishes of one connection that wait for Kafka; the MQTT 5 Receive Maximum. Default 64: enough to
    /// drain a buffer over a slow link, too few for one device to crowd out others. Range 1 to 65,535.
    pub in_flight_per_connection_max: u16,
    /// Most bytes of one connection that wait for Kafka. Default 1,048,576 (1 MiB): a full drain of packets of the
    /// usual size, and no more than a few of the largest. Range 1 KiB to 1 GiB.
    pub in_flight_bytes_per_connection_max: u32,
    /// Publishes a second that one connection may send for long; a faster one is slowed, not cut off. Default 1,000: a
    /// device that drains a day's buffer is done within seconds. Range 1 to 1,000,000.
    pub publish_rate_max: u32,
    /// Publishes that one connection may send at once before `publish_rate_max` holds. Default 5,000. Range 1 to
    /// 1,000,000.
    pub publish_burst_max: u32,
    /// Bytes a second that one connection may publish for long. Default 1,048,576 (1 MiB). Range 1 KiB to 1 GiB.
    pub publish_bytes_rate_max: u32,
    /// Bytes that one connection may publish at once before `publish_bytes_rate_max` holds. Default 4,194,304 (4 MiB).
    /// Range 1 KiB to 1 GiB.
    pub publish_bytes_burst_max: u32,
    /// Longest keep alive, seconds: an MQTT 5 client that asks for a longer one or none is given this one. Default
    /// 3,600: a device without a sign of life for an hour and a half is gone. Range 1 to 65,535.
    pub keep_alive_max_s: u16,
    /// Topic aliases that an MQTT 5 client may use. Default 16: a device has few topics. Range 0 to 1,000.
    pub topic_alias_max: u16,
    /// How long a client may take to accept our bytes, milliseconds. Default 10,000. Range 100 to 120,000.
    pub write_timeout_ms: u32,
    /// How long a worker thread that has nothing to do lets events gather before it looks for more, microseconds. Default
    /// 2,000: a PUBACK takes some 1 ms longer, and a heartbeat costs a tenth less CPU, as a thread goes to sleep for several
    /// heartbeats and not for each. A busy thread does not gather. Range 0 (not at all) to 20,000.
    pub gather_us: u32,
    /// How long a stopping gateway waits for what is in flight, milliseconds. Default 10,000: a third of the grace
    /// that orchestrators give. Range 100 to 600,000.
    pub shutdown_grace_ms: u32,
    /// How often the node tells that it lives, milliseconds; three times as long without a word, and its sessions count as
    /// lost. Default 5,000. Range 500 to 600,000.
    pub node_alive_every_ms: u32,
    /// How old a device's clock may say a heartbeat is, hours, before it is not believed. Default 9,600 (400 days):
    /// a device that was stored over the winter. Range 1 to 43,800
    /// (five years: an insert may touch a hundred months of usage, not more).
    pub clock_past_max_hours: u32,
    /// How far ahead of ours a device's clock may be, hours. Default 24: a wrong time zone. Range 0 to 8,760.
    pub clock_future_max_hours: u32,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            mqtt_listen: local(1883),
            operations_listen: local(9464),
            node_id: "gateway-1".into(),
            connections_max: 15_000,
            connect_timeout_ms: 10_000,
            packet_bytes_max: 65_536,
            in_flight_per_connection_max: 64,
            in_flight_bytes_per_connection_max: 1 << 20,
            publish_rate_max: 1_000,
            publish_burst_max: 5_000,
            publish_bytes_rate_max: 1 << 20,
            publish_bytes_burst_max: 4 << 20,
            keep_alive_max_s: 3_600,
            topic_alias_max: 16,
            write_timeout_ms: 10_000,
            gather_us: 2_000,
            shutdown_grace_ms: 10_000,
            node_alive_every_ms: 5_000,
            clock_past_max_hours: 9_600,
            clock_future_max_hours: 24,
        }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        Checks::of("gateway")
            .present("node_id", &self.node_id)
            .require(
                "node_id",
                self.node_id != event::REPLAY_NODE_ID,
                "is the name in which `fleetpulse replay` sends heartbeats",
            )
            .within("connections_max", self.connections_max, 1..=1_000_000)
            .within("connect_timeout_ms", self.connect_timeout_ms, 100..=120_000)
            .within("packet_bytes_max", self.packet_bytes_max, 1_024..=900_000)
            .within("in_flight_per_connection_max", self.in_flight_per_connection_max, 1..=u16::MAX)
            .within(
                "in_flight_bytes_per_connection_max",
                self.in_flight_bytes_per_connection_max,
                1 << 10..=1 << 30,
            )
            .within("publish_rate_max", self.publish_rate_max, 1..=1_000_000)
            .within("publish_burst_max", self.publish_burst_max, 1..=1_000_000)
            .within("publish_bytes_rate_max", self.publish_bytes_rate_max, 1 << 10..=1 << 30)
            .within("publish_bytes_burst_max", self.publish_bytes_burst_max, 1 << 10..=1 << 30)
            .within("keep_alive_max_s", self.keep_alive_max_s, 1..=u16::MAX)
            .within("topic_alias_max", self.topic_alias_max, 0..=1_000)
            .within("write_timeout_ms", self.write_timeout_ms, 100..=120_000)
            .within("gather_us", self.gather_us, 0..=20_000)
            .within("shutdown_grace_ms", self.shutdown_grace_ms, 100..=600_000)
            .within("node_alive_every_ms", self.node_alive_every_ms, 500..=600_000)
            .within("clock_past_max_hours", self.clock_past_max_hours, 1..=43_800)
            .within("clock_future_max_hours", self.clock_future_max_hours, 0..=8_760)
            .done()
    }

    /// Which clocks of devices are believed.
    pub fn clock_policy(&self) -> decode::ClockPolicy {
        const HOUR_MS: i64 = 3_600_000;
        decode::ClockPolicy {
            past_max_ms: i64::from(self.clock_past_max_hours) * HOUR_MS,
            future_max_ms: i64::from(self.clock_future_max_hours) * HOUR_MS,
        }
    }
}
