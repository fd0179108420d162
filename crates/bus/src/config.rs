//! Settings of section `kafka`.

use ops::{Checks, Problem};
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::ClientError;

/// How to reach Kafka and how to treat it. Section `kafka`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Brokers to ask first, `host:port`, separated by commas. Default `127.0.0.1:9092`.
    pub brokers: String,
    /// Topic of normalised events. Default `fleetpulse.events.v1`.
    pub events_topic: String,
    /// Topic of rejected payloads. Default `fleetpulse.dead-letters.v1`.
    pub dead_letters_topic: String,
    /// Topic of commands to devices, which every gateway reads. Default `fleetpulse.commands.v1`; kept for a day, the longest
    /// life of a command.
    pub commands_topic: String,
    /// Partitions of a topic that is created; the bound on writers that share the work. Default 6, range 1 to
    /// 1,000. Raising it later moves devices to other partitions: a duplicate is then found by the table alone.
    pub partitions: u16,
    /// Copies of each record when a topic is created. Default 1 (one broker); 3 in production, with
    /// `min.insync.replicas=2` on the brokers. Range 1 to 9.
    pub replication_factor: u8,
    /// How long Kafka keeps events, hours. Default 168 (a week): the time in which a writer may be away.
    pub retention_hours: u32,
    /// How long the producer waits for more records before it sends, milliseconds. Default 20: a PUBACK takes 8 ms longer
    /// than with 5, little beside the 50 to 300 ms of a cellular round trip; a heartbeat costs the gateway a sixth to a quarter
    /// less CPU and the broker less than half, as requests carry more records. Range 0 to 1,000.
    pub linger_ms: u16,
    /// Deadline of a delivery, milliseconds, retries included; past it the device gets no PUBACK. Default
    /// 30,000: longer than a broker's fail-over, shorter than most devices' patience. Range 1,000 to 600,000.
    pub delivery_timeout_ms: u32,
    /// Most records that wait for their delivery report, in this process. Default 100,000; range 1 to 10,000,000.
    pub in_flight_messages_max: u32,
    /// Most bytes that wait for their delivery report, in this process, about 600 bytes of bookkeeping a record
    /// included. Default 268,435,456 (256 MiB); range 1 MiB to 4 GiB less one.
    pub in_flight_bytes_max: u32,
    /// Compression of batches. Default `lz4`: a third of the bytes for little CPU.
    pub compression: Compression,
    /// After how long without a sign of life a group member counts as dead, milliseconds. Default 10,000; the
    /// broker must allow it. Range 6,000 (what brokers allow at least, and above the four seconds within which a writer
    /// inserts without asking) to 300,000.
    pub session_timeout_ms: u32,
}

/// Compression of batches on the wire and on the brokers' disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// None.
    None,
    /// LZ4: cheap.
    Lz4,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            events_topic: "fleetpulse.events.v1".into(),
            dead_letters_topic: "fleetpulse.dead-letters.v1".into(),
            commands_topic: "fleetpulse.commands.v1".into(),
            partitions: 6,
            replication_factor: 1,
            retention_hours: 168,
            linger_ms: 20,
            delivery_timeout_ms: 30_000,
            in_flight_messages_max: 100_000,
            in_flight_bytes_max: 256 << 20,
            compression: Compression::Lz4,
            session_timeout_ms: 10_000,
        }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        let brokers_ok = self.brokers.split(',').all(|broker| {
            broker
                .trim()
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
        });
        Checks::of("kafka")
            .require("brokers", brokers_ok, format!("{:?} is not a list of host:port", self.brokers))
            .present("events_topic", &self.events_topic)
            .present("dead_letters_topic", &self.dead_letters_topic)
            .require(
                "dead_letters_topic",
                self.dead_letters_topic != self.events_topic,
                "may not be the events topic",
            )
            .present("commands_topic", &self.commands_topic)
            .require(
                "commands_topic",
                self.commands_topic != self.events_topic && self.commands_topic != self.dead_letters_topic,
                "may not be the topic of events or dead letters",
            )
            .within("partitions", self.partitions, 1..=1_000)
            .within("replication_factor", self.replication_factor, 1..=9)
            .within("retention_hours", self.retention_hours, 1..=87_600)
            .within("linger_ms", self.linger_ms, 0..=1_000)
            .within("delivery_timeout_ms", self.delivery_timeout_ms, 1_000..=600_000)
            .within("in_flight_messages_max", self.in_flight_messages_max, 1..=10_000_000)
            .within("in_flight_bytes_max", self.in_flight_bytes_max, 1 << 20..=u32::MAX)
            .within("session_timeout_ms", self.session_timeout_ms, 6_000..=300_000)
            .done()
    }

    /// What producer, consumer and admin client share.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "fleetpulse")
            // A broker that comes back is found within a second, not within the default ten.
            .set("reconnect.backoff.max.ms", "1000")
            .set("broker.address.ttl", "5000")
            // Partitions that are added while all runs are found within this, in place of five minutes.
            .set("topic.metadata.refresh.interval.ms", "20000")
            .set("log.connection.close", "false");
        client
    }

    pub(crate) fn client_error(&self, source: rdkafka::error::KafkaError) -> ClientError {
        ClientError { brokers: self.brokers.clone(), source }
    }
}
