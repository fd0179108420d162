//! Files, taken apart: rows of cells with their line. What the cells mean is not looked at here.
//!
//! A column that a file does not name is left as it stands. Blanks around a cell are not part of it.

use csv::{ByteRecord, ReaderBuilder, Trim};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::Kind;
use crate::entry::Column;
use crate::fault::{Fault, Problem};
use crate::formula;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With a header; commas or, where the header has none, semicolons.
    Csv,
    /// An array of objects, or one object a line.
    Json,
}

impl Format {
    /// Of a text that does not say it.
    pub fn of(text: &[u8]) -> Self {
        match without_mark(text).iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'[' | b'{') => Self::Json,
            _ => Self::Csv,
        }
    }
}

/// A row as it was handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// First line of the row, from 1.
    pub line: u64,
    /// A cell for each column of the kind; none where the file does not say.
    pub cells: Vec<Option<String>>,
}

/// Takes a file apart. Everything that is wrong with it is in the second part; the rows that could be read are in the first all the same,
/// so that what is wrong with their cells can be told at once.
pub fn drafts(kind: Kind, text: &[u8], format: Format) -> (Vec<Draft>, Vec<Problem>) {
    let columns = kind.columns();
    let mut problems = Vec::new();
    let drafts = match format {
        Format::Csv => from_csv(columns, without_mark(text), &mut problems),
        Format::Json => from_json(columns, without_mark(text), &mut problems),
    };
    (drafts, problems)
}

/// Spreadsheets put a mark before UTF-8.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn from_csv(columns: &[Column], text: &[u8], problems: &mut Vec<Problem>) -> Vec<Draft> {
    let first =
        text.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    let delimiter = if first.contains(&b';') && !first.contains(&b',') { b';' } else { b',' };
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .flexible(true)
        .trim(Trim::All)
        .has_headers(false)
        .from_reader(text);
    let mut record = ByteRecord::new();
    let mut lines = Lines { text, at: 0, line: 1 };
    let Some(header) = next(&mut reader, &mut record, &mut lines, problems) else {
        if problems.is_empty() {
            problems.push(Problem::of_line(1, Fault::Empty));
        }
        return Vec::new();
    };
    let places = places(columns, &header, problems);
    let mut drafts = Vec::new();
    while let Some(Row { line, cells }) = next(&mut reader, &mut record, &mut lines, problems) {
        if cells.len() != places.len() {
            problems.push(Problem::of_line(line, Fault::Cells { is: cells.len(), should: places.len() }));
            continue;
        }
        let mut draft = Draft { line, cells: vec![None; columns.len()] };
        for (cell, place) in cells.into_iter().zip(&places) {
            if let Some(place) = *place {
                draft.cells[place] = Some(formula::unguarded(&cell).to_owned());
            }
        }
        drafts.push(draft);
    }
    drafts
}

struct Row {
    line: u64,
    cells: Vec<String>,
}

/// The line of a place in a text, for places that only go on.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    /// Of the first row at or after `at`: the reader says where the one before it ended, which may be some line breaks earlier.
    fn of_row(&mut self, at: u64) -> u64 {
        let at = usize::try_from(at).unwrap_or(usize::MAX).clamp(self.at, self.text.len());
        let breaks_before = self.text[at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        self.line += breaks(&self.text[self.at..at + breaks_before]);
        self.at = at + breaks_before;
        self.line
    }
}

/// The next row that can be read; what cannot is told.
fn next(
    reader: &mut csv::Reader<&[u8]>,
    record: &mut ByteRecord,
    lines: &mut Lines<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Row> {
    loop {
        match reader.read_byte_record(record) {
            Ok(false) => return None,
            Ok(true) => {}
            Err(error) => {
                let line = lines
                    .of_row(error.position().map_or_else(|| reader.position().byte(), csv::Position::byte));
                problems.push(Problem::of_line(line, Fault::Csv(error.to_string())));
                return None;
            }
        }
        let line = lines.of_row(record.position().map_or(0, csv::Position::byte));
        let cells: Result<Vec<String>, _> =
            record.iter().map(|cell| std::str::from_utf8(cell).map(str::to_owned)).collect();
        match cells {
            // A line of blanks or of delimiters alone, as spreadsheets leave at the end, is no row.
            Ok(cells) if cells.iter().all(String::is_empty) => {}
            Ok(cells) => return Some(Row { line, cells }),
            Err(_) => problems.push(Problem::of_line(line, Fault::Utf8)),
        }
    }
}

/// Which column each place of the header is.
fn places(columns: &[Column], header: &Row, problems: &mut Vec<Problem>) -> Vec<Option<usize>> {
    let mut places: Vec<Option<usize>> = Vec::with_capacity(header.cells.len());
    for name in &header.cells {
        let place = columns.iter().position(|column| column.name == name);
        let fault = match place {
            None => Some(Fault::Column(names(columns))),
            Some(_) if places.contains(&place) => Some(Fault::ColumnTwice),
            Some(_) => None,
        };
        problems.extend(fault.map(|fault| Problem::of_cell(header.line, name, "", fault)));
        places.push(place);
    }
    places
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
}

fn from_json(columns: &[Column], text: &[u8], problems: &mut Vec<Problem>) -> Vec<Draft> {
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem::of_line(line_of(text, error.valid_up_to()), Fault::Utf8));
            return Vec::new();
        }
    };
    let mut rows: Vec<(u64, &str)> = Vec::new();
    if text.trim_start().starts_with('[') {
        match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(objects) => {
                let (mut line, mut counted) = (1, 0);
                for object in objects {
                    let at = object.get().as_ptr().addr() - text.as_ptr().addr();
                    line += breaks(&text.as_bytes()[counted..at]);
                    counted = at;
                    rows.push((line, object.get()));
                }
            }
            Err(error) => {
                let line = u64::try_from(error.line()).unwrap_or(u64::MAX);
                problems.push(Problem::of_line(line, Fault::Json(error.to_string())));
            }
        }
    } else {
        rows.extend((1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()));
        if rows.is_empty() {
            problems.push(Problem::of_line(1, Fault::Empty));
        }
    }
    rows.into_iter().filter_map(|(line, row)| object(columns, line, row, problems)).collect()
}

