//! HTTP: one resource per file; parse, call a handle, render. The only place that knows status codes.
//!
//! `routes` is the route table of the contract; the OpenAPI document in `openapi.rs` is checked against it.

use actix_web::{Resource, Route, guard, middleware::from_fn, web};
use actix_web_lab::middleware::CatchPanic;

use crate::{access::Identity, node::Node};

mod accept;
mod address;
mod answer;
mod audit;
mod body;
mod code;
mod compress;
mod connect;
mod connection;
mod emitter;
mod emitters;
mod error;
mod fallback;
mod flood;
mod frame_schemas;
mod frontend;
mod gate;
mod h2;
mod head;
mod heads;
mod hybrid;
mod identity;
mod jobs;
mod journal;
mod limited;
mod listen;
mod listing;
mod me;
mod merge;
mod metrics;
mod named;
mod openapi;
mod operate;
mod origins;
mod pages;
mod permit;
mod polls;
mod proxy;
mod publish;
mod pull;
mod query;
mod refusal;
mod relays;
mod request_id;
mod requests;
mod results;
mod samples;
mod stream;
mod tickets;
mod topics;
mod turn;
mod unread;
mod webhooks;

pub(crate) use self::listen::{IDLE, bind, serve};
pub use self::{
    code::Code,
    connection::{Connection, ConnectionLimiter},
    emitter::Emitter,
    error::Problem,
    frontend::Frontend,
    refusal::Refusal,
};

/// Puts all routes of a node into an actix-web application or scope.
///
/// Call it last in a scope: it responds to unknown paths itself, with a 404 as `application/problem+json`.
pub(crate) fn routes(node: Node, frontend: Frontend) -> impl FnOnce(&mut web::ServiceConfig) {
    node.hub.start_local();
    move |config| {
        let scope = web::scope("")
            .app_data(web::Data::new(node.clone()))
            .app_data(web::Data::new(frontend))
            .app_data(web::PayloadConfig::new(node.config.server.body_limit_bytes))
            // Inside of the gate, which turns a panic into a response.
            .wrap(CatchPanic::default())
            .wrap(from_fn(gate::pass))
            // actix tries the routes in this order; the most frequent one comes first.
            .configure(publishing)
            .configure(connections)
            .configure(job_routes)
            .configure(remote_streams)
            .configure(relay_routes)
            .configure(operating)
            .configure(openapi::routes(node.config.access.mode))
            .configure(intake_routes)
            .default_service(web::to(fallback::not_found));
        config.service(scope);
    }
}

fn connections(config: &mut web::ServiceConfig) {
    config
        .service(at("/api/sse/managed/connect").route(read().to(connect::connect)))
        .service(at("/api/sse/managed/connect/group/{group}").route(read().to(connect::connect_group)))
        .service(at("/api/sse/managed/status").route(read().to(emitters::status)))
        .service(at("/api/sse/managed/status/user/{user}").route(read().to(emitters::user_status)))
        .service(at("/api/sse/managed/status/group/{group}").route(read().to(emitters::group_status)))
        .service(at("/api/sse/managed/emitters").route(read().to(emitters::list)))
        .service(
            at("/api/sse/managed/emitters/{emitter}")
                .route(web::patch().to(emitters::change))
                .route(web::delete().to(emitters::disconnect)),
        )
        .service(at("/api/sse/managed/disconnect/user/{user}").route(web::delete().to(emitters::disconnect_user)))
        .service(at("/api/sse/managed/disconnect/group/{group}").route(web::delete().to(emitters::disconnect_group)))
        .service(at("/api/me").route(read().to(me::me)))
        .service(at("/api/tickets").route(web::post().to(tickets::issue)))
        .service(at("/api/topics").route(read().to(topics::list)))
        .service(at("/api/topics/{topic}/events").route(read().to(topics::events)))
        .service(at("/api/topics/{topic}").route(web::delete().to(topics::purge)));
}

fn publishing(config: &mut web::ServiceConfig) {
    config
        .service(at("/events").route(read().to(connect::events)).route(web::post().to(publish::events)))
        .service(at("/api/sse/managed/send/user/{user}").route(web::post().to(publish::to_user)))
        .service(at("/api/sse/managed/send/emitter/{emitter}").route(web::post().to(publish::to_emitter)))
        .service(at("/api/sse/managed/send/filtered").route(web::post().to(publish::filtered)))
        .service(at("/api/sse/managed/broadcast/group/{group}").route(web::post().to(publish::to_group)))
        .service(at("/api/sse/managed/broadcast").route(web::post().to(publish::to_all)))
        .service(at("/api/sse/managed/broadcast/all").route(web::post().to(publish::to_all)));
}

