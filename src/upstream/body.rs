//! The body of a response: bytes as they come, with an idle limit and an honest end.
//!
//! Promises that `None` means the upstream has finished what it announced; a body that stops short is an error.
//! Dropping a body that is not finished closes its connection at once; a finished one leaves it to the pool.

use std::{fmt, mem, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};

use super::{
    Error,
    egress::{Pieces, Rest},
};

/// How long a body may pause unless the caller sets something else.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The body of a response.
pub struct Body {
    pieces: Pieces,
    /// Bytes still to come, if the length is known.
    left: Option<u64>,
    idle: Duration,
    /// Start of the current pause. A wait that is cancelled and repeated counts as one pause, so that the limit also
    /// holds for a caller that checks something else in between.
    since: Option<Instant>,
}

// === impl Body ===

impl Body {
    pub(super) fn new(pieces: Pieces, length: Option<u64>) -> Self {
        Self { pieces, left: length, idle: IDLE_TIMEOUT, since: None }
    }

    /// How long the body may pause between two chunks; 60 s unless set.
    #[must_use]
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Bytes still to come, if the length is known; 0 after the end and in a response to HEAD.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.left
    }

    /// The next bytes, never empty; `None` at the end. After an error there is nothing more.
    ///
    /// May be cancelled and called again: no byte is lost, and the pause counts on.
    ///
    /// # Errors
    /// [`Error::IdleTimeout`], [`Error::Truncated`], or [`Error::Protocol`] for a broken framing.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, Error>> {
        let first = mem::take(&mut self.pieces.first);
        let piece = if first.is_empty() { self.next().await } else { Some(Ok(first)) };
        match &piece {
            Some(Ok(bytes)) => self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64)),
            Some(Err(_)) | None => {
                self.left = Some(0);
                // This closes the connection of a body that has not ended.
                self.pieces.rest = Rest::Ended;
            }
        }
        piece
    }

    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        let pieces = match &mut self.pieces.rest {
            Rest::Ended => return None,
            Rest::Failed(error) => return Some(Err(error.clone())),
            Rest::Coming(pieces) => pieces,
        };
        // A piece that arrived before a late call is returned by it: `timeout` polls its future first.
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        let next = timeout(self.idle.saturating_sub(waited), pieces.recv()).await;
        self.since = None;
        match next {
            Ok(Some(piece)) => piece.map(|piece| piece.map_err(|error| *error)),
            // The task of the connection ended with its thread.
            Ok(None) => Some(Err(Error::Truncated)),
            Err(_) => Some(Err(Error::IdleTimeout { after: self.idle })),
        }
    }

    /// The whole body, if it has no more than `limit` bytes. The idle limit holds, so a caller who needs an end in
    /// time sets one around this.
    ///
    /// # Errors
    /// [`Error::TooLarge`] as soon as it is known, and what [`chunk`](Self::chunk) gives.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Error> {
        let announced = usize::try_from(self.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
        if announced > limit {
            return Err(Error::TooLarge { limit });
        }
        // What is announced need not come: the buffer grows with what is there.
        let mut whole = BytesMut::new();
        while let Some(chunk) = self.chunk().await {
            let chunk = chunk?;
            if chunk.len() > limit - whole.len() {
                return Err(Error::TooLarge { limit });
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("content_length", &self.content_length()).finish_non_exhaustive()
    }
}
