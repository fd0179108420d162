//! Devices that prove who they are by a certificate, with a client that nobody here wrote: mosquitto's, in every QoS, both ways.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use devstack::Process;

use crate::certificates::Certificates;
use crate::pipeline::{Pipeline, command};
use crate::services::{Services, eventually, folder};

/// `mosquitto_pub` or `mosquitto_sub` with a client's certificate.
fn mosquitto(program: &str, port: u16, certificates: &Certificates, client: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "localhost", "-p", &port.to_string(), "-i", client]);
    command.args(["--cafile", &certificates.path("ca.pem")]);
    command.args(["--cert", &certificates.path(&format!("{client}.pem"))]);
    command.args(["--key", &certificates.path(&format!("{client}.key"))]);
    command
}

/// A listener on that port that wants certificates.
fn settings(port: u16, certificates: &Certificates) -> Vec<String> {
    vec![
        format!("listen.mqtts=127.0.0.1:{port}"),
        format!("listen.tls_certificate_file={}", certificates.path("localhost.pem")),
        format!("listen.tls_key_file={}", certificates.path("localhost.key")),
        format!("listen.tls_client_ca_file={}", certificates.path("ca.pem")),
        "listen.tls_client_certificates=required".to_owned(),
        "access.chain=certificate".to_owned(),
    ]
}

#[test]
fn mosquitto_comes_over_tls_by_its_certificate_publishes_and_subscribes() -> Result<()> {
    let certificates = Certificates::make("foreign_tls", &["scooter-tls", "stranger"])?;
    let port = devstack::ports::free_port()?;
    let settings = settings(port, &certificates);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let pipeline = Pipeline::start_on("foreign_tls", Services::shared()?, &settings)?;

    // Each QoS in, in both versions; the one that is kept is heard when the device listens.
    let topic = |name: &str| format!("devices/scooter-tls/{name}");
    let publish = |arguments: &[&str]| -> Result<()> {
        let published =
            mosquitto("mosquitto_pub", port, &certificates, "scooter-tls").args(arguments).output()?;
        ensure!(published.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&published.stderr));
        Ok(())
    };
    let ways = [("311", "0"), ("311", "1"), ("311", "2"), ("5", "1"), ("5", "2")];
    for (number, (version, qos)) in ways.into_iter().enumerate() {
        let payload = format!(r#"{{"seq":{number}}}"#);
        publish(&["-V", version, "-q", qos, "-t", &topic("heartbeat"), "-m", &payload])?;
    }
    publish(&["-V", "5", "-q", "2", "-r", "-t", &topic("about"), "-m", "kept"])?;
    let listened = mosquitto("mosquitto_sub", port, &certificates, "scooter-tls")
        .args(["-V", "5", "-q", "2", "-t", &topic("#"), "-C", "1", "-W", "30"])
        .output()
        .context("cannot run mosquitto_sub: install the package mosquitto-clients")?;
    ensure!(listened.stdout == b"kept\n", "{listened:?}");

    // The certificate says who it is, whatever client id it connects with.
    let stranger = mosquitto("mosquitto_pub", port, &certificates, "stranger")
        .args(["-i", "scooter-tls", "-q", "1", "-t", &topic("heartbeat"), "-m", "{}"])
        .output()?;
    ensure!(!stranger.status.success(), "{stranger:?}");
    pipeline.eventually(
        "SELECT DISTINCT device_id, transport, tls_version FROM connections WHERE event = 'connected'",
        "scooter-tls\ttls\t1.3",
    )?;
    pipeline.eventually(
        "SELECT groupArray(sequence) FROM (SELECT sequence FROM heartbeats ORDER BY sequence)",
        "[0,1,2,3,4]",
    )?;
    pipeline.stop()
}

#[test]
fn the_list_of_the_listeners_ends_sessions_too_and_one_that_is_over_is_refused() -> Result<()> {
    let certificates = Certificates::make("revoked", &["stays", "goes"])?;
    certificates.revoke(&[], 2100)?;
    let port = devstack::ports::free_port()?;
    let mut settings = settings(port, &certificates);
    settings.push(format!("listen.tls_client_crl_file={}", certificates.path("revoked.pem")));
    settings.push("access.reload_poll_ms=100".to_owned());
    let given: Vec<&str> = settings.iter().map(String::as_str).collect();
    let pipeline = Pipeline::start_on("revoked", Services::shared()?, &given)?;
    let folder = folder("revoked-clients")?;
    let listens = |client: &str| -> Result<Process> {
        let mut listening = mosquitto("mosquitto_sub", port, &certificates, client);
        listening.args(["-V", "5", "-q", "1", "-t", &format!("devices/{client}/#")]);
        Ok(Process::spawn(client, &mut listening, &folder.join(format!("{client}.log")))?)
    };
    let mut listening = [listens("stays")?, listens("goes")?];
    pipeline.eventually(
        "SELECT device_id FROM connections WHERE event = 'connected' ORDER BY device_id",
        "goes\nstays",
    )?;

    certificates.revoke(&["goes"], 2100)?;
    pipeline.eventually(
        "SELECT device_id, reason FROM connections WHERE event = 'disconnected'",
        "goes\tcredentials_revoked",
    )?;
    let publishes = |client: &str| -> Result<bool> {
        let topic = format!("devices/{client}/heartbeat");
        let published = mosquitto("mosquitto_pub", port, &certificates, client)
            .args(["-i", client, "-q", "1", "-t", &topic, "-m", "{}"])
            .output()?;
        Ok(published.status.success())
    };
    ensure!(!publishes("goes")?, "it is revoked");
    // A list that is over changes nothing while the gateway runs; nor does one that is gone.
    for round in 0..2 {
        let failed =
            pipeline.gateway_metric("fleetpulse_gateway_reloads_total{what=\"access\",outcome=\"failed\"")?;
        match round {
            0 => certificates.revoke(&[], 2020)?,
            _ => std::fs::remove_file(certificates.path("revoked.pem"))?,
        }
        eventually("a file that cannot be used is counted", || {
            let now = pipeline
                .gateway_metric("fleetpulse_gateway_reloads_total{what=\"access\",outcome=\"failed\"")?;
            Ok((now > failed).then_some(()))
        })?;
        ensure!(!publishes("goes")?, "it stays revoked");
    }
    ensure!(
        pipeline.gateway_metric("fleetpulse_gateway_revocation_lists_next_update")? > 4e9,
        "of the good list"
    );
    pipeline.eventually("SELECT count() FROM connections WHERE event = 'disconnected'", "1")?;
    for process in &mut listening {
        process.kill()?;
    }

    certificates.revoke(&[], 2020)?;
    settings.extend([
        "gateway.operations_listen=127.0.0.1:0".to_owned(),
        "gateway.connections_max=10".to_owned(),
    ]);
    let refused = command("gateway", &settings)?.output()?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(!refused.status.success() && said.contains("is over since"), "{said}");
    pipeline.stop()
}
