//! Answers of ClickHouse, for people and for programs.
//!
//! - A table pads its columns and cuts texts of more than 80 characters (`…`); it is not cut to a terminal: `| less -S` shows a wide one.
//! - CSV is that of RFC 4180: lines end with CR LF, a cell with a comma, quote or line end is quoted. A text that begins with `=`, `+`, `-`
//!   or `@`, with a tab or a line end, gets an apostrophe before it, so that no spreadsheet takes it for a formula; numbers are left alone.
//! - JSON has an object for each row; amounts of money are texts, as a floating number would not hold them.
//! - Markdown is a page to print: the question, what the answer does not know, and the table.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use store::{Answer, Report};

/// Longest cell of a table, characters.
const CELL_CHARACTERS_MAX: usize = 80;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// With a line of names.
    Csv,
    /// One object.
    Json,
    /// Markdown, to print.
    Md,
}

/// Writes an answer. Whoever reads a table or a CSV is told on standard error what does not belong into it.
pub(crate) fn answer(
    report: &Report,
    answer: &Answer,
    format: Format,
    out: &mut impl Write,
) -> io::Result<()> {
    match format {
        Format::Table => table(answer, out),
        Format::Csv => csv(answer, out),
        Format::Json => object(report, answer, out),
        Format::Md => page(report, answer, out),
    }
}

fn table(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<Vec<String>> =
        answer.rows.iter().map(|row| row.iter().map(|value| short(&text(value))).collect()).collect();
    let widths: Vec<usize> = answer
        .columns
        .iter()
        .enumerate()
        .map(|(nth, column)| {
            let cells = rows.iter().filter_map(|row| row.get(nth)).map(|cell| cell.chars().count());
            cells.chain([column.name.chars().count()]).max().unwrap_or_default()
        })
        .collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for ((cell, width), column) in cells.zip(&widths).zip(&answer.columns) {
            let (width, gap) = (*width, if text.is_empty() { "" } else { "  " });
            text += &if column.is_number() {
                format!("{gap}{cell:>width$}")
            } else {
                format!("{gap}{cell:<width$}")
            };
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut answer.columns.iter().map(|column| column.name.as_str()))?;
    for row in &rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

fn csv(answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    let names: Vec<String> = answer.columns.iter().map(|column| quoted(&column.name)).collect();
    write!(out, "{}\r\n", names.join(","))?;
    for row in &answer.rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&answer.columns)
            .map(
                |(value, column)| {
                    if column.is_number() { text(value) } else { quoted(&harmless(&text(value))) }
                },
            )
            .collect();
        write!(out, "{}\r\n", cells.join(","))?;
    }
    Ok(())
}

fn object(report: &Report, answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    let rows: Vec<Map<String, Value>> = answer
        .rows
        .iter()
        .map(|row| answer.columns.iter().map(|column| column.name.clone()).zip(row.iter().cloned()).collect())
        .collect();
    let with: Map<String, Value> =
        answer.with.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.as_str()))).collect();
    let document = json!({
        "report": report.name,
        "question": report.question,
        "does_not_know": report.unknown,
        "with": with,
        "cut": answer.cut,
        "rows": rows,
    });
    writeln!(out, "{document:#}")
}

fn page(report: &Report, answer: &Answer, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "# {}\n\n{}\n", report.name, report.question)?;
    for (name, value) in answer.with.iter().filter(|(_, value)| !value.starts_with('[')) {
        writeln!(out, "- {name}: `{}`", value.replace('`', "'"))?;
    }
    let names: Vec<&str> = answer.columns.iter().map(|column| column.name.as_str()).collect();
    let rules: Vec<&str> =
        answer.columns.iter().map(|column| if column.is_number() { "---:" } else { "---" }).collect();
    writeln!(out, "\n| {} |\n| {} |", names.join(" | "), rules.join(" | "))?;
    for row in &answer.rows {
        let cells: Vec<String> = row.iter().map(|value| in_markdown(&text(value))).collect();
        writeln!(out, "| {} |", cells.join(" | "))?;
    }
    if answer.cut {
        writeln!(out, "\n**There are more rows than these {}.**", answer.rows.len())?;
    }
    writeln!(out, "\nWhat this does not know: {}", report.unknown)
}

/// A value as a person reads it; what is not there is empty.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Without what would move a terminal's cursor, and not longer than a person reads.
fn short(cell: &str) -> String {
    let plain = cell.chars().map(|character| if character.is_control() { ' ' } else { character });
    if cell.chars().count() <= CELL_CHARACTERS_MAX {
        plain.collect()
    } else {
        plain.take(CELL_CHARACTERS_MAX - 1).chain(['…']).collect()
    }
}

fn harmless(cell: &str) -> String {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        format!("'{cell}")
    } else {
        cell.to_owned()
    }
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

fn in_markdown(cell: &str) -> String {
    let mut safe = String::with_capacity(cell.len());
    for character in cell.chars() {
        match character {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' => safe.extend(['\\', character]),
            character if character.is_control() => safe.push(' '),
            character => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::Column;

    fn shown(format: Format) -> String {
        let column = |name: &str, kind: &str| Column { name: name.into(), kind: kind.into() };
        let told = Answer {
            columns: vec![
                column("name", "String"),
                column("dbm", "Nullable(Float32)"),
                column("cost", "Decimal(18, 2)"),
            ],
            rows: vec![
                vec![json!("=1+1"), json!(-95), json!("12.50")],
                vec![json!("a,\"b\"|c\u{1b}"), Value::Null, json!("-0.05")],
            ],
            cut: true,
            with: vec![("days", "7".to_owned())],
        };
        let mut out = Vec::new();
        answer(Report::named("signal-by-cell").expect("a report"), &told, format, &mut out).expect("written");
        String::from_utf8(out).expect("a text")
    }

    #[test]
    fn csv_keeps_numbers_quotes_cells_and_runs_nothing() {
        assert_eq!(
            shown(Format::Csv),
            "name,dbm,cost\r\n'=1+1,-95,12.50\r\n\"a,\"\"b\"\"|c\u{1b}\",,-0.05\r\n"
        );
    }

    #[test]
    fn a_table_is_aligned_and_moves_no_cursor() {
        assert_eq!(
            shown(Format::Table),
            "name      dbm   cost\n=1+1      -95  12.50\na,\"b\"|c        -0.05\n"
        );
    }

    #[test]
    fn json_says_what_was_asked_and_whether_it_was_cut() {
        let read: Value = serde_json::from_str(&shown(Format::Json)).expect("json");
        assert_eq!((&read["with"]["days"], &read["cut"]), (&json!("7"), &json!(true)));
        assert_eq!(read["rows"][0], json!({"name": "=1+1", "dbm": -95, "cost": "12.50"}));
    }

    #[test]
    fn a_page_says_what_it_does_not_know_and_no_cell_leaves_its_place() {
        let page = shown(Format::Md);
        assert!(
            page.starts_with("# signal-by-cell\n") && page.contains("What this does not know: "),
            "{page}"
        );
        assert!(
            page.contains("| a,\"b\"\\|c  |  | -0.05 |") && page.contains("more rows than these 2"),
            "{page}"
        );
    }
}
