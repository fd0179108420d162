//! Files of the operator's: read with a bound, and every mistake told with its file and line.

use std::fmt;
use std::io::Read;

/// Largest file that is read, bytes: a million secrets.
const BYTES_MAX: u64 = 268_435_456;

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// The file, as it is set.
    pub path: String,
    /// The line, from 1, where the mistake has one.
    pub line: Option<usize>,
    /// What is wrong and what to do; never with the content of the file.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// The files cannot be used; every reason at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenError {
    /// The mistakes, at least one.
    pub problems: Vec<FileProblem>,
}

impl std::error::Error for OpenError {}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the files of section `access` cannot be used")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Collects the mistakes of one file.
pub(crate) struct Mistakes<'a> {
    path: &'a str,
    found: Vec<FileProblem>,
}

impl<'a> Mistakes<'a> {
    pub(crate) fn of(path: &'a str) -> Self {
        Self { path, found: Vec::new() }
    }

    pub(crate) fn add(&mut self, line: impl Into<Option<usize>>, message: impl Into<String>) {
        self.found.push(FileProblem {
            path: self.path.to_owned(),
            line: line.into(),
            message: message.into(),
        });
    }

    /// `value`, unless there was a mistake.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Vec<FileProblem>> {
        if self.found.is_empty() { Ok(value) } else { Err(self.found) }
    }
}

/// One mistake that makes the whole file useless.
pub(crate) fn wrong(path: &str, message: impl Into<String>) -> Vec<FileProblem> {
    vec![FileProblem { path: path.to_owned(), line: None, message: message.into() }]
}

pub(crate) fn bytes(path: &str) -> Result<Vec<u8>, Vec<FileProblem>> {
    let unreadable = |error: std::io::Error| wrong(path, format!("cannot be read: {error}"));
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(BYTES_MAX + 1).read_to_end(&mut content).map_err(unreadable)?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > BYTES_MAX {
        return Err(wrong(path, format!("is larger than {BYTES_MAX} bytes")));
    }
    Ok(content)
}

pub(crate) fn text(path: &str) -> Result<String, Vec<FileProblem>> {
    String::from_utf8(bytes(path)?).map_err(|_| wrong(path, "is not UTF-8"))
}
