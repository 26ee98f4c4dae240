//! The routes of relays: what they refuse, show, hide and end.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use serde_json::{Value, json};

use crate::{
    rig::{Faucet, ended, events, history, node, relay, relay_of, relayed, rows, settings, states, stream, view},
    support::{Node, Reply, eventually, upstream::Upstream},
};

fn refused(node: &Node, spec: &Value) -> Vec<(String, String)> {
    let reply = node.json("POST", "/api/relays", spec);
    reply.problem(422);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let errors = reply.json()["errors"].as_array().cloned().unwrap_or_default();
    errors.iter().map(|error| (text(&error["field"]), text(&error["detail"]))).collect()
}

fn delete(node: &Node, id: &str) -> Reply {
    node.request("DELETE", &format!("/api/relays/{id}"), &[], "")
}

#[test]
fn a_wrong_spec_is_refused_with_all_its_mistakes() {
    let faucet = Faucet::start();
    let node = Node::start(&settings(faucet.upstream.addr).replace("\"/*\"", "\"/ok/*\""));
    let errors = refused(
        &node,
        &json!({ "topic": "relay:x", "user": "u", "endEvent": "", "sources": [
            { "path": "/ok/1", "remote": "nobody" },
            { "path": "/secret", "label": "a" },
            { "path": "/ok/1", "label": "a", "method": "CONNECT" },
            { "path": "/ok/1", "headers": { "Host": "h", "Last-Event-ID": "1", "X-Good": "y", "b ad": "x" }, "lastEventId": "x".repeat(1025) },
            { "path": "/ok/1", "body": { "a": 1 }, "readTimeoutMs": 0, "initialRetryMs": 1 },
            { "path": "", "label": "" },
        ] }),
    );
    let detail = |field: &str| {
        let found: Vec<_> = errors.iter().filter(|(own, _)| own == field).map(|(_, detail)| detail.as_str()).collect();
        assert!(!found.is_empty(), "no error names {field}: {errors:?}");
        found.join("; ")
    };
    assert!(detail("topic").contains("only the node itself"));
    assert!(detail("user").contains("at most one"));
    assert!(detail("endEvent").contains("1 to 255"));
    assert!(detail("sources[0].remote").contains("`up`"));
    assert!(detail("sources[1].path").contains("`/ok/*`"));
    assert!(detail("sources[2].label").contains("unique"));
    assert!(detail("sources[2].method").contains("`CONNECT` is not sent"));
    let headers = detail("sources[3].headers");
    assert!(headers.contains("`Host`") && headers.contains("`lastEventId`") && headers.contains("`b ad`"), "{headers}");
    assert!(!headers.contains("X-Good"), "{headers}");
    for field in ["sources[3].lastEventId", "sources[4].body", "sources[4].readTimeoutMs", "sources[4].initialRetryMs"]
    {
        detail(field);
    }
    assert!(detail("sources[5].path").contains("missing") && detail("sources[5].label").contains("1 to 64"));

    assert!(refused(&node, &json!({ "sources": [] }))[0].1.contains("1 to 256"));
    assert!(refused(&node, &json!({}))[0].1.contains("1 to 256"));
    assert!(
        node.json("POST", "/api/relays", &json!({ "sources": [{ "path": "/ok/1", "colour": 1 }] }))
            .problem(422)
            .contains("colour")
    );
    assert!(refused(&node, &json!({ "topic": "a b", "sources": [{ "path": "/ok/1" }] }))[0].1.contains("white space"));
    assert_eq!(node.get("/api/relays").json()["relays"], json!([]));
    assert_eq!(faucet.opened.load(SeqCst), 0);
}

#[test]
fn an_unknown_relay_is_a_404() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    for (method, path) in [("GET", ""), ("GET", "/events"), ("DELETE", ""), ("POST", "/restart")] {
        let reply = node.request(method, &format!("/api/relays/nothing{path}"), &[], "");
        assert!(reply.problem(404).contains("`nothing`"), "{method} {path}");
    }
    let id = relay_of(&node, "/x");
    assert_eq!(delete(&node, &id).status, 204);
    assert_eq!(delete(&node, &id).status, 404);
    assert_eq!(node.get("/api/relays?state=x").status, 400);
    assert_eq!(node.get("/api/relays?status=x").status, 400);
    assert_eq!(node.request("PUT", "/api/relays", &[], "").status, 405);
}

