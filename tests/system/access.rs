//! Who may connect, and what becomes of a session whose credential is taken away.

use std::io::Write;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::mqtt_client::{Answer, CONNACK, Client, DISCONNECT, packet};
use crate::pipeline::{Pipeline, command};
use crate::services::{DEADLINE, Services};

/// CONNECT of MQTT 5 with user name and password, each of less than 256 bytes.
pub(crate) fn connect(name: &str, password: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x05\xc2\0\x3c\0".to_vec();
    for text in [name, name, password] {
        body.extend([0, u8::try_from(text.len()).unwrap_or_default()]);
        body.extend(text.as_bytes());
    }
    packet(0x10, &body)
}

/// A line of the secrets file.
pub(crate) fn line(name: &str, secret: &str) -> Result<String> {
    let mut child = command("secret", &[])?
        .args(["hash", "--machine"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(secret.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{}", output.status);
    Ok(format!("{name} {}\n", String::from_utf8(output.stdout)?.trim()))
}

#[test]
fn a_secret_lets_its_device_in_and_its_removal_ends_the_session() -> Result<()> {
    let file = std::env::temp_dir().join(format!("fleetpulse-secrets-{}", std::process::id()));
    let (first, second) =
        (line("one", "secret-of-one-22-bytes-x")?, line("two", "secret-of-two-22-bytes-x")?);
    std::fs::write(&file, format!("{first}{second}"))?;
    let secrets = format!("access.secrets_file={}", file.display());
    let settings = ["access.chain=secrets", &secrets];
    let pipeline = Pipeline::start_on("secrets", Services::shared()?, &settings)?;

    let (mut one, _) =
        Client::connect_with(pipeline.mqtt, "one", 5, &connect("one", "secret-of-one-22-bytes-x"))?;
    let (mut two, _) =
        Client::connect_with(pipeline.mqtt, "two", 5, &connect("two", "secret-of-two-22-bytes-x"))?;
    ensure!(one.acknowledged_heartbeat(1, "{}")? == 0 && two.acknowledged_heartbeat(1, "{}")? == 0);
    for (name, password) in [("one", "secret-of-two-22-bytes-x"), ("three", "secret-of-one-22-bytes-x")] {
        let mut wrong = Client::open(pipeline.mqtt)?;
        wrong.send(&connect(name, password))?;
        let Answer::Packet { first_byte: CONNACK, body } = wrong.answer(DEADLINE)? else {
            anyhow::bail!("no CONNACK")
        };
        ensure!(body[1] == 0x86, "bad user name or password, not {body:02x?}");
        ensure!(wrong.answer(DEADLINE)? == Answer::Closed);
    }

    std::fs::write(&file, second)?;
    let Answer::Packet { first_byte: DISCONNECT, body } = one.answer(DEADLINE)? else {
        anyhow::bail!("no DISCONNECT")
    };
    ensure!(body.first() == Some(&0x87), "{body:02x?}");
    ensure!(two.acknowledged_heartbeat(2, "{}")? == 0, "the other goes on");
    pipeline.eventually(
        "SELECT device_id, reason FROM connections WHERE event = 'disconnected'",
        "one\tcredentials_revoked",
    )?;
    std::fs::remove_file(file)?;
    pipeline.stop()
}
