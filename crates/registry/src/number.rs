//! Numbers of modems and SIMs, with their check digits.

use crate::fault::Fault;
use crate::value::{Shape, Value, text};

/// The digit that makes a number right, by Luhn's formula (ISO/IEC 7812-1, annex B), of the digits before it.
pub fn luhn(digits: &str) -> u8 {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit.wrapping_sub(b'0'));
            let doubled = digit * 2;
            match place % 2 {
                0 if doubled > 9 => doubled - 9,
                0 => doubled,
                _ => digit,
            }
        })
        .sum();
    u8::try_from((10 - sum % 10) % 10).unwrap_or_default()
}

fn digits(cell: &str, counts: std::ops::RangeInclusive<usize>, wanted: &'static str) -> Result<(), Fault> {
    let right = counts.contains(&cell.len()) && cell.bytes().all(|byte| byte.is_ascii_digit());
    if right { Ok(()) } else { Err(Fault::Digits { wanted }) }
}

fn checked(cell: &str) -> Result<(), Fault> {
    let (body, last) = cell.split_at(cell.len() - 1);
    let (is, should) = (last.as_bytes()[0] - b'0', luhn(body));
    if is == should { Ok(()) } else { Err(Fault::CheckDigit { is, should }) }
}

/// ITU-T E.118 counts 19 digits with the check digit. Of 20 digits the last is the check digit in what most carriers print; some
/// append one to 19 digits that are right by themselves, without a meaning (3GPP TS 31.102 stores ten bytes).
fn iccid(cell: &str) -> Result<(), Fault> {
    digits(cell, 19..=20, "19 or 20")?;
    match checked(cell) {
        Err(fault) if cell.len() == 20 => checked(&cell[..19]).map_err(|_| fault),
        checked => checked,
    }
}

fn imei(cell: &str) -> Result<(), Fault> {
    digits(cell, 15..=15, "15")?;
    checked(cell)
}

/// GSMA SGP.02, 2.2.2: 32 digits, which as a number leave 1 when divided by 97.
fn eid(cell: &str) -> Result<(), Fault> {
    digits(cell, 32..=32, "32")?;
    let rest = cell.bytes().fold(0, |rest, digit| (rest * 10 + u32::from(digit - b'0')) % 97);
    if rest == 1 { Ok(()) } else { Err(Fault::EidCheck) }
}

text!(
    /// Number of a SIM.
    Iccid, "ICCID, 19 or 20 digits", |cell| iccid(cell)
);
text!(
    /// Number of a modem.
    Imei, "IMEI, 15 digits", |cell| imei(cell)
);
text!(
    /// Number of an embedded SIM's chip.
    Eid, "EID, 32 digits", |cell| eid(cell)
);
text!(
    /// Number of a subscriber.
    Imsi, "IMSI, 6 to 15 digits", |cell| digits(cell, 6..=15, "6 to 15")
);
text!(
    /// Number that is called.
    Msisdn, "telephone number with its country, 5 to 15 digits without `+`", |cell| digits(cell, 5..=15, "5 to 15")
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_digits_are_those_of_published_examples() {
        assert_eq!(luhn("7992739871"), 3);
        assert!(Imei::read("490154203237518").is_ok(), "the example of 3GPP TS 23.003, annex B");
        assert_eq!(Imei::read("490154203237517"), Err(Fault::CheckDigit { is: 7, should: 8 }));
        assert_eq!(Imei::read("49015420323751"), Err(Fault::Digits { wanted: "15" }));
        assert!(Eid::read("89049032123451234512345678901235").is_ok(), "the example of SGP.02");
        assert_eq!(Eid::read("89049032123451234512345678901236"), Err(Fault::EidCheck));
    }

    #[test]
    fn an_iccid_is_right_with_its_check_digit_or_with_one_that_is_appended() {
        let body = "894910000000000001";
        let right = format!("{body}{}", luhn(body));
        assert!(Iccid::read(&right).is_ok());
        for further in 0..10 {
            assert!(Iccid::read(&format!("{right}{further}")).is_ok());
        }
        let wrong = format!("{body}{}", (luhn(body) + 1) % 10);
        assert!(matches!(Iccid::read(&wrong), Err(Fault::CheckDigit { .. })));
        assert_eq!(Iccid::read("89x9100000000000017"), Err(Fault::Digits { wanted: "19 or 20" }));
    }

    proptest::proptest! {
        #[test]
        fn one_wrong_digit_is_always_found(digits in "[0-9]{14}", at in 0_usize..15, by in 1_u8..10) {
            let right = format!("{digits}{}", luhn(&digits));
            proptest::prop_assert!(Imei::read(&right).is_ok());
            let mut wrong = right.into_bytes();
            wrong[at] = b'0' + (wrong[at] - b'0' + by) % 10;
            proptest::prop_assert!(Imei::read(std::str::from_utf8(&wrong).expect("digits")).is_err());
        }
    }
}
