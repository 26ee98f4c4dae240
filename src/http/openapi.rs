//! The OpenAPI document, made from the handlers' own annotations, and the page that shows it.

use actix_web::web;
use utoipa::OpenApi;
use utoipa_swagger_ui::SwaggerUi;

use super::{connect, emitters, error, jobs, metrics, operate, publish, samples, topics};

/// Every route of the contract.
#[derive(OpenApi)]
#[openapi(
    info(title = "Millstream", description = "Parallel tasks, live events, merged streams."),
    paths(
        connect::connect, connect::connect_group, connect::events,
        emitters::status, emitters::user_status, emitters::group_status, emitters::list, emitters::change,
        emitters::disconnect, emitters::disconnect_user, emitters::disconnect_group,
        topics::list, topics::events, topics::purge,
        publish::to_user, publish::to_emitter, publish::filtered, publish::to_group, publish::to_all, publish::events,
        jobs::submit_and_stream, jobs::submit, jobs::list, jobs::get, jobs::cancel, jobs::events, jobs::retry, jobs::result,
        samples::parallel, samples::flow, samples::progress, samples::orders, samples::quotes,
        operate::healthz, operate::readyz, metrics::metrics,
    ),
    components(schemas(error::Problem)),
)]
pub(super) struct Document;

pub(super) fn routes(config: &mut web::ServiceConfig) {
    config.service(SwaggerUi::new("/docs/{_:.*}").url("/openapi.json", Document::openapi()));
    config.service(web::redirect("/docs", "/docs/"));
}
