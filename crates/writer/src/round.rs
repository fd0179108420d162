//! Rounds: batches of several partitions that are announced in one commit and inserted together.
//!
//! ClickHouse does nearly the same work for an insert of ten rows as for one of a thousand, and as much again when it merges the parts.
//! So a writer does not insert partition by partition: what is due goes out together, under the name of the round as token.
//!
//! A round is inserted **once**, by the writer that opened it, in one insert per table. Whatever comes of that other than success (an
//! error, a lost answer, a partition that went away meanwhile), each of its batches goes on alone: it *closes* the round for its rows,
//! asks which of them stand and inserts what is missing under its own token. To close a round is to insert rows that do not stand
//! under the name of the round: either the table takes them, and drops the round's own insert should it still come; or the table knows
//! the name, so that insert came before, and is found by the question after it. The note beside the committed offset
//! ([`crate::note`]) names the round, so the successor of a dead writer closes it as well.
//!
//! Hence the one rule for whoever opened a round: an insert that somebody else has closed is dropped and reported as a success. It says that the
//! round stands only to a writer that has had every partition of it, without a break, since it sent the announcement.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::batch::{Batch, Limits};

/// The name of a round: nobody has used it before.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Round(Arc<str>);

impl Round {
    /// A name as it stands in a note.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'/');
        (!name.is_empty() && name.bytes().all(plain)).then(|| Self(name.into()))
    }

    /// The token under which it is inserted.
    pub(crate) fn token(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names rounds, and fills them: one is open from the first batch that is closed until the commit that announces it.
#[derive(Clone)]
pub(crate) struct Rounds {
    /// This life of this writer.
    life: Uuid,
    /// How many rounds it has opened.
    opened: u64,
    open: Option<Open>,
    limits: Limits,
}

#[derive(Clone)]
struct Open {
    round: Round,
    rows: usize,
    bytes: usize,
}

impl Rounds {
    /// A round takes as many rows as a batch is closed at: more would not be cheaper, and it has to stay one block. The batch that opens one
    /// may be larger, by what was read before its turn came.
    pub(crate) fn new(life: Uuid, limits: Limits) -> Self {
        Self { life, opened: 0, open: None, limits }
    }

    /// Adds a batch to the open round; opens another where none is open or it would be too large.
    pub(crate) fn join(&mut self, batch: &Batch) -> Round {
        if let Some(open) = self.open.as_mut().filter(|open| open.has_room(batch, &self.limits)) {
            open.rows += batch.len();
            open.bytes += batch.bytes;
            return open.round.clone();
        }
        let round = Round(format!("{}/{:x}", self.life.as_simple(), self.opened).into());
        self.opened += 1;
        self.open = Some(Open { round: round.clone(), rows: batch.len(), bytes: batch.bytes });
        round
    }

    /// Whether a batch could go out now with others that do.
    pub(crate) fn has_room(&self, batch: &Batch) -> bool {
        self.open.as_ref().is_some_and(|open| open.has_room(batch, &self.limits))
    }

    /// The commit that announces what was closed is on its way.
    pub(crate) fn announced(&mut self) {
        self.open = None;
    }
}

impl Open {
    fn has_room(&self, batch: &Batch, limits: &Limits) -> bool {
        self.rows + batch.len() <= limits.rows && self.bytes + batch.bytes <= limits.bytes
    }
}
