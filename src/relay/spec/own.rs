//! Detects a loop by its URL: the source is a stream of this node into which the relay would publish. Pure. Other loops are
//! detected when the first event returns.

use url::Url;

use super::PlannedSource;
use crate::{
    topic::{Pattern, Topic},
    upstream::Method,
};

/// The common topic, if the source's URL is a stream of this node that contains a topic of the relay.
pub(super) fn returns(planned: &PlannedSource, target: Option<&Topic>) -> Option<Topic> {
    let source = &planned.source;
    if source.method != Method::GET || !source.remote.is_self() {
        return None;
    }
    // The relay has no id yet, so an exact pattern cannot match its topic.
    let own = Topic::relay("new").ok();
    let carried = carried(&source.url);
    target.cloned().into_iter().chain(own).find(|topic| carried.iter().any(|pattern| pattern.matches(topic)))
}

/// The topics that the URL of a stream of a node names.
fn carried(url: &Url) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    let mut group = |name: &str| patterns.extend(Topic::group(name).ok().map(Pattern::Exact));
    let path = url.path();
    if let Some(name) = path.strip_prefix("/api/sse/managed/connect/group/") {
        group(&decoded(name));
    }
    for (_, names) in url.query_pairs().filter(|(key, _)| matches!(&**key, "group" | "groups")) {
        names.split(',').for_each(&mut group);
    }
    for (_, names) in url.query_pairs().filter(|(key, _)| matches!(&**key, "topic" | "topics")) {
        patterns.extend(names.split(',').filter_map(|name| Pattern::new(name.trim()).ok()));
    }
    let hub =
        ["/events", "/api/sse/managed/connect"].contains(&path) || path.starts_with("/api/sse/managed/connect/group/");
    if path == "/events" && patterns.is_empty() {
        return vec![Pattern::any()];
    }
    // These streams always receive broadcasts.
    patterns.push(Topic::all().into());
    if hub { patterns } else { Vec::new() }
}

/// Decodes a segment of a path.
fn decoded(segment: &str) -> String {
    let pair = format!("s={}", segment.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map(|(_, text)| text.into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_the_topics_of_a_stream() {
        let carries = |url: &str, topic: &str| {
            let carried = carried(&Url::parse(&format!("http://h{url}")).unwrap());
            carried.iter().any(|pattern| pattern.matches(&Topic::new(topic).unwrap()))
        };
        for (url, topic) in [
            ("/events", "anything"),
            ("/events?history=5", "relay:1"),
            ("/events?topic=a&topic=b", "b"),
            ("/events?topic=a", "all"),
            ("/events?topics=a,%20b", "b"),
            ("/events?topic=o%3A*", "o:1"),
            ("/api/sse/managed/connect?groups=a,b", "group:b"),
            ("/api/sse/managed/connect/group/a%20b?topic=c", "c"),
            ("/api/sse/managed/connect/group/a%2Bb", "group:a+b"),
            ("/api/sse/managed/connect/group/a+b", "group:a+b"),
        ] {
            assert!(carries(url, topic), "{url} {topic}");
        }
        for (url, topic) in [
            ("/events?topic=a", "b"),
            ("/events?group=g", "g"),
            ("/api/sse/managed/connect", "a"),
            ("/api/sse/news?topic=a", "a"),
            ("/api/sse-proxy/x/events", "a"),
        ] {
            assert!(!carries(url, topic), "{url} {topic}");
        }
    }
}
