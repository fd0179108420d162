//! What an import would change: rows that were handed in, against those that stand. Pure.

use std::collections::{HashMap, HashSet};

use crate::Kind;
use crate::entry::{Before, Entry, id_of};
use crate::fault::{Fault, Problem, Wrong};
use crate::read::Draft;
use crate::time::Time;

/// What stands already.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The entries of the kind, by their key.
    pub rows: HashMap<String, Vec<String>>,
    /// Keys that had an entry once, and have none now.
    pub deleted: HashSet<String>,
    /// Keys of the kinds that this one refers to.
    pub known: HashMap<Kind, HashSet<String>>,
}

/// What happens to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its key.
    pub id: String,
    /// The row as it will be.
    pub cells: Vec<String>,
    /// Whether there was none.
    pub created: bool,
    /// Columns that change: name, before, after.
    pub what: Vec<(&'static str, String, String)>,
}

impl Change {
    /// The new cell of a column, if it changes.
    pub fn after(&self, column: &str) -> Option<&str> {
        self.what.iter().find(|(name, ..)| *name == column).map(|(.., after)| after.as_str())
    }
}

/// What an import would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In the order of the file.
    pub changes: Vec<Change>,
    /// Rows that stand as they were handed in.
    pub unchanged: usize,
}

/// A row that was read, on top of what stands.
struct Candidate<R> {
    line: u64,
    id: String,
    entry: R,
    cells: Vec<String>,
}

/// Compares.
///
/// # Errors
/// Everything that is wrong, by line.
pub fn compare<R: Entry>(
    drafts: Vec<Draft>,
    standing: &Standing,
    now: Time,
) -> Result<Difference, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut lines: HashMap<String, u64> = HashMap::with_capacity(drafts.len());
    let mut candidates = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let line = draft.line;
        match candidate::<R>(draft, standing, now) {
            Ok(candidate) => {
                if let Some(first) = lines.insert(candidate.id.clone(), line) {
                    let fault = Fault::Twice(R::COLUMNS[R::KEY - 1].name, first);
                    problems.push(Problem::of_cell(line, R::COLUMNS[R::KEY - 1].name, &candidate.id, fault));
                }
                candidates.push(candidate);
            }
            Err(wrong) => problems.extend(wrong),
        }
    }
    for candidate in &candidates {
        problems.extend(unknown::<R>(candidate, standing));
    }
    problems.extend(taken(&candidates, standing));
    problems.extend(together(&candidates, standing));
    if !problems.is_empty() {
        problems.sort_by_key(|problem| problem.line);
        return Err(problems);
    }
    let mut difference = Difference::default();
    for candidate in candidates {
        match change::<R>(candidate, standing) {
            Some(change) => difference.changes.push(change),
            None => difference.unchanged += 1,
        }
    }
    Ok(difference)
}

fn candidate<R: Entry>(draft: Draft, standing: &Standing, now: Time) -> Result<Candidate<R>, Vec<Problem>> {
    let line = draft.line;
    let key: Vec<String> =
        draft.cells[..R::KEY].iter().map(|cell| cell.clone().unwrap_or_default()).collect();
    let id = key_of::<R>(&key);
    let before = standing.rows.get(&id);
    let mut missing = Vec::new();
    let cells: Vec<String> = R::COLUMNS
        .iter()
        .zip(draft.cells)
        .enumerate()
        .map(|(place, (column, cell))| {
            let stands = before.map(|row| row[place].clone());
            if cell.is_none() && stands.is_none() && column.required() {
                missing.push(Problem::of_cell(line, column.name, "", Fault::NoColumn));
            }
            cell.or(stands).unwrap_or_default()
        })
        .collect();
    let problems = |wrong: Vec<Wrong>| {
        let told = |Wrong { column, fault }: Wrong| {
            let place = R::COLUMNS.iter().position(|known| known.name == column).unwrap_or_default();
            Problem::of_cell(line, column, &cells[place], fault)
        };
        wrong.into_iter().map(told).collect::<Vec<_>>()
    };
    if !missing.is_empty() {
        // What is missing is told once, as a missing column; what is wrong beside it, too.
        let absent: Vec<Option<String>> = missing.iter().map(|problem| problem.column.clone()).collect();
        let wrong = R::read(&cells).err().map(problems).unwrap_or_default();
        missing.extend(wrong.into_iter().filter(|problem| !absent.contains(&problem.column)));
        return Err(missing);
    }
    let mut entry = R::read(&cells).map_err(&problems)?;
    let stood = before.and_then(|row| R::read(row).ok());
    let before = match &stood {
        Some(entry) => Before::Stands(entry),
        None if standing.deleted.contains(&id) => Before::Deleted,
        None => Before::Never,
    };
    let mut wrong = entry.check();
    wrong.extend(entry.settle(before, now));
    if !wrong.is_empty() {
        return Err(problems(wrong));
    }
    let cells = entry.cells();
    Ok(Candidate { line, id: id_of::<R>(&cells), entry, cells })
}

