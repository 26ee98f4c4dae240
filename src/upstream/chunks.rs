//! The bytes of a response body, decompressed if the upstream compressed them without being asked.
//!
//! Decompression is pulled through a fixed buffer, so that a small body that inflates to gigabytes (a "bomb") costs no
//! more memory than any other, and what the upstream has flushed comes out at once.

use std::{io, pin::Pin, time::Duration};

use async_compression::tokio::bufread::GzipDecoder;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    stream::{self, Stream},
};
use http::{
    HeaderMap,
    header::{self, HeaderName},
};
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;

use super::{Body, Error};

/// The bytes of a body.
pub enum Chunks {
    Plain(Body),
    Gzip(Box<Inflating>),
}

type Compressed = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>;

/// A compressed body and the room for what comes out of it.
pub struct Inflating {
    decoder: GzipDecoder<StreamReader<Compressed, Bytes>>,
    buffer: BytesMut,
}

/// Most bytes that come out at once.
const PIECE: usize = 16 * 1024;

// === impl Chunks ===

impl Chunks {
    /// The body of a response with these header fields.
    ///
    /// # Errors
    /// The name of the encoding, if it is neither `identity` nor `gzip`.
    pub fn of(headers: &HeaderMap, body: Body) -> Result<Self, String> {
        let encoding = text(headers, &header::CONTENT_ENCODING);
        match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Plain(body)),
            // An empty body is not valid gzip, but some servers name the encoding anyway.
            "gzip" | "x-gzip" if body.content_length() == Some(0) => Ok(Self::Plain(body)),
            "gzip" | "x-gzip" => Ok(Self::gzip(body)),
            _ => Err(shorten(&encoding, 40)),
        }
    }

    fn gzip(body: Body) -> Self {
        Self::Gzip(Box::new(Inflating::new(stream::unfold(body, async |mut body| Some((body.chunk().await?, body))))))
    }

    /// The next bytes, never empty; `None` at the end.
    ///
    /// May be cancelled and called again: no byte is lost.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        match self {
            Self::Plain(body) => body.chunk().await,
            Self::Gzip(inflating) => inflating.next().await,
        }
    }

    /// Remaining bytes, if the length is known.
    pub fn content_length(&self) -> Option<u64> {
        match self {
            Self::Plain(body) => body.content_length(),
            Self::Gzip(_) => None,
        }
    }

    /// The whole body, up to `limit` bytes after decompression.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the body is larger, and the errors of [`next`](Self::next).
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Error> {
        if self.content_length().is_some_and(|announced| announced > limit as u64) {
            return Err(Error::TooLarge { limit });
        }
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            if chunk.len() > limit - whole.len() {
                return Err(Error::TooLarge { limit });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// The beginning of the body, at least `most` bytes if they arrive within `limit`. For error texts, which are not
    /// worth a longer wait; late or broken bytes are left out.
    pub async fn beginning(mut self, most: usize, limit: Duration) -> Vec<u8> {
        let mut bytes = Vec::new();
        let reading = async {
            while bytes.len() < most {
                match self.next().await {
                    Some(Ok(chunk)) => bytes.extend_from_slice(&chunk),
                    _ => break,
                }
            }
        };
        let _ = tokio::time::timeout(limit, reading).await;
        bytes
    }
}

// === impl Inflating ===

impl Inflating {
    fn new(chunks: impl Stream<Item = Result<Bytes, Error>> + Send + Sync + 'static) -> Self {
        let compressed: Compressed = Box::pin(chunks.then(async |chunk| {
            if chunk.is_err() {
                // An error that follows bytes at once would take with it what the decoder has made of them.
                tokio::task::yield_now().await;
            }
            chunk.map_err(io::Error::other)
        }));
        let mut decoder = GzipDecoder::new(StreamReader::new(compressed));
        // A server that flushes may also begin a new member each time (RFC 1952, section 2.2).
        decoder.multiple_members(true);
        Self { decoder, buffer: BytesMut::new() }
    }

    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        // A small chunk can hold megabytes, and none of them is waited for.
        tokio::task::consume_budget().await;
        self.buffer.reserve(PIECE);
        match self.decoder.read_buf(&mut self.buffer).await {
            Ok(0) => None,
            Ok(_) => Some(Ok(self.buffer.split().freeze())),
            Err(error) => Some(Err(translate(&error))),
        }
    }
}

/// The value of a header field; several lines are joined (RFC 9110, section 5.3).
pub fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<_> = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    values.join(", ")
}

/// The first characters of a text, without control characters.
pub fn shorten(text: &str, max: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(max).collect()
}

/// What the wire said, or what is wrong with the compressed bytes.
fn translate(error: &io::Error) -> Error {
    if let Some(own) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return own.clone();
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Truncated,
        _ => Error::Protocol(format!("the gzip encoding of the body is broken: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn what_came_before_an_error_is_given_before_it() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"data: a").unwrap();
        encoder.flush().unwrap();
        let begun = Bytes::from(encoder.get_ref().clone());
        let mut inflating = Inflating::new(stream::iter([Ok(begun), Err(Error::Truncated)]));
        assert_eq!(inflating.next().await, Some(Ok("data: a".into())));
        assert_eq!(inflating.next().await, Some(Err(Error::Truncated)));
    }

    #[tokio::test]
    async fn a_body_without_bytes_is_no_gzip() {
        let mut inflating = Inflating::new(stream::empty());
        assert_eq!(inflating.next().await, Some(Err(Error::Truncated)));
    }
}
