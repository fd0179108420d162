//! What the value of a field may be: from a JSON scalar to a value of the event, or what is wrong with it.

use std::fmt;
use std::marker::PhantomData;

use event::v1::RejectReason;
use serde::de::{self, MapAccess, Unexpected};

use crate::object::Context;
use crate::reader::Reader;
use crate::scan::Scan;

/// Longest text of a field, in bytes.
pub const TEXT_BYTES_MAX: usize = 128;

/// What one field may be.
pub(crate) trait Rule: Sized {
    /// What stands in the event.
    type Value;

    /// What people read where something else was sent.
    const EXPECTED: &'static str;

    /// Reads a value that is not `null`, no object and no array.
    fn scalar(self, scalar: Scalar<'_>) -> Result<Self::Value, Fault>;

    /// Reads an object; `None` where it holds no reading.
    fn object<'de, A: MapAccess<'de>>(
        self,
        _map: A,
        _context: &mut Context<'de>,
    ) -> Result<Option<Self::Value>, A::Error> {
        Err(de::Error::invalid_type(Unexpected::Map, &Self::EXPECTED))
    }

    /// The scalar that comes next. A rule that knows what it must be asks for that alone.
    #[inline]
    fn next<'de>(reader: &mut Reader<'de>) -> Option<Scalar<'de>> {
        reader.scalar()
    }

    /// Reads the value of the field `name`, which is not `null`, the quick way: `None` where it cannot, or may not, be.
    #[inline]
    fn scan(self, _name: &'static str, scan: &mut Scan<'_>, slot: &mut Option<Self::Value>) -> Option<()> {
        let scalar = Self::next(&mut scan.reader)?;
        *slot = Some(self.scalar(scalar).ok()?);
        Some(())
    }
}

/// A JSON value as the parser saw it.
#[derive(Clone, Copy)]
pub(crate) enum Scalar<'a> {
    Flag(bool),
    Unsigned(u64),
    /// A whole number below zero.
    Negative(i64),
    /// A number with a point or an exponent, or a whole one beyond 64 bits. Finite.
    Real(f64),
    Text(&'a str),
}

impl fmt::Display for Scalar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Unsigned(number) => write!(f, "{number}"),
            Self::Negative(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number:?}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

/// What is wrong with a value.
pub(crate) struct Fault {
    pub(crate) reason: RejectReason,
    pub(crate) what: String,
}

impl Fault {
    #[cold]
    pub(crate) fn wrong_type(found: Scalar<'_>, expected: &str) -> Self {
        Self { reason: RejectReason::WrongType, what: format!("{found} is not {expected}") }
    }

    #[cold]
    pub(crate) fn out_of_range(what: impl fmt::Display) -> Self {
        Self { reason: RejectReason::OutOfRange, what: what.to_string() }
    }
}

/// `true` or `false`.
pub(crate) fn flag() -> Flag {
    Flag
}

pub(crate) struct Flag;

impl Rule for Flag {
    type Value = bool;
    const EXPECTED: &'static str = "true or false";

    fn scalar(self, scalar: Scalar<'_>) -> Result<bool, Fault> {
        match scalar {
            Scalar::Flag(flag) => Ok(flag),
            other => Err(Fault::wrong_type(other, Self::EXPECTED)),
        }
    }
}

/// A whole number from zero to the largest that `T` holds.
pub(crate) fn whole<T>() -> Whole<T> {
    Whole(PhantomData)
}

pub(crate) struct Whole<T>(PhantomData<T>);

impl<T: TryFrom<u64>> Rule for Whole<T> {
    type Value = T;
    const EXPECTED: &'static str = "a whole number";

    #[inline]
    fn next<'de>(reader: &mut Reader<'de>) -> Option<Scalar<'de>> {
        reader.number()
    }

    #[inline]
    fn scalar(self, scalar: Scalar<'_>) -> Result<T, Fault> {
        let number = match scalar {
            Scalar::Unsigned(number) => T::try_from(number).ok(),
            Scalar::Negative(_) => None,
            Scalar::Real(number) => integral(number, Self::EXPECTED)?.and_then(|number| {
                let number = u64::try_from(number).ok()?;
                T::try_from(number).ok()
            }),
            other => return Err(Fault::wrong_type(other, Self::EXPECTED)),
        };
        number.ok_or_else(|| {
            Fault::out_of_range(format_args!("{scalar} is not within 0 and {} bits", 8 * size_of::<T>()))
        })
    }
}

/// The whole number that a double stands for; `None` beyond 2⁵³, where doubles no longer tell neighbours apart.
fn integral(number: f64, expected: &str) -> Result<Option<i64>, Fault> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    if number.fract() != 0.0 {
        return Err(Fault::wrong_type(Scalar::Real(number), expected));
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole and within 2⁵³")]
    Ok((number.abs() <= EXACT_MAX).then_some(number as i64))
}

/// A number from `min` to `max`.
pub(crate) fn real<T>(min: f64, max: f64) -> Real<T> {
    Real { min, max, float: PhantomData }
}

/// Any number that `T` holds.
pub(crate) fn any_real<T>() -> Real<T> {
    real(f64::MIN, f64::MAX)
}

pub(crate) struct Real<T> {
    min: f64,
    max: f64,
    float: PhantomData<T>,
}

