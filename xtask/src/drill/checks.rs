//! What must be so when a drill is over: each check is one claim, judged from outside the product.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use devstack::Kafka;

use super::inspection::ASIDE;
use crate::build::Programs;
use crate::clickhouse::ClickHouse;

/// The consumer group of the writers.
const GROUP: &str = "fleetpulse-writer";
const LAG_TOOL: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
/// How long the writers may take for what is left on Kafka.
const LAG_MAX: Duration = Duration::from_secs(90);
/// A minute of the ledger has to be over before it can be judged.
const LEDGER_WAIT: &str = "90s";
const LAG_PAUSE: Duration = Duration::from_secs(1);
/// Rows that are told of a difference: enough to see of which kind it is.
const TOLD_MAX: u32 = 20;

/// A claim and what was found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub claim: String,
    pub found: String,
    pub holds: bool,
}

impl Finding {
    pub(crate) fn none(claim: impl Into<String>, count: u64, detail: &str) -> Self {
        let found = if detail.is_empty() { count.to_string() } else { format!("{count}: {detail}") };
        Self { claim: claim.into(), found, holds: count == 0 }
    }
}

/// Heartbeats that a reader finds twice, and how many of these are of clocks that are not believed.
pub(crate) fn doubled(ask: &ClickHouse, prefix: &str, count: u64) -> anyhow::Result<Finding> {
    let detail = match count {
        0 => String::new(),
        _ => format!(
            "{} of them of clocks that are not believed",
            ask.number(&format!(
                "SELECT count() FROM (SELECT device_id, sequence FROM fleetpulse.heartbeats FINAL \
                 WHERE startsWith(device_id, '{prefix}') GROUP BY device_id, sequence \
                 HAVING count() > 1 AND countIf(clock != 'device') > 0)"
            ))?
        ),
    };
    Ok(Finding::none("heartbeats that stand twice for a reader", count, &detail))
}

/// Whether what the views keep is what their queries make of all rows, table by table, column by column.
///
/// `merged`: whether rows were put aside.
pub(crate) fn rollups(ask: &ClickHouse, merged: bool) -> anyhow::Result<Vec<Finding>> {
    let mut views: Vec<(String, String)> = Vec::new();
    ask.lines(
        "SELECT extract(create_table_query, ' TO fleetpulse\\\\.`?(\\\\w+)'), replaceAll(as_select, '\\n', ' ') \
         FROM system.tables WHERE database = 'fleetpulse' AND engine = 'MaterializedView' ORDER BY 1, name FORMAT TSVRaw",
        |line| {
            let (target, select) = line.split_once('\t').context("a view without a target")?;
            views.push((target.to_owned(), select.to_owned()));
            Ok(())
        },
    )?;
    if views.is_empty() {
        bail!("there is no view to check");
    }
    ask.run("CREATE DATABASE IF NOT EXISTS recomputed")?;
    let mut targets: Vec<&String> = views.iter().map(|(target, _)| target).collect();
    targets.dedup();
    let mut findings = Vec::new();
    for target in targets {
        ask.run(&format!("DROP TABLE IF EXISTS recomputed.{target} SYNC"))?;
        ask.run(&format!("CREATE TABLE recomputed.{target} AS fleetpulse.{target}"))?;
        ask.run(&format!(
            "ALTER TABLE recomputed.{target} MODIFY SETTING non_replicated_deduplication_window = 0"
        ))?;
        for (_, select) in views.iter().filter(|(of, _)| of == target) {
            let columns = ask.column(&format!("DESCRIBE TABLE ({select})"))?.join(", ");
            ask.run(&format!("INSERT INTO recomputed.{target} ({columns}) {select}"))?;
            if merged {
                // The view has also seen the rows that merges have dropped since.
                let dropped = select.replace(" fleetpulse.", &format!(" {ASIDE}."));
                ask.run(&format!("INSERT INTO recomputed.{target} ({columns}) {dropped}"))?;
            }
        }
        findings.push(compared(ask, target)?);
    }
    Ok(findings)
}

