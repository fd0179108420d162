//! The producer: a record goes in with a permit, its delivery report comes out.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;

use crate::{ClientError, Config, Offset, Partition, Permit, Window};

/// Which of the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Normalised events.
    Events,
    /// Rejected payloads.
    DeadLetters,
    /// Commands to devices.
    Commands,
}

impl Stream {
    /// Every stream, in the order of their numbers.
    const ALL: [Self; 3] = [Self::Events, Self::DeadLetters, Self::Commands];

    /// Short name, as in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::DeadLetters => "dead_letters",
            Self::Commands => "commands",
        }
    }
}

/// Sends records. Cheap to clone; all clones are one producer.
#[derive(Clone)]
pub struct Producer {
    client: Arc<ThreadedProducer<Reports>>,
    window: Window,
    events_topic: Arc<str>,
    dead_letters_topic: Arc<str>,
    commands_topic: Arc<str>,
}

impl Producer {
    /// Makes the producer. Kafka need not answer yet.
    ///
    /// # Errors
    /// Where the settings make no client.
    pub fn new(config: &Config) -> Result<Self, ClientError> {
        // Our window is the limit. librdkafka's own queue is twice as large, so that it never is.
        let queue_messages = u64::from(config.in_flight_messages_max) * 2;
        let queue_kbytes = (u64::from(config.in_flight_bytes_max) * 2 / 1024).min(2_147_483_647);
        let client = config
            .client()
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("delivery.timeout.ms", config.delivery_timeout_ms.to_string())
            .set("linger.ms", config.linger_ms.to_string())
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", queue_messages.to_string())
            .set("queue.buffering.max.kbytes", queue_kbytes.to_string())
            .set(
                "compression.type",
                match config.compression {
                    crate::Compression::None => "none",
                    crate::Compression::Lz4 => "lz4",
                },
            )
            // The partitioner of every JVM client: other producers and readers find a device in the same partition.
            .set("partitioner", "murmur2_random")
            .create_with_context(Reports::default())
            .map_err(|source| config.client_error(source))?;
        Ok(Self {
            client: Arc::new(client),
            window: Window::new(config.in_flight_messages_max, config.in_flight_bytes_max),
            events_topic: config.events_topic.as_str().into(),
            dead_letters_topic: config.dead_letters_topic.as_str().into(),
            commands_topic: config.commands_topic.as_str().into(),
        })
    }

    /// The window from which a permit is taken for each record.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Hands a record to Kafka. Records of one key are stored in the order of these calls.
    ///
    /// # Errors
    /// Where the record cannot even be queued: it is too large for the topic, or the client is broken.
    pub fn send(
        &self,
        permit: Permit,
        stream: Stream,
        key: &str,
        payload: &[u8],
    ) -> Result<Delivery, SendError> {
        self.send_witnessed(permit, stream, key, payload, None)
    }

    /// The same, before a witness: it hears of the delivery report whether or not anybody waits for the [`Delivery`].
    ///
    /// # Errors
    /// As [`Producer::send`]; the witness hears of that, too.
    pub fn send_witnessed(
        &self,
        permit: Permit,
        stream: Stream,
        key: &str,
        payload: &[u8],
        witness: Option<Arc<dyn Witness>>,
    ) -> Result<Delivery, SendError> {
        let topic = match stream {
            Stream::Events => &*self.events_topic,
            Stream::DeadLetters => &*self.dead_letters_topic,
            Stream::Commands => &*self.commands_topic,
        };
        let (resolve, delivery) = oneshot::channel();
        let flight = Box::new(Flight { stream, resolve, sent_at: Instant::now(), permit, witness });
        let record = BaseRecord::with_opaque_to(topic, flight).key(key).payload(payload);
        match self.client.send(record) {
            Ok(()) => Ok(Delivery(delivery)),
            Err((source, record)) => {
                if let Some(witness) = record.delivery_opaque.witness {
                    witness.reported(stream, Partition(NO_PARTITION), None);
                }
                metrics::counter!("fleetpulse_bus_send_failures_total", "stream" => stream.name())
                    .increment(1);
                Err(SendError { topic: topic.to_owned(), source })
            }
        }
    }

