//! The answer to one request of HTTP/2, on its way to its client.

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

/// Memory of a stream whose client takes nothing, beside the bytes of its answer: its task and its state in the crate.
const STREAM_BYTES: usize = 4 << 10;

/// How an answer has ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ended {
    /// The connection is to take no more requests.
    pub(super) last: bool,
    /// The client took too little of it.
    pub(super) stuck: bool,
}

/// What waits for a client, and where it goes.
pub(super) struct Outgoing<'a> {
    pub(super) unsent: &'a Unsent,
    pub(super) room: Room,
    pub(super) rest: Rest,
    /// Cancelled by streams whose client takes nothing.
    pub(super) cut: CancellationToken,
}

/// What a response has for its client, or why there is no more.
enum Next {
    Bytes(Bytes),
    /// The client takes so many bytes.
    Room(usize),
    End,
    Failed,
    /// The client has left the stream, or its connection is gone.
    Gone,
    /// The client takes nothing; it is to be cut.
    Stuck,
}

/// The body of a response between the framework and the crate.
struct Sending<'a> {
    stream: SendStream<Bytes>,
    chunk: Bytes,
    out: &'a Outgoing<'a>,
    /// From the first time that something waits.
    account: Option<Account>,
    /// The number of flushes when bytes were written last: until the next one, they may still be in the crate's buffer.
    written: Option<u64>,
    /// Counted among those that wait for their client.
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
    // The body may go on for days.
    drop((response, respond));
    let stuck = match sent {
        Ok(stream) if !ends => {
            let chunk = Bytes::new();
            Sending { stream, chunk, out, account: None, written: None, waits: false }.run(body).await
        }
        _ => false,
    };
    if !stuck {
        out.room.finished();
    }
    Ended { last, stuck }
}

// === impl Sending ===

impl Sending<'_> {
    /// True when the client took too little.
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
                    self.stream.send_reset(Reason::CANCEL);
                    return true;
                }
                Next::Gone => return false,
            }
        }
    }

    /// The body is asked for more only when the client has taken what there was: a client that does not read slows down
    /// the source of its answer.
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
            self.set_waits(false);
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
        self.set_waits(true);
        // What was written last may still stand in the crate: then the windows are perhaps open.
        let flushing = self.written == Some(self.out.room.flushes());
        if flushing {
            self.out.room.wake_with_flush(cx);
        }
        let account = self.account.get_or_insert_with(|| self.out.unsent.account());
        if capacity > 0 {
            // The client takes it, and the socket does not: that has an account of its own.
            account.clear();
        } else if !flushing {
            account.blocked(Instant::now());
        }
        account.set(STREAM_BYTES + self.chunk.len() + self.out.rest.get(), self.out.rest.share());
        account.poll_end(cx).map(|_| Next::Stuck)
    }

    fn set_waits(&mut self, waits: bool) {
        if self.waits != waits {
            self.waits = waits;
            self.out.room.one_waits(waits);
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
        self.set_waits(false);
    }
}
