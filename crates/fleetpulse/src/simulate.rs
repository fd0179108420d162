//! `fleetpulse simulate`: a fleet of devices against a gateway.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use simulator::{Config, Pace, Snapshot, Tls};

use crate::cli::{Protocol, Simulate};
use crate::roles;

pub(crate) fn run(flags: &Simulate) -> anyhow::Result<ExitCode> {
    // Opened first: a run whose outcome cannot be kept is not begun.
    let acknowledged = match &flags.acknowledged {
        Some(path) => Some(File::create(path).with_context(|| format!("cannot write {}", path.display()))?),
        None => None,
    };
    let report = roles::runtime()?.block_on(async {
        let stop = roles::stop_on_signal()?;
        anyhow::Ok(simulator::run(config(flags)?, stop, |snapshot| show(snapshot, flags.json)).await?)
    })?;
    if let Some(file) = acknowledged {
        let mut file = BufWriter::new(file);
        report
            .write_acknowledged(&mut file)
            .and_then(|()| file.flush())
            .context("cannot write what was acknowledged")?;
    }
    let mut last = serde_json::to_value(&report)?;
    if let Some(fields) = last.as_object_mut() {
        fields.insert("final".into(), true.into());
    }
    println!("{last}");
    Ok(ExitCode::SUCCESS)
}

fn config(flags: &Simulate) -> anyhow::Result<Config> {
    let (&first, others) = flags.mqtt.split_first().context("name a gateway with --mqtt")?;
    let mut config = Config::new(first, flags.devices);
    config.others = others.to_vec();
    config.backoff.max = flags.backoff_max;
    config.backoff.first = config.backoff.first.min(flags.backoff_max);
    config.drain = flags.drain;
    config.clock_steps.clone_from(&flags.clock_step);
    config.device_prefix.clone_from(&flags.prefix);
    config.pace = match flags.rate {
        Some(per_second) => Pace::Rate { per_second },
        None if flags.saturate => Pace::Saturate,
        None => Pace::Interval(flags.interval),
    };
    config.duration = flags.seconds.map(Duration::from_secs);
    config.protocol = match flags.protocol {
        Protocol::V311 => simulator::Protocol::V311,
        Protocol::V5 => simulator::Protocol::V5,
        Protocol::Both => simulator::Protocol::Both,
    };
    config.in_flight = flags.in_flight;
    config.connect_rate = flags.connect_rate;
    config.sources.clone_from(&flags.source);
    config.seed = flags.seed;
    config.reconnect_after = flags.reconnect_after;
    if let Some(file) = &flags.tls_ca {
        let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let tls = Tls::trusting(&pem, &flags.tls_name);
        config.tls = Some(tls.with_context(|| format!("cannot use {}", file.display()))?);
    }
    Ok(config)
}

fn show(snapshot: &Snapshot, json: bool) {
    if json {
        if let Ok(line) = serde_json::to_string(snapshot) {
            println!("{line}");
        }
        return;
    }
    let counts = &snapshot.counts;
    eprintln!(
        "{:>6.0} s  online {}  published {}  acknowledged {}  outstanding {}  PUBACK p50 {:.1} ms  p99 {:.1} ms",
        snapshot.elapsed_s,
        counts.online,
        counts.published,
        counts.acknowledged,
        counts.outstanding,
        snapshot.puback_ms.p50,
        snapshot.puback_ms.p99
    );
}
