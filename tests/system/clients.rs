//! MQTT clients that nobody here wrote, as devices: each publishes heartbeats with every QoS, subscribes, and hears its own
//! messages, over each transport and in each version of MQTT that it speaks. What they sent is in the table.
//!
//! `cargo xtask test` installs what they take. Client libraries of other languages stand in `tests/clients`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use devstack::packages::paho_python;
use rumqttc::{Event, Packet, QoS};
use serde_json::json;

use crate::certificates::Certificates;
use crate::pipeline::{Pipeline, local, open_to_all_with};
use crate::services::{DEADLINE, folder};

const TRANSPORTS: [&str; 4] = ["tcp", "tls", "ws", "wss"];

/// A pipeline whose gateway listens in every way.
struct Open {
    pipeline: Pipeline,
    certificates: Certificates,
    addresses: [SocketAddr; 4],
}

impl Open {
    fn start(test: &str) -> Result<Self> {
        let certificates = Certificates::make(test, &[])?;
        let [tls, ws, wss] = [local()?, local()?, local()?];
        let settings = [
            format!("listen.mqtts={tls}"),
            format!("listen.ws={ws}"),
            format!("listen.wss={wss}"),
            format!("listen.tls_certificate_file={}", certificates.path("localhost.pem")),
            format!("listen.tls_key_file={}", certificates.path("localhost.key")),
        ];
        let settings = settings.each_ref().map(String::as_str);
        let pipeline = open_to_all_with(test, &settings)?;
        Ok(Self { addresses: [pipeline.mqtt, tls, ws, wss], certificates, pipeline })
    }

    fn port(&self, transport: &str) -> u16 {
        let at = TRANSPORTS.iter().position(|known| *known == transport).unwrap_or_default();
        self.addresses[at].port()
    }

    fn authority(&self) -> String {
        self.certificates.path("ca.pem")
    }

    /// Waits for the rows of a device, and for what is known of its connection. One that was there twice would be seen.
    fn stored(&self, device_id: &str, transport: &str, version: u8) -> Result<()> {
        self.pipeline.eventually(
            &format!("SELECT sequence FROM heartbeats WHERE device_id = '{device_id}' ORDER BY sequence"),
            "0\n1\n2",
        )?;
        let found = self.pipeline.ask(&format!(
            "SELECT DISTINCT protocol_level, transport FROM connections \
             WHERE device_id = '{device_id}' AND event = 'connected'"
        ))?;
        ensure!(found == format!("{version}\t{transport}"), "{device_id} came by {found:?}");
        Ok(())
    }
}

