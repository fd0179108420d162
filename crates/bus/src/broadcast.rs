//! A topic that every node reads whole: no group, no commits, from some time ago until now and on.
//!
//! # Guarantees
//! - Every record of every partition that is younger than the history comes out, in the order of its partition, at least once
//!   for each start; [`Heard::CaughtUp`] comes once, after all that stood when reading began.
//! - A partition that is added later is read from its beginning, within [`LOOK_EVERY`].
//! - Memory is bounded: [`WAITING_MAX`] records and what the client fetches ahead. A reader that does not take them stops the
//!   reading, and loses nothing.
//!
//! What it does not do: remember where it was. A restarted node reads its history again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::{Offset as Position, TopicPartitionList};
use tokio::sync::mpsc;

use crate::{ClientError, Config, Offset, Partition};

/// Records read and not yet taken.
const WAITING_MAX: usize = 1_024;
/// Records fetched ahead, kilobytes: commands are few.
const FETCHED_AHEAD_KBYTES: &str = "8192";
/// How often the topic is looked at for partitions that were added.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long Kafka may take to say what partitions there are, and where in them a time stands.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts to begin.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a poll waits: the delay with which a stop is noticed.
const POLL: Duration = Duration::from_millis(100);
/// The client wants a name of a group; nothing is ever joined or committed under it.
const NO_GROUP: &str = "fleetpulse-broadcast";

/// Reads a topic whole, on a thread of its own. The thread ends when this is dropped.
pub struct Broadcast {
    heard: Option<mpsc::Receiver<Heard>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A record.
    Record {
        /// Where it stands.
        place: (Partition, Offset),
        /// Its bytes; empty where the record has none.
        payload: Vec<u8>,
    },
    /// All that stood when reading began has come.
    CaughtUp,
}

impl Broadcast {
    /// Starts to read the commands topic from `history` ago. Kafka need not answer yet.
    ///
    /// # Errors
    /// Where the settings make no client, or the system gives no thread.
    pub fn start(config: &Config, history: Duration) -> Result<Self, ClientError> {
        let mut client = config.client();
        client
            .set("group.id", NO_GROUP)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", FETCHED_AHEAD_KBYTES)
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "200");
        let client: BaseConsumer<Quiet> =
            client.create_with_context(Quiet).map_err(|source| config.client_error(source))?;
        let (told, heard) = mpsc::channel(WAITING_MAX);
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            client,
            topic: config.commands_topic.clone(),
            told,
            stop: stop.clone(),
            assigned: BTreeSet::new(),
            behind: None,
        };
        let thread = std::thread::Builder::new()
            .name("broadcast".into())
            .spawn(move || reader.run(history))
            .map_err(|error| config.client_error(KafkaError::ClientCreation(error.to_string())))?;
        Ok(Self { heard: Some(heard), stop, thread: Some(thread) })
    }

    /// What came next; nothing once the thread has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Heard> {
        match &mut self.heard {
            Some(heard) => heard.recv().await,
            None => None,
        }
    }

    /// Ends the thread and waits for it: a moment, or as long as Kafka is being asked. To be called where blocking is allowed;
    /// dropping does the same.
    pub fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The thread may wait for room in it.
        drop(self.heard.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was told by its hook.
            let _panicked = thread.join();
        }
    }
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        self.end();
    }
}

impl std::fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broadcast").finish_non_exhaustive()
    }
}

/// What the thread has.
struct Reader {
    client: BaseConsumer<Quiet>,
    topic: String,
    told: mpsc::Sender<Heard>,
    stop: Arc<AtomicBool>,
    assigned: BTreeSet<i32>,
    /// Partitions whose end was not seen yet; none once that was told.
    behind: Option<BTreeSet<i32>>,
}

/// Nobody listens any more.
struct Gone;

impl Reader {
    fn run(mut self, history: Duration) {
        let since = SystemTime::now().checked_sub(history).unwrap_or(UNIX_EPOCH);
        let since_ms = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let since_ms = i64::try_from(since_ms).unwrap_or(i64::MAX);
        while let Err(error) = self.begin(since_ms) {
            metrics::counter!("fleetpulse_bus_broadcast_errors_total").increment(1);
            tracing::warn!(%error, topic = self.topic, "cannot read yet, asking again");
            if !self.pause(AGAIN_AFTER) {
                return;
            }
        }
        // Ends with its `Gone`: nobody is left to be told.
        let _gone = self.read();
    }

