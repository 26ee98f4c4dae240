//! Reads a program's output: stdout by bounded lines, of stderr the end.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Maximum bytes of a line of output.
pub const LINE_MAX: usize = 1 << 20;

/// Lines as they come.
#[derive(Debug)]
pub struct Lines<R> {
    reader: BufReader<R>,
    line: Vec<u8>,
    max: usize,
    /// Lines up to this length come without notice.
    free: usize,
    number: u64,
    given: bool,
    ended: bool,
}

/// One line, with its number from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Its bytes without the line end.
    Whole(u64, &'a [u8]),
    /// It has more bytes than are read without notice; it follows when the next line is asked for.
    Long,
    /// It has more than the permitted bytes; there is no next line.
    TooLong(u64, usize),
}

/// The last bytes of a stream.
#[derive(Debug)]
pub struct Tail<R> {
    reader: R,
    kept: Vec<u8>,
    max: usize,
    cut: bool,
}

// === impl Lines ===

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Lines of at most `max` bytes; before the first with more than `free` comes [`Line::Long`].
    pub fn new(reader: R, max: usize, free: usize) -> Self {
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

    /// The next line; `None` at the end, which a failing pipe is too. May be cancelled and called again: no byte is
    /// lost.
    pub async fn next(&mut self) -> Option<Line<'_>> {
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
                // Once: from now on lines may be as long as they are permitted.
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
    pub fn new(reader: R, max: usize) -> Self {
        Self { reader, kept: Vec::new(), max, cut: false }
    }

    /// Takes what has come; false at the end. May be cancelled and called again.
    pub async fn read(&mut self) -> bool {
        let more = matches!(self.reader.read_buf(&mut self.kept).await, Ok(1..));
        // Letting it grow to twice the size moves each byte once at most.
        if self.kept.len() > self.max * 2 {
            self.trim();
        }
        more
    }

    /// What is kept, as text.
    pub fn text(&mut self) -> String {
        self.trim();
        let text = String::from_utf8_lossy(&self.kept);
        // The cut may have gone through a character.
        let text = if self.cut { text.trim_start_matches(char::REPLACEMENT_CHARACTER) } else { &text };
        let text = text.trim();
        if self.cut { format!("…{text}") } else { text.to_owned() }
    }

    fn trim(&mut self) {
        if let Some(surplus) = self.kept.len().checked_sub(self.max).filter(|surplus| *surplus > 0) {
            self.kept.drain(..surplus);
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
    async fn lines_come_whole_whatever_their_ends() {
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
    async fn of_a_long_stream_the_end_is_kept() {
        let text = "ö".repeat(5000) + " at last\n";
        let mut tail = Tail::new(text.as_bytes(), 20);
        while tail.read().await {}
        assert!(tail.kept.len() <= 40);
        assert_eq!(tail.text(), format!("…{} at last", "ö".repeat(5)));
    }
}
