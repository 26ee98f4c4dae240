//! Large responses are built in turn: the bytes of a response are not counted before it is built.

use std::{future::Future, pin::Pin};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, web::Data};

use super::{Problem, Refusal};
pub(super) use crate::unsent::Size;
use crate::{node::Node, unsent::Making};

/// An argument of handlers whose responses may be large: the handler starts when it is its turn. The turn ends with the
/// request, when its response is being sent.
pub(super) struct Turn;

// === impl Turn ===

impl Turn {
    /// Waits for the turn of this request.
    pub(super) async fn take(node: &Node, request: &HttpRequest, size: Size) -> Result<Self, Problem> {
        let making = node.unsent.make(size).await.map_err(|_| {
            let detail = "too many responses wait for clients that do not read them (`server.max_unsent_bytes`)";
            Problem::refused(Refusal::TooManyAnswers, detail)
        })?;
        request.extensions_mut().insert(making);
        Ok(Self)
    }

    /// Waits for the turn, unless the request already has it.
    pub(super) async fn take_another(node: &Node, request: &HttpRequest, size: Size) -> Result<Self, Problem> {
        if request.extensions().contains::<Making>() {
            return Ok(Self);
        }
        Self::take(node, request, size).await
    }

    /// Returns the turn before the request waits for something else.
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
