//! Whether Kafka answers, asked again and again: a hung broker keeps its connections open and says nothing,
//! so an idle producer would not notice.

use std::time::Duration;

use ops::Condition;
use tokio_util::sync::CancellationToken;

use crate::Producer;

/// How often Kafka is asked.
const EVERY: Duration = Duration::from_secs(2);
/// How long it may take to answer before it counts as hung.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps `answers` true while Kafka answers for both topics, and the window's gauges current, until `stop`.
pub async fn watch(producer: Producer, answers: Condition, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (messages, bytes) = producer.window().in_use();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        {
            metrics::gauge!("fleetpulse_bus_in_flight_messages").set(messages as f64);
            metrics::gauge!("fleetpulse_bus_in_flight_bytes").set(bytes as f64);
        }
        let asked = producer.clone();
        match tokio::task::spawn_blocking(move || asked.answers(TIMEOUT)).await {
            Ok(Ok(())) => answers.set(true),
            Ok(Err(error)) => {
                if answers.holds() {
                    tracing::warn!(%error, "kafka does not answer");
                }
                answers.set(false);
            }
            Err(_cancelled) => return,
        }
    }
}
