//! Apache Kafka: one broker, or three of which one can be lost.
//!
//! Each broker is also a KRaft controller. Topics are not made by themselves. With three brokers, each topic has
//! three copies unless it says otherwise, and a write needs two of them: the cluster goes on without one broker,
//! and refuses writes without two.

mod broker;
mod probe;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use broker::Broker;
pub use probe::{brokers_known_by, probe};

use crate::ports::{free_port, or_free};
use crate::{StackError, folder, wait};

/// Set to `HOST:PORT,...`, it means: use that Kafka and start none.
pub const BROKERS_VARIABLE: &str = "FLEETPULSE_KAFKA_BROKERS";

/// How long brokers may take to stop in order before they are killed.
const STOP_MAX: Duration = Duration::from_secs(20);

/// How many brokers, and the ports that clients connect to; 0 picks a free one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brokers {
    /// One, with one copy of everything.
    One {
        /// Its port.
        port: u16,
    },
    /// Three, with three copies, of which a write needs two.
    Three {
        /// Their ports.
        ports: [u16; 3],
    },
}

impl Brokers {
    /// One broker on a free port.
    pub const ONE: Self = Self::One { port: 0 };
    /// Three brokers on free ports.
    pub const THREE: Self = Self::Three { ports: [0; 3] };

    fn ports(&self) -> &[u16] {
        match self {
            Self::One { port } => std::slice::from_ref(port),
            Self::Three { ports } => ports,
        }
    }
}

/// How to run Kafka.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// Folder of Kafka's jars: [`crate::fetch::Cache::kafka_jars`].
    pub jars: PathBuf,
    /// Where the data is kept: in `kafka-1` or `kafka-3` below it, by the number of brokers.
    pub data: PathBuf,
    /// How many, on which ports.
    pub brokers: Brokers,
    /// Further listeners. Default: none.
    pub doors: Vec<Door>,
    /// Heap of each broker, in MiB. 512 carried 1.5 million messages with 276 MB resident.
    pub heap_mib: u32,
}

impl KafkaConfig {
    /// One broker on a free port, with 512 MiB of heap.
    pub fn new(jars: impl Into<PathBuf>, data: impl Into<PathBuf>) -> Self {
        Self { jars: jars.into(), data: data.into(), brokers: Brokers::ONE, doors: Vec::new(), heap_mib: 512 }
    }
}

/// A further listener of one broker, for a group of clients: one that comes in by it is told the advertised addresses of
/// all doors of that name, so what stands between clients and brokers (a proxy that breaks things) stays in between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// Id of the broker, from 1.
    pub broker: usize,
    /// Name of the listener: letters.
    pub name: String,
    /// Where the broker listens.
    pub listen: SocketAddr,
    /// Where it tells clients to connect.
    pub advertised: SocketAddr,
}

/// A Kafka of our own. Dropping it kills its brokers; the data stays.
#[derive(Debug)]
pub struct Kafka {
    folder: PathBuf,
    brokers: Vec<Broker>,
}

impl Kafka {
    /// Starts the brokers, on new data or on what an earlier run left, and waits until each answers and knows
    /// all others: some 3 s, at most 90 s for each.
    ///
    /// # Errors
    /// Where a port is taken, Java is not there, or a broker ends or stays silent: with the end of its log.
    pub fn start(config: &KafkaConfig) -> Result<Self, StackError> {
        let asked = config.brokers.ports();
        let folder = config.data.join(format!("kafka-{}", asked.len()));
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut members = Vec::new();
        for &port in asked {
            members.push(broker::Member { broker: local(or_free(port)?), controller: local(free_port()?) });
        }
        let cluster = broker::Cluster {
            jars: config.jars.clone(),
            heap_mib: config.heap_mib,
            members,
            doors: config.doors.clone(),
        };
        let brokers = (0..asked.len()).map(|index| Broker::new(index, &cluster, &folder)).collect();
        let mut kafka = Self { folder, brokers };
        kafka.start_again()?;
        Ok(kafka)
    }

