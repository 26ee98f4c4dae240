//! What callers see of each other: nothing that their rights do not say.

use serde_json::{Value, json};

use crate::{
    rig::{ADMIN, ALICE, BOB, ask, publish, stream, token, tokens},
    support::{Node, eventually},
};

/// Two tenants with the same kinds of rights, each for its own topics.
fn tenants() -> Node {
    let rights = |name: &str| {
        format!("publish = [\"{name}:*\"]\nsubscribe = [\"{name}:*\"]\njobs = true\nmeta = {{ tenant = \"{name}\" }}")
    };
    let sections = [
        "[access]\nmode = \"token\"\n".to_owned(),
        token("admin", ADMIN, "admin = true"),
        token("alice", ALICE, &rights("acme")),
        token("bob", BOB, &rights("bolt")),
    ];
    Node::start(&sections.concat())
}

#[test]
fn tenants_receive_only_their_own_topics_live_and_replayed() {
    let node = tenants();
    assert_eq!((publish(&node, ALICE, "acme:1", "old"), publish(&node, BOB, "bolt:1", "old")), (200, 200));
    assert_eq!(publish(&node, ALICE, "bolt:1", "forged"), 403);
    // Without topics: all permitted topics. With history: the same rule for earlier events.
    let (mut alice, _) = stream(&node, ALICE, "/events?history=100");
    let (mut bob, _) = stream(&node, BOB, "/events?history=100");
    assert_eq!((publish(&node, BOB, "bolt:1", "new"), publish(&node, ALICE, "acme:1", "new")), (200, 200));
    assert_eq!(publish(&node, ADMIN, "user:alice", "for alice"), 200);
    for (reader, expected) in [(&mut alice, vec!["old", "new", "for alice"]), (&mut bob, vec!["old", "new"])] {
        let received: Vec<String> = expected.iter().map(|_| reader.until("news").data).collect();
        assert_eq!(received, expected);
    }
    for path in [
        "/events?topics=bolt:1",
        "/events?topics=*",
        "/events?topics=acm*",
        "/events?topics=user:bob",
        "/events?topics=all",
    ] {
        let refused = ask(&node, Some(ALICE), "GET", path, None);
        assert!(refused.problem(403).contains("`alice` may not subscribe"), "{path}: {refused:?}");
    }
    assert_eq!(ask(&node, Some(ALICE), "GET", "/api/sse/managed/connect?group=ops", None).status, 403);
    // A position of a topic without permission resumes nothing of it.
    let last = publish_id(&node, BOB, "bolt:2");
    assert_eq!(ask(&node, Some(ALICE), "GET", &format!("/events?topics=bolt:2&lastEventId={last}"), None).status, 403);
}

fn publish_id(node: &Node, token: &str, topic: &str) -> String {
    let event = json!({ "topic": topic, "data": 1 });
    ask(node, Some(token), "POST", "/events", Some(&event)).json()["id"].as_str().expect("an id").to_owned()
}

