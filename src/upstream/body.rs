//! The body of a response as a stream of bytes, with a limit on each pause.
//!
//! It promises that `None` means a complete body; a body that is cut off is an error. Dropping an unfinished body closes
//! its connection at once. A finished body returns its connection to the pool.

use std::{fmt, mem, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{Error, head::Framing};

mod chunks;

pub(crate) use self::chunks::Chunks;

/// Default limit of a pause.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// A piece of a body, never empty; `None` at its complete end. If the channel closes without it, the connection was lost.
/// The error is boxed because the channel allocates room for 32 pieces.
pub(super) type Piece = Option<Result<Bytes, Box<Error>>>;

/// The body of a response.
pub struct Body {
    /// Bytes that arrived together with the head.
    first: Bytes,
    /// The pieces after them; `None` if none follows.
    rest: Option<mpsc::Receiver<Piece>>,
    /// Remaining bytes, if the length is known.
    remaining: Option<u64>,
    end_marked: bool,
    idle_timeout: Duration,
    /// Start of the current pause. A wait that is cancelled and repeated is one pause, so the limit also holds for a
    /// caller that waits for something else in between.
    pause_start: Option<Instant>,
}

// === impl Body ===

impl Body {
    pub(super) fn new(framing: Framing, first: Bytes, rest: Option<mpsc::Receiver<Piece>>) -> Self {
        let end_marked = framing != Framing::UntilClose;
        let remaining = if let Framing::Length(length) = framing { Some(length) } else { None };
        Self { first, rest, remaining, end_marked, idle_timeout: IDLE_TIMEOUT, pause_start: None }
    }

    /// Sets the maximum pause between two chunks. Default: 60 s.
    #[must_use]
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// Remaining bytes, if the length is known; 0 after the end and in a response to HEAD.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.remaining
    }

    /// True if the response marks the end of its body, by a length or by a last chunk. A body without a mark ends with its
    /// connection, so a cut is not visible (RFC 9112, section 8).
    pub fn is_end_marked(&self) -> bool {
        self.end_marked
    }

    /// The next bytes, never empty; `None` at the end and after an error.
    ///
    /// Cancel safe: no byte is lost, and the pause continues.
    ///
    /// # Errors
    /// [`Error::IdleTimeout`], [`Error::Truncated`], or [`Error::Protocol`] for a broken framing.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, Error>> {
        let first = mem::take(&mut self.first);
        let piece = if first.is_empty() { self.next().await } else { Some(Ok(first)) };
        match &piece {
            Some(Ok(bytes)) => {
                self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(bytes.len() as u64));
            }
            Some(Err(_)) | None => {
                self.remaining = Some(0);
                // Closes the connection of an unfinished body.
                self.rest = None;
            }
        }
        piece
    }

    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let pieces = self.rest.as_mut()?;
        // A late call returns a piece that arrived in time: `timeout` polls its future first.
        let waited = self.pause_start.get_or_insert_with(Instant::now).elapsed();
        let next = timeout(self.idle_timeout.saturating_sub(waited), pieces.recv()).await;
        self.pause_start = None;
        match next {
            Ok(Some(piece)) => piece.map(|piece| piece.map_err(|error| *error)),
            // The task of the connection ended together with its thread.
            Ok(None) => Some(Err(Error::Truncated)),
            Err(_) => Some(Err(Error::IdleTimeout { after: self.idle_timeout })),
        }
    }

    /// The whole body, up to `limit` bytes. The only time limit is that of a pause.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as the size is known, and the errors of [`chunk`](Self::chunk).
    pub async fn collect(self, limit: usize) -> Result<Bytes, Error> {
        Chunks::Plain(self).collect(limit).await
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("content_length", &self.content_length()).finish_non_exhaustive()
    }
}