    /// What clients are given: `127.0.0.1:PORT,...`, the same for the whole life of this value.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<String> = self.brokers.iter().map(|broker| broker.address().to_string()).collect();
        addresses.join(",")
    }

    /// The brokers, to look at.
    pub fn brokers(&self) -> &[Broker] {
        &self.brokers
    }

    /// The brokers, to break: `kafka.brokers_mut()[0].hang()`.
    pub fn brokers_mut(&mut self) -> &mut [Broker] {
        &mut self.brokers
    }

    /// Starts every broker that does not run, and waits until each answers and knows all others.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_again(&mut self) -> Result<(), StackError> {
        // All of them first: a broker of three becomes ready only with a majority of controllers.
        for broker in &mut self.brokers {
            broker.launch()?;
        }
        let count = self.brokers.len();
        for broker in &mut self.brokers {
            let address = broker.address();
            let knows_all = |within| brokers_known_by(address, within).is_ok_and(|known| known >= count);
            wait::until_it_answers(broker.process()?, &address.to_string(), knows_all)?;
        }
        Ok(())
    }

    /// Stops all brokers in order, and kills those that have not stopped within 20 s.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn stop(&mut self) -> Result<(), StackError> {
        // Asked all at once: the last of three could not leave in order without the controllers of the others.
        for process in self.brokers.iter_mut().filter_map(Broker::running) {
            process.ask_to_stop()?;
        }
        self.brokers.iter_mut().try_for_each(Broker::stop)
    }

    /// Runs one of Kafka's own command-line tools against it, by its Java class; tells what it printed. An independent witness of what
    /// Kafka holds.
    ///
    /// # Errors
    /// Where it fails, with what it printed.
    pub fn tool(&self, class: &str, arguments: &[&str]) -> Result<String, StackError> {
        let broker = self.brokers.first().ok_or_else(|| StackError::NotRunning { name: "kafka".into() })?;
        broker.tool(class, &self.bootstrap(), arguments)
    }

    /// Kills all brokers and removes their data. [`Kafka::start_again`] then starts an empty Kafka.
    ///
    /// # Errors
    /// Where a process cannot be killed or the data cannot be removed.
    pub fn wipe(&mut self) -> Result<(), StackError> {
        self.brokers.iter_mut().try_for_each(Broker::kill)?;
        folder::remove(&self.folder).map_err(StackError::file("remove", &self.folder))
    }
}

/// The Kafka to work with: somebody's, or our own.
#[derive(Debug)]
pub enum KafkaService {
    /// Named by `FLEETPULSE_KAFKA_BROKERS`. It is not touched.
    External {
        /// What clients are given.
        brokers: String,
    },
    /// Started here.
    Own(Kafka),
}

impl KafkaService {
    /// The external one where the environment names it, else one of our own. `config` is asked only then, so it
    /// may fetch.
    ///
    /// # Errors
    /// As `config` and [`Kafka::start`].
    pub fn start<E: From<StackError>>(config: impl FnOnce() -> Result<KafkaConfig, E>) -> Result<Self, E> {
        match std::env::var(BROKERS_VARIABLE) {
            Ok(brokers) if !brokers.trim().is_empty() => {
                Ok(Self::External { brokers: brokers.trim().into() })
            }
            _ => Ok(Self::Own(Kafka::start(&config()?)?)),
        }
    }

    /// What clients are given.
    pub fn bootstrap(&self) -> String {
        match self {
            Self::External { brokers } => brokers.clone(),
            Self::Own(kafka) => kafka.bootstrap(),
        }
    }

    /// Our own one, to break; `None` where it is somebody's.
    pub fn own(&mut self) -> Option<&mut Kafka> {
        match self {
            Self::External { .. } => None,
            Self::Own(kafka) => Some(kafka),
        }
    }
}