    fn read(&mut self) -> Result<(), Gone> {
        let mut looked_at = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let heard = match self.client.poll(POLL) {
                Some(Ok(message)) => Some(Heard::Record {
                    place: (Partition(message.partition()), Offset(message.offset())),
                    payload: message.payload().unwrap_or_default().to_vec(),
                }),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.ended(partition)?;
                    None
                }
                Some(Err(error)) => {
                    metrics::counter!("fleetpulse_bus_broadcast_errors_total").increment(1);
                    tracing::debug!(%error, topic = self.topic, "broadcast");
                    None
                }
                None => None,
            };
            if let Some(heard) = heard {
                self.tell(heard)?;
            }
            if looked_at.elapsed() >= LOOK_EVERY {
                looked_at = Instant::now();
                if let Err(error) = self.look() {
                    tracing::debug!(%error, topic = self.topic, "cannot look for new partitions");
                }
            }
        }
        Ok(())
    }

    /// Waits while the channel is full: what is not taken is not read on.
    fn tell(&self, heard: Heard) -> Result<(), Gone> {
        self.told.blocking_send(heard).map_err(|_| Gone)
    }

    /// The end of a partition was reached.
    fn ended(&mut self, partition: i32) -> Result<(), Gone> {
        let Some(behind) = &mut self.behind else { return Ok(()) };
        behind.remove(&partition);
        if behind.is_empty() {
            self.behind = None;
            self.tell(Heard::CaughtUp)?;
        }
        Ok(())
    }

    /// Takes every partition, each from where `since_ms` stands.
    fn begin(&mut self, since_ms: i64) -> KafkaResult<()> {
        let count = self.partitions()?;
        let mut asked = TopicPartitionList::with_capacity(count);
        let mut ends = Vec::with_capacity(count);
        for partition in numbers(count) {
            // Before the question: a record that comes between the two is read, not stepped over.
            let (_, end) = self.client.fetch_watermarks(&self.topic, partition, ASK_TIMEOUT)?;
            ends.push(end);
            asked.add_partition_offset(&self.topic, partition, Position::Offset(since_ms))?;
        }
        let found = self.client.offsets_for_times(asked, ASK_TIMEOUT)?;
        let mut positions = TopicPartitionList::with_capacity(count);
        for element in found.elements() {
            element.error()?;
            let end = usize::try_from(element.partition()).ok().and_then(|number| ends.get(number));
            let start = match (element.offset(), end) {
                (Position::Offset(offset), _) => Position::Offset(offset),
                (_, Some(end)) => Position::Offset(*end),
                (_, None) => Position::Beginning,
            };
            positions.add_partition_offset(&self.topic, element.partition(), start)?;
        }
        self.client.assign(&positions)?;
        self.assigned = numbers(count).collect();
        self.behind = Some(self.assigned.clone());
        Ok(())
    }

    /// Takes partitions that were added, each from its beginning; the others go on where they are.
    fn look(&mut self) -> KafkaResult<()> {
        let count = self.partitions()?;
        let added: Vec<i32> = numbers(count).filter(|number| !self.assigned.contains(number)).collect();
        if added.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(added.len());
        for &partition in &added {
            list.add_partition_offset(&self.topic, partition, Position::Beginning)?;
        }
        self.client.incremental_assign(&list)?;
        tracing::info!(topic = self.topic, partitions = added.len(), "partitions were added");
        self.assigned.extend(added);
        Ok(())
    }

    fn partitions(&self) -> KafkaResult<usize> {
        crate::topics::partitions(self.client.client(), &self.topic, ASK_TIMEOUT)
    }

    /// Waits; false when it is time to end.
    fn pause(&self, span: Duration) -> bool {
        let until = Instant::now() + span;
        while Instant::now() < until {
            if self.stop.load(Ordering::Relaxed) || self.told.is_closed() {
                return false;
            }
            std::thread::park_timeout(POLL);
        }
        true
    }
}

fn numbers(count: usize) -> impl Iterator<Item = i32> {
    (0..count).filter_map(|number| i32::try_from(number).ok())
}

/// What goes wrong is counted where it is polled; the end of a partition, which librdkafka tells as an error, is none.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "commands reader");
    }
}

impl ConsumerContext for Quiet {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kafka_that_is_not_there_holds_nobody_up() {
        let config = Config { brokers: "127.0.0.1:9".into(), ..Config::default() };
        let mut broadcast = Broadcast::start(&config, Duration::from_secs(60)).expect("a client");
        let began = Instant::now();
        broadcast.end();
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
