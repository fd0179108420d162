//! Mistakes in the settings, collected so that all are told at once.

use std::fmt;

/// One mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key it stands at, for example `kafka.brokers`.
    pub key: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

/// Collects the problems of one section.
#[derive(Debug)]
pub struct Checks {
    section: &'static str,
    problems: Vec<Problem>,
}

impl Checks {
    /// Starts on a section, for example `kafka`.
    pub fn of(section: &'static str) -> Self {
        Self { section, problems: Vec::new() }
    }

    /// Notes a problem at `key` unless `holds`.
    pub fn require(&mut self, key: &str, holds: bool, message: impl Into<String>) -> &mut Self {
        if !holds {
            self.problems.push(Problem { key: format!("{}.{key}", self.section), message: message.into() });
        }
        self
    }

    /// Notes a problem at `key` unless `range` holds `value`.
    pub fn within<T>(&mut self, key: &str, value: T, range: std::ops::RangeInclusive<T>) -> &mut Self
    where
        T: PartialOrd + fmt::Display + Copy,
    {
        let message = format!("{value} is out of range: {} to {} are allowed", range.start(), range.end());
        self.require(key, range.contains(&value), message)
    }

    /// Notes a problem at `key` where `value` is empty.
    pub fn present(&mut self, key: &str, value: &str) -> &mut Self {
        self.require(key, !value.trim().is_empty(), "may not be empty")
    }

    /// What was found.
    pub fn done(&mut self) -> Vec<Problem> {
        std::mem::take(&mut self.problems)
    }
}
