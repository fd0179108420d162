//! Exports: a CSV with a header, or one JSON array with an object a line. What is exported can be imported, and changes nothing then.

use std::io::Write;

use serde_json::{Map, Value as Json};

use crate::Kind;
use crate::formula;
use crate::read::Format;
use crate::value::Shape;

/// Why an export was not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the export")]
pub struct WriteError(#[source] std::io::Error);

/// Writes rows of cells.
///
/// # Errors
/// Where `out` does not take them.
pub fn write(
    kind: Kind,
    rows: &[Vec<String>],
    format: Format,
    out: &mut impl Write,
) -> Result<(), WriteError> {
    let written = match format {
        Format::Csv => csv(kind, rows, out),
        Format::Json => json(kind, rows, out),
    };
    written.and_then(|()| out.flush()).map_err(WriteError)
}

fn csv(kind: Kind, rows: &[Vec<String>], out: &mut impl Write) -> std::io::Result<()> {
    let mut writer = csv::Writer::from_writer(out);
    writer.write_record(kind.columns().iter().map(|column| column.name))?;
    for row in rows {
        writer.write_record(row.iter().map(|cell| formula::guarded(cell).into_owned()))?;
    }
    writer.flush()
}

fn json(kind: Kind, rows: &[Vec<String>], out: &mut impl Write) -> std::io::Result<()> {
    out.write_all(b"[")?;
    for (number, row) in rows.iter().enumerate() {
        out.write_all(if number == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &object(kind, row))?;
    }
    out.write_all(b"\n]\n")
}

/// A row as an object.
pub fn object(kind: Kind, cells: &[String]) -> Map<String, Json> {
    let columns = kind.columns().iter().zip(cells);
    columns.map(|(column, cell)| (column.name.to_owned(), value(column.shape, cell))).collect()
}

/// A cell that is empty is null.
fn value(shape: Shape, cell: &str) -> Json {
    match shape {
        Shape::Tiers => {
            let tier = |tier: &str| {
                let (from, price) = tier.split_once(':').unwrap_or((tier, ""));
                serde_json::json!({ "from_mb": from, "price_per_mb": price })
            };
            cell.split_whitespace().map(tier).collect::<Vec<_>>().into()
        }
        _ if cell.is_empty() => Json::Null,
        Shape::Integer { .. } => cell.parse::<u32>().map_or(Json::Null, Json::from),
        _ => cell.into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entry::Entry;
    use crate::kinds::for_kind;
    use crate::number::luhn;
    use crate::read;

    /// A cell that a column of this shape may hold.
    fn any_cell(column: &crate::entry::Column) -> BoxedStrategy<String> {
        let right = match column.shape {
            Shape::Integer { min, max } => (min..=max).prop_map(|number| number.to_string()).boxed(),
            Shape::Amount => "[1-9][0-9]{0,5}(\\.[0-9]{0,4}[1-9])?".boxed(),
            Shape::Day => "20[0-9]{2}-0[1-9]-1[0-9]".boxed(),
            Shape::Month => "20[0-9]{2}-0[1-9]".boxed(),
            Shape::Time => "20[0-9]{2}-0[1-9]-1[0-9]T1[0-9]:00:00Z".boxed(),
            Shape::Choice(words) => proptest::sample::select(words).prop_map(str::to_owned).boxed(),
            Shape::Tiers => Just("0:0.1 500:0.05".to_owned()).boxed(),
            Shape::Text(_) => match column.name {
                "billing_time_zone" => Just("Europe/Berlin".to_owned()).boxed(),
                "currency" => "[A-Z]{3}".boxed(),
                "country" => "[A-Z]{2}".boxed(),
                "iccid" | "iccid_expected" => {
                    "89[0-9]{16}".prop_map(|body| format!("{body}{}", luhn(&body))).boxed()
                }
                "imei" => "[0-9]{14}".prop_map(|body| format!("{body}{}", luhn(&body))).boxed(),
                "eid" => Just("89049032123451234512345678901235".to_owned()).boxed(),
                "imsi" | "msisdn" => "[1-9][0-9]{10}".boxed(),
                "link" => "https://[a-z,]{1,9}/[a-z'=]{0,9}".boxed(),
                name if name.ends_with("_id") => "[a-zA-Z0-9@._-]{1,20}".boxed(),
                _ => "['=+@-]?[a-zäß€,;\"']([a-z \",;'=]{0,20}[a-z\"'=])?".boxed(),
            },
        };
        if column.optional { prop_oneof![1 => Just(String::new()), 3 => right].boxed() } else { right }
    }

    proptest! {
        #[test]
        fn what_is_exported_is_imported_as_it_was(
            kind in proptest::sample::select(&Kind::ALL[..]),
            seed in proptest::collection::vec(proptest::num::u64::ANY, 1..4),
        ) {
            let mut runner = proptest::test_runner::TestRunner::new_with_rng(
                ProptestConfig::default(),
                proptest::test_runner::TestRng::from_seed(
                    proptest::test_runner::RngAlgorithm::ChaCha,
                    &seed[0].to_le_bytes().repeat(4),
                ),
            );
            let row = |runner: &mut _| -> Vec<String> {
                let cell = |column| any_cell(column).new_tree(runner).expect("a cell").current();
                kind.columns().iter().map(cell).collect()
            };
            let rows: Vec<Vec<String>> = seed.iter().map(|_| row(&mut runner)).collect();
            for format in [Format::Csv, Format::Json] {
                let mut text = Vec::new();
                write(kind, &rows, format, &mut text).expect("memory");
                prop_assert_eq!(Format::of(&text), format);
                let (drafts, problems) = read::drafts(kind, &text, format);
                prop_assert_eq!(problems, vec![]);
                let back: Vec<Vec<String>> = drafts.into_iter().map(|draft| draft.cells.into_iter().flatten().collect()).collect();
                prop_assert_eq!(&back, &rows);
                // Cells in the one form of their values: read and written again they are the same.
                for row in &rows {
                    let again = for_kind!(kind, R => R::read(row).map(|entry| entry.cells()));
                    prop_assert_eq!(again.as_ref(), Ok(row));
                }
            }
        }
    }
}
