//! What a fleet tells: once a second while it runs, and at its end.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use event::DeviceId;
use hdrhistogram::Histogram;
use serde::{Serialize, Serializer};

use crate::seq_set::SeqSet;

/// What a fleet is and has done since its start.
///
/// At rest (in a [`Report`]) `published = acknowledged + given_up + outstanding`. In a [`Snapshot`] the
/// numbers are read one after another while devices go on, so the sum may be off by a few.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Devices that are opening a connection now.
    pub connecting: u64,
    /// Devices with an accepted connection now.
    pub online: u64,
    /// Heartbeats sent, each counted once, when first sent.
    pub published: u64,
    /// Further sendings of heartbeats counted in `published`.
    pub resent: u64,
    /// Heartbeats acknowledged: PUBACK, in v5 with a reason code below 0x80. Each counted once.
    pub acknowledged: u64,
    /// Heartbeats sent that have had no final answer: they may or may not have been stored by the server.
    pub outstanding: u64,
    /// Heartbeats refused for good, and so dropped by the device.
    pub given_up: u64,
    /// Heartbeats made and not yet sent.
    pub waiting: u64,
    /// Heartbeats that fell due and were not made, because the device's store was full.
    pub withheld: u64,
    /// PUBACKs with a reason code of 0x80 or more. One heartbeat may be refused for now several times.
    pub refused: BTreeMap<ReasonCode, u64>,
    /// Connections accepted after a device's first.
    pub reconnects: u64,
    /// Accepted connections over TLS with a full handshake.
    pub tls_full: u64,
    /// Accepted connections over TLS that resumed the device's last session.
    pub tls_resumed: u64,
    /// Attempts to connect that ended without CONNACK.
    pub connect_failed: u64,
    /// CONNACKs that refuse; codes 1 to 5 are those of 3.1.1, the others those of 5.
    pub connect_refused: BTreeMap<ReasonCode, u64>,
    /// Accepted connections ended by the server's DISCONNECT.
    pub disconnected: BTreeMap<ReasonCode, u64>,
    /// Accepted connections ended otherwise.
    pub lost: Lost,
    /// PUBACKs for nothing in flight, second CONNACKs: a server's mistakes. Without further effect.
    pub unexpected: u64,
}

/// Accepted connections that ended neither by the device nor by the server's DISCONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lost {
    /// Closed by the server.
    pub closed: u64,
    /// Failed in the network: reset, for example.
    pub failed: u64,
    /// Given up by the device, which could not read the server's bytes.
    pub malformed: u64,
    /// Given up by the device, for nothing came although an answer was owed.
    pub silent: u64,
}

/// An MQTT reason code. Its text is `0x97`, for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReasonCode(pub u8);

/// PUBACK latency in milliseconds: from the last sending of a heartbeat to its acknowledgement. Zeros where
/// there was none; at most 10 minutes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// Half were as fast or faster.
    pub p50: f64,
    /// 99 of 100 were as fast or faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// When the fleet was complete, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Milestones {
    /// From the start until every device was online for the first time.
    pub online_s: Option<f64>,
    /// From the loss of all connections ([`crate::Config::reconnect_after`]) until every device was online again.
    pub online_again_s: Option<f64>,
}

/// A fleet under way.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// Seconds since the start.
    pub elapsed_s: f64,
    /// Since the start.
    #[serde(flatten)]
    pub counts: Counts,
    /// When it was complete.
    #[serde(flatten)]
    pub milestones: Milestones,
    /// Acknowledgements since the last snapshot, which is one second unless the machine is overloaded.
    pub puback_ms: Latency,
    /// Acknowledgements since the start.
    pub puback_total_ms: Latency,
}

/// A fleet that has ended.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Seconds from the start to the end of the last device.
    pub duration_s: f64,
    /// Since the start; `connecting` and `online` are zero.
    #[serde(flatten)]
    pub counts: Counts,
    /// When it was complete.
    #[serde(flatten)]
    pub milestones: Milestones,
    /// All acknowledgements.
    pub puback_ms: Latency,
    /// By device number.
    #[serde(skip)]
    pub(crate) records: Vec<Record>,
}

/// What became of the heartbeats of one device.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) number: u32,
    pub(crate) device_id: DeviceId,
    /// How many were sent: those with a `seq` below.
    pub(crate) published: u64,
    pub(crate) acknowledged: SeqSet,
}

impl Report {
    /// Every acknowledged heartbeat once, by device and then by `seq`: what must stand in the table.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&DeviceId, u64)> {
        self.records.iter().flat_map(|record| record.acknowledged.iter().map(|seq| (&record.device_id, seq)))
    }

    /// Every heartbeat that was sent and not acknowledged, outstanding or given up: an outstanding one may or
    /// may not stand in the table.
    pub fn unacknowledged(&self) -> impl Iterator<Item = (&DeviceId, u64)> {
        self.records.iter().flat_map(|record| {
            record.acknowledged.missing_below(record.published).map(|seq| (&record.device_id, seq))
        })
    }

    /// Writes [`Self::acknowledged`] as lines `device_id<TAB>seq`. Blocks as `out` does; give it a buffer.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_acknowledged(&self, out: &mut impl Write) -> io::Result<()> {
        self.acknowledged().try_for_each(|(device_id, seq)| writeln!(out, "{device_id}\t{seq}"))?;
        out.flush()
    }
}

impl Latency {
    pub(crate) fn of(micros: &Histogram<u64>) -> Self {
        // Counted in microseconds up to 10 minutes, which a float holds exactly.
        let ms = |micros: u64| micros as f64 / 1_000.0;
        Self {
            p50: ms(micros.value_at_quantile(0.50)),
            p99: ms(micros.value_at_quantile(0.99)),
            max: ms(micros.max()),
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:02x}", self.0)
    }
}

impl Serialize for ReasonCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
