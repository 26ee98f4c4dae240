//! Request bodies: bounded in size and time, with errors that name the place of the fault.

use std::{future::Future, pin::Pin, time::Duration};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::{StatusCode, Version, header},
    web::{Bytes, BytesMut, Data},
};
use actix_web_lab::header::ContentLength;
use futures::StreamExt;
use serde::de::DeserializeOwned;

use super::{Code, Identity, Problem, Refusal};
use crate::{
    json::{self, Objects, without_mark},
    node::Node,
};

/// A JSON body. 415 for another media type, 400 for text that is not JSON, 422 for JSON of the wrong shape.
///
/// A body without `Content-Type` is read as JSON.
pub(super) struct Json<T> {
    pub(super) value: T,
}

/// A JSON body as it is, within the same bounds and with the same 415.
pub(super) struct Raw(pub(super) Bytes);

// === impl Json ===

impl<T: DeserializeOwned> FromRequest for Json<T> {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let media = media_type(request);
        let reading = read(request, payload);
        let request = request.clone();
        Box::pin(async move {
            media?;
            reserve(&request).await?;
            let raw = reading.await?;
            Ok(Self { value: parse(&raw)? })
        })
    }
}

// === impl Raw ===

impl FromRequest for Raw {
    type Error = Problem;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Problem>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let media = media_type(request);
        let reading = read(request, payload);
        Box::pin(async move {
            media?;
            reading.await.map(Self)
        })
    }
}

/// Waits for memory for a large body. The request holds the memory until its response.
async fn reserve(request: &HttpRequest) -> Result<(), Problem> {
    let node = request.app_data::<Data<Node>>().expect("the routes are mounted with their node").clone();
    let server = &node.config.server;
    // A body of unknown length may have up to `body_limit_bytes`.
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let unknown = if chunked || request.version() == Version::HTTP_2 { server.body_limit_bytes } else { 0 };
    let bytes = request.get_header().map_or(unknown, ContentLength::into).min(server.body_limit_bytes);
    let owner = request.extensions().get::<Identity>().and_then(|identity| identity.user.as_deref().map(Into::into));
    let time = Duration::from_millis(server.body_timeout_ms);
    match tokio::time::timeout(time, node.memory.spec(&owner, bytes)).await {
        Ok(Some(held)) => {
            request.extensions_mut().insert(held);
            Ok(())
        }
        // A small body needs no reservation.
        Ok(None) => Ok(()),
        Err(_) => {
            let detail =
                "the node reads as many large bodies as it has memory for (`jobs.max_memory_bytes`); try again later";
            Err(Problem::refused(Refusal::TooManyBodies, detail))
        }
    }
}

/// 400 if the text is not JSON, 422 if the JSON has the wrong shape; the error then names the field.
fn parse<T: DeserializeOwned>(raw: &[u8]) -> Result<T, Problem> {
    use serde_json::error::Category;
    let raw = without_mark(raw);
    // Tracking the path doubles the cost of the parse. So only a body with an error is parsed with it.
    if let Ok(Objects(value)) = serde_json::from_slice(raw) {
        return Ok(value);
    }
    let malformed = |error: &dyn std::fmt::Display| {
        Problem::malformed(format!("the body is no JSON: {error}")).coded(Code::MalformedJson)
    };
    // Some faults show only when a value is not read as raw text: half of a surrogate pair, and nesting.
    let text = std::str::from_utf8(raw).map_err(|error| malformed(&error))?;
    json::compact(text).map_err(|invalid| malformed(&invalid))?;
    let mut json = serde_json::Deserializer::from_slice(raw);
    let Objects(value) = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        match error.inner() {
            inner if inner.classify() != Category::Data => malformed(inner),
            inner if field == "." => Problem::wrong(inner.to_string()),
            inner => Problem::field(field, inner.to_string()),
        }
    })?;
    json.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

/// 415 for a compressed body.
pub(super) fn uncoded(request: &HttpRequest) -> Result<(), Problem> {
    let plain = |coding: &&header::HeaderValue| {
        let text = coding.to_str().unwrap_or("?");
        text.split(',').map(str::trim).all(|one| one.is_empty() || one.eq_ignore_ascii_case("identity"))
    };
    let mut codings = request.headers().get_all(header::CONTENT_ENCODING);
    let Some(coding) = codings.find(|coding| !plain(coding)) else { return Ok(()) };
    let detail = format!("the body is declared to be coded as {coding:?}; send it as it is");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail).coded(Code::UnsupportedEncoding))
}

/// 415 for a declared media type other than JSON.
pub(super) fn media_type(request: &HttpRequest) -> Result<(), Problem> {
    uncoded(request)?;
    let media = request.content_type().to_ascii_lowercase();
    let missing = media.is_empty() && !request.headers().contains_key(header::CONTENT_TYPE);
    if missing || media == "application/json" || media.ends_with("+json") {
        return Ok(());
    }
    let detail = format!("the body is declared as `{media}`; send JSON with `Content-Type: application/json`");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// Reads the whole body within the limits of the node.
pub(super) fn read(
    request: &HttpRequest,
    payload: &mut Payload,
) -> impl Future<Output = Result<Bytes, Problem>> + use<> {
    let server = &request.app_data::<Data<Node>>().expect("the routes are mounted with their node").config.server;
    let (limit, time) = (server.body_limit_bytes, Duration::from_millis(server.body_timeout_ms));
    let declared: Option<ContentLength> = request.get_header();
    let mut payload = payload.take();
    async move {
        let too_large = || {
            let detail = format!("the body has more than {limit} bytes (body_limit_bytes)");
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        };
        if declared.is_some_and(|bytes| bytes > limit) {
            return Err(too_large());
        }
        let whole = async {
            let mut body = BytesMut::new();
            while let Some(chunk) = payload.next().await {
                let chunk = chunk.map_err(|error| Problem::malformed(format!("the body cannot be read: {error}")))?;
                if body.len() + chunk.len() > limit {
                    return Err(too_large());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        let late = |_| {
            let detail = format!("the body did not come within {} ms (body_timeout_ms)", time.as_millis());
            Problem::new(StatusCode::REQUEST_TIMEOUT, detail)
        };
        tokio::time::timeout(time, whole).await.map_err(late)?
    }
}
