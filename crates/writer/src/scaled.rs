//! Readings as whole numbers of a small unit, as the columns of heartbeats hold them.
//!
//! Rounded to the nearest; what is beyond the range is its end. No reading is not a number (decoding sees to that); one of another
//! writer's that is stands for zero.

/// Tenths, within 16 bits: signal strengths.
pub(crate) fn tenths(value: Option<f32>) -> Option<i16> {
    value.map(|value| {
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        let tenths = (f64::from(value) * 10.0).round() as i16;
        tenths
    })
}

/// So many of a unit, within 32 bits.
pub(crate) fn wide(value: Option<impl Into<f64>>, units: f64) -> Option<i32> {
    value.map(|value| {
        #[expect(clippy::cast_possible_truncation, reason = "it saturates")]
        let count = (value.into() * units).round() as i32;
        count
    })
}

/// Hundredths of a percent.
pub(crate) fn percent_e2(value: Option<f32>) -> Option<u16> {
    value.map(|value| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let hundredths = (f64::from(value) * 100.0).round() as u16;
        hundredths
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
