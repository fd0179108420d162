//! Looks single records up again, by partition and offset, outside of any group: nothing is committed, nobody is disturbed.
//!
//! For whoever asks what became of a record. What Kafka does not hold any more is told as such, not passed over.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset as Position, TopicPartitionList};

use crate::{ClientError, Config, Lane, Offset, Stream};

/// The client wants a name; nothing is ever committed under it.
const NO_GROUP: &str = "fleetpulse-lookup";
/// Records fetched ahead, kilobytes: single records are looked for, not streams.
const FETCHED_AHEAD_KBYTES: &str = "4096";
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);
/// Records that are rather read over than jumped over: a jump costs a round trip.
const READ_OVER_MAX: i64 = 10_000;

/// Reads single records.
pub struct Lookup {
    client: BaseConsumer<Quiet>,
    events_topic: String,
    dead_letters_topic: String,
    commands_topic: String,
}

/// A record that was looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookedUp {
    /// Its number.
    pub offset: Offset,
    /// Its bytes; `None` where Kafka does not hold it any more.
    pub payload: Option<Vec<u8>>,
}

/// Records that could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Kafka did not answer.
    #[error("kafka did not answer for {lane}")]
    Unanswered {
        /// Which partition.
        lane: Lane,
        /// What the client said.
        #[source]
        source: KafkaError,
    },
    /// Time was up.
    #[error("reading {lane} again took longer than {within:?}: {left} records were not reached")]
    TooSlow {
        /// Which partition.
        lane: Lane,
        /// How long it was allowed to take.
        within: Duration,
        /// Records that were not reached.
        left: usize,
    },
}

impl Lookup {
    /// Makes the client; Kafka need not answer yet.
    ///
    /// # Errors
    /// Where the settings make no client.
    pub fn new(config: &Config) -> Result<Self, ClientError> {
        let mut client = config.client();
        client
            .set("group.id", NO_GROUP)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", FETCHED_AHEAD_KBYTES)
            .set("fetch.wait.max.ms", "50");
        let client = client.create_with_context(Quiet).map_err(|source| config.client_error(source))?;
        Ok(Self {
            client,
            events_topic: config.events_topic.clone(),
            dead_letters_topic: config.dead_letters_topic.clone(),
            commands_topic: config.commands_topic.clone(),
        })
    }

    /// Reads these records of a partition. `offsets` rise. Blocks the thread, a little longer than `within` at most.
    ///
    /// # Errors
    /// Where Kafka does not answer, or time is up.
    pub fn read(
        &self,
        lane: Lane,
        offsets: &[Offset],
        within: Duration,
    ) -> Result<Vec<LookedUp>, LookupError> {
        let until = Instant::now() + within;
        let read = self.read_until(lane, offsets, until, within);
        // Nothing is fetched ahead between two questions.
        let _idle = self.client.unassign();
        read
    }

    fn read_until(
        &self,
        lane: Lane,
        offsets: &[Offset],
        until: Instant,
        within: Duration,
    ) -> Result<Vec<LookedUp>, LookupError> {
        let unanswered = |source| LookupError::Unanswered { lane, source };
        let topic = self.topic(lane.stream);
        let partition = lane.partition.0;
        let (low, high) = self.client.fetch_watermarks(topic, partition, ASK_TIMEOUT).map_err(unanswered)?;
        let mut found = Vec::with_capacity(offsets.len());
        let gone = |offset| LookedUp { offset, payload: None };
        let held = offsets.partition_point(|offset| offset.0 < low);
        found.extend(offsets[..held].iter().copied().map(gone));
        let mut wanted = offsets[held..].iter().copied().take_while(|offset| offset.0 < high).peekable();
        if let Some(first) = wanted.peek() {
            let mut start = TopicPartitionList::with_capacity(1);
            start.add_partition_offset(topic, partition, Position::Offset(first.0)).map_err(unanswered)?;
            self.client.assign(&start).map_err(unanswered)?;
        }
        while let Some(next) = wanted.peek().copied() {
            if Instant::now() >= until {
                return Err(LookupError::TooSlow { lane, within, left: wanted.count() });
            }
            match self.client.poll(POLL) {
                Some(Ok(message)) if next.0 - message.offset() > READ_OVER_MAX => {
                    let position = Position::Offset(next.0);
                    self.client.seek(topic, partition, position, ASK_TIMEOUT).map_err(unanswered)?;
                }
                // One before what is wanted finds nothing here, and is read over.
                Some(Ok(message)) => {
                    // What lies between is not there.
                    while let Some(missing) = wanted.next_if(|offset| offset.0 < message.offset()) {
                        found.push(gone(missing));
                    }
                    if let Some(offset) = wanted.next_if(|offset| offset.0 == message.offset()) {
                        let payload = Some(message.payload().unwrap_or_default().to_vec());
                        found.push(LookedUp { offset, payload });
                    }
                }
                // The end, before what was there a moment ago: it went.
                Some(Err(KafkaError::PartitionEOF(_))) => found.extend(wanted.by_ref().map(gone)),
                // What passes by itself; else time is up soon.
                Some(Err(error)) => tracing::debug!(%error, %lane, "lookup"),
                None => {}
            }
        }
        let beyond = offsets.len() - found.len();
        found.extend(offsets[offsets.len() - beyond..].iter().copied().map(gone));
        Ok(found)
    }

    fn topic(&self, stream: Stream) -> &str {
        match stream {
            Stream::Events => &self.events_topic,
            Stream::DeadLetters => &self.dead_letters_topic,
            Stream::Commands => &self.commands_topic,
        }
    }
}

impl std::fmt::Debug for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").finish_non_exhaustive()
    }
}

/// What goes wrong is told where it is polled.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "lookup");
    }
}

impl ConsumerContext for Quiet {}
