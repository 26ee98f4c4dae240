//! The part of HTTP/1.1 that a load generator needs, and the stamp in each payload; pure.

/// Largest response head.
const HEAD_MAX: usize = 16 << 10;

/// The head of a response.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub status: u16,
    pub framing: Framing,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After this number of bytes.
    Length(usize),
    /// With the chunk of size 0.
    Chunked,
    /// With the connection.
    Close,
}

/// Removes the framing of a body, piece by piece.
#[derive(Debug)]
enum Deframer {
    /// In the line with the size: the value so far, and whether the digits have ended.
    Size(usize, bool),
    /// Within a chunk, with this number of bytes to come.
    Data(usize),
    /// In the line break after a chunk.
    Break,
    /// Bytes until the connection ends.
    Raw,
    /// The body has ended.
    Ended,
}

/// The body of a response that is read piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Body {
    head: Vec<u8>,
    deframer: Option<Deframer>,
}

/// The identity of an event of a measurement, at the start of its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of its publisher.
    pub publisher: usize,
    /// Its number among the events of that publisher in the topic, from 0.
    pub sequence: u64,
    /// Its planned time, on the clock of the measurement.
    pub at: u64,
}

/// Parses a head; also gives its length. `None` while it is incomplete.
///
/// # Errors
/// When it is not a head of HTTP/1.1, or too large.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<(Head, usize)>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return if bytes.len() > HEAD_MAX { Err("the response head does not end".into()) } else { Ok(None) };
    };
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let Some(status) = status else { return Err("the answer is no HTTP/1.1".into()) };
    let mut framing = Framing::Close;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            framing = Framing::Length(value.trim().parse().map_err(|_| "the content length is no number".to_owned())?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
            framing = Framing::Chunked;
        }
    }
    Ok(Some((Head { status, framing }, end + 4)))
}

// === impl Body ===

impl Body {
    /// Takes the next bytes of the response; `each` gets those of the body.
    ///
    /// # Errors
    /// Those of `each`, a broken framing, and a status other than 200.
    pub(crate) fn take(&mut self, bytes: &[u8], each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let Self { head, deframer } = self;
        if let Some(deframer) = deframer {
            return deframer.push(bytes, each);
        }
        head.extend_from_slice(bytes);
        let Some((parsed, start)) = self::head(head)? else { return Ok(()) };
        let rest = head.split_off(start);
        if parsed.status != 200 {
            return Err(format!("a stream was refused with {}: {}", parsed.status, String::from_utf8_lossy(&rest)));
        }
        deframer.insert(Deframer::new(parsed.framing)).push(&rest, each)
    }

    /// True once the head is complete.
    pub(crate) fn begun(&self) -> bool {
        self.deframer.is_some()
    }

    /// True once the last chunk has come.
    pub(crate) fn ended(&self) -> bool {
        matches!(self.deframer, Some(Deframer::Ended))
    }
}

// === impl Deframer ===

impl Deframer {
    fn new(framing: Framing) -> Self {
        if framing == Framing::Chunked { Self::Size(0, false) } else { Self::Raw }
    }

    fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        while let Some(&first) = bytes.first() {
            match self {
                Self::Size(size, over) => {
                    bytes = &bytes[1..];
                    match (first, char::from(first).to_digit(16)) {
                        (b'\n', _) => *self = if *size == 0 { Self::Ended } else { Self::Data(*size) },
                        (_, Some(digit)) if !*over => {
                            let more = size.checked_mul(16).and_then(|size| size.checked_add(digit as usize));
                            *size = more.ok_or("a chunk is too large")?;
                        }
                        (b'\r' | b';', _) => *over = true,
                        _ if *over => {}
                        _ => return Err("the chunked framing is broken".into()),
                    }
                }
                Self::Data(left) => {
                    let (data, rest) = bytes.split_at((*left).min(bytes.len()));
                    *left -= data.len();
                    bytes = rest;
                    if *left == 0 {
                        *self = Self::Break;
                    }
                    each(data)?;
                }
                Self::Break => {
                    bytes = &bytes[1..];
                    if first == b'\n' {
                        *self = Self::Size(0, false);
                    }
                }
                Self::Raw => return each(bytes),
                Self::Ended => return Ok(()),
            }
        }
        Ok(())
    }
}

// === impl Stamp ===

impl Stamp {
    /// A payload of this length, or longer if the stamp itself is longer.
    pub(crate) fn payload(self, bytes: usize) -> String {
        let Self { publisher, sequence, at } = self;
        let mut text = format!(r#"{{"p":{publisher},"n":{sequence},"t":{at},"x":""#);
        let fill = bytes.saturating_sub(text.len() + 2);
        text.extend(std::iter::repeat_n('x', fill));
        text.push_str("\"}");
        text
    }

    /// The stamp of a payload; `None` without one.
    pub(crate) fn read(data: &str) -> Option<Self> {
        let (publisher, rest) = number(data.strip_prefix(r#"{"p":"#)?)?;
        let (sequence, rest) = number(rest.strip_prefix(r#","n":"#)?)?;
        let (at, _) = number(rest.strip_prefix(r#","t":"#)?)?;
        Some(Self { publisher: usize::try_from(publisher).ok()?, sequence, at })
    }
}

fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_status_and_framing() {
        assert_eq!(head(b"HTTP/1.1 200 OK\r\nContent-Le"), Ok(None));
        let full = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(head(full), Ok(Some((Head { status: 200, framing: Framing::Length(5) }, full.len() - 5))));
        let chunked = b"HTTP/1.1 503 Busy\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(head(chunked).unwrap().unwrap().0, Head { status: 503, framing: Framing::Chunked });
        assert!(head(b"SSH-2.0\r\n\r\n").is_err());
        assert!(head(&[b'x'; HEAD_MAX + 1]).is_err());
    }

    #[test]
    fn chunks_are_removed_wherever_the_network_cuts_them() {
        let wire = b"5\r\nhello\r\n1a;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\nbehind";
        for cut in 1..wire.len() {
            let mut deframer = Deframer::new(Framing::Chunked);
            let mut body = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                let each = |data: &[u8]| {
                    body.extend_from_slice(data);
                    Ok(())
                };
                deframer.push(part, each).unwrap();
            }
            assert_eq!(body, b"helloabcdefghijklmnopqrstuvwxyz", "cut at {cut}");
            assert!(matches!(deframer, Deframer::Ended));
        }
        assert!(Deframer::new(Framing::Chunked).push(b"zz\r\n", |_| Ok(())).is_err());
    }

    #[test]
    fn a_stamp_survives_its_payload() {
        let stamp = Stamp { publisher: 3, sequence: 17, at: 123_456_789_012 };
        for bytes in [0, 40, 100, 1000] {
            let payload = stamp.payload(bytes);
            assert_eq!(Stamp::read(&payload), Some(stamp));
            assert!(payload.len() == bytes || bytes < 50, "{bytes}: {payload}");
            assert!(serde_json::from_str::<serde_json::Value>(&payload).is_ok());
        }
        assert_eq!(Stamp::read(r#"{"status":"connected"}"#), None);
    }
}
