//! Text for people: text from outside must not control the terminal or break a line.

use std::{
    borrow::Cow,
    io::{self, Write},
    time::Duration,
};

use super::Failure;

/// Exit code after the reader of stdout has gone: 128 + SIGPIPE, as in shells.
const EXIT_PIPE: u8 = 141;

/// Writes a line to stdout and flushes it.
///
/// # Errors
/// If stdout cannot be written. If its reader has gone (`… | head`), the error has no message.
pub(super) fn print_line(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure { message: String::new(), code: EXIT_PIPE },
        _ => Failure::new(format!("cannot write to stdout: {error}")),
    })
}

/// The text on one line. Control characters are written as escapes.
pub(super) fn escape_controls(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_control() { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    Cow::Owned(clean)
}

/// The text on one line, with at most `max` characters. If it was cut, the last one is `…`.
pub(super) fn shorten(text: &str, max: usize) -> String {
    let clean = escape_controls(text);
    match clean.char_indices().nth(max) {
        None => clean.into_owned(),
        Some(_) => clean.chars().take(max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A duration for people: `120 ms`, `1.2 s`, `3 min 5 s`.
pub(super) fn duration_text(time: Duration) -> String {
    let seconds = time.as_secs();
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{:.1} s", time.as_secs_f64()),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// A time in UTC, as in RFC 3339: `2026-11-29T16:35:46.123Z`.
pub(super) fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days are counted in eras of 400 years. An era begins on the 1st of March, so the leap day is the last day of a
    // year.
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
    fn text_from_outside_does_not_control_the_terminal() {
        assert_eq!(escape_controls("a\u{1b}[31mb\nc\td"), "a\\u{1b}[31mb\\nc\\td");
        assert!(matches!(escape_controls("größe ✓"), Cow::Borrowed("größe ✓")));
    }

    #[test]
    fn shortened_text_ends_with_an_ellipsis() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("ähnliche", 4), "ähn…");
    }

    #[test]
    fn times_are_calendar_times() {
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
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }
}
