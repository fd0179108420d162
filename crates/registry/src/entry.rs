//! What every kind of entry has: columns that say all that is needed to read, check, store, write and explain it.

use std::fmt;

use crate::Kind;
use crate::fault::{Fault, Wrong};
use crate::time::Time;
use crate::value::Shape;

/// A column of a kind.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name, the same in files, in tables and in the API.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What it looks like.
    pub shape: Shape,
    /// Whether a new entry may lack it.
    pub optional: bool,
    /// What stands there where nothing is given.
    pub default: &'static str,
    /// The kind whose key it holds.
    pub refers: Option<Kind>,
}

impl Column {
    /// Whether a new entry needs it.
    pub fn required(&self) -> bool {
        !self.optional && self.default.is_empty()
    }
}

/// An entry of the registry, checked.
pub trait Entry: Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Its kind.
    const KIND: Kind;
    /// Its columns; the key first.
    const COLUMNS: &'static [Column];
    /// How many of them are the key.
    const KEY: usize;
    /// Columns in which no two entries have the same, unless it is empty.
    const UNIQUE: &'static [&'static str];

    /// Reads a row of cells, one for each column; an empty one is the default.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    fn read(cells: &[String]) -> Result<Self, Vec<Wrong>>;

    /// Its cells.
    fn cells(&self) -> Vec<String>;

    /// What its columns owe each other.
    fn check(&self) -> Vec<Wrong> {
        Vec::new()
    }

    /// Fills what follows from what stands and from the time; says what cannot follow from it.
    fn settle(&mut self, _before: Before<'_, Self>, _now: Time) -> Vec<Wrong> {
        Vec::new()
    }

    /// What entries of one kind owe each other: number of an entry, and what is wrong with it.
    fn together(_entries: &[&Self]) -> Vec<(usize, Wrong)> {
        Vec::new()
    }
}

/// What there was before.
#[derive(Clone, Copy, Debug)]
pub enum Before<'a, R> {
    /// Never anything.
    Never,
    /// It was there once, and was deleted.
    Deleted,
    /// It stands.
    Stands(&'a R),
}

/// The key of a row as one text: its cells with commas between them.
pub(crate) fn id_of<R: Entry>(cells: &[String]) -> String {
    cells[..R::KEY].join(",")
}

pub(crate) fn read_cell<V: crate::value::Value>(
    cell: &str,
    default: &str,
    column: &'static str,
    wrong: &mut Vec<Wrong>,
) -> Option<V> {
    let cell = if cell.is_empty() { default } else { cell };
    match V::read(cell) {
        Ok(value) => Some(value),
        Err(fault) => {
            wrong.push(Wrong::new(column, fault));
            None
        }
    }
}

/// What cannot happen, told as if a cell were missing: a row has a cell for each column.
pub(crate) const NO_CELL: Fault = Fault::Missing;

macro_rules! or_empty {
    () => {
        ""
    };
    ($default:literal) => {
        $default
    };
}

macro_rules! or_none {
    () => {
        None
    };
    ($kind:ident) => {
        Some(crate::Kind::$kind)
    };
}

/// Declares an entry: the struct, and from the same lines everything of [`Entry`] that follows from its columns.
macro_rules! entry {
    (
        $(#[doc = $entry_doc:literal])*
        $name:ident of $kind:ident, key $key:literal, unique [$($unique:literal),*], { $($hooks:item)* }
        {
            $(
                $(#[doc = $doc:literal])*
                $field:ident: $type:ty $(= $default:literal)? $(=> $refers:ident)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $entry_doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $doc])* pub $field: $type),*
        }

        impl crate::entry::Entry for $name {
            const KIND: crate::Kind = crate::Kind::$kind;
            const COLUMNS: &'static [crate::entry::Column] = &[
                $(crate::entry::Column {
                    name: stringify!($field),
                    doc: concat!($($doc),*),
                    shape: <$type as crate::value::Value>::SHAPE,
                    optional: <$type as crate::value::Value>::OPTIONAL,
                    default: or_empty!($($default)?),
                    refers: or_none!($($refers)?),
                }),*
            ];
            const KEY: usize = $key;
            const UNIQUE: &'static [&'static str] = &[$($unique),*];

            fn read(cells: &[String]) -> Result<Self, Vec<crate::fault::Wrong>> {
                let mut wrong = Vec::new();
                let mut cells = cells.iter();
                $(
                    let $field = match cells.next() {
                        Some(cell) => crate::entry::read_cell::<$type>(
                            cell, or_empty!($($default)?), stringify!($field), &mut wrong),
                        None => {
                            wrong.push(crate::fault::Wrong::new(stringify!($field), crate::entry::NO_CELL));
                            None
                        }
                    };
                )*
                match ($($field),*) {
                    ($(Some($field)),*) => Ok(Self { $($field),* }),
                    _ => Err(wrong),
                }
            }

            fn cells(&self) -> Vec<String> {
                vec![$(crate::value::Value::cell(&self.$field)),*]
            }

            $($hooks)*
        }
    };
}

pub(crate) use {entry, or_empty, or_none};