    /// Waits until nothing waits for a delivery report, at most `timeout`. Blocks the thread.
    pub fn flush(&self, timeout: Duration) -> Flushed {
        match self.client.flush(timeout) {
            Ok(()) => Flushed::All,
            Err(_) => Flushed::Left { messages: self.window.in_use().0 },
        }
    }

    /// Why this producer can never send again, if so: librdkafka found that it cannot keep order and uniqueness any more.
    pub(crate) fn broken(&self) -> Option<Broken> {
        let (code, reason) = self.client.client().fatal_error()?;
        Some(Broken { code, reason })
    }

    /// Whether Kafka refused or missed a record within the last `span`.
    pub(crate) fn failed_within(&self, span: Duration) -> bool {
        let failed_at = self.client.context().failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < span)
    }

    /// Whether Kafka answers for the topics of what devices send. Blocks the thread, at most twice `timeout`.
    pub(crate) fn answers(&self, timeout: Duration) -> Result<(), KafkaError> {
        for topic in [&*self.events_topic, &*self.dead_letters_topic] {
            crate::topics::partitions(self.client.client(), topic, timeout)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("window", &self.window).finish_non_exhaustive()
    }
}

/// How a flush ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Every delivery was reported.
    All,
    /// Time ran out.
    Left {
        /// Records whose delivery was not reported.
        messages: usize,
    },
}

/// The producer is broken for good; a new one, with the next start of the process, is not.
#[derive(Debug, thiserror::Error)]
#[error("the kafka producer is broken for good: {reason} ({code})")]
pub struct Broken {
    code: RDKafkaErrorCode,
    reason: String,
}

/// The record could not be queued.
#[derive(Debug, thiserror::Error)]
#[error("cannot queue a record for topic {topic}")]
pub struct SendError {
    topic: String,
    #[source]
    source: KafkaError,
}

/// Resolves with the delivery report of one record. Dropping it changes nothing about the record.
#[derive(Debug)]
pub struct Delivery(oneshot::Receiver<Result<(Partition, Offset), DeliveryError>>);

impl Delivery {
    /// The report if it is there already.
    pub fn try_report(&mut self) -> Option<Result<(Partition, Offset), DeliveryError>> {
        match self.0.try_recv() {
            Ok(report) => Some(report),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(DeliveryError::Abandoned)),
        }
    }
}

/// Cancel safe: the report is not lost by a dropped poll.
impl Future for Delivery {
    type Output = Result<(Partition, Offset), DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|report| report.unwrap_or(Err(DeliveryError::Abandoned)))
    }
}

/// Kafka did not say that it holds the record. It may hold it all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// The deadline passed (`kafka.delivery_timeout_ms`).
    #[error("kafka did not take the record before its deadline")]
    Deadline,
    /// Kafka refused it.
    #[error("kafka refused the record: {0}")]
    Refused(RDKafkaErrorCode),
    /// Kafka says that it has the record already and cannot say where. So it answers a repetition whose first attempt it has
    /// long taken; and also the first batch for a new partition, where that was refused and the one behind it was taken. Then
    /// the record is nowhere.
    #[error("kafka takes the record for a repetition of one that it cannot name")]
    Unconfirmed,
    /// The producer went away first.
    #[error("the producer stopped before the record was delivered")]
    Abandoned,
}

