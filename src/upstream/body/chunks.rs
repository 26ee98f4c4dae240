//! The bytes of a response body, decompressed if the upstream compressed them although no request asks for it.
//!
//! Decompression has a buffer of fixed size: a small body that inflates to gigabytes (a "bomb") needs no more memory than
//! any other body. Bytes that the upstream flushed are available at once.

use std::{io, pin::Pin, time::Duration};

use async_compression::tokio::bufread::GzipDecoder;
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt as _,
    stream::{self, Stream},
};
use http::{HeaderMap, header};
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;

use super::Body;
use crate::{
    text::{excerpt, one_line},
    upstream::{Error, fields::field_text},
};

/// The bytes of a body.
pub(crate) enum Chunks {
    Plain(Body),
    Gzip(Box<Inflating>),
}

type Compressed = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>;

/// A compressed body, and the buffer for its decompressed bytes.
pub(crate) struct Inflating {
    decoder: GzipDecoder<StreamReader<Compressed, Bytes>>,
    buffer: BytesMut,
}

/// Maximum number of bytes that are decompressed at once.
const PIECE: usize = 16 * 1024;

// === impl Chunks ===

impl Chunks {
    /// The body of a response with these header fields.
    ///
    /// # Errors
    /// The name of the encoding, if it is neither `identity` nor `gzip`.
    pub(crate) fn of(headers: &HeaderMap, body: Body) -> Result<Self, String> {
        let encoding = field_text(headers, &header::CONTENT_ENCODING);
        match encoding.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Plain(body)),
            // An empty body is not valid gzip, but some servers name the encoding anyway.
            "gzip" | "x-gzip" if body.content_length() == Some(0) => Ok(Self::Plain(body)),
            "gzip" | "x-gzip" => {
                let chunks = stream::unfold(body, async |mut body| Some((body.chunk().await?, body)));
                Ok(Self::Gzip(Box::new(Inflating::new(chunks))))
            }
            _ => Err(excerpt(&one_line(&encoding), 40)),
        }
    }

    /// The next bytes, never empty; `None` at the end.
    ///
    /// Cancel safe: no byte is lost.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        match self {
            Self::Plain(body) => body.chunk().await,
            Self::Gzip(inflating) => inflating.next().await,
        }
    }

    /// Remaining bytes, if the length is known.
    pub(crate) fn content_length(&self) -> Option<u64> {
        match self {
            Self::Plain(body) => body.content_length(),
            Self::Gzip(_) => None,
        }
    }

    /// The whole body, up to `limit` bytes after decompression.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the body is larger, and the errors of [`next`](Self::next).
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Bytes, Error> {
        if self.content_length().is_some_and(|announced| announced > limit as u64) {
            return Err(Error::TooLarge { limit });
        }
        // The announced length is not trusted: the buffer grows with the received bytes.
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

    /// The beginning of the body: at least `min` bytes if they arrive within `limit`, else fewer. Meant for texts of
    /// errors, so a broken body only ends earlier.
    pub(crate) async fn beginning(mut self, min: usize, limit: Duration) -> Vec<u8> {
        let mut bytes = Vec::new();
        let reading = async {
            while bytes.len() < min {
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
                // If the error followed at once, the decoder would drop the bytes that it has already decompressed.
                tokio::task::yield_now().await;
            }
            chunk.map_err(io::Error::other)
        }));
        let mut decoder = GzipDecoder::new(StreamReader::new(compressed));
        // Some servers begin a new gzip member with each flush (RFC 1952, section 2.2).
        decoder.multiple_members(true);
        Self { decoder, buffer: BytesMut::new() }
    }

    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        // A small chunk can contain megabytes, which the decoder returns without a wait. Other tasks need a turn.
        tokio::task::consume_budget().await;
        self.buffer.reserve(PIECE);
        match self.decoder.read_buf(&mut self.buffer).await {
            Ok(0) => None,
            Ok(_) => Some(Ok(self.buffer.split().freeze())),
            Err(error) => Some(Err(translate(&error))),
        }
    }
}

/// Returns the error of the body, or describes the error of the decoder.
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
    async fn bytes_before_an_error_are_returned_before_it() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"data: a").unwrap();
        encoder.flush().unwrap();
        let begun = Bytes::from(encoder.get_ref().clone());
        let mut inflating = Inflating::new(stream::iter([Ok(begun), Err(Error::Truncated)]));
        assert_eq!(inflating.next().await, Some(Ok("data: a".into())));
        assert_eq!(inflating.next().await, Some(Err(Error::Truncated)));
    }

    #[tokio::test]
    async fn an_empty_body_is_not_gzip() {
        let mut inflating = Inflating::new(stream::empty());
        assert_eq!(inflating.next().await, Some(Err(Error::Truncated)));
    }
}
