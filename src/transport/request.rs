//! The heads of requests of HTTP/1.1, before the framework sees them.
//!
//! The framework refuses a head with an empty answer, answers `Connection: upgrade` in kind, takes the body of a request
//! with `Upgrade: websocket` for a stream without end, and promises to read a body before it knows whether it will. So each
//! head is parsed here first, with the same parser. One that the framework would refuse is answered here. What asks for
//! another protocol is taken out (RFC 9110, section 7.8: a server may ignore `Upgrade`), and so is `Expect`, which the
//! reader of the body keeps instead.
//!
//! Heads are found by the framing of the bodies between them. In the usual case nothing is copied. Where a body is framed
//! in a way that is not understood here, all that follows goes to the framework as it is.

use super::{MOST_TARGET, Refusal};

/// The framework reads no larger head.
const MOST_HEAD: usize = 128 << 10;
/// The framework takes no more fields.
const MOST_FIELDS: usize = 96;

/// What has come, and what of it the framework may have.
#[derive(Debug, Default)]
pub(super) struct Requests {
    at: At,
    /// The beginning of a head.
    held: Vec<u8>,
    /// Goes to the framework before anything else.
    out: Vec<u8>,
    /// Of `out`, what it has.
    given: usize,
    /// Heads that went to the framework.
    passed: u64,
    /// The last one of them whose client waits to be asked for its body.
    expects: u64,
    /// Why nothing more goes there.
    refused: Option<Refusal>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// A body with so many bytes left.
    Body(u64),
    Chunks(Chunks),
    /// Nobody here knows.
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
    /// At the beginning of a line behind the last chunk.
    Trailer,
    TrailerLine,
    End,
}

/// A head that is whole.
struct Head {
    bytes: usize,
    body: At,
    expects: bool,
    /// What the framework gets instead.
    rewritten: Option<Vec<u8>>,
}

// === impl Requests ===

impl Requests {
    /// Takes bytes that have come. So many of them go to the framework as they are; the others are held, and go there
    /// as far as they are [`ready`](Self::ready).
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

    /// How many of these bytes may pass as they are: bodies, and heads that are whole and are not to be changed.
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

    /// True when a head has begun and is not whole, or its body is not.
    #[cfg(test)]
    fn is_within(&self) -> bool {
        self.at != At::Head || !self.held.is_empty()
    }

    /// Bytes for the framework.
    pub(super) fn ready(&self) -> &[u8] {
        &self.out[self.given..]
    }

    /// It has taken so many of them.
    pub(super) fn gave(&mut self, bytes: usize) {
        self.given += bytes;
        if self.given == self.out.len() {
            // A connection may live for days.
            (self.out, self.given) = (Vec::new(), 0);
        }
    }

    /// The last head whose client waits to be asked for its body, counted from 1; 0 for none.
    pub(super) fn expects(&self) -> u64 {
        self.expects
    }

    /// Heads that went to the framework.
    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// Why nothing more goes to the framework.
    pub(super) fn refused(&self) -> Option<&Refusal> {
        self.refused.as_ref()
    }

    /// Moves what may pass from `held` to `out`.
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

    /// How many of these bytes belong to the body.
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
    /// What follows a byte; `None` at the end, and where the byte should not be.
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

/// The head that these bytes begin with, for a head that comes in pieces. It is not parsed for each of them: only when its
/// end is there, or too much of it.
fn head(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    if bytes.len() >= MOST_HEAD || has_end(bytes) {
        return parse(bytes);
    }
    if bytes.len() > MOST_TARGET + 64 && !bytes.contains(&b'\n') {
        return Err(too_long());
    }
    Ok(None)
}

/// Whether a head ends in these bytes.
fn has_end(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"\n\r\n").is_some() || memchr::memmem::find(bytes, b"\n\n").is_some()
}

fn refused(status: u16, detail: impl Into<String>) -> Refusal {
    Refusal { status, detail: detail.into() }
}

fn too_long() -> Refusal {
    refused(414, format!("the request target has more than the {MOST_TARGET} bytes that are taken"))
}

/// The head that these bytes begin with; `None` when it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(bytes).map_err(|error| match error {
        httparse::Error::TooManyHeaders => {
            refused(431, format!("the request has more than the {MOST_FIELDS} header fields that are taken"))
        }
        error => refused(400, format!("the head of the request cannot be read: {error}")),
    })?;
    let target = request.path.map_or(0, str::len);
    if target > MOST_TARGET {
        return Err(too_long());
    }
    let most = || refused(431, format!("the head of the request has more than the {MOST_HEAD} bytes that are taken"));
    match parsed {
        httparse::Status::Complete(length) if length < MOST_HEAD => check(&request, length).map(Some),
        httparse::Status::Partial if bytes.len() < MOST_HEAD => Ok(None),
        // The target alone may be what is too long.
        httparse::Status::Partial if request.path.is_none() => Err(too_long()),
        _ => Err(most()),
    }
}

/// What the framework would refuse, and what is to be taken out.
fn check(request: &httparse::Request<'_, '_>, bytes: usize) -> Result<Head, Refusal> {
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let modern = request.version == Some(1);
    let values = |name: &'static str| {
        request.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    };
    http::Uri::try_from(target).map_err(|error| refused(400, format!("the request target is none: {error}")))?;
    let hosts = values("host").count();
    if hosts > 1 || (hosts == 0 && modern) {
        return Err(refused(400, format!("the request has {hosts} `Host` fields; it needs one")));
    }
    let mut body = body(values("content-length"), values("transfer-encoding"), modern)?;
    if method == "CONNECT" && body == At::Head {
        // The framework takes what follows for its body.
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

/// How the body is framed, as the framework has it.
fn body<'a>(
    mut lengths: impl Iterator<Item = &'a [u8]>,
    mut codings: impl Iterator<Item = &'a [u8]>,
    modern: bool,
) -> Result<At, Refusal> {
    let (length, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() || codings.next().is_some() || (length.is_some() && coding.is_some()) {
        return Err(refused(400, "the length of the body is said more than once"));
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
    match length.ok_or_else(|| refused(400, "`Content-Length` is no number of bytes"))? {
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

/// The same head without what asks for another protocol, and without `Expect`.
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