impl DeliveryError {
    /// Short name, as in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Refused(_) => "refused",
            Self::Unconfirmed => "unconfirmed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Hears of delivery reports.
pub trait Witness: Send + Sync {
    /// A record was put into that partition, at that offset; or, without an offset, Kafka did not say that it holds it, and may hold
    /// it all the same (the partition is -1 where it never had one). Called once for each record, in the producer's own thread: must not
    /// block. The witness is dropped after that.
    fn reported(&self, stream: Stream, partition: Partition, offset: Option<Offset>);
}

/// What librdkafka says of a record that has no partition yet.
const NO_PARTITION: i32 = -1;

/// What travels with a record through librdkafka.
struct Flight {
    stream: Stream,
    resolve: oneshot::Sender<Result<(Partition, Offset), DeliveryError>>,
    sent_at: Instant,
    permit: Permit,
    witness: Option<Arc<dyn Witness>>,
}

/// Receives the delivery reports, on the producer's own thread.
struct Reports {
    failed_at: Mutex<Option<Instant>>,
    /// By stream. Made once: looking a counter up costs more than counting.
    delivered: [Counter; Stream::ALL.len()],
    seconds: Histogram,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            failed_at: Mutex::default(),
            delivered: Stream::ALL
                .map(|stream| metrics::counter!("fleetpulse_bus_delivered_total", "stream" => stream.name())),
            seconds: metrics::histogram!("fleetpulse_bus_delivery_seconds"),
        }
    }
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka producer");
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<Flight>;

    fn delivery(&self, result: &DeliveryResult<'_>, flight: Box<Flight>) {
        let Flight { stream, resolve, sent_at, permit, witness } = *flight;
        if let Some(witness) = witness {
            let (Ok(message) | Err((_, message))) = result;
            let offset = result.is_ok().then(|| Offset(message.offset()));
            witness.reported(stream, Partition(message.partition()), offset);
        }
        let report = match result {
            // Without an offset it is no delivery, whatever the client makes of it (it calls a duplicate sequence number a success).
            Ok(message) if message.offset() < 0 => Err(DeliveryError::Unconfirmed),
            Ok(message) => Ok((Partition(message.partition()), Offset(message.offset()))),
            Err((error, _)) => Err(match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::MessageTimedOut) => DeliveryError::Deadline,
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) | None => {
                    DeliveryError::Abandoned
                }
                Some(code) => DeliveryError::Refused(code),
            }),
        };
        match &report {
            Ok(_) => {
                self.delivered[stream as usize].increment(1);
                self.seconds.record(sent_at.elapsed());
            }
            Err(error) => {
                *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                metrics::counter!("fleetpulse_bus_delivery_failures_total", "stream" => stream.name(), "reason" => error.reason())
                    .increment(1);
            }
        }
        // The room is back before anybody hears that it is.
        drop(permit);
        // Nobody waits any more: the connection is gone; the record is counted all the same.
        let _gone = resolve.send(report);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Port 9 takes no connection.
    fn nowhere(delivery_timeout_ms: u32) -> Producer {
        let config = Config { brokers: "127.0.0.1:9".into(), delivery_timeout_ms, ..Config::default() };
        Producer::new(&config).expect("a client")
    }

    fn sent(producer: &Producer) -> Delivery {
        let permit = producer.window().try_reserve(2).expect("room");
        producer.send(permit, Stream::Events, "device", b"{}").expect("queued")
    }

    #[tokio::test]
    async fn past_the_deadline_nothing_counts_as_delivered_and_the_room_returns() {
        let producer = nowhere(1_000);
        let delivery = sent(&producer);
        assert_eq!(producer.window().in_use().0, 1);
        assert_eq!(delivery.await, Err(DeliveryError::Deadline));
        assert_eq!(producer.window().in_use(), (0, 0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_producer_that_goes_away_has_delivered_nothing() {
        let producer = nowhere(300_000);
        let window = producer.window().clone();
        let deliveries = [sent(&producer), sent(&producer)];
        assert_eq!(producer.flush(Duration::from_millis(10)), Flushed::Left { messages: 2 });
        drop(producer);
        for delivery in deliveries {
            assert_eq!(delivery.await, Err(DeliveryError::Abandoned));
        }
        assert_eq!(window.in_use(), (0, 0));
    }

    #[tokio::test]
    async fn a_delivery_nobody_waits_for_returns_its_room_with_its_report() {
        let producer = nowhere(1_000);
        drop(sent(&producer));
        assert_eq!(producer.window().in_use().0, 1, "dropping the receiver is no report");
        assert_eq!(sent(&producer).await, Err(DeliveryError::Deadline));
        assert_eq!(producer.window().in_use(), (0, 0));
    }
}
