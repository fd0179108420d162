//! Commands: from a back end over HTTP or MQTT to a device on whichever node it is, and back.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::access;
use crate::mqtt_client::{Answer, Client, PUBACK, publish_packet};
use crate::pipeline::{Pipeline, open_to_all_with};
use crate::services::{DEADLINE, Services, eventually};

const TOKEN: &str = "a-token-for-tests-only";

/// A file of a test, which ends with it.
struct File(std::path::PathBuf);

impl File {
    fn write(name: &str, content: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("fleetpulse-{name}-{}", std::process::id()));
        std::fs::write(&path, content)?;
        Ok(Self(path))
    }

    fn setting(&self, key: &str) -> String {
        format!("{key}={}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // Whoever cleans temporary files takes it too.
        let _left = std::fs::remove_file(&self.0);
    }
}

/// A pipeline whose gateway takes commands over HTTP.
fn pipeline(test: &str) -> Result<Pipeline> {
    let token = File::write(test, TOKEN)?;
    Pipeline::start_on(test, Services::shared()?, &[&token.setting("commands.token_file")])
}

/// Issues a command; status and body of the answer.
fn post(operations: SocketAddr, device: &str, token: &str, body: &str) -> Result<(u16, String)> {
    let url = format!("http://{operations}/v1/devices/{device}/commands");
    let mut answer = ureq::post(&url)
        .config()
        .http_status_as_error(false)
        .build()
        .header("authorization", &format!("Bearer {token}"))
        .header("content-type", "application/json")
        .send(body)?;
    Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
}

/// Reads a command and acknowledges it; its payload.
fn receive(device: &mut Client, payload_bytes: usize) -> Result<Vec<u8>> {
    let body = device.expect(0x32)?;
    let topic_bytes = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let id = &body[2 + topic_bytes..4 + topic_bytes];
    device.send(&[0x40, 2, id[0], id[1]])?;
    Ok(body[body.len() - payload_bytes..].to_vec())
}