#[test]
fn a_relay_is_made_shown_and_listed() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    let spec = json!({ "user": "42", "sources": [{ "path": "/a?b=c" }, { "path": "/b", "lastEventId": "2" }, { "path": "/c", "label": "third" }] });
    let reply = node.json("POST", "/api/relays", &spec);
    assert_eq!(reply.status, 201, "{reply:?}");
    let created = reply.json();
    let id = created["id"].as_str().expect("an id");
    assert_eq!(reply.header("Location"), Some(format!("/api/relays/{id}").as_str()));
    let expected =
        json!({ "id": id, "topic": "user:42", "status": "running", "eventsUrl": format!("/api/relays/{id}/events") });
    assert_eq!(created, expected);
    faucet.pour(3);
    events(&node, id, 7);
    let shown = view(&node, id);
    let labels: Vec<_> =
        shown["sources"].as_array().expect("sources").iter().map(|source| source["label"].clone()).collect();
    assert_eq!(labels, ["up", "up-2", "third"]);
    let first = &shown["sources"][0];
    assert_eq!(
        (&first["state"], &first["events"], &first["lastEventId"]),
        (&json!("open"), &json!(3), &json!("3")),
        "{shown}"
    );
    assert_eq!(
        (&first["remote"], &first["path"], &first["reconnects"]),
        (&json!("up"), &json!("/a?b=c"), &json!(0)),
        "{shown}"
    );
    assert!(first["since"].is_u64() && shown["createdAt"].is_u64() && shown.get("endedAt").is_none(), "{shown}");
    assert_eq!(shown["sources"][1]["events"], 1);
    // In the user's topic each event names its source.
    let user = rows(&node, "user:42");
    assert_eq!(relayed(&user).len(), 7);
    let mut stream = node.stream("/events?topic=user:42&history=100&envelope=true", &[]);
    let event = stream.until("message").json();
    assert!(["up", "up-2", "third"].contains(&event["source"].as_str().expect("a source")), "{event}");
    assert_eq!(event["topic"], "user:42");

    let more: Vec<_> = (0..4).map(|_| relay_of(&node, "/d")).collect();
    let page = node.get("/api/relays?limit=3").json();
    let ids = |page: &Value| -> Vec<Value> {
        page["relays"].as_array().expect("a list").iter().map(|row| row["id"].clone()).collect()
    };
    assert_eq!(ids(&page), [json!(more[3]), json!(more[2]), json!(more[1])]);
    let rest = node.get(&format!("/api/relays?limit=3&after={}", page["next"].as_str().expect("more"))).json();
    assert_eq!((ids(&rest), &rest["next"]), (vec![json!(more[0]), json!(id)], &Value::Null));
    assert_eq!(ids(&node.get("/api/relays?status=completed").json()), Vec::<Value>::new());
    assert_eq!(node.metric("millstream_relays_running"), 5.0);
}

