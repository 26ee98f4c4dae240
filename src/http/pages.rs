//! The pages, which are embedded in the binary.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use actix_web::{
    HttpResponse,
    http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue, REFERRER_POLICY},
    web::{self, Bytes},
};
use rust_embed::Embed;

use super::{Problem, at};

/// All files in `static/`.
#[derive(Embed)]
#[folder = "static/"]
struct Assets;

/// The policy of the node's own pages: only resources of the node itself; no inline script, no inline style.
const POLICY: &str =
    "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// The policy of Swagger UI at `/docs/`, a third-party page that sets styles from its scripts.
const DOCS_POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

/// Adds a policy to each page.
pub(super) fn guard(headers: &mut HeaderMap) {
    let is_page = headers.get(CONTENT_TYPE).is_some_and(|media| media.as_bytes().starts_with(b"text/html"));
    if is_page && !headers.contains_key(CONTENT_SECURITY_POLICY) {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(DOCS_POLICY));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
}

/// True for pages, which links of other sites may open.
pub(super) fn is_page(path: &str) -> bool {
    !path.starts_with("/api/") && path != "/events"
}

pub(super) fn routes(config: &mut web::ServiceConfig) {
    for name in Assets::iter() {
        let path = format!("/{name}");
        config.service(at(&path).route(super::read().to(move || {
            let name = name.clone();
            async move { asset(&name) }
        })));
    }
}

/// The dashboard.
#[utoipa::path(get, path = "/", tag = "operating", responses((status = 200, description = "a page", body = String, content_type = "text/html")))]
pub(super) async fn index() -> Result<HttpResponse, Problem> {
    asset("index.html")
}

/// The files; each is in memory once.
static FILES: LazyLock<HashMap<Cow<'static, str>, Bytes>> = LazyLock::new(|| {
    let bytes = |file: Cow<'static, [u8]>| match file {
        Cow::Borrowed(data) => Bytes::from_static(data),
        Cow::Owned(data) => Bytes::from(data),
    };
    Assets::iter().filter_map(|name| Some((name.clone(), bytes(Assets::get(&name)?.data)))).collect()
});

fn asset(name: &str) -> Result<HttpResponse, Problem> {
    let file = FILES.get(name).ok_or_else(|| Problem::unknown(format!("there is no page `{name}`")))?;
    let media = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    Ok(HttpResponse::Ok()
        .content_type(media)
        .insert_header(("Cache-Control", "no-cache"))
        .insert_header(("Content-Security-Policy", POLICY))
        .insert_header(("Referrer-Policy", "no-referrer"))
        .body(file.clone()))
}
