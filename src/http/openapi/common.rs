//! Responses of the gate and of the body readers, which any operation may give; added to the document in one place.
//!
//! A handler's own annotation names its successes and its own refusals, and its texts take precedence. 405 is not
//! included: it is the response to a method without an operation, with the field `Allow`.

use utoipa::openapi::{
    Content, Header, ObjectBuilder, Ref, RefOr, Response, Type,
    path::Operation,
    schema::{KnownFormat, SchemaFormat},
};

use super::access;
use crate::{access::Mode, http::error, sse};

/// Refusals that any operation may return.
const ALWAYS: [(&str, &str); 4] = [
    ("400", "path, query or a header field cannot be read, or the query has a parameter that the route does not know"),
    ("403", "the caller may not do this; in open mode: the request's `Host` or `Origin` is not one of this machine"),
    ("429", "too many requests"),
    ("503", "the node is full or stopping, or cannot do it for now"),
];
/// Refusals of operations that need a caller.
const TOKEN: [(&str, &str); 1] = [("401", "there is no token, or it is not valid")];
/// Refusals of operations that read a body.
const BODY: [(&str, &str); 3] = [
    ("408", "the body did not come within `server.body_timeout_ms`"),
    ("413", "the body, or an event made of it, is too large"),
    ("415", "the body is of another media type, or compressed"),
];
/// Refusals of operations that parse their body.
const FORM: [(&str, &str); 1] = [("422", "the body can be read, and is wrong; `errors` names the fields")];

/// Adds the refusals, and gives each refusal the schema of a problem.
pub(super) fn refusals(operation: &mut Operation, path: &str, mode: Mode) {
    let body = operation.request_body.as_ref().and_then(|body| match body {
        RefOr::T(body) => Some(body.content.keys().any(|media| media == "application/json")),
        RefOr::Ref(_) => None,
    });
    let token = mode != Mode::Open && !access::is_public(path);
    let groups =
        [(true, &ALWAYS[..]), (token, &TOKEN[..]), (body.is_some(), &BODY[..]), (body == Some(true), &FORM[..])];
    let responses = &mut operation.responses.responses;
    for (status, description) in groups.into_iter().filter(|(applies, _)| *applies).flat_map(|(_, all)| all) {
        responses.entry((*status).to_owned()).or_insert_with(|| RefOr::T(Response::new(*description)));
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if status.starts_with(['4', '5']) {
            let problem = Content::new(Some(Ref::from_schema_name("Problem")));
            response.content.insert(error::MEDIA_TYPE.to_owned(), RefOr::T(problem));
        }
        for (name, description) in fields(status) {
            let number = ObjectBuilder::new()
                .schema_type(Type::Integer)
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
                .minimum(Some(0));
            let mut header = Header::new(number);
            header.description = Some((*description).to_owned());
            response.headers.insert((*name).to_owned(), RefOr::T(header));
        }
    }
}

/// True if the operation returns an event stream.
pub(super) fn streams(operation: &Operation) -> bool {
    operation.responses.responses.values().any(|response| match response {
        RefOr::T(response) => response.content.contains_key(sse::MEDIA_TYPE),
        RefOr::Ref(_) => false,
    })
}

/// Header fields with the time to try again.
fn fields(status: &str) -> &'static [(&'static str, &'static str)] {
    const RETRY: (&str, &str) = ("Retry-After", "seconds after which to try again");
    match status {
        "429" => &[
            RETRY,
            ("RateLimit-Limit", "requests that the caller has in all"),
            ("RateLimit-Remaining", "requests that are left"),
            ("RateLimit-Reset", "seconds until there are all again"),
        ],
        "503" => &[RETRY],
        _ => &[],
    }
}
