//! Parses HTTP dates in the three formats that a recipient must accept (RFC 9110, section 5.6.7):
//!
//! ```text
//! Sun, 06 Nov 1994 08:49:37 GMT     the current format
//! Sunday, 06-Nov-94 08:49:37 GMT    RFC 850
//! Sun Nov  6 08:49:37 1994          the C function asctime
//! ```
//!
//! Common parsers use a fixed century for two-digit years; the RFC requires a year relative to the current date.

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A two-digit year means the latest matching year that is at most this many years ahead.
const AHEAD: u64 = 50;

/// Reads a date; the name of the day is not compared with it.
pub(super) fn parse(text: &str, now: SystemTime) -> Option<SystemTime> {
    let words: Vec<&str> = text.splitn(7, ' ').collect();
    let (day, month, year, clock) = match *words {
        [name, day, month, year, clock, "GMT"] if name.ends_with(',') => {
            (number(day, 2)?, month, number(year, 4)?, clock)
        }
        [name, date, clock, "GMT"] if name.ends_with(',') => {
            let [day, month, year] = parts(date, '-')?;
            (number(day, 2)?, month, whole_year(number(year, 2)?, now), clock)
        }
        // A day of one digit follows two spaces.
        [_, month, "", day, clock, year] => (number(day, 1)?, month, number(year, 4)?, clock),
        [_, month, day, clock, year] => (number(day, 2)?, month, number(year, 4)?, clock),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)?;
    let [hour, minute, second] = parts(clock, ':')?;
    let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
    // A leap second is valid.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if year < 1970 || day == 0 || day > days_in(month, year) {
        return None;
    }
    let days = days_before_year(year) - days_before_year(1970) + (0..month).map(|m| days_in(m, year)).sum::<u64>();
    let seconds = ((days + day - 1) * 24 + hour) * 3600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The year of two digits: the latest matching year that is at most 50 years ahead.
fn whole_year(two_digits: u64, now: SystemTime) -> u64 {
    let latest = year_of(now) + AHEAD;
    let year = latest - latest % 100 + two_digits;
    if year > latest { year - 100 } else { year }
}

fn year_of(time: SystemTime) -> u64 {
    let days = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    // The estimate is never too late, and at most a few years too early.
    let mut year = 1970 + days / 366;
    while days_before_year(year + 1) - days_before_year(1970) <= days {
        year += 1;
    }
    year
}

/// The three parts of a date or of a time.
fn parts(text: &str, separator: char) -> Option<[&str; 3]> {
    text.splitn(4, separator).collect::<Vec<_>>().try_into().ok()
}

fn number(text: &str, digits: usize) -> Option<u64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days of a month, which is counted from 0.
fn days_in(month: usize, year: u64) -> u64 {
    match month {
        1 if leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

fn days_before_year(year: u64) -> u64 {
    let past = year - 1;
    past * 365 + past / 4 - past / 100 + past / 400
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// The end of November 2026.
    fn now() -> SystemTime {
        at(1_795_953_600)
    }

    #[test]
    fn known_dates_are_read() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
            ("Friday, 01-Mar-24 00:00:00 GMT", 1_709_251_200),
            ("Sun Nov  6 08:49:37 1994", 784_111_777),
            ("Tue Feb 29 12:00:00 2000", 951_825_600),
        ] {
            assert_eq!(parse(text, now()), Some(at(seconds)), "{text}");
        }
    }

    /// RFC 9110, section 5.6.7: a date that appears to be more than 50 years in the future is in the past.
    #[test]
    fn a_year_of_two_digits_is_read_by_the_clock() {
        for (digits, year) in
            [(26, 2026), (27, 2027), (70, 2070), (75, 2075), (76, 2076), (77, 1977), (99, 1999), (0, 2000)]
        {
            assert_eq!(whole_year(digits, now()), year);
        }
        let in_2080 = at(3_471_292_800);
        for (digits, year) in [(94, 2094), (29, 2129), (30, 2130), (31, 2031)] {
            assert_eq!(whole_year(digits, in_2080), year);
        }
    }

    #[test]
    fn the_year_of_a_moment_is_found() {
        for (seconds, year) in [
            (0, 1970),
            (31_535_999, 1970),
            (31_536_000, 1971),
            (951_825_600, 2000),
            (978_307_199, 2000),
            (978_307_200, 2001),
            (253_402_300_799, 9999),
        ] {
            assert_eq!(year_of(at(seconds)), year, "{seconds}");
        }
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 32 Jan 1994 08:49:37 GMT",
            "Sun, 29 Feb 2100 08:49:37 GMT",
            "Sun, 06 Nov 0000 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT ",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37",
            "Sunday, 6-Nov-94 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994",
            "Sun Nov  6 08:49:37 94",
            "Sun Nov  6 08:49:37 1994 GMT",
            "Sun Nov  0 08:49:37 1994",
            "Sun Nov é 08:49:37 1994",
            "Sun Nov",
            "",
        ] {
            assert_eq!(parse(text, now()), None, "{text:?}");
        }
    }
}
