//! Compresses JSON responses for clients that accept gzip.
//!
//! The framework's middleware also compresses event streams: each event would wait for a flush, and each connection
//! would hold a compressor. So only bodies that are complete are compressed here. BREACH guesses a secret from the
//! length of compressed responses that contain both the secret and text of the attacker. Responses contain no tokens
//! (specs are redacted), and a page of another origin cannot read or time them unless the origin is listed.

use std::io::Write;

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    dev::ServiceResponse,
    http::header::{self, HeaderValue},
    web::{self, Bytes},
};
use flate2::{Compression, write::GzEncoder};

use super::{
    accept,
    turn::{Size, Turn},
};
use crate::node::Node;

/// Smaller bodies fit into one packet without compression.
const LEAST: u64 = 1024;
/// Larger bodies are compressed on a blocking thread. Compressing this many bytes takes about a millisecond.
const INLINE: usize = 64 << 10;

/// Returns the response, compressed if it is large enough and the client accepts gzip.
pub(super) async fn pack(node: &Node, mut response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let headers = response.headers();
    let media = headers.get(header::CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim();
    let json = media == "application/json" || media.ends_with("+json");
    let large = matches!(response.response().body().size(), BodySize::Sized(bytes) if bytes >= LEAST);
    if !json || !large || headers.contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if !accept::takes_gzip(response.request().headers()) {
        return response;
    }
    // A compressed copy of a shared body, such as the OpenAPI document. If there is no memory for it, the shared body
    // is sent.
    if Turn::take_another(node, response.request(), Size::Small).await.is_err() {
        return response;
    }
    let (request, response) = response.into_parts();
    let (mut response, body) = response.into_parts();
    let body = match body.try_into_bytes() {
        Ok(bytes) => {
            let packed = if bytes.len() <= INLINE {
                gzip(&bytes)
            } else {
                let whole = bytes.clone();
                web::block(move || gzip(&whole)).await.ok().flatten()
            };
            if packed.is_some() {
                response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            BoxBody::new(packed.unwrap_or(bytes))
        }
        Err(body) => body,
    };
    ServiceResponse::new(request, response.set_body(body))
}

fn gzip(bytes: &[u8]) -> Option<Bytes> {
    let mut packer = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    packer.write_all(bytes).ok()?;
    packer.finish().ok().map(Bytes::from)
}
