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
    fn durations_have_the_unit_that_fits() {
        let cases = [(0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (59_900, "59.9 s"), (185_000, "3 min 5 s")];
        for (ms, text) in cases {
            assert_eq!(lasting(Duration::from_millis(ms)), text);
        }
    }
}
