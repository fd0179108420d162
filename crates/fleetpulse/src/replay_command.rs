//! `fleetpulse replay`: brings back what was lost, from Kafka or from the dead letters.
//!
//! Exit code 0 where everything is back (or would be, in a dry run), 1 where something is not, and then it is named, 2 where it could
//! not be looked at to the end.

use std::io::Write;
use std::process::ExitCode;

use store::Store;
use writer::replay::{self, Asked, LettersReport, Progress, Report, Run};

use crate::cli::{Moment, Replay};
use crate::progress::Told;
use crate::roles;
use crate::settings::{Section, Settings};

const EXIT_NOT_ALL: u8 = 1;
const EXIT_UNSEEN: u8 = 2;

pub(crate) fn run(settings: &Settings, asked: &Replay) -> anyhow::Result<ExitCode> {
    settings.validate(&[Section::Kafka, Section::Clickhouse, Section::Writer, Section::Gateway])?;
    match replayed(settings, asked) {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("fleetpulse: {error:#}");
            Ok(ExitCode::from(EXIT_UNSEEN))
        }
    }
}

fn replayed(settings: &Settings, asked: &Replay) -> anyhow::Result<ExitCode> {
    let now = jiff::Timestamp::now().as_millisecond();
    let run = if asked.dry_run { Run::Dry } else { Run::Real };
    let span =
        Asked { from_ms: millis(asked.from, now), to_ms: asked.to.map_or(now, |to| millis(to, now)), run };
    anyhow::ensure!(span.from_ms < span.to_ms, "--from is not before --to");
    let store = Store::new(&settings.clickhouse)?;
    let mut told = Told::of("records");
    let mut progress = |Progress { done, of }| told.tell(done, of);
    let runtime = roles::runtime()?;
    let mut out = std::io::stdout().lock();
    let code = if asked.dead_letters {
        let policy = settings.gateway.clock_policy();
        let replayed = replay::from_dead_letters(&store, &settings.kafka, &policy, &span, &mut progress);
        let report = runtime.block_on(replayed);
        told.end();
        let report = report?;
        from_dead_letters(&report, run, &mut out)?;
        letters_exit_code(&report)
    } else {
        let replayed = replay::from_kafka(&store, &settings.kafka, &settings.writer, &span, &mut progress);
        let report = runtime.block_on(replayed);
        told.end();
        let report = report?;
        from_kafka(&report, run, &mut out)?;
        exit_code(&report)
    };
    Ok(ExitCode::from(code))
}

fn exit_code(report: &Report) -> u8 {
    let refused = report.tables.values().any(|tally| tally.refused > 0);
    if refused || !report.lost.is_empty() { EXIT_NOT_ALL } else { 0 }
}

fn letters_exit_code(report: &LettersReport) -> u8 {
    if report.refused > 0 || report.left > 0 || !report.rejected.is_empty() { EXIT_NOT_ALL } else { 0 }
}

fn from_dead_letters(report: &LettersReport, run: Run, out: &mut impl Write) -> anyhow::Result<()> {
    let sent = match run {
        Run::Dry => "would be sent",
        Run::Real => "brought back",
    };
    let mut line = |name: &str, count: u64, meaning: &str| writeln!(out, "{name:<16}{count:>14}  {meaning}");
    line("dead letters", report.letters, "of that time")?;
    line(sent, report.sent.saturating_sub(report.refused), "heartbeats by now, that stood nowhere")?;
    line("standing", report.standing, "heartbeats by now, that stand already")?;
    line("refused", report.refused, "heartbeats by now, that clickhouse does not take")?;
    for (why, count) in &report.rejected {
        line(why, *count, "no heartbeats yet")?;
    }
    line("left", report.left, "not the heartbeat of a device: not looked into")?;
    Ok(())
}

fn from_kafka(report: &Report, run: Run, out: &mut impl Write) -> anyhow::Result<()> {
    let last = match run {
        Run::Dry => "missing",
        Run::Real => "brought back",
    };
    writeln!(
        out,
        "{:<14}{:>14}{:>14}{:>14}{:>14}{:>14}",
        "table", "records", "standing", "elsewhere", last, "refused"
    )?;
    for (table, tally) in &report.tables {
        let brought = tally.missing.saturating_sub(tally.refused);
        let (records, standing, replaced) = (tally.records, tally.standing, tally.replaced);
        writeln!(
            out,
            "{table:<14}{records:>14}{standing:>14}{replaced:>14}{brought:>14}{:>14}",
            tally.refused
        )?;
    }
    writeln!(
        out,
        "elsewhere: the same heartbeat or minute stands under another record; refused: clickhouse does not take it, a dead letter holds it"
    )?;
    if report.ahead > 0 {
        writeln!(out, "{} records are left to the writers, which have not concluded them yet", report.ahead)?;
    }
    for lost in &report.lost {
        writeln!(out, "not to be brought back: {lost}")?;
    }
    Ok(())
}

/// Milliseconds since 1970 of a moment that is given by itself or by how long ago it was.
fn millis(moment: Moment, now: i64) -> i64 {
    match moment {
        Moment::At(at) => at.as_millisecond(),
        Moment::Ago(ago) => now.saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)),
    }
    .max(0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use writer::replay::Tally;

    use super::*;

    #[test]
    fn the_exit_code_says_whether_all_is_back() {
        let tables = |refused| [("heartbeats", Tally { missing: 5, refused, ..Tally::default() })].into();
        assert_eq!(exit_code(&Report { tables: tables(0), ahead: 3, ..Report::default() }), 0);
        assert_eq!(exit_code(&Report { tables: tables(1), ..Report::default() }), EXIT_NOT_ALL);
        assert_eq!(exit_code(&Report { lost: vec!["a range".into()], ..Report::default() }), EXIT_NOT_ALL);
    }

    #[test]
    fn the_exit_code_says_whether_every_dead_letter_is_a_heartbeat_by_now() {
        let well = LettersReport { letters: 5, sent: 3, standing: 2, ..LettersReport::default() };
        assert_eq!(letters_exit_code(&well), 0);
        assert_eq!(letters_exit_code(&LettersReport { left: 1, ..well.clone() }), EXIT_NOT_ALL);
        assert_eq!(letters_exit_code(&LettersReport { refused: 1, ..well.clone() }), EXIT_NOT_ALL);
        let rejected = [("not_json".to_owned(), 1)].into();
        assert_eq!(letters_exit_code(&LettersReport { rejected, ..well }), EXIT_NOT_ALL);
    }

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        let at = "2026-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(millis(Moment::At(at), 0), 1_767_225_600_000);
        assert_eq!(millis(Moment::Ago(Duration::from_secs(4)), 5_000), 1_000);
        assert_eq!(millis(Moment::Ago(Duration::from_secs(400)), 5_000), 0);
    }
}