#[test]
fn tenants_list_only_their_own_topics_jobs_and_connections() {
    let node = tenants();
    for (token, topic) in [(ALICE, "acme:1"), (ALICE, "acme:2"), (BOB, "bolt:1")] {
        assert_eq!(publish(&node, token, topic, "x"), 200);
    }
    let (_alice, alice) = stream(&node, ALICE, "/events");
    let (_bob, bob) = stream(&node, BOB, "/events");
    let job = json!({ "tasks": [{ "run": "task1" }] });
    let own = ask(&node, Some(BOB), "POST", "/api/jobs", Some(&job)).json()["jobId"].clone();
    let list = |token: &str, path: &str, rows: &str, name: &str| -> Vec<Value> {
        let page = ask(&node, Some(token), "GET", path, None).json();
        page[rows].as_array().unwrap_or_else(|| panic!("{page}")).iter().map(|row| row[name].clone()).collect()
    };
    assert_eq!(list(ALICE, "/api/topics", "topics", "topic"), ["acme:1", "acme:2"]);
    assert_eq!(list(ALICE, "/api/topics?pattern=bolt:*", "topics", "topic"), Vec::<Value>::new());
    assert_eq!(list(ALICE, "/api/topics?limit=1&after=acme:1", "topics", "topic"), ["acme:2"]);
    assert_eq!(list(ALICE, "/api/jobs", "jobs", "jobId"), Vec::<Value>::new());
    assert_eq!(list(BOB, "/api/jobs?user=bob", "jobs", "jobId"), std::slice::from_ref(&own));
    assert_eq!(list(ADMIN, "/api/jobs", "jobs", "jobId"), std::slice::from_ref(&own));
    assert_eq!(list(ALICE, "/api/sse/managed/emitters", "emitters", "emitterId"), [alice["emitterId"].clone()]);
    assert_eq!(list(ADMIN, "/api/sse/managed/emitters", "emitters", "emitterId").len(), 2);
    for path in ["/api/jobs?user=bob", "/api/sse/managed/emitters?user=bob", "/api/sse/managed/status/user/bob"] {
        assert_eq!(ask(&node, Some(ALICE), "GET", path, None).status, 403, "{path}");
    }
    let change = format!("/api/sse/managed/emitters/{}", bob["emitterId"].as_str().unwrap());
    assert_eq!(ask(&node, Some(ALICE), "PATCH", &change, Some(&json!({ "topics": [] }))).status, 404);
    let theirs = format!("/api/topics/job:{}/events", own.as_str().unwrap());
    assert_eq!(ask(&node, Some(ALICE), "GET", &theirs, None).status, 403, "a job's history is a topic");
}

#[test]
fn the_same_idempotency_key_of_two_users_is_two_keys() {
    let node = tenants();
    let job = json!({ "tasks": [{ "run": "task1" }] }).to_string();
    let submit = |token: &str| {
        let headers = [("X-Auth-Token", token), ("Idempotency-Key", "same"), ("Content-Type", "application/json")];
        node.request("POST", "/api/jobs", &headers, &job).json()["jobId"].clone()
    };
    let (alice, bob) = (submit(ALICE), submit(BOB));
    assert_ne!(alice, bob);
    assert_eq!(submit(ALICE), alice);
    for (token, topic) in [(ALICE, "acme:1"), (BOB, "bolt:1")] {
        let event = json!({ "topic": topic, "data": token, "id": "same" });
        let answer = ask(&node, Some(token), "POST", "/events", Some(&event));
        assert!(answer.status == 200 && answer.json()["duplicate"].is_null(), "{answer:?}");
    }
}

#[test]
fn metadata_come_from_the_token() {
    let node = tenants();
    let (mut alice, _) = stream(&node, ALICE, "/events?topics=acme:*");
    let refused = ask(&node, Some(ALICE), "GET", "/events?meta.tenant=bolt", None);
    assert!(refused.problem(403).contains("from the token"), "{refused:?}");
    let (mut admin, _) = stream(&node, ADMIN, "/api/sse/managed/connect");
    let shown = ask(&node, Some(ADMIN), "GET", "/api/sse/managed/emitters?user=alice", None).json();
    assert_eq!(shown["emitters"][0]["meta"], json!({ "tenant": "acme" }));
    // A caller without the right to broadcasts does not receive filtered ones either.
    let filtered = json!({ "filter": {}, "event": "offer", "data": 1 });
    assert_eq!(ask(&node, Some(ADMIN), "POST", "/api/sse/managed/send/filtered", Some(&filtered)).status, 200);
    assert_eq!(admin.until("offer").data, "1");
    assert_eq!(publish(&node, ALICE, "acme:1", "after"), 200);
    assert_eq!(alice.next().event, "news");
}

