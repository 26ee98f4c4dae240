//! Named streams: GET `/api/sse/{stream}`, with the topics of the settings.

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{HeaderName, HeaderValue},
    web::{Data, Path},
};

use super::{
    Code, Identity, Problem, Refusal,
    connect::{StreamParameters, basics, start},
    frame_schemas::TopicFrame,
    query::Query,
    stream,
};
use crate::{hub::NamedConfig, node::Node};

/// Open a stream of the settings.
#[utoipa::path(get, path = "/api/sse/{stream}", tag = "connections", params(
    ("stream" = String, Path, description = "its name in the settings: `[streams.NAME]`"),
    ("history" = Option<u64>, Query, minimum = 0, description = "begin with the last N events"),
    ("since" = Option<u64>, Query, minimum = 0, description = "begin with the events since this time (Unix milliseconds)"),
    StreamParameters,
), responses(
    (status = 200, description = "an event stream; first frame `connection`, or the one of `connected_event`",
        body = TopicFrame, content_type = "text/event-stream"),
    (status = 403, description = "the caller may not subscribe to all of its topics"),
    (status = 404, description = "no stream has this name"),
))]
pub(super) async fn open(
    node: Data<Node>,
    request: HttpRequest,
    identity: Result<Identity, Problem>,
    name: Path<String>,
) -> Result<HttpResponse, Problem> {
    let config = node.config.clone();
    let named = config.streams.get(name.as_str());
    let identity = match identity {
        Err(_) if named.is_some_and(|named| named.public) => Identity::without_rights(),
        identity => identity?,
    };
    let Some(named) = named else {
        let detail = "no stream has this name (`[streams.NAME]` in the settings)";
        return Err(Problem::unknown(detail).coded(Code::UnknownStream));
    };
    if !permitted(&identity, named) {
        return Err(Problem::refused(Refusal::Subscribe, "you may not subscribe to all topics of this stream"));
    }
    let query = Query::of(&request);
    let mut connect = basics(&node, &request, &query, &["history", "since"])?;
    start(&mut connect, &query)?;
    connect.meta = identity.meta.clone().unwrap_or_default();
    connect.topics.clone_from(&named.topics);
    connect.groups.clone_from(&named.groups);
    connect.greeting.event.clone_from(&named.connected_event);
    let mut response = stream::open(&node, &request, &identity, connect).await?;
    for (field, value) in &named.headers {
        if let (Ok(field), Ok(value)) = (field.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().insert(field, value);
        }
    }
    Ok(response)
}

/// True if this caller may open the stream: a public stream is open to all, another one needs the right to all its
/// topics.
fn permitted(identity: &Identity, stream: &NamedConfig) -> bool {
    stream.public || stream.subscribed_topics().all(|topic| identity.may_subscribe(&topic))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{access::Rights, http::openapi, hub::RESERVED_STREAMS, topic::Pattern};

    #[test]
    fn no_stream_can_be_called_like_a_route() {
        let paths = openapi::paths();
        let taken: BTreeSet<&str> = paths
            .iter()
            .filter_map(|path| path.strip_prefix("/api/sse/")?.split('/').next())
            .filter(|name| !name.starts_with('{'))
            .collect();
        assert_eq!(taken, BTreeSet::from(RESERVED_STREAMS), "routes on the left, `hub::RESERVED_STREAMS` on the right");
    }

    #[test]
    fn a_stream_that_is_not_public_needs_the_right_to_all_its_topics() {
        let pattern = |text: &str| Pattern::new(text).unwrap();
        let stream =
            NamedConfig { topics: vec![pattern("ugc:*")], groups: vec!["ops".into()], ..NamedConfig::default() };
        let caller = |subscribe: &[&str]| {
            let subscribe = subscribe.iter().map(|text| pattern(text)).collect();
            Identity::without_rights().with_rights(Rights { subscribe, ..Rights::default() })
        };
        assert!(permitted(&caller(&["ugc:*", "group:ops"]), &stream));
        for less in [&[][..], &["ugc:*"], &["ugc:1", "group:ops"], &["group:ops"]] {
            assert!(!permitted(&caller(less), &stream), "{less:?}");
        }
        assert!(permitted(&caller(&[]), &NamedConfig { public: true, ..stream }));
    }
}
