//! Values of cells: read from a text, checked, and written in one form alone, so that the same value is the same text.

use crate::fault::Fault;

/// What the cell of a column holds.
pub trait Value: Sized + Clone + PartialEq {
    /// What it looks like to programs.
    const SHAPE: Shape;
    /// Whether it may be empty.
    const OPTIONAL: bool = false;

    /// Reads a cell; the blanks around it are gone already.
    ///
    /// # Errors
    /// Where it is not such a value.
    fn read(cell: &str) -> Result<Self, Fault>;

    /// The cell, which reads as the same value.
    fn cell(&self) -> String;
}

/// What a value looks like to programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A text, with what it is for people.
    Text(&'static str),
    /// A whole number.
    Integer {
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
    },
    /// An amount with six decimals at most, as a text: a floating number would not be exact.
    Amount,
    /// A day.
    Day,
    /// A month.
    Month,
    /// A time.
    Time,
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Prices by volume.
    Tiers,
}

impl Shape {
    /// For people.
    pub fn describe(self) -> String {
        match self {
            Self::Text(what) => what.to_owned(),
            Self::Integer { min, max } => format!("number, {min} to {max}"),
            Self::Amount => "amount".to_owned(),
            Self::Day => "day, `2026-01-31`".to_owned(),
            Self::Month => "month, `2026-01`".to_owned(),
            Self::Time => "time, `2026-01-31T12:00:00Z`".to_owned(),
            Self::Choice(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Self::Tiers => "tiers, `0:0.10 500:0.05`".to_owned(),
        }
    }
}

/// An empty cell is none.
impl<V: Value> Value for Option<V> {
    const SHAPE: Shape = V::SHAPE;
    const OPTIONAL: bool = true;

    fn read(cell: &str) -> Result<Self, Fault> {
        if cell.is_empty() { Ok(None) } else { V::read(cell).map(Some) }
    }

    fn cell(&self) -> String {
        self.as_ref().map_or_else(String::new, V::cell)
    }
}

macro_rules! text {
    ($(#[doc = $doc:literal])* $name:ident, $what:literal, |$cell:ident| $check:expr) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Value for $name {
            const SHAPE: Shape = Shape::Text($what);

            fn read($cell: &str) -> Result<Self, Fault> {
                if $cell.is_empty() {
                    return Err(Fault::Missing);
                }
                $check?;
                Ok(Self($cell.to_owned()))
            }

            fn cell(&self) -> String {
                self.0.clone()
            }
        }
    };
}
pub(crate) use text;

/// Longest id. Shorter than a device's may be: these are typed by people.
const ID_MAX: usize = 64;
/// Longest text.
const TEXT_MAX: usize = 500;

fn id(cell: &str) -> Result<(), Fault> {
    if cell.len() > ID_MAX {
        return Err(Fault::TooLong { max: ID_MAX });
    }
    let strange = cell.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-:@".contains(*c));
    strange.map_or(Ok(()), |c| Err(Fault::Character(c)))
}

fn plain(cell: &str) -> Result<(), Fault> {
    if cell.chars().count() > TEXT_MAX {
        return Err(Fault::TooLong { max: TEXT_MAX });
    }
    cell.chars().find(|c| c.is_control()).map_or(Ok(()), |c| Err(Fault::Character(c)))
}

fn device(cell: &str) -> Result<(), Fault> {
    match event::DeviceId::new(cell) {
        // A key of several parts has commas between them.
        Ok(_) if cell.contains(',') => Err(Fault::Character(',')),
        Ok(_) => Ok(()),
        Err(event::InvalidDeviceId::Empty) => Err(Fault::Missing),
        Err(event::InvalidDeviceId::TooLong { .. }) => {
            Err(Fault::TooLong { max: event::DeviceId::BYTES_MAX })
        }
        Err(event::InvalidDeviceId::Character(c)) => Err(Fault::Character(c)),
    }
}

fn capitals(cell: &str, count: usize, fault: Fault) -> Result<(), Fault> {
    let right = cell.len() == count && cell.bytes().all(|byte| byte.is_ascii_uppercase());
    if right { Ok(()) } else { Err(fault) }
}

fn link(cell: &str) -> Result<(), Fault> {
    plain(cell)?;
    let web = cell.starts_with("https://") || cell.starts_with("http://");
    if web && !cell.contains([' ', '"', '<', '>']) { Ok(()) } else { Err(Fault::Link) }
}

text!(
    /// An id that people give.
    Id, "id: letters, digits and `._-:@`", |cell| id(cell)
);
text!(
    /// A name that a device connects with.
    Device, "device id, without `,` `/` `+` `#`", |cell| device(cell)
);
text!(
    /// A text of one line.
    Line, "text", |cell| plain(cell)
);
text!(
    /// Currency, as ISO 4217 writes it.
    Currency, "currency, `EUR`", |cell| capitals(cell, 3, Fault::Currency)
);
text!(
    /// Country, as ISO 3166 writes it with two letters.
    Country, "country, `DE`", |cell| capitals(cell, 2, Fault::Country)
);
text!(
    /// A web address: nothing else is safe where it is shown as a link.
    Link, "link", |cell| link(cell)
);

/// A text of one line that may be empty, which is nothing else than none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note(String);

impl Value for Note {
    const SHAPE: Shape = Shape::Text("text");
    const OPTIONAL: bool = true;

    fn read(cell: &str) -> Result<Self, Fault> {
        plain(cell).map(|()| Self(cell.to_owned()))
    }

    fn cell(&self) -> String {
        self.0.clone()
    }
}

/// A whole number of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> Value for Whole<MIN, MAX> {
    const SHAPE: Shape = Shape::Integer { min: MIN, max: MAX };

    fn read(cell: &str) -> Result<Self, Fault> {
        if cell.is_empty() {
            return Err(Fault::Missing);
        }
        let fault = Fault::Range { min: MIN, max: MAX };
        let digits = cell.bytes().all(|byte| byte.is_ascii_digit());
        let number = cell.parse().ok().filter(|number| digits && (MIN..=MAX).contains(number));
        number.map(Self).ok_or(fault)
    }

    fn cell(&self) -> String {
        self.0.to_string()
    }
}

macro_rules! choice {
    ($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $word_doc:literal])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $word_doc])* $variant),*
        }

        impl $name {
            /// Every word.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// Its word.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl crate::value::Value for $name {
            const SHAPE: crate::value::Shape = crate::value::Shape::Choice(Self::WORDS);

            fn read(cell: &str) -> Result<Self, crate::fault::Fault> {
                match cell {
                    "" => Err(crate::fault::Fault::Missing),
                    $($word => Ok(Self::$variant),)*
                    _ => Err(crate::fault::Fault::Choice(Self::WORDS)),
                }
            }

            fn cell(&self) -> String {
                self.word().to_owned()
            }
        }
    };
}
pub(crate) use choice;
