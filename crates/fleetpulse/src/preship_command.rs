//! `fleetpulse preship`: whether each device of a batch is fit to be shipped.
//!
//! Exit code 0 where every device passes, 1 where one fails or the file is wrong, 2 where there is no answer.

use std::collections::HashSet;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use store::{Answer, Report, ReportError, Store};

use crate::print::{self, Format};
use crate::settings::{Section, Settings};
use crate::{report_command, roles};

const EXIT_FAILED: u8 = 1;
/// Devices that are asked about at once: their lists fit into what ClickHouse takes of a parameter.
const DEVICES_AT_ONCE: usize = 1_000;
/// Largest file, bytes: a batch of 100,000 devices is 8 MB.
const FILE_BYTES_MAX: u64 = 64 << 20;
const COLUMNS: [&str; 4] = ["device_id", "iccid", "imei", "firmware"];

/// Which devices, and what they have to be like.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    /// A CSV with a header: device_id, and if it should differ from the registry iccid, imei, firmware; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// The last heartbeat is not older than so many minutes.
    #[arg(long, default_value_t = 60)]
    pub minutes: u32,
    /// Least battery, percent.
    #[arg(long, default_value_t = 50.0, allow_hyphen_values = true)]
    pub battery_min: f64,
    /// Least RSRP, dBm.
    #[arg(long, default_value_t = -110.0, allow_hyphen_values = true)]
    pub rsrp_min: f64,
    /// Least RSSI, dBm, where no RSRP is told.
    #[arg(long, default_value_t = -95.0, allow_hyphen_values = true)]
    pub rssi_min: f64,
    /// How it is shown; md is the report to print.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// What a batch says of a device, in the order of `COLUMNS`.
type Device = [String; 4];

pub(crate) fn run(settings: &Settings, asked: &Asked) -> anyhow::Result<ExitCode> {
    settings.validate(&[Section::Clickhouse])?;
    let mut text = String::new();
    let shown = asked.file.display();
    if asked.file.as_os_str() == "-" {
        io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text).context("standard input")?;
    } else {
        let file = std::fs::File::open(&asked.file).with_context(|| format!("{shown} cannot be opened"))?;
        file.take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .with_context(|| format!("{shown} cannot be read"))?;
    }
    anyhow::ensure!(
        u64::try_from(text.len())? <= FILE_BYTES_MAX,
        "{shown} is larger than {FILE_BYTES_MAX} bytes"
    );
    let batch = match batch(&text) {
        Ok(batch) => batch,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{shown}:{problem}");
            }
            eprintln!("fleetpulse: {} problems; nothing was checked", problems.len());
            return Ok(ExitCode::from(EXIT_FAILED));
        }
    };
    let report = Report::named("preship")?;
    let store = Store::new(&settings.clickhouse)?;
    let answer = match roles::runtime()?.block_on(checked(&store, report, asked, &batch)) {
        Ok(answer) => answer,
        Err(error) => return Ok(report_command::refused(&error)),
    };
    let passed = passed(&answer);
    let mut out = BufWriter::new(io::stdout().lock());
    print::answer(report, &answer, asked.format, &mut out)?;
    if asked.format == Format::Md {
        writeln!(out, "\n**{passed} of {} devices pass.**", batch.len())?;
    }
    out.flush()?;
    eprintln!("fleetpulse: {passed} of {} devices pass", batch.len());
    Ok(if passed == batch.len() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILED) })
}

async fn checked(
    store: &Store,
    report: &Report,
    asked: &Asked,
    batch: &[Device],
) -> Result<Answer, ReportError> {
    let mut whole: Option<Answer> = None;
    for devices in batch.chunks(DEVICES_AT_ONCE) {
        let list = |nth: usize| {
            Value::from(devices.iter().map(|device| device[nth].as_str()).collect::<Vec<_>>()).to_string()
        };
        let with = [
            ("devices", list(0)),
            ("iccids", list(1)),
            ("imeis", list(2)),
            ("firmwares", list(3)),
            ("minutes", asked.minutes.to_string()),
            ("battery_min", asked.battery_min.to_string()),
            ("rsrp_min", asked.rsrp_min.to_string()),
            ("rssi_min", asked.rssi_min.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value));
        let answer = store.report(report, &with, devices.len()).await?;
        match &mut whole {
            None => whole = Some(answer),
            Some(whole) => whole.rows.extend(answer.rows),
        }
    }
    // A batch has a device at least.
    Ok(whole.unwrap_or(Answer { columns: Vec::new(), rows: Vec::new(), cut: false, with: Vec::new() }))
}

fn passed(answer: &Answer) -> usize {
    let Some(nth) = answer.columns.iter().position(|column| column.name == "passed") else { return 0 };
    answer.rows.iter().filter(|row| matches!(row.get(nth), Some(Value::Bool(true)))).count()
}

/// The devices of a file, or every problem of it, each with its line.
fn batch(text: &str) -> Result<Vec<Device>, Vec<String>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.strip_prefix('\u{feff}').unwrap_or(text).as_bytes());
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(error) => return Err(vec![format!("1: {error}")]),
    };
    let mut problems: Vec<String> = header
        .iter()
        .filter(|name| !COLUMNS.contains(name))
        .map(|name| format!("1: there is no column {name:?}; there are: {}", COLUMNS.join(", ")))
        .collect();
    let places = COLUMNS.map(|column| header.iter().position(|name| name == column));
    if places[0].is_none() {
        problems.push("1: there is no column device_id".to_owned());
        return Err(problems);
    }
    let (mut devices, mut seen) = (Vec::new(), HashSet::new());
    for record in reader.records() {
        match record {
            Ok(record) => {
                let line = record.position().map_or(0, csv::Position::line);
                let device: Device = places
                    .map(|place| place.and_then(|place| record.get(place)).unwrap_or_default().to_owned());
                if device[0].is_empty() {
                    problems.push(format!("{line}: device_id is empty"));
                } else if !seen.insert(device[0].clone()) {
                    problems.push(format!("{line}: device {:?} stands twice", device[0]));
                }
                devices.push(device);
            }
            Err(error) => {
                let line = error.position().map_or(0, csv::Position::line);
                problems.push(format!("{line}: {error}"));
            }
        }
    }
    if devices.is_empty() && problems.is_empty() {
        problems.push("1: there is no device".to_owned());
    }
    if problems.is_empty() { Ok(devices) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::batch;

    #[test]
    fn a_batch_names_devices_and_what_differs_from_the_registry() {
        let devices = batch("\u{feff}firmware, device_id\r\n2.1.0,a\r\n,\"b,c\"\r\n").expect("a batch");
        assert_eq!(devices[0], ["a", "", "", "2.1.0"].map(str::to_owned));
        assert_eq!(devices[1], ["b,c", "", "", ""].map(str::to_owned));
    }

    #[test]
    fn every_problem_of_a_batch_is_told_with_its_line() {
        let problems = batch("device_id,sim\na,1\n,2\na,3\nb\n").expect_err("wrong");
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[0].starts_with("1: there is no column \"sim\""), "{problems:?}");
        assert!(
            problems[1].starts_with("3: ")
                && problems[2].starts_with("4: ")
                && problems[3].starts_with("5: "),
            "{problems:?}"
        );
        assert!(batch("device_id\n").is_err() && batch("").is_err());
    }
}
