//! The table of the model, and a batch that goes alone into it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bus::Lane as Id;

use crate::batch::Batch;

/// Partition and offset.
pub(super) type Row = (usize, i64);

/// Rows on their way to the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sent {
    pub(super) rows: BTreeSet<Row>,
    pub(super) token: String,
}

/// A batch that goes alone.
#[derive(Clone)]
pub(super) struct Attempt {
    pub(super) batch: Arc<Batch>,
    pub(super) stage: Stage,
    pub(super) found: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Stage {
    Asking,
    /// Its round is being closed with these rows.
    Closing(Sent),
    AskingAgain,
    Inserting(Sent),
}

#[derive(Clone, Default)]
pub(super) struct Table {
    pub(super) rows: BTreeMap<Row, usize>,
    pub(super) view: BTreeSet<Row>,
    pub(super) tokens: BTreeSet<String>,
    pub(super) batches: BTreeMap<(usize, i64, i64), usize>,
    pub(super) batch_tokens: BTreeSet<String>,
}

pub(super) fn partition(id: Id) -> usize {
    usize::try_from(id.partition.0).expect("positive")
}

pub(super) fn rows(batch: &Batch) -> impl Iterator<Item = Row> {
    let partition = partition(batch.lane);
    (batch.first.0..=batch.last.0).map(move |offset| (partition, offset))
}

pub(super) fn range(batch: &Batch) -> (usize, i64, i64) {
    (partition(batch.lane), batch.first.0, batch.last.0)
}

impl Table {
    /// The table takes an insert once per token; the view takes what is missing there in any case.
    pub(super) fn land(&mut self, sent: &Sent, with_view: bool) {
        if !sent.rows.is_empty() && self.tokens.insert(sent.token.clone()) {
            sent.rows.iter().for_each(|row| *self.rows.entry(*row).or_default() += 1);
        }
        if with_view {
            self.view.extend(&sent.rows);
        }
    }

    /// What of a batch does not stand; what does is brought into the view.
    pub(super) fn missing(&mut self, batch: &Batch) -> BTreeSet<Row> {
        let (stand, missing): (BTreeSet<_>, BTreeSet<_>) =
            rows(batch).partition(|row| self.rows.contains_key(row));
        self.view.extend(stand);
        missing
    }

    pub(super) fn tell(&mut self, batches: &[&Batch], token: &str) {
        if self.batch_tokens.insert(token.to_owned()) {
            batches.iter().for_each(|batch| *self.batches.entry(range(batch)).or_default() += 1);
        }
    }

    /// As a batch that goes alone does.
    pub(super) fn tell_alone(&mut self, batch: &Batch) {
        let tokens = batch.round.iter().map(|round| round.token().to_owned()).chain([batch.token()]);
        for token in tokens {
            if !self.batches.contains_key(&range(batch)) {
                self.tell(&[batch], &token);
            }
        }
    }
}

impl Attempt {
    pub(super) fn begin(batch: Arc<Batch>) -> Self {
        Self { batch, stage: Stage::Asking, found: 0 }
    }

    /// As `insert::Attempt::asking` does.
    pub(super) fn asked(&mut self, table: &mut Table) {
        let missing = table.missing(&self.batch);
        let closes = self.batch.round.as_ref().filter(|_| !missing.is_empty());
        self.stage = match (&self.stage, closes) {
            (Stage::Asking, Some(round)) => {
                self.found = self.batch.len() - missing.len();
                Stage::Closing(Sent { rows: missing, token: round.token().to_owned() })
            }
            (Stage::Asking | Stage::AskingAgain, _) => {
                let whole = missing.len() == self.batch.len();
                let token = self.batch.token();
                let token = if whole { token } else { format!("{token}/{missing:?}") };
                Stage::Inserting(Sent { rows: missing, token })
            }
            (sent, _) => sent.clone(),
        };
    }

    pub(super) fn sent(&self) -> Option<&Sent> {
        match &self.stage {
            Stage::Closing(sent) | Stage::Inserting(sent) => Some(sent),
            Stage::Asking | Stage::AskingAgain => None,
        }
    }
}