fn succeeded(what: &str, output: Result<Output, std::io::Error>) -> Result<String> {
    let output = output.with_context(|| format!("cannot run {what}: `cargo xtask test` installs it"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{what} ended with {}: {out}{err}", output.status);
    Ok(out.into_owned())
}

/// A script of `tests/clients` plays a device over every transport, in MQTT 3.1.1 and 5.
fn scripted(open: &Open, name: &str, run: impl Fn(&str) -> Result<Output, std::io::Error>) -> Result<()> {
    for transport in TRANSPORTS {
        for version in [4, 5] {
            let device_id = format!("{name}-{transport}-{version}");
            let given = json!({
                "transport": transport, "port": open.port(transport), "ca": open.authority(),
                "version": version, "device_id": device_id,
            });
            succeeded(&device_id, run(&given.to_string()))?;
            open.stored(&device_id, transport, version)?;
        }
    }
    Ok(())
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

#[test]
fn paho_is_served_over_every_transport_in_3_1_1_and_5() -> Result<()> {
    let open = Open::start("paho")?;
    let python = paho_python().context("no Python with paho-mqtt: `cargo xtask test` installs it")?;
    let script = scripts().join("paho_client.py");
    scripted(&open, "paho", |given| Command::new(python).arg(&script).arg(given).output())?;
    open.pipeline.stop()
}

#[test]
fn mqtt_js_is_served_over_every_transport_in_3_1_1_and_5() -> Result<()> {
    let open = Open::start("mqtt_js")?;
    // Installed as the lock file says, with the user's own registry; scripts of packages are not run.
    let folder = folder("mqtt_js-modules")?;
    for file in ["package.json", "package-lock.json", "mqtt_js_client.mjs"] {
        std::fs::copy(scripts().join(file), folder.join(file))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder);
    succeeded("npm", npm.output())?;
    let script = folder.join("mqtt_js_client.mjs");
    scripted(&open, "mqtt-js", |given| Command::new("node").arg(&script).arg(given).output())?;
    open.pipeline.stop()
}

#[test]
fn mosquitto_clients_are_served_over_tcp_and_tls_in_3_1_1_and_5() -> Result<()> {
    let open = Open::start("mosquitto_clients")?;
    for transport in ["tcp", "tls"] {
        for (version, name) in [(4, "311"), (5, "5")] {
            mosquitto(&open, transport, version, name)?;
        }
    }
    open.pipeline.stop()
}

/// `mosquitto_sub` subscribes and leaves; `mosquitto_pub` is the device; `mosquitto_sub` comes back for what was kept for it.
fn mosquitto(open: &Open, transport: &str, version: u8, version_name: &str) -> Result<()> {
    let device_id = format!("mosquitto-{transport}-{version}");
    let command = |program: &str, client_id: &str| {
        let mut command = Command::new(program);
        command.args(["-h", "localhost", "-p", &open.port(transport).to_string()]);
        command.args(["-i", client_id, "-V", version_name]);
        if transport == "tls" {
            command.arg("--cafile").arg(open.authority());
        }
        command
    };
    let topic = format!("devices/{device_id}/echo");
    let listen = |how: &[&str]| {
        let mut listen = command("mosquitto_sub", &format!("{device_id}-listener"));
        listen.args(["-c", "-q", "2", "-t", &topic, "-W", "60"]).args(how);
        if version == 5 {
            listen.args(["-x", "3600"]);
        }
        succeeded("mosquitto_sub", listen.output())
    };
    listen(&["-E"])?;
    for qos in ["0", "1", "2"] {
        let heartbeat = (format!("devices/{device_id}/heartbeat"), format!(r#"{{"seq":{qos}}}"#));
        let message = (topic.clone(), format!("qos {qos}"));
        for (topic, payload) in [heartbeat, message] {
            let mut publish = command("mosquitto_pub", &device_id);
            succeeded("mosquitto_pub", publish.args(["-q", qos, "-t", &topic, "-m", &payload]).output())?;
        }
    }
    // QoS 0 is for those who are there.
    let heard = listen(&["-C", "2", "-F", "%q: %p"])?;
    ensure!(heard == "1: qos 1\n2: qos 2\n", "{heard:?}");
    open.stored(&device_id, transport, version)
}

#[test]
fn rumqttc_is_served_over_tcp_in_3_1_1_and_5() -> Result<()> {
    let open = Open::start("rumqttc")?;
    rumqttc_4(&open)?;
    rumqttc_5(&open)?;
    open.stored("rumqttc-4", "tcp", 4)?;
    open.stored("rumqttc-5", "tcp", 5)?;
    open.pipeline.stop()
}

fn rumqttc_4(open: &Open) -> Result<()> {
    let mut options = rumqttc::MqttOptions::new("rumqttc-4", "localhost", open.port("tcp"));
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut connection) = rumqttc::Client::new(options, 16);
    let echo = "devices/rumqttc-4/echo";
    client.subscribe(echo, QoS::ExactlyOnce)?;
    let mut talk = Talk::default();
    while let Ok(event) = connection.recv_timeout(DEADLINE) {
        match event? {
            Event::Incoming(Packet::SubAck(_)) => {
                for (qos, number) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
                    client.publish(
                        "devices/rumqttc-4/heartbeat",
                        qos,
                        false,
                        format!(r#"{{"seq":{number}}}"#),
                    )?;
                    client.publish(echo, qos, false, format!("qos {number}"))?;
                }
            }
            Event::Incoming(Packet::PubAck(_)) => talk.pubacks += 1,
            Event::Incoming(Packet::PubComp(_)) => talk.pubcomps += 1,
            Event::Incoming(Packet::Publish(publish)) => talk.heard.push(publish.payload.to_vec()),
            _ => {}
        }
        if talk.is_complete() {
            client.disconnect()?;
            return talk.check();
        }
    }
    bail!("it did not come to its end: {talk:?}")
}

fn rumqttc_5(open: &Open) -> Result<()> {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{Client, Event, MqttOptions};

    let mut options = MqttOptions::new("rumqttc-5", "localhost", open.port("tcp"));
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut connection) = Client::new(options, 16);
    let echo = "devices/rumqttc-5/echo";
    client.subscribe(echo, QoS::ExactlyOnce)?;
    let mut talk = Talk::default();
    while let Ok(event) = connection.recv_timeout(DEADLINE) {
        match event? {
            Event::Incoming(Packet::SubAck(_)) => {
                for (qos, number) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 1), (QoS::ExactlyOnce, 2)] {
                    client.publish(
                        "devices/rumqttc-5/heartbeat",
                        qos,
                        false,
                        format!(r#"{{"seq":{number}}}"#),
                    )?;
                    client.publish(echo, qos, false, format!("qos {number}"))?;
                }
            }
            Event::Incoming(Packet::PubAck(_)) => talk.pubacks += 1,
            Event::Incoming(Packet::PubComp(_)) => talk.pubcomps += 1,
            Event::Incoming(Packet::Publish(publish)) => talk.heard.push(publish.payload.to_vec()),
            _ => {}
        }
        if talk.is_complete() {
            client.disconnect()?;
            return talk.check();
        }
    }
    bail!("it did not come to its end: {talk:?}")
}

/// What a client of `rumqttc` has got so far.
#[derive(Debug, Default)]
struct Talk {
    pubacks: u32,
    pubcomps: u32,
    heard: Vec<Vec<u8>>,
}

impl Talk {
    /// A heartbeat and a message with QoS 1, as many with QoS 2, and three messages back.
    fn is_complete(&self) -> bool {
        self.pubacks >= 2 && self.pubcomps >= 2 && self.heard.len() >= 3
    }

    fn check(mut self) -> Result<()> {
        self.heard.sort();
        ensure!(self.heard == [b"qos 0", b"qos 1", b"qos 2"], "{self:?}");
        Ok(())
    }
}
