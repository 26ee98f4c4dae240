//! Encodes frames of an event stream.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The fields of one frame.
///
/// ```
/// use millstream::sse::Frame;
/// let frame = Frame { id: Some("7"), event: "greeting", data: Some("a\nb"), ..Frame::default() };
/// assert_eq!(frame.encode().frame(), "id: 7\nevent: greeting\ndata: a\ndata: b\n\n");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame<'a> {
    /// The event id, which a client sends when it reconnects. Must not contain CR, LF or NUL.
    pub id: Option<&'a str>,
    /// Name of the event. An empty name and `message` are not written, because `message` is the default. Must not contain
    /// CR or LF.
    pub event: &'a str,
    /// Payload. Each line break begins a new `data:` line.
    pub data: Option<&'a str>,
    /// Reconnection time in milliseconds.
    pub retry: Option<u64>,
    /// A comment, which clients ignore.
    pub comment: Option<&'a str>,
}

/// An encoded frame.
///
/// The bytes are stored as one chunk of an HTTP/1.1 body (RFC 9112, section 7.1), so that all connections send them
/// unchanged. Cheap to clone: the bytes are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    chunk: Bytes,
    /// Length of the chunk head before the frame: size and line break.
    head: u8,
}

/// Maximum length of a chunk head: 16 hexadecimal digits and the line break.
const CHUNK_HEAD: usize = 18;
const CHUNK_END: &[u8] = b"\r\n";

// === impl Encoded ===

impl Encoded {
    /// The last chunk of a body. It shows the reader that the body is complete.
    pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

    /// The bytes of the frame, including the final blank line.
    pub fn frame(&self) -> Bytes {
        self.chunk.slice(usize::from(self.head)..self.chunk.len() - CHUNK_END.len())
    }

    /// The frame as one chunk of an HTTP/1.1 body.
    pub fn into_chunk(self) -> Bytes {
        self.chunk
    }

    /// Length of the frame in bytes.
    pub fn len(&self) -> usize {
        self.chunk.len() - usize::from(self.head) - CHUNK_END.len()
    }

    /// True if the frame has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A frame with exactly these bytes, for tests.
    #[cfg(test)]
    pub(crate) fn of(bytes: &str) -> Self {
        let mut out = BytesMut::zeroed(CHUNK_HEAD);
        out.put_slice(bytes.as_bytes());
        Self::new(out)
    }

    /// Adds head and end of the chunk. `out` has [`CHUNK_HEAD`] bytes of space before the frame.
    fn new(mut out: BytesMut) -> Self {
        // Not by the standard library, whose formatting costs as much as the rest of the encoding.
        let (mut start, mut size) = (CHUNK_HEAD - CHUNK_END.len(), out.len() - CHUNK_HEAD);
        out[start..CHUNK_HEAD].copy_from_slice(CHUNK_END);
        while size > 0 {
            start -= 1;
            out[start] = b"0123456789ABCDEF"[size % 16];
            size /= 16;
        }
        out.put_slice(CHUNK_END);
        out.advance(start);
        Self { chunk: out.freeze(), head: u8::try_from(CHUNK_HEAD - start).expect("a size has at most 16 digits") }
    }
}

// === impl Frame ===

impl Frame<'_> {
    /// Encodes the frame.
    ///
    /// `id` and `event` are checked before ([`crate::event::Draft::check`]). If one contains a line break nevertheless, it
    /// is cut there, so that it cannot begin another field.
    pub fn encode(&self) -> Encoded {
        let lines = self.data.map_or(0, |data| memchr::memchr2_iter(b'\n', b'\r', data.as_bytes()).count() + 1);
        let text =
            [self.id, Some(self.event), self.data, self.comment].into_iter().flatten().map(str::len).sum::<usize>();
        let mut out = BytesMut::with_capacity(CHUNK_HEAD + text + lines * 7 + 48 + CHUNK_END.len());
        out.put_bytes(0, CHUNK_HEAD);
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
        Encoded::new(out)
    }
}

/// A frame with only a comment: a sign of life that clients ignore.
pub fn comment(text: &str) -> Encoded {
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

/// The lines of a text, as clients count them: CRLF, LF and CR each end a line.
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
        assert_eq!(frame.encode().frame(), "data: a\ndata: b\ndata: c\ndata: \ndata: d\ndata: \n\n");
    }

    #[test]
    fn all_fields_have_their_line() {
        let frame = Frame { id: Some("1-2"), event: "x", data: Some(""), retry: Some(5), comment: Some("c\nd") };
        assert_eq!(frame.encode().frame(), ": c\n: d\nid: 1-2\nevent: x\nretry: 5\ndata: \n\n");
        assert_eq!(Frame { event: "message", data: Some("m"), ..Frame::default() }.encode().frame(), "data: m\n\n");
        assert_eq!(comment("ping").frame(), ": ping\n\n");
    }

    #[test]
    fn a_line_break_in_a_value_adds_no_field() {
        let frame = Frame { id: Some("1\ndata: x"), event: "a\r\nretry: 1", data: Some("d"), ..Frame::default() };
        assert_eq!(frame.encode().frame(), "id: 1\nevent: a\ndata: d\n\n");
    }

    #[test]
    fn a_chunk_has_the_size_of_its_frame() {
        let small = Frame { data: Some("a"), ..Frame::default() }.encode();
        assert_eq!((small.len(), small.into_chunk().as_ref()), (9, b"9\r\ndata: a\n\n\r\n".as_slice()));
        let text = "x".repeat(0x1_0000);
        let large = Frame { data: Some(&text), ..Frame::default() }.encode();
        assert_eq!(large.frame().len(), 0x1_0008);
        assert!(large.into_chunk().starts_with(b"10008\r\ndata: xxx"));
    }
}
