//! From bytes to events: a push parser with bounded lines.
//!
//! It is fed chunks as the network cuts them and calls back for each item as soon as that item is certain: a blank
//! line that ends in CR dispatches at once, without waiting for a possible LF. Comments and retry hints are surfaced,
//! since a relay counts them as signs of life. What was not followed by a blank line when the stream ends is dropped,
//! as the standard demands, simply by dropping the decoder.

use std::borrow::Cow;

/// What came out of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// An event was dispatched.
    Event {
        /// Its name, `message` where the stream gave none.
        event: &'a str,
        /// Its payload, lines joined by LF.
        data: &'a str,
        /// The last event id in force; ids are sticky, several events may share one.
        id: &'a str,
        /// True when this event's own block had an `id` field.
        own_id: bool,
    },
    /// The last event id that a block without data has set; no event is dispatched for it.
    Id(&'a str),
    /// A comment line, without the colon and one leading space.
    Comment(&'a str),
    /// The reconnection time that the server requests, in milliseconds; `u64::MAX` for a longer time.
    Retry(u64),
}

/// Bounds of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest line in bytes, without its end.
    pub line: usize,
    /// Most bytes of `data` in one event.
    pub event: usize,
}

/// Why a stream cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line passed [`Limits::line`].
    #[error("a line of the event stream has more than {0} bytes")]
    LineTooLong(usize),
    /// The data of one event passed [`Limits::event`].
    #[error("an event of the stream has more than {0} bytes of data")]
    EventTooLarge(usize),
}

/// The parser; one per stream.
///
/// ```
/// use millstream::sse::{Decoder, Item, Limits};
/// let mut decoder = Decoder::new(Limits::default());
/// let mut seen = Vec::new();
/// for chunk in ["id: 7\nda", "ta: hello\n", "\n"] {
///     decoder.push(chunk.as_bytes(), |item| if let Item::Event { data, id, .. } = item {
///         seen.push((data.to_owned(), id.to_owned()));
///     })?;
/// }
/// assert_eq!(seen, [("hello".to_owned(), "7".to_owned())]);
/// # Ok::<(), millstream::sse::DecodeError>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// The part of a line that has come so far.
    line: Vec<u8>,
    data: String,
    has_data: bool,
    event: String,
    /// The id field of the block that is being read; becomes the last event id at the blank line.
    id_buffer: String,
    own_id: bool,
    last_id: String,
    /// Only the first line may begin with a byte order mark.
    at_start: bool,
    /// The last byte was CR, so an LF now belongs to it.
    after_cr: bool,
}

/// Buffers that grew past this for one large event are given back.
const KEEP_CAPACITY: usize = 64 * 1024;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { line: 1 << 20, event: 1 << 20 }
    }
}

// === impl Decoder ===

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            line: Vec::new(),
            data: String::new(),
            has_data: false,
            event: String::new(),
            id_buffer: String::new(),
            own_id: false,
            last_id: String::new(),
            at_start: true,
            after_cr: false,
        }
    }

    /// The last event id so far: what a reconnect sends.
    pub fn last_event_id(&self) -> &str {
        &self.last_id
    }

    /// Takes the next bytes and calls `each` for whatever they complete.
    ///
    /// # Errors
    /// When a limit is passed; the decoder is of no use after that.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Item<'_>)) -> Result<(), Error> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = memchr::memchr2(b'\r', b'\n', bytes);
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + part.len() > self.limits.line {
                return Err(Error::LineTooLong(self.limits.line));
            }
            let Some(end) = end else {
                self.line.extend_from_slice(part);
                return Ok(());
            };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            if self.line.is_empty() {
                self.take_line(part, &mut each)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(part);
                let taken = self.take_line(&line, &mut each);
                line.clear();
                if line.capacity() <= KEEP_CAPACITY {
                    self.line = line;
                }
                taken?;
            }
        }
        Ok(())
    }

    fn take_line(&mut self, mut line: &[u8], each: &mut impl FnMut(Item<'_>)) -> Result<(), Error> {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(each);
            return Ok(());
        }
        let (name, value) = match memchr::memchr(b':', line) {
            Some(colon) => {
                let value = &line[colon + 1..];
                (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &b""[..]),
        };
        match name {
            b"data" => {
                let text = lossy(value);
                if self.data.len() + text.len() > self.limits.event {
                    return Err(Error::EventTooLarge(self.limits.event));
                }
                self.data.push_str(&text);
                self.data.push('\n');
                self.has_data = true;
            }
            b"event" => {
                self.event.clear();
                self.event.push_str(&lossy(value));
            }
            b"id" if !value.contains(&0) => {
                self.id_buffer.clear();
                self.id_buffer.push_str(&lossy(value));
                self.own_id = true;
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                // A number that overflows `u64` means a very long time; it is not ignored.
                let ms = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX);
                each(Item::Retry(ms));
            }
            b"" => each(Item::Comment(&lossy(value))),
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, each: &mut impl FnMut(Item<'_>)) {
        if self.own_id {
            self.last_id.clone_from(&self.id_buffer);
        }
        if self.has_data {
            self.data.pop();
            each(Item::Event {
                event: if self.event.is_empty() { "message" } else { &self.event },
                data: &self.data,
                id: &self.last_id,
                own_id: self.own_id,
            });
        } else if self.own_id {
            each(Item::Id(&self.last_id));
        }
        self.data.clear();
        if self.data.capacity() > KEEP_CAPACITY {
            self.data = String::new();
        }
        self.has_data = false;
        self.own_id = false;
        self.event.clear();
        if self.event.capacity() > KEEP_CAPACITY {
            self.event = String::new();
        }
    }
}

/// UTF-8 decoding as the standard does it: invalid sequences become U+FFFD.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests;
