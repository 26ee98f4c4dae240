//! The head of a response: its end, its fields, and how the end of the body is marked; pure.
//!
//! Only this module decides the framing (RFC 9112, section 6.3). It rejects a head with an ambiguous framing.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};

/// Maximum size of a head in bytes. Common servers send at most 8 or 16 KiB.
pub(super) const MAX_BYTES: usize = 64 * 1024;
/// Maximum number of header fields.
pub(super) const MAX_FIELDS: usize = 100;
/// Maximum number of header fields that are parsed. It is above [`MAX_FIELDS`], since the parser does not count fields
/// beyond its limit.
pub(super) const MAX_PARSED: usize = 5 * MAX_FIELDS;

/// The head of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
}

/// How the end of a body is marked (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The body has this length in bytes; 0 if there is no body.
    Length(u64),
    /// The last chunk ends the body.
    Chunked,
    /// The end of the connection ends the body.
    UntilClose,
}

/// Why a head is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// More than [`MAX_BYTES`] bytes or [`MAX_PARSED`] fields.
    TooLarge,
    /// More than [`MAX_FIELDS`] fields.
    TooManyFields,
    /// The status is not a number from 100 to 999.
    Status,
    /// The transfer coding is not `chunked`.
    Coding(String),
    /// The end of the head is missing.
    Incomplete,
    /// Another violation of HTTP/1.
    Protocol(String),
}

/// The first bytes of every response.
const PROTOCOL: &[u8] = b"HTTP/1.";

/// Maximum number of bytes of empty lines before a head.
const MAX_EMPTY: usize = 16;

/// Maximum length of a quoted transfer coding, in bytes.
const MAX_QUOTED: usize = 40;

// === impl Framing ===

impl Framing {
    /// A head with this framing and no other fields.
    pub(super) fn as_head(self) -> Bytes {
        match self {
            Self::Length(length) => format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into(),
            Self::Chunked => Bytes::from_static(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
            Self::UntilClose => Bytes::from_static(b"HTTP/1.0 200 OK\r\n\r\n"),
        }
    }
}

// === parsing ===

/// Length of the head at the beginning of `read`, with empty lines before it (allowed by RFC 9112, section 2.2). `None` if
/// more bytes are needed. `searched` is the number of bytes that need not be searched again.
///
/// # Errors
/// As soon as the bytes cannot become a head.
pub(super) fn end_of_head(read: &[u8], searched: &mut usize) -> Result<Option<usize>, HeadError> {
    let empty = read.iter().take(MAX_EMPTY).take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let begun = &read[empty..];
    let first = begun.len().min(PROTOCOL.len());
    if begun[..first] != PROTOCOL[..first] {
        return protocol("it does not begin like an HTTP/1 response");
    }
    *searched = (*searched).max(empty);
    let end = loop {
        let Some(at) = memchr::memchr(b'\n', &read[*searched..]) else {
            *searched = read.len();
            break None;
        };
        let next = *searched + at + 1;
        match &read[next..] {
            [b'\n', ..] => break Some(next + 1),
            [b'\r', b'\n', ..] => break Some(next + 2),
            // The next bytes may contain the empty line.
            [] | [b'\r'] => break None,
            _ => *searched = next,
        }
    };
    match end {
        Some(end) if end <= MAX_BYTES => Ok(Some(end)),
        None if read.len() <= MAX_BYTES => Ok(None),
        _ => Err(HeadError::TooLarge),
    }
}

/// Parses a complete head; `None` for an interim response. The flag is true if the connection persists.
///
/// # Errors
/// The reason why the response is unusable.
pub(super) fn parse(bytes: &[u8], head_only: bool) -> Result<Option<(Head, bool)>, HeadError> {
    let mut response = httparse::Response::new(&mut []);
    let mut fields = [const { MaybeUninit::uninit() }; MAX_PARSED];
    let parsed =
        httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut fields);
    match parsed {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(HeadError::Incomplete),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
        Err(httparse::Error::Status) => return Err(HeadError::Status),
        Err(error) => return Err(HeadError::Protocol(error.to_string())),
    }
    let (Some(version), Some(code)) = (response.version, response.code) else {
        return Err(HeadError::Incomplete);
    };
    let status = StatusCode::from_u16(code).map_err(|_| HeadError::Status)?;
    // 101 is a final response, since no request asks for another protocol. HTTP ends with it (RFC 9110, section 15.2.2).
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    if status.is_informational() && !switches {
        return Ok(None);
    }
    if response.headers.len() > MAX_FIELDS {
        return Err(HeadError::TooManyFields);
    }
    let mut headers = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let bad = || HeadError::Protocol("a header field has characters that are not allowed".into());
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| bad())?;
        headers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| bad())?);
    }
    let old = version == 0;
    let bodiless = head_only || switches || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let framing = if bodiless { Framing::Length(0) } else { framing(&headers, old)? };
    let lists = |word| list(&headers, &CONNECTION).any(|value| value.eq_ignore_ascii_case(word));
    let keeps = if old { lists(b"keep-alive") } else { !lists(b"close") };
    let ambiguous = headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH);
    let persistent = keeps && !switches && !ambiguous && framing != Framing::UntilClose;
    Ok(Some((Head { status, headers, framing }, persistent)))
}

