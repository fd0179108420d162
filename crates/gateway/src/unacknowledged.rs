//! What a connection has sent to Kafka and not yet answered, in order of arrival.
//!
//! The order of this queue is the order of the PUBACKs (MQTT-4.6.0-2): a delivery that is reported early waits for
//! those before it. Bounded by the caller, who stops reading when [`Unacknowledged::len`] reaches the limit.

use std::collections::VecDeque;
use std::future::Future;
use std::future::poll_fn;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use bus::{Delivery, DeliveryError};

use crate::mqtt::Ack;

/// What is answered once a delivery is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A PUBACK.
    Puback { packet_id: NonZeroU16, ack: Ack, received_at: Instant },
    /// Nothing: it was the session's own `Connected` event.
    Nothing,
}

/// An answer whose time has come, with the delivery's outcome.
pub(crate) type Settled = (Answer, Result<(), DeliveryError>);

/// The queue of one connection.
#[derive(Default)]
pub(crate) struct Unacknowledged {
    queue: VecDeque<(Waiting, Answer)>,
}

enum Waiting {
    Delivery(Delivery),
    /// Nothing to wait for: a refusal, in its place in the order.
    Ready,
}

impl Unacknowledged {
    pub(crate) fn push(&mut self, delivery: Delivery, answer: Answer) {
        self.queue.push_back((Waiting::Delivery(delivery), answer));
    }

    /// An answer that waits for nothing but its turn.
    pub(crate) fn push_ready(&mut self, answer: Answer) {
        self.queue.push_back((Waiting::Ready, answer));
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Waits for the oldest. Pending for ever while the queue is empty. Cancel safe: it is taken out of the queue only
    /// as it is returned.
    pub(crate) async fn next(&mut self) -> Settled {
        let outcome = poll_fn(|context| match self.queue.front_mut() {
            None => Poll::Pending,
            Some((Waiting::Ready, _)) => Poll::Ready(Ok(())),
            Some((Waiting::Delivery(delivery), _)) => {
                Pin::new(delivery).poll(context).map(|report| report.map(drop))
            }
        });
        let outcome = outcome.await;
        match self.queue.pop_front() {
            Some((_, answer)) => (answer, outcome),
            None => unreachable!("the front was there when it was polled"),
        }
    }

    /// The oldest, if its delivery is known already.
    pub(crate) fn try_next(&mut self) -> Option<Settled> {
        let outcome = match &mut self.queue.front_mut()?.0 {
            Waiting::Ready => Ok(()),
            Waiting::Delivery(delivery) => delivery.try_report()?.map(drop),
        };
        self.queue.pop_front().map(|(_, answer)| (answer, outcome))
    }
}
