//! The node's own life, as events: it started, it lives, it stops. Whoever reads them closes the sessions of a node that died.
//!
//! `NodeStarted` is repeated until Kafka holds it; of `NodeAlive` only the newest counts, so one is under way at a time;
//! `NodeStopping` is tried for as long as its caller waits, and only where every session was ended before.

use std::time::Duration;

use bus::{DeliveryError, Producer, SendError, Stream};
use event::v1::{Event, NodeAlive, NodeStarted, NodeStopping, event::Kind};
use event::{Millis, NodeId};
use prost::Message;
use tokio_util::sync::CancellationToken;

/// Between two attempts to tell that the node started.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// As many signs of life may be missed before the node may be taken for lost: one that is late is no death.
const MISSED_MAX: u32 = 3;

/// Tells of one start of a node.
#[derive(Clone, Debug)]
pub struct Life {
    producer: Producer,
    node_id: NodeId,
    epoch: u64,
    alive_every: Duration,
}

/// An event that Kafka did not confirm.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// It could not be queued.
    #[error(transparent)]
    Send(#[from] SendError),
    /// Kafka did not confirm it.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
}

impl Life {
    /// Life of a node that tells every `alive_every` that it lives (setting `gateway.node_alive_every_ms`).
    pub fn new(producer: Producer, node_id: NodeId, epoch: u64, alive_every: Duration) -> Self {
        Self { producer, node_id, epoch, alive_every }
    }

    /// Tells that the node started, then again and again that it lives, until `stop`. `sessions` counts those that stand.
    pub async fn tell(&self, sessions: impl Fn() -> u32, stop: CancellationToken) {
        let telling = async {
            let started = NodeStarted { version: env!("CARGO_PKG_VERSION").to_owned() };
            let started = self.event(Kind::NodeStarted(started));
            while let Err(error) = self.send(&started).await {
                repeated(&error);
                tokio::time::sleep(REPEAT_AFTER).await;
            }
            let mut tick = tokio::time::interval(self.alive_every);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let alive = NodeAlive { sessions: sessions(), lost_after_ms: self.lost_after_ms() };
                if let Err(error) = self.say(Kind::NodeAlive(alive)).await {
                    repeated(&error);
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = telling => {}
        }
    }

    /// Tells that the node stops and has ended its sessions. One attempt, as long as the delivery deadline: to be bounded by
    /// the caller's grace.
    ///
    /// # Errors
    /// Where Kafka did not confirm it: the node is then taken for lost, and it has no sessions.
    pub async fn stopping(&self) -> Result<(), TellError> {
        self.say(Kind::NodeStopping(NodeStopping {})).await
    }

    /// Tells something of this node; one attempt.
    ///
    /// # Errors
    /// Where Kafka did not confirm it. It may hold it all the same.
    pub(crate) async fn say(&self, kind: Kind) -> Result<(), TellError> {
        self.send(&self.event(kind)).await
    }

    fn lost_after_ms(&self) -> u32 {
        u32::try_from(self.alive_every.as_millis()).unwrap_or(u32::MAX).saturating_mul(MISSED_MAX)
    }

    fn event(&self, kind: Kind) -> Vec<u8> {
        let Millis(at) = crate::now();
        let event = Event {
            received_at_ms: at,
            node_id: self.node_id.0.as_ref().to_owned(),
            epoch: self.epoch,
            kind: Some(kind),
            ..Event::default()
        };
        event.encode_to_vec()
    }

    async fn send(&self, payload: &[u8]) -> Result<(), TellError> {
        let key = &*self.node_id.0;
        let permit = self.producer.window().clone().reserve(payload.len() + key.len()).await;
        let delivery = self.producer.send(permit, Stream::Events, key, payload)?;
        delivery.await?;
        Ok(())
    }
}

fn repeated(error: &TellError) {
    metrics::counter!("fleetpulse_gateway_node_events_repeated_total").increment(1);
    tracing::debug!(%error, "event of the node not stored, again");
}