#[test]
fn secrets_are_sent_upstream_and_never_shown() {
    let upstream = Upstream::start(|_, socket| stream(socket, "data: a\n\n"));
    let node = node(&upstream);
    let id = relay(
        &node,
        &json!({ "sources": [{ "path": "/x", "method": "post", "headers": { "X-Secret": "hush-hush", "Content-Type": "text/x" }, "body": { "a": 1 } }] }),
    );
    let rows = history(&node, &id);
    let asked = &upstream.seen("/x")[0];
    assert_eq!(
        (asked.method.as_str(), asked.header("X-Secret"), asked.header("Content-Type")),
        ("POST", Some("hush-hush"), Some("text/x"))
    );
    assert_eq!((asked.body.as_slice(), asked.header("Accept")), (br#"{"a":1}"#.as_slice(), Some("text/event-stream")));
    let shown = view(&node, &id);
    assert_eq!(shown["spec"]["sources"][0]["headers"], json!({ "Content-Type": "text/x", "X-Secret": "***" }));
    let export = node.get("/api/admin/journal/export").text();
    for text in [shown.to_string(), json!(rows).to_string(), export, node.get("/api/relays").text(), node.log()] {
        assert!(!text.contains("hush-hush"), "{text}");
    }
}

#[test]
fn the_events_of_a_relay_are_its_history_and_end_with_it() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    let id = relay_of(&node, "/x");
    faucet.pour(3);
    events(&node, &id, 3);
    let path = format!("/api/relays/{id}/events");
    let mut watcher = node.stream(&path, &[]);
    let greeting = watcher.next().json();
    assert_eq!((&greeting["relayId"], &greeting["eventsUrl"]), (&json!(id), &json!(path)));
    assert_eq!(watcher.next_own().event, "relay_open");
    let ids: Vec<_> = (0..3).map(|_| watcher.next_own().id).collect();
    faucet.pour(1);
    assert_eq!(watcher.next_own().data, "n4");
    faucet.end();
    let names: Vec<_> =
        watcher.rest().into_iter().filter(crate::support::Event::is_own).map(|event| event.event).collect();
    assert_eq!(names, ["relay_complete", "relay_end"]);
    // Later comers get the same, and who has seen a part gets the rest.
    let whole = node.stream(&path, &[]).rest();
    let resumed = node.stream(&path, &[("Last-Event-ID", &ids[1])]).rest();
    let data = |events: &[crate::support::Event]| -> Vec<String> {
        events.iter().filter(|event| event.event == "message").map(|event| event.data.clone()).collect()
    };
    assert_eq!(
        (data(&whole), data(&resumed)),
        (vec!["n1".into(), "n2".into(), "n3".into(), "n4".into()], vec!["n3".into(), "n4".into()])
    );
    let last = &whole.last().expect("it has an end").id;
    assert_eq!(node.request("GET", &path, &[("Last-Event-ID", last)], "").status, 204);
    assert_eq!(node.get(&format!("{path}?lastEventId={last}")).status, 204);
    // A position that the journal has not issued does not show which events were received.
    let epoch = last.split('-').next().expect("an epoch");
    for (requested, reason) in [(format!("{epoch}-99999999"), "future"), ("abc-7".into(), "foreign")] {
        let events = node.stream(&path, &[("Last-Event-ID", &requested)]).rest();
        assert_eq!((&events[1].json()["reason"], data(&events)), (&json!(reason), data(&whole)), "{requested}");
    }
}

#[test]
fn a_watcher_of_a_deleted_relay_gets_its_end() {
    let faucet = Faucet::start();
    let node = node(&faucet.upstream);
    let id = relay_of(&node, "/x");
    let mut watcher = node.stream(&format!("/api/relays/{id}/events"), &[]);
    watcher.until("relay_open");
    assert_eq!(delete(&node, &id).status, 204);
    let end = watcher.until("relay_end").json();
    assert_eq!((&end["status"], &end["relayId"]), (&json!("deleted"), &json!(id)));
    eventually(|| (faucet.closed.load(SeqCst) == 1).then_some(()));
    assert!(watcher.rest().is_empty() && watcher.finished);
    assert!(delete(&node, "job").status == 404);
}

#[test]
fn what_has_ended_is_taken_up_again_by_a_restart() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, socket| {
        let number = asked.fetch_add(1, SeqCst);
        stream(socket, format!("id: {number}\ndata: n{number}\n\n"));
    });
    let mut node = node(&upstream);
    let id = relay_of(&node, "/x");
    assert_eq!(ended(&node, &id), "completed");
    assert_eq!(node.request("POST", &format!("/api/relays/{id}/restart"), &[], "").status, 202);
    events(&node, &id, 2);
    assert_eq!(ended(&node, &id), "completed");
    let rows = history(&node, &id);
    assert_eq!(relayed(&rows).len(), 2);
    eventually(|| (states(&crate::rig::rows(&node, &format!("relay:{id}")), "relay_end").len() == 2).then_some(()));
    assert_eq!(upstream.seen("/x")[1].header("Last-Event-ID"), Some("0"));
    // An ended one stays ended over a restart of the node.
    node.restart();
    assert_eq!(view(&node, &id)["status"], "completed");
    assert_eq!(upstream.seen("/x").len(), 2);
}