/// The key in its one form, as far as it can be read.
fn key_of<R: Entry>(key: &[String]) -> String {
    let mut cells = key.to_vec();
    cells.resize(R::COLUMNS.len(), String::new());
    for (cell, column) in cells.iter_mut().zip(R::COLUMNS) {
        if cell.is_empty() {
            column.default.clone_into(cell);
        }
    }
    id_of::<R>(&cells)
}

/// References that lead nowhere.
fn unknown<R: Entry>(candidate: &Candidate<R>, standing: &Standing) -> Vec<Problem> {
    let columns = R::COLUMNS.iter().zip(&candidate.cells).filter(|(_, cell)| !cell.is_empty());
    let lost = columns.filter_map(|(column, cell)| {
        let kind = column.refers?;
        let known = standing.known.get(&kind).is_some_and(|known| known.contains(cell));
        (!known).then(|| Problem::of_cell(candidate.line, column.name, cell, Fault::Unknown(kind)))
    });
    lost.collect()
}

/// The entries as they would stand: the ones of the file, and the others.
fn others<'a, R: Entry>(
    candidates: &'a [Candidate<R>],
    standing: &'a Standing,
) -> impl Iterator<Item = (&'a String, &'a Vec<String>)> {
    let mine: HashSet<&str> = candidates.iter().map(|candidate| candidate.id.as_str()).collect();
    standing.rows.iter().filter(move |(id, _)| !mine.contains(id.as_str()))
}

/// What one entry alone may have, and two would.
fn taken<R: Entry>(candidates: &[Candidate<R>], standing: &Standing) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in R::UNIQUE {
        let place = R::COLUMNS.iter().position(|column| column.name == *name).unwrap_or_default();
        let mut holders: HashMap<&str, &str> = others(candidates, standing)
            .filter(|(_, row)| !row[place].is_empty())
            .map(|(id, row)| (row[place].as_str(), id.as_str()))
            .collect();
        for candidate in candidates {
            let cell = candidate.cells[place].as_str();
            let Some(holder) = (!cell.is_empty()).then(|| holders.insert(cell, &candidate.id)).flatten()
            else {
                continue;
            };
            if holder != candidate.id {
                let fault = Fault::Taken { other: holder.to_owned() };
                problems.push(Problem::of_cell(candidate.line, name, cell, fault));
            }
        }
    }
    problems
}

fn together<R: Entry>(candidates: &[Candidate<R>], standing: &Standing) -> Vec<Problem> {
    let stand: Vec<R> = others(candidates, standing).filter_map(|(_, row)| R::read(row).ok()).collect();
    let all: Vec<&R> = candidates.iter().map(|candidate| &candidate.entry).chain(&stand).collect();
    let wrong = R::together(&all).into_iter();
    wrong
        .filter_map(|(number, Wrong { column, fault })| {
            let candidate = candidates.get(number)?;
            let place = R::COLUMNS.iter().position(|known| known.name == column)?;
            Some(Problem::of_cell(candidate.line, column, &candidate.cells[place], fault))
        })
        .collect()
}

fn change<R: Entry>(candidate: Candidate<R>, standing: &Standing) -> Option<Change> {
    let before = standing.rows.get(&candidate.id);
    let what: Vec<(&'static str, String, String)> = R::COLUMNS
        .iter()
        .zip(&candidate.cells)
        .enumerate()
        .filter_map(|(place, (column, after))| {
            let before = before.map(|row| row[place].clone()).unwrap_or_default();
            (before != *after).then(|| (column.name, before, after.clone()))
        })
        .collect();
    if before.is_some() && what.is_empty() {
        return None;
    }
    Some(Change { id: candidate.id, cells: candidate.cells, created: before.is_none(), what })
}

#[cfg(test)]
mod tests;
