//! Messages of the protobuf wire format, read in place.
//!
//! Only those that are *plain*, as a gateway writes them ([`encode_heartbeat`](crate::encode_heartbeat)): fields in the order of their
//! numbers, each once, no groups. There a message means what it says field by field; what the format allows besides (the last of two
//! holds, parts of a message are merged) is left to prost, and so is saying what is wrong.

/// How the value of a field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// As a varint.
    Varint,
    /// As eight bytes.
    Eight,
    /// As so many bytes as come first.
    Length,
    /// As four bytes.
    Four,
}

/// The rest of a message. Every question answers none where the message is not plain.
#[derive(Clone, Copy, Debug)]
pub struct PlainMessage<'a> {
    rest: &'a [u8],
    last: u64,
}

impl<'a> PlainMessage<'a> {
    /// A message from its first byte to its last.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, last: 0 }
    }

    /// Whether it has been read to its end.
    #[inline]
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// The number of the next field, and how its value is written, which has to be read next.
    #[inline]
    pub fn field(&mut self) -> Option<(u64, Written)> {
        let key = self.varint()?;
        let written = match key & 7 {
            0 => Written::Varint,
            1 => Written::Eight,
            2 => Written::Length,
            5 => Written::Four,
            _ => return None,
        };
        let number = key >> 3;
        if number <= self.last {
            return None;
        }
        self.last = number;
        Some((number, written))
    }

    /// A varint.
    #[inline]
    pub fn varint(&mut self) -> Option<u64> {
        match self.rest {
            [byte @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Some(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for (place, byte) in self.rest.iter().enumerate().take(10) {
            number |= u64::from(byte & 0x7f) << (7 * place);
            if *byte < 0x80 {
                self.rest = &self.rest[place + 1..];
                // The tenth byte has room for one bit.
                return (place < 9 || *byte <= 1).then_some(number);
            }
        }
        None
    }

    /// Eight bytes.
    #[inline]
    pub fn eight(&mut self) -> Option<[u8; 8]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    /// Four bytes.
    #[inline]
    pub fn four(&mut self) -> Option<[u8; 4]> {
        let (bytes, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*bytes)
    }

    /// Bytes with their length before them.
    #[inline]
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }

    /// A text with its length before it.
    #[inline]
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// A message with its length before it.
    #[inline]
    pub fn message(&mut self) -> Option<Self> {
        self.bytes().map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_to_their_last_bit_and_not_beyond() {
        let number = |bytes: &[u8]| PlainMessage::new(bytes).varint();
        assert_eq!(number(&[0x7f]), Some(127));
        assert_eq!(number(&[0x80, 0x01, 0xff]), Some(128));
        let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(number(&most), Some(u64::MAX));
        assert_eq!(number(&[&most[..9], &[0x02]].concat()), None);
        assert_eq!(number(&[0x80; 11]), None);
        assert_eq!((number(&[]), number(&[0x80])), (None, None));
    }

    #[test]
    fn fields_come_in_order_and_once() {
        let mut message = PlainMessage::new(b"\x08\x05\x12\x01a\x12\x01b");
        assert_eq!((message.field(), message.varint()), (Some((1, Written::Varint)), Some(5)));
        assert_eq!((message.field(), message.text()), (Some((2, Written::Length)), Some("a")));
        assert!(!message.is_at_end());
        assert_eq!(message.field(), None, "the second once more");
        assert_eq!(PlainMessage::new(&[0x00]).field(), None, "there is no field 0");
        assert_eq!(PlainMessage::new(&[0x0b]).field(), None, "a group");
    }

    #[test]
    fn what_is_longer_than_the_message_is_not_read() {
        let message = || PlainMessage::new(&[0x03, 0x61, 0x62]);
        assert_eq!((message().text(), message().four(), message().eight()), (None, None, None));
        assert_eq!(PlainMessage::new(&[0x01, 0xff]).text(), None, "no text");
        assert_eq!(PlainMessage::new(&[0x01, 0xff]).bytes(), Some(&[0xff][..]));
    }
}
