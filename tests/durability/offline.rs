//! Who is away misses nothing: events to a user are there when the user comes back, also when the node died meanwhile.

use serde_json::json;

use crate::support::{Event, Node};

const USER: (&str, &str) = ("X-User-ID", "7");

fn send(node: &Node, text: &str) {
    node.post("/api/sse/managed/send/user/7?event=news", &json!(text));
}

/// What a stream of the user begins with, up to the event `last`.
fn received(node: &Node, query: &str, last_id: Option<&str>, last: &str) -> Vec<Event> {
    let mut headers = vec![USER];
    headers.extend(last_id.map(|id| ("Last-Event-ID", id)));
    let mut stream = node.stream(&format!("/api/sse/managed/connect{query}"), &headers);
    let mut events = Vec::new();
    loop {
        let event = stream.next();
        assert_ne!(event.event, "gap", "{event:?}");
        if event.event == "news" {
            events.push(event);
        }
        if events.last().is_some_and(|event| event.data == last) {
            return events;
        }
    }
}

fn texts(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}

/// Queries by id, by number and by time; the node may have been killed before.
fn all_ways(node: &Node, seen: &Event, since: u64, missed: &[&str]) {
    let last = missed.last().expect("something was missed");
    assert_eq!(texts(&received(node, "", Some(&seen.id), last)), missed, "by the header");
    assert_eq!(texts(&received(node, &format!("?lastEventId={}", seen.id), None, last)), missed, "by the query");
    assert_eq!(texts(&received(node, &format!("?history={}", missed.len()), None, last)), missed, "by number");
    assert_eq!(texts(&received(node, &format!("?since={since}"), None, last)), missed, "by time");
    assert_eq!(texts(&received(node, "?history=1", None, last)), [*last], "the last one alone");
    let others = node.get("/api/topics/user:7/events?limit=1000").json();
    assert_eq!(others["events"].as_array().map(Vec::len), Some(missed.len() + 1), "{others}");
}

#[test]
fn events_for_an_offline_user_survive_a_kill() {
    let mut node = Node::start("");
    let mut stream = node.stream("/api/sse/managed/connect", &[USER]);
    stream.until("connection");
    send(&node, "seen");
    let seen = stream.until("news");
    drop(stream);
    // The user has no stream now, and does not receive events of others.
    node.until_streams(0);
    let before = node.get("/api/topics/user:7/events").json()["events"][0]["timestamp"].as_u64().expect("a time");
    let missed: Vec<String> = (0..40).map(|number| format!("missed {number}")).collect();
    for text in &missed[..20] {
        send(&node, text);
        node.post("/api/sse/managed/send/user/8?event=news", &json!("not yours"));
    }
    let (first, all): (Vec<&str>, Vec<&str>) =
        (missed[..20].iter().map(String::as_str).collect(), missed.iter().map(String::as_str).collect());
    all_ways(&node, &seen, before + 1, &first);
    node.restart();
    all_ways(&node, &seen, before + 1, &first);
    missed[20..].iter().for_each(|text| send(&node, text));
    all_ways(&node, &seen, before + 1, &all);
    node.restart();
    all_ways(&node, &seen, before + 1, &all);
    assert_eq!(node.terminate(), Some(0));
    node.start_again();
    all_ways(&node, &seen, before + 1, &all);
}
