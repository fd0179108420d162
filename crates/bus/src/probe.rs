//! Whether Kafka answers, asked again and again: a hung broker keeps its connections open and says nothing,
//! so an idle producer would not notice.

use std::time::Duration;

use ops::Condition;
use tokio_util::sync::CancellationToken;

use crate::{Broken, Producer};

/// How often Kafka is asked.
const EVERY: Duration = Duration::from_secs(2);
/// How long it may take to answer before it counts as hung.
const TIMEOUT: Duration = Duration::from_secs(2);

/// After a record that Kafka refused or missed, how long it counts as not storing, unless it fails again.
const FAILURE_COUNTS: Duration = Duration::from_secs(10);

/// Keeps `stores` true while Kafka answers for both topics and takes what it is sent, and the window's gauges current, until
/// `stop`. Cancel safe.
///
/// # Errors
/// Where the producer is broken for good.
pub async fn watch(producer: Producer, stores: Condition, stop: CancellationToken) -> Result<(), Broken> {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = tick.tick() => {}
        }
        let (messages, bytes) = producer.window().in_use();
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        {
            metrics::gauge!("fleetpulse_bus_in_flight_messages").set(messages as f64);
            metrics::gauge!("fleetpulse_bus_in_flight_bytes").set(bytes as f64);
        }
        if let Some(broken) = producer.broken() {
            stores.set(false);
            return Err(broken);
        }
        let asked = producer.clone();
        match tokio::task::spawn_blocking(move || asked.answers(TIMEOUT)).await {
            Ok(Ok(())) => stores.set(!producer.failed_within(FAILURE_COUNTS)),
            Ok(Err(error)) => {
                if stores.holds() {
                    tracing::warn!(%error, "kafka does not answer");
                }
                stores.set(false);
            }
            Err(_cancelled) => return Ok(()),
        }
    }
}
