//! Whether a table has the columns that its rows fill, of the types that they are written as.

use clickhouse::Row;
use clickhouse::error::Error;
use serde::Deserialize;

use crate::Store;
use crate::rows::{Column, TableRow};

/// A column as it stands.
#[derive(Debug, Row, Deserialize)]
struct Standing {
    name: String,
    sql: String,
    /// `DEFAULT`, `MATERIALIZED`, `ALIAS`, `EPHEMERAL` or nothing.
    filled_by: String,
}

impl Store {
    /// Compares a table with its rows, so that a writer says at its start what each of its inserts would be refused for.
    pub(crate) async fn check_columns<R: TableRow>(&self) -> Result<(), Error> {
        let query = "SELECT name, type AS sql, toString(default_kind) AS filled_by FROM system.columns
            WHERE database = ? AND table = ? ORDER BY position";
        let query = self.client.query(query).bind(&self.database).bind(R::TABLE);
        let differences = differences(R::COLUMNS, &query.fetch_all::<Standing>().await?);
        if differences.is_empty() { Ok(()) } else { Err(Error::SchemaMismatch(differences.join("; "))) }
    }
}

/// What differs, for people.
fn differences(written: &[Column], standing: &[Standing]) -> Vec<String> {
    let of_written = written.iter().filter_map(|Column { name, sql }| {
        match standing.iter().find(|column| column.name == *name) {
            None => Some(format!("there is no column {name}")),
            Some(column) if column.sql != *sql => {
                Some(format!("column {name} is {} and not {sql}", column.sql))
            }
            Some(column) if matches!(column.filled_by.as_str(), "MATERIALIZED" | "ALIAS") => {
                Some(format!("column {name} is {} and takes no value", column.filled_by))
            }
            Some(_) => None,
        }
    });
    let is_written = |column: &Standing| written.iter().any(|Column { name, .. }| column.name == *name);
    let others = standing.iter().filter(|column| !is_written(column) && column.filled_by.is_empty());
    of_written
        .chain(others.map(|column| format!("column {} has no default and nobody writes it", column.name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(name: &str, sql: &str, filled_by: &str) -> Standing {
        Standing { name: name.into(), sql: sql.into(), filled_by: filled_by.into() }
    }

    #[test]
    fn a_table_may_have_more_columns_but_no_other_ones() {
        let written = [Column { name: "a", sql: "UInt8" }, Column { name: "b", sql: "String" }];
        let both = || vec![standing("b", "String", ""), standing("a", "UInt8", "DEFAULT")];
        let of = |standing: &[Standing]| differences(&written, standing);
        assert!(of(&both()).is_empty(), "in any order");
        let with = |more| both().into_iter().chain([more]).collect::<Vec<_>>();
        assert!(of(&with(standing("c", "Date", "ALIAS"))).is_empty());
        assert_eq!(of(&with(standing("c", "Date", ""))), ["column c has no default and nobody writes it"]);
        assert_eq!(of(&both()[1..]), ["there is no column b"]);
        assert_eq!(
            of(&[standing("a", "Int8", ""), standing("b", "String", "MATERIALIZED")]),
            ["column a is Int8 and not UInt8", "column b is MATERIALIZED and takes no value"]
        );
    }
}
