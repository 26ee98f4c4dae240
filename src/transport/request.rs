//! Request heads of HTTP/1.1, before the framework reads them.
//!
//! The framework rejects a head with an empty response, answers `Connection: upgrade` with the same option, reads the
//! body of a request with `Upgrade: websocket` as an endless stream, and sends `100 Continue` before a handler wants the
//! body. So each head is parsed here first, with the same parser. A head that the framework would reject is answered
//! here. Fields that ask for another protocol are removed (RFC 9110, section 7.8: a server may ignore `Upgrade`), and so
//! is `Expect`, which the reader of the body handles.
//!
//! The framing of a body gives the start of the next head. Usually nothing is copied. After a body with
//! an unknown framing, all further bytes go to the framework unchanged.

use std::mem::MaybeUninit;

use super::{MOST_TARGET, Refusal};

/// The framework's limit of a head in bytes.
const MOST_HEAD: usize = 128 << 10;
/// The framework's limit of header fields.
const MOST_FIELDS: usize = 96;

/// The received bytes, and the part that the framework may read.
#[derive(Debug, Default)]
pub(super) struct Requests {
    at: At,
    /// An incomplete head.
    held: Vec<u8>,
    /// Bytes for the framework.
    out: Vec<u8>,
    /// Number of bytes of `out` that the framework has read.
    given: usize,
    /// Number of heads that went to the framework.
    passed: u64,
    /// The last of these heads whose client waits for `100 Continue`.
    expects: u64,
    /// The reason why no further head goes there.
    refused: Option<Refusal>,
}

/// The next part of the input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// A body with this number of bytes left.
    Body(u64),
    Chunks(Chunks),
    /// A body with an unknown framing.
    Unknown,
}

/// Within a body in chunks (RFC 9112, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    Size(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    DataLineEnd,
    /// The beginning of a line after the last chunk.
    Trailer,
    TrailerLine,
    End,
}

/// A complete head.
struct Head {
    bytes: usize,
    body: At,
    expects: bool,
    /// The replacement for the framework.
    rewritten: Option<Vec<u8>>,
}

// === impl Requests ===

impl Requests {
    /// Takes received bytes. Returns how many of them go to the framework unchanged. The others are held until they are
    /// [`ready`](Self::ready).
    pub(super) fn take(&mut self, new: &[u8]) -> usize {
        if self.refused.is_some() {
            return 0;
        }
        let passed = if self.held.is_empty() { self.pass_whole(new) } else { 0 };
        if passed < new.len() {
            self.held.extend_from_slice(&new[passed..]);
            self.release();
        }
        passed
    }

    /// The number of bytes that may pass unchanged: bodies, and complete heads without fields to remove.
    fn pass_whole(&mut self, new: &[u8]) -> usize {
        let mut at = 0;
        loop {
            while at < new.len() && self.at != At::Head {
                at += self.skip(&new[at..]);
            }
            match parse(&new[at..]) {
                Ok(Some(head)) if at < new.len() && head.rewritten.is_none() => {
                    at += head.bytes;
                    self.pass(&head);
                }
                Err(refusal) if at < new.len() => {
                    self.refused = Some(refusal);
                    return at;
                }
                _ => return at,
            }
        }
    }

    /// True while a head or its body is incomplete.
    #[cfg(test)]
    fn is_within(&self) -> bool {
        self.at != At::Head || !self.held.is_empty()
    }

    /// Bytes for the framework.
    pub(super) fn ready(&self) -> &[u8] {
        &self.out[self.given..]
    }

    /// The framework has read this number of ready bytes.
    pub(super) fn gave(&mut self, bytes: usize) {
        self.given += bytes;
        if self.given == self.out.len() {
            // A connection may last for days, so free the buffer.
            (self.out, self.given) = (Vec::new(), 0);
        }
    }

    /// The number of the last head whose client waits for `100 Continue`, from 1; 0 for none.
    pub(super) fn expects(&self) -> u64 {
        self.expects
    }

    /// Number of heads that went to the framework.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// The reason why no further head goes to the framework.
    pub(super) fn refused(&self) -> Option<&Refusal> {
        self.refused.as_ref()
    }