#[test]
fn a_job_notifies_only_permitted_topics() {
    let node = tenants();
    for (notify, status) in [
        (json!({ "topic": "acme:jobs" }), 202),
        (json!({ "topic": "bolt:jobs" }), 403),
        (json!({ "user": "bob" }), 403),
    ] {
        let job = json!({ "tasks": [{ "run": "task1" }], "notify": notify });
        assert_eq!(ask(&node, Some(ALICE), "POST", "/api/jobs", Some(&job)).status, status, "{job}");
    }
    let remote_job = json!({ "tasks": [{ "run": "task1", "remote": "reactive" }] });
    let refused = ask(&node, Some(ALICE), "POST", "/api/jobs", Some(&remote_job));
    assert!(refused.problem(403).contains("may not use the remote `reactive`"), "{refused:?}");
    let unknown = json!([{ "remote": "nowhere", "path": "/x" }]);
    let refused = ask(&node, Some(ALICE), "POST", "/api/sse-proxy/merge-streams/sse-emitter", Some(&unknown));
    assert_eq!(refused.status, 403, "a stranger does not learn which remotes there are: {refused:?}");
}

#[test]
fn a_relay_belongs_to_its_user_across_a_restart() {
    let rights = "jobs = true\nremotes = [\"reactive\"]\n";
    let sections = [tokens(), token("carol", "token-of-carol", rights), "[relay]\nmax_upstreams = 10\n".to_owned()];
    let mut node = Node::start(&sections.concat());
    let spec = json!({ "sources": [{ "remote": "reactive", "path": "/events" }] });
    let relay = ask(&node, Some("token-of-carol"), "POST", "/api/relays", Some(&spec)).json()["id"].clone();
    let path = format!("/api/relays/{}", relay.as_str().expect("an id"));
    for restarted in [false, true] {
        let status = |token: &str| ask(&node, Some(token), "GET", &path, None).status;
        assert_eq!((status("token-of-carol"), status(ALICE), status(ADMIN)), (200, 404, 200), "restarted: {restarted}");
        let own = ask(&node, Some(ALICE), "GET", "/api/relays", None).json();
        assert_eq!(own["relays"], json!([]));
        node.restart();
        eventually(|| (node.get("/readyz").status == 200).then_some(()));
    }
}

#[test]
fn a_public_stream_is_open_to_all_and_a_named_one_needs_rights() {
    let streams = "[streams.news]\ntopics = [\"news\"]\npublic = true\n[streams.orders]\ntopics = [\"orders:1\"]\n";
    let node = Node::start(&format!("{}{streams}", tokens()));
    for headers in [&[][..], &[("X-Auth-Token", "token-of-nobody")], &[("X-Auth-Token", BOB)]] {
        let mut reader = node.stream("/api/sse/news", headers);
        assert_eq!(reader.status, 200, "{headers:?}");
        reader.until("connection");
        assert_eq!(publish(&node, ADMIN, "news", "for all"), 200);
        assert_eq!(reader.until("news").data, "for all");
    }
    for (token, status) in [(None, 401), (Some(BOB), 403), (Some(ALICE), 200)] {
        assert_eq!(ask(&node, token, "GET", "/api/sse/orders", None).status, status, "{token:?}");
    }
    assert_eq!(ask(&node, None, "GET", "/api/sse/nothing", None).status, 401);
    assert_eq!(ask(&node, Some(BOB), "GET", "/api/sse/nothing", None).status, 404);
}