/// How the end of a body is marked (RFC 9112, section 6.3).
fn framing(headers: &HeaderMap, old: bool) -> Result<Framing, HeadError> {
    if headers.contains_key(TRANSFER_ENCODING) {
        if old {
            return protocol("it is HTTP/1.0, which has no transfer codings");
        }
        let mut codings = list(headers, &TRANSFER_ENCODING);
        return match (codings.next(), codings.next()) {
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"identity") => Ok(Framing::UntilClose),
            _ => {
                let value = headers.get(TRANSFER_ENCODING).map_or(&[][..], HeaderValue::as_bytes);
                Err(HeadError::Coding(value[..value.len().min(MAX_QUOTED)].escape_ascii().to_string()))
            }
        };
    }
    let mut lengths = list(headers, &CONTENT_LENGTH);
    let Some(first) = lengths.next() else { return Ok(Framing::UntilClose) };
    let digits = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    // The field may repeat its value (RFC 9110, section 8.6).
    let length = std::str::from_utf8(first).ok().filter(|_| digits && lengths.all(|length| length == first));
    let bad = || HeadError::Protocol("its content-length is not one number".into());
    length.and_then(|length| length.parse().ok()).map(Framing::Length).ok_or_else(bad)
}

/// The members of a list field.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

fn protocol<T>(reason: &str) -> Result<T, HeadError> {
    Err(HeadError::Protocol(reason.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(head: &str) -> Result<Option<(StatusCode, Framing, bool)>, HeadError> {
        parse(head.as_bytes(), false).map(|head| head.map(|(head, persistent)| (head.status, head.framing, persistent)))
    }

    fn framing_of(status: &str, fields: &str) -> Result<(Framing, bool), HeadError> {
        Ok(parsed(&format!("{status}\r\n{fields}\r\n"))?.map(|(_, framing, persistent)| (framing, persistent)).unwrap())
    }

    #[test]
    fn the_framing_follows_rfc_9112() {
        let until_close = (Framing::UntilClose, false);
        for (status, fields, expected) in [
            ("HTTP/1.1 200 OK", "", until_close),
            ("HTTP/1.1 200", "Content-Length: 5\r\n", (Framing::Length(5), true)),
            ("HTTP/1.1 200 OK", "content-length: 5\r\nConnection: Close\r\n", (Framing::Length(5), false)),
            ("HTTP/1.1 200 OK", "Content-Length: 5\r\nContent-Length: 5\r\n", (Framing::Length(5), true)),
            ("HTTP/1.1 200 OK", "Content-Length: 5, 5\r\n", (Framing::Length(5), true)),
            ("HTTP/1.1 200 OK", "Transfer-Encoding:  CHUNKED \r\n", (Framing::Chunked, true)),
            ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", (Framing::Chunked, false)),
            ("HTTP/1.1 200 OK", "Transfer-Encoding: identity\r\n", until_close),
            ("HTTP/1.0 200 OK", "Content-Length: 5\r\n", (Framing::Length(5), false)),
            ("HTTP/1.0 200 OK", "Content-Length: 5\r\nConnection: x, Keep-Alive\r\n", (Framing::Length(5), true)),
            ("HTTP/1.0 200 OK", "Connection: keep-alive\r\n", until_close),
            ("HTTP/1.1 204 No Content", "Transfer-Encoding: chunked\r\n", (Framing::Length(0), true)),
            ("HTTP/1.1 304 Not Modified", "Content-Length: 5\r\n", (Framing::Length(0), true)),
            ("HTTP/1.1 101 Switching", "Upgrade: x\r\n", (Framing::Length(0), false)),
            ("HTTP/1.1 200 OK", "Upgrade: websocket\r\nContent-Length: 5\r\n", (Framing::Length(5), true)),
        ] {
            assert_eq!(framing_of(status, fields), Ok(expected), "{status} {fields}");
        }
        let (head, _) = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true).unwrap().unwrap();
        assert_eq!(
            (head.framing, &head.headers["content-length"]),
            (Framing::Length(0), &HeaderValue::from_static("5"))
        );
    }

    #[test]
    fn an_interim_response_is_skipped() {
        for status in [100, 102, 103, 199] {
            assert_eq!(parsed(&format!("HTTP/1.1 {status} x\r\nContent-Length: 5\r\n\r\n")), Ok(None));
        }
    }

    #[test]
    fn an_ambiguous_head_is_rejected() {
        for fields in ["5, 6", "-5", "+5", "0x5", "5 5", "18446744073709551616", "", "5,"] {
            let error = framing_of("HTTP/1.1 200 OK", &format!("Content-Length: {fields}\r\n"));
            assert!(matches!(error, Err(HeadError::Protocol(_))), "{fields}: {error:?}");
        }
        let two = framing_of("HTTP/1.1 200 OK", "Content-Length: 5\r\nContent-Length: 6\r\n");
        assert!(matches!(two, Err(HeadError::Protocol(_))), "{two:?}");
        for coding in ["gzip, chunked", "chunked, chunked", "xchunked", "chunked\r\nTransfer-Encoding: identity", ""] {
            let error = framing_of("HTTP/1.1 200 OK", &format!("Transfer-Encoding: {coding}\r\n"));
            assert!(matches!(error, Err(HeadError::Coding(_))), "{coding}: {error:?}");
        }
        let old = framing_of("HTTP/1.0 200 OK", "Transfer-Encoding: chunked\r\n");
        assert!(matches!(old, Err(HeadError::Protocol(_))), "{old:?}");
        for status in ["HTTP/1.1 099 x", "HTTP/1.1 2x0 OK", "HTTP/1.1 20 OK"] {
            assert_eq!(framing_of(status, ""), Err(HeadError::Status), "{status}");
        }
        for line in ["HTTP/2.0 200 OK", "HTTP/1.2 200 OK", "HTTP/1.1  200 OK"] {
            assert!(framing_of(line, "").is_err(), "{line}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_at_any_split() {
        for head in ["HTTP/1.1 200 OK\r\nA: b\r\n\r\n", "\r\n\nHTTP/1.1 200 OK\nA: b\n\n", "HTTP/1.0 200 OK\n\r\n"] {
            let bytes = [head.as_bytes(), b"rest\r\n\r\n"].concat();
            for step in 1..=head.len() {
                let (mut searched, mut at) = (0, 0);
                let end = loop {
                    at = bytes.len().min(at + step);
                    if let Some(end) = end_of_head(&bytes[..at], &mut searched).unwrap() {
                        break end;
                    }
                };
                assert_eq!(end, head.len(), "{head:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn bytes_that_cannot_become_a_head_are_rejected_early() {
        for bytes in ["SSH-2.0", "X", "HTTP/2", "\r\n\r\nhttp", &"\n".repeat(MAX_EMPTY + 1)] {
            assert!(end_of_head(bytes.as_bytes(), &mut 0).is_err(), "{bytes:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(MAX_BYTES));
        assert_eq!(end_of_head(endless.as_bytes(), &mut 0), Err(HeadError::TooLarge));
    }
}
