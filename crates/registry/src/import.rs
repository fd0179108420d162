//! Imports and deletions: what differs from what stands is noted, then inserted, in one insert for each table.
//!
//! An import that was cut off halfway is simply done again: what stands already is no difference any more. Two that change the same entry at
//! the same time are not kept apart: the later insert stands, and both are in the history.

use std::collections::{HashMap, HashSet};

use store::{
    Author, Form, RegistryAct, RegistryColumn, RegistryNote, RegistryRow, RegistryTable, SimHistory, SimTurn,
    Store,
};

use crate::difference::{self, Change, Difference, Standing};
use crate::entry::Column;
use crate::fault::{Fault, Problem};
use crate::kinds::for_kind;
use crate::read::{self, Draft, Format};
use crate::time::Time;
use crate::value::{Shape, Value};
use crate::{Kind, entry};

/// Up to so many rows, what stands is asked row by row, and not whole.
const FEW: usize = 20;
/// Columns of SIMs that stand in histories of their own.
const IN_HISTORIES: [&str; 4] = ["plan_id", "plan_since", "state", "state_since"];

/// What is imported.
#[derive(Clone, Debug)]
pub struct Import {
    /// Entries of which kind.
    pub kind: Kind,
    /// The file.
    pub text: Vec<u8>,
    /// How it is written; by its beginning if not given.
    pub format: Option<Format>,
    /// Who imports it.
    pub who: String,
    /// Why.
    pub why: String,
    /// What is done with the difference.
    pub run: Run,
}

/// What is done with a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It is told.
    Dry,
    /// It is made.
    Real,
}

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Rows that are on their way.
    pub done: usize,
    /// Rows that change.
    pub of: usize,
}

