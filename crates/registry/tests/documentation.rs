//! docs/registry.md says of every column what the code says.

use std::fmt::Write as _;

use registry::{Column, Kind};

const DOCUMENT: &str = include_str!("../../../docs/registry.md");

/// The table of a kind, as the document has it.
fn table(kind: Kind) -> String {
    let mut table = format!("### {kind}\n\n| column | holds | meaning |\n|---|---|---|\n");
    for (place, column) in kind.columns().iter().enumerate() {
        let key = if place < kind.key() { ", key" } else { "" };
        let holds = holds(column);
        let _written = writeln!(table, "| `{}`{key} | {holds} | {} |", column.name, column.doc.trim());
    }
    table
}

fn holds(column: &Column) -> String {
    let mut holds = column.shape.describe();
    if let Some(kind) = column.refers {
        let _written = write!(holds, "; one of the {kind}");
    }
    if column.optional {
        holds.push_str("; may be empty");
    }
    if !column.default.is_empty() {
        let _written = write!(holds, "; `{}` if empty", column.default);
    }
    holds
}

#[test]
fn the_document_explains_every_column() {
    let tables = Kind::ALL.map(table);
    let missing: Vec<&str> =
        tables.iter().map(String::as_str).filter(|table| !DOCUMENT.contains(table)).collect();
    assert!(missing.is_empty(), "docs/registry.md has to have this:\n\n{}", missing.join("\n"));
}
