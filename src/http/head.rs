//! HEAD: the response to GET without its body (RFC 9110, section 9.3.2).
//!
//! Every GET route accepts HEAD. A handler with side effects (a stream, a job, a ticket) must check [`is_head`] first.

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

/// An empty body that reports the size of the GET body, so that the head is the same.
pub(super) struct NoBody(BodySize);

/// True for HEAD requests.
pub(super) fn is_head(request: &HttpRequest) -> bool {
    *request.method() == Method::HEAD
}

/// Replaces the body by an empty one that keeps its size.
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
