//! The caller's user and rights, so that pages can offer only permitted actions.

use actix_web::{HttpResponse, web::Data};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Identity, query::NoQuery};
use crate::{
    access::Mode,
    node::Node,
    topic::{Pattern, Topic},
};

/// The caller.
#[derive(Serialize, ToSchema)]
#[schema(examples(json!({
    "mode": "token", "user": "42", "groups": ["ops"], "admin": false,
    "rights": { "publish": ["user:42"], "subscribe": ["order:*", "user:42", "group:ops"], "jobs": true, "remotes": ["reactive"] },
})))]
pub(super) struct Me {
    /// How access is decided: `open` or `token`.
    #[schema(value_type = String, pattern = "^(open|token)$")]
    mode: Mode,
    /// The user; `null` for a caller without a name.
    user: Option<String>,
    /// Groups that the user is in.
    groups: Vec<String>,
    /// True if the caller may do everything.
    admin: bool,
    rights: Granted,
}

/// The rights of a caller, including those for its own topics.
#[derive(Serialize, ToSchema)]
#[schema(as = EffectiveRights)]
struct Granted {
    /// Topics into which the caller may publish; a trailing `*` matches the rest.
    #[schema(value_type = Vec<String>)]
    publish: Vec<Pattern>,
    /// Topics to which the caller may subscribe.
    #[schema(value_type = Vec<String>)]
    subscribe: Vec<Pattern>,
    /// True if the caller may submit jobs.
    jobs: bool,
    /// Remotes that the caller may use; `*` means all.
    remotes: Vec<String>,
}

/// The caller's user and rights.
#[utoipa::path(get, path = "/api/me", tag = "connections",
    responses((status = 200, description = "the caller with its effective rights", body = Me)))]
pub(super) async fn me(node: Data<Node>, identity: Identity, _: NoQuery) -> HttpResponse {
    let admin = identity.is_admin();
    let own = identity.user.as_deref().and_then(|user| Topic::user(user).ok()).map(Pattern::Exact);
    let publish =
        if admin { vec![Pattern::any()] } else { identity.rights.publish.iter().cloned().chain(own).collect() };
    let remotes = if admin { vec!["*".to_owned()] } else { identity.rights.remotes.clone() };
    let rights = Granted { publish, subscribe: identity.readable(), jobs: identity.rights.may_submit(), remotes };
    let Identity { user, groups, .. } = identity;
    HttpResponse::Ok().insert_header(("Cache-Control", "no-store")).json(Me {
        mode: node.access.mode(),
        user,
        groups,
        admin,
        rights,
    })
}
