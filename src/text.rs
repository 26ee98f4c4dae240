//! Shortens and cleans external texts for messages and events; pure.

/// Shortens a text to about `max` bytes, at the end of a character, and marks the cut with `…`.
pub(crate) fn shorten(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
    text
}

/// The first `max` characters of a text, with `…` if there were more.
pub(crate) fn excerpt(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The words of a text on one line: white space and control characters become single spaces.
pub(crate) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_cut_between_characters() {
        assert_eq!(excerpt("äöü", 3), "äöü");
        assert_eq!(excerpt("äöü", 2), "äö…");
    }

    #[test]
    fn a_text_is_shortened_between_characters() {
        assert_eq!(shorten("äöü".into(), 6), "äöü");
        assert_eq!(shorten("äöü".into(), 5), "äö…");
        assert_eq!(shorten("äöü".into(), 1), "…");
    }

    #[test]
    fn lines_are_joined_and_control_characters_are_left_out() {
        assert_eq!(one_line("<html>\n  no\0"), "<html> no");
        assert_eq!(one_line(" \t\n"), "");
    }
}
