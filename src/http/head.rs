//! HEAD: the answer to GET without its body (RFC 9110, section 9.3.2).
//!
//! Every GET route takes HEAD. A handler with effects (a stream, a job, a ticket) asks [`is_head`] before the effect.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use actix_web::{
    HttpRequest,
    body::{BodySize, BoxBody, MessageBody},
    http::Method,
    web::Bytes,
};

/// No bytes, with the size that the body of GET has: the head is the same.
pub(super) struct NoBody(BodySize);

/// Whether only the head is asked for.
pub(super) fn is_head(request: &HttpRequest) -> bool {
    *request.method() == Method::HEAD
}

/// Drops the body, and what it reads from, and keeps its size.
pub(super) fn without_body(body: &BoxBody) -> BoxBody {
    BoxBody::new(NoBody(body.size()))
}

impl MessageBody for NoBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        self.0
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}
