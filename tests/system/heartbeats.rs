//! The main job: from a client to a row.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use crate::pipeline::Pipeline;

/// `mosquitto_pub`: a client that nobody here wrote.
fn mosquitto_pub(pipeline: &Pipeline, device_id: &str, version: &str, payload: &str) -> Result<()> {
    let published = Command::new("mosquitto_pub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &pipeline.mqtt.port().to_string(),
            "-i",
            device_id,
            "-q",
            "1",
            "-V",
            version,
        ])
        .args(["-t", &format!("devices/{device_id}/heartbeat"), "-m", payload])
        .output()
        .context("cannot run mosquitto_pub: install the package mosquitto-clients")?;
    ensure!(published.status.success(), "mosquitto_pub: {}", String::from_utf8_lossy(&published.stderr));
    Ok(())
}

#[test]
fn mosquitto_publishes_in_3_1_1_and_in_5_and_the_rows_are_there() -> Result<()> {
    let pipeline = Pipeline::start("mosquitto")?;
    mosquitto_pub(&pipeline, "old", "311", r#"{"ts":1767225600123,"seq":42,"battery":{"percent":87.5}}"#)?;
    mosquitto_pub(&pipeline, "new", "5", r#"{"seq":43,"extra":{"kickstand":"up"},"motor_temp_c":31.50}"#)?;
    pipeline.eventually(
        "SELECT device_id, sequence, clock, battery_percent, extra FROM heartbeats ORDER BY device_id",
        "new\t43\tgateway\t\\N\t{\"motor_temp_c\":31.50,\"kickstand\":\"up\"}\nold\t42\tdevice\t87.5\t",
    )?;
    pipeline.eventually(
        "SELECT protocol_level FROM connections WHERE event = 'connected' ORDER BY device_id",
        "5\n4",
    )?;
    pipeline.stop()
}

#[test]
fn every_field_of_the_heartbeat_stands_in_its_column() -> Result<()> {
    let pipeline = Pipeline::start("every_field")?;
    let payload = r#"{"ts":"2026-01-01T00:00:00.123Z","seq":42,"boot_id":"b7","uptime_s":86400,"firmware":"1.4.2",
        "state":"riding","next_s":30,"battery":{"percent":87.5,"millivolts":41200,"charging":false},
        "position":{"lat":52.52,"lon":13.405,"alt_m":34,"speed_mps":5.5,"accuracy_m":4},
        "radio":{"rat":"LTE-M","plmn":"26201","cell_id":12345678,"tac":4660,"rssi_dbm":-71,"rsrp_dbm":-101,"rsrq_db":-11,"sinr_db":8},
        "sim":{"iccid":"8949020000012345678","imsi":"262011234567890","imei":"356938035643809"},
        "usage":{"tx_bytes":123456,"rx_bytes":65432},"extra":{"kickstand":"up"}}"#;
    let mut device = pipeline.connect("full", 5)?;
    ensure!(device.acknowledged_heartbeat(1, payload)? == 0);
    pipeline.eventually(
        "SELECT device_time, sequence, boot_id, uptime_s, firmware, state, next_s, battery_percent, battery_millivolts,
                battery_charging, latitude_deg, longitude_deg, altitude_m, speed_mps, accuracy_m, rat, plmn, cell_id, tac,
                rssi_dbm, rsrp_dbm, rsrq_db, sinr_db, iccid, imsi, imei, modem_tx_bytes, modem_rx_bytes, extra
         FROM heartbeats FORMAT CSV",
        "\"2026-01-01 00:00:00.123\",42,\"b7\",86400,\"1.4.2\",\"riding\",30,87.5,41200,false,52.52,13.405,34,5.5,4,\
         \"LTE-M\",\"26201\",12345678,4660,-71,-101,-11,8,\"8949020000012345678\",\"262011234567890\",\
         \"356938035643809\",123456,65432,\"{\"\"kickstand\"\":\"\"up\"\"}\"",
    )?;
    pipeline.stop()
}

#[test]
fn a_heartbeat_sent_again_is_the_same_heartbeat() -> Result<()> {
    let pipeline = Pipeline::start("sent_again")?;
    let mut device = pipeline.connect("twice", 4)?;
    // Yesterday: the heartbeat of the later hour arrives first.
    let hour = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 3_600 * 3_600 - 86_400;
    let payload =
        format!(r#"{{"ts":{hour}000,"seq":1,"boot_id":"b","usage":{{"tx_bytes":1000,"rx_bytes":500}}}}"#);
    let later = format!(
        r#"{{"ts":{}000,"seq":2,"boot_id":"b","usage":{{"tx_bytes":1600,"rx_bytes":700}}}}"#,
        hour + 3_600
    );
    let (payload, later) = (payload.as_str(), later.as_str());
    device.acknowledged_heartbeat(1, later)?;
    device.acknowledged_heartbeat(2, payload)?;
    pipeline.eventually("SELECT count() FROM heartbeats FINAL", "2")?;
    for packet_id in 3..6 {
        device.acknowledged_heartbeat(packet_id, payload)?;
    }
    // All of them have landed when one that was sent after them has.
    device.acknowledged_heartbeat(6, r#"{"seq":3}"#)?;
    pipeline.eventually("SELECT count() FROM heartbeats FINAL WHERE sequence = 3", "1")?;
    pipeline.eventually(
        "SELECT sequence, count() FROM heartbeats FINAL GROUP BY sequence ORDER BY sequence",
        "1\t1\n2\t1\n3\t1",
    )?;
    pipeline.settle()?;
    let usage = pipeline.ask(
        "SELECT toUnixTimestamp(hour), modem_tx_bytes, modem_rx_bytes FROM usage_hourly WHERE modem_tx_bytes > 0 ORDER BY hour",
    )?;
    ensure!(usage == format!("{hour}\t1000\t500\n{}\t600\t200", hour + 3_600), "{usage}");
    pipeline.stop()
}
