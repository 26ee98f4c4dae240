//! The OpenAPI document, made from the handlers' own annotations, and the page that shows it.

use std::sync::LazyLock;

use actix_web::web;
use utoipa::{
    OpenApi as _,
    openapi::{
        OpenApi,
        path::{Operation, PathItem},
    },
};
use utoipa_swagger_ui::SwaggerUi;

use super::{
    connect, emitters, error, hybrid, jobs, journal, merge, metrics, named, operate, pages, proxy, publish, relays,
    samples, tickets, topics, webhooks,
};

/// Every route of the contract.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(title = "Millstream", description = "Parallel tasks, live events, merged streams."),
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
    components(schemas(error::Problem))
)]
struct Annotated;

/// Routes whose handler is annotated with another path: the alias, then the path.
const ALIASES: [(&str, &str); 3] = [
    ("/api/sse/managed/broadcast/all", "/api/sse/managed/broadcast"),
    ("/api/sse/parallel-tasks", "/api/sse/emitter/parallel-tasks"),
    ("/api/sse/parallel-tasks-progress", "/api/sse/emitter/parallel-tasks"),
];

/// The whole document.
static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| {
    let mut document = Annotated::openapi();
    let paths = &mut document.paths.paths;
    for (alias, path) in ALIASES {
        let original = paths.get(path).expect("it is annotated").clone();
        let item = paths.entry(alias.to_owned()).or_default();
        item.post = original.post;
    }
    for (path, item) in paths {
        for (method, operation) in operations(item) {
            // The names of the handlers repeat from file to file; an id must not.
            let words = path.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
            let words: Vec<&str> = std::iter::once(method).chain(words).collect();
            operation.operation_id = Some(words.join("_").to_lowercase());
        }
    }
    document
});

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", DOCUMENT.clone()));
    config.service(web::redirect("/docs", "/docs/"));
}

/// The methods that a route takes, as an `Allow` field has them; only pages are not in the document.
pub(super) fn allowed(pattern: &str) -> String {
    // The document has no expressions behind the names of a path's parts.
    let pattern = pattern.replace(":.*}", "}");
    let Some(mut item) = DOCUMENT.paths.paths.get(&pattern).cloned() else { return "GET, HEAD".into() };
    operations(&mut item).map(|(method, _)| method).collect::<Vec<_>>().join(", ")
}

/// All paths of the document.
#[cfg(test)]
pub(super) fn paths() -> Vec<String> {
    DOCUMENT.paths.paths.keys().cloned().collect()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, post, put, patch, delete, .. } = item;
    let all = [("GET", get), ("POST", post), ("PUT", put), ("PATCH", patch), ("DELETE", delete)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}
