//! Real services, really started and really broken. They are fetched on the first run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use devstack::fetch::Cache;
use devstack::kafka::{brokers_known_by, probe};
use devstack::packages::{self, Install};
use devstack::{Brokers, ClickHouse, ClickHouseConfig, Engine, Kafka, KafkaConfig};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(60);

/// A folder for one test, removed when the test has passed: after a failure its logs are wanted.
struct Folder(PathBuf);

impl Folder {
    fn of(test: &str) -> Self {
        let folder =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// What was to be had, or a failure with the error's own words, which say what to do.
fn done<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

fn kafka(folder: &Folder, brokers: Brokers) -> Kafka {
    done(packages::ensure(packages::KAFKA, Install::Forbidden));
    let jars = done(Cache::of_user().and_then(|cache| cache.kafka_jars()));
    let config = KafkaConfig { brokers, ..KafkaConfig::new(jars, &folder.0) };
    done(Kafka::start(&config))
}

fn clickhouse_config(folder: &Folder) -> ClickHouseConfig {
    let cache = done(Cache::of_user());
    ClickHouseConfig::new(done(Engine::find(chserver(), &cache)), &folder.0)
}

/// Beside this test's own folder: target/PROFILE/deps/services-HASH, target/PROFILE/chserver.
fn chserver() -> PathBuf {
    let this = std::env::current_exe().expect("this test's path");
    let profile = this.ancestors().nth(2).expect("the profile's folder");
    let chserver = profile.join("chserver");
    let built = Engine::is_installed() || chserver.is_file();
    assert!(built, "no {}: run `cargo build -p chserver` first", chserver.display());
    chserver
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "not within {SOON:?}: {what}");
        // Polling without a pause would take a core from what is waited for.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sql(url: &str, statement: &str) -> String {
    let config = ureq::Agent::config_builder().proxy(None).timeout_global(Some(SOON)).build();
    let answer = ureq::Agent::new_with_config(config).post(url).send(statement);
    answer.expect(statement).body_mut().read_to_string().expect(statement).trim().to_owned()
}

#[test]
fn a_kafka_that_hangs_answers_again_once_resumed() {
    let folder = Folder::of("kafka");
    let mut kafka = kafka(&folder, Brokers::ONE);
    let broker = &mut kafka.brokers_mut()[0];
    let address = broker.address();
    probe(address, SECOND * 10).expect("it answers");
    assert!(broker.process().expect("a process").cpu_time().expect("its time") > Duration::ZERO);
    assert!(broker.process().expect("a process").resident_bytes().expect("its memory") > 50 << 20);

    broker.hang().expect("hang");
    probe(address, SECOND).expect_err("a hung broker does not answer");
    broker.resume().expect("resume");
    eventually("the resumed broker answers", || probe(address, SECOND).is_ok());

    broker.kill().expect("kill");
    probe(address, SECOND).expect_err("a killed broker does not answer");
    broker.start_again().expect("start again after a kill");
    probe(address, SECOND * 10).expect("it answers again");

    kafka.stop().expect("stop");
    assert!(kafka.brokers_mut()[0].hang().is_err(), "a stopped broker cannot be hung");
    kafka.start_again().expect("start again on the same data");
    kafka.wipe().expect("wipe");
    assert!(!folder.0.join("kafka-1").exists());
    kafka.start_again().expect("start again on no data");
}

#[test]
fn a_second_kafka_takes_over_the_data_of_the_first_on_other_ports() {
    let folder = Folder::of("kafka-moved");
    let mut first = kafka(&folder, Brokers::ONE);
    let bootstrap = first.bootstrap();
    first.stop().expect("stop");
    drop(first);
    let second = kafka(&folder, Brokers::ONE);
    assert_ne!(second.bootstrap(), bootstrap);
}

#[test]
fn three_brokers_know_each_other_and_outlive_one() {
    let folder = Folder::of("kafka-three");
    let mut kafka = kafka(&folder, Brokers::THREE);
    assert_eq!(kafka.bootstrap().split(',').count(), 3);
    let addresses: Vec<_> = kafka.brokers().iter().map(|broker| broker.address()).collect();
    for &address in &addresses {
        assert_eq!(brokers_known_by(address, SECOND * 10).expect("an answer"), 3);
    }
    kafka.brokers_mut()[2].kill().expect("kill");
    eventually("the others see the loss", || {
        addresses[..2].iter().all(|&address| brokers_known_by(address, SECOND).is_ok_and(|known| known == 2))
    });
    kafka.brokers_mut()[2].start_again().expect("start again");
    eventually("it is back", || brokers_known_by(addresses[0], SECOND).is_ok_and(|known| known == 3));
    kafka.stop().expect("stop");
}

#[test]
fn a_row_outlives_the_kill_of_clickhouse() {
    let folder = Folder::of("clickhouse");
    let mut clickhouse = done(ClickHouse::start(&clickhouse_config(&folder)));
    let url = clickhouse.url();
    sql(&url, "CREATE DATABASE kept");
    sql(&url, "CREATE TABLE kept.rows (id UInt64) ENGINE = MergeTree ORDER BY id");
    sql(&url, "INSERT INTO kept.rows VALUES (42)");

    // More than once: a hang that returns before every thread stands still lets a request through now and then.
    for _ in 0..5 {
        clickhouse.hang().expect("hang");
        clickhouse.ping(SECOND / 5).expect_err("a hung server does not answer");
        clickhouse.resume().expect("resume");
        eventually("the resumed server answers", || clickhouse.ping(SECOND).is_ok());
    }

    clickhouse.kill().expect("kill");
    clickhouse.ping(SECOND).expect_err("a killed server does not answer");
    clickhouse.start_again().expect("start again after a kill");
    assert_eq!(clickhouse.url(), url);
    assert_eq!(sql(&url, "SELECT id FROM kept.rows"), "42");
    sql(&url, "SYSTEM FLUSH LOGS");

    clickhouse.stop().expect("stop");
    clickhouse.start_again().expect("start again after a stop");
    assert_eq!(sql(&url, "SELECT id FROM kept.rows"), "42");

    clickhouse.wipe().expect("wipe");
    clickhouse.start_again().expect("start again on no data");
    assert_eq!(sql(&url, "SELECT count() FROM system.databases WHERE name = 'kept'"), "0");
}

#[test]
fn a_second_clickhouse_on_the_same_data_is_refused_and_harms_nothing() {
    let folder = Folder::of("clickhouse-twice");
    let config = clickhouse_config(&folder);
    let first = done(ClickHouse::start(&config));
    let error = ClickHouse::start(&config).expect_err("the data is in use").to_string();
    assert!(error.contains("clickhouse ended before it answered"), "{error}");
    assert_eq!(sql(&first.url(), "SELECT 1"), "1");
}

#[test]
fn a_taken_port_is_refused_before_anything_starts() {
    let folder = Folder::of("clickhouse-port");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let http_port = holder.local_addr().expect("an address").port();
    let config = ClickHouseConfig { http_port, ..clickhouse_config(&folder) };
    let error = ClickHouse::start(&config).expect_err("the port is taken").to_string();
    assert!(error.starts_with("the port of clickhouse (http), 127.0.0.1:"), "{error}");
}
