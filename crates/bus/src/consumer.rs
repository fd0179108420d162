//! The consumer: one member of the writer group, driven by one thread that calls [`Consumer::poll`].
//!
//! Everything that happens comes out of `poll` in the order in which it happened: partitions given, partitions
//! taken away, records, outcomes of commits. So whoever drives it needs no lock and sees no race: no record of a
//! partition comes before its [`Polled::Assigned`], none after its [`Polled::Revoked`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset as Position, TopicPartitionList};

use crate::committer::Committer;
use crate::{ClientError, Config, Lane, Offset, Partition, Stream};

/// How long Kafka may take to tell the committed positions of newly assigned partitions before it is asked again.
const POSITIONS_TIMEOUT: Duration = Duration::from_secs(5);
/// Records fetched ahead of the writer, kilobytes, over all partitions: the bound on that memory.
const FETCHED_AHEAD_KBYTES: &str = "32768";

/// A member of a consumer group over both topics.
pub struct Consumer {
    committer: Committer,
    client: Arc<BaseConsumer<Events>>,
    topics: Topics,
}

/// What happened next.
pub enum Polled<'a> {
    /// Partitions are ours from now on, each with the position where reading starts.
    Assigned(Vec<Assigned>),
    /// Partitions will be taken away: finish or drop what is under way, then [`Consumer::release`].
    Revoked(Revocation),
    /// A record.
    Record(Record<'a>),
    /// A commit ended.
    Committed(Vec<Lane>, Result<(), CommitError>),
    /// Nothing within the timeout.
    Nothing,
}

/// A partition that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Which one.
    pub lane: Lane,
    /// Where reading starts.
    pub start: Start,
}

/// Where reading a partition starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing was ever committed: at the oldest record.
    Oldest,
    /// At the committed offset, with the note that was committed beside it.
    Committed(Offset, String),
}

/// Partitions that are about to be taken away.
#[must_use = "the group waits until it is released"]
pub struct Revocation {
    partitions: TopicPartitionList,
    /// Which ones.
    pub lanes: Vec<Lane>,
    /// The group gave them to others already: nothing can be committed any more.
    pub lost: bool,
}

/// A record, borrowed from the client's fetch buffer.
pub struct Record<'a> {
    /// The partition it came from.
    pub lane: Lane,
    message: BorrowedMessage<'a>,
}

impl Record<'_> {
    /// Its number.
    pub fn offset(&self) -> Offset {
        Offset(self.message.offset())
    }

    /// When it was produced, milliseconds since 1970, by the producer's clock; zero where nobody said.
    pub fn produced_at_ms(&self) -> i64 {
        self.message.timestamp().to_millis().unwrap_or_default()
    }

    /// Its bytes; empty where the record has none.
    pub fn payload(&self) -> &[u8] {
        self.message.payload().unwrap_or_default()
    }
}

/// A position to commit: the next offset to read, and a note that comes back with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Which partition.
    pub lane: Lane,
    /// The next offset to read.
    pub next: Offset,
    /// Kept beside it by Kafka; at most 4,096 bytes by the brokers' default.
    pub note: String,
}

/// A commit that was not taken. To be tried again for as long as the partition is ours: while a rebalance is under way
/// Kafka refuses commits of members that keep the partition, too. That it is not ours any more is told by
/// [`Polled::Revoked`] alone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kafka did not take the commit: {0}")]
pub struct CommitError(pub String);