    /// Moves the bytes that may pass from `held` to `out`.
    fn release(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        let mut at = 0;
        while at < held.len() && self.refused.is_none() {
            if self.at != At::Head {
                let bytes = self.skip(&held[at..]);
                self.out.extend_from_slice(&held[at..at + bytes]);
                at += bytes;
                continue;
            }
            match head(&held[at..]) {
                Ok(Some(head)) => {
                    match &head.rewritten {
                        Some(rewritten) => self.out.extend_from_slice(rewritten),
                        None => self.out.extend_from_slice(&held[at..at + head.bytes]),
                    }
                    at += head.bytes;
                    self.pass(&head);
                }
                Ok(None) => break,
                Err(refusal) => self.refused = Some(refusal),
            }
        }
        if self.refused.is_none() {
            held.drain(..at);
            self.held = held;
        }
    }

    fn pass(&mut self, head: &Head) {
        self.passed += 1;
        if head.expects {
            self.expects = self.passed;
        }
        self.at = head.body;
    }

    /// The number of these bytes that belong to the body.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        match self.at {
            At::Head => 0,
            At::Unknown => bytes.len(),
            At::Body(left) => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let left = left - here as u64;
                self.at = if left == 0 { At::Head } else { At::Body(left) };
                here
            }
            At::Chunks(mut chunks) => {
                let mut at = 0;
                while at < bytes.len() {
                    if let Chunks::Data(left) = chunks {
                        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                        at += here;
                        let left = left - here as u64;
                        chunks = if left == 0 { Chunks::DataEnd } else { Chunks::Data(left) };
                        continue;
                    }
                    let end = chunks == Chunks::End;
                    let next = chunks.next(bytes[at]);
                    at += 1;
                    match next {
                        Some(next) => chunks = next,
                        None => {
                            self.at = if end && bytes[at - 1] == b'\n' { At::Head } else { At::Unknown };
                            return at;
                        }
                    }
                }
                self.at = At::Chunks(chunks);
                at
            }
        }
    }
}

// === impl Chunks ===

impl Chunks {
    /// The state after a byte; `None` at the end, and for a wrong byte.
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size(size), _) if byte.is_ascii_hexdigit() => {
                let digit = u64::from(char::from(byte).to_digit(16)?);
                Self::Size(size.checked_mul(16)?.checked_add(digit)?)
            }
            (Self::Size(size) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Size(size), b';' | b' ' | b'\t') => Self::Extension(size),
            (Self::Extension(size), _) if byte != b'\n' => Self::Extension(size),
            (Self::SizeEnd(0), b'\n') => Self::Trailer,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataEnd, b'\r') => Self::DataLineEnd,
            (Self::DataLineEnd, b'\n') => Self::Size(0),
            (Self::Trailer, b'\r') => Self::End,
            (Self::Trailer | Self::TrailerLine, _) if byte != b'\n' => Self::TrailerLine,
            (Self::TrailerLine, b'\n') => Self::Trailer,
            _ => return None,
        })
    }
}

/// Parses a head that may arrive in pieces: only when its end has arrived, or when it is too long.
fn head(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    if bytes.len() >= MOST_HEAD || has_end(bytes) {
        return parse(bytes);
    }
    if bytes.len() > MOST_TARGET + 64 && !bytes.contains(&b'\n') {
        return Err(too_long());
    }
    Ok(None)
}

/// True if a head ends in these bytes.
fn has_end(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"\n\r\n").is_some() || memchr::memmem::find(bytes, b"\n\n").is_some()
}

fn refused(status: u16, detail: impl Into<String>) -> Refusal {
    Refusal { status, detail: detail.into() }
}

fn too_long() -> Refusal {
    refused(414, format!("the request target has more than {MOST_TARGET} bytes"))
}

