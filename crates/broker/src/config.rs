//! Settings of section `broker`.

use ops::{Checks, Problem};
use serde::{Deserialize, Serialize};

/// What the node keeps for subscribers. Section `broker`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Most sessions with state: kept ones, and connected clients that subscribe, have a will or use QoS 2. Default
    /// 100,000: twice a node's devices. Range 1 to 10,000,000.
    pub sessions_max: u32,
    /// How long a session may outlive its connection, seconds; MQTT 3 sessions that are not clean last so long. Default
    /// 86,400 (a day): a device that was in a garage over night. Range 0 to 31,536,000 (a year).
    pub session_expiry_max_s: u32,
    /// Most subscriptions of one client. Default 64: a device has its commands, a back end a topic a kind. Range 1 to
    /// 100,000.
    pub subscriptions_per_client_max: u32,
    /// Most levels of a topic filter. Default 128: a topic of ours has four, and a search goes as deep as a filter.
    /// Range 8 to 1,024.
    pub filter_levels_max: u32,
    /// Most QoS 1 and 2 messages that are sent to one client and not answered, also where its Receive Maximum is
    /// higher, or not said, as in MQTT 3. Default 32: a slow radio is kept busy. Range 1 to 1,024.
    pub in_flight_max: u16,
    /// Most messages that wait for one client, those that are sent and not answered included; a further one is dropped
    /// and counted. Default 1,000. Range 1 to 1,000,000.
    pub queue_messages_max: u32,
    /// Most bytes that wait for one client, those that are sent and not answered included. Default 1,048,576 (1 MiB).
    /// Range 1 KiB to 1 GiB.
    pub queue_bytes_max: u32,
    /// Most bytes that wait for all clients: a message counts once however many it waits for, each place in a queue
    /// counts 128, and wills and subscriptions count too. Default 268,435,456 (256 MiB): what the window to Kafka may
    /// take. Range 1 MiB to 4 GiB less one.
    pub queues_bytes_max: u32,
    /// Most retained messages. Default 100,000: two for each device of a node. Range 0 to 10,000,000.
    pub retained_messages_max: u32,
    /// Most bytes of all retained messages. Default 67,108,864 (64 MiB). Range 0 to 4 GiB less one.
    pub retained_bytes_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions_max: 100_000,
            session_expiry_max_s: 86_400,
            subscriptions_per_client_max: 64,
            filter_levels_max: 128,
            in_flight_max: 32,
            queue_messages_max: 1_000,
            queue_bytes_max: 1 << 20,
            queues_bytes_max: 256 << 20,
            retained_messages_max: 100_000,
            retained_bytes_max: 64 << 20,
        }
    }
}

impl Config {
    /// Checks the values.
    pub fn validate(&self) -> Vec<Problem> {
        Checks::of("broker")
            .within("sessions_max", self.sessions_max, 1..=10_000_000)
            .within("session_expiry_max_s", self.session_expiry_max_s, 0..=31_536_000)
            .within("subscriptions_per_client_max", self.subscriptions_per_client_max, 1..=100_000)
            .within("filter_levels_max", self.filter_levels_max, 8..=1_024)
            .within("in_flight_max", self.in_flight_max, 1..=1_024)
            .within("queue_messages_max", self.queue_messages_max, 1..=1_000_000)
            .within("queue_bytes_max", self.queue_bytes_max, 1 << 10..=1 << 30)
            .within("queues_bytes_max", self.queues_bytes_max, 1 << 20..=u32::MAX)
            .within("retained_messages_max", self.retained_messages_max, 0..=10_000_000)
            .within("retained_bytes_max", self.retained_bytes_max, 0..=u32::MAX)
            .done()
    }
}