#[test]
fn what_is_filtered_for_others_is_not_read_as_json_either() {
    let sections = [
        "[access]\nmode = \"token\"\n".to_owned(),
        token("admin", ADMIN, "admin = true"),
        token("alice", ALICE, "subscribe = [\"all\", \"shared:*\"]\nmeta = { level = 3 }"),
    ];
    let node = Node::start(&sections.concat());
    for (filter, data) in [(json!("user == 'bob'"), "for bob"), (json!({ "level": 3 }), "for level 3")] {
        let body = json!({ "filter": filter, "data": data });
        assert_eq!(ask(&node, Some(ADMIN), "POST", "/api/sse/managed/send/filtered", Some(&body)).status, 200);
    }
    let several = json!({ "topics": ["shared:1", "user:bob"], "data": "two topics" });
    assert_eq!(ask(&node, Some(ADMIN), "POST", "/events", Some(&several)).status, 200);
    let rows = |token: &str, topic: &str, field: &str| -> Vec<Value> {
        let page = ask(&node, Some(token), "GET", &format!("/api/topics/{topic}/events"), None).json();
        page["events"].as_array().expect("events").iter().map(|event| event[field].clone()).collect()
    };
    assert_eq!(rows(ALICE, "all", "data"), ["for level 3"]);
    assert_eq!(rows(ADMIN, "all", "data"), ["for bob", "for level 3"]);
    assert_eq!(rows(ALICE, "shared:1", "topics"), [json!(["shared:1"])]);
    assert_eq!(rows(ADMIN, "shared:1", "topics"), [json!(["shared:1", "user:bob"])]);
}

/// A stream must not receive more than its credential permits, nor for longer.
#[test]
fn another_credential_of_the_same_user_cannot_widen_a_stream() {
    let sections = [tokens(), token("bob-too", "token-of-bob-too", "user = \"bob\"\nsubscribe = [\"orders:*\"]")];
    let node = Node::start(&sections.concat());
    let (_bob, connection) = stream(&node, BOB, "/events");
    let path = format!("/api/sse/managed/emitters/{}", connection["emitterId"].as_str().expect("an id"));
    let change = json!({ "topics": ["orders:*"] });
    assert_eq!(ask(&node, Some("token-of-bob-too"), "PATCH", &path, Some(&change)).status, 404);
    assert_eq!(ask(&node, Some(BOB), "PATCH", &path, Some(&change)).status, 403);
    assert_eq!(ask(&node, Some(BOB), "PATCH", &path, Some(&json!({ "topics": ["user:bob"] }))).status, 200);
}

#[test]
fn a_stranger_does_not_learn_which_remotes_there_are() {
    let node = Node::start(&tokens());
    let job = json!({ "tasks": [{ "run": "task1" }] });
    let hybrid = json!({ "remote": "x", "remoteTasks": ["task1"] });
    for (path, body) in [
        ("/api/sse-proxy/x/parallel-tasks/sse-emitter", &job),
        ("/api/sse-integration/hybrid-execution/sse-emitter", &hybrid),
    ] {
        let refused = ask(&node, Some(BOB), "POST", path, Some(body));
        assert!(!refused.text().contains("reactive") && refused.status == 403, "{path}: {refused:?}");
    }
}

/// What pages need to offer only what may be done.
#[test]
fn a_caller_gets_its_identity_and_rights() {
    let node = Node::start(&tokens());
    let me = |token| ask(&node, Some(token), "GET", "/api/me", None).json();
    assert_eq!(
        me(ALICE),
        json!({
            "mode": "token", "user": "alice", "groups": ["staff"], "admin": false, "rights": {
                "publish": ["orders:*", "all", "user:*", "group:staff", "emitter:*", "user:alice"],
                "subscribe": ["orders:*", "user:alice", "group:staff"], "jobs": true, "remotes": ["reactive"],
            },
        })
    );
    let rights = json!({ "publish": ["user:bob"], "subscribe": ["user:bob"], "jobs": false, "remotes": [] });
    assert_eq!(me(BOB)["rights"], rights);
    let all = json!({ "publish": ["*"], "subscribe": ["*"], "jobs": true, "remotes": ["*"] });
    assert_eq!((&me(ADMIN)["admin"], &me(ADMIN)["rights"]), (&json!(true), &all));
    let open = Node::start("");
    let anonymous = open.get("/api/me").json();
    assert_eq!(anonymous, json!({ "mode": "open", "user": null, "groups": [], "admin": true, "rights": all }));
    assert_eq!(open.request("GET", "/api/me", &[("X-User-ID", "jo\u{e3}o")], "").json()["user"], "jo\u{e3}o");
}
