//! The note beside a committed offset: up to where a batch is under way.
//!
//! `v1 pending LAST`: the batch begins at the committed offset and ends with `LAST`, both included. An empty note:
//! nothing is under way. Anything else was written by somebody else, or by a later version: it is an error, as reading
//! on without understanding it could double rows.

use bus::Offset;

const PENDING: &str = "v1 pending ";

/// A note that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the note {0:?} beside the committed offset is not understood")]
pub(crate) struct NotUnderstood(String);

/// The note of a batch that ends with `last`.
pub(crate) fn pending(last: Offset) -> String {
    format!("{PENDING}{}", last.0)
}

/// The last offset of the batch under way, if one was.
pub(crate) fn parse(note: &str) -> Result<Option<Offset>, NotUnderstood> {
    if note.is_empty() {
        return Ok(None);
    }
    let last = note.strip_prefix(PENDING).and_then(|last| last.parse().ok());
    last.map(|last| Some(Offset(last))).ok_or_else(|| NotUnderstood(note.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_as_it_was() {
        assert_eq!(parse(&pending(Offset(42))), Ok(Some(Offset(42))));
        assert_eq!(parse(""), Ok(None));
        assert!(parse("v2 pending 42").is_err() && parse("v1 pending x").is_err());
    }
}
