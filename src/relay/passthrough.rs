//! The transparent proxy's side of a stream: the bytes of one upstream connection as they come, and signs of life.
//!
//! One connection for one reader, no parsing, no queue, no reconnect: the reader reconnects, and its `Last-Event-ID` goes
//! up. What is added are comments after silence, where no client can notice them; [`Weaver`] decides where that is.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::upstream::{
    Chunks, Connections, HeaderMap, Lease, Method, Purpose, Remote, Request, Url, Via,
    events::{Answer, Failure, Opened, open},
};

mod weaver;

pub use self::weaver::Weaver;

/// What is asked of a remote.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whom.
    pub remote: Arc<Remote>,
    /// How.
    pub method: Method,
    /// For what; a URL of the remote's ([`Remote::client_url`]).
    pub url: Url,
    /// Header fields beside the remote's own.
    pub headers: HeaderMap,
    /// The body of the request.
    pub body: Bytes,
    /// The `Via` of the client's request.
    pub via: Via,
}

/// The bytes of a stream that is open. Dropping it closes its connection at once.
pub struct Passthrough {
    chunks: Chunks,
    lease: Lease,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    weaver: Weaver,
    /// A sign of life is sent after so long a silence.
    heartbeat: Duration,
}

// === impl Ask ===

impl Ask {
    /// Opens the stream; `None` where the remote says that there is none and will be none (204).
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// What the remote answered instead, or why it did not.
    pub async fn open(self, connections: &Connections, heartbeat: Duration) -> Result<Option<Passthrough>, Failure> {
        let Self { remote, method, url, headers, body, via } = self;
        let place = connections.enter(&remote, &method, url.path(), Purpose::Proxy);
        let request = Request { via: Some(via), ..remote.request(method, &url, headers, body) };
        let idle = remote.read_timeout();
        match open(remote.client().clone(), request, idle, place).await.map_err(|refused| refused.failure)? {
            Answer::NoContent => Ok(None),
            Answer::Stream(opened) => {
                let Opened { chunks, lease, .. } = *opened;
                let ended = Box::pin(lease.ended().cancelled_owned());
                Ok(Some(Passthrough { chunks, lease, ended, weaver: Weaver::default(), heartbeat }))
            }
        }
    }
}

// === impl Passthrough ===

impl Passthrough {
    /// The next bytes, never empty; `None` when the remote has closed the stream in good order.
    ///
    /// # Errors
    /// The stream broke off; nothing follows.
    pub async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        let mut beat = Instant::now() + self.heartbeat;
        loop {
            let chunk = tokio::select! {
                biased;
                () = &mut self.ended => return Some(Err(Failure::Ended)),
                chunk = self.chunks.next() => chunk,
                () = sleep_until(beat) => {
                    beat += self.heartbeat;
                    match self.weaver.heartbeat() {
                        Some(comment) => return Some(Ok(comment)),
                        None => continue,
                    }
                }
            };
            match chunk {
                Some(Ok(bytes)) => {
                    self.lease.read(bytes.len(), 0);
                    beat = Instant::now() + self.heartbeat;
                    let woven = self.weaver.weave(bytes);
                    if !woven.is_empty() {
                        return Some(Ok(woven));
                    }
                }
                Some(Err(error)) => return Some(Err(Failure::Transport(error))),
                None => return self.weaver.rest().map(Ok),
            }
        }
    }
}