fn breaks(text: &[u8]) -> u64 {
    u64::try_from(text.iter().filter(|&&byte| byte == b'\n').count()).unwrap_or(u64::MAX)
}

fn line_of(text: &[u8], at: usize) -> u64 {
    1 + breaks(&text[..at])
}

/// The members of an object in their order: a map would hide one that is there twice.
struct Members(Vec<(String, Json)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

fn object(columns: &[Column], line: u64, text: &str, problems: &mut Vec<Problem>) -> Option<Draft> {
    let members = match serde_json::from_str::<Members>(text) {
        Ok(Members(members)) => members,
        Err(error) => {
            problems.push(Problem::of_line(line, Fault::Json(error.to_string())));
            return None;
        }
    };
    let mut draft = Draft { line, cells: vec![None; columns.len()] };
    let before = problems.len();
    for (name, value) in members {
        let mut wrong = |given: &str, fault| problems.push(Problem::of_cell(line, &name, given, fault));
        let Some(place) = columns.iter().position(|column| column.name == name) else {
            wrong("", Fault::Column(names(columns)));
            continue;
        };
        if draft.cells[place].is_some() {
            wrong("", Fault::ColumnTwice);
            continue;
        }
        match cell(&value) {
            Some(cell) => draft.cells[place] = Some(cell),
            None => wrong(&value.to_string(), Fault::JsonCell),
        }
    }
    (problems.len() == before).then_some(draft)
}

/// The cell of a JSON value. Tiers are an array of objects.
fn cell(value: &Json) -> Option<String> {
    match value {
        Json::Null => Some(String::new()),
        Json::String(text) => Some(text.trim().to_owned()),
        Json::Number(number) => Some(number.to_string()),
        Json::Array(tiers) => {
            let tier = |tier: &Json| {
                let members = tier.as_object().filter(|members| members.len() == 2)?;
                Some(format!("{}:{}", cell(members.get("from_mb")?)?, cell(members.get("price_per_mb")?)?))
            };
            Some(tiers.iter().map(tier).collect::<Option<Vec<_>>>()?.join(" "))
        }
        Json::Bool(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: Kind, text: &str) -> Vec<String> {
        let (_, problems) = drafts(kind, text.as_bytes(), Format::of(text.as_bytes()));
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_wrong_line_of_a_csv_is_told_at_once() {
        let text = "fleet_id,nonsense,name,name\n\na,1,x\nb,1,x\n\"c\nc\",1,x,x\nd,1\n";
        assert_eq!(
            told(Kind::Fleets, text),
            [
                "1: nonsense: there is no such column; there are fleet_id, customer_id, name, city, country, rides_per_day, \
                 value_per_ride, value_per_minute",
                "1: name: this column stands there twice",
                "3: the row has 3 cells and the header 4",
                "4: the row has 3 cells and the header 4",
                "7: the row has 2 cells and the header 4",
            ]
        );
        assert_eq!(told(Kind::Fleets, ""), ["1: there is no header and no row"]);
    }

    #[test]
    fn a_table_of_a_spreadsheet_is_read() {
        let text = "\u{feff}fleet_id;name\r\nberlin;\"Berlin; Mitte\"\r\n;\r\n";
        let (drafts, problems) = drafts(Kind::Fleets, text.as_bytes(), Format::Csv);
        assert_eq!((drafts.len(), problems), (1, vec![]));
        assert_eq!(drafts[0].line, 2);
        assert_eq!(drafts[0].cells[..3], [Some("berlin".into()), None, Some("Berlin; Mitte".into())]);
    }

    #[test]
    fn lines_and_arrays_of_json_are_the_same_with_their_lines() {
        let lines = "{\"fleet_id\":\"a\",\"name\":1}\n\n{\"fleet_id\":\"b\",\"city\":null}\n";
        let array = "[{\"fleet_id\":\"a\",\"name\":1},\n\n{\"fleet_id\":\n\"b\",\"city\":null}]";
        let of = |text: &str| drafts(Kind::Fleets, text.as_bytes(), Format::of(text.as_bytes()));
        assert_eq!(of(lines), of(array));
        assert_eq!(of(lines).0.iter().map(|draft| draft.line).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(
            told(Kind::Fleets, "{\"fleet_id\":true}\n{\"x\":1}\nnonsense\n{\"name\":\"a\",\"name\":\"b\"}"),
            [
                "1: fleet_id: \"true\" is neither a text, a number nor null",
                &format!("2: x: there is no such column; there are {}", names(Kind::Fleets.columns())),
                "3: is not JSON: expected ident at line 1 column 2",
                "4: name: this column stands there twice",
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            for kind in Kind::ALL {
                for format in [Format::Csv, Format::Json] {
                    let _any = drafts(kind, &bytes, format);
                }
            }
        }
    }
}
