//! What kind of trouble an insert met, told apart by what helps against it.

use clickhouse::error::Error;

/// Why an insert did not land, as far as its sender can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nobody listens, or the connection broke.
    Unreachable,
    /// The server took the request and said nothing in time.
    NoAnswer,
    /// The table or the user may not write now.
    ReadOnly,
    /// Merges do not keep up.
    TooManyParts,
    /// The server has no memory for it.
    OutOfMemory,
    /// The server's disk is full.
    DiskFull,
    /// Too many queries, a time limit of the server, a quota, a server that is stopping.
    Busy,
    /// A table or a column is not as it should be.
    Schema,
    /// User or password are wrong, or may not do this.
    Access,
    /// It is the rows: one of them at least cannot be taken, however often it is sent.
    Rows,
    /// An answer that is not known.
    Other,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It passes soon: again after a short while.
    Retry,
    /// It passes when the server has been given room or rights: again, seldom, so that we add nothing to its trouble.
    Pause,
    /// It does not pass without a person.
    Fatal,
    /// Part the rows until the one is found that cannot be taken.
    Part,
}

impl Trouble {
    /// What to do about it.
    pub fn class(self) -> Class {
        match self {
            Self::Unreachable | Self::NoAnswer | Self::Busy | Self::Other => Class::Retry,
            Self::ReadOnly | Self::TooManyParts | Self::OutOfMemory | Self::DiskFull => Class::Pause,
            Self::Schema | Self::Access => Class::Fatal,
            Self::Rows => Class::Part,
        }
    }

    /// Short name, as in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::NoAnswer => "no_answer",
            Self::ReadOnly => "read_only",
            Self::TooManyParts => "too_many_parts",
            Self::OutOfMemory => "out_of_memory",
            Self::DiskFull => "disk_full",
            Self::Busy => "busy",
            Self::Schema => "schema",
            Self::Access => "access",
            Self::Rows => "rows",
            Self::Other => "other",
        }
    }

    /// Of an error of the client.
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Network(_) => Self::Unreachable,
            Error::TimedOut => Self::NoAnswer,
            Error::SchemaMismatch(_) | Error::Unsupported(_) | Error::InvalidParams(_) => Self::Schema,
            Error::BadResponse(text) => Self::said(text),
            _ => Self::Other,
        }
    }

    /// Of what the server said: `Code: 60. DB::Exception: ...`.
    fn said(text: &str) -> Self {
        // Writing to a full disk is told under several codes.
        if text.contains("No space left on device") {
            return Self::DiskFull;
        }
        match code(text) {
            // INCORRECT_DATA, and not of a row: the types that come before the rows are not those of the table.
            Some(117) if text.contains("(while reading header)") => Self::Schema,
            code => code.map_or(Self::Other, Self::coded),
        }
    }

    /// By the numbers of ClickHouse's `ErrorCodes.cpp`.
    fn coded(code: u32) -> Self {
        match code {
            // READONLY, TABLE_IS_READ_ONLY
            164 | 242 => Self::ReadOnly,
            252 => Self::TooManyParts,
            // CANNOT_ALLOCATE_MEMORY, MEMORY_LIMIT_EXCEEDED
            173 | 241 => Self::OutOfMemory,
            // NOT_ENOUGH_SPACE
            243 => Self::DiskFull,
            // TIMEOUT_EXCEEDED, QUOTA_EXCEEDED, TOO_MANY_SIMULTANEOUS_QUERIES, SOCKET_TIMEOUT, NETWORK_ERROR, ABORTED,
            // QUERY_WAS_CANCELLED
            159 | 201 | 202 | 209 | 210 | 236 | 394 => Self::Busy,
            // NOT_FOUND_COLUMN_IN_BLOCK, NO_SUCH_COLUMN_IN_TABLE, NUMBER_OF_COLUMNS_DOESNT_MATCH, UNKNOWN_IDENTIFIER,
            // TYPE_MISMATCH, UNKNOWN_TABLE, UNKNOWN_DATABASE
            10 | 16 | 20 | 47 | 53 | 60 | 81 => Self::Schema,
            // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, ACCESS_DENIED, AUTHENTICATION_FAILED
            192 | 193 | 194 | 497 | 516 => Self::Access,
            // CANNOT_PARSE_TEXT, CANNOT_PARSE_*, ARGUMENT_OUT_OF_BOUND, CANNOT_CONVERT_TYPE, CANNOT_PARSE_NUMBER, INCORRECT_DATA,
            // TOO_LARGE_STRING_SIZE, ILLEGAL_DIVISION, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE, CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN,
            // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO, DECIMAL_OVERFLOW, VIOLATED_CONSTRAINT, UNKNOWN_ELEMENT_OF_ENUM
            6 | 26 | 27 | 38 | 41 | 69 | 70 | 72 | 117 | 131 | 153 | 321 | 349 | 395 | 407 | 469 | 691 => {
                Self::Rows
            }
            _ => Self::Other,
        }
    }
}

/// The number in `Code: 60. DB::Exception: ...`.
fn code(text: &str) -> Option<u32> {
    let digits = text.split("Code: ").nth(1)?;
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_table_needs_a_person_and_a_busy_server_does_not() {
        let said = |text: &str| Trouble::of(&Error::BadResponse(text.into()));
        let missing = said("Code: 60. DB::Exception: Table x does not exist. (UNKNOWN_TABLE)");
        assert_eq!((missing, missing.class()), (Trouble::Schema, Class::Fatal));
        let parts = said("Code: 252. DB::Exception: Too many parts (300)");
        assert_eq!((parts, parts.class()), (Trouble::TooManyParts, Class::Pause));
        let full = said(
            "Code: 75. DB::ErrnoException: Cannot write to file: errno: 28, strerror: No space left on device",
        );
        assert_eq!(full, Trouble::DiskFull);
        let header =
            said("Code: 117. DB::Exception: Type of 's' must be Int32, not UInt32: (while reading header)");
        assert_eq!((header, said("Code: 117. DB::Exception: bad row")), (Trouble::Schema, Trouble::Rows));
        assert_eq!(said("Code: 469. DB::Exception: Constraint x is violated").class(), Class::Part);
        assert_eq!(said("bad gateway").class(), Class::Retry);
        assert_eq!(Trouble::of(&Error::TimedOut), Trouble::NoAnswer);
    }
}
