//! From fields to bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// The fields of one frame, about to be written.
///
/// ```
/// use millstream::sse::Frame;
/// let frame = Frame { id: Some("7"), event: "greeting", data: Some("a\nb"), ..Frame::default() };
/// assert_eq!(frame.encode(), "id: 7\nevent: greeting\ndata: a\ndata: b\n\n");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame<'a> {
    /// The last event id that a client sends back when it reconnects. Must be free of CR, LF and NUL.
    pub id: Option<&'a str>,
    /// The event's name; empty or `message` is left out, since it is the default. Must be free of CR and LF.
    pub event: &'a str,
    /// The payload; each line break begins a new `data:` line.
    pub data: Option<&'a str>,
    /// Reconnection time in milliseconds.
    pub retry: Option<u64>,
    /// Text that clients ignore.
    pub comment: Option<&'a str>,
}

// === impl Frame ===

impl Frame<'_> {
    /// The bytes of the frame, with the blank line that dispatches it.
    ///
    /// Whoever builds a frame has checked `id` and `event` ([`crate::event::Draft::check`]); should a line break
    /// have come this far, the text is cut there: it can never begin a field of its own.
    pub fn encode(&self) -> Bytes {
        let lines = self.data.map_or(0, |data| memchr::memchr2_iter(b'\n', b'\r', data.as_bytes()).count() + 1);
        let text =
            [self.id, Some(self.event), self.data, self.comment].into_iter().flatten().map(str::len).sum::<usize>();
        let mut out = BytesMut::with_capacity(text + lines * 7 + 48);
        if let Some(comment) = self.comment {
            for line in split_lines(comment) {
                field(&mut out, b": ", line);
            }
        }
        if let Some(id) = self.id {
            field(&mut out, b"id: ", first_line(id));
        }
        if !self.event.is_empty() && self.event != "message" {
            field(&mut out, b"event: ", first_line(self.event));
        }
        if let Some(retry) = self.retry {
            field(&mut out, b"retry: ", retry.to_string().as_bytes());
        }
        if let Some(data) = self.data {
            for line in split_lines(data) {
                field(&mut out, b"data: ", line);
            }
        }
        out.put_u8(b'\n');
        out.freeze()
    }
}

/// A frame that is nothing but a comment: a sign of life that no client sees.
pub fn comment(text: &str) -> Bytes {
    Frame { comment: Some(text), ..Frame::default() }.encode()
}

fn field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.put_slice(name);
    out.put_slice(value);
    out.put_u8(b'\n');
}

fn first_line(text: &str) -> &[u8] {
    let bytes = text.as_bytes();
    &bytes[..memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len())]
}

/// Lines as a client of the format counts them: CRLF, LF and CR each end one.
fn split_lines(text: &str) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text.as_bytes());
    std::iter::from_fn(move || {
        let bytes = rest?;
        let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else { return rest.take() };
        let next = if bytes[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        rest = Some(&bytes[next..]);
        Some(&bytes[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_break_begins_a_data_line() {
        let frame = Frame { data: Some("a\r\nb\rc\n\nd\n"), ..Frame::default() };
        assert_eq!(frame.encode(), "data: a\ndata: b\ndata: c\ndata: \ndata: d\ndata: \n\n");
    }

    #[test]
    fn all_fields_have_their_line() {
        let frame = Frame { id: Some("1-2"), event: "x", data: Some(""), retry: Some(5), comment: Some("c\nd") };
        assert_eq!(frame.encode(), ": c\n: d\nid: 1-2\nevent: x\nretry: 5\ndata: \n\n");
        assert_eq!(Frame { event: "message", data: Some("m"), ..Frame::default() }.encode(), "data: m\n\n");
        assert_eq!(comment("ping"), ": ping\n\n");
    }

    #[test]
    fn nothing_smuggles_a_field() {
        let frame = Frame { id: Some("1\ndata: x"), event: "a\r\nretry: 1", data: Some("d"), ..Frame::default() };
        assert_eq!(frame.encode(), "id: 1\nevent: a\ndata: d\n\n");
    }
}
