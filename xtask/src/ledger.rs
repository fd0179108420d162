//! The ledger: what devices saw acknowledged against what stands in the table.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::clickhouse::ClickHouse;

/// How long after the last PUBACK the rows may take.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// Between two looks at the table.
const PAUSE: Duration = Duration::from_millis(500);

/// The heartbeats that devices saw acknowledged: the sequence numbers of each device, in order.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    devices: HashMap<String, Vec<u64>>,
    count: u64,
}

/// What stands in the table, compared with what was acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Heartbeats of this run, each counted once.
    pub identities: u64,
    /// Rows, as a reader sees them (`FINAL`).
    pub rows: u64,
    /// Rows, those included that ClickHouse has not merged away yet.
    pub rows_unmerged: u64,
    /// Acknowledged and not there.
    pub missing: u64,
    /// There more than once.
    pub doubled: u64,
    /// There, and never acknowledged: sent, and the answer was still outstanding at the end.
    pub unacknowledged: u64,
    /// Of this run's devices.
    pub dead_letters: u64,
}

impl Acknowledged {
    /// From lines `device_id<TAB>sequence`, as `fleetpulse simulate --acknowledged` writes them.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(BufReader::new(file)).with_context(|| format!("cannot read {}", path.display()))
    }

    fn parse(lines: impl BufRead) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for line in lines.lines() {
            let line = line?;
            let (device, sequence) = line.split_once('\t').with_context(|| format!("no tab in {line:?}"))?;
            let sequence = sequence.parse().with_context(|| format!("no number in {line:?}"))?;
            match all.devices.get_mut(device) {
                Some(known) => known.push(sequence),
                None => drop(all.devices.insert(device.to_owned(), vec![sequence])),
            }
            all.count += 1;
        }
        for sequences in all.devices.values_mut() {
            sequences.sort_unstable();
            sequences.dedup();
        }
        all.count = all.devices.values().map(|sequences| sequences.len() as u64).sum();
        Ok(all)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    fn holds(&self, device: &str, sequence: u64) -> bool {
        self.devices.get(device).is_some_and(|known| known.binary_search(&sequence).is_ok())
    }
}

impl Stored {
    /// Waits until every acknowledged heartbeat stands in the table, at most 30 s, and tells what stands there.
    pub(crate) fn settle(
        clickhouse: &ClickHouse,
        prefix: &str,
        acknowledged: &Acknowledged,
    ) -> anyhow::Result<Self> {
        Self::settle_within(SETTLE_MAX, clickhouse, prefix, acknowledged)
    }

    /// The same, with another patience.
    pub(crate) fn settle_within(
        patience: Duration,
        clickhouse: &ClickHouse,
        prefix: &str,
        acknowledged: &Acknowledged,
    ) -> anyhow::Result<Self> {
        let end = Instant::now() + patience;
        loop {
            let last_look = Instant::now() >= end;
            let count = format!(
                "SELECT uniqExact(device_id, sequence) FROM fleetpulse.heartbeats WHERE {}",
                of(prefix)
            );
            // The full comparison moves every identity over the wire: it waits until it can succeed.
            if last_look || clickhouse.number(&count)? >= acknowledged.count() {
                let stored = Self::look(clickhouse, prefix, acknowledged)?;
                if last_look || stored.missing == 0 {
                    return Ok(stored);
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn look(clickhouse: &ClickHouse, prefix: &str, acknowledged: &Acknowledged) -> anyhow::Result<Self> {
        let of = of(prefix);
        let mut stored = Self::default();
        let query = format!(
            "SELECT device_id, sequence, count() FROM fleetpulse.heartbeats FINAL WHERE {of} \
             GROUP BY device_id, sequence FORMAT TabSeparated"
        );
        let mut found = 0;
        clickhouse.lines(&query, |line| stored.count(line, acknowledged, &mut found))?;
        stored.missing = acknowledged.count() - found;
        stored.rows_unmerged =
            clickhouse.number(&format!("SELECT count() FROM fleetpulse.heartbeats WHERE {of}"))?;
        stored.dead_letters =
            clickhouse.number(&format!("SELECT count() FROM fleetpulse.dead_letters FINAL WHERE {of}"))?;
        Ok(stored)
    }

    /// One identity of the table: device, sequence (`\N` where it has none) and number of rows.
    fn count(&mut self, line: &str, acknowledged: &Acknowledged, found: &mut u64) -> anyhow::Result<()> {
        let mut fields = line.split('\t');
        let (Some(device), Some(sequence), Some(rows)) = (fields.next(), fields.next(), fields.next()) else {
            anyhow::bail!("ClickHouse answered {line:?}");
        };
        let rows: u64 = rows.parse().with_context(|| format!("ClickHouse answered {line:?}"))?;
        self.identities += 1;
        self.rows += rows;
        self.doubled += u64::from(rows > 1);
        match sequence.parse() {
            Ok(sequence) if acknowledged.holds(device, sequence) => *found += 1,
            _ => self.unacknowledged += 1,
        }
        Ok(())
    }

    /// Whether every acknowledged heartbeat is there exactly once.
    pub(crate) fn is_right(&self) -> bool {
        self.missing == 0 && self.doubled == 0
    }
}

/// This run's devices. A prefix is letters, digits and dashes.
fn of(prefix: &str) -> String {
    format!("startsWith(device_id, '{prefix}')")
}

/// A line of a table: what, how much, and a note.
#[derive(Debug)]
pub(crate) struct Line {
    what: &'static str,
    much: String,
    note: &'static str,
}

impl Line {
    pub(crate) fn new(what: &'static str, much: String) -> Self {
        Self { what, much, note: "" }
    }

    pub(crate) fn note(self, note: &'static str) -> Self {
        Self { note, ..self }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, much, note } = self;
        write!(f, "  {what:<32} {much:>16}")?;
        if note.is_empty() { Ok(()) } else { write!(f, "  {note}") }
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(acknowledged: &str, table: &[&str]) -> Stored {
        let acknowledged = Acknowledged::parse(acknowledged.as_bytes()).expect("lines");
        let (mut stored, mut found) = (Stored::default(), 0);
        for line in table {
            stored.count(line, &acknowledged, &mut found).expect("a line");
        }
        stored.missing = acknowledged.count() - found;
        stored
    }

    #[test]
    fn what_is_acknowledged_and_stored_once_is_right() {
        let stored = compared("a\t1\na\t2\nb\t1\n", &["b\t1\t1", "a\t2\t1", "a\t1\t1"]);
        assert!(stored.is_right());
        assert_eq!((stored.identities, stored.rows, stored.unacknowledged), (3, 3, 0));
    }

    #[test]
    fn a_missing_one_is_not_hidden_by_one_that_nobody_acknowledged() {
        let stored = compared("a\t1\na\t2\n", &["a\t1\t1", "a\t3\t1", "a\t\\N\t1"]);
        assert!(!stored.is_right());
        assert_eq!((stored.missing, stored.unacknowledged), (1, 2));
    }

    #[test]
    fn a_doubled_one_is_wrong() {
        let stored = compared("a\t1\n", &["a\t1\t2"]);
        assert!(!stored.is_right());
        assert_eq!((stored.identities, stored.rows, stored.doubled), (1, 2, 1));
    }

    #[test]
    fn a_broken_line_is_an_error_and_not_a_hole() {
        assert!(Acknowledged::parse("a\t1\nb".as_bytes()).is_err());
        assert!(Acknowledged::parse("a\tx\n".as_bytes()).is_err());
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
