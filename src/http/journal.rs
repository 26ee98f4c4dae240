//! The journal for its operator: figures, export as lines of JSON, compaction, verification.

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Bytes, Data},
};
use futures::{StreamExt, stream};

use super::{
    Identity, Problem,
    identity::Admin,
    query::{NoQuery, Query},
    turn::{Size, Turn},
};
use crate::{
    event::Position,
    journal::{Compacted, Export, Inspection, Maintenance, Verified},
    node::Node,
    topic::Pattern,
};

/// Media type of lines of JSON.
const LINES: &str = "application/x-ndjson";

/// Figures of the journal, and its largest topics.
#[utoipa::path(get, path = "/api/admin/journal", tag = "operating",
    responses((status = 200, description = "figures, and the largest topics", body = Inspection)))]
pub(super) async fn inspect(node: Data<Node>, _: Admin, _: NoQuery) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(Inspection::of(&*node.journal).await?))
}

/// All events as lines of JSON, in journal order; records are not exported.
#[utoipa::path(get, path = "/api/admin/journal/export", tag = "operating", params(
    ("topic" = Option<Vec<String>>, Query, description = "a topic, or a prefix with a trailing `*`; may be repeated",
        example = json!(["order:*"])),
    ("topics" = Option<String>, Query, description = "topics as a list with commas"),
    ("after" = Option<String>, Query, pattern = "^[0-9a-f]+-[0-9]+$", description = "an event id"),
    ("limit" = Option<u64>, Query, description = "most events"),
), responses(
    (status = 200, description = "lines of `{id, topic, alsoIn?, event, data, timestamp, origin?, source?}`", body = String, content_type = LINES),
    (status = 422, description = "the topic or the position is not valid in this journal")))]
pub(super) async fn export(
    node: Data<Node>,
    _: Admin,
    identity: Identity,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    query.only(&["topic", "topics", "after", "limit", "access_token"])?;
    let patterns = query.list("topic", "topics").map(Pattern::new).collect::<Result<Vec<_>, _>>()?;
    let limit = query.get("limit", "a number")?;
    let after = match query.get::<Position>("after", "an event id")? {
        Some(position) if position.epoch != node.journal.epoch() => {
            return Err(Problem::wrong(format!(
                "`after` = {position} is not a position of this journal: it has another epoch"
            )));
        }
        position => position.map_or(0, |position| position.offset),
    };
    let mut export = Export::new(node.journal.clone(), patterns, after, limit);
    // The first part belongs to the request, so the number of waiting exports is limited like that of unanswered
    // requests.
    Turn::take(&node, &request, Size::Small).await?;
    let first = export.next().await?;
    Turn::end(&request);
    let unsent = node.unsent.clone();
    let rest = stream::unfold(first.is_some().then_some(export), move |export| {
        let unsent = unsent.clone();
        async move {
            let mut export = export?;
            let _turn = unsent.turn(Size::Small).await;
            match export.next().await {
                Ok(part) => part.map(|part| (Ok(Bytes::from(part)), Some(export))),
                // The response breaks off, which its client notices.
                Err(error) => Some((Err(std::io::Error::other(error)), None)),
            }
        }
    });
    let lines = stream::iter(first).map(|part| Ok(Bytes::from(part))).chain(rest);
    Ok(HttpResponse::Ok().content_type(LINES).streaming(lines.take_until(Box::pin(identity.end(&node.clock)))))
}

/// Free the space of deleted data; one verification or compaction at a time.
#[utoipa::path(post, path = "/api/admin/journal/compact", tag = "operating",
    responses(
        (status = 200, description = "bytes on the disk, before and after", body = Compacted),
        (status = 409, description = "another one is running")))]
pub(super) async fn compact(node: Data<Node>, _: Admin, _: NoQuery) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(node.journal.maintain(Maintenance::Compact).await?))
}

/// Read everything and report damage; one verification or compaction at a time.
#[utoipa::path(post, path = "/api/admin/journal/verify", tag = "operating",
    responses(
        (status = 200, description = "the numbers of checked rows, and the damage", body = Verified),
        (status = 409, description = "another one is running")))]
pub(super) async fn verify(node: Data<Node>, _: Admin, _: NoQuery) -> Result<HttpResponse, Problem> {
    Ok(HttpResponse::Ok().json(node.journal.maintain(Maintenance::Verify).await?))
}
