//! Sends the response to one HTTP/2 request.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use actix_http::{ConnectionType, Response};
use actix_web::body::MessageBody;
use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::message::head;
use crate::{
    transport::{Rest, Room},
    unsent::{Account, Unsent},
};

/// Memory of a blocked stream in addition to its response bytes: its task and its state in the crate.
const STREAM_BYTES: usize = 4 << 10;

/// How a response has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// The connection must accept no further requests.
    pub(super) last: bool,
    /// The client read the response too slowly.
    pub(super) stuck: bool,
}

/// The accounting and the connection of a response.
pub(super) struct Outgoing<'a> {
    pub(super) unsent: &'a Unsent,
    pub(super) room: Room,
    pub(super) rest: Rest,
    /// Cancelled by event streams whose client does not read.
    pub(super) cut: CancellationToken,
}

/// The next step of sending.
enum Next {
    Bytes(Bytes),
    /// This number of bytes can be sent.
    Room(usize),
    End,
    Failed,
    /// The client has reset the stream, or the connection has ended.
    Gone,
    /// The client does not read; the stream must be reset.
    Stuck,
}

/// A response body that is passed from the framework to the crate.
struct Sending<'a> {
    stream: SendStream<Bytes>,
    chunk: Bytes,
    out: &'a Outgoing<'a>,
    /// Created when bytes wait for the first time.
    account: Option<Account>,
    /// The flush count at the last write. Until the next flush, the written bytes may still be in the crate's buffer.
    written: Option<u64>,
    /// True while this stream is counted as blocked.
    waits: bool,
}

/// Sends a response.
pub(super) async fn send<B: MessageBody>(
    response: Response<B>,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    out: &Outgoing<'_>,
) -> Ended {
    let (response, body) = response.into_parts();
    let last = response.head().connection_type() == ConnectionType::Close;
    let size = body.size();
    let ends = is_head || size.is_eof();
    let sent = respond.send_response(head(&response, size), ends);
    // The body may last for days, so free the head now.
    drop((response, respond));
    let stuck = match sent {
        Ok(stream) if !ends => {
            let chunk = Bytes::new();
            Sending { stream, chunk, out, account: None, written: None, waits: false }.run(body).await
        }
        _ => false,
    };
    Ended { last, stuck }
}

// === impl Sending ===

impl Sending<'_> {
    /// Returns true if the client read too slowly.
    async fn run(&mut self, body: impl MessageBody) -> bool {
        let mut body = pin!(body);
        let mut cut = pin!(self.out.cut.cancelled());
        loop {
            match poll_fn(|cx| self.poll_next(body.as_mut(), cut.as_mut(), cx)).await {
                Next::Bytes(bytes) => {
                    self.chunk = bytes;
                    self.stream.reserve_capacity(self.chunk.len());
                }
                Next::Room(room) => {
                    let bytes = self.chunk.split_to(room.min(self.chunk.len()));
                    self.wrote(bytes.len());
                    if self.stream.send_data(bytes, false).is_err() {
                        return false;
                    }
                }
                Next::End => {
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return false;
                }
                Next::Failed => {
                    self.stream.send_reset(Reason::INTERNAL_ERROR);
                    return false;
                }
                Next::Stuck => {
                    self.no_longer_waits(true);
                    self.stream.send_reset(Reason::CANCEL);
                    return true;
                }
                Next::Gone => return false,
            }
        }
    }

    /// Polls the body only after the previous chunk was sent, so that a slow client slows down the source of its
    /// response.
    fn poll_next<B: MessageBody>(
        &mut self,
        body: Pin<&mut B>,
        cut: Pin<&mut impl Future<Output = ()>>,
        cx: &mut Context<'_>,
    ) -> Poll<Next> {
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Next::Gone);
        }
        if cut.poll(cx).is_ready() {
            return Poll::Ready(Next::Stuck);
        }
        if self.chunk.is_empty() {
            self.no_longer_waits(false);
            let next = body.poll_next(cx);
            if next.is_pending()
                && let Some(account) = &mut self.account
            {
                account.clear();
                account.set(0, None);
            }
            return Poll::Ready(match ready!(next) {
                Some(Ok(bytes)) => Next::Bytes(bytes),
                Some(Err(_)) => Next::Failed,
                None => Next::End,
            });
        }
        if self.stream.capacity() == 0
            && let Poll::Ready(capacity) = self.stream.poll_capacity(cx)
            && !matches!(capacity, Some(Ok(_)))
        {
            return Poll::Ready(Next::Gone);
        }
        let capacity = self.stream.capacity();
        if capacity > 0
            && let Poll::Ready(room) = self.out.room.poll_room(cx)
        {
            return Poll::Ready(Next::Room(room.min(capacity)));
        }
        if !self.waits {
            self.waits = true;
            self.out.room.waits();
        }
        // The last bytes may still be in the crate's buffer. Then the missing capacity does not mean that the client's
        // window is closed.
        let flushing = self.written == Some(self.out.room.flushes());
        if flushing {
            self.out.room.wake_with_flush(cx);
        }
        let account = self.account.get_or_insert_with(|| self.out.unsent.account());
        if capacity > 0 {
            // The client's window is open but the socket is full; the connection has its own account for that.
            account.clear();
        } else if !flushing {
            account.blocked(Instant::now());
        }
        account.set(STREAM_BYTES + self.chunk.len() + self.out.rest.get(), self.out.rest.share());
        account.poll_end(cx).map(|_| Next::Stuck)
    }

    fn no_longer_waits(&mut self, stuck: bool) {
        if std::mem::take(&mut self.waits) {
            self.out.room.waits_no_longer(stuck);
        }
    }

    fn wrote(&mut self, bytes: usize) {
        self.written = Some(self.out.room.flushes());
        self.out.room.wrote(bytes);
        if let Some(account) = &mut self.account {
            account.took(bytes, Instant::now());
        }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.no_longer_waits(false);
    }
}
