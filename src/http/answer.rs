//! The body of every response: as long as it is there, its request is being answered, and no head is waited for.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    body::{BodySize, MessageBody},
    web::Bytes,
};
use pin_project_lite::pin_project;

use super::unread::Unread;
use crate::transport::Answering;

pin_project! {
    /// A body, the mark on its connection, and what the client still sends.
    pub(super) struct Answer<B> {
        #[pin]
        body: B,
        _answering: Option<Answering>,
        unread: Option<Unread>,
    }
}

// === impl Answer ===

impl<B> Answer<B> {
    /// Without a mark where the connection is not the node's own, or is shared by requests.
    pub(super) fn new(body: B, answering: Option<Answering>, unread: Option<Unread>) -> Self {
        Self { body, _answering: answering, unread }
    }
}

impl<B: MessageBody> MessageBody for Answer<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, B::Error>>> {
        self.project().body.poll_next(cx)
    }

    /// A body that is there as a whole goes out in the same turn: it is as good as answered, and need not be boxed.
    fn try_into_bytes(self) -> Result<Bytes, Self> {
        if self.unread.is_some() {
            return Err(self);
        }
        let Self { body, _answering: answering, unread } = self;
        body.try_into_bytes().map_err(|body| Self::new(body, answering, unread))
    }
}