/// Why an import was not made.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file is wrong; nothing was changed.
    #[error("{} problems; nothing was changed", .0.len())]
    Invalid(Vec<Problem>),
    /// What stands could not be read; nothing was changed.
    #[error(transparent)]
    Query(#[from] store::QueryError),
    /// It may be half done.
    #[error(transparent)]
    Insert(#[from] store::RegistryInsertError),
    /// The thread that compared panicked; nothing was changed.
    #[error("comparing with what stands failed; nothing was changed")]
    Compare,
}

/// Why an entry was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// There is none.
    #[error("{id:?} is not among the {kind}")]
    None {
        /// Of which kind.
        kind: Kind,
        /// Its key.
        id: String,
    },
    /// Others refer to it.
    #[error("{id:?} of the {kind} is named by {by:?} of the {of}: change that first")]
    Referred {
        /// Of which kind.
        kind: Kind,
        /// Its key.
        id: String,
        /// Of which kind the other is.
        of: Kind,
        /// Its key.
        by: String,
    },
    /// What stands could not be read.
    #[error(transparent)]
    Query(#[from] store::QueryError),
    /// It may be half done.
    #[error(transparent)]
    Insert(#[from] store::RegistryInsertError),
}

/// Imports.
///
/// # Errors
/// Where the file is wrong, or ClickHouse does not answer. Cancel safe: what was cut off can be done again.
pub async fn import(
    store: &Store,
    import: Import,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Difference, ImportError> {
    let Import { kind, text, format, who, why, run } = import;
    let taken = tokio::task::spawn_blocking(move || {
        let format = format.unwrap_or_else(|| Format::of(&text));
        read::drafts(kind, &text, format)
    });
    let (drafts, problems) = taken.await.map_err(|_| ImportError::Compare)?;
    apply(store, kind, drafts, problems, Author { who: &who, why: &why }, run, told).await
}

/// Puts one entry in its place: columns that `object` does not name are empty then.
///
/// # Errors
/// Where it is wrong, its key is not `id`, or ClickHouse does not answer.
pub async fn put(
    store: &Store,
    kind: Kind,
    id: &str,
    object: &[u8],
    author: Author<'_>,
    run: Run,
) -> Result<Difference, ImportError> {
    let (mut drafts, mut problems) = read::drafts(kind, object, Format::Json);
    let columns = kind.columns();
    let key = kind.key();
    let given: Vec<&str> = id.splitn(key, ',').collect();
    if problems.is_empty() && (drafts.len() != 1 || given.len() != key) {
        problems.push(Problem::of_line(1, Fault::OtherId));
    }
    for draft in &mut drafts {
        for (place, cell) in draft.cells.iter_mut().enumerate() {
            let address = given.get(place).filter(|_| place < key).copied();
            let cell = cell.get_or_insert_with(|| address.unwrap_or_default().to_owned());
            if address.is_some_and(|address| address != cell) {
                problems.push(Problem::of_cell(1, columns[place].name, cell, Fault::OtherId));
            }
        }
    }
    apply(store, kind, drafts, problems, author, run, &mut |_| {}).await
}

async fn apply(
    store: &Store,
    kind: Kind,
    drafts: Vec<Draft>,
    mut problems: Vec<Problem>,
    author: Author<'_>,
    run: Run,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<Difference, ImportError> {
    let table = table(kind);
    let standing = standing(store, kind, &table, &drafts).await?;
    let version = store.registry_version(&table).await?;
    let now = Time::from_ms(i64::try_from(version).unwrap_or(i64::MAX));
    let compared = tokio::task::spawn_blocking(
        move || for_kind!(kind, R => difference::compare::<R>(drafts, &standing, now)),
    );
    let difference = match compared.await.map_err(|_| ImportError::Compare)? {
        Ok(difference) if problems.is_empty() => difference,
        Ok(_) => return Err(ImportError::Invalid(problems)),
        Err(further) => {
            problems.extend(further);
            problems.sort_by_key(|problem| problem.line);
            return Err(ImportError::Invalid(problems));
        }
    };
    if run == Run::Real {
        write(store, kind, &table, &difference.changes, version, author, told).await?;
    }
    Ok(difference)
}

/// Notes and inserts. What a note tells may come to nothing; what changes without a note cannot be.
async fn write(
    store: &Store,
    kind: Kind,
    table: &RegistryTable,
    changes: &[Change],
    version: u64,
    author: Author<'_>,
    told: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), store::RegistryInsertError> {
    if changes.is_empty() {
        return Ok(());
    }
    let act = |change: &Change| if change.created { RegistryAct::Created } else { RegistryAct::Changed };
    let notes: Vec<RegistryNote<'_>> = changes
        .iter()
        .map(|change| RegistryNote { id: &change.id, act: act(change), what: &change.what })
        .collect();
    store.registry_note(table, &notes, version, author).await?;
    let rows: Vec<RegistryRow<'_>> =
        changes.iter().map(|change| RegistryRow { cells: &change.cells, deleted: false }).collect();
    let mut sent = |done| told(Progress { done, of: changes.len() });
    store.registry_insert(table, &rows, version, &mut sent).await?;
    if kind == Kind::Sims {
        for (history, value, since) in
            [(SimHistory::States, "state", "state_since"), (SimHistory::Plans, "plan_id", "plan_since")]
        {
            let turns = turns(changes, value, since);
            store.registry_turns(history, &turns, version, author).await?;
        }
    }
    metrics::counter!("fleetpulse_registry_changes_total", "kind" => kind.word())
        .increment(u64::try_from(changes.len()).unwrap_or(u64::MAX));
    Ok(())
}

/// The beginnings that changes make in a history.
fn turns<'a>(changes: &'a [Change], value: &str, since: &str) -> Vec<SimTurn<'a>> {
    let place = |name: &str| Kind::Sims.columns().iter().position(|column| column.name == name);
    let (Some(value_at), Some(since_at)) = (place(value), place(since)) else {
        return Vec::new();
    };
    let begin =
        changes.iter().filter(|change| change.after(value).is_some() || change.after(since).is_some());
    begin
        .filter(|change| !change.cells[value_at].is_empty())
        .map(|change| SimTurn {
            iccid: &change.id,
            since: &change.cells[since_at],
            value: &change.cells[value_at],
        })
        .collect()
}

/// Deletes an entry that no other refers to. What history says of it stays.
///
/// # Errors
/// Where there is none, others refer to it, or ClickHouse does not answer.
pub async fn delete(store: &Store, kind: Kind, id: &str, author: Author<'_>) -> Result<(), DeleteError> {
    let table = table(kind);
    let row = rows_as_cells(kind, store.registry_row(&table, id).await?.into_iter().collect()).pop();
    let Some(cells) = row else {
        return Err(DeleteError::None { kind, id: id.to_owned() });
    };
    let name = &cells[0];
    let alone =
        kind != Kind::Plans || rows(store, kind).await?.iter().filter(|row| row[0] == *name).count() == 1;
    if alone {
        for (of, column) in kind.referring() {
            if let Some(by) = store.registry_holder(&self::table(of), column, name).await? {
                return Err(DeleteError::Referred { kind, id: id.to_owned(), of, by });
            }
        }
    }
    let version = store.registry_version(&table).await?;
    let columns = kind.columns().iter().zip(&cells).filter(|(_, cell)| !cell.is_empty());
    let what: Vec<(&'static str, String, String)> =
        columns.map(|(column, cell)| (column.name, cell.clone(), String::new())).collect();
    let note = RegistryNote { id, act: RegistryAct::Deleted, what: &what };
    store.registry_note(&table, &[note], version, author).await?;
    let row = RegistryRow { cells: &cells, deleted: true };
    store.registry_insert(&table, &[row], version, &mut |_| {}).await?;
    Ok(())
}

/// Every entry of a kind, as rows of cells in the order of their keys.
///
/// # Errors
/// Where ClickHouse does not answer.
pub async fn rows(store: &Store, kind: Kind) -> Result<Vec<Vec<String>>, store::QueryError> {
    Ok(rows_as_cells(kind, store.registry_rows(&table(kind)).await?))
}

/// Entries whose keys come after `after`.
///
/// # Errors
/// Where ClickHouse does not answer.
pub async fn page(
    store: &Store,
    kind: Kind,
    after: &str,
    limit: u32,
) -> Result<Vec<Vec<String>>, store::QueryError> {
    Ok(rows_as_cells(kind, store.registry_page(&table(kind), after, limit).await?))
}

/// One entry.
///
/// # Errors
/// Where ClickHouse does not answer.
pub async fn row(store: &Store, kind: Kind, id: &str) -> Result<Option<Vec<String>>, store::QueryError> {
    let row = store.registry_row(&table(kind), id).await?;
    Ok(rows_as_cells(kind, row.into_iter().collect()).pop())
}

/// The key of a row of cells, as it stands in addresses and in the history.
pub fn id(kind: Kind, cells: &[String]) -> String {
    for_kind!(kind, R => entry::id_of::<R>(cells))
}

/// What has to be known to compare.
async fn standing(
    store: &Store,
    kind: Kind,
    table: &RegistryTable,
    drafts: &[Draft],
) -> Result<Standing, store::QueryError> {
    // Spans of a plan are looked at together.
    if drafts.len() <= FEW && kind != Kind::Plans {
        return few(store, kind, table, drafts).await;
    }
    let rows = rows(store, kind).await?;
    let mut known = HashMap::new();
    for column in kind.columns() {
        if let Some(refers) = column.refers
            && !known.contains_key(&refers)
        {
            let key = refers.columns()[0].name;
            known.insert(refers, store.registry_values(refers.word(), key).await?);
        }
    }
    Ok(Standing {
        rows: rows.into_iter().map(|row| (id(kind, &row), row)).collect(),
        deleted: store.registry_deleted(table).await?,
        known,
    })
}

/// The same for few rows: a request that changes one entry does not read a hundred thousand.
async fn few(
    store: &Store,
    kind: Kind,
    table: &RegistryTable,
    drafts: &[Draft],
) -> Result<Standing, store::QueryError> {
    let mut standing = Standing::default();
    let unique: &[&str] = for_kind!(kind, R => <R as entry::Entry>::UNIQUE);
    for draft in drafts {
        let key: Vec<String> =
            draft.cells[..kind.key()].iter().map(|cell| cell.clone().unwrap_or_default()).collect();
        let mut ids = HashSet::from([key.join(",")]);
        for (column, cell) in kind.columns().iter().zip(&draft.cells) {
            let Some(cell) = cell.as_deref().filter(|cell| !cell.is_empty()) else {
                continue;
            };
            if unique.contains(&column.name) {
                ids.extend(store.registry_holder(table, column.name, cell).await?);
            }
            if let Some(refers) = column.refers {
                let key = refers.columns()[0].name;
                let known = store.registry_holder(&self::table(refers), key, cell).await?;
                standing.known.entry(refers).or_default().extend(known.map(|_| cell.to_owned()));
            }
        }
        for id in ids {
            if let Some(row) = row(store, kind, &id).await? {
                // What the row says already is known, too: it may come back where the draft does not say.
                for (column, cell) in kind.columns().iter().zip(&row) {
                    if let Some(refers) = column.refers {
                        standing.known.entry(refers).or_default().insert(cell.clone());
                    }
                }
                standing.rows.insert(id, row);
            }
        }
    }
    if kind == Kind::Sims && drafts.len() > standing.rows.len() {
        standing.deleted = store.registry_deleted(table).await?;
    }
    Ok(standing)
}

/// What ClickHouse has to know of a kind.
pub(crate) fn table(kind: Kind) -> RegistryTable {
    let form = |shape| match shape {
        Shape::Text(_) | Shape::Choice(_) => Form::Text,
        Shape::Integer { .. } | Shape::Amount => Form::Number,
        Shape::Day => Form::Day,
        Shape::Month => Form::Month,
        Shape::Time => Form::Time,
        Shape::Tiers => Form::Tiers,
    };
    let column = |column: &Column| {
        let form = form(column.shape);
        RegistryColumn {
            name: column.name,
            form,
            nullable: column.optional && !matches!(form, Form::Text | Form::Tiers),
            stored: kind != Kind::Sims || !IN_HISTORIES.contains(&column.name),
        }
    };
    RegistryTable { view: kind.word(), columns: kind.columns().iter().map(column).collect(), key: kind.key() }
}

/// Cells, from what ClickHouse has.
fn rows_as_cells(kind: Kind, mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    for row in &mut rows {
        for (column, cell) in kind.columns().iter().zip(row) {
            if column.shape == Shape::Time
                && let Ok(ms) = cell.parse()
            {
                *cell = Time::from_ms(ms).cell();
            }
        }
    }
    rows
}
