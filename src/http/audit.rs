//! Audit lines: refused access, and actions of admins. Each line has `target: "millstream::audit"`, so that a filter
//! can send the lines elsewhere or switch them off.
//!
//! No line contains a token, a ticket, a query or a body.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use actix_web::{
    HttpMessage, HttpRequest,
    dev::ServiceResponse,
    http::{Method, StatusCode},
    web::Data,
};

use super::{Identity, address, error::Refused};
use crate::node::Node;

const TARGET: &str = "millstream::audit";

/// Maximum number of lines about refused access in one second, since strangers decide how often they happen. The next
/// line counts the lines that were left out.
const MAX_REFUSED: u64 = 50;

/// Writes the audit line of a response, if it needs one.
pub(super) fn note<B>(node: &Node, response: &ServiceResponse<B>) {
    let (request, status) = (response.request(), response.status());
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        let extensions = response.response().extensions();
        match extensions.get::<Refused>() {
            Some(Refused { refusal, detail }) => refused(node, request, status, refusal.as_str(), detail),
            // The proxy passes on the status of a remote, which is no refusal of this node.
            None => {
                let detail = response.response().error().map(ToString::to_string).unwrap_or_default();
                refused(node, request, status, "by_remote", &detail);
            }
        }
    }
}

/// Records that an admin changes something. The request may still be refused; then the next line of the same path shows
/// it.
pub(super) fn acting(request: &HttpRequest, admin: &Identity) {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return;
    }
    let node = request.app_data::<Data<Node>>().expect("the routes are mounted with their node");
    let address = address::client(node, request).to_string();
    let (method, path) = (request.method().as_str(), request.path());
    let (user, token) = (admin.user.as_deref(), admin.token_name().map(|name| &**name));
    tracing::info!(target: TARGET, method, path, user, token, address, "an admin acts");
}

/// Records that an admin changes a job, a relay or an emitter of another user.
pub(super) fn acting_for(admin: &Identity, what: &str, id: &str, owner: Option<&str>) {
    let (user, token) = (admin.user.as_deref(), admin.token_name().map(|name| &**name));
    tracing::info!(target: TARGET, what, id, owner, user, token, "an admin acts on another user's entity");
}

fn refused(node: &Node, request: &HttpRequest, status: StatusCode, reason: &str, detail: &str) {
    static SECOND: AtomicU64 = AtomicU64::new(0);
    static LINES: AtomicU64 = AtomicU64::new(0);
    static LEFT_OUT: AtomicU64 = AtomicU64::new(0);
    let now = node.started.elapsed().as_secs();
    if SECOND.swap(now, Relaxed) != now {
        LINES.store(0, Relaxed);
    }
    if LINES.fetch_add(1, Relaxed) >= MAX_REFUSED {
        LEFT_OUT.fetch_add(1, Relaxed);
        return;
    }
    let left_out = LEFT_OUT.swap(0, Relaxed);
    let user = request.extensions().get::<Identity>().and_then(|caller| caller.user.clone());
    let address = address::client(node, request).to_string();
    let (method, path, status) = (request.method().as_str(), request.path(), status.as_u16());
    tracing::warn!(target: TARGET, method, path, status, user, address, reason, detail, left_out, "access refused");
}
