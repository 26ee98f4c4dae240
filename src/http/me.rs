//! Who is calling, for pages: what they may offer.

use actix_web::{HttpResponse, web::Data};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Identity, query::NoQuery};
use crate::{
    access::Mode,
    app::Node,
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
    /// Whether it may do everything.
    admin: bool,
    rights: Granted,
}

/// What a caller may do, its own topics included.
#[derive(Serialize, ToSchema)]
#[schema(as = EffectiveRights)]
struct Granted {
    /// Topics that it may publish into; a trailing `*` matches the rest.
    #[schema(value_type = Vec<String>)]
    publish: Vec<Pattern>,
    /// Topics that it may hear.
    #[schema(value_type = Vec<String>)]
    subscribe: Vec<Pattern>,
    /// Whether it may submit jobs.
    jobs: bool,
    /// Remotes that it may use; `*` stands for all.
    remotes: Vec<String>,
}

/// Who the caller is, and what it may do.
#[utoipa::path(get, path = "/api/me", tag = "connections",
    responses((status = 200, description = "the caller, with its rights in effect", body = Me)))]
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
