//! Questions that teams ask, each a file of `reports/*.sql`: what it answers, what it does not know, its parameters, and one SELECT.
//!
//! - A file opens with a header of comments: `report`, `team`, `question`, `unknown` (may be repeated), and a line
//!   `parameter: NAME TYPE = DEFAULT | MEANING` for each `{NAME:Type}` of the query. Every default works.
//! - Values are checked against their type here and bound by ClickHouse; nothing is pasted into SQL.
//! - A question only reads, and is bounded: in time, memory and rows. An answer that was cut says so.

mod parameter;

use std::sync::LazyLock;

use clickhouse::error::Error;
use serde_json::Value;

use crate::{QueryError, Store};
pub use parameter::{Kind, Parameter};

/// Longest that a question may take, seconds: whoever asks looks at a screen.
const SECONDS_MAX: &str = "120";
/// Most memory of a question, bytes: inserts go on beside it.
const MEMORY_BYTES_MAX: &str = "4000000000";
/// Most bytes of an answer: it is held in memory whole.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;

const FILES: &[(&str, &str)] = &[
    ("availability", include_str!("../reports/availability.sql")),
    ("best-plan", include_str!("../reports/best-plan.sql")),
    ("cost-vs-budget", include_str!("../reports/cost-vs-budget.sql")),
    ("coverage", include_str!("../reports/coverage.sql")),
    ("data-need", include_str!("../reports/data-need.sql")),
    ("data-need-by-feature", include_str!("../reports/data-need-by-feature.sql")),
    ("device-timeline", include_str!("../reports/device-timeline.sql")),
    ("fleet-status", include_str!("../reports/fleet-status.sql")),
    ("forecast", include_str!("../reports/forecast.sql")),
    ("heartbeat-interval", include_str!("../reports/heartbeat-interval.sql")),
    ("invoice", include_str!("../reports/invoice.sql")),
    ("payback", include_str!("../reports/payback.sql")),
    ("preship", include_str!("../reports/preship.sql")),
    ("reconnect-storms", include_str!("../reports/reconnect-storms.sql")),
    ("search", include_str!("../reports/search.sql")),
    ("signal-by-cell", include_str!("../reports/signal-by-cell.sql")),
    ("signal-by-city", include_str!("../reports/signal-by-city.sql")),
    ("signal-by-firmware", include_str!("../reports/signal-by-firmware.sql")),
    ("silent-sims", include_str!("../reports/silent-sims.sql")),
    ("sim-conflicts", include_str!("../reports/sim-conflicts.sql")),
    ("sim-inventory", include_str!("../reports/sim-inventory.sql")),
    ("sim-links", include_str!("../reports/sim-links.sql")),
    ("ticket-context", include_str!("../reports/ticket-context.sql")),
    ("ticket-risk", include_str!("../reports/ticket-risk.sql")),
    ("usage", include_str!("../reports/usage.sql")),
];

static REPORTS: LazyLock<Vec<Report>> =
    LazyLock::new(|| FILES.iter().map(|(name, text)| Report::of(name, text)).collect());

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it is asked by.
    pub name: &'static str,
    /// Who asks it.
    pub team: &'static str,
    /// The question, one line.
    pub question: &'static str,
    /// What an answer does not know.
    pub unknown: String,
    /// What can be said with it.
    pub parameters: Vec<Parameter>,
    /// One SELECT, without its header.
    pub sql: &'static str,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Name and ClickHouse type of each column.
    pub columns: Vec<Column>,
    /// Rows; amounts of money are texts, times are texts in UTC.
    pub rows: Vec<Vec<Value>>,
    /// There were more rows than were asked for.
    pub cut: bool,
    /// What it was asked with, defaults included.
    pub with: Vec<(&'static str, String)>,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its ClickHouse type.
    pub kind: String,
}

