//! Text for people: nothing that came from outside may steer the terminal, and a line stays a line.

use std::{
    borrow::Cow,
    io::{self, Write},
    time::Duration,
};

use super::Failure;

/// Exit code of a program whose reader went away: 128 + SIGPIPE, as shells have it.
const EXIT_PIPE: u8 = 141;

/// Writes a line to stdout at once, so that whoever reads along sees it.
///
/// # Errors
/// When stdout takes nothing; a reader that went away (`… | head`) is an end without a word.
pub(super) fn say(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure { message: String::new(), code: EXIT_PIPE },
        _ => Failure::new(format!("cannot write to stdout: {error}")),
    })
}

/// One line without control characters, which are written as escapes.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    Cow::Owned(clean)
}

/// [`plain`], and at most `most` characters, the last one `…` where something was left out.
pub(super) fn short(text: &str, most: usize) -> String {
    let clean = plain(text);
    match clean.char_indices().nth(most) {
        None => clean.into_owned(),
        Some(_) => clean.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A duration as people say it: `120 ms`, `1.2 s`, `3 min 5 s`.
pub(super) fn lasting(time: Duration) -> String {
    let seconds = time.as_secs();
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// A time in UTC, after RFC 3339: `2026-11-29T16:35:46.123Z`.
pub(super) fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days are counted in eras of 400 years, each of which begins on the 1st of March: the leap day is the last of a year.
    let (era, day) = ((days + 719_468) / 146_097, (days + 719_468) % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + next;
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_steers_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\nc\td"), "a\\u{1b}[31mb\\nc\\td");
        assert!(matches!(plain("größe ✓"), Cow::Borrowed("größe ✓")));
    }

    #[test]
    fn long_text_says_that_it_was_cut() {
        assert_eq!(short("abcdef", 6), "abcdef");
        assert_eq!(short("ähnliche", 4), "ähn…");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(utc(ms), text);
        }
    }

    #[test]
    fn durations_have_the_unit_that_fits() {
        let cases = [(0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (59_900, "59.9 s"), (185_000, "3 min 5 s")];
        for (ms, text) in cases {
            assert_eq!(lasting(Duration::from_millis(ms)), text);
        }
    }
}
