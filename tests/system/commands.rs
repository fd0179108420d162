//! The command line: what an operator meets first.

use std::net::TcpListener;
use std::process::Output;

use anyhow::{Result, ensure};

use crate::pipeline::{Pipeline, command};
use crate::services::{DEADLINE, Services};

fn run(role: &str, settings: &[&str]) -> Result<Output> {
    let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    Ok(command(role, &settings)?.output()?)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_wrong_setting_is_told_at_once_and_the_exit_code_is_64() -> Result<()> {
    let output =
        run("writer", &["kafka.linger_ms=never", "writer.batch_row_max=1", "clickhouse.url=localhost"])?;
    let text = stderr(&output);
    ensure!(output.status.code() == Some(64), "{}", output.status);
    for key in ["kafka.linger_ms", "writer.batch_row_max"] {
        ensure!(text.contains(key), "{key} is missing in: {text}");
    }
    let output = run("gateway", &["kafka.linger_ms=5000"])?;
    let text = stderr(&output);
    ensure!(output.status.code() == Some(64) && text.contains("kafka.linger_ms"), "{text}");
    ensure!(text.contains("access.chain"), "nobody may come in unless it is said: {text}");
    Ok(())
}

#[test]
fn a_taken_port_is_said_by_name() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    let anonymous = "access.chain=anonymous";
    let mqtt = format!("gateway.mqtt_listen={address}");
    let output = run(
        "gateway",
        &[anonymous, &mqtt, "gateway.connections_max=100", "gateway.operations_listen=127.0.0.1:0"],
    )?;
    ensure!(
        stderr(&output).contains(&format!("{address} (setting `gateway.mqtt_listen`)")),
        "{}",
        stderr(&output)
    );
    let operations = format!("gateway.operations_listen={address}");
    let output = run("gateway", &[anonymous, &operations])?;
    ensure!(
        stderr(&output).contains(&format!("{address} (setting `gateway.operations_listen`)")),
        "{}",
        stderr(&output)
    );
    Ok(())
}

#[test]
fn one_process_does_the_whole_job() -> Result<()> {
    let mut pipeline = Pipeline::start("one_process")?;
    pipeline.become_one_process()?;
    let mut device = pipeline.connect("alone", 5)?;
    device.acknowledged_heartbeat(1, r#"{"seq":1}"#)?;
    pipeline.eventually("SELECT device_id, sequence FROM heartbeats", "alone\t1")?;
    let status = pipeline.gateway.terminate(DEADLINE)?;
    ensure!(status.success(), "{status}: {}", pipeline.gateway.log_tail(20));
    // What the gateway took, to the last presence event, the writer beside it stored before it ended.
    ensure!(
        pipeline.ask("SELECT reason FROM connections WHERE event = 'disconnected'")?
            == "server_shutting_down"
    );
    Ok(())
}

#[test]
fn migrating_twice_and_at_once_is_migrating() -> Result<()> {
    let services = Services::shared()?;
    services.ask("system", "DROP DATABASE IF EXISTS test_migrate")?;
    let settings = [
        format!("kafka.brokers={}", services.kafka),
        format!("kafka.events_topic=test.migrate.{}.events", std::process::id()),
        format!("kafka.dead_letters_topic=test.migrate.{}.dead-letters", std::process::id()),
        format!("kafka.commands_topic=test.migrate.{}.commands", std::process::id()),
        format!("clickhouse.url={}", services.clickhouse),
        "clickhouse.database=test_migrate".to_owned(),
    ];
    let started: Vec<_> = (0..3)
        .map(|_| {
            command("migrate", &settings)?.stderr(std::process::Stdio::piped()).spawn().map_err(Into::into)
        })
        .collect::<Result<_>>()?;
    for child in started {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}", stderr(&output));
    }
    let versions =
        services.ask("test_migrate", "SELECT count(), max(version) FROM schema_migrations FINAL")?;
    let output = command("migrate", &settings)?.output()?;
    ensure!(stderr(&output).contains("applied=0"), "{}", stderr(&output));
    ensure!(
        versions
            == services.ask("test_migrate", "SELECT count(), max(version) FROM schema_migrations FINAL")?
    );
    Ok(())
}
