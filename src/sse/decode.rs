//! Decodes an event stream: a push parser with limited lines.
//!
//! It gets chunks as they arrive from the network, and calls back for each complete item. A blank line that ends in CR
//! dispatches the event at once, without waiting for a possible LF. Comments and retry hints are items too, because a
//! relay counts them as signs of life. An event without a blank line at the end of the stream is dropped with the
//! decoder, as the standard demands.

use std::borrow::Cow;

/// An item of an event stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A dispatched event.
    Event {
        /// Name of the event; `message` if the stream has none.
        event: &'a str,
        /// Payload of the event; lines are joined by LF.
        data: &'a str,
        /// The current last event id. Ids are sticky: several events may have one id.
        id: &'a str,
        /// True if the block of this event had an `id` field.
        own_id: bool,
    },
    /// The last event id of a block without data, which dispatches no event.
    Id(&'a str),
    /// A comment line, without the colon and one leading space.
    Comment(&'a str),
    /// The reconnection time that the server requests, in milliseconds; `u64::MAX` for a longer time.
    Retry(u64),
}

/// Limits of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum length of a line in bytes, without its end.
    pub line: usize,
    /// Maximum number of bytes of `data` in one event.
    pub event: usize,
}

/// Why a stream cannot be decoded further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line is longer than [`Limits::line`].
    #[error("a line of the event stream has more than {0} bytes")]
    LineTooLong(usize),
    /// The data of one event are longer than [`Limits::event`].
    #[error("an event of the stream has more than {0} bytes of data")]
    EventTooLarge(usize),
}

/// The decoder of one event stream.
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
    /// The received part of an incomplete line.
    line: Vec<u8>,
    data: String,
    has_data: bool,
    event: String,
    /// The `id` field of the current block. It becomes the last event id at the blank line.
    id_buffer: String,
    own_id: bool,
    last_id: String,
    /// Only the first line may begin with a byte order mark.
    at_start: bool,
    /// The last byte was CR, so that an LF now belongs to it.
    after_cr: bool,
}

/// Maximum capacity that a buffer keeps after a large event.
const KEEP_CAPACITY: usize = 64 * 1024;

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { line: 1 << 20, event: 1 << 20 }
    }
}

// === impl Decoder ===

impl Decoder {
    /// A decoder for the start of a stream.
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

    /// The current last event id, which a reconnect sends.
    pub fn last_event_id(&self) -> &str {
        &self.last_id
    }

    /// Decodes the next bytes, and calls `each` for each complete item.
    ///
    /// # Errors
    /// If a limit is exceeded. The decoder must not be used after that.
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
                // A number that overflows `u64` is a very long time. It is not ignored.
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

/// Decodes UTF-8 as the standard demands: invalid sequences become U+FFFD.
fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests;
