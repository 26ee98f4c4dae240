//! Bodies that are not read to their end: the connection ends with the response.
//!
//! The framework reads the rest of a chunked body after its handler has dropped it, so that the connection can be
//! reused (actix-http, `h1/dispatcher.rs`: `should_close_for_unread_payload`). A rejected client could then send
//! without end, or a byte now and then, and keep the connection. So the body is held until the response is sent: then
//! it counts as unread, and the framework closes the connection.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    HttpMessage,
    dev::{Payload, ServiceRequest},
    error::PayloadError,
    http::header,
    web::Bytes,
};
use futures::{Stream, stream::poll_fn};

use super::connection::Connection;

/// The chunked body of a request, held in addition to its reader.
#[derive(Clone)]
pub(super) struct Unread(Rc<RefCell<Payload>>);

// === impl Unread ===

impl Unread {
    /// Holds a chunked body; other bodies need no guard.
    pub(super) fn of(request: &mut ServiceRequest) -> Option<Self> {
        if !request.headers().contains_key(header::TRANSFER_ENCODING) {
            return None;
        }
        let unread = Self(Rc::new(RefCell::new(request.take_payload())));
        request.set_payload(Payload::Stream { payload: Box::pin(unread.clone()) });
        Some(unread)
    }
}

/// Sends `100 Continue` when the handler begins to read the body, and not for a rejected request.
pub(super) fn ask_first(request: &mut ServiceRequest) {
    let handover = Connection::read(request.request(), Connection::handover).flatten();
    let Some((handover, _)) = handover.filter(|(handover, _)| handover.expects()) else { return };
    let mut payload = request.take_payload();
    let mut asks = Some(handover);
    let body = poll_fn(move |cx| {
        if let Some(handover) = asks.take() {
            handover.ask();
        }
        Pin::new(&mut payload).poll_next(cx)
    });
    request.set_payload(Payload::Stream { payload: Box::pin(body) });
}

impl Stream for Unread {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}
