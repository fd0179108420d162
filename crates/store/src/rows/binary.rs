//! RowBinary: the columns of a row, one after the other.
//!
//! Each insert begins with the names and types of what follows (`RowBinaryWithNamesAndTypes`), so that ClickHouse itself refuses rows
//! that its table does not take any more, whatever was checked before.

use std::borrow::Cow;

use uuid::Uuid;

/// A column that a row fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type, as ClickHouse writes it.
    pub sql: &'static str,
}

/// What comes before the rows.
pub(crate) fn put_header(columns: &[Column], out: &mut Vec<u8>) {
    put_length(columns.len(), out);
    columns.iter().for_each(|column| column.name.put(out));
    columns.iter().for_each(|column| column.sql.put(out));
}

/// What one column takes.
pub(super) trait Cell {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Cell for $number {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}

numbers!(u8, u16, u32, u64, i8, i16, i32, i64);

impl Cell for bool {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
}

/// Its two halves, each with the lowest byte first.
impl Cell for Uuid {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        let (high, low) = self.as_u64_pair();
        high.put(out);
        low.put(out);
    }
}

impl Cell for str {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.as_bytes().put(out);
    }
}

/// A ClickHouse `String` holds any bytes.
impl Cell for [u8] {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        put_length(self.len(), out);
        out.extend_from_slice(self);
    }
}

macro_rules! texts {
    ($($text:ty as $whole:ty),*) => {
        $(impl Cell for $text {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                <$whole>::put(self, out);
            }
        })*
    };
}

texts!(String as str, &'static str as str, Cow<'_, str> as str, Vec<u8> as [u8]);

impl<T: Cell> Cell for Option<T> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.is_none().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
}

macro_rules! arrays {
    ($($element:ty),*) => {
        $(impl Cell for Vec<$element> {
            fn put(&self, out: &mut Vec<u8>) {
                put_length(self.len(), out);
                self.iter().for_each(|element| element.put(out));
            }
        })*
    };
}

arrays!(i8, i32, u32, u64, String);

/// Seven bits to a byte, the lowest first.
#[inline]
fn put_length(mut length: usize, out: &mut Vec<u8>) {
    while length > 0x7f {
        out.push(length.to_le_bytes()[0] | 0x80);
        length >>= 7;
    }
    out.push(length.to_le_bytes()[0]);
}
