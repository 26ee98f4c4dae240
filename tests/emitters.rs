//! Streams as seen and handled from outside: status, lists, changes, ends, and the direct send.

use serde_json::{Value, json};

mod support;

use support::{Node, Stream, eventually};

fn open(node: &Node, path: &str, headers: &[(&str, &str)]) -> (Stream, String) {
    let mut stream = node.stream(path, headers);
    let id = stream.until("connection").json()["emitterId"].as_str().expect("an id").to_owned();
    (stream, id)
}

fn emitter(id: &str) -> String {
    format!("/api/sse/managed/emitters/{id}")
}

#[test]
fn status_counts_who_is_there_and_forgets_who_left() {
    let node = Node::start("");
    let (a, a_id) = open(&node, "/api/sse/managed/connect?group=g1&topic=t&meta.tier=2", &[("X-User-ID", "1")]);
    let (_b, _) = open(&node, "/api/sse/managed/connect/group/g1?group=g2", &[("X-User-ID", "1")]);
    let (_c, _) = open(&node, "/events?topic=t", &[]);

    let status = node.get("/api/sse/managed/status").json();
    assert_eq!(
        (&status["totalEmitters"], &status["totalUsers"], &status["totalGroups"]),
        (&json!(3), &json!(1), &json!(2))
    );
    assert_eq!(
        (&status["emittersByUser"], &status["emittersByGroup"]),
        (&json!({ "1": 2 }), &json!({ "g1": 2, "g2": 1 }))
    );
    assert_eq!(status["totalTopics"], 5, "all, user:1, group:g1, group:g2, t");
    assert_eq!(status["droppedEvents"], 0);

    let user = node.get("/api/sse/managed/status/user/1").json();
    assert_eq!((&user["userId"], &user["activeConnections"]), (&json!("1"), &json!(2)));
    let group = node.get("/api/sse/managed/status/group/g1").json();
    assert_eq!((&group["groupId"], &group["activeConnections"]), (&json!("g1"), &json!(2)));
    let first = group["emitters"].as_array().expect("a list").iter().find(|emitter| emitter["emitterId"] == *a_id);
    let first = first.expect("it is in the list");
    assert_eq!(
        (&first["userId"], &first["groups"], &first["meta"]),
        (&json!("1"), &json!(["g1"]), &json!({ "tier": 2 }))
    );
    assert_eq!(first["state"], "live");
    let unknown = node.get("/api/sse/managed/status/user/nobody").json();
    assert_eq!((&unknown["activeConnections"], &unknown["emitters"]), (&json!(0), &json!([])));

    drop(a);
    let left = std::time::Instant::now();
    eventually(|| (node.get("/api/sse/managed/status").json()["totalEmitters"] == 2).then_some(()));
    assert!(left.elapsed().as_secs() < 3, "who leaves is gone at once, not by a heartbeat");
    assert_eq!(node.get("/api/sse/managed/status/user/1").json()["activeConnections"], 1);
    eventually(|| (node.metric("millstream_streams_closed_total{reason=\"client_gone\"}") >= 1.0).then_some(()));
}

