//! Commands: from a back end over HTTP or MQTT to a device on whichever node it is, and back.

use anyhow::{Result, ensure};

use crate::mqtt_client::{Client, publish_packet};
use crate::pipeline::Pipeline;
use crate::services::eventually;

const TOKEN: &str = "a-token-for-tests-only";

/// A pipeline whose gateway takes commands over HTTP.
fn pipeline(test: &str) -> Result<Pipeline> {
    let token = std::env::temp_dir().join(format!("fleetpulse-{test}-{}", std::process::id()));
    std::fs::write(&token, TOKEN)?;
    let setting = format!("commands.token_file={}", token.display());
    let started = Pipeline::start_on(test, crate::services::Services::shared()?, &[&setting]);
    std::fs::remove_file(token)?;
    started
}

/// Issues a command; status and body of the answer.
fn post(pipeline: &Pipeline, device: &str, token: &str, body: &str) -> Result<(u16, String)> {
    let url = format!("http://{}/v1/devices/{device}/commands", pipeline.gateway_operations);
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
    let (status, _) = post(&pipeline, "lock-1", "wrong-token-of-some-length", "{}")?;
    ensure!(status == 401, "{status}");
    let (status, body) =
        post(&pipeline, "lock-1", TOKEN, r#"{"name":"unlock","payload":{"for_s":9},"expires_in_s":60}"#)?;
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
    let (status, body) = post(&pipeline, "lock-1", TOKEN, r#"{"name":"lock","payload":"now","qos":1}"#)?;
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
