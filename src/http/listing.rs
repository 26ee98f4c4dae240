//! The query parameters of a list of jobs or relays: one form for every durable entity.

use actix_web::HttpRequest;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{Identity, Problem, emitters::page_size, permit, query::Query};
use crate::durable::Filter;

/// The filter of a request, limited to the entities that the caller may see. `kind` names the entity in problems.
pub(super) fn filter<S: DeserializeOwned>(
    request: &HttpRequest,
    identity: &Identity,
    kind: &str,
) -> Result<Filter<S>, Problem> {
    let query = Query::of(request);
    query.only(&["status", "user", "limit", "after", "access_token"])?;
    let limit = page_size(&query)?;
    let status = match query.first("status") {
        None => None,
        Some(word) => {
            let unknown = |_| Problem::parameter(format!("`{word}` is no status of a {kind}"));
            Some(serde_json::from_value(json!(word)).map_err(unknown)?)
        }
    };
    let user = permit::listed(identity, query.first("user"))?;
    Ok(Filter { status, user, after: query.first("after").map(str::to_owned), limit })
}
