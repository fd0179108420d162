//! `fleetpulse report`: questions about the fleet, answered.
//!
//! Exit code 0 where there is an answer (an empty one, too), 2 where there is none, 64 where the question is wrong.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Args;
use store::{Report, ReportError, Store};

use crate::print::{self, Format};
use crate::settings::{Section, Settings};
use crate::{EXIT_SETTINGS, roles};

const EXIT_NO_ANSWER: u8 = 2;
/// Rows of an answer, if nothing else is said: more than a person reads, less than a terminal chokes on.
const ROWS_MAX: u32 = 10_000;

/// Which question, with what, and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// Its name.
    #[arg(required_unless_present = "list")]
    pub name: Option<String>,
    /// Name all reports; with a name, say what that one answers, does not know, and may be asked with.
    #[arg(long)]
    pub list: bool,
    /// A parameter of the report, for example --with days=7; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = given)]
    pub with: Vec<(String, String)>,
    /// How it is shown.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Most rows; a word on standard error says so where there are more.
    #[arg(long, default_value_t = ROWS_MAX, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rows: u32,
}

pub(crate) fn run(
    load: impl FnOnce() -> Result<Settings, crate::settings::Invalid>,
    asked: &Asked,
) -> anyhow::Result<ExitCode> {
    let report = match asked.name.as_deref().map(Report::named).transpose() {
        Ok(report) => report,
        Err(error) => return Ok(refused(&error)),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    match report {
        None => list(&mut out)?,
        Some(report) if asked.list => describe(report, &mut out)?,
        Some(report) => {
            // What is wrong with the question is said before anybody is asked.
            if let Err(error) = report.with(&asked.with) {
                return Ok(refused(&error));
            }
            let settings = load()?;
            settings.validate(&[Section::Clickhouse])?;
            let store = Store::new(&settings.clickhouse)?;
            let rows_max = usize::try_from(asked.rows)?;
            match roles::runtime()?.block_on(store.report(report, &asked.with, rows_max)) {
                Ok(answer) => {
                    print::answer(report, &answer, asked.format, &mut out)?;
                    out.flush()?;
                    if answer.cut {
                        eprintln!("fleetpulse: there are more than these {rows_max} rows; --rows shows more");
                    } else if answer.rows.is_empty() && asked.format == Format::Table {
                        eprintln!("fleetpulse: nothing was found");
                    }
                }
                Err(error) => return Ok(refused(&error)),
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Says why there is no answer.
pub(crate) fn refused(error: &ReportError) -> ExitCode {
    eprintln!("fleetpulse: {:#}", anyhow::Error::msg(error.to_string()));
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        eprintln!("  {cause}");
        source = cause.source();
    }
    ExitCode::from(if error.is_usage() { EXIT_SETTINGS } else { EXIT_NO_ANSWER })
}

fn list(out: &mut impl Write) -> io::Result<()> {
    let width = Report::all().iter().map(|report| report.name.len()).max().unwrap_or_default();
    for team in ["engineering", "product", "finance", "operations", "customer success"] {
        writeln!(out, "{team}")?;
        for report in Report::all().iter().filter(|report| report.team == team) {
            writeln!(out, "  {:<width$}  {}", report.name, report.question)?;
        }
    }
    Ok(())
}

fn describe(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{} ({})\n  {}\n  does not know: {}",
        report.name, report.team, report.question, report.unknown
    )?;
    for parameter in &report.parameters {
        let default = if parameter.default.is_empty() { "\"\"" } else { parameter.default };
        writeln!(
            out,
            "  --with {}={}  {} [default: {default}]",
            parameter.name,
            parameter.kind.words(),
            parameter.meaning
        )?;
    }
    Ok(())
}

/// `days=7`
fn given(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("is not NAME=VALUE, for example days=7")?;
    Ok((name.to_owned(), value.to_owned()))
}
