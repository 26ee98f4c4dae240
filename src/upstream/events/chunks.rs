//! The bytes of a stream as its parser wants them: decompressed where the upstream has compressed them unasked.
//!
//! Decompression is pulled through a fixed buffer, so that a small body that inflates to gigabytes (a "bomb") costs no
//! more memory than any other, and what the upstream has flushed comes out at once.

use std::{io, pin::Pin};

use async_compression::tokio::bufread::GzipDecoder;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;

use crate::upstream::{Body, Error};

/// The bytes of one connection.
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
    /// As they come.
    pub fn plain(body: Body) -> Self {
        Self::Plain(body)
    }

    /// Decompressed.
    pub fn gzip(body: Body) -> Self {
        let chunks = stream::unfold(body, async |mut body| {
            let chunk = body.chunk().await?;
            Some((chunk.map_err(io::Error::other), body))
        });
        let compressed: Compressed = Box::pin(chunks);
        let mut decoder = GzipDecoder::new(StreamReader::new(compressed));
        // A server that flushes may also begin a new member each time (RFC 1952, section 2.2).
        decoder.multiple_members(true);
        Self::Gzip(Box::new(Inflating { decoder, buffer: BytesMut::new() }))
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
}

// === impl Inflating ===

impl Inflating {
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        self.buffer.reserve(PIECE);
        match self.decoder.read_buf(&mut self.buffer).await {
            Ok(0) => None,
            Ok(_) => Some(Ok(self.buffer.split().freeze())),
            Err(error) => Some(Err(translate(&error))),
        }
    }
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
