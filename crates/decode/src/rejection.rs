//! Why a payload did not become an event.

use std::fmt;

use event::v1::RejectReason;

/// Longest [`Rejection::detail`], in bytes.
pub const DETAIL_BYTES_MAX: usize = 256;

/// A payload that is no event, and why. It is never worth a retry: the same bytes are rejected again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Rejection {
    /// For counting.
    pub reason: RejectReason,
    /// For people: the path of the field at fault where there is one, and what was wrong with it, for example
    /// `battery.percent: 130 is not within 0 to 100`. At most [`DETAIL_BYTES_MAX`] bytes, cut with `…`.
    pub detail: String,
}

impl Rejection {
    pub(crate) fn new(reason: RejectReason, detail: impl fmt::Display) -> Self {
        let mut detail = detail.to_string();
        if detail.len() > DETAIL_BYTES_MAX {
            const CUT: char = '…';
            detail.truncate(detail.floor_char_boundary(DETAIL_BYTES_MAX - CUT.len_utf8()));
            detail.push(CUT);
        }
        Self { reason, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_detail_is_cut_between_characters() {
        for pad in 0..4 {
            let long = "x".repeat(pad) + &"🛴".repeat(100);
            let detail = Rejection::new(RejectReason::WrongType, &long).detail;
            assert!(detail.len() <= DETAIL_BYTES_MAX && detail.len() > DETAIL_BYTES_MAX - 4);
            assert!(long.starts_with(detail.trim_end_matches('…')));
        }
    }
}
