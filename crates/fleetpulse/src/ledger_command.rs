//! `fleetpulse ledger`: whether everything that was acknowledged is there.
//!
//! Exit code 0 where nothing differs, 1 where something does, 2 where that could not be seen: no answer, records that Kafka
//! does not hold any more, or minutes still open after `--wait`.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use store::{Standing, Store};
use writer::ledger::{Looked, Looker, Report};

use crate::cli::{Ledger, LedgerFormat, Moment};
use crate::roles;
use crate::settings::{Section, Settings};

const EXIT_DIFFERENCE: u8 = 1;
const EXIT_UNSEEN: u8 = 2;
const MINUTE_S: i64 = 60;
/// Between two looks while minutes are open.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is written.
#[derive(Serialize)]
struct Document<'a> {
    since: String,
    until: String,
    totals: Totals,
    lines: Vec<&'a Looked>,
    trouble: &'a [String],
}

/// Sums over all lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Totals {
    lines: u64,
    acknowledged: u64,
    repeated: u64,
    produced: u64,
    failed: u64,
    consumed: u64,
    inserted: u64,
    heartbeats: u64,
    standing: u64,
    deduplicated: u64,
    refused: u64,
    lost: u64,
    unverified: u64,
    dead_lettered: u64,
    gap: u64,
    open: u64,
    node_lost: u64,
    differences: u64,
}

pub(crate) fn run(settings: &Settings, asked: &Ledger) -> anyhow::Result<ExitCode> {
    settings.validate(&[Section::Kafka, Section::Clickhouse])?;
    match looked(settings, asked) {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("fleetpulse: {error:#}");
            Ok(ExitCode::from(EXIT_UNSEEN))
        }
    }
}

fn looked(settings: &Settings, asked: &Ledger) -> anyhow::Result<ExitCode> {
    let now = jiff::Timestamp::now().as_second();
    let since = second(asked.since, now)? / 60 * 60;
    let until = asked.until.map_or(Ok(u32::try_from(now)?), |until| second(until, now))?.div_ceil(60) * 60;
    anyhow::ensure!(since < until, "--since is not before --until");
    let store = Store::new(&settings.clickhouse)?;
    let report = roles::runtime()?.block_on(look(
        Looker::new(store, settings.kafka.clone(), Standing::Final),
        asked.wait,
        (since, until),
    ))?;
    let document = Document {
        since: time(since)?,
        until: time(until)?,
        totals: totals(&report),
        lines: report.lines.iter().filter(|looked| asked.all || is_told(looked)).collect(),
        trouble: &report.trouble,
    };
    let mut out = std::io::stdout().lock();
    match asked.format {
        LedgerFormat::Table => table(&document, &mut out)?,
        LedgerFormat::Json => writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?,
        LedgerFormat::Csv => csv(&document, &mut out)?,
    }
    Ok(ExitCode::from(exit_code(&document.totals, report.trouble.is_empty(), asked.wait.is_some())))
}

/// Looks, and again while minutes are open and there is time.
async fn look(
    mut looker: Looker,
    wait: Option<Duration>,
    (since, until): (u32, u32),
) -> anyhow::Result<Report> {
    let deadline = Instant::now() + wait.unwrap_or_default();
    loop {
        let report = looker.look(since, until).await?;
        if report.of_state("open").next().is_none() || Instant::now() >= deadline {
            return Ok(report);
        }
        tokio::time::sleep(LOOK_AGAIN_AFTER).await;
    }
}

/// Lines that say more than that all is well.
fn is_told(looked: &Looked) -> bool {
    looked.line.state != "balanced" || looked.unverified > 0
}

fn exit_code(totals: &Totals, all_looked_up: bool, waited: bool) -> u8 {
    if totals.differences > 0 || totals.gap > 0 {
        EXIT_DIFFERENCE
    } else if !all_looked_up || totals.unverified > 0 || (waited && totals.open > 0) {
        EXIT_UNSEEN
    } else {
        0
    }
}

fn totals(report: &Report) -> Totals {
    let mut totals = Totals::default();
    for Looked { line, deduplicated, refused, lost, unverified, .. } in &report.lines {
        totals.lines += 1;
        totals.acknowledged += line.acknowledged;
        totals.repeated += line.repeated;
        totals.produced += line.produced;
        totals.failed += line.failed;
        totals.consumed += line.consumed;
        totals.inserted += line.inserted;
        totals.heartbeats += line.heartbeats;
        totals.standing += line.standing;
        totals.deduplicated += deduplicated;
        totals.refused += refused;
        totals.lost += lost;
        totals.unverified += unverified;
        totals.dead_lettered += line.dead_lettered;
        totals.gap += line.gap;
        match line.state.as_str() {
            "open" => totals.open += 1,
            "node_lost" => totals.node_lost += 1,
            "difference" => totals.differences += 1,
            _ => {}
        }
    }
    totals
}