/// Parses the head at the start of these bytes; `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut fields).map_err(|error| match error {
        httparse::Error::TooManyHeaders => {
            refused(431, format!("the request has more than {MOST_FIELDS} header fields"))
        }
        error => refused(400, format!("the head of the request cannot be read: {error}")),
    })?;
    let target = request.path.map_or(0, str::len);
    if target > MOST_TARGET {
        return Err(too_long());
    }
    let most = || refused(431, format!("the head of the request has more than {MOST_HEAD} bytes"));
    match parsed {
        httparse::Status::Complete(length) if length < MOST_HEAD => check(&request, length).map(Some),
        httparse::Status::Partial if bytes.len() < MOST_HEAD => Ok(None),
        // The target alone may be too long.
        httparse::Status::Partial if request.path.is_none() => Err(too_long()),
        _ => Err(most()),
    }
}

/// Finds the fields that the framework would reject, and those to remove.
fn check(request: &httparse::Request<'_, '_>, bytes: usize) -> Result<Head, Refusal> {
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let modern = request.version == Some(1);
    let values = |name: &'static str| {
        request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    http::Uri::try_from(target).map_err(|error| refused(400, format!("the request target is not valid: {error}")))?;
    let hosts = values("host").count();
    if hosts > 1 || (hosts == 0 && modern) {
        return Err(refused(400, format!("the request has {hosts} `Host` fields; it needs one")));
    }
    let mut body = body(values("content-length"), values("transfer-encoding"), modern)?;
    if method == "CONNECT" && body == At::Head {
        // The framework reads all further bytes as its body.
        body = At::Unknown;
    }
    if !modern && method == "POST" && values("content-length").next().is_none() {
        return Err(refused(411, "a POST of HTTP/1.0 needs a `Content-Length`"));
    }
    let expects = modern && values("expect").any(|value| has_option(value, "100-continue"));
    let upgrades = values("upgrade").next().is_some() || values("connection").any(|value| has_option(value, "upgrade"));
    let rewritten = (expects || upgrades).then(|| rewrite(request, method, target, expects));
    Ok(Head { bytes, body, expects, rewritten })
}

/// The framing of the body, as the framework reads it.
fn body<'a>(
    mut lengths: impl Iterator<Item = &'a [u8]>,
    mut codings: impl Iterator<Item = &'a [u8]>,
    modern: bool,
) -> Result<At, Refusal> {
    let (length, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() || codings.next().is_some() || (length.is_some() && coding.is_some()) {
        return Err(refused(400, "the request has more than one length of the body"));
    }
    if let Some(coding) = coding {
        if !modern || !coding.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(refused(400, "`Transfer-Encoding` is not `chunked`, or not of HTTP/1.1"));
        }
        return Ok(At::Chunks(Chunks::Size(0)));
    }
    let Some(length) = length else { return Ok(At::Head) };
    let digits = std::str::from_utf8(length.trim_ascii()).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let length = digits.and_then(|digits| digits.parse().ok());
    match length.ok_or_else(|| refused(400, "`Content-Length` is not a number of bytes"))? {
        0 => Ok(At::Head),
        length => Ok(At::Body(length)),
    }
}

fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn has_option(value: &[u8], name: &str) -> bool {
    options(value).any(|option| option.eq_ignore_ascii_case(name.as_bytes()))
}

/// The head without the fields that ask for another protocol, and without `Expect`.
fn rewrite(request: &httparse::Request<'_, '_>, method: &str, target: &str, expects: bool) -> Vec<u8> {
    let mut out = format!("{method} {target} HTTP/1.{}\r\n", request.version.unwrap_or(1)).into_bytes();
    let mut field = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    for header in request.headers.iter() {
        match header.name.to_ascii_lowercase().as_str() {
            "upgrade" | "http2-settings" => {}
            "expect" if expects => {}
            "connection" => {
                let of_upgrade: [&[u8]; 2] = [b"upgrade", b"http2-settings"];
                let stays = |option: &&[u8]| !of_upgrade.iter().any(|own| option.eq_ignore_ascii_case(own));
                let rest = options(header.value).filter(stays).collect::<Vec<_>>().join(&b", "[..]);
                if !rest.is_empty() {
                    field(header.name, &rest);
                }
            }
            _ => field(header.name, header.value),
        }
    }
    out.extend_from_slice(b"\r\n");
    out
}

#[cfg(test)]
mod tests;
