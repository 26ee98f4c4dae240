//! A client that is cut before its first event loses nothing: the first frame of a stream carries the position to resume from.

use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::support::{Event, Node, PATIENCE, Stream, eventually, pipe::Resetting, upstream, upstream::Upstream};

/// Streams of the topic `first`; a named stream may have another name for its first frame.
const LIVE: [&str; 4] = [
    "/events?topics=first",
    "/api/sse/managed/connect?topic=first",
    "/api/sse/managed/connect/group/ops?topic=first",
    "/api/sse/renamed",
];

const NAMED: &str = "[streams.renamed]\ntopics = [\"first\"]\nconnected_event = \"connected\"\n";

/// Opens a stream and reads its first frame alone.
fn open(node: &Node, path: &str, last_id: Option<&str>) -> (Stream, Event) {
    open_at(node.addr, path, last_id)
}

/// A fault at the node, or at a proxy before it.
fn open_at(addr: SocketAddr, path: &str, last_id: Option<&str>) -> (Stream, Event) {
    let headers: Vec<(&str, &str)> = last_id.map(|id| ("Last-Event-ID", id)).into_iter().collect();
    let socket = TcpStream::connect(addr).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = Stream::open(socket, "GET", path, &headers, "");
    let first = stream.next();
    assert_eq!(first.json()["status"], "connected", "{path}: {first:?}");
    (stream, first)
}

/// The connection ends, and the response does not.
fn until_reset(mut stream: Stream) {
    assert_eq!(stream.rest(), [], "the proxy passes on the first frame alone");
    assert!(!stream.finished);
}

fn resume(first: &Event) -> Value {
    first.json()["resume"].clone()
}

/// Live streams are cut before their first event, something is published, and each client comes back with what it has.
fn cut_and_come_back(node: &mut Node, text: &str, gap: bool, cut: impl FnOnce(&mut Node)) {
    let streams: Vec<(Stream, Event)> = LIVE.iter().map(|path| open(node, path, None)).collect();
    let ids: Vec<String> = streams.into_iter().map(|(_, first)| first.id).collect();
    cut(node);
    come_back(node, &ids, text, gap);
}

/// A proxy resets the connections after the first frame.
fn reset_and_come_back(node: &Node) {
    let proxy = Resetting::start(node.addr);
    let streams: Vec<(Stream, Event)> = LIVE.iter().map(|path| open_at(proxy.addr, path, None)).collect();
    proxy.reset();
    let mut ids = Vec::new();
    for (stream, first) in streams {
        until_reset(stream);
        ids.push(first.id);
    }
    come_back(node, &ids, "reset", false);
}

/// Clients come back with these ids, after something was published.
fn come_back(node: &Node, ids: &[String], text: &str, gap: bool) {
    eventually(|| (node.metric("millstream_streams_open") == 0.0).then_some(()));
    node.publish("first", "e", &json!(text));
    let mut streams = Vec::new();
    for (path, id) in LIVE.iter().zip(ids) {
        let (stream, first) = open(node, path, Some(id));
        let status = if gap { "gap" } else { "resumed" };
        assert_eq!(resume(&first), json!({ "from": id, "status": status }), "{path}, {text}");
        assert!(gap || first.id == *id, "{path}, {text}: {} is after the sent events", first.id);
        streams.push((path, stream));
    }
    node.publish("first", "e", &json!("end"));
    for (path, mut stream) in streams {
        let gaps = stream.next();
        assert_eq!(gaps.event == "gap", gap, "{path}, {text}: {gaps:?}");
        let first = if gap { stream.next() } else { gaps };
        assert_eq!([first.data.as_str(), &stream.next_own().data], [text, "end"], "{path}");
    }
}

#[test]
fn a_live_stream_that_is_cut_before_its_first_event_loses_nothing() {
    let mut node = Node::start(NAMED);
    for path in LIVE {
        let (_, first) = open(&node, path, None);
        assert!(first.id.ends_with("-0"), "{path}: the journal has no event: {}", first.id);
        assert_eq!(resume(&first), json!({ "from": first.id, "status": "live" }), "{path}");
    }
    cut_and_come_back(&mut node, "connection", false, |_| ());
    reset_and_come_back(&node);
    cut_and_come_back(&mut node, "stop", false, |node| {
        assert_eq!(node.terminate(), Some(0));
        node.start_again();
    });
    cut_and_come_back(&mut node, "kill", false, Node::restart);
}

/// A memory journal has a new epoch after a restart: the client gets a `gap` and what the new life has.
#[test]
fn a_memory_journal_forgets_and_a_client_without_an_event_gets_a_gap() {
    let mut node = Node::start(&format!("[journal]\nkind = \"memory\"\n{NAMED}"));
    cut_and_come_back(&mut node, "connection", false, |_| ());
    reset_and_come_back(&node);
    cut_and_come_back(&mut node, "kill", true, Node::restart);
}

#[test]
fn streams_of_jobs_and_relays_that_are_cut_before_their_first_event_are_whole() {
    let upstream = Upstream::start(|_, socket| upstream::answer(socket, "200 OK", "text/event-stream", "data: a\n\n"));
    let mut node = Node::start(&format!("[remotes.up]\nbase_url = \"http://{}\"\npaths = [\"/*\"]\n", upstream.addr));
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "run": "Calculate Stats" }] }));
    let relay = node.post("/api/relays", &json!({ "topic": "relayed", "sources": [{ "remote": "up", "path": "/x" }] }));
    let followed = [(&job, "job", "jobId", "complete"), (&relay, "relay", "id", "relay_end")];
    for cut in ["connection", "reset", "kill"] {
        for (answer, kind, id, end) in followed {
            let text = |key: &str| answer[key].as_str().expect("a text").to_owned();
            let proxy = Resetting::start(node.addr);
            let addr = if cut == "reset" { proxy.addr } else { node.addr };
            let (mut stream, first) = open_at(addr, &text("eventsUrl"), None);
            match cut {
                "reset" => {
                    proxy.reset();
                    drop(stream.rest());
                    assert!(!stream.finished, "{kind}");
                }
                "kill" => node.restart(),
                _ => drop(stream),
            }
            let mut again = eventually(|| {
                let stream = node.stream(&text("eventsUrl"), &[("Last-Event-ID", &first.id)]);
                // Jobs and relays are taken up again in the background.
                (stream.status == 200 && stream.header("Content-Type") == Some("text/event-stream")).then_some(stream)
            });
            let seen: Vec<Event> = again.rest().into_iter().filter(Event::is_own).collect();
            assert_eq!(seen.last().map(|event| event.event.as_str()), Some(end), "{kind}: {seen:?}");
            let page = node.get(&format!("/api/topics/{kind}:{}/events?limit=1000", text(id))).json();
            let kept: Vec<&Value> = page["events"].as_array().expect("a list").iter().map(|row| &row["id"]).collect();
            assert_eq!(seen.iter().map(|event| json!(event.id)).collect::<Vec<_>>().iter().collect::<Vec<_>>(), kept);
        }
    }
}
