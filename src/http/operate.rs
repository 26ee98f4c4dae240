//! Health and readiness, for operators and their tools.

use actix_web::{HttpResponse, dev::ServiceRequest, http::Method, web::Data};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Code, Problem};
use crate::node::Node;

/// The response of a living process.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "status": "ok", "version": "0.2.0" })))]
struct Health {
    /// `ok`.
    status: &'static str,
    /// Version of the program.
    version: &'static str,
}

/// The response of a node that accepts work.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({ "status": "ready" })))]
struct Readiness {
    /// `ready`.
    status: &'static str,
}

/// Paths of the health checks.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// True for health checks. Probes call them many times a minute, without a credential and without the node's name.
pub(super) fn is_probe(request: &ServiceRequest) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) && PROBES.contains(&request.match_info().as_str())
}

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "operating", responses((status = 200, description = "alive", body = Health)))]
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// The node accepts work. Otherwise 503 with the reason: the node stops, has just started, or a part of it does not
/// work.
#[utoipa::path(get, path = "/readyz", tag = "operating",
    responses((status = 200, description = "ready", body = Readiness), (status = 503, description = "stopping, starting, or a part of the node does not work")))]
pub(super) async fn readyz(node: Data<Node>) -> Result<HttpResponse, Problem> {
    if let Some(reason) = node.trouble() {
        let code = if node.stopping.is_cancelled() { Code::NodeStopping } else { Code::Unavailable };
        return Err(Problem::unavailable(reason).coded(code));
    }
    Ok(HttpResponse::Ok().json(Readiness { status: "ready" }))
}
