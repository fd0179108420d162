//! The fixed header: where one packet ends and the next begins.

use crate::{DecodeError, Version};

/// One packet's bytes, cut by its fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type and flags.
    pub first: u8,
    /// What follows the fixed header.
    pub body: &'a [u8],
    /// Bytes of the whole packet, its header included.
    pub len: usize,
}

impl Frame<'_> {
    /// From MQTT 5 on a length has no more bytes than it needs [MQTT-1.5.5-1]. Earlier versions ask for nothing, and
    /// small devices that leave room for the longest they send keep to them.
    pub(crate) fn check_length(&self, version: Version) -> Result<(), DecodeError> {
        let needed = match self.body.len() {
            0..0x80 => 2,
            0x80..0x4000 => 3,
            0x4000..0x20_0000 => 4,
            _ => 5,
        };
        if version.is_v5() && self.len > self.body.len() + needed { Err(PADDED) } else { Ok(()) }
    }
}

const PADDED: DecodeError = DecodeError::Malformed("a length in more bytes than it needs");

/// The packet at the beginning of `input`; `None` where more bytes are needed. Reserves nothing, whatever is announced.
///
/// # Errors
/// [`DecodeError::TooLarge`] as soon as the header says so; [`DecodeError::Malformed`] for a length that is none;
/// [`DecodeError::Protocol`] for the reserved packet type, from its first byte on.
pub fn frame(input: &[u8], packet_bytes_max: u32) -> Result<Option<Frame<'_>>, DecodeError> {
    let Some((&first, rest)) = input.split_first() else {
        return Ok(None);
    };
    if first >> 4 == 0 {
        return Err(DecodeError::Protocol("the reserved packet type 0"));
    }
    let Some((remaining, length_bytes)) = variable(rest)? else {
        return Ok(None);
    };
    let header = 1 + length_bytes;
    let bytes = remaining + u32::try_from(header).unwrap_or(u32::MAX);
    if bytes > packet_bytes_max {
        return Err(DecodeError::TooLarge { bytes, max: packet_bytes_max });
    }
    let len = bytes as usize;
    Ok(input.get(header..len).map(|body| Frame { first, body, len }))
}

/// A variable byte integer: its value and its own length, in as many bytes as it needs. [MQTT-1.5.5-1]
pub(crate) fn shortest_variable(input: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    match variable(input)? {
        Some((_, length)) if length > 1 && input.get(length - 1) == Some(&0) => Err(PADDED),
        read => Ok(read),
    }
}

/// A variable byte integer: its value and its own length.
fn variable(input: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in input.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if input.len() < 4 { Ok(None) } else { Err(DecodeError::Malformed("a length of more than four bytes")) }
}

/// Whether a connection begins with the header of a CONNECT, told from its first byte: a client that speaks another
/// protocol need not be waited for.
///
/// # Errors
/// [`DecodeError::NotConnect`].
pub fn begins_with_connect(input: &[u8]) -> Result<(), DecodeError> {
    match input.first() {
        // The flags are judged when the version is known: in MQTT 3.1 they mean nothing.
        Some(first) if first >> 4 != 1 => Err(DecodeError::NotConnect),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_ends_where_its_header_says() {
        assert_eq!(frame(&[], 100), Ok(None));
        assert_eq!(frame(&[0xc0], 100), Ok(None));
        assert_eq!(frame(&[0xc0, 0, 7], 100), Ok(Some(Frame { first: 0xc0, body: &[], len: 2 })));
        assert_eq!(frame(&[0x30, 2, 7], 100), Ok(None));
        assert_eq!(frame(&[0x30, 2, 7, 8, 9], 100), Ok(Some(Frame { first: 0x30, body: &[7, 8], len: 4 })));
    }

    #[test]
    fn a_packet_that_is_too_large_is_told_by_its_header_alone() {
        let announced = [0x30, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(frame(&announced, 100), Err(DecodeError::TooLarge { bytes: 268_435_460, max: 100 }));
        assert_eq!(frame(&announced[..4], 100), Ok(None));
    }

    #[test]
    fn a_length_has_at_most_four_bytes() {
        assert!(matches!(frame(&[0x30, 0x80, 0x80, 0x80, 0x80, 1], 100), Err(DecodeError::Malformed(_))));
        assert!(matches!(frame(&[0x30, 0x80, 0x80, 0x80, 0x80], 100), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_length_in_more_bytes_than_it_needs_is_malformed_in_version_5_alone() {
        for bytes in [&[0xc0, 0x80, 0x00][..], &[0xc0, 0x80, 0x80, 0x80, 0x00]] {
            let padded = frame(bytes, 100).expect("a packet").expect("whole");
            assert_eq!((padded.len, padded.body.len()), (bytes.len(), 0));
            assert_eq!(padded.check_length(Version::V311), Ok(()));
            assert_eq!(padded.check_length(Version::V5), Err(PADDED));
        }
        assert_eq!(shortest_variable(&[0x80, 0x01]), Ok(Some((128, 2))));
        assert_eq!(shortest_variable(&[0xff, 0x80, 0x00]), Err(PADDED));
        assert_eq!(shortest_variable(&[0]), Ok(Some((0, 1))));
    }

    #[test]
    fn the_reserved_packet_type_is_told_by_its_first_byte() {
        assert!(matches!(frame(&[0x0a], 100), Err(DecodeError::Protocol(_))));
    }
}
