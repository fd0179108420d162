use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Door, STOP_MAX, probe};
use crate::process::Process;
use crate::{StackError, ports, wait};

const PROPERTIES: &str = include_str!("../../../../deploy/dev/kafka/server.properties");
const LOGGING: &str = include_str!("../../../../deploy/dev/kafka/log4j2.yaml");

/// Id of every cluster made here: 16 bytes in URL-safe base64, as Kafka wants it. They share it since nothing
/// but their own brokers ever asks for it.
const CLUSTER_ID: &str = "ZmxlZXRwdWxzZS1kZXZzdA";

/// What all brokers of a cluster are started from.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) jars: PathBuf,
    pub(super) heap_mib: u32,
    pub(super) members: Vec<Member>,
    pub(super) doors: Vec<Door>,
}

/// Where one broker listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) broker: SocketAddr,
    pub(super) controller: SocketAddr,
}

/// One broker of a [`super::Kafka`].
#[derive(Debug)]
pub struct Broker {
    index: usize,
    cluster: Cluster,
    folder: PathBuf,
    process: Option<Process>,
}

impl Broker {
    pub(super) fn new(index: usize, cluster: &Cluster, folder: &Path) -> Self {
        let folder = folder.join(format!("broker-{}", index + 1));
        Self { index, cluster: cluster.clone(), folder, process: None }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.cluster.members[self.index].broker
    }

    /// Its node id in the cluster, from 1.
    pub fn id(&self) -> usize {
        self.index + 1
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    /// Its process, to measure.
    ///
    /// # Errors
    /// Where it is stopped.
    pub fn process(&mut self) -> Result<&mut Process, StackError> {
        let name = self.name();
        self.process.as_mut().ok_or(StackError::NotRunning { name })
    }

    /// Hangs it: connections stay open, nothing answers.
    ///
    /// # Errors
    /// Where it does not run.
    pub fn hang(&mut self) -> Result<(), StackError> {
        Ok(self.process()?.hang()?)
    }

    /// Lets it go on after [`Broker::hang`].
    ///
    /// # Errors
    /// Where it does not run.
    pub fn resume(&mut self) -> Result<(), StackError> {
        Ok(self.process()?.resume()?)
    }

    /// Ends it at once, as a power cut would. One that does not run is no error.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn kill(&mut self) -> Result<(), StackError> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
        }
        Ok(())
    }

    /// Stops it in order; kills it when it has not stopped within 20 s. One that does not run is no error.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn stop(&mut self) -> Result<(), StackError> {
        if let Some(mut process) = self.process.take() {
            process.terminate(STOP_MAX)?;
        }
        Ok(())
    }

    /// Starts it on the same ports and data, and waits until it answers. A lone broker of three answers only
    /// once a second one runs; to start several, [`super::Kafka::start_again`].
    ///
    /// # Errors
    /// As [`super::Kafka::start`].
    pub fn start_again(&mut self) -> Result<(), StackError> {
        self.launch()?;
        let address = self.address();
        let answers = |within| probe(address, within).is_ok();
        wait::until_it_answers(self.process()?, &address.to_string(), answers)
    }

    /// Starts the process where it does not run, on the same ports and data, and does not wait until it answers.
    ///
    /// # Errors
    /// Where a port is taken or the program cannot be started.
    pub fn launch(&mut self) -> Result<(), StackError> {
        if self.running().is_some() {
            return Ok(());
        }
        let (name, member) = (self.name(), self.cluster.members[self.index]);
        ports::require_free(&name, member.broker, "give Kafka another port in its configuration")?;
        ports::require_free(&name, member.controller, "start again, which picks another controller port")?;

        let logs = self.folder.join("logs");
        fs::create_dir_all(&logs).map_err(StackError::file("make the folder", &logs))?;
        let properties = self.folder.join("server.properties");
        let logging = self.folder.join("log4j2.yaml");
        let text = properties_of(&self.cluster, self.index, &logs);
        fs::write(&properties, text).map_err(StackError::file("write", &properties))?;
        fs::write(&logging, LOGGING).map_err(StackError::file("write", &logging))?;
        if !logs.join("meta.properties").exists() {
            self.format(&properties, &logging)?;
        }
        let mut command = self.java(&logging);
        command.arg("kafka.Kafka").arg(&properties);
        self.process = Some(Process::spawn(&name, &mut command, &self.log())?);
        Ok(())
    }

    /// Its process, where it runs.
    pub(super) fn running(&mut self) -> Option<&mut Process> {
        let process = self.process.as_mut()?;
        process.is_running().then_some(process)
    }

    fn format(&self, properties: &Path, logging: &Path) -> Result<(), StackError> {
        let mut command = self.java(logging);
        command.args(["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config"]);
        command.arg(properties);
        let name = format!("formatting the storage of {}", self.name());
        let mut process = Process::spawn(&name, &mut command, &self.log())?;
        let log = self.log();
        match process.wait_exit(wait::START_MAX)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                Err(StackError::Ended { name, status, log, tail: process.log_tail(wait::TAIL_LINES) })
            }
            None => {
                let (address, tail) = (self.address().to_string(), process.log_tail(wait::TAIL_LINES));
                Err(StackError::Silent { name, address, waited: wait::START_MAX, log, tail })
            }
        }
    }

    /// Runs a tool beside it, from the same jars.
    pub(super) fn tool(
        &self,
        class: &str,
        bootstrap: &str,
        arguments: &[&str],
    ) -> Result<String, StackError> {
        let mut command = self.java(&self.folder.join("log4j2.yaml"));
        command.args([class, "--bootstrap-server", bootstrap]).args(arguments);
        let output = command.output().map_err(StackError::file("run", Path::new("java")))?;
        let printed = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let tail = String::from_utf8_lossy(&printed).into_owned();
        if output.status.success() {
            return Ok(tail);
        }
        Err(StackError::Ended { name: class.to_owned(), status: output.status, log: self.log(), tail })
    }

    fn java(&self, logging: &Path) -> Command {
        let mut command = Command::new("java");
        command.arg(format!("-Xmx{}m", self.cluster.heap_mib)).arg("-XX:+UseSerialGC");
        command.arg(format!("-Dlog4j2.configurationFile={}", logging.display()));
        // Libraries that it unpacks stay where they are when it is killed.
        command.arg(format!("-Djava.io.tmpdir={}", self.folder.display()));
        command.arg("-cp").arg(self.cluster.jars.join("*"));
        command
    }

    fn name(&self) -> String {
        format!("kafka broker {} of {}", self.id(), self.cluster.members.len())
    }
}

