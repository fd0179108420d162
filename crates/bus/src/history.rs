//! Reads again what the topics held within a span of time, as far as the writers' group has concluded it.
//!
//! It asks the group for its committed offsets and never joins it: nothing is committed, no partition moves, and no record is read
//! that the group may still have under way.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset as Position, TopicPartitionList};

use crate::lookup::Quiet;
use crate::{ClientError, Config, Lane, LookupError, Offset, Partition, Stream};

/// Records fetched ahead, kilobytes: enough to read at full speed.
const FETCHED_AHEAD_KBYTES: &str = "16384";
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// A partition that gives nothing for so long, though it holds something, does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Reads spans of partitions.
pub struct History {
    client: BaseConsumer<Quiet>,
    events_topic: String,
    dead_letters_topic: String,
}

/// What a partition holds of a span of time. Times are those of the records on Kafka: when they were produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Which partition.
    pub lane: Lane,
    /// The first record.
    pub first: Offset,
    /// One after the last that the group has concluded; `first` where there is none.
    pub next: Offset,
    /// Records behind it that belong to the span of time and that the group has not concluded: the writers have them still to do.
    pub ahead: u64,
    /// The first record is the oldest that Kafka holds, and it held older ones once.
    pub cut: bool,
}

impl Span {
    /// How many offsets it has.
    pub fn len(&self) -> u64 {
        self.next.0.abs_diff(self.first.0)
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A record that is read again.
#[derive(Clone, Copy, Debug)]
pub struct Reread<'a> {
    /// Its number.
    pub offset: Offset,
    /// When it was produced, milliseconds since 1970, by the producer's clock; zero where nobody said.
    pub produced_at_ms: i64,
    /// Its bytes; empty where the record has none.
    pub payload: &'a [u8],
}

impl History {
    /// Makes the client; Kafka need not answer yet. `group` is the one whose committed offsets bound what is read.
    ///
    /// # Errors
    /// Where the settings make no client.
    pub fn new(config: &Config, group: &str) -> Result<Self, ClientError> {
        let mut client = config.client();
        client
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", FETCHED_AHEAD_KBYTES);
        let client = client.create_with_context(Quiet).map_err(|source| config.client_error(source))?;
        Ok(Self {
            client,
            events_topic: config.events_topic.clone(),
            dead_letters_topic: config.dead_letters_topic.clone(),
        })
    }

    /// What each partition of both topics holds from `from_ms` to before `to_ms`, milliseconds since 1970. Blocks the thread.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub fn spans(&self, from_ms: i64, to_ms: i64) -> Result<Vec<Span>, LookupError> {
        let mut spans = Vec::new();
        for stream in [Stream::Events, Stream::DeadLetters] {
            let topic = self.topic(stream);
            let whole = Lane { stream, partition: Partition(0) };
            let unanswered = |source| LookupError::Unanswered { lane: whole, source };
            let count =
                crate::topics::partitions(self.client.client(), topic, ASK_TIMEOUT).map_err(unanswered)?;
            for partition in (0..).take(count) {
                let lane = Lane { stream, partition: Partition(partition) };
                let span = self.span(lane, from_ms, to_ms);
                spans.push(span.map_err(|source| LookupError::Unanswered { lane, source })?);
            }
        }
        Ok(spans)
    }

    fn span(&self, lane: Lane, from_ms: i64, to_ms: i64) -> Result<Span, KafkaError> {
        let (topic, partition) = (self.topic(lane.stream), lane.partition.0);
        let (low, high) = self.client.fetch_watermarks(topic, partition, ASK_TIMEOUT)?;
        let one = |position| -> Result<TopicPartitionList, KafkaError> {
            let mut list = TopicPartitionList::with_capacity(1);
            list.add_partition_offset(topic, partition, position)?;
            Ok(list)
        };
        let offset_of = |list: &TopicPartitionList| match list.elements().first().map(|one| one.offset()) {
            Some(Position::Offset(offset)) => Some(offset),
            _ => None,
        };
        // Where no record is that young: behind the last.
        let first_since = |at_ms| -> Result<i64, KafkaError> {
            let found = self.client.offsets_for_times(one(Position::Offset(at_ms))?, ASK_TIMEOUT)?;
            Ok(offset_of(&found).unwrap_or(high).clamp(low, high))
        };
        let first = first_since(from_ms)?;
        let end = first_since(to_ms)?.max(first);
        let committed = self.client.committed_offsets(one(Position::Invalid)?, ASK_TIMEOUT)?;
        // Nothing committed: the writers have all of it still to do.
        let concluded = offset_of(&committed).unwrap_or(first);
        let next = end.min(concluded).max(first);
        Ok(Span {
            lane,
            first: Offset(first),
            next: Offset(next),
            ahead: end.abs_diff(next),
            cut: low > 0 && first == low && first < high,
        })
    }

    /// Hands every record of a span to `each`, in order, until that breaks off. Blocks the thread.
    ///
    /// Returns the ranges that Kafka has dropped meanwhile or before: first and last offset.
    ///
    /// # Errors
    /// Where Kafka does not answer, or nothing comes for half a minute.
    pub fn read(
        &self,
        span: &Span,
        each: impl FnMut(Reread<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<(Offset, Offset)>, LookupError> {
        let read = self.read_assigned(span, each);
        // Nothing is fetched ahead between two spans.
        let _idle = self.client.unassign();
        read
    }

    fn read_assigned(
        &self,
        span: &Span,
        mut each: impl FnMut(Reread<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<(Offset, Offset)>, LookupError> {
        let lane = span.lane;
        let unanswered = |source| LookupError::Unanswered { lane, source };
        let mut dropped = Vec::new();
        let mut expected = span.first.0;
        let end = span.next.0;
        if expected >= end {
            return Ok(dropped);
        }
        let mut start = TopicPartitionList::with_capacity(1);
        start
            .add_partition_offset(self.topic(lane.stream), lane.partition.0, Position::Offset(expected))
            .map_err(unanswered)?;
        self.client.assign(&start).map_err(unanswered)?;
        let mut heard_at = Instant::now();
        while expected < end {
            if heard_at.elapsed() > SILENCE_MAX {
                let left = usize::try_from(end - expected).unwrap_or(usize::MAX);
                return Err(LookupError::TooSlow { lane, within: SILENCE_MAX, left });
            }
            match self.client.poll(POLL) {
                Some(Ok(message)) => {
                    let offset = message.offset();
                    if offset > expected {
                        dropped.push((Offset(expected), Offset(offset.min(end) - 1)));
                    }
                    expected = offset + 1;
                    if offset >= end {
                        break;
                    }
                    let record = Reread {
                        offset: Offset(offset),
                        produced_at_ms: message.timestamp().to_millis().unwrap_or_default(),
                        payload: message.payload().unwrap_or_default(),
                    };
                    if each(record).is_break() {
                        return Ok(dropped);
                    }
                    // However long that took.
                    heard_at = Instant::now();
                }
                // The end, before what was there a moment ago: it went.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    dropped.push((Offset(expected), Offset(end - 1)));
                    expected = end;
                }
                // What passes by itself; else it stays silent.
                Some(Err(error)) => tracing::debug!(%error, %lane, "history"),
                None => {}
            }
        }
        Ok(dropped)
    }

    fn topic(&self, stream: Stream) -> &str {
        match stream {
            Stream::DeadLetters => &self.dead_letters_topic,
            Stream::Events | Stream::Commands => &self.events_topic,
        }
    }
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").finish_non_exhaustive()
    }
}
