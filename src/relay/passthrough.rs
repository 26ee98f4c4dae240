//! The streams of the transparent proxy: the bytes of one upstream connection as they come, and heartbeats.
//!
//! One connection for one reader; no parsing, no queue, no reconnect. The reader reconnects, and its `Last-Event-ID` is
//! passed on. After silence a comment is added where no client can notice it; [`Weaver`] decides where that is.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::upstream::{
    Chunks, Connections, HeaderMap, Method, Purpose, Remote, Request, StreamPermit, Url, Via,
    events::{Failure, OpenedStream, open},
};

mod weaver;

pub use self::weaver::Weaver;

/// The request for a stream of a remote.
#[derive(Clone, Debug)]
pub struct ProxyRequest {
    /// The remote.
    pub remote: Arc<Remote>,
    /// The method.
    pub method: Method,
    /// The URL, made by [`Remote::client_url`].
    pub url: Url,
    /// Header fields beside the remote's own.
    pub headers: HeaderMap,
    /// The body of the request.
    pub body: Bytes,
    /// The `Via` of the client's request, which the request extends.
    pub via: Via,
}

/// The bytes of an open stream. Dropping it closes the connection.
pub struct Passthrough {
    chunks: Chunks,
    permit: StreamPermit,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    weaver: Weaver,
    /// The silence before a heartbeat.
    heartbeat: Duration,
}

// === impl ProxyRequest ===

impl ProxyRequest {
    /// Opens the stream; `None` if the remote answers that no events follow (204).
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// When the remote answers otherwise, or not at all.
    pub async fn open(self, connections: &Connections, heartbeat: Duration) -> Result<Option<Passthrough>, Failure> {
        let Self { remote, method, url, headers, body, via } = self;
        let permit = connections.acquire(&remote, &method, url.path(), Purpose::Proxy);
        let request = Request { via: Some(via), ..remote.request(method, &url, headers, body) };
        let idle = remote.read_timeout;
        let opened = open(remote.client().clone(), request, idle, permit).await.map_err(|refused| refused.failure)?;
        Ok(opened.map(|OpenedStream { chunks, permit, .. }| {
            let ended = Box::pin(permit.end_token().cancelled_owned());
            Passthrough { chunks, permit, ended, weaver: Weaver::default(), heartbeat }
        }))
    }
}

// === impl Passthrough ===

impl Passthrough {
    /// The next bytes, never empty; `None` when the remote has closed the stream in good order.
    ///
    /// # Errors
    /// When the stream breaks off; nothing follows.
    pub async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        let mut next_heartbeat = Instant::now() + self.heartbeat;
        loop {
            let chunk = tokio::select! {
                biased;
                () = &mut self.ended => return Some(Err(Failure::Ended)),
                chunk = self.chunks.next() => chunk,
                () = sleep_until(next_heartbeat) => {
                    next_heartbeat += self.heartbeat;
                    match self.weaver.heartbeat() {
                        Some(comment) => return Some(Ok(comment)),
                        None => continue,
                    }
                }
            };
            match chunk {
                Some(Ok(bytes)) => {
                    self.permit.count(bytes.len(), 0);
                    next_heartbeat = Instant::now() + self.heartbeat;
                    let bytes = self.weaver.weave(bytes);
                    if !bytes.is_empty() {
                        return Some(Ok(bytes));
                    }
                }
                Some(Err(error)) => return Some(Err(Failure::Transport(error))),
                None => return self.weaver.rest().map(Ok),
            }
        }
    }
}
