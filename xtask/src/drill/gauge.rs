//! Memory and processor time of the processes of a drill.

use std::time::Duration;

use super::site::Site;

/// Memory of one role at one moment: the most that any process of it holds, bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub gateway: u64,
    pub writer: u64,
    pub clickhouse: u64,
}

/// What was seen.
#[derive(Clone, Debug)]
pub(crate) struct Gauge {
    length: Duration,
    pub start: Option<Memory>,
    pub middle: Option<Memory>,
    pub end: Memory,
    pub most: Memory,
    /// Processor time of all gateways and of all writers, those that were killed included.
    pub gateways_cpu: Duration,
    pub writers_cpu: Duration,
}

impl Gauge {
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            length,
            start: None,
            middle: None,
            end: Memory::default(),
            most: Memory::default(),
            gateways_cpu: Duration::ZERO,
            writers_cpu: Duration::ZERO,
        }
    }

    pub(crate) fn look(&mut self, now: Duration, site: &mut Site) {
        let memory = memory(site);
        self.most = Memory {
            gateway: self.most.gateway.max(memory.gateway),
            writer: self.most.writer.max(memory.writer),
            clickhouse: self.most.clickhouse.max(memory.clickhouse),
        };
        self.start.get_or_insert(memory);
        if now >= self.length / 2 {
            self.middle.get_or_insert(memory);
        }
    }

    /// To be called while everything still runs.
    pub(crate) fn end(&mut self, site: &mut Site) {
        self.end = memory(site);
        self.gateways_cpu = site.gateways.iter_mut().map(|role| role.cpu()).sum();
        self.writers_cpu = site.writers.iter_mut().map(|role| role.cpu()).sum();
    }
}

fn memory(site: &mut Site) -> Memory {
    let most = |roles: &mut [super::role::Role]| {
        roles.iter_mut().filter_map(|role| role.resident_bytes()).max().unwrap_or(0)
    };
    Memory {
        gateway: most(&mut site.gateways),
        writer: most(&mut site.writers),
        clickhouse: site.clickhouse_process().and_then(|process| process.resident_bytes().ok()).unwrap_or(0),
    }
}
