//! The bytes that a payload in the cases stands for; the README says what the notation means.

/// `None` where the text is not in that notation.
pub(crate) fn bytes(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let after = rest.get(first.len_utf8()..)?;
        let used = match first {
            '\'' => {
                let (literal, _) = after.split_once('\'')?;
                out.extend_from_slice(literal.as_bytes());
                literal.len() + 2
            }
            'i' | 'H' | 'k' | 'm' | 's' | 'L' | 'r' | 'v' => {
                let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
                let number: u32 = after.get(..digits)?.parse().ok()?;
                match first {
                    'i' => out.extend_from_slice(number.to_be_bytes().get(3..)?),
                    'L' => out.extend_from_slice(&number.to_be_bytes()),
                    'r' | 'v' => variable(number, &mut out),
                    _ => out.extend_from_slice(number.to_be_bytes().get(2..)?),
                }
                digits + 1
            }
            _ => {
                out.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
                2
            }
        };
        rest = rest.get(used..)?.trim_start();
    }
    Some(out)
}

/// Also values of five bytes, which no packet may have.
fn variable(mut value: u32, out: &mut Vec<u8>) {
    loop {
        let [.., low] = (value & 0x7f).to_be_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}
