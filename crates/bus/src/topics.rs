//! The topics: created where they are missing, checked where they stand.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, types::RDKafkaRespErr};

use crate::{ClientError, Config};

/// How long a record of the commands topic is kept: the longest life of a command.
pub const COMMANDS_RETENTION: Duration = Duration::from_secs(24 * 3_600);

const TIMEOUT: Duration = Duration::from_secs(15);

/// Why the topics do not stand.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// No client.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Kafka did not answer.
    #[error("kafka at {brokers} did not answer: is it running, and is `kafka.brokers` right?")]
    Unreachable {
        /// Who was asked.
        brokers: String,
        /// What the client said.
        #[source]
        source: KafkaError,
    },
    /// Kafka refused to create a topic.
    #[error("kafka refused to create topic {topic}: {code}")]
    Refused {
        /// Which topic.
        topic: String,
        /// Why.
        code: RDKafkaErrorCode,
    },
}

/// What was done about a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It was created.
    Created,
    /// It stood already.
    Stood,
}

/// Creates the topics that are missing. Safe to run twice, and from several nodes at once.
///
/// # Errors
/// Where Kafka does not answer or refuses. Cancel safe: creation goes on in Kafka or not at all.
pub async fn ensure(config: &Config) -> Result<Vec<(String, Ensured)>, TopicError> {
    let admin: AdminClient<DefaultClientContext> =
        config.client().create().map_err(|source| config.client_error(source))?;
    let retention_ms = (u64::from(config.retention_hours) * 3_600_000).to_string();
    let commands_ms = COMMANDS_RETENTION.as_millis().to_string();
    let names = [
        (config.events_topic.as_str(), &retention_ms),
        (config.dead_letters_topic.as_str(), &retention_ms),
        (config.commands_topic.as_str(), &commands_ms),
    ];
    let wanted = names.map(|(name, retention_ms)| {
        NewTopic::new(
            name,
            i32::from(config.partitions),
            TopicReplication::Fixed(i32::from(config.replication_factor)),
        )
        .set("cleanup.policy", "delete")
        .set("retention.ms", retention_ms)
    });
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
    let results = admin
        .create_topics(&wanted, &options)
        .await
        .map_err(|source| TopicError::Unreachable { brokers: config.brokers.clone(), source })?;
    results
        .into_iter()
        .map(|result| match result {
            Ok(topic) => Ok((topic, Ensured::Created)),
            Err((topic, RDKafkaErrorCode::TopicAlreadyExists)) => Ok((topic, Ensured::Stood)),
            Err((topic, code)) => Err(TopicError::Refused { topic, code }),
        })
        .collect()
}

/// How many partitions a topic has; an error where it is missing or Kafka does not answer in time.
pub(crate) fn partitions<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<usize, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let missing = || KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
    let found = found.ok_or_else(missing)?;
    match found.error() {
        None => Ok(found.partitions().len()),
        Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR) => Ok(found.partitions().len()),
        Some(error) => Err(KafkaError::MetadataFetch(error.into())),
    }
}
