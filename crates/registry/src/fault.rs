//! What can be wrong with what somebody hands in, and where it stands.

use std::fmt;

use crate::Kind;

/// What is wrong with a cell, a row or a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A cell that must be there is empty.
    #[error("is empty, and has to be there")]
    Missing,
    /// A text is too long.
    #[error("is longer than {max} characters")]
    TooLong {
        /// How long it may be.
        max: usize,
    },
    /// A character that may not stand there.
    #[error("has the character {0:?}, which may not stand there")]
    Character(char),
    /// Something else than digits, or not so many.
    #[error("is not {wanted} digits")]
    Digits {
        /// How many there may be.
        wanted: &'static str,
    },
    /// The last digit is not what the others make it.
    #[error("has the check digit {is}, and should have {should}: a digit is wrong")]
    CheckDigit {
        /// What it is.
        is: u8,
        /// What it should be.
        should: u8,
    },
    /// The two check digits of an EID do not fit.
    #[error("has check digits that do not fit: a digit is wrong")]
    EidCheck,
    /// Not a whole number of a range.
    #[error("is not a whole number from {min} to {max}")]
    Range {
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
    },
    /// Not an amount.
    #[error(
        "is not an amount such as 12 or 12.345678, from 0 and below 1000000000000, with a point and at most six decimals"
    )]
    Amount,
    /// Not a day.
    #[error("is not a day such as 2026-01-31, from 1970 to 2149")]
    Day,
    /// Not a month.
    #[error("is not a month such as 2026-01, from 1970 to 2149")]
    Month,
    /// Not a time.
    #[error("is not a time such as 2026-01-31T12:00:00Z, from 1970 to 2199")]
    Time,
    /// None of the words that may stand there.
    #[error("is none of {}", .0.join(", "))]
    Choice(&'static [&'static str]),
    /// Not three capital letters.
    #[error("is not a currency of three capital letters such as EUR")]
    Currency,
    /// Not two capital letters.
    #[error("is not a country of two capital letters such as DE")]
    Country,
    /// No such time zone.
    #[error("is not a time zone such as Europe/Berlin or UTC")]
    Zone,
    /// A time zone that is not whole hours from UTC.
    #[error("is a time zone that is not whole hours from UTC: usage is kept by hours of UTC")]
    ZonePartHour,
    /// Not a web address.
    #[error("is not a link that begins with https:// or http://")]
    Link,
    /// Tiers that cannot be read or do not rise from 0.
    #[error(
        "are not tiers such as `0:0.10 500:0.05` (megabytes from which a price per megabyte holds), the first from 0 and rising"
    )]
    Tiers,
    /// A tiered plan without tiers, or tiers on another.
    #[error("have to stand on a plan of the kind `tiered`, and on no other")]
    TiersKind,
    /// Neither or both of two.
    #[error("either this or {other} has to be there, and not both")]
    OneOf {
        /// The other column.
        other: &'static str,
    },
    /// It says nothing without another.
    #[error("means nothing without {other}")]
    Without {
        /// The other column.
        other: &'static str,
    },
    /// An end that is not after its beginning.
    #[error("is not after {begin}")]
    Order {
        /// The column of the beginning.
        begin: &'static str,
    },
    /// It refers to what is not in the registry.
    #[error("is not among the {0} of the registry: import them first")]
    Unknown(Kind),
    /// Two rows have what one alone may have.
    #[error("stands at {other}, too")]
    Taken {
        /// The other row.
        other: String,
    },
    /// The same key twice in one file.
    #[error("the same {0} stands in line {1}, too")]
    Twice(&'static str, u64),
    /// Two spans of validity of a plan meet.
    #[error("overlaps the span of the same plan from {other}")]
    Overlap {
        /// Beginning of the other.
        other: String,
    },
    /// A SIM cannot go from there to here.
    #[error("cannot follow {from}: after it may come {}", may(.allowed))]
    Transition {
        /// The state that stands.
        from: &'static str,
        /// What may follow.
        allowed: &'static [&'static str],
    },
    /// A change that is not after the one that stands.
    #[error("is not after {standing}, since when the one before holds")]
    Backwards {
        /// Since when.
        standing: String,
    },
    /// The beginning of something that stays as it is was changed.
    #[error("differs from {standing}, and nothing else changes: leave it empty, history stays as it is")]
    Since {
        /// Since when it is so.
        standing: String,
    },
    /// A time that is yet to come.
    #[error("is in the future")]
    Future,
    /// A column that nobody knows.
    #[error("there is no such column; there are {0}")]
    Column(String),
    /// A column stands there twice.
    #[error("this column stands there twice")]
    ColumnTwice,
    /// A column that must be there.
    #[error("this column is missing")]
    NoColumn,
    /// A row with more or fewer cells than the header.
    #[error("the row has {is} cells and the header {should}")]
    Cells {
        /// How many it has.
        is: usize,
        /// How many the header has.
        should: usize,
    },
    /// Bytes that are no text.
    #[error("is not UTF-8")]
    Utf8,
    /// What cannot be read as CSV.
    #[error("is not CSV: {0}")]
    Csv(String),
    /// What cannot be read as JSON.
    #[error("is not JSON: {0}")]
    Json(String),
    /// A JSON value that is no cell.
    #[error("is neither a text, a number nor null")]
    JsonCell,
    /// Nothing at all.
    #[error("there is no header and no row")]
    Empty,
    /// The id in the address is another than that in the body.
    #[error("is not the id of the address")]
    OtherId,
}

fn may(allowed: &[&str]) -> String {
    if allowed.is_empty() { "nothing".to_owned() } else { allowed.join(", ") }
}

/// A fault in a column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The column.
    pub column: &'static str,
    /// What is wrong.
    pub fault: Fault,
}

impl Wrong {
    pub(crate) fn new(column: &'static str, fault: Fault) -> Self {
        Self { column, fault }
    }
}

/// A fault, with where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line of the file, from 1; of a row that has several, the first.
    pub line: u64,
    /// Name of the column, if it is about one.
    pub column: Option<String>,
    /// What stood there.
    pub given: String,
    /// What is wrong.
    pub fault: Fault,
}

/// Characters of a cell that are repeated to its author.
const GIVEN_MAX: usize = 60;

impl Problem {
    pub(crate) fn of_line(line: u64, fault: Fault) -> Self {
        Self { line, column: None, given: String::new(), fault }
    }

    pub(crate) fn of_cell(line: u64, column: &str, given: &str, fault: Fault) -> Self {
        let mut shown: String = given.chars().take(GIVEN_MAX).collect();
        if shown.len() < given.len() {
            shown.push('…');
        }
        Self { line, column: Some(column.to_owned()), given: shown, fault }
    }

    /// With the name of the file before it, as compilers do.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        struct InFile<'a>(&'a str, &'a Problem);
        impl fmt::Display for InFile<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", self.0, self.1)
            }
        }
        InFile(file, self)
    }
}

/// `LINE: COLUMN: "GIVEN" FAULT`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.line)?;
        if let Some(column) = &self.column {
            write!(f, "{column}: ")?;
        }
        if !self.given.is_empty() {
            write!(f, "{:?} ", self.given)?;
        }
        self.fault.fmt(f)
    }
}