fn job_routes(config: &mut web::ServiceConfig) {
    config
        .service(at("/api/sse/emitter/parallel-tasks").route(web::post().to(jobs::submit_and_stream)))
        .service(at("/api/sse/parallel-tasks").route(web::post().to(jobs::submit_and_stream)))
        .service(at("/api/jobs").route(read().to(jobs::list)).route(web::post().to(jobs::submit)))
        .service(at("/api/jobs/{job}").route(read().to(jobs::get)).route(web::delete().to(jobs::cancel)))
        .service(at("/api/jobs/{job}/events").route(read().to(jobs::events)))
        .service(at("/api/jobs/{job}/retry").route(web::post().to(jobs::retry)))
        .service(at("/api/jobs/{job}/tasks/{task}/result").route(read().to(jobs::result)))
        .service(at("/api/sse/sample-parallel").route(read().to(samples::parallel)))
        .service(at("/api/sse/rate-limited-sse").route(read().to(samples::rate_limited)))
        .service(at("/api/sse/flow-example").route(read().to(samples::flow)))
        .service(
            at("/api/sse/parallel-tasks-progress")
                .route(read().to(samples::progress))
                .route(web::post().to(jobs::submit_and_stream)),
        )
        .service(at("/api/sse-integration/hybrid-execution/sse-emitter").route(web::post().to(hybrid::execute)))
        .service(at("/api/sse-proxy/{remote}/parallel-tasks/sse-emitter").route(web::post().to(hybrid::parallel_tasks)))
        .service(at("/api/sse/samples/orders.csv").route(read().to(samples::orders)))
        .service(at("/api/sse/samples/quotes").route(read().to(samples::quotes)));
}

fn remote_streams(config: &mut web::ServiceConfig) {
    config
        .service(at("/api/sse-proxy/connections").route(read().to(proxy::connections)))
        .service(at("/api/sse-proxy/connections/{id}").route(web::delete().to(proxy::end)))
        .service(at("/api/sse-proxy/merge-streams/sse-emitter").route(web::post().to(merge::merge)))
        // Any other name in this place is the name of a remote.
        .service(at("/api/sse-proxy/{remote}/sample-parallel/sse-emitter").route(read().to(proxy::sample)))
        .service(
            at("/api/sse-proxy/{remote}/{path:.*}")
                .route(read().to(proxy::get))
                .route(web::post().to(proxy::post))
                .route(web::route().guard(guard::fn_guard(proxy::passes)).to(proxy::post)),
        );
}

fn relay_routes(config: &mut web::ServiceConfig) {
    config
        .service(at("/api/relays").route(read().to(relays::list)).route(web::post().to(relays::create)))
        .service(at("/api/relays/{relay}").route(read().to(relays::get)).route(web::delete().to(relays::delete)))
        .service(at("/api/relays/{relay}/events").route(read().to(relays::events)))
        .service(at("/api/relays/{relay}/restart").route(web::post().to(relays::restart)));
}

/// Registered after all other routes: any other name under `/api/sse/` is a named stream.
fn intake_routes(config: &mut web::ServiceConfig) {
    config
        .service(at("/api/webhooks/{name}").route(web::post().to(webhooks::receive)))
        .service(at("/api/sse/{stream}").route(read().to(named::open)));
}

fn operating(config: &mut web::ServiceConfig) {
    config
        .service(at("/healthz").route(read().to(operate::healthz)))
        .service(at("/readyz").route(read().to(operate::readyz)))
        .service(at("/api/admin/journal").route(read().to(journal::inspect)))
        .service(at("/api/admin/journal/export").route(read().to(journal::export)))
        .service(at("/api/admin/journal/compact").route(web::post().to(journal::compact)))
        .service(at("/api/admin/journal/verify").route(web::post().to(journal::verify)))
        .service(at("/metrics").route(read().to(metrics::metrics)))
        .service(at("/").route(read().to(pages::index)))
        .configure(pages::routes);
    #[cfg(test)]
    config.service(at("/panic").route(web::route().to(panic)));
}

/// A faulty handler.
#[cfg(test)]
async fn panic() -> &'static str {
    panic!("this handler is faulty")
}

/// Handles targets outside all scopes, such as `*`, like unknown routes.
fn elsewhere() -> Route {
    web::to(fallback::not_found).wrap(from_fn(gate::pass))
}

/// A route for GET and HEAD (RFC 9110, section 9.1); see `head.rs`.
fn read() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// A resource that responds to OPTIONS, and to every other method without a route with a problem and `Allow`.
fn at(path: &str) -> Resource {
    web::resource(path).default_service(web::to(fallback::other_method))
}
