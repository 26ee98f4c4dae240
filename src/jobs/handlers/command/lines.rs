//! Reads a program's output: bounded lines of stdout, and the end of stderr.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Maximum bytes of a line of output.
pub(super) const LINE_MAX: usize = 1 << 20;

/// The lines of a stream.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    max: usize,
    /// Longer lines are announced by [`Line::Long`].
    free: usize,
    number: u64,
    given: bool,
    ended: bool,
}

/// One line, with its number from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its bytes without the line end.
    Whole(u64, &'a [u8]),
    /// It has more bytes than lines without announcement; the next call returns it.
    Long,
    /// It has more than the maximum number of bytes; no line follows.
    TooLong(u64, usize),
}

/// The last bytes of a stream.
#[derive(Debug)]
pub(super) struct Tail<R> {
    reader: R,
    bytes: Vec<u8>,
    max: usize,
    cut: bool,
}

// === impl Lines ===

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `max` bytes. [`Line::Long`] comes before the first line of more than `free` bytes.
    pub(super) fn new(reader: R, max: usize, free: usize) -> Self {
        Self {
            reader: BufReader::new(reader),
            line: Vec::new(),
            max,
            free: free.min(max),
            number: 0,
            given: false,
            ended: false,
        }
    }

    /// The next line; `None` at the end, also after a failure of the pipe. It may be cancelled and called again: no
    /// byte is lost.
    pub(super) async fn next(&mut self) -> Option<Line<'_>> {
        if std::mem::take(&mut self.given) {
            self.line.clear();
        }
        while !self.ended {
            let available = self.reader.fill_buf().await.unwrap_or_default();
            let end = memchr::memchr(b'\n', available);
            let part = end.unwrap_or(available.len());
            self.ended = available.is_empty();
            if self.line.len() + part > self.max {
                self.ended = true;
                return Some(Line::TooLong(self.number + 1, self.max));
            }
            if self.line.len() + part > self.free {
                // Announced once: from now on lines may have the maximum length.
                self.free = self.max;
                return Some(Line::Long);
            }
            self.line.extend_from_slice(&available[..part]);
            self.reader.consume(part + usize::from(end.is_some()));
            // A last line without an end is a line.
            if end.is_some() || (self.ended && !self.line.is_empty()) {
                self.number += 1;
                self.given = true;
                return Some(Line::Whole(self.number, self.line.strip_suffix(b"\r").unwrap_or(&self.line)));
            }
        }
        None
    }
}

// === impl Tail ===

impl<R: AsyncRead + Unpin> Tail<R> {
    /// The last `max` bytes.
    pub(super) fn new(reader: R, max: usize) -> Self {
        Self { reader, bytes: Vec::new(), max, cut: false }
    }

    /// Reads the available bytes; false at the end. May be cancelled and called again.
    pub(super) async fn read(&mut self) -> bool {
        let more = matches!(self.reader.read_buf(&mut self.bytes).await, Ok(1..));
        // It grows to twice the size before it is trimmed, so each byte is moved at most once.
        if self.bytes.len() > self.max * 2 {
            self.trim();
        }
        more
    }

    /// The last bytes as text.
    pub(super) fn text(&mut self) -> String {
        self.trim();
        let text = String::from_utf8_lossy(&self.bytes);
        // The cut may have split a character.
        let text = if self.cut { text.trim_start_matches(char::REPLACEMENT_CHARACTER) } else { &text };
        let text = text.trim();
        if self.cut { format!("…{text}") } else { text.to_owned() }
    }

    fn trim(&mut self) {
        if let Some(surplus) = self.bytes.len().checked_sub(self.max).filter(|surplus| *surplus > 0) {
            self.bytes.drain(..surplus);
            self.cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], max: usize) -> Vec<String> {
        // A tiny buffer cuts lines into pieces, as pipes do.
        let mut lines = Lines::new(text, max, max);
        lines.reader = BufReader::with_capacity(3, text);
        let mut seen = Vec::new();
        while let Some(line) = lines.next().await {
            seen.push(match line {
                Line::Long => "long".to_owned(),
                Line::Whole(number, bytes) => format!("{number} {}", String::from_utf8_lossy(bytes)),
                Line::TooLong(number, max) => format!("{number} has more than {max}"),
            });
        }
        seen
    }

    #[tokio::test]
    async fn lines_with_any_end_are_complete() {
        assert_eq!(lines(b"one\r\n\nthree and more\nlast", 100).await, ["1 one", "2 ", "3 three and more", "4 last"]);
        assert_eq!(lines(b"one\n", 100).await, ["1 one"]);
        assert!(lines(b"", 100).await.is_empty());
    }

    #[tokio::test]
    async fn a_line_may_be_as_long_as_the_bound_and_no_longer() {
        assert_eq!(lines(b"12345\n12345", 5).await, ["1 12345", "2 12345"]);
        assert_eq!(lines(b"1\n123456\n1\n", 5).await, ["1 1", "2 has more than 5"]);
    }

    #[tokio::test]
    async fn the_first_long_line_is_announced() {
        let mut lines = Lines::new(&b"12\n12345\n123456"[..], 10, 3);
        lines.reader = BufReader::with_capacity(2, &b"12\n12345\n123456"[..]);
        assert_eq!(lines.next().await, Some(Line::Whole(1, b"12")));
        assert_eq!(lines.next().await, Some(Line::Long));
        assert_eq!(lines.next().await, Some(Line::Whole(2, b"12345")));
        assert_eq!(lines.next().await, Some(Line::Whole(3, b"123456")));
    }

    #[tokio::test]
    async fn the_tail_of_a_long_stream_is_its_end() {
        let text = "ö".repeat(5000) + " at last\n";
        let mut tail = Tail::new(text.as_bytes(), 20);
        while tail.read().await {}
        assert!(tail.bytes.len() <= 40);
        assert_eq!(tail.text(), format!("…{} at last", "ö".repeat(5)));
    }
}
