//! What can be said with a question: names, types, values.

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan, tz::TimeZone};

/// Longest text.
const TEXT_BYTES_MAX: usize = 1_000;
/// Longest list of texts: ClickHouse takes 128 KiB for one parameter.
const LIST_BYTES_MAX: usize = 120_000;

/// A parameter of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is if nothing is said.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

/// What a value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// One of these words.
    OneOf(Vec<&'static str>),
    /// Texts as JSON has them: `["a","b"]`.
    Texts,
    /// `true` or `false`.
    Flag,
    /// `2026-01-31`, or `2026-01` for its first day; `today`, `tomorrow`, `last_month`.
    Day,
    /// A whole number, from 0 to that.
    Whole(&'static str, u64),
    /// A number.
    Number,
}

impl Parameter {
    /// `NAME TYPE = DEFAULT | MEANING`
    pub(super) fn of(line: &'static str) -> Option<Self> {
        let (left, meaning) = line.split_once("| ")?;
        let (name, rest) = left.split_once(' ')?;
        let (kind, default) = rest.split_once('=')?;
        Some(Self { name, kind: Kind::of(kind.trim())?, default: default.trim(), meaning })
    }
}

impl Kind {
    fn of(word: &'static str) -> Option<Self> {
        if let Some(words) = word.strip_prefix("OneOf(") {
            return Some(Self::OneOf(words.strip_suffix(')')?.split(',').collect()));
        }
        Some(match word {
            "String" => Self::Text,
            "Array(String)" => Self::Texts,
            "Bool" => Self::Flag,
            "Date" => Self::Day,
            "UInt8" => Self::Whole(word, u8::MAX.into()),
            "UInt16" => Self::Whole(word, u16::MAX.into()),
            "UInt32" => Self::Whole(word, u32::MAX.into()),
            "Float64" => Self::Number,
            _ => return None,
        })
    }

    /// Its type in ClickHouse.
    #[must_use]
    pub fn column(&self) -> &'static str {
        match self {
            Self::Text | Self::OneOf(_) => "String",
            Self::Texts => "Array(String)",
            Self::Flag => "Bool",
            Self::Day => "Date",
            Self::Whole(column, _) => column,
            Self::Number => "Float64",
        }
    }

    /// What people are told that it may be.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::OneOf(words) => words.join("|"),
            Self::Texts => "[\"text\",...]".to_owned(),
            Self::Flag => "true|false".to_owned(),
            Self::Day => "YYYY-MM-DD|YYYY-MM|today|tomorrow|last_month".to_owned(),
            Self::Whole(_, max) => format!("0..{max}"),
            Self::Number => "number".to_owned(),
        }
    }

    /// The value in its one form, or what is wrong with it.
    pub(super) fn checked(&self, value: &str) -> Result<String, String> {
        match self {
            Self::Text if value.len() > TEXT_BYTES_MAX => {
                Err(format!("is longer than {TEXT_BYTES_MAX} bytes"))
            }
            Self::Text => Ok(value.to_owned()),
            Self::OneOf(words) if words.contains(&value) => Ok(value.to_owned()),
            Self::OneOf(words) => Err(format!("is none of {}", words.join(", "))),
            Self::Texts => texts(value),
            Self::Flag if matches!(value, "true" | "false") => Ok(value.to_owned()),
            Self::Flag => Err("is neither true nor false".to_owned()),
            Self::Day => day(value),
            Self::Whole(_, max) => match value.parse::<u64>() {
                Ok(number) if number <= *max => Ok(number.to_string()),
                _ => Err(format!("is no whole number from 0 to {max}")),
            },
            Self::Number => match value.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(number.to_string()),
                _ => Err("is no number".to_owned()),
            },
        }
    }
}

fn texts(value: &str) -> Result<String, String> {
    let list = list_of(value).ok_or("is no list such as [\"a\",\"b\"]")?;
    let written = serde_json::Value::from(list).to_string();
    if written.len() > LIST_BYTES_MAX {
        Err(format!("is longer than {LIST_BYTES_MAX} bytes"))
    } else {
        Ok(written)
    }
}

/// The texts of a list as JSON has it.
pub(super) fn list_of(value: &str) -> Option<Vec<String>> {
    serde_json::from_str(value).ok()
}

fn day(value: &str) -> Result<String, String> {
    let today = || TimeZone::UTC.to_datetime(Timestamp::now()).date();
    let wrong = || "is no day such as 2026-01-31".to_owned();
    let day: Date = match value {
        "today" => today(),
        "tomorrow" => today().checked_add(1.day()).map_err(|_| wrong())?,
        "last_month" => today().first_of_month().checked_sub(1.day()).map_err(|_| wrong())?.first_of_month(),
        month if month.len() == "2026-01".len() => format!("{month}-01").parse().map_err(|_| wrong())?,
        day => day.parse().map_err(|_| wrong())?,
    };
    // What a Date of ClickHouse holds.
    if (1970..2149).contains(&day.year()) { Ok(day.to_string()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Parameter};

    #[test]
    fn a_line_of_the_header_is_a_parameter() {
        let parameter = Parameter::of("days UInt16 = 30 | how far back").expect("a parameter");
        assert_eq!((parameter.name, parameter.default, parameter.meaning), ("days", "30", "how far back"));
        assert_eq!(parameter.kind, Kind::Whole("UInt16", 65_535));
        let parameter = Parameter::of("customer String = | its id").expect("a parameter");
        assert_eq!((parameter.default, parameter.kind), ("", Kind::Text));
        assert!(Parameter::of("days Moment = 30 | how far back").is_none());
    }

    #[test]
    fn values_are_of_their_type_or_refused() {
        let whole = Kind::Whole("UInt8", 255);
        assert_eq!(whole.checked("255").as_deref(), Ok("255"));
        assert!(
            whole.checked("256").is_err() && whole.checked("1 OR 1").is_err() && whole.checked("").is_err()
        );
        assert_eq!(Kind::Day.checked("2026-02").as_deref(), Ok("2026-02-01"));
        assert!(Kind::Day.checked("2026-02-30").is_err() && Kind::Day.checked("1960-01-01").is_err());
        assert!(Kind::Day.checked("last_month").is_ok_and(|day| day.ends_with("-01")));
        assert!(Kind::OneOf(vec!["a", "b"]).checked("c").is_err());
        assert!(Kind::Number.checked("-110.5").is_ok() && Kind::Number.checked("nan").is_err());
    }

    #[test]
    fn a_list_is_one_of_texts_or_refused() {
        assert_eq!(Kind::Texts.checked(r#"["a", "b"]"#).as_deref(), Ok(r#"["a","b"]"#));
        assert!(Kind::Texts.checked("a,b").is_err() && Kind::Texts.checked("[1]").is_err());
    }
}
