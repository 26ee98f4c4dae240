//! Who is calling: the one seam through which access control comes in.
//!
//! In open mode a token or `X-User-ID` merely names the user. An embedding program puts an [`Identity`] into the
//! request's extensions in a middleware of its own; then nothing else counts.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderName},
};

use super::{Problem, query::Query};
use crate::{access::Identity, topic::Topic};

const USER: HeaderName = HeaderName::from_static("x-user-id");
const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
/// The cookie that carries a token.
const COOKIE: &str = "millstream_token";

/// In the order of the contract: headers before the cookie before the query.
pub(super) fn identity(request: &HttpRequest) -> Result<Identity, Problem> {
    if let Some(identity) = request.extensions().get::<Identity>() {
        return Ok(identity.clone());
    }
    let named = named(request, &USER)?
        .or(named(request, &TOKEN)?)
        .or(bearer(request)?)
        .or_else(|| cookie(request))
        .or_else(|| Query::of(request).first("access_token").map(str::to_owned));
    let Some(user) = named.filter(|user| !user.is_empty()) else { return Ok(Identity::anybody()) };
    Topic::user(&user)
        .map_err(|invalid| Problem::malformed(format!("the user or token cannot name a user: {invalid}")))?;
    Ok(Identity::user(user))
}

impl FromRequest for Identity {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(identity(request))
    }
}

/// The cookies of a request are parsed and kept with it at the first question, so it is asked only where there are any.
fn cookie(request: &HttpRequest) -> Option<String> {
    request.headers().get(header::COOKIE)?;
    request.cookie(COOKIE).map(|cookie| cookie.value().to_owned())
}

fn named(request: &HttpRequest, header: &HeaderName) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get(header) else { return Ok(None) };
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(_) => Err(Problem::malformed(format!("the header `{header}` has characters outside of visible ASCII"))),
    }
}

fn bearer(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let value = named(request, &header::AUTHORIZATION)?;
    Ok(value.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    }))
}
