//! What a connection has sent to Kafka and not yet answered, in order of arrival.
//!
//! The order of this queue is the order of the PUBACKs and PUBRECs [MQTT-4.6.0-2] [MQTT-4.6.0-3]: a delivery that is
//! reported early waits for those before it. Bounded by the caller, who stops reading when [`Unacknowledged::len`] or
//! [`Unacknowledged::bytes`] reaches its limit.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bus::{Delivery, DeliveryError, Partition};
use mqtt::PacketId;

use crate::downlink::{IssueError, Issued};
use crate::ledger::MinuteNumber;

/// Which packet acknowledges a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// QoS 1.
    Puback,
    /// QoS 2.
    Pubrec,
}

/// What a publish became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Became {
    /// A heartbeat on Kafka.
    Heartbeat,
    /// A dead letter on Kafka.
    DeadLetter,
    /// A command on Kafka, for a device on any node.
    Command,
    /// A message to this node's subscribers; nothing is stored.
    Message,
    /// Nothing: it was refused.
    Refused,
    /// Nothing anew: it was taken before.
    Repeated,
}

/// What is answered once a delivery is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A PUBACK or PUBREC with that reason code.
    Publish {
        by: By,
        packet_id: PacketId,
        code: u8,
        became: Became,
        received_at: Instant,
        counted: Option<Counted>,
    },
    /// Nothing: it was the session's own `Connected` event.
    Connected,
    /// Nothing: a command that came with QoS 0.
    Nothing,
}

/// Where the ledger counts a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub minute: MinuteNumber,
    /// The device marked it as sent again.
    pub repeated: bool,
}

/// Why what a publish became does not stand.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unsettled {
    /// Kafka did not take the record.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// The command was not taken in.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// An answer whose time has come, with the outcome: the partition that holds the record, of what the ledger counts.
pub(crate) type Settled = (Answer, Result<Option<Partition>, Unsettled>);

/// A command on its way to Kafka.
pub(crate) type Issuing = Pin<Box<dyn Future<Output = Result<Issued, IssueError>> + Send>>;

/// The queue of one connection.
#[derive(Default)]
pub(crate) struct Unacknowledged {
    queue: VecDeque<Entry>,
    bytes: usize,
}

struct Entry {
    waiting: Waiting,
    answer: Answer,
    bytes: u32,
}

enum Waiting {
    Delivery(Delivery),
    Issuing(Issuing),
    /// Nothing to wait for: a refusal or a message to subscribers, in its place in the order.
    Ready,
}

impl Unacknowledged {
    pub(crate) fn push(&mut self, delivery: Delivery, answer: Answer, bytes: usize) {
        self.bytes += bytes;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.queue.push_back(Entry { waiting: Waiting::Delivery(delivery), answer, bytes });
    }

    /// A command. It was set in motion by whoever made it.
    pub(crate) fn push_issuing(&mut self, issuing: Issuing, answer: Answer, bytes: usize) {
        self.bytes += bytes;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.queue.push_back(Entry { waiting: Waiting::Issuing(issuing), answer, bytes });
    }

    /// An answer that waits for nothing but its turn.
    pub(crate) fn push_ready(&mut self, answer: Answer) {
        self.queue.push_back(Entry { waiting: Waiting::Ready, answer, bytes: 0 });
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of the records that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// QoS 2 publishes that wait for their PUBREC.
    pub(crate) fn pubrecs(&self) -> impl Iterator<Item = PacketId> + '_ {
        self.queue.iter().filter_map(|entry| match entry.answer {
            Answer::Publish { by: By::Pubrec, packet_id, .. } => Some(packet_id),
            Answer::Publish { .. } | Answer::Connected | Answer::Nothing => None,
        })
    }

    /// The oldest, once it is settled. Pending for ever while the queue is empty.
    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Settled> {
        let outcome = match self.queue.front_mut().map(|entry| &mut entry.waiting) {
            None => return Poll::Pending,
            Some(Waiting::Ready) => Ok(None),
            Some(Waiting::Delivery(delivery)) => ready!(Pin::new(delivery).poll(context))
                .map(|(partition, _)| Some(partition))
                .map_err(Unsettled::from),
            Some(Waiting::Issuing(issuing)) => {
                ready!(issuing.as_mut().poll(context)).map(|_| None).map_err(Unsettled::from)
            }
        };
        match self.pop() {
            Some(answer) => Poll::Ready((answer, outcome)),
            None => unreachable!("the front was there when it was polled"),
        }
    }

    /// The oldest, if its delivery is known already.
    pub(crate) fn try_next(&mut self) -> Option<Settled> {
        let outcome = match &mut self.queue.front_mut()?.waiting {
            Waiting::Ready => Ok(None),
            Waiting::Delivery(delivery) => {
                delivery.try_report()?.map(|(partition, _)| Some(partition)).map_err(Into::into)
            }
            // Looked at when it is waited for.
            Waiting::Issuing(_) => return None,
        };
        self.pop().map(|answer| (answer, outcome))
    }

    fn pop(&mut self) -> Option<Answer> {
        let entry = self.queue.pop_front()?;
        self.bytes -= entry.bytes as usize;
        if self.queue.is_empty() {
            // A device that waits for nothing holds no room for it.
            self.queue = VecDeque::new();
        }
        Some(entry.answer)
    }
}