#[test]
fn emitters_are_listed_by_filter_and_by_page() {
    let node = Node::start("");
    let query = |n: usize| format!("/events?topic=t{}&group=g{}&meta.n={n}", n % 2, n % 3);
    let streams: Vec<(Stream, String)> =
        (0..6).map(|n| open(&node, &query(n), &[("X-User-ID", if n < 3 { "low" } else { "high" })])).collect();
    let list = |query: &str| node.get(&format!("/api/sse/managed/emitters{query}")).json();
    let count = |query: &str| list(query)["emitters"].as_array().expect("a list").len();
    assert_eq!(
        [count(""), count("?user=low"), count("?group=g0"), count("?topic=t1"), count("?meta.n=4")],
        [6, 3, 2, 3, 1]
    );
    assert_eq!([count("?user=low&group=g0"), count("?user=nobody"), count("?meta.n=x")], [1, 0, 0]);

    let mut ids = Vec::new();
    let mut after = String::new();
    loop {
        let page = list(&format!("?limit=4{after}"));
        ids.extend(
            page["emitters"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|e| e["emitterId"].as_str().expect("an id").to_owned()),
        );
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    let mut all: Vec<String> = streams.into_iter().map(|(_, id)| id).collect();
    all.sort_unstable();
    assert_eq!(ids, all, "each once, in order");
    for wrong in ["?limit=0", "?limit=1001", "?limit=x", "?usr=1"] {
        node.get(&format!("/api/sse/managed/emitters{wrong}")).problem(400);
    }
}

#[test]
fn the_topics_of_a_live_emitter_can_be_changed() {
    let node = Node::start("");
    let (mut stream, id) = open(&node, "/events?topic=old", &[("X-User-ID", "1")]);
    let reply =
        node.json("PATCH", &emitter(&id), &json!({ "topics": ["new"], "groups": ["g"], "meta": { "premium": true } }));
    assert_eq!(reply.status, 200, "{reply:?}");
    let state = reply.json();
    assert_eq!(
        (&state["emitterId"], &state["groups"], &state["meta"]),
        (&json!(id), &json!(["g"]), &json!({ "premium": true }))
    );
    for (topic, data) in [("old", "no"), ("new", "topic"), ("group:g", "group"), ("user:1", "user"), ("all", "all")] {
        node.publish(topic, "e", &json!(data));
    }
    node.post("/api/sse/managed/send/filtered", &json!({ "filter": { "premium": true }, "data": "meta" }));
    let received: Vec<String> = (0..5).map(|_| stream.next_own().data).collect();
    assert_eq!(received, ["topic", "group", "user", "all", "meta"], "its own topics stay");
    // Absent fields keep their value.
    let state = node.json("PATCH", &emitter(&id), &json!({ "topics": [] })).json();
    assert_eq!((&state["groups"], &state["meta"]), (&json!(["g"]), &json!({ "premium": true })));

    assert!(node.json("PATCH", &emitter("nobody"), &json!({})).problem(404).contains("nobody"));
    for wrong in [
        json!({ "topics": ["a b"] }),
        json!({ "groups": ["a b"] }),
        json!({ "meta": { "a": [] } }),
        json!({ "topic": ["a"] }),
    ] {
        node.json("PATCH", &emitter(&id), &wrong).problem(422);
    }
}

#[test]
fn connections_are_ended_from_outside_with_a_last_word() {
    let node = Node::start("");
    let mut streams = [
        open(&node, "/events", &[]),
        open(&node, "/events", &[("X-User-ID", "1")]),
        open(&node, "/api/sse/managed/connect/group/g", &[]),
        open(&node, "/events", &[("X-User-ID", "stays")]),
    ];
    assert_eq!(node.request("DELETE", &emitter(&streams[0].1), &[], "").json(), json!({ "disconnected": 1 }));
    let end = |path: &str| node.request("DELETE", path, &[], "").json();
    assert_eq!(end("/api/sse/managed/disconnect/user/1"), json!({ "disconnected": 1 }));
    assert_eq!(end("/api/sse/managed/disconnect/group/g"), json!({ "disconnected": 1 }));
    assert_eq!(end("/api/sse/managed/disconnect/user/nobody"), json!({ "disconnected": 0 }));
    for (stream, _) in &mut streams[..3] {
        let rest = stream.rest();
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert_eq!((rest[0].event.as_str(), rest[0].json()), ("disconnect", json!({ "reason": "removed" })));
        assert_eq!(rest[0].id, "");
        assert!(stream.finished && stream.retry.is_some_and(|ms| (1500..=4500).contains(&ms)), "{:?}", stream.retry);
    }
    let gone = eventually(|| {
        Some(node.request("DELETE", &emitter(&streams[0].1), &[], "")).filter(|reply| reply.status == 404)
    });
    assert!(gone.problem(404).contains(&streams[0].1));
    let id = node.publish("user:stays", "e", &json!(1));
    assert_eq!(streams[3].0.next_own().id, id, "others are left alone");
}

#[test]
fn one_emitter_is_sent_to_past_the_journal() {
    let node = Node::start("");
    let (mut stream, id) = open(&node, "/events", &[]);
    let path = format!("/api/sse/managed/send/emitter/{id}");
    let answer = node.post(&format!("{path}?event=hint"), &json!({ "a": 1 }));
    assert_eq!((&answer["id"], &answer["delivered"]), (&Value::Null, &json!(1)));
    let event = stream.next();
    assert_eq!((event.id.as_str(), event.event.as_str(), event.data.as_str()), ("", "hint", "{\"a\":1}"));
    assert!(node.json("POST", "/api/sse/managed/send/emitter/nobody", &json!(1)).problem(404).contains("nobody"));
    drop(stream);
    eventually(|| (node.json("POST", &path, &json!(1)).status == 404).then_some(()));
}