/// The consumer cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("the kafka consumer cannot go on")]
pub struct ConsumeError(#[source] KafkaError);

impl ConsumeError {
    /// Whether another member has taken this one's instance id: another process with the same setting; or this very member, when
    /// the group had given it up while Kafka was silent and its own late requests meet the new one.
    pub fn is_fenced(&self) -> bool {
        self.0.rdkafka_error_code() == Some(RDKafkaErrorCode::FencedInstanceId)
    }
}

impl Consumer {
    /// Joins `group`. Kafka need not answer yet. A member with an `instance_id` (stable, unique in the group) takes
    /// its partitions back at once after a restart; without one (empty) the group waits for the session timeout.
    ///
    /// # Errors
    /// Where the settings make no client.
    pub fn new(config: &Config, group: &str, instance_id: &str) -> Result<Self, ClientError> {
        let mut client = config.client();
        client
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", config.session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", (config.session_timeout_ms / 4).to_string())
            .set("queued.max.messages.kbytes", FETCHED_AHEAD_KBYTES)
            // Ten answers a second while little comes in, and not one for every batch of a producer: less work for Kafka, for
            // less than a tenth of a second.
            .set("fetch.wait.max.ms", "100")
            .set("fetch.min.bytes", "262144")
            .set("fetch.error.backoff.ms", "200")
            .set("statistics.interval.ms", "5000")
            // Figures that brokers may ask clients for: kept at every poll, and so for every record, though nobody asks.
            .set("enable.metrics.push", "false")
            // Bounds how long a commit, and so a rebalance or a stop, waits for a broker that hangs.
            .set("socket.timeout.ms", "10000");
        if !instance_id.is_empty() {
            client.set("group.instance.id", instance_id);
        }
        let topics =
            Topics { events: config.events_topic.clone(), dead_letters: config.dead_letters_topic.clone() };
        let context =
            Events { topics: topics.clone(), queue: Mutex::default(), leaving: AtomicBool::new(false) };
        let client: BaseConsumer<Events> =
            client.create_with_context(context).map_err(|source| config.client_error(source))?;
        client
            .subscribe(&[&topics.events, &topics.dead_letters])
            .map_err(|source| config.client_error(source))?;
        let client = Arc::new(client);
        let committer = Committer::start(
            {
                let (client, topics) = (client.clone(), topics.clone());
                move |commits: &[Commit]| commit(&client, &topics, commits)
            },
            {
                let client = client.clone();
                move |lanes, outcome| client.context().note(Event::Committed(lanes, outcome))
            },
        )
        .map_err(|error| config.client_error(KafkaError::ClientCreation(error.to_string())))?;
        Ok(Self { committer, client, topics })
    }

    /// What happened next, waiting at most `timeout`.
    ///
    /// # Errors
    /// Where the client is broken for good (for example fenced by another member with the same instance id).
    /// What passes by itself is logged at debug level and counted.
    pub fn poll(&self, timeout: Duration) -> Result<Polled<'_>, ConsumeError> {
        if let Some(happened) = self.next_event()? {
            return Ok(happened);
        }
        match self.client.poll(timeout) {
            Some(Ok(message)) => match self.topics.stream(message.topic()) {
                Some(stream) => {
                    let lane = Lane { stream, partition: Partition(message.partition()) };
                    Ok(Polled::Record(Record { lane, message }))
                }
                None => Ok(Polled::Nothing),
            },
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => Err(ConsumeError(error)),
            Some(Err(error)) => {
                metrics::counter!("fleetpulse_bus_consumer_errors_total").increment(1);
                tracing::debug!(%error, "kafka consumer");
                Ok(Polled::Nothing)
            }
            None => Ok(self.next_event()?.unwrap_or(Polled::Nothing)),
        }
    }

    /// Gives partitions back, as announced. Waits for commits under way: one that arrived later would pass for one of
    /// the new owner's time.
    ///
    /// # Errors
    /// Where the client refuses.
    pub fn release(&self, revocation: Revocation) -> Result<(), ConsumeError> {
        let Revocation { partitions, .. } = revocation;
        self.committer.settle();
        unassign(&self.client, &partitions).map_err(ConsumeError)
    }

    /// Starts to commit positions; the outcome comes out of [`Consumer::poll`].
    ///
    /// # Errors
    /// Where the client refuses at once.
    pub fn commit(&self, commits: Vec<Commit>) -> Result<(), CommitError> {
        self.committer.request(commits)
    }

    /// Stops reading a partition; what was fetched ahead is dropped and fetched again later.
    ///
    /// # Errors
    /// Where the client refuses.
    pub fn pause(&self, lane: Lane) -> Result<(), ConsumeError> {
        self.client.pause(&self.list(lane)).map_err(ConsumeError)
    }

    /// Reads a partition again.
    ///
    /// # Errors
    /// Where the client refuses.
    pub fn resume(&self, lane: Lane) -> Result<(), ConsumeError> {
        self.client.resume(&self.list(lane)).map_err(ConsumeError)
    }

    /// Where a partition ends now: the offset that its next record will have; none where it holds no record. Asks Kafka, and waits for
    /// its answer at most `timeout`.
    ///
    /// # Errors
    /// Where Kafka does not answer.
    pub fn end(&self, lane: Lane, timeout: Duration) -> Result<Option<Offset>, ConsumeError> {
        let topic = self.topics.name(lane.stream);
        let (first, end) =
            self.client.fetch_watermarks(topic, lane.partition.0, timeout).map_err(ConsumeError)?;
        Ok((first < end).then_some(Offset(end)))
    }

    fn list(&self, lane: Lane) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition(self.topics.name(lane.stream), lane.partition.0);
        list
    }

    fn next_event(&self) -> Result<Option<Polled<'_>>, ConsumeError> {
        match self.client.context().take() {
            None => Ok(None),
            Some(Event::Revoke(partitions)) => {
                let lanes = self.topics.lanes(&partitions);
                let lost = self.client.assignment_lost();
                Ok(Some(Polled::Revoked(Revocation { partitions, lanes, lost })))
            }
            Some(Event::Committed(lanes, result)) => Ok(Some(Polled::Committed(lanes, result))),
            Some(Event::Assign(partitions)) => {
                match self.client.committed_offsets(partitions.clone(), POSITIONS_TIMEOUT) {
                    Ok(positions) if positions.elements().iter().all(|element| element.error().is_ok()) => {
                        self.assign(&positions).map(Some)
                    }
                    unknown => {
                        let error = unknown.err();
                        // Not read before the position is known: the assignment waits, and is tried again.
                        tracing::warn!(?error, "kafka did not tell the committed positions, asking again");
                        self.client.context().put_back(Event::Assign(partitions));
                        Ok(None)
                    }
                }
            }
        }
    }

    fn assign(&self, committed: &TopicPartitionList) -> Result<Polled<'_>, ConsumeError> {
        let mut positions = TopicPartitionList::with_capacity(committed.count());
        let mut assigned = Vec::with_capacity(committed.count());
        for element in committed.elements() {
            let Some(stream) = self.topics.stream(element.topic()) else {
                continue;
            };
            let lane = Lane { stream, partition: Partition(element.partition()) };
            let (position, start) = match element.offset() {
                Position::Offset(next) => {
                    (Position::Offset(next), Start::Committed(Offset(next), element.metadata().to_owned()))
                }
                _ => (Position::Beginning, Start::Oldest),
            };
            positions
                .add_partition_offset(element.topic(), element.partition(), position)
                .map_err(ConsumeError)?;
            assigned.push(Assigned { lane, start });
        }
        assign(&self.client, &positions).map_err(ConsumeError)?;
        // A partition that went while it was paused comes back paused.
        self.client.resume(&positions).map_err(ConsumeError)?;
        Ok(Polled::Assigned(assigned))
    }
}

