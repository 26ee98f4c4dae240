//! Large answers take turns: until one is made, nothing of it is counted among the bytes that wait for their clients.

use std::{future::Future, pin::Pin};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, web::Data};

use super::{Code, Problem};
pub(super) use crate::unsent::Size;
use crate::{app::Node, unsent::Making};

/// An argument of handlers whose answers may be large: the handler begins when it is its turn. The turn ends with the
/// request, which is there until the answer is on its way.
pub(super) struct Turn;

/// When to try again where there is no room, in seconds.
const RETRY: u64 = 5;

// === impl Turn ===

impl Turn {
    /// Waits for the turn of this request.
    pub(super) async fn take(node: &Node, request: &HttpRequest, size: Size) -> Result<Self, Problem> {
        let making = node.unsent.make(size).await.map_err(|_| {
            let detail = "too many answers wait for clients that do not take them (`server.max_unsent_bytes`)";
            Problem::unavailable(detail, RETRY).coded(Code::TooManyAnswers)
        })?;
        request.extensions_mut().insert(making);
        Ok(Self)
    }

    /// The same where it may already be its turn.
    pub(super) async fn take_another(node: &Node, request: &HttpRequest, size: Size) -> Result<Self, Problem> {
        if request.extensions().contains::<Making>() {
            return Ok(Self);
        }
        Self::take(node, request, size).await
    }

    /// Gives the turn back: the request has to wait for something else.
    pub(super) fn end(request: &HttpRequest) {
        request.extensions_mut().remove::<Making>();
    }
}

impl FromRequest for Turn {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let node = request.app_data::<Data<Node>>().expect("the routes are mounted with their node").clone();
            Self::take(&node, &request, Size::Large).await
        })
    }
}
