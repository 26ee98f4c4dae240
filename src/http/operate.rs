//! For operators and their tools: health and readiness.

use actix_web::{HttpResponse, web::Data};
use serde_json::json;

use super::Problem;
use crate::app::Node;

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "operating", responses((status = 200, description = "alive")))]
pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }))
}

/// The node takes work; 503 from the beginning of a stop.
#[utoipa::path(get, path = "/readyz", tag = "operating",
    responses((status = 200, description = "ready"), (status = 503, description = "stopping", body = Problem)))]
pub(super) async fn readyz(node: Data<Node>) -> Result<HttpResponse, Problem> {
    if node.stopping.is_cancelled() {
        return Err(Problem::unavailable("the node is stopping", 5));
    }
    Ok(HttpResponse::Ok().json(json!({ "status": "ready" })))
}