/// Leaves the group. From here on rebalances are answered at once, as nobody polls any more; what is committed is
/// committed, the rest is read again by the next owner.
impl Drop for Consumer {
    fn drop(&mut self) {
        self.committer.settle();
        let events = self.client.context();
        events.leaving.store(true, Ordering::Relaxed);
        while let Some(event) = events.take() {
            let answered = match event {
                Event::Assign(partitions) => assign(&self.client, &partitions),
                Event::Revoke(partitions) => unassign(&self.client, &partitions),
                Event::Committed(..) => Ok(()),
            };
            if let Err(error) = answered {
                tracing::debug!(%error, "leaving the group");
            }
        }
    }
}

/// Commits positions with their notes; blocks until Kafka has answered.
fn commit(client: &BaseConsumer<Events>, topics: &Topics, commits: &[Commit]) -> Result<(), CommitError> {
    let mut positions = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let mut element = positions.add_partition(topics.name(commit.lane.stream), commit.lane.partition.0);
        element.set_metadata(&commit.note);
        element.set_offset(Position::Offset(commit.next.0)).map_err(|error| CommitError::from(&error))?;
    }
    client.commit(&positions, CommitMode::Sync).map_err(|error| CommitError::from(&error))
}

fn assign(client: &BaseConsumer<Events>, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_assign(partitions),
        RebalanceProtocol::Eager | RebalanceProtocol::None => client.assign(partitions),
    }
}

