//! What came of a drill, for people and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::checks::Finding;
use super::gauge::{Gauge, Memory};
use super::schedule::Kind;
use crate::ledger::{Line, Stored, grouped};

/// All that is told of a drill.
#[derive(Debug)]
pub(crate) struct Report {
    pub seed: u64,
    pub seconds: f64,
    pub brokers: usize,
    pub devices: u32,
    pub rate: u32,
    /// How the disk was filled.
    pub disk: &'static str,
    pub faults: Vec<Kind>,
    /// Kafka or ClickHouse ended by themselves: unasked faults.
    pub crashes: Vec<String>,
    pub published: u64,
    pub resent: u64,
    pub reconnects: u64,
    pub acknowledged: u64,
    pub stored: Stored,
    pub gauge: Gauge,
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether every check holds.
    pub(crate) fn holds(&self) -> bool {
        self.findings.iter().all(|finding| finding.holds)
    }

    fn by_kind(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for kind in &self.faults {
            *counts.entry(kind.name()).or_insert(0) += 1;
        }
        counts
    }

    pub(crate) fn print(&self) {
        println!("\ndrill of seed {}, {:.0} s, {} broker(s)", self.seed, self.seconds, self.brokers);
        let kinds: Vec<String> =
            self.by_kind().iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        println!("  faults: {} ({}); a full disk is {}", self.faults.len(), kinds.join(", "), self.disk);
        if let Some(crash) = self.crashes.first() {
            println!(
                "  besides, unasked: {} crash(es) of Kafka or ClickHouse, the first: {crash}",
                self.crashes.len()
            );
        }
        let us = |cpu: std::time::Duration| {
            format!("{:.1} us", cpu.as_secs_f64() * 1e6 / self.acknowledged.max(1) as f64)
        };
        let lines = [
            Line::new("published by devices", grouped(self.published)),
            Line::new("sent again by devices", grouped(self.resent)),
            Line::new("reconnects", grouped(self.reconnects)),
            Line::new("acknowledged", grouped(self.acknowledged)),
            Line::new("stored", grouped(self.stored.identities)).note("distinct heartbeats"),
            Line::new("stored, but not acknowledged", grouped(self.stored.unacknowledged))
                .note("allowed: the PUBACK was outstanding"),
            Line::new("rows, unmerged", grouped(self.stored.rows_unmerged))
                .note("what was sent again stands once per arrival"),
            Line::new("dead letters", grouped(self.stored.dead_letters)),
            Line::new("CPU per heartbeat, gateways", us(self.gauge.gateways_cpu)),
            Line::new("CPU per heartbeat, writers", us(self.gauge.writers_cpu)),
        ];
        lines.iter().for_each(|line| println!("{line}"));
        let start = self.gauge.start.unwrap_or_default();
        let middle = self.gauge.middle.unwrap_or_default();
        let of = |which: fn(&Memory) -> u64| {
            let all = [&start, &middle, &self.gauge.end, &self.gauge.most];
            all.map(|memory| (which(memory) >> 20).to_string()).join(" / ")
        };
        println!("  memory at start / middle / end / most, MiB");
        println!("    gateway     {}", of(|memory| memory.gateway));
        println!("    writer      {}", of(|memory| memory.writer));
        println!("    clickhouse  {}", of(|memory| memory.clickhouse));
        println!();
        for Finding { claim, found, holds } in &self.findings {
            println!("  {} {claim}: {found}", if *holds { "ok    " } else { "FAILED" });
        }
        println!("\n{}", if self.holds() { "every check holds" } else { "checks FAILED: see above" });
    }

    pub(crate) fn json(&self) -> Value {
        let memory = |memory: Memory| {
            json!({
                "gateway_bytes": memory.gateway,
                "writer_bytes": memory.writer,
                "clickhouse_bytes": memory.clickhouse,
            })
        };
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|Finding { claim, found, holds }| json!({ "claim": claim, "found": found, "holds": holds }))
            .collect();
        json!({
            "seed": self.seed,
            "seconds": self.seconds,
            "brokers": self.brokers,
            "devices": self.devices,
            "rate": self.rate,
            "disk_full_by": self.disk,
            "faults": self.faults.len(),
            "faults_by_kind": self.by_kind(),
            "crashes": self.crashes,
            "published": self.published,
            "resent": self.resent,
            "reconnects": self.reconnects,
            "acknowledged": self.acknowledged,
            "stored": self.stored.identities,
            "stored_unacknowledged": self.stored.unacknowledged,
            "rows_unmerged": self.stored.rows_unmerged,
            "missing": self.stored.missing,
            "doubled": self.stored.doubled,
            "gateways_cpu_s": self.gauge.gateways_cpu.as_secs_f64(),
            "writers_cpu_s": self.gauge.writers_cpu.as_secs_f64(),
            "memory": {
                "start": memory(self.gauge.start.unwrap_or_default()),
                "middle": memory(self.gauge.middle.unwrap_or_default()),
                "end": memory(self.gauge.end),
                "most": memory(self.gauge.most),
            },
            "findings": findings,
            "holds": self.holds(),
        })
    }
}