#[test]
fn a_command_reaches_its_device_and_its_delivery_is_known() -> Result<()> {
    let pipeline = pipeline("command")?;
    let (status, _) = post(pipeline.gateway_operations, "lock-1", "wrong-token-of-some-length", "{}")?;
    ensure!(status == 401, "{status}");
    let (status, body) = post(
        pipeline.gateway_operations,
        "lock-1",
        TOKEN,
        r#"{"name":"unlock","payload":{"for_s":9},"expires_in_s":60}"#,
    )?;
    ensure!(status == 202 && body.contains("command_id"), "{status} {body}");
    // The device was not there; it comes, and hears what waits.
    let mut device = pipeline.connect("lock-1", 4)?;
    eventually("the command on its way", || {
        Ok((pipeline.gateway_metric("fleetpulse_gateway_commands_pending")? >= 1.0).then_some(()))
    })?;
    ensure!(device.subscribe("devices/lock-1/commands/#", 1)? == 1);
    ensure!(receive(&mut device, 11)? == br#"{"for_s":9}"#);
    pipeline.eventually("SELECT device_id, name, state FROM command_status", "lock-1\tunlock\tdelivered")?;
    // One that comes while it listens.
    let (status, body) =
        post(pipeline.gateway_operations, "lock-1", TOKEN, r#"{"name":"lock","payload":"now","qos":1}"#)?;
    ensure!(status == 202, "{status} {body}");
    ensure!(receive(&mut device, 5)? == br#""now""#);
    pipeline.eventually("SELECT count() FROM command_status WHERE state = 'delivered'", "2")?;
    pipeline.stop()
}

#[test]
fn a_device_may_not_send_commands() -> Result<()> {
    let pipeline = Pipeline::start("command_refused")?;
    let mut device = pipeline.connect("rogue", 5)?;
    device.send(&publish_packet("devices/victim/commands/unlock", 3, "{}", 5))?;
    ensure!(device.puback(3)? == 0x87, "not authorized");
    device.send(&publish_packet("devices/rogue/commands/unlock", 4, "{}", 5))?;
    ensure!(device.puback(4)? == 0x87, "not to itself either");
    ensure!(pipeline.gateway_metric("fleetpulse_gateway_publish_refused_total")? == 2.0);
    pipeline.stop()
}

/// Devices have what is theirs, services send commands.
const RULES: &str = r#"
[[rule]]
effect = "allow"
who = "services"
action = "publish"
topic = "devices/+/commands/#"

[[rule]]
effect = "allow"
who = "devices"
action = "all"
topic = "devices/{device_id}/#"
"#;

#[test]
fn a_command_given_to_one_node_reaches_a_device_on_another() -> Result<()> {
    let secret = "secret-of-the-back-end-x";
    let token = File::write("command_nodes_token", TOKEN)?;
    let secrets = access::line("backend", secret)?.replace('\n', " kind=service\n");
    let (secrets, rules) =
        (File::write("command_nodes", &secrets)?, File::write("command_nodes_rules", RULES)?);
    let settings = [
        token.setting("commands.token_file"),
        secrets.setting("access.secrets_file"),
        rules.setting("access.acl_file"),
        "access.chain=secrets,anonymous".to_owned(),
    ];
    let settings = settings.each_ref().map(String::as_str);
    let pipeline = Pipeline::start_on("command_nodes", Services::shared()?, &settings)?;
    let mut second = pipeline.further_gateway("gateway-2")?;
    let mut device = Client::connect(second.mqtt, "lock-2", 4)?;
    ensure!(device.subscribe("devices/lock-2/commands/#", 1)? == 1);

    let (status, body) =
        post(pipeline.gateway_operations, "lock-2", TOKEN, r#"{"name":"unlock","payload":[1]}"#)?;
    ensure!(status == 202, "{status} {body}");
    ensure!(receive(&mut device, 3)? == b"[1]");
    let connect = access::connect("backend", secret);
    let (mut backend, _) = Client::connect_with(pipeline.mqtt, "backend", 5, &connect)?;
    backend.send(&publish_packet("devices/lock-2/commands/lock", 1, "now", 5))?;
    ensure!(backend.puback(1)? == 0, "kafka has it");
    ensure!(receive(&mut device, 3)? == b"now");

    pipeline.eventually(
        "SELECT name, issued_by, state FROM command_status ORDER BY name DESC",
        "unlock\thttp\tdelivered\nlock\tbackend\tdelivered",
    )?;
    pipeline.eventually(
        "SELECT step, node_id, uniqExact(command_id) FROM commands GROUP BY ALL ORDER BY step",
        "issued\tgateway-1\t2\nsent\tgateway-2\t2\ndelivered\tgateway-2\t2",
    )?;
    let status = second.process.terminate(DEADLINE)?;
    ensure!(status.success(), "{status}: {}", second.process.log_tail(20));
    pipeline.stop()
}

#[test]
fn an_answer_that_comes_after_the_end_of_a_command_is_recorded() -> Result<()> {
    let pipeline = pipeline("command_late")?;
    let mut device = pipeline.connect("slow", 5)?;
    ensure!(device.subscribe("devices/slow/commands/#", 1)? == 1);
    let (status, body) =
        post(pipeline.gateway_operations, "slow", TOKEN, r#"{"name":"unlock","expires_in_s":1}"#)?;
    ensure!(status == 202, "{status} {body}");
    let body = device.expect(0x32)?;
    let topic_bytes = usize::from(u16::from_be_bytes([body[0], body[1]]));
    pipeline.eventually("SELECT state FROM command_status", "expired")?;
    pipeline.eventually("SELECT countIf(step = 'expired') FROM commands FINAL", "1")?;
    device.send(&[PUBACK, 2, body[2 + topic_bytes], body[3 + topic_bytes]])?;
    pipeline.eventually("SELECT state FROM command_status", "delivered")?;
    pipeline.stop()
}

#[test]
fn a_command_that_is_refused_is_answered_in_its_turn() -> Result<()> {
    let pipeline = open_to_all_with("command_order", &["commands.payload_bytes_max=8"])?;
    let mut boss = pipeline.connect("boss", 5)?;
    let heartbeat = |packet_id| publish_packet("devices/boss/heartbeat", packet_id, "{}", 5);
    let long_name = format!("devices/lock/commands/{}", "x".repeat(65));
    // In one write: what is refused is known before Kafka can have said anything about the heartbeat ahead of it.
    let packets = [
        heartbeat(1),
        publish_packet("devices/lock/commands/unlock", 2, "more than 8", 5),
        heartbeat(3),
        publish_packet(&long_name, 4, "", 5),
        publish_packet("devices//commands/unlock", 5, "", 5),
        publish_packet("devices/lock/commands/unlock", 6, "", 5),
        heartbeat(7),
    ];
    boss.send(&packets.concat())?;
    let mut codes = Vec::new();
    for packet_id in 1..=7 {
        codes.push(boss.puback(packet_id)?);
    }
    ensure!(codes == [0, 0x95, 0, 0x90, 0x90, 0, 0], "{codes:02x?}");
    // MQTT 3.1.1 has no word for it; and it is not acknowledged.
    let mut old = pipeline.connect("old", 4)?;
    old.send(&publish_packet("devices/lock/commands/unlock", 1, "more than 8", 4))?;
    ensure!(old.answer(DEADLINE)? == Answer::Closed);
    pipeline.stop()
}