#[test]
fn a_node_accepts_the_configured_number_of_relays() {
    let faucet = Faucet::start();
    let node = Node::start(&settings(faucet.upstream.addr).replace("[relay]", "[relay]\nmax_relays = 2"));
    let first = relay_of(&node, "/x");
    relay_of(&node, "/x");
    let full = node.json("POST", "/api/relays", &json!({ "sources": [{ "path": "/x" }] }));
    assert!(full.problem(503).contains("relay.max_relays"));
    assert!(full.header("Retry-After").is_some());
    assert_eq!(delete(&node, &first).status, 204);
    relay_of(&node, "/x");
}

#[test]
fn an_ended_relay_leaves_after_its_time() {
    let upstream = Upstream::start(|_, socket| stream(socket, "data: a\n\n"));
    let node = Node::start(&settings(upstream.addr).replace("[relay]", "[relay]\nretention_ms = 1"));
    let id = relay_of(&node, "/x");
    eventually(|| (node.get(&format!("/api/relays/{id}")).status == 404).then_some(()));
    eventually(|| rows(&node, &format!("relay:{id}")).is_empty().then_some(()));
    assert_eq!(node.metric("millstream_journal_records"), 0.0);
}

#[test]
fn a_stop_leaves_relays_standing_and_the_next_start_takes_them_up() {
    let faucet = Faucet::start();
    let mut node = node(&faucet.upstream);
    let id = relay_of(&node, "/x");
    faucet.pour(3);
    events(&node, &id, 3);
    let before = rows(&node, &format!("relay:{id}")).len();
    assert_eq!(node.terminate(), Some(0));
    faucet.pour(3);
    node.start_again();
    events(&node, &id, 6);
    let rows = rows(&node, &format!("relay:{id}"));
    assert_eq!(rows[before]["event"], "relay_open");
    assert_eq!(relayed(&rows).len(), 6);
    assert_eq!(states(&rows, "relay_open")[1]["resumedAfter"], "3");
}

#[test]
fn rev_an_ended_relay_without_history_does_not_block_clients() {
    let upstream = Upstream::start(|_, socket| stream(socket, "data: a\n\n"));
    let retention = "[[journal.retention]]\ntopic = \"relay:*\"\nretention_ms = 1\n";
    let node = Node::start(&format!("{}{retention}", settings(upstream.addr)));
    let id = relay_of(&node, "/x");
    assert_eq!(ended(&node, &id), "completed");
    eventually(|| rows(&node, &format!("relay:{id}")).is_empty().then_some(()));
    assert_eq!(node.get(&format!("/api/relays/{id}/events")).status, 204);
}

#[test]
fn rev_a_history_without_its_beginning_has_a_gap() {
    let faucet = Faucet::start();
    let node = Node::start(&format!("{}[journal]\nretention_events = 5\n", settings(faucet.upstream.addr)));
    let id = relay_of(&node, "/x");
    faucet.pour(50);
    events(&node, &id, 50);
    let mut watcher = node.stream(&format!("/api/relays/{id}/events"), &[]);
    watcher.until("gap");
}

#[test]
fn rev_the_end_of_an_earlier_life_is_not_the_end() {
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, socket| {
        let number = asked.fetch_add(1, SeqCst);
        if number == 0 {
            stream(socket, "id: 0\ndata: a\n\n");
        } else {
            let _ = std::io::Write::write_all(socket, crate::rig::HEAD.as_bytes());
            crate::rig::chunk(socket, "id: 1\nevent: second\ndata: b\n\n");
            crate::rig::gone(socket, std::time::Duration::from_secs(5));
        }
    });
    let node = node(&upstream);
    let id = relay_of(&node, "/x");
    assert_eq!(ended(&node, &id), "completed");
    history(&node, &id);
    assert_eq!(node.request("POST", &format!("/api/relays/{id}/restart"), &[], "").status, 202);
    events(&node, &id, 2);
    let mut watcher = node.stream(&format!("/api/relays/{id}/events"), &[]);
    watcher.until("second");
}
