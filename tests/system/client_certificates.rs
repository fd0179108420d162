//! Devices that prove who they are by a certificate, with a client that nobody here wrote: mosquitto's, in every QoS, both ways.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::certificates::Certificates;
use crate::pipeline::Pipeline;
use crate::services::Services;

/// `mosquitto_pub` or `mosquitto_sub` with a client's certificate.
fn mosquitto(program: &str, port: u16, certificates: &Certificates, client: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "localhost", "-p", &port.to_string(), "-i", client]);
    command.args(["--cafile", &certificates.path("ca.pem")]);
    command.args(["--cert", &certificates.path(&format!("{client}.pem"))]);
    command.args(["--key", &certificates.path(&format!("{client}.key"))]);
    command
}

#[test]
fn mosquitto_comes_over_tls_by_its_certificate_publishes_and_subscribes() -> Result<()> {
    let certificates = Certificates::make("foreign_tls", &["scooter-tls", "stranger"])?;
    let port = devstack::ports::free_port()?;
    let settings = [
        format!("listen.mqtts=127.0.0.1:{port}"),
        format!("listen.tls_certificate_file={}", certificates.path("localhost.pem")),
        format!("listen.tls_key_file={}", certificates.path("localhost.key")),
        format!("listen.tls_client_ca_file={}", certificates.path("ca.pem")),
        "listen.tls_client_certificates=required".to_owned(),
        "access.chain=certificate".to_owned(),
    ];
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
