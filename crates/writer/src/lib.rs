//! The writer: reads the two topics as one member of a consumer group and puts each record into ClickHouse once.
//!
//! ```text
//! record -> lane (one per partition) -> batch -> announce -> insert (a round, or alone) -> conclude
//! ```
//!
//! # The protocol, per partition
//! 1. *Announce*: commit the batch's first offset, with the batch's last offset as the note beside it, and its round.
//! 2. *Insert*, with the other batches of the round, under its name; where that is not known to have stood, alone, until all of it
//!    is known to stand.
//! 3. *Conclude*: commit the offset after the last, without a note.
//!
//! Whoever takes the partition over, after a crash or a rebalance, finds either no note, and nothing was under way; or
//! the note, and then it reads exactly that range again, asks which of its rows stand, brings these into the views, closes the round and
//! inserts the rest.
//!
//! # Guarantees
//! - The committed offset moves over inserted records alone, and in order.
//! - A batch is kept until its insert is known to have landed; a repetition has the same rows.
//! - Memory is bounded: [`Config::buffered_bytes_max`] over all partitions; a partition whose next batch is full while
//!   the one before is under way is paused.
//! - A record that is no event becomes a row of `dead_letters` in the same batch; the rest goes on.
//!
//! # Order
//! Batches of one partition are inserted one after the other; partitions do not wait for each other, but go together where they can.
//!
//! # Repetitions
//! A round is inserted once. Every other attempt is one batch's own and asks first which of its rows stand. So a recovery may be as late
//! as it likes, after the table has forgotten every token. `docs/exactly-once.md` says why that is enough, and what shows it.
//!
//! What it does not do: change the schema (`fleetpulse migrate` does). A record that ClickHouse refuses becomes a dead letter; where it
//! refuses them by the hundred ([`Config::refused_rows_max`]) the writer stops and says so.

mod batch;
mod config;
mod driver;
mod heartbeat;
mod insert;
mod lane;
pub mod ledger;
mod note;
pub mod replay;
mod round;
mod row;
mod rows;
mod scaled;
mod settle;

use std::time::{Duration, Instant};

use bus::Consumer;
use ops::{Condition, Health};
use store::Store;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::Config;
pub use rows::EventRows;

/// Why the writer ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No Kafka client.
    #[error(transparent)]
    Client(#[from] bus::ClientError),
    /// A setting of section `clickhouse`.
    #[error(transparent)]
    Store(#[from] store::ConfigError),
    /// The schema is not ours.
    #[error("the schema is not up to date")]
    Schema(#[source] store::MigrateError),
    /// The consumer is broken for good.
    #[error(transparent)]
    Consume(#[from] bus::ConsumeError),
    /// Somebody else commits in this group.
    #[error(
        "{lane}: cannot tell what was under way; is another program in the consumer group (setting `writer.group`)?"
    )]
    Note {
        /// Which partition.
        lane: bus::Lane,
        /// What stood there.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A partition went backwards while records of it were under way.
    #[error("{lane}: was the topic created anew? At the next start it is read from its oldest record")]
    Rewound {
        /// Which partition.
        lane: bus::Lane,
        /// What was seen.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// ClickHouse refuses rows for good.
    #[error(
        "{lane}: clickhouse refuses rows for good: nothing is lost, the batch stays announced and is repeated at the next start"
    )]
    Insert {
        /// Which partition.
        lane: bus::Lane,
        /// What was said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The driver's thread panicked.
    #[error("the writer's thread panicked")]
    Panicked,
}

/// How often ClickHouse is asked whether it answers, and how long it may take.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// When a writer that is asked to stop has done enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// Once the batches under way have landed: others read on.
    Soon,
    /// Once all that stands on Kafka has landed: its gateway has stopped before it, and nobody else may read what that one took.
    AtTheEnd,
}

/// Runs a writer until `stop`; then finishes the batches under way, as `leaving` says, and leaves the group, within
/// [`Config::shutdown_grace_ms`].
///
/// # Errors
/// Where it cannot start, or cannot go on without a person.
pub async fn run(
    config: Config,
    kafka: &bus::Config,
    clickhouse: &store::Config,
    health: &Health,
    leaving: Leaving,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let store = Store::new(clickhouse)?;
    let answers = health.condition("clickhouse_answers");
    let joined = health.condition("group_joined");
    let lands = health.condition("rows_land");
    if !schema_stands(&store, &stop).await? {
        return Ok(());
    }
    tracing::info!(group = config.group, instance_id = config.instance_id, "writer starts");

    let tasks = TaskTracker::new();
    tasks.spawn(watch(store.clone(), answers, stop.clone()));
    if config.ledger_look_every_s > 0 {
        let every = Duration::from_secs(config.ledger_look_every_s.into());
        tasks.spawn(ledger::watch(store.clone(), kafka.clone(), every, stop.clone()));
    }
    let turn = settle::Turn::default();
    if config.settle_every_s > 0 {
        let every = Duration::from_secs(config.settle_every_s.into());
        tasks.spawn(settle::watch(store.clone(), turn.clone(), every, stop.clone()));
    }
    let inserter = insert::Inserter::new(store, config.refused_rows_max, lands);
    let begin = Begin { config: &config, kafka, inserter, joined: joined.clone(), turn, leaving };
    // A member that was fenced after a longer life joins anew: its session ran out, and its own late requests fenced it. Sooner, and there are
    // two with the same instance id, which would fence each other for ever.
    let fenced_by_itself_after = Duration::from_millis(kafka.session_timeout_ms.into());
    let ended = loop {
        let since = Instant::now();
        let ended = drive(&begin, &stop).await;
        match &ended {
            Err(RunError::Consume(error))
                if error.is_fenced() && since.elapsed() > fenced_by_itself_after && !stop.is_cancelled() =>
            {
                metrics::counter!("fleetpulse_writer_fenced_total").increment(1);
                tracing::warn!(
                    instance_id = config.instance_id,
                    "fenced by another member with this instance id, joining anew"
                );
                joined.set(false);
            }
            _ => break ended,
        }
    };
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    tracing::info!("writer stopped");
    ended
}

/// What each life as a member of the group begins with.
struct Begin<'a> {
    config: &'a Config,
    kafka: &'a bus::Config,
    inserter: insert::Inserter,
    joined: Condition,
    turn: settle::Turn,
    leaving: Leaving,
}

/// One life as a member of the group.
async fn drive(begin: &Begin<'_>, stop: &CancellationToken) -> Result<(), RunError> {
    let consumer = Consumer::new(begin.kafka, &begin.config.group, &begin.config.instance_id)?;
    let runtime = tokio::runtime::Handle::current();
    let driver = driver::Driver::new(begin, consumer, runtime);
    let stop = stop.clone();
    tokio::task::spawn_blocking(move || driver.run(&stop)).await.unwrap_or(Err(RunError::Panicked))
}

/// Waits until ClickHouse answers, and checks the schema. False: `stop` came first.
async fn schema_stands(store: &Store, stop: &CancellationToken) -> Result<bool, RunError> {
    loop {
        match store.check_schema().await {
            Ok(()) => return Ok(true),
            Err(error @ store::MigrateError::Query(_)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "waiting for clickhouse");
            }
            Err(error) => return Err(RunError::Schema(error)),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
    }
}

/// Keeps `answers` current until `stop`.
async fn watch(store: Store, answers: Condition, stop: CancellationToken) {
    let mut tick = tokio::time::interval(ASK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => answers.set(store.answers(ASK_EVERY).await.is_ok()),
        }
    }
}
