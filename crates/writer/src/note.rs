//! The note beside a committed offset: up to where a batch is under way, and in which round.
//!
//! `v2 pending LAST ROUND`: the batch begins at the committed offset and ends with `LAST`, both included, and whoever announced it may
//! have inserted it in the round of that name ([`crate::round`]). `v1 pending LAST`: the same without a round. An empty note: nothing is
//! under way. Anything else was written by somebody else, or by a later version: it is an error, as reading on without understanding
//! it could double rows.

use bus::Offset;

use crate::round::Round;

const ALONE: &str = "v1 pending ";
const IN_A_ROUND: &str = "v2 pending ";

/// A note that is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the note {0:?} beside the committed offset is not understood")]
pub(crate) struct NotUnderstood(String);

/// A batch that was announced, and not concluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub last: Offset,
    pub round: Option<Round>,
}

/// The note of a batch that ends with `last`.
pub(crate) fn pending(last: Offset, round: Option<&Round>) -> String {
    match round {
        Some(round) => format!("{IN_A_ROUND}{} {round}", last.0),
        None => format!("{ALONE}{}", last.0),
    }
}

/// The batch under way, if one was.
pub(crate) fn parse(note: &str) -> Result<Option<Announced>, NotUnderstood> {
    if note.is_empty() {
        return Ok(None);
    }
    let announced = match (note.strip_prefix(ALONE), note.strip_prefix(IN_A_ROUND)) {
        (Some(last), _) => announced(last, None),
        (None, Some(rest)) => {
            rest.split_once(' ').and_then(|(last, round)| announced(last, Some(Round::parse(round)?)))
        }
        (None, None) => None,
    };
    announced.map(Some).ok_or_else(|| NotUnderstood(note.to_owned()))
}

fn announced(last: &str, round: Option<Round>) -> Option<Announced> {
    last.parse().ok().map(|last| Announced { last: Offset(last), round })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_comes_back_as_it_was() {
        let round = Round::parse("01f/7");
        assert!(round.is_some());
        for round in [None, round] {
            let note = pending(Offset(42), round.as_ref());
            assert_eq!(parse(&note), Ok(Some(Announced { last: Offset(42), round })));
        }
        assert_eq!(parse(""), Ok(None));
        for strange in ["v3 pending 42", "v1 pending x", "v1 pending 1 r", "v2 pending 42", "v2 pending 42 "]
        {
            assert!(parse(strange).is_err(), "{strange}");
        }
    }
}
