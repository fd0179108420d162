//! Amounts and prices by volume. Exact: an amount is a whole number of millionths.

use std::fmt;

use crate::fault::Fault;
use crate::value::{Shape, Value};

const DECIMALS: usize = 6;
const MILLIONTHS: i64 = 1_000_000;
/// `Decimal(18, 6)` has twelve digits before the point.
const WHOLE_DIGITS_MAX: usize = 12;

/// An amount of money, of megabytes, or of something else; from 0, with at most six decimals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount {
    millionths: i64,
}

impl Amount {
    /// Millionths.
    pub fn millionths(self) -> i64 {
        self.millionths
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.millionths / MILLIONTHS, self.millionths % MILLIONTHS);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:06}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

impl Value for Amount {
    const SHAPE: Shape = Shape::Amount;

    fn read(cell: &str) -> Result<Self, Fault> {
        if cell.is_empty() {
            return Err(Fault::Missing);
        }
        let (whole, decimals) = cell.split_once('.').unwrap_or((cell, "0"));
        let decimals = if decimals.len() > DECIMALS { decimals.trim_end_matches('0') } else { decimals };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let right = (1..=WHOLE_DIGITS_MAX).contains(&whole.len())
            && decimals.len() <= DECIMALS
            && digits(whole)
            && digits(decimals)
            && !cell.ends_with('.');
        if !right {
            return Err(Fault::Amount);
        }
        let millionths = format!("{whole}{decimals:0<6}").parse().map_err(|_| Fault::Amount)?;
        Ok(Self { millionths })
    }

    fn cell(&self) -> String {
        self.to_string()
    }
}

/// Prices that fall with the volume: from so many megabytes on, a megabyte costs so much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiers(Vec<(Amount, Amount)>);

impl Tiers {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Value for Tiers {
    const SHAPE: Shape = Shape::Tiers;
    const OPTIONAL: bool = true;

    fn read(cell: &str) -> Result<Self, Fault> {
        let tier = |text: &str| {
            let (from, price) = text.split_once(':').ok_or(Fault::Tiers)?;
            let amount = |text| Amount::read(text).map_err(|_| Fault::Tiers);
            Ok((amount(from)?, amount(price)?))
        };
        let tiers = cell.split_whitespace().map(tier).collect::<Result<Vec<_>, Fault>>()?;
        let from_zero = tiers.first().is_none_or(|first| first.0 == Amount::default());
        let rising = tiers.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if from_zero && rising { Ok(Self(tiers)) } else { Err(Fault::Tiers) }
    }

    fn cell(&self) -> String {
        let tiers: Vec<String> = self.0.iter().map(|(from, price)| format!("{from}:{price}")).collect();
        tiers.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_exact_or_refused() {
        for (given, written) in [
            ("0", "0"),
            ("12.50", "12.5"),
            ("007", "7"),
            ("0.000001", "0.000001"),
            ("1.10000000", "1.1"),
            ("999999999999.999999", "999999999999.999999"),
        ] {
            assert_eq!(Amount::read(given).expect(given).cell(), written);
        }
        for wrong in ["-1", "+1", "1,5", "1e3", ".5", "5.", "0.0000001", "1000000000000", "1 000", "NaN"] {
            assert_eq!(Amount::read(wrong), Err(Fault::Amount), "{wrong}");
        }
    }

    #[test]
    fn tiers_rise_from_zero() {
        assert_eq!(Tiers::read("0:0.10  500:0.05").expect("tiers").cell(), "0:0.1 500:0.05");
        for wrong in ["1:0.1", "0:0.1 0:0.2", "0:0.1 500:0.05 100:0.01", "0", "0:x"] {
            assert_eq!(Tiers::read(wrong), Err(Fault::Tiers), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_amount_is_read_as_it_was_written(millionths in 0_i64..1_000_000_000_000_000_000) {
            let amount = Amount { millionths };
            proptest::prop_assert_eq!(Amount::read(&amount.cell()), Ok(amount));
        }
    }
}
