//! The body of every response. While it exists, its request is being answered, and the time limit for heads does not
//! run.
//!
//! The body is sent in pieces, so that the connection never copies more than one piece. It reports its unsent bytes to
//! the connection: these are the memory that a client holds if it does not read.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use actix_web::{
    body::{BodySize, MessageBody},
    web::Bytes,
};
use pin_project_lite::pin_project;

use super::unread::Unread;
use crate::{
    transport::{Answering, Rest},
    unsent::Share,
};

/// Maximum size of a piece. A response head and two pieces fit into the framework's buffer without growing it beyond
/// 16 KiB.
const PIECE: usize = 7 << 10;

pin_project! {
    /// A body with its unsent bytes, the guard that marks its connection as responding, and the unread request body.
    pub(super) struct Answer<B> {
        #[pin]
        body: Option<B>,
        whole: Bytes,
        own: bool,
        size: BodySize,
        out: Out,
        _answering: Option<Answering>,
        unread: Option<Unread>,
    }
}

/// Reports the unsent bytes to the connection.
struct Out {
    rest: Option<Rest>,
    /// The bytes belong to this response even if they look shared.
    owns: bool,
    _shared: Option<Shared>,
}

/// Marks a response whose body is shared with other responses.
#[derive(Clone, Debug)]
pub(super) struct Shared(pub(super) Arc<Share>);

/// Memory that a response holds beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Holds {
    /// This number of bytes.
    Beside(usize),
    /// This number of bytes, and the upstream connection of its bytes, which are parts of that connection's buffer.
    Upstream(usize),
}

// === impl Out ===

impl Out {
    fn new(rest: Option<Rest>, shared: Option<Shared>, holds: Option<Holds>) -> Self {
        if let (Some(rest), Some(Shared(share))) = (&rest, &shared) {
            rest.set_share(Some(share.clone()));
        }
        if let (Some(rest), Some(Holds::Beside(bytes) | Holds::Upstream(bytes))) = (&rest, holds) {
            rest.set_beside(bytes);
        }
        Self { rest, owns: matches!(holds, Some(Holds::Upstream(_))), _shared: shared }
    }

    /// Reports the unsent bytes. Bytes that are not `own` count as 0, since other holders keep them in memory anyway.
    fn report(&self, bytes: usize, own: bool) {
        if let Some(rest) = &self.rest {
            rest.set(if own || self.owns { bytes } else { 0 });
        }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Some(rest) = &self.rest {
            rest.set(0);
            rest.set_beside(0);
            rest.set_share(None);
        }
    }
}

// === impl Answer ===

impl<B: MessageBody> Answer<B> {
    /// The responding mark is absent if the connection is not the node's own, or is shared by requests.
    pub(super) fn new(
        body: B,
        rest: Option<Rest>,
        (shared, holds): (Option<Shared>, Option<Holds>),
        answering: Option<Answering>,
        unread: Option<Unread>,
    ) -> Self {
        let size = body.size();
        let (body, whole) = match body.try_into_bytes() {
            Ok(whole) => (None, whole),
            Err(body) => (Some(body), Bytes::new()),
        };
        let out = Out::new(rest, shared, holds);
        // Shared bytes need no extra memory: assets of the program, shared copies.
        let own = whole.is_unique();
        out.report(whole.len(), own);
        Self { body, whole, own, size, out, _answering: answering, unread }
    }
}

impl<B: MessageBody> MessageBody for Answer<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        let this = self.project();
        if this.whole.is_empty() {
            let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
            match std::task::ready!(body.poll_next(cx)) {
                Some(Ok(bytes)) => {
                    *this.own = bytes.is_unique();
                    *this.whole = bytes;
                }
                end => return Poll::Ready(end),
            }
        }
        let piece = this.whole.split_to(this.whole.len().min(PIECE));
        this.out.report(this.whole.len(), *this.own);
        Poll::Ready(Some(Ok(piece)))
    }

    /// A complete small body is sent immediately and need not be boxed.
    fn try_into_bytes(self) -> Result<Bytes, Self> {
        if self.unread.is_some() || self.body.is_some() || self.whole.len() > PIECE {
            return Err(self);
        }
        Ok(self.whole)
    }
}
