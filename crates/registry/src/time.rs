//! Days, months, times and time zones.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::fault::Fault;
use crate::value::{Shape, Value, text};

/// A `Date` of ClickHouse ends in the middle of 2149.
const YEARS: std::ops::RangeInclusive<i16> = 1970..=2148;
/// A `DateTime64` of our views ends there.
const TIME_MAX_MS: i64 = 7_258_118_400_000;
/// Zones are looked at from here to there: what a zone did before nobody bills, and what it will do later nobody knows.
const ZONE_FROM: Timestamp = Timestamp::constant(1_577_836_800, 0);
const ZONE_TO: Timestamp = Timestamp::constant(2_208_988_800, 0);

/// A day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(Date);

impl Value for Day {
    const SHAPE: Shape = Shape::Day;

    fn read(cell: &str) -> Result<Self, Fault> {
        if cell.is_empty() {
            return Err(Fault::Missing);
        }
        // The ten characters alone: jiff knows more forms, among them those with a time that would be cut off.
        let date = cell.parse::<Date>().ok().filter(|date| cell.len() == 10 && YEARS.contains(&date.year()));
        date.map(Self).ok_or(Fault::Day)
    }

    fn cell(&self) -> String {
        self.0.to_string()
    }
}

/// A month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(Date);

impl Value for Month {
    const SHAPE: Shape = Shape::Month;

    fn read(cell: &str) -> Result<Self, Fault> {
        if cell.is_empty() {
            return Err(Fault::Missing);
        }
        let first = Day::read(&format!("{cell}-01")).map_err(|_| Fault::Month)?;
        Ok(Self(first.0))
    }

    fn cell(&self) -> String {
        let mut text = self.0.to_string();
        text.truncate(7);
        text
    }
}

/// A time, to the millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    ms: i64,
}

impl Time {
    /// The beginning of 1970: since ever.
    pub const EVER: Self = Self { ms: 0 };

    /// From milliseconds since 1970.
    pub fn from_ms(ms: i64) -> Self {
        Self { ms: ms.clamp(0, TIME_MAX_MS) }
    }

    /// Milliseconds since 1970.
    pub fn ms(self) -> i64 {
        self.ms
    }
}

impl Value for Time {
    const SHAPE: Shape = Shape::Time;

    fn read(cell: &str) -> Result<Self, Fault> {
        if cell.is_empty() {
            return Err(Fault::Missing);
        }
        let ms = cell.parse::<Timestamp>().map_err(|_| Fault::Time)?.as_millisecond();
        if (0..=TIME_MAX_MS).contains(&ms) { Ok(Self { ms }) } else { Err(Fault::Time) }
    }

    fn cell(&self) -> String {
        Timestamp::from_millisecond(self.ms).map_or_else(|_| self.ms.to_string(), |at| at.to_string())
    }
}

/// Whole hours from UTC, summer and winter: usage is kept by hours of UTC, and a day of this zone has to begin with one.
fn zone(cell: &str) -> Result<(), Fault> {
    let zone = TimeZone::get(cell).map_err(|_| Fault::Zone)?;
    let whole = |offset: jiff::tz::Offset| offset.seconds() % 3_600 == 0;
    let changes = zone.following(ZONE_FROM).take_while(|change| change.timestamp() < ZONE_TO);
    let always = whole(zone.to_offset(ZONE_FROM)) && changes.into_iter().all(|change| whole(change.offset()));
    if always { Ok(()) } else { Err(Fault::ZonePartHour) }
}

text!(
    /// A time zone by its name.
    Zone, "time zone, whole hours from UTC, `Europe/Berlin`", |cell| zone(cell)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_has_whole_hours_in_summer_and_winter() {
        for fine in ["UTC", "Europe/Berlin", "America/Los_Angeles", "Etc/GMT-2", "Africa/Cairo"] {
            assert_eq!(zone(fine), Ok(()), "{fine}");
        }
        for part in ["Asia/Kolkata", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns"] {
            assert_eq!(zone(part), Err(Fault::ZonePartHour), "{part}");
        }
        for none in ["Berlin", "+02:00", "Europe/Entenhausen"] {
            assert_eq!(zone(none), Err(Fault::Zone), "{none}");
        }
    }

    #[test]
    fn times_are_whole_and_in_one_form() {
        assert_eq!(Time::read("2026-01-31T13:00:00+01:00").expect("a time").cell(), "2026-01-31T12:00:00Z");
        assert_eq!(
            Time::read("2026-01-31T12:00:00.120456Z").expect("a time").cell(),
            "2026-01-31T12:00:00.12Z"
        );
        assert_eq!(Time::read("2026-01-31"), Err(Fault::Time));
        assert_eq!(Day::read("2026-02-30"), Err(Fault::Day));
        assert_eq!(Day::read("2026-02-28T10:00"), Err(Fault::Day));
        assert_eq!(Month::read("2026-02").expect("a month").cell(), "2026-02");
        assert_eq!(Month::read("2026-13"), Err(Fault::Month));
    }

    proptest::proptest! {
        #[test]
        fn a_time_is_read_as_it_was_written(ms in 0..=TIME_MAX_MS) {
            let time = Time { ms };
            proptest::prop_assert_eq!(Time::read(&time.cell()), Ok(time));
        }
    }
}