fn compared(ask: &ClickHouse, target: &str) -> anyhow::Result<Finding> {
    let differing = |left: &str, right: &str| {
        format!("(SELECT * FROM {left}.{target} FINAL EXCEPT SELECT * FROM {right}.{target} FINAL)")
    };
    let kept = ask.number(&format!("SELECT count() FROM fleetpulse.{target} FINAL"))?;
    let mut count = 0;
    let mut detail = String::new();
    for (left, right, what) in [
        ("fleetpulse", "recomputed", "kept, not recomputed"),
        ("recomputed", "fleetpulse", "recomputed, not kept"),
    ] {
        let rows = differing(left, right);
        let found = ask.number(&format!("SELECT count() FROM {rows}"))?;
        if found > 0 && detail.is_empty() {
            detail = format!("{what}: {}", ask.value(&format!("SELECT * FROM {rows} LIMIT 1"))?);
        }
        count += found;
    }
    let mut finding =
        Finding::none(format!("rows of {target} that differ from a recomputation"), count, &detail);
    if kept == 0 {
        finding.holds = false;
        "the table is empty".clone_into(&mut finding.found);
    }
    Ok(finding)
}

/// Waits until the writers have committed everything that stands on Kafka, as Kafka's own tool sees it.
pub(crate) fn lag(kafka: &Kafka) -> anyhow::Result<Finding> {
    let end = Instant::now() + LAG_MAX;
    loop {
        let answer = lag_now(kafka);
        if matches!(answer, Ok((0, _))) || Instant::now() >= end {
            let (lag, detail) = answer?;
            return Ok(Finding::none("records of Kafka that the writers did not commit", lag, &detail));
        }
        std::thread::sleep(LAG_PAUSE);
    }
}

fn lag_now(kafka: &Kafka) -> anyhow::Result<(u64, String)> {
    let text = kafka.tool(LAG_TOOL, &["--describe", "--group", GROUP])?;
    sum_of_lags(&text).with_context(|| format!("Kafka's own tool says: {text}"))
}

/// From the tool's table; the lines that lag, too.
fn sum_of_lags(text: &str) -> anyhow::Result<(u64, String)> {
    let mut lines = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let header = lines.find(|line| line.contains(&"LAG")).context("no header")?;
    let column = |name: &str| header.iter().position(|of| *of == name).context("a column is missing");
    let (topic, partition, log_end, lag) =
        (column("TOPIC")?, column("PARTITION")?, column("LOG-END-OFFSET")?, column("LAG")?);
    let (mut sum, mut partitions, mut detail) = (0, 0, Vec::new());
    // Around the table stands what the tool logs.
    for line in lines.filter(|line| line.first() == Some(&GROUP) && line.len() > lag) {
        // Nothing was ever committed: all of it lags.
        let number: u64 = line[lag].parse().or_else(|_| line[log_end].parse())?;
        if number > 0 {
            detail.push(format!("{}/{} by {number}", line[topic], line[partition]));
        }
        sum += number;
        partitions += 1;
    }
    if partitions == 0 {
        bail!("no partition");
    }
    Ok((sum, detail.join(", ")))
}