fn unassign(client: &BaseConsumer<Events>, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match client.rebalance_protocol() {
        RebalanceProtocol::Cooperative => client.incremental_unassign(partitions),
        RebalanceProtocol::Eager | RebalanceProtocol::None => client.unassign(),
    }
}

/// Names of the two topics.
#[derive(Clone)]
struct Topics {
    events: String,
    dead_letters: String,
}

impl Topics {
    fn name(&self, stream: Stream) -> &str {
        match stream {
            Stream::Events => &self.events,
            Stream::DeadLetters => &self.dead_letters,
            // Not read by the group: no partition of it is ever ours.
            Stream::Commands => "",
        }
    }

    fn stream(&self, topic: &str) -> Option<Stream> {
        [Stream::Events, Stream::DeadLetters].into_iter().find(|stream| self.name(*stream) == topic)
    }

    fn lanes(&self, partitions: &TopicPartitionList) -> Vec<Lane> {
        let lane = |(topic, partition): (&str, i32)| {
            self.stream(topic).map(|stream| Lane { stream, partition: Partition(partition) })
        };
        partitions
            .elements()
            .iter()
            .filter_map(|element| lane((element.topic(), element.partition())))
            .collect()
    }
}

/// What librdkafka told while it was polled, kept until the driver asks. Bounded by the partitions of the topics:
/// each has at most one assignment, one revocation and one commit under way.
struct Events {
    topics: Topics,
    queue: Mutex<VecDeque<Event>>,
    leaving: AtomicBool,
}

enum Event {
    Assign(TopicPartitionList),
    Revoke(TopicPartitionList),
    Committed(Vec<Lane>, Result<(), CommitError>),
}

impl Events {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: Event) {
        self.lock().push_back(event);
    }

    fn take(&self) -> Option<Event> {
        self.lock().pop_front()
    }

    fn put_back(&self, event: Event) {
        self.lock().push_front(event);
    }
}

impl ClientContext for Events {
    fn stats(&self, statistics: Statistics) {
        for (topic, found) in &statistics.topics {
            let Some(stream) = self.topics.stream(topic) else {
                continue;
            };
            for (partition, found) in found.partitions.iter().filter(|(number, _)| **number >= 0) {
                #[expect(clippy::cast_precision_loss, reason = "a gauge")]
                if found.consumer_lag >= 0 {
                    metrics::gauge!("fleetpulse_bus_lag_records", "stream" => stream.name(), "partition" => partition.to_string())
                        .set(found.consumer_lag as f64);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka consumer");
    }
}

impl ConsumerContext for Events {
    /// Only notes the rebalance: the driver answers it from [`Consumer::poll`] and [`Consumer::release`], when its
    /// own state is in order. The group waits for that answer.
    fn rebalance(
        &self,
        client: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let assigning = what == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.leaving.load(Ordering::Relaxed) {
            let answered = if assigning { assign(client, partitions) } else { unassign(client, partitions) };
            if let Err(error) = answered {
                tracing::debug!(%error, "leaving the group");
            }
            return;
        }
        let partitions = partitions.clone();
        self.note(if assigning { Event::Assign(partitions) } else { Event::Revoke(partitions) });
    }
}

impl From<&KafkaError> for CommitError {
    fn from(error: &KafkaError) -> Self {
        Self(error.rdkafka_error_code().map_or_else(|| error.to_string(), |code| code.to_string()))
    }
}
