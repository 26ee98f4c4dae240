//! Merged streams over HTTP: the sources are the body of a POST, the response is one event stream.

use std::{convert::Infallible, time::Duration};

use actix_web::{
    HttpRequest, HttpResponse,
    web::{Bytes, Data},
};
use futures::stream;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    Identity, Problem, address,
    body::Json,
    connect::heartbeat,
    flood::InputWatch,
    frame_schemas::MergedFrame,
    limited, permit,
    pull::{self, EndMode},
    query::Query,
    stream::disconnect,
};
use crate::{
    hub::HeartbeatKind,
    json,
    node::Node,
    relay::{
        Limits,
        merge::{self, Form, Heartbeat, Merged, SourceSpec},
    },
};

/// A source of a merged stream: a path of `relay.default_remote`, or an object.
#[derive(ToSchema)]
#[schema(as = MergeSource)]
#[expect(dead_code, reason = "only the OpenAPI document uses it: the handler parses by hand, for better messages")]
#[serde(untagged)]
pub(super) enum SourceDocument {
    Path(String),
    Object(SourceSpec),
}

/// Read several remote streams as one.
///
/// All sources are read at the same time. The first frame is `merge_start {totalStreams, endpoints:[{source, remote,
/// path}]}`. The events follow in order of arrival, unchanged but without `id:`, in order for each source. A source
/// that breaks is connected again and resumed. A source that fails for good is reported with `merge_error {source,
/// error, code}`, and the others continue. When all have ended, `merge_complete {totalStreams, completed, failed,
/// events}` is the last frame. A client that reads slowly slows down the sources. The stream cannot be resumed; use a
/// relay for that.
#[utoipa::path(post, path = "/api/sse-proxy/merge-streams/sse-emitter", tag = "proxy",
    request_body(content = Vec<SourceDocument>, description = "1 to `relay.max_sources` sources",
        example = json!(["/api/sse/sample-parallel", { "remote": "reactive", "path": "/api/sse/flow-example", "label": "flow" }])),
    params(
        ("envelope" = Option<bool>, Query, description = "wrap data in `{source, event, id, data}`"),
        ("heartbeat" = inline(Option<HeartbeatKind>), Query, description = "sent during silence"),
        ("heartbeatMs" = Option<u64>, Query, minimum = 1000, description = "silence before a heartbeat in milliseconds"),
    ), responses(
        (status = 200, description = "the merged stream", body = MergedFrame, content_type = "text/event-stream"),
        (status = 422, description = "a source is wrong; no remote was called"),
        (status = 508, description = "the request is in a loop: it has passed this node before (`Via`)"),
    ))]
pub(super) async fn merge(
    node: Data<Node>,
    identity: Identity,
    request: HttpRequest,
    body: Json<Vec<json::Json>>,
) -> Result<HttpResponse, Problem> {
    let query = Query::of(&request);
    let known = ["envelope", "heartbeat", "heartbeatMs", "access_token", "ticket"];
    let ignored = query.of_stream(&known, request.headers())?;
    let permit = limited::stream(&node, &request)?;
    let heartbeat = heartbeat(&node, &query)?;
    let comment = heartbeat.kind == HeartbeatKind::Comment;
    let wanted = Heartbeat { every: heartbeat.every, comment };
    let form = Form {
        envelope: query.get("envelope", "`true` or `false`")?.unwrap_or(false),
        heartbeat: (heartbeat.kind != HeartbeatKind::None).then_some(wanted),
    };
    for source in &body.value {
        // An entry that is not a source is rejected below.
        let named = source.read::<Named>().ok().and_then(|named| named.remote);
        if let Some(remote) = named.as_deref().or(node.config.relay.default_remote.as_deref()) {
            permit::remote(&identity, remote)?;
        }
    }
    let limits = Limits { config: &node.config.relay, remotes: &node.remotes };
    let via = address::via(&request);
    node.upstream.permits(&via).map_err(|error| Problem::looped(error.to_string()))?;
    let mut sources = merge::sources(limits, body.value).map_err(Problem::fields)?;
    sources.iter_mut().for_each(|planned| planned.source.via = via.clone());
    let connections = node.connections.of(&identity.user.as_deref().map(Into::into));
    let upstreams = sources.len();
    let merged = Merged::new(sources, &connections, form, ignored);
    let frames = Box::pin(stream::unfold(merged, async |mut merged| {
        let frame = merged.next().await?;
        Some((Ok::<Bytes, Infallible>(frame), merged))
    }));
    let teller = node.clone();
    let end = EndMode::LastFrame(Box::new(move |reason| disconnect(&teller, reason.as_str(), None, Duration::ZERO)));
    Ok(pull::open(&node, &request, &identity, InputWatch::start(&request), (frames, upstreams), end, permit))
}

/// The remote that a source names.
#[derive(Deserialize)]
struct Named {
    remote: Option<String>,
}