impl Column {
    /// Whether its values are numbers.
    #[must_use]
    pub fn is_number(&self) -> bool {
        let inner = self.kind.strip_prefix("Nullable(").unwrap_or(&self.kind);
        ["UInt", "Int", "Float", "Decimal"].iter().any(|number| inner.starts_with(number))
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Nobody knows that question.
    #[error("there is no report {name:?}; there are: {known}")]
    UnknownReport {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// What was said with it is wrong: every problem at once.
    #[error("report {report}: {}", problems.join("; "))]
    Parameters {
        /// Which report.
        report: &'static str,
        /// A line for each.
        problems: Vec<String>,
    },
    /// ClickHouse did not answer.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The answer is larger than can be held.
    #[error("the answer is larger than {ANSWER_BYTES_MAX} bytes; ask for fewer rows or a shorter time")]
    TooLarge,
    /// What ClickHouse sent is no answer.
    #[error("clickhouse sent what is no answer: {text}")]
    Unreadable {
        /// How it begins.
        text: String,
    },
}

impl ReportError {
    /// Whether another question would help, and not another time.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::UnknownReport { .. } | Self::Parameters { .. })
    }
}

impl Report {
    /// All of them, by name.
    #[must_use]
    pub fn all() -> &'static [Self] {
        &REPORTS
    }

    /// That one.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn named(name: &str) -> Result<&'static Self, ReportError> {
        Self::all().iter().find(|report| report.name == name).ok_or_else(|| ReportError::UnknownReport {
            name: name.to_owned(),
            known: Self::all().iter().map(|report| report.name).collect::<Vec<_>>().join(", "),
        })
    }

    fn of(name: &'static str, text: &'static str) -> Self {
        let said = |key: &'static str| {
            let lines = text
                .lines()
                .map_while(|line| line.strip_prefix("-- "))
                .filter_map(|line| line.split_once(": "));
            lines.filter(move |(said, _)| *said == key).map(|(_, value)| value)
        };
        let header: usize =
            text.lines().take_while(|line| line.starts_with("-- ")).map(|line| line.len() + 1).sum();
        Self {
            name,
            team: said("team").next().unwrap_or_default(),
            question: said("question").next().unwrap_or_default(),
            unknown: said("unknown").collect::<Vec<_>>().join(" "),
            parameters: said("parameter").filter_map(Parameter::of).collect(),
            sql: text.get(header..).unwrap_or_default().trim(),
        }
    }

    /// Every parameter with the value that it has, given or by default.
    ///
    /// # Errors
    /// Where a name is not known, stands twice, or a value is not of its type.
    pub fn with(&self, given: &[(String, String)]) -> Result<Vec<(&'static str, String)>, ReportError> {
        let mut problems = Vec::new();
        for (nth, (name, _)) in given.iter().enumerate() {
            if !self.parameters.iter().any(|parameter| parameter.name == name) {
                let known: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                problems.push(format!("there is no parameter {name:?}; there are: {known}"));
            } else if given[..nth].iter().any(|(before, _)| before == name) {
                problems.push(format!("parameter {name:?} is given twice"));
            }
        }
        let mut values = Vec::new();
        for parameter in &self.parameters {
            let value = given
                .iter()
                .find(|(name, _)| parameter.name == name)
                .map_or(parameter.default, |(_, value)| value);
            match parameter.kind.checked(value) {
                Ok(value) => values.push((parameter.name, value)),
                Err(problem) => problems.push(format!("parameter {}: {value:?} {problem}", parameter.name)),
            }
        }
        if problems.is_empty() {
            Ok(values)
        } else {
            Err(ReportError::Parameters { report: self.name, problems })
        }
    }
}

