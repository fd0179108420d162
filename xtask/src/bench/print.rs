//! The report of a bench, to be read by people.

use serde_json::Value;

pub(crate) fn table(report: &Value) {
    let machine = &report["machine"];
    println!(
        "\nmachine     {} cores, {}, {}, Linux {}; load average before {}",
        text(&machine["cores"]),
        text(&machine["cpu"]),
        text(&machine["memory"]),
        text(&machine["kernel"]),
        text(&machine["load_average_before"])
    );
    println!(
        "versions    {}, Kafka {}, ClickHouse {}, {}",
        text(&machine["fleetpulse"]),
        text(&machine["kafka"]),
        text(&machine["clickhouse"]),
        text(&machine["rustc"])
    );
    let what = &report["what"];
    println!(
        "load        {} devices, QoS 1, {} in flight each, {}, measured for {} s",
        text(&what["devices"]),
        text(&what["in_flight"]),
        text(&what["pace"]),
        text(&report["seconds"])
    );
    println!(
        "throughput  {} acknowledged/s, {} stored/s",
        text(&report["acknowledged_per_s"]),
        text(&report["stored_per_s"])
    );
    println!("PUBACK      {} ms at the devices (whole run)", quantiles(&report["puback_ms_of_devices"]));
    println!("            {} ms in the gateway", quantiles(&report["puback_ms_of_gateway"]));
    println!("freshness   {} ms", quantiles(&report["freshness_ms"]));
    println!(
        "ledger      {} acknowledged, {} missing, {} doubled\n",
        text(&report["ledger"]["acknowledged"]),
        text(&report["ledger"]["missing"]),
        text(&report["ledger"]["doubled"])
    );
    println!("process      CPU us/acknowledged  CPU us/stored  cores used  resident MiB");
    for process in report["processes"].as_array().into_iter().flatten() {
        println!(
            "{:<12} {:>19}  {:>13}  {:>10}  {:>12}",
            text(&process["name"]),
            text(&process["cpu_us_per_acknowledged"]),
            text(&process["cpu_us_per_stored"]),
            text(&process["cores_used"]),
            text(&process["resident_mib"])
        );
    }
    println!();
}

fn quantiles(of: &Value) -> String {
    format!("p50 {}  p99 {}", text(&of["p50"]), text(&of["p99"]))
}

/// Without the quotes of JSON; `-` where there is nothing.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
