//! What is published where.

/// What a topic name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// `devices/{device_id}/heartbeat`: a [`heartbeat`](crate::heartbeat) of that device.
    Heartbeat {
        /// One topic level, not empty; not yet checked to be an [`event::DeviceId`].
        device_id: &'a str,
    },
    /// Nothing that this crate decodes.
    Other,
}

/// Reads a topic name. Names are compared byte by byte, as MQTT compares them [MQTT-4.7.3-4].
pub fn topic(name: &str) -> Topic<'_> {
    let level = name.strip_prefix("devices/").and_then(|rest| rest.strip_suffix("/heartbeat"));
    match level {
        Some(device_id) if !device_id.is_empty() && !device_id.contains('/') => {
            Topic::Heartbeat { device_id }
        }
        _ => Topic::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{Topic, topic};

    #[test]
    fn a_heartbeat_topic_names_its_device() {
        assert_eq!(topic("devices/scooter-ü-1/heartbeat"), Topic::Heartbeat { device_id: "scooter-ü-1" });
    }

    #[test]
    fn a_device_id_is_exactly_one_level() {
        for other in [
            "",
            "devices",
            "devices/heartbeat",
            "devices//heartbeat",
            "devices/a/b/heartbeat",
            "devices/a/heartbeat/",
            "/devices/a/heartbeat",
            "devices/a/Heartbeat",
            "devices/a/heartbeats",
        ] {
            assert_eq!(topic(other), Topic::Other, "{other:?}");
        }
    }
}