impl Store {
    /// Asks a question, with some of its parameters given, for at most `rows_max` rows.
    ///
    /// # Errors
    /// Where what is given is wrong ([`ReportError::is_usage`]), or there is no answer. Cancel safe.
    pub async fn report(
        &self,
        report: &Report,
        given: &[(String, String)],
        rows_max: usize,
    ) -> Result<Answer, ReportError> {
        let with = report.with(given)?;
        // The client's own placeholders are not used.
        let mut query = self
            .client
            .query(&report.sql.replace('?', "??"))
            .with_setting("readonly", "1")
            .with_setting("max_execution_time", SECONDS_MAX)
            .with_setting("max_memory_usage", MEMORY_BYTES_MAX)
            // One more, to know that there are more.
            .with_setting("limit", rows_max.saturating_add(1).to_string())
            .with_setting("output_format_json_quote_decimals", "1")
            .with_setting("output_format_json_quote_64bit_integers", "0")
            .with_setting("output_format_decimal_trailing_zeros", "1")
            .with_setting("date_time_output_format", "iso");
        for ((name, value), parameter) in with.iter().zip(&report.parameters) {
            query = match parameter.kind {
                Kind::Texts => query.param(name, parameter::list_of(value).unwrap_or_default()),
                _ => query.param(name, value),
            };
        }
        let mut cursor = query
            .fetch_bytes("JSONCompactEachRowWithNamesAndTypes")
            .map_err(|source| self.query_error(source))?;
        let mut bytes = Vec::new();
        while let Some(chunk) = cursor.next().await.map_err(|source: Error| self.query_error(source))? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ReportError::TooLarge);
            }
            bytes.extend_from_slice(&chunk);
        }
        let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mut names = || lines.next().map_or(Ok(Vec::new()), parsed::<Vec<String>>);
        let (names, kinds) = (names()?, names()?);
        let mut rows = lines.map(parsed::<Vec<Value>>).collect::<Result<Vec<_>, _>>()?;
        let cut = rows.len() > rows_max;
        rows.truncate(rows_max);
        let columns = names.into_iter().zip(kinds).map(|(name, kind)| Column { name, kind }).collect();
        Ok(Answer { columns, rows, cut, with })
    }
}

fn parsed<T: serde::de::DeserializeOwned>(line: &[u8]) -> Result<T, ReportError> {
    const SHOWN_BYTES: usize = 300;
    serde_json::from_slice(line).map_err(|_| ReportError::Unreadable {
        text: String::from_utf8_lossy(&line[..line.len().min(SHOWN_BYTES)]).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{FILES, Report, ReportError};

    #[test]
    fn every_file_is_a_report_that_says_what_it_answers_and_what_it_does_not_know() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/reports");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|file| {
                file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned()
            })
            .collect();
        assert_eq!(files, FILES.iter().map(|(name, _)| (*name).to_owned()).collect());
        for (report, (_, text)) in Report::all().iter().zip(FILES) {
            assert!(text.starts_with(&format!("-- report: {}\n", report.name)), "{}", report.name);
            let teams = ["engineering", "product", "finance", "operations", "customer success"];
            assert!(teams.contains(&report.team), "{}: {}", report.name, report.team);
            assert!(report.question.ends_with('?') && !report.unknown.is_empty(), "{}", report.name);
            assert_eq!(text.matches("\n-- parameter: ").count(), report.parameters.len(), "{}", report.name);
            assert!(
                !report.sql.contains(";\n") && !report.sql.ends_with(';'),
                "{} is one statement",
                report.name
            );
        }
    }

    #[test]
    fn every_default_is_of_its_type_and_every_parameter_stands_in_its_query() {
        for report in Report::all() {
            report.with(&[]).expect("working defaults");
            for parameter in &report.parameters {
                let used = format!("{{{}:{}}}", parameter.name, parameter.kind.column());
                assert!(report.sql.contains(&used), "{}: {used}", report.name);
            }
            for used in report.sql.split('{').skip(1).filter_map(|rest| rest.split_once('}')) {
                let name = used.0.split(':').next().unwrap_or_default();
                assert!(report.parameters.iter().any(|known| known.name == name), "{}: {name}", report.name);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_at_once_and_with_what_there_is() {
        let ReportError::UnknownReport { known, .. } = Report::named("invoices").expect_err("none") else {
            panic!("another error")
        };
        assert!(known.contains("invoice, "), "{known}");
        let given = [("dayz", "3"), ("days", "-3"), ("days", "4")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let error = Report::named("signal-by-cell").expect("a report").with(&given).expect_err("wrong");
        assert!(error.is_usage());
        let text = error.to_string();
        assert!(text.contains("\"dayz\"; there are: days, heartbeats_min"), "{text}");
        assert!(text.contains("given twice") && text.contains("\"-3\" is no whole number"), "{text}");
    }
}
