//! The body of a response: bytes as they come, with an idle limit and an honest end.
//!
//! Promises that `None` means the upstream has finished what it announced; a body that stops short is an error.
//! Dropping a body that is not finished closes its connection at once; a finished one leaves it to the pool.

use std::{fmt, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::time::{Instant, timeout};

use super::Error;

/// How long a body may pause unless the caller sets something else.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The body of a response.
pub struct Body {
    /// Gone when the body has ended, well or badly; with it goes the connection.
    incoming: Option<Incoming>,
    idle: Duration,
    /// Since when the next bytes are waited for. A wait that is cancelled and begun anew is one pause, else whoever
    /// looks at something else now and then would never see the limit.
    since: Option<Instant>,
}

// === impl Body ===

impl Body {
    pub(super) fn new(incoming: Incoming) -> Self {
        Self { incoming: Some(incoming), idle: IDLE_TIMEOUT, since: None }
    }

    /// How long the body may pause between two chunks; 60 s unless set.
    #[must_use]
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Bytes still to come, if the upstream has said so; none are to come in answer to HEAD.
    #[must_use]
    pub fn content_length(&self) -> Option<u64> {
        self.incoming.as_ref().map_or(Some(0), |incoming| incoming.size_hint().exact())
    }

    /// The next bytes, never empty; `None` at the end. After an error there is nothing more.
    ///
    /// May be cancelled and called again: no byte is lost, and the pause counts on.
    ///
    /// # Errors
    /// [`Error::IdleTimeout`], [`Error::Truncated`], or [`Error::Protocol`] for a broken framing.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            let incoming = self.incoming.as_mut()?;
            // Bytes that came in the meantime are there at the first look, however late it is.
            let waited = self.since.get_or_insert_with(Instant::now).elapsed();
            let frame = timeout(self.idle.saturating_sub(waited), incoming.frame()).await;
            self.since = None;
            let error = match frame {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Some(Ok(data)),
                    // Trailers say nothing that anybody here asks for.
                    _ => continue,
                },
                // The transport ends the channel also when its task dies with its runtime; then bytes are missing.
                Ok(None) if incoming.size_hint().exact().is_some_and(|rest| rest > 0) => Error::Truncated,
                Ok(None) => {
                    self.incoming = None;
                    return None;
                }
                Ok(Some(Err(error))) => Error::in_body(&error),
                Err(_) => Error::IdleTimeout { after: self.idle },
            };
            self.incoming = None;
            return Some(Err(error));
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
