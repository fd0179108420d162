//! Reads JSON quickly, or gives up.
//!
//! A reader over a text that is UTF-8 already: one pass, no copies, no allocations, no recursion, no error values. Every
//! method answers `None` for what is no JSON, and also for what is JSON but too unusual to be quick about: a name or a
//! known text with escapes, a whole number with more than 19 digits, minus zero, more than [`NESTING_LEVELS_MAX`] levels.
//! `None` therefore says nothing about the payload: whoever gets it asks serde_json. What is read is what serde_json
//! reads, to the letter: the tests hold the two against each other.

use crate::object::NESTING_LEVELS_MAX;
use crate::rule::Scalar;

/// A place in a JSON text.
pub(crate) struct Reader<'de> {
    text: &'de str,
    at: usize,
}

impl<'de> Reader<'de> {
    pub(crate) fn new(text: &'de str) -> Self {
        Self { text, at: 0 }
    }

    /// Enters an object, which must stand here. Whether it has a member; if so its [`name`](Self::name) is next.
    #[inline]
    pub(crate) fn open(&mut self) -> Option<bool> {
        self.expect(b'{')?;
        self.space();
        Some(!self.eat(b'}'))
    }

    /// The name of a member, and the colon: its value is next.
    #[inline(always)]
    pub(crate) fn name(&mut self) -> Option<&'de str> {
        let name = self.text()?;
        self.colon()?;
        Some(name)
    }

    /// After the value of a member: whether the object has another one, or ends here.
    #[inline(always)]
    pub(crate) fn another(&mut self) -> Option<bool> {
        self.space();
        match self.take()? {
            b',' => {
                self.space();
                Some(true)
            }
            b'}' => Some(false),
            _ => None,
        }
    }

    /// Nothing but white space is left.
    pub(crate) fn end(&mut self) -> Option<()> {
        self.space();
        (self.at == self.text.len()).then_some(())
    }

    /// The byte that comes next.
    #[inline(always)]
    pub(crate) fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes white space.
    #[inline(always)]
    pub(crate) fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Passes `null`.
    pub(crate) fn null(&mut self) -> Option<()> {
        self.literal("null")
    }

    /// A value that is not `null`, no object and no array.
    #[inline]
    pub(crate) fn scalar(&mut self) -> Option<Scalar<'de>> {
        match self.peek()? {
            b'"' => self.text().map(Scalar::Text),
            b't' => self.literal("true").map(|()| Scalar::Flag(true)),
            b'f' => self.literal("false").map(|()| Scalar::Flag(false)),
            _ => self.number(),
        }
    }

    /// Any value, as it was written. Texts and numbers in it stand for something by their grammar alone, as for
    /// serde_json's `RawValue`: half of a surrogate pair and `1e999` pass.
    pub(crate) fn raw(&mut self) -> Option<&'de str> {
        let start = self.at;
        // One bit per level, the innermost one lowest: set in an object.
        let (mut levels, mut objects) = (0, 0_u64);
        loop {
            match self.peek()? {
                b'"' => self.pass_text()?,
                opening @ (b'{' | b'[') => {
                    if levels == NESTING_LEVELS_MAX {
                        return None;
                    }
                    self.at += 1;
                    self.space();
                    let object = opening == b'{';
                    if !self.eat(if object { b'}' } else { b']' }) {
                        levels += 1;
                        objects = objects << 1 | u64::from(object);
                        if object {
                            self.pass_name()?;
                        }
                        continue;
                    }
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.null()?,
                _ => self.pass_number()?,
            }
            // A value has ended, and with it perhaps those that it ends.
            loop {
                if levels == 0 {
                    return self.text.get(start..self.at);
                }
                self.space();
                match (self.take()?, objects & 1 == 1) {
                    (b',', object) => {
                        self.space();
                        if object {
                            self.pass_name()?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        levels -= 1;
                        objects >>= 1;
                    }
                    _ => return None,
                }
            }
        }
    }

    #[inline(always)]
    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    #[inline(always)]
    fn eat(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Option<()> {
        self.eat(byte).then_some(())
    }

    #[inline(always)]
    fn colon(&mut self) -> Option<()> {
        self.space();
        self.expect(b':')?;
        self.space();
        Some(())
    }

    fn literal(&mut self, word: &str) -> Option<()> {
        let there = self.text.as_bytes()[self.at..].starts_with(word.as_bytes());
        self.at += word.len();
        there.then_some(())
    }

    /// A text without escapes.
    #[inline(always)]
    pub(crate) fn text(&mut self) -> Option<&'de str> {
        self.expect(b'"')?;
        let start = self.at;
        self.plain();
        let text = self.text.get(start..self.at)?;
        self.expect(b'"')?;
        Some(text)
    }

    /// Passes what stands for itself in a text: up to a quote, a backslash, a control character or the end.
    #[inline(always)]
    fn plain(&mut self) {
        // Eight bytes at a time. A byte is found by the borrow that a subtraction takes from its highest bit; bytes
        // above the first one found may be found falsely, which nobody sees.
        const EACH: u64 = u64::MAX / 255;
        let below = |bytes: u64, limit: u64| bytes.wrapping_sub(EACH * limit) & !bytes;
        let rest = &self.text.as_bytes()[self.at..];
        let (chunks, _) = rest.as_chunks::<8>();
        for chunk in chunks {
            let bytes = u64::from_le_bytes(*chunk);
            let quote = below(bytes ^ (EACH * u64::from(b'"')), 1);
            let backslash = below(bytes ^ (EACH * u64::from(b'\\')), 1);
            let found = (quote | backslash | below(bytes, 0x20)) & (EACH * 0x80);
            if found != 0 {
                self.at += (found.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
        while self.peek().is_some_and(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
            self.at += 1;
        }
    }

    fn pass_name(&mut self) -> Option<()> {
        self.pass_text()?;
        self.colon()
    }

    /// Passes a text that may have escapes.
    fn pass_text(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            self.plain();
            match self.take()? {
                b'"' => return Some(()),
                b'\\' => match self.take()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
                        digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                        self.at += 4;
                    }
                    _ => return None,
                },
                _ => return None,
            }
        }
    }

    /// Passes one decimal digit or more.
    fn pass_digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn pass_number(&mut self) -> Option<()> {
        self.eat(b'-');
        // No digit follows a leading zero: it would stand where a comma or an end is looked for.
        if !self.eat(b'0') {
            self.pass_digits()?;
        }
        if self.eat(b'.') {
            self.pass_digits()?;
        }
        self.pass_exponent()
    }

    fn pass_exponent(&mut self) -> Option<()> {
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.pass_digits()?;
        }
        Some(())
    }

    /// Adds the digits that come next to `number`, which wraps beyond 64 bits. How many they are.
    #[inline(always)]
    fn digits(&mut self, number: &mut u64) -> usize {
        let start = self.at;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            *number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        self.at - start
    }

    /// A number.
    #[inline]
    pub(crate) fn number(&mut self) -> Option<Scalar<'de>> {
        let start = self.at;
        let negative = self.eat(b'-');
        let mut significand = 0;
        let whole_digits = match self.eat(b'0') {
            true => 1,
            false => self.digits(&mut significand),
        };
        if whole_digits == 0 {
            return None;
        }
        let fraction_digits = match self.eat(b'.') {
            true => Some(self.digits(&mut significand)).filter(|digits| *digits > 0)?,
            false => 0,
        };
        let scaled = matches!(self.peek(), Some(b'e' | b'E'));
        // 19 digits are less than 2⁶⁴.
        let exact = whole_digits + fraction_digits <= 19;
        if fraction_digits == 0 && !scaled {
            return match (exact, negative) {
                (false, _) => None,
                (true, false) => Some(Scalar::Unsigned(significand)),
                (true, true) if significand == 0 => None,
                (true, true) => Some(Scalar::Negative(-i64::try_from(significand).ok()?)),
            };
        }
        match POWERS_OF_TEN.get(fraction_digits) {
            // Two numbers that doubles hold exactly: their quotient is rounded once, so it is the nearest double.
            Some(power) if exact && !scaled && significand <= 1 << 53 => {
                let number = significand as f64 / power;
                Some(Scalar::Real(if negative { -number } else { number }))
            }
            _ => {
                self.pass_exponent()?;
                let number: f64 = self.text.get(start..self.at)?.parse().ok()?;
                number.is_finite().then_some(Scalar::Real(number))
            }
        }
    }
}

/// Those that a double holds exactly, and that a significand of 19 digits may need.
const POWERS_OF_TEN: [f64; 20] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19,
];
