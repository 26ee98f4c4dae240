//! The OpenAPI document, made from the handlers' own annotations, and the page that shows it.
//!
//! An annotation describes the properties of its route. The common properties of all routes are added here: refusals
//! (`openapi/common.rs`) and authentication (`openapi/access.rs`).

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, OnceLock},
};

use actix_web::{
    HttpResponse,
    http::header,
    web::{self, Bytes, Path},
};
use utoipa::{
    OpenApi as _,
    openapi::{
        OpenApi,
        path::{Operation, PathItem},
    },
};
use utoipa_swagger_ui::{Config, serve};

use crate::access::Mode;

mod access;
mod common;

use super::{
    Problem, at, connect, emitters, hybrid, jobs, journal, me, merge, metrics, named, operate, pages, proxy, publish,
    read, relays, samples, tickets, topics, webhooks,
};

/// Every route of the contract.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Millstream",
        description = "Parallel tasks, live events, merged streams.\n\n\
            Errors are problems as RFC 9457 defines them; `code` is for programs. Every GET route supports HEAD, and every route supports OPTIONS. \
            A method that a path does not support gets 405 and `Allow`; \
            a GET that accepts `text/event-stream` and is refused only for now gets 200, one `disconnect` frame and the end.",
    ),
    paths(
        connect::connect,
        connect::connect_group,
        connect::events,
        named::open,
        emitters::status,
        emitters::user_status,
        emitters::group_status,
        emitters::list,
        emitters::change,
        emitters::disconnect,
        emitters::disconnect_user,
        emitters::disconnect_group,
        me::me,
        tickets::issue,
        topics::list,
        topics::events,
        topics::purge,
        publish::to_user,
        publish::to_emitter,
        publish::filtered,
        publish::to_group,
        publish::to_all,
        publish::events,
        webhooks::receive,
        jobs::submit_and_stream,
        jobs::submit,
        jobs::list,
        jobs::get,
        jobs::cancel,
        jobs::events,
        jobs::retry,
        jobs::result,
        hybrid::execute,
        hybrid::parallel_tasks,
        proxy::connections,
        proxy::end,
        merge::merge,
        proxy::sample,
        proxy::get,
        proxy::post,
        relays::create,
        relays::list,
        relays::get,
        relays::delete,
        relays::restart,
        relays::events,
        samples::parallel,
        samples::flow,
        samples::rate_limited,
        samples::progress,
        samples::orders,
        samples::quotes,
        operate::healthz,
        operate::readyz,
        journal::inspect,
        journal::export,
        journal::compact,
        journal::verify,
        metrics::metrics,
        pages::index,
    ),
    components(schemas(Problem))
)]
struct Annotated;

/// Path of the document.
const DOCUMENT: &str = "/openapi.json";
/// Path of the page that shows the document.
const DOCS: &str = "/docs/";

/// Routes whose handler is annotated with another path: the alias, then the path.
const ALIASES: [(&str, &str); 3] = [
    ("/api/sse/managed/broadcast/all", "/api/sse/managed/broadcast"),
    ("/api/sse/parallel-tasks", "/api/sse/emitter/parallel-tasks"),
    ("/api/sse/parallel-tasks-progress", "/api/sse/emitter/parallel-tasks"),
];

/// The routes, their parameters and responses.
static ROUTES: LazyLock<OpenApi> = LazyLock::new(|| {
    let mut document = Annotated::openapi();
    let paths = &mut document.paths.paths;
    for (alias, path) in ALIASES {
        let original = paths.get(path).expect("it is annotated").clone();
        let item = paths.entry(alias.to_owned()).or_default();
        item.post = original.post;
    }
    for (path, item) in paths {
        for (method, operation) in operations(item) {
            // Handlers of different files have equal names; an operation id must be unique.
            let words = path.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            let words: Vec<&str> = std::iter::once(method).chain(words).collect();
            operation.operation_id = Some(words.join("_").to_lowercase());
        }
    }
    document
});

pub(super) fn routes(mode: Mode) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        config
            .service(at(DOCUMENT).route(
                read().to(move || async move { HttpResponse::Ok().content_type("application/json").body(text(mode)) }),
            ))
            .service(at(DOCS.trim_end_matches('/')).route(
                read().to(|| async {
                    HttpResponse::TemporaryRedirect().insert_header((header::LOCATION, DOCS)).finish()
                }),
            ))
            .service(at(&format!("{DOCS}{{file:.*}}")).route(read().to(page)));
    }
}

/// A file of Swagger UI, embedded in the binary.
async fn page(file: Path<String>) -> Result<HttpResponse, Problem> {
    let mut pages = PAGES.lock().expect("no code that holds the lock panics");
    let (media, bytes) = match pages.get(&*file) {
        Some(page) => page.clone(),
        None => {
            let found = serve(&file, Arc::new(Config::from(DOCUMENT))).ok().flatten();
            let found =
                found.ok_or_else(|| Problem::unknown(format!("there is no page `{DOCS}{}`", file.escape_debug())))?;
            let bytes = match found.bytes {
                Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                Cow::Owned(bytes) => bytes.into(),
            };
            pages.entry(file.into_inner()).or_insert((found.content_type, bytes)).clone()
        }
    };
    Ok(HttpResponse::Ok().content_type(media).body(bytes))
}

/// The files of Swagger UI that were requested, each in memory once: media type and bytes by name.
static PAGES: LazyLock<Mutex<HashMap<String, (String, Bytes)>>> = LazyLock::new(Mutex::default);

/// The document as JSON, rendered once.
fn text(mode: Mode) -> Bytes {
    static OPEN: OnceLock<Bytes> = OnceLock::new();
    static TOKEN: OnceLock<Bytes> = OnceLock::new();
    let text = match mode {
        Mode::Open => &OPEN,
        Mode::Token => &TOKEN,
    };
    text.get_or_init(|| serde_json::to_vec(&document(mode)).expect("it is plain data").into()).clone()
}

/// The whole document of a node in this mode.
fn document(mode: Mode) -> OpenApi {
    let mut document = ROUTES.clone();
    access::schemes(document.components.get_or_insert_default(), mode);
    for (path, item) in &mut document.paths.paths {
        for (_, operation) in operations(item) {
            common::refusals(operation, path, mode);
            let streams = common::streams(operation);
            access::require(operation, path, mode, streams);
        }
    }
    document
}

/// The methods that a route supports, in the form of an `Allow` field; only pages are not in the document.
pub(super) fn allowed(pattern: &str) -> String {
    // The document has no regular expressions in path parameters.
    let pattern = pattern.replace(":.*}", "}");
    let Some(mut item) = ROUTES.paths.paths.get(&pattern).cloned() else { return "GET, HEAD, OPTIONS".into() };
    let methods = operations(&mut item).flat_map(|(method, _)| match method {
        "GET" => vec!["GET", "HEAD"],
        other => vec![other],
    });
    methods.chain(["OPTIONS"]).collect::<Vec<_>>().join(", ")
}

/// All paths of the document.
#[cfg(test)]
pub(super) fn paths() -> Vec<String> {
    ROUTES.paths.paths.keys().cloned().collect()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, post, put, patch, delete, .. } = item;
    let all = [("GET", get), ("POST", post), ("PUT", put), ("PATCH", patch), ("DELETE", delete)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}
