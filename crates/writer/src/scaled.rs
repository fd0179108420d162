//! Readings as whole numbers of a small unit, as the columns of heartbeats hold them.
//!
//! Rounded to the nearest; what is beyond the range is its end. No reading is not a number (decoding sees to that); one of another
//! writer's that is stands for zero.

/// Tenths, within 16 bits: signal strengths.
pub(crate) fn tenths(value: Option<f32>) -> Option<i16> {
    value.map(|value| {
        let tenths = nearest(f64::from(value) * 10.0);
        i16::try_from(tenths).unwrap_or(if tenths < 0 { i16::MIN } else { i16::MAX })
    })
}

/// So many of a unit, within 32 bits.
pub(crate) fn wide(value: Option<impl Into<f64>>, units: f64) -> Option<i32> {
    value.map(|value| {
        let count = nearest(value.into() * units);
        i32::try_from(count).unwrap_or(if count < 0 { i32::MIN } else { i32::MAX })
    })
}

/// Hundredths of a percent.
pub(crate) fn percent_e2(value: Option<f32>) -> Option<u16> {
    value.map(|value| {
        let hundredths = nearest(f64::from(value) * 100.0);
        u16::try_from(hundredths).unwrap_or(if hundredths < 0 { 0 } else { u16::MAX })
    })
}

/// As `f64::round`, which is a call into the C library on processors of the common target; ten of them are a twentieth of a row.
#[inline]
fn nearest(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
    let cut = value as i64;
    #[expect(clippy::cast_precision_loss, reason = "it came from one: exact, but at the very ends")]
    let rest = value - cut as f64;
    cut.saturating_add(i64::from(rest >= 0.5)).saturating_sub(i64::from(rest <= -0.5))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_nearest_is_what_rounding_says(value: f64, small in -1e6..1e6_f64, half in -1_000_000..1_000_000_i32) {
            for value in [value, small, f64::from(half) / 2.0, 0.5_f64.next_down(), -(0.5_f64.next_down())] {
                #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
                let rounded = value.round() as i64;
                prop_assert_eq!(nearest(value), rounded, "{}", value);
            }
        }
    }

    #[test]
    fn a_reading_is_rounded_to_the_nearest_and_kept_within_the_range() {
        assert_eq!(tenths(Some(-71.04)), Some(-710));
        assert_eq!((tenths(Some(-1e30)), tenths(Some(f32::MAX))), (Some(i16::MIN), Some(i16::MAX)));
        assert_eq!(wide(Some(52.520_000_4_f64), 1e6), Some(52_520_000));
        assert_eq!(wide(Some(-179.999_999_9_f64), 1e6), Some(-180_000_000));
        assert_eq!(wide(Some(1e30_f32), 10.0), Some(i32::MAX));
        assert_eq!((percent_e2(Some(87.5)), percent_e2(None)), (Some(8_750), None));
    }
}
