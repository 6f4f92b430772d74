//! A moment in words, in UTC: the standard library knows no calendar, and no time zone is worth a dependency.

use std::time::{SystemTime, UNIX_EPOCH};

/// A moment taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timestamp {
    /// Seconds since 1970.
    pub(super) seconds: u64,
    pub(super) nanoseconds: u32,
    year: u64,
    month: u64,
    day: u64,
}

impl Timestamp {
    /// Takes `time` apart; what was before 1970 is 1970.
    pub(super) fn new(time: SystemTime) -> Timestamp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (year, month, day) = civil(since.as_secs() / 86_400);
        Timestamp { seconds: since.as_secs(), nanoseconds: since.subsec_nanos(), year, month, day }
    }

    /// `2026-11-21T04:30:19`
    fn date_time(&self) -> String {
        format!("{}T{}", self.date(), self.time())
    }

    fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    fn time(&self) -> String {
        let second = self.seconds % 86_400;
        format!("{:02}:{:02}:{:02}", second / 3_600, second / 60 % 60, second % 60)
    }

    /// `2026-11-21T04:30:19+0000`
    pub(super) fn iso(&self) -> String {
        format!("{}+0000", self.date_time())
    }

    /// `2026-11-21T04:30:19.079503+0000`
    pub(super) fn iso_micros(&self) -> String {
        format!("{}.{:06}+0000", self.date_time(), self.nanoseconds / 1_000)
    }

    /// The conversions of strftime(3) that are offered, and `N`, the nanoseconds.
    pub(super) fn strftime(&self, conversion: char) -> Option<String> {
        Some(match conversion {
            'Y' => format!("{:04}", self.year),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'H' => format!("{:02}", self.seconds / 3_600 % 24),
            'M' => format!("{:02}", self.seconds / 60 % 60),
            'S' => format!("{:02}", self.seconds % 60),
            'N' => format!("{:09}", self.nanoseconds),
            'F' => self.date(),
            'T' => self.time(),
            's' => self.seconds.to_string(),
            _ => return None,
        })
    }
}

/// Year, month and day of a day since 1970-01-01, in years that begin in March: so the leap day is the last,
/// and the months' lengths follow a straight line.
fn civil(days: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01; 400 years are 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next_year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (11_322, (2000, 12, 31)),
            (20_778, (2026, 11, 21)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(civil(days), date);
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = civil(0);
        for days in 1..200_000 {
            let (year, month, day) = civil(days);
            let follows = (year, month, day) == (before.0, before.1, before.2 + 1)
                || (day == 1 && (year, month) == (before.0, before.1 + 1))
                || (day == 1 && month == 1 && year == before.0 + 1 && before.1 == 12);
            assert!(follows, "{before:?} {:?}", (year, month, day));
            before = (year, month, day);
        }
    }

    #[test]
    fn a_moment_is_written_in_each_form() {
        let moment = Timestamp::new(UNIX_EPOCH + Duration::new(1_795_235_419, 79_503_001));
        assert_eq!(moment.iso(), "2026-11-21T04:30:19+0000");
        assert_eq!(moment.iso_micros(), "2026-11-21T04:30:19.079503+0000");
        assert_eq!(moment.strftime('T').unwrap(), "04:30:19");
        assert_eq!(moment.strftime('N').unwrap(), "079503001");
        assert_eq!(moment.strftime('q'), None);
    }
}
