//! `fleetpulse registry`: imports, exports and histories.
//!
//! Exit code 0 where it is done, 1 where what was handed in is wrong or is not there, 2 where ClickHouse did not do it.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use registry::value::Value as _;
use registry::{Author, Change, DeleteError, Difference, Format, Import, ImportError, Kind, Progress, Run};
use store::Store;

use crate::progress::Told;
use crate::registry_cli::{FileFormat, ImportFile, RegistryCommand, SimCommand};
use crate::roles;
use crate::settings::{Section, Settings};

const EXIT_WRONG: u8 = 1;
const EXIT_UNDONE: u8 = 2;
/// Largest file, bytes: it is held in memory, and a million entries are 200 MB.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Changes that are shown one by one.
const SHOWN_MAX: usize = 20;

pub(crate) fn run(settings: &Settings, asked: &RegistryCommand) -> anyhow::Result<ExitCode> {
    if let RegistryCommand::Template { kind } = asked {
        registry::write(*kind, &[], Format::Csv, &mut std::io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    }
    settings.validate(&[Section::Clickhouse])?;
    match done(settings, asked) {
        Ok(code) => Ok(ExitCode::from(code)),
        Err(error) => {
            eprintln!("fleetpulse: {error:#}");
            Ok(ExitCode::from(EXIT_UNDONE))
        }
    }
}

fn done(settings: &Settings, asked: &RegistryCommand) -> anyhow::Result<u8> {
    let store = Store::new(&settings.clickhouse)?;
    let runtime = roles::runtime()?;
    match asked {
        RegistryCommand::Import(file) => {
            let text = read(&file.file)?;
            runtime.block_on(import(&store, file, text))
        }
        RegistryCommand::Export { kind, format, output } => {
            let rows = runtime.block_on(registry::rows(&store, *kind))?;
            let mut out = open(output)?;
            registry::write(*kind, &rows, format_of(*format), &mut out)?;
            Ok(0)
        }
        RegistryCommand::History { kind, id, limit } => {
            let changes = runtime.block_on(store.registry_history(kind.word(), id, *limit))?;
            history(&changes, &mut std::io::stdout().lock())?;
            Ok(if changes.is_empty() { EXIT_WRONG } else { 0 })
        }
        RegistryCommand::Delete { kind, id, author } => {
            let author = Author { who: &author.who, why: &author.why };
            match runtime.block_on(registry::delete(&store, *kind, id, author)) {
                Ok(()) => Ok(0),
                Err(error @ (DeleteError::None { .. } | DeleteError::Referred { .. })) => {
                    eprintln!("fleetpulse: {error}");
                    Ok(EXIT_WRONG)
                }
                Err(error) => Err(error.into()),
            }
        }
        RegistryCommand::Sim(SimCommand::SetState { iccid, state, author }) => {
            if runtime.block_on(registry::row(&store, Kind::Sims, iccid))?.is_none() {
                eprintln!("fleetpulse: {iccid:?} is not among the sims");
                return Ok(EXIT_WRONG);
            }
            let import = Import {
                kind: Kind::Sims,
                text: format!("iccid,state\n{iccid},{state}\n").into_bytes(),
                format: Some(Format::Csv),
                who: author.who.clone(),
                why: author.why.clone(),
                run: Run::Real,
            };
            told(runtime.block_on(registry::import(&store, import, &mut |_| {})), "set-state", Run::Real)
        }
        RegistryCommand::Template { .. } => Ok(0),
    }
}

async fn import(store: &Store, file: &ImportFile, text: Vec<u8>) -> anyhow::Result<u8> {
    let run = if file.dry_run { Run::Dry } else { Run::Real };
    let import = Import {
        kind: file.kind,
        text,
        format: file.format.map(format_of),
        who: file.author.who.clone(),
        why: file.author.why.clone(),
        run,
    };
    let mut bar = Told::of("rows");
    let count = |count| u64::try_from(count).unwrap_or(u64::MAX);
    let mut tell = |Progress { done, of }| bar.tell(count(done), count(of));
    let imported = registry::import(store, import, &mut tell).await;
    bar.end();
    told(imported, &file.file.display().to_string(), run)
}

/// Says what came of it.
fn told(imported: Result<Difference, ImportError>, file: &str, run: Run) -> anyhow::Result<u8> {
    match imported {
        Ok(difference) => {
            summary(&difference, run, &mut std::io::stdout().lock())?;
            Ok(0)
        }
        Err(ImportError::Invalid(problems)) => {
            let mut out = BufWriter::new(std::io::stderr().lock());
            for problem in &problems {
                writeln!(out, "{}", problem.in_file(file))?;
            }
            writeln!(out, "{} problems; nothing was changed", problems.len())?;
            out.flush()?;
            Ok(EXIT_WRONG)
        }
        Err(error) => Err(error.into()),
    }
}

fn summary(difference: &Difference, run: Run, out: &mut impl Write) -> anyhow::Result<()> {
    if run == Run::Dry {
        for change in difference.changes.iter().take(SHOWN_MAX) {
            writeln!(out, "{}", line(change))?;
        }
        if let Some(more) = difference.changes.len().checked_sub(SHOWN_MAX + 1) {
            writeln!(out, "and {} more", more + 1)?;
        }
    }
    let created = difference.changes.iter().filter(|change| change.created).count();
    let changed = difference.changes.len() - created;
    let would = if run == Run::Dry { "would be " } else { "" };
    writeln!(out, "{would}created {created}, {would}changed {changed}, unchanged {}", difference.unchanged)?;
    Ok(())
}

fn line(change: &Change) -> String {
    let what: Vec<String> = change
        .what
        .iter()
        .map(|(field, before, after)| {
            if change.created {
                format!("{field}={after:?}")
            } else {
                format!("{field}={before:?} -> {after:?}")
            }
        })
        .collect();
    format!("{} {}: {}", if change.created { "create" } else { "change" }, change.id, what.join(", "))
}

fn history(changes: &[store::RegistryChange], out: &mut impl Write) -> anyhow::Result<()> {
    for change in changes {
        let at = registry::time::Time::from_ms(change.at).cell();
        let why = if change.why.is_empty() { String::new() } else { format!(" ({})", change.why) };
        writeln!(out, "{at}  {}  {}{why}", change.change, change.who)?;
        for (field, before, after) in &change.what {
            writeln!(out, "    {field}: {before:?} -> {after:?}")?;
        }
    }
    Ok(())
}

fn format_of(format: FileFormat) -> Format {
    match format {
        FileFormat::Csv => Format::Csv,
        FileFormat::Json => Format::Json,
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    let failed = || format!("cannot read {}", path.display());
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).with_context(failed)?)
    };
    source.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).with_context(failed)?;
    let bytes = u64::try_from(text.len())?;
    anyhow::ensure!(
        bytes <= FILE_BYTES_MAX,
        "{} is larger than {FILE_BYTES_MAX} bytes: part it",
        path.display()
    );
    Ok(text)
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(std::io::stdout().lock())));
    }
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_what_would_be() {
        let change = |id: usize| Change {
            id: id.to_string(),
            cells: Vec::new(),
            created: id == 0,
            what: vec![("name", String::new(), "x".into())],
        };
        let difference = Difference { changes: (0..22).map(change).collect(), unchanged: 3 };
        let mut out = Vec::new();
        summary(&difference, Run::Dry, &mut out).expect("memory");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("create 0: name=\"x\"\nchange 1: name=\"\" -> \"x\"\n"), "{text}");
        assert!(
            text.ends_with("and 2 more\nwould be created 1, would be changed 21, unchanged 3\n"),
            "{text}"
        );
    }
}
