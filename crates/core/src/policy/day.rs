//! Days, by which waivers end.

use std::fmt;

use jiff::ToSpan as _;
use jiff::civil::Date;

/// A day of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day(Date);

impl Day {
    /// Before every day that can be written in a policy.
    pub const MIN: Self = Self(Date::MIN);

    /// Read `YYYY-MM-DD`, and nothing else. The day must exist.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |digits: &str| -> Option<i16> {
            let all = digits.bytes().all(|b| b.is_ascii_digit());
            all.then(|| digits.parse().ok()).flatten()
        };
        let (year, rest) = text.split_at_checked(4)?;
        let (month, day) = rest.strip_prefix('-')?.split_at_checked(2)?;
        let day = day.strip_prefix('-').filter(|day| day.len() == 2)?;
        let small = |digits| number(digits).and_then(|n| i8::try_from(n).ok());
        Date::new(number(year)?, small(month)?, small(day)?)
            .ok()
            .map(Self)
    }

    /// The day on which a time lies that is given in seconds since 1970 began.
    pub fn of_unix(seconds: i64) -> Self {
        let days = seconds.div_euclid(24 * 60 * 60);
        let epoch = jiff::civil::date(1970, 1, 1);
        let span = jiff::Span::new().try_days(days);
        match span.and_then(|span| epoch.checked_add(span)) {
            Ok(date) => Self(date),
            Err(_) if days < 0 => Self(Date::MIN),
            Err(_) => Self(Date::MAX),
        }
    }

    /// That many days later.
    pub fn plus(self, days: u16) -> Self {
        Self(self.0.saturating_add(i64::from(days).days()))
    }

    /// How many days after `other` it is; 0 if it is not.
    pub fn days_after(self, other: Self) -> u32 {
        let days = self.0.since(other.0).map_or(0, |span| span.get_days());
        u32::try_from(days).unwrap_or(0)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_real_days_are_read() {
        for good in ["2026-12-31", "2028-02-29", "0001-01-01", "9999-12-31"] {
            assert_eq!(
                Day::parse(good).map(|day| day.to_string()).as_deref(),
                Some(good)
            );
        }
        for bad in [
            "",
            "2026",
            "2026-12",
            "2026-2-1",
            "2026-02-30",
            "2027-02-29",
            "2026-13-01",
            "2026-00-10",
            "2026-12-31 ",
            " 2026-12-31",
            "2026-12-31T00:00:00Z",
            "26-12-31",
            "31.12.2026",
            "+026-12-31",
            "-026-12-31",
            "2026-+1-31",
            "2026/12/31",
            "20261231",
            "2026-12-ä",
            "ää-12-31",
        ] {
            assert_eq!(Day::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_day_ends_at_midnight_in_utc() {
        assert_eq!(Day::of_unix(0).to_string(), "1970-01-01");
        assert_eq!(Day::of_unix(-1).to_string(), "1969-12-31");
        // date -u -d @1798761599
        assert_eq!(Day::of_unix(1_798_761_599).to_string(), "2026-12-31");
        assert_eq!(Day::of_unix(1_798_761_600).to_string(), "2027-01-01");
        assert!(Day::of_unix(i64::MIN) < Day::of_unix(i64::MAX));
    }

    #[test]
    fn days_are_counted() {
        let day = |text| Day::parse(text).unwrap();
        assert_eq!(day("2026-12-25").plus(14), day("2027-01-08"));
        assert_eq!(day("2027-01-08").days_after(day("2026-12-25")), 14);
        assert_eq!(day("2026-12-25").days_after(day("2027-01-08")), 0);
    }
}