fn table(document: &Document<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    let Document { since, until, totals, .. } = document;
    writeln!(out, "ledger from {since} to {until}: {} lines", totals.lines)?;
    let rows = [
        ("acknowledged", totals.acknowledged, "PUBLISHes whose PUBACK or PUBREC was made"),
        ("  repeated", totals.repeated, "of these, sent again by their device"),
        ("produced", totals.produced, "records that Kafka said it holds"),
        ("failed", totals.failed, "records that Kafka did not say it holds"),
        ("consumed", totals.consumed, "records of batches that landed"),
        ("  inserted", totals.inserted, "of these, heartbeats and events"),
        ("  dead-lettered", totals.dead_lettered, "of these, dead letters"),
        ("heartbeats", totals.heartbeats, "consumed heartbeats"),
        ("  standing", totals.standing, "of these, with a row of their own"),
        (
            "  deduplicated",
            totals.deduplicated,
            "of these, standing under another record: sent more than once",
        ),
        ("  refused", totals.refused, "of these, dead letters as ClickHouse does not take them"),
        ("  lost", totals.lost, "of these, standing nowhere"),
        ("  unverified", totals.unverified, "of these, not to be looked up any more"),
        ("gap", totals.gap, "records that Kafka dropped before they were read"),
    ];
    for (name, count, meaning) in rows {
        writeln!(out, "  {name:<16}{count:>14}  {meaning}")?;
    }
    writeln!(
        out,
        "differences: {}; open: {}; of lost nodes: {}",
        totals.differences, totals.open, totals.node_lost
    )?;
    for looked in &document.lines {
        let line = &looked.line;
        writeln!(
            out,
            "{:<10} {} {}/{} {}: acknowledged {}, produced {}, failed {}, consumed {}, standing {} of {}, dead letters {} of {}, offsets {}-{}",
            line.state,
            line.node_id,
            line.stream,
            line.partition,
            time(line.minute)?,
            line.acknowledged,
            line.produced,
            line.failed,
            line.consumed,
            line.standing,
            line.heartbeats,
            line.dead_standing,
            line.dead_lettered,
            line.first_offset,
            line.last_offset,
        )?;
        if looked.lost > 0 {
            writeln!(
                out,
                "           {} heartbeats stand nowhere, of the records {}",
                looked.lost,
                list(&looked.lost_offsets)
            )?;
        }
        if !looked.batches.is_empty() {
            let ranges: Vec<String> =
                looked.batches.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            writeln!(out, "           in the batches {}", list(&ranges))?;
        }
    }
    for trouble in document.trouble {
        writeln!(out, "not looked up: {trouble}")?;
    }
    Ok(())
}

/// As many as a person reads.
fn list<T: ToString>(items: &[T]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = items.iter().take(SHOWN).map(ToString::to_string).collect();
    let rest = if items.len() > SHOWN { format!(" and {} more", items.len() - SHOWN) } else { String::new() };
    format!("{}{rest}", shown.join(", "))
}

fn csv(document: &Document<'_>, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(
        out,
        "minute,node_id,stream,partition,acknowledged,repeated,produced,failed,consumed,inserted,heartbeats,standing,deduplicated,lost,unverified,dead_lettered,dead_standing,gap,first_offset,last_offset,state"
    )?;
    for Looked { line, deduplicated, lost, unverified, .. } in &document.lines {
        writeln!(
            out,
            "{},\"{}\",{},{},{},{},{},{},{},{},{},{},{deduplicated},{lost},{unverified},{},{},{},{},{},{}",
            time(line.minute)?,
            line.node_id.replace('"', "\"\""),
            line.stream,
            line.partition,
            line.acknowledged,
            line.repeated,
            line.produced,
            line.failed,
            line.consumed,
            line.inserted,
            line.heartbeats,
            line.standing,
            line.dead_lettered,
            line.dead_standing,
            line.gap,
            line.first_offset,
            line.last_offset,
            line.state
        )?;
    }
    Ok(())
}

/// Seconds since 1970 of a moment that is given by itself or by how long ago it was.
fn second(moment: Moment, now: i64) -> anyhow::Result<u32> {
    let second = match moment {
        Moment::At(at) => at.as_second(),
        Moment::Ago(ago) => now - i64::try_from(ago.as_secs())?,
    };
    // Before 1970, and after what the columns of the ledger can hold.
    u32::try_from(second.max(0))
        .ok()
        .filter(|second| i64::from(*second) <= i64::from(u32::MAX) - MINUTE_S)
        .context("a time is out of range")
}

fn time(second: u32) -> anyhow::Result<String> {
    Ok(jiff::Timestamp::from_second(second.into())?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_anything_differs_and_whether_that_could_be_seen() {
        let well = Totals { open: 1, node_lost: 1, deduplicated: 5, ..Totals::default() };
        assert_eq!(exit_code(&well, true, false), 0);
        assert_eq!(exit_code(&well, true, true), EXIT_UNSEEN, "it was waited for, and is open still");
        assert_eq!(exit_code(&well, false, false), EXIT_UNSEEN, "kafka did not answer");
        assert_eq!(exit_code(&Totals { unverified: 1, ..well }, true, false), EXIT_UNSEEN);
        assert_eq!(exit_code(&Totals { differences: 1, ..well }, false, true), EXIT_DIFFERENCE);
        assert_eq!(exit_code(&Totals { gap: 1, ..well }, true, false), EXIT_DIFFERENCE, "lost is lost");
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        let at = "2026-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(second(Moment::At(at), 0).ok(), Some(1_767_225_600));
        assert_eq!(second(Moment::Ago(Duration::from_secs(40)), 100).ok(), Some(60));
        assert_eq!(second(Moment::Ago(Duration::from_secs(400)), 100).ok(), Some(0));
    }
}
