//! Requests that no route handles: unknown paths (404), other methods of a known path (405), and OPTIONS.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
};

use super::{Code, Problem, openapi};

/// The handler for unknown routes. `OPTIONS *` refers to the whole server (RFC 9110, section 9.3.7).
pub(super) async fn not_found(request: HttpRequest) -> HttpResponse {
    if *request.method() == Method::OPTIONS && request.path() == "*" {
        return options("GET, HEAD, POST, PATCH, DELETE, OPTIONS");
    }
    let detail = format!("there is nothing at `{}`; /docs lists all routes", request.path());
    Problem::unknown(detail).coded(Code::UnknownRoute).response()
}

/// The handler for methods that a route does not support. Every route supports OPTIONS.
pub(super) async fn other_method(request: HttpRequest) -> HttpResponse {
    let allowed = openapi::allowed(&request.match_pattern().unwrap_or_default());
    if *request.method() == Method::OPTIONS {
        return options(&allowed);
    }
    let detail = format!("`{}` takes {allowed}, not {}; /docs lists all routes", request.path(), request.method());
    let mut response = Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail).response();
    allow(&mut response, &allowed);
    response
}

fn options(allowed: &str) -> HttpResponse {
    let mut response = HttpResponse::NoContent().finish();
    allow(&mut response, allowed);
    response
}

fn allow(response: &mut HttpResponse, methods: &str) {
    let methods = HeaderValue::from_str(methods).expect("methods are header text");
    response.headers_mut().insert(header::ALLOW, methods);
}
