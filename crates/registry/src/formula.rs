//! Cells that a spreadsheet would take for a formula.
//!
//! A cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return is executed by spreadsheets when somebody opens an export: a text that a
//! stranger wrote must not become a program. So a CSV export puts an apostrophe before it, which spreadsheets show as "this is a text", and
//! an import takes it away again. A text that has apostrophes there by itself gets one more, so that nothing is lost either way. JSON
//! needs none of this.

fn is_formula(cell: &str) -> bool {
    cell.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// The cell as it is exported.
pub(crate) fn guarded(cell: &str) -> std::borrow::Cow<'_, str> {
    if is_formula(cell) { format!("'{cell}").into() } else { cell.into() }
}

/// The cell as it was before.
pub(crate) fn unguarded(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(rest) if is_formula(rest) => rest,
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_spreadsheet_would_execute_is_a_text() {
        assert_eq!(guarded("=HYPERLINK(\"http://x\")"), "'=HYPERLINK(\"http://x\")");
        assert_eq!(guarded("O'Neil"), "O'Neil");
        assert_eq!(unguarded("-5"), "-5", "who types a formula's sign into a file means it");
    }

    proptest::proptest! {
        #[test]
        fn nothing_is_lost(cell in "['=+@a-]{0,6}") {
            let there = guarded(&cell);
            proptest::prop_assert_eq!(unguarded(&there), cell.as_str());
            proptest::prop_assert!(!there.starts_with(['=', '+', '-', '@']));
        }
    }
}