/// Whether usage that was settled bit by bit, under faults, is what one settling of all rows makes of them.
pub(crate) fn usage(ask: &ClickHouse, programs: &Programs, clickhouse: &str) -> anyhow::Result<Finding> {
    let settle = || -> anyhow::Result<()> {
        let output = Command::new(&programs.fleetpulse)
            .args(["--set", &format!("clickhouse.url={clickhouse}"), "settle"])
            .output()?;
        if !output.status.success() {
            bail!("`fleetpulse settle`: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    };
    settle()?;
    let kept = ask.number("SELECT count() FROM fleetpulse.device_hours")?;
    ask.run("CREATE DATABASE IF NOT EXISTS recomputed")?;
    ask.run("DROP TABLE IF EXISTS recomputed.device_hours SYNC")?;
    ask.run("CREATE TABLE recomputed.device_hours ENGINE = MergeTree ORDER BY device_id AS SELECT * FROM fleetpulse.device_hours")?;
    for table in ["usage_hours", "usage_days", "usage_months", "usage_day_hours", "settle_runs"] {
        ask.run(&format!("TRUNCATE TABLE fleetpulse.{table}"))?;
    }
    settle()?;
    let differing = "(SELECT 'bit by bit' AS settled, * FROM (SELECT * FROM recomputed.device_hours EXCEPT SELECT * FROM fleetpulse.device_hours) \
         UNION ALL SELECT 'at once', * FROM (SELECT * FROM fleetpulse.device_hours EXCEPT SELECT * FROM recomputed.device_hours))";
    let count = ask.number(&format!("SELECT count() FROM {differing}"))?;
    // What is in the tables goes with them: the rows themselves are all that is left to look for the reason in.
    let rows = format!("SELECT formatRowNoNewline('JSONEachRow', *) FROM {differing} LIMIT {TOLD_MAX}");
    let rows = if count == 0 { String::new() } else { ask.column(&rows)?.join("; ") };
    let mut finding = Finding::none("hours of usage that differ from a settling of all rows", count, &rows);
    if kept == 0 {
        finding.holds = false;
        "there is no usage".clone_into(&mut finding.found);
    }
    Ok(finding)
}

/// Whether the costs that stand, of all months that were settled, are what working them out now says.
pub(crate) fn costs(ask: &ClickHouse) -> anyhow::Result<Finding> {
    // The parts of a SIM have no order.
    let columns = "* REPLACE (arraySort(parts) AS parts)";
    let (mut differing, mut sims) = (0, 0);
    for month in ask.column("SELECT month FROM sim_month_runs FINAL ORDER BY month")? {
        let kept = format!("SELECT {columns} FROM sim_months(month = '{month}')");
        let now = format!("SELECT {columns} FROM sim_months_now(month = '{month}')");
        sims += ask.number(&format!("SELECT count() FROM ({kept})"))?;
        differing += ask.number(&format!(
            "SELECT count() FROM (({kept} EXCEPT {now}) UNION ALL ({now} EXCEPT {kept}))"
        ))?;
    }
    let mut finding = Finding::none("costs of SIMs that differ from those worked out now", differing, "");
    if sims == 0 {
        finding.holds = false;
        "there are no costs".clone_into(&mut finding.found);
    }
    Ok(finding)
}

/// Whether the product's own ledger adds up; `None` where this version has none.
pub(crate) fn ledger(
    programs: &Programs,
    kafka: &Kafka,
    clickhouse: &str,
) -> anyhow::Result<Option<Finding>> {
    let known = Command::new(&programs.fleetpulse).args(["help", "ledger"]).output()?;
    if !known.status.success() {
        return Ok(None);
    }
    let output = Command::new(&programs.fleetpulse)
        .args(["--set", &format!("kafka.brokers={}", kafka.bootstrap())])
        .args(["--set", &format!("clickhouse.url={clickhouse}")])
        .args(["ledger", "--since", "25h", "--wait", LEDGER_WAIT])
        .output()?;
    let differs = u64::from(!output.status.success());
    let text = [output.stdout, output.stderr].concat();
    let detail = if differs == 0 { String::new() } else { String::from_utf8_lossy(&text).into_owned() };
    Ok(Some(Finding::none("differences in `fleetpulse ledger`", differs, &detail)))
}

/// Logs in which a thread panicked.
pub(crate) fn panics(logs: &[PathBuf]) -> anyhow::Result<Finding> {
    let mut found = Vec::new();
    for log in logs {
        let text = std::fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        found.extend(
            text.lines()
                .filter(|line| line.contains("panicked at"))
                .map(|line| format!("{}: {line}", log.display())),
        );
    }
    Ok(Finding::none("panics in logs", found.len() as u64, found.first().map_or("", String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::sum_of_lags;

    #[test]
    fn what_was_never_committed_lags_whole() {
        let text = "\nGROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID\n\
                    fleetpulse-writer events 0 10 12 2 c /h i\nfleetpulse-writer events 1 - 5 - - - -\n\
                    fleetpulse-writer events 2 7 7 0 - - -\n12:00 INFO a line of its log, with some words\n";
        let (sum, detail) = sum_of_lags(text).expect("a table");
        assert_eq!((sum, detail.as_str()), (7, "events/0 by 2, events/1 by 5"));
        assert!(sum_of_lags("Consumer group 'g' does not exist.").is_err());
        assert!(sum_of_lags("GROUP TOPIC PARTITION LOG-END-OFFSET LAG\n").is_err());
    }
}