/// A float that may be too small for a double.
pub(crate) trait Float: Sized {
    /// The nearest one; `None` where that is infinite.
    fn nearest(number: f64) -> Option<Self>;
}

impl Float for f64 {
    fn nearest(number: f64) -> Option<Self> {
        number.is_finite().then_some(number)
    }
}

impl Float for f32 {
    fn nearest(number: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, reason = "an overflow is infinite, and refused")]
        let number = number as Self;
        number.is_finite().then_some(number)
    }
}

impl<T: Float> Rule for Real<T> {
    type Value = T;
    const EXPECTED: &'static str = "a number";

    #[inline]
    fn next<'de>(reader: &mut Reader<'de>) -> Option<Scalar<'de>> {
        reader.number()
    }

    #[inline]
    fn scalar(self, scalar: Scalar<'_>) -> Result<T, Fault> {
        let number = match scalar {
            Scalar::Unsigned(number) => number as f64,
            Scalar::Negative(number) => number as f64,
            Scalar::Real(number) => number,
            other => return Err(Fault::wrong_type(other, Self::EXPECTED)),
        };
        if !(self.min..=self.max).contains(&number) {
            let (min, max) = (self.min, self.max);
            return Err(Fault::out_of_range(format_args!("{scalar} is not within {min} to {max}")));
        }
        T::nearest(number).ok_or_else(|| {
            Fault::out_of_range(format_args!("{scalar} is beyond a float of {} bits", 8 * size_of::<T>()))
        })
    }
}

/// At most [`TEXT_BYTES_MAX`] bytes without control characters.
pub(crate) fn text() -> Text {
    Text
}

pub(crate) struct Text;

impl Text {
    fn check(text: &str) -> Result<&str, Fault> {
        if text.len() > TEXT_BYTES_MAX {
            let bytes = text.len();
            return Err(Fault::out_of_range(format_args!(
                "text has {bytes} bytes, {TEXT_BYTES_MAX} are allowed"
            )));
        }
        // Most texts are ASCII, of which this is quickly known.
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Ok(text);
        }
        match text.chars().find(|c| c.is_control()) {
            Some(c) => Err(Fault::out_of_range(format_args!("text has the control character {c:?}"))),
            None => Ok(text),
        }
    }
}

impl Rule for Text {
    type Value = String;
    const EXPECTED: &'static str = "a text";

    #[inline]
    fn next<'de>(reader: &mut Reader<'de>) -> Option<Scalar<'de>> {
        reader.text().map(Scalar::Text)
    }

    #[inline]
    fn scalar(self, scalar: Scalar<'_>) -> Result<String, Fault> {
        match scalar {
            Scalar::Text(text) => Self::check(text).map(str::to_owned),
            other => Err(Fault::wrong_type(other, Self::EXPECTED)),
        }
    }
}

/// A text of `min` to `max` decimal digits. Not a number: leading zeros count.
pub(crate) fn digits(min: usize, max: usize) -> Digits {
    Digits { min, max, filler: &[] }
}

/// Like [`digits`], and `F` may fill up the last byte, as on the card [ETSI TS 102 221, 13.2]. It is no digit and is
/// taken off.
pub(crate) fn filled_digits(min: usize, max: usize) -> Digits {
    Digits { min, max, filler: &['F', 'f'] }
}

pub(crate) struct Digits {
    min: usize,
    max: usize,
    filler: &'static [char],
}

impl Rule for Digits {
    type Value = String;
    const EXPECTED: &'static str = "a text of digits";

    #[inline]
    fn next<'de>(reader: &mut Reader<'de>) -> Option<Scalar<'de>> {
        reader.text().map(Scalar::Text)
    }

    #[inline]
    fn scalar(self, scalar: Scalar<'_>) -> Result<String, Fault> {
        let Scalar::Text(text) = scalar else {
            return Err(Fault::wrong_type(scalar, Self::EXPECTED));
        };
        let Self { min, max, filler } = self;
        let digits = text.trim_end_matches(filler);
        if text.len() <= max && digits.len() >= min && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            Ok(digits.to_owned())
        } else {
            Err(Fault::out_of_range(format_args!("{scalar} is not {min} to {max} digits")))
        }
    }
}

/// Milliseconds since 1970, or an RFC 3339 text (parts of a millisecond are dropped).
pub(crate) fn time() -> Time {
    Time
}

pub(crate) struct Time;

impl Rule for Time {
    type Value = i64;
    const EXPECTED: &'static str = "a time: whole milliseconds since 1970 or RFC 3339";

    fn scalar(self, scalar: Scalar<'_>) -> Result<i64, Fault> {
        let millis = match scalar {
            Scalar::Unsigned(number) => i64::try_from(number).ok(),
            Scalar::Negative(number) => Some(number),
            Scalar::Real(number) => integral(number, Self::EXPECTED)?,
            Scalar::Text(text) => {
                let time = Text::check(text)?.parse::<jiff::Timestamp>();
                Some(time.map_err(|_| Fault::wrong_type(scalar, Self::EXPECTED))?.as_millisecond())
            }
            Scalar::Flag(_) => return Err(Fault::wrong_type(scalar, Self::EXPECTED)),
        };
        millis.ok_or_else(|| Fault::out_of_range(format_args!("{scalar} is beyond all times")))
    }
}
