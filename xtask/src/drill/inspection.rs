//! Looks at the tables in the middle of a long drill, so that they can be merged without a trace being lost.
//!
//! While faults happen nothing is merged, or a record that stands twice would vanish before anybody saw it; but a table
//! of ten thousand parts is no table. So from time to time the writers stand still, what stands twice is counted, the
//! rows that a merge would drop are put aside (the views have seen them), and everything is merged.

use anyhow::Context;

use super::checks::Finding;
use crate::clickhouse::ClickHouse;

/// Database of the rows that merges have dropped.
pub(crate) const ASIDE: &str = "aside";

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Inspections {
    /// Of each table: its name, how often records stood more than once, and the first of these.
    repeated: Vec<(String, u64, String)>,
    times: u32,
}

impl Inspections {
    /// Nothing may be inserted meanwhile.
    pub(crate) fn inspect(&mut self, ask: &ClickHouse, tables: &[String]) -> anyhow::Result<()> {
        ask.run(&format!("CREATE DATABASE IF NOT EXISTS {ASIDE}"))?;
        self.times += 1;
        for table in tables {
            self.count(ask, table)?;
            let key = ask.value(&format!(
                "SELECT sorting_key FROM system.tables WHERE database = 'fleetpulse' AND name = '{table}'"
            ))?;
            ask.run(&format!(
                "CREATE TABLE IF NOT EXISTS {ASIDE}.{table} AS fleetpulse.{table} ENGINE = MergeTree ORDER BY tuple()"
            ))?;
            // Those that stay are put aside with them: to a maximum that is the same.
            ask.run(&format!(
                "INSERT INTO {ASIDE}.{table} SELECT * FROM fleetpulse.{table} WHERE ({key}) IN \
                 (SELECT {key} FROM fleetpulse.{table} GROUP BY {key} HAVING count() > 1)"
            ))?;
            ask.run(&format!("OPTIMIZE TABLE fleetpulse.{table} FINAL"))
                .with_context(|| format!("cannot merge {table}"))?;
        }
        Ok(())
    }

    /// Counts what stands more than once now.
    pub(crate) fn count(&mut self, ask: &ClickHouse, table: &str) -> anyhow::Result<()> {
        // Dead letters come from two topics, each with its own offsets.
        let record = match table {
            "dead_letters" => "source, kafka_partition, kafka_offset",
            _ => "kafka_partition, kafka_offset",
        };
        let count = ask.number(&format!("SELECT count() - uniqExact({record}) FROM fleetpulse.{table}"))?;
        let detail = match count {
            0 => String::new(),
            _ => ask.value(&format!(
                "SELECT concat('of partition ', toString(kafka_partition), ', offsets ', toString(min(kafka_offset)), \
                 ' to ', toString(max(kafka_offset)), ', in parts ', \
                 arrayStringConcat(arraySlice(arraySort(groupUniqArrayArray(parts)), 1, 6), ' ')) \
                 FROM (SELECT kafka_partition, kafka_offset, groupArray(_part) AS parts FROM fleetpulse.{table} \
                 GROUP BY {record} HAVING count() > 1) GROUP BY kafka_partition ORDER BY kafka_partition LIMIT 1"
            ))?,
        };
        match self.repeated.iter_mut().find(|(name, ..)| name == table) {
            Some((_, known, example)) => {
                *known += count;
                if example.is_empty() {
                    *example = detail;
                }
            }
            None => self.repeated.push((table.to_owned(), count, detail)),
        }
        Ok(())
    }

    /// The last look, and what all of them found.
    pub(crate) fn finish(mut self, ask: &ClickHouse, tables: &[String]) -> anyhow::Result<Vec<Finding>> {
        for table in tables {
            self.count(ask, table)?;
        }
        let finding = |(table, count, detail): &(String, u64, String)| {
            Finding::none(format!("records that stand twice in {table}, unmerged"), *count, detail)
        };
        Ok(self.repeated.iter().map(finding).collect())
    }

    /// How often everything was looked at and merged.
    pub(crate) fn times(&self) -> u32 {
        self.times
    }
}
