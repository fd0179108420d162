//! Reads the fields of a packet from front to back.

use crate::{DecodeError, PacketId, frame};

pub(crate) struct Reader<'a>(&'a [u8]);

const SHORT: DecodeError = DecodeError::Malformed("it ends before its last field");

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All that is left, and leaves nothing.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Malformed("it goes on after its last field"))
        }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        let (&first, rest) = self.0.split_first().ok_or(SHORT)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*first))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        let (first, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*first))
    }

    /// A variable byte integer.
    pub(crate) fn variable(&mut self) -> Result<u32, DecodeError> {
        let (value, length) = frame::shortest_variable(self.0)?.ok_or(SHORT)?;
        self.0 = &self.0[length..];
        Ok(value)
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// Text. Beyond what it must not have [MQTT-1.5.4-1] [MQTT-1.5.4-2], what it should not have is refused too:
    /// control characters and non-characters.
    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        let text = str::from_utf8(bytes).map_err(|_| DecodeError::Text(what))?;
        if is_allowed(text) { Ok(text) } else { Err(DecodeError::Text(what)) }
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        // [MQTT-2.2.1-3]
        PacketId::new(self.u16()?).ok_or(DecodeError::Protocol("packet id 0"))
    }
}

/// Printable ASCII: by far most text.
fn is_plain(bytes: &[u8]) -> bool {
    // Without a branch for each byte, so that many are looked at at once.
    bytes.iter().fold(true, |plain, byte| plain & (0x20..0x7f).contains(byte))
}

/// Whether all of it may stand in a packet.
pub(crate) fn is_allowed(text: &str) -> bool {
    is_plain(text.as_bytes()) || text.chars().all(may_stand)
}

fn may_stand(c: char) -> bool {
    let code = u32::from(c);
    !c.is_control() && !(0xfdd0..=0xfdef).contains(&code) && code & 0xfffe != 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<&str, DecodeError> {
        let length = u8::try_from(text.len()).expect("short");
        let bytes: &'static [u8] = Vec::leak([&[0, length], text].concat());
        Reader::new(bytes).text("a test")
    }

    #[test]
    fn text_is_well_formed_and_has_no_control_characters() {
        assert_eq!(read("scooter-ü-🛴".as_bytes()), Ok("scooter-ü-🛴"));
        let refused: [&[u8]; 8] = [
            b"\0",
            b"a\x1f",
            b"\x7f",
            "\u{80}".as_bytes(),
            "\u{fdd0}".as_bytes(),
            "\u{1fffe}".as_bytes(),
            b"\xed\xa0\x80",
            b"\xc0\x80",
        ];
        for bytes in refused {
            assert_eq!(read(bytes), Err(DecodeError::Text("a test")), "{bytes:?}");
        }
    }
}