fn properties_of(cluster: &Cluster, index: usize, logs: &Path) -> String {
    let voter = |(index, member): (usize, &Member)| format!("{}@{}", index + 1, member.controller);
    let voters: Vec<String> = cluster.members.iter().enumerate().map(voter).collect();
    let copies = cluster.members.len();
    let member = cluster.members[index];
    let doors = || cluster.doors.iter().filter(|door| door.broker == index + 1);
    let all = |text: fn(&Door) -> String| doors().map(text).collect::<String>();
    PROPERTIES
        .replace("{doors}", &all(|door| format!(",{}://{}", door.name, door.listen)))
        .replace("{doors_advertised}", &all(|door| format!(",{}://{}", door.name, door.advertised)))
        .replace("{doors_protocol}", &all(|door| format!(",{}:PLAINTEXT", door.name)))
        .replace("{node_id}", &(index + 1).to_string())
        .replace("{voters}", &voters.join(","))
        .replace("{broker_address}", &member.broker.to_string())
        .replace("{controller_address}", &member.controller.to_string())
        .replace("{replication_factor}", &copies.to_string())
        .replace("{in_sync_min}", &copies.min(2).to_string())
        // Last, since a path may hold braces of its own.
        .replace("{log_folder}", &logs.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_filled_in_whole() {
        let member = |port| Member {
            broker: SocketAddr::from(([127, 0, 0, 1], port)),
            controller: SocketAddr::from(([127, 0, 0, 1], port + 1)),
        };
        let members = vec![member(10), member(20), member(30)];
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let door = |broker| Door { broker, name: "SIDE".into(), listen: address(7), advertised: address(8) };
        let cluster = Cluster { jars: "/jars".into(), heap_mib: 1, members, doors: vec![door(2), door(3)] };
        let text = properties_of(&cluster, 1, Path::new("/data/{log_folder}"));
        assert_eq!(text.matches('{').count(), 1, "{text}");
        assert!(text.contains("\nnode.id=2\n"), "{text}");
        assert!(text.contains("\ncontroller.quorum.voters=1@127.0.0.1:11,2@127.0.0.1:21,3@127.0.0.1:31\n"));
        assert!(text.contains("\nmin.insync.replicas=2\n"), "{text}");
        assert!(text.contains(",CONTROLLER://127.0.0.1:21,SIDE://127.0.0.1:7\n"), "{text}");
        assert!(
            text.contains("\nadvertised.listeners=PLAINTEXT://127.0.0.1:20,SIDE://127.0.0.1:8\n"),
            "{text}"
        );
        assert!(text.contains(",CONTROLLER:PLAINTEXT,SIDE:PLAINTEXT\n"), "{text}");
        assert!(text.contains("\nauto.create.topics.enable=false\n"), "{text}");
    }
}
