//! Publishing: the bodies that each route accepts, its responses, its refusals, and the delivered events.

use serde_json::{Value, json};

mod support;

use support::{Node, Reply, Stream};

fn open(node: &Node, path: &str, headers: &[(&str, &str)]) -> Stream {
    let mut stream = node.stream(path, headers);
    stream.until("connection");
    stream
}

fn delivered(answer: &Value) -> &Value {
    &answer["delivered"]
}

/// All that the journal has of a topic.
fn kept(node: &Node, topic: &str) -> Vec<Value> {
    node.get(&format!("/api/topics/{topic}/events?limit=1000")).json()["events"].as_array().expect("a list").clone()
}

#[test]
fn the_answer_names_position_topic_and_audience() {
    let node = Node::start("");
    let without_receiver = node.post("/events", &json!({ "topic": "t", "event": "e", "data": 1 }));
    assert_eq!((&without_receiver["topic"], delivered(&without_receiver)), (&json!("t"), &json!(0)));
    let streams = [
        open(&node, "/events?topic=t", &[("X-User-ID", "1")]),
        open(&node, "/events?topic=t*", &[("X-User-ID", "1")]),
        open(&node, "/api/sse/managed/connect/group/g", &[]),
    ];
    let cases = [
        ("/events", json!({ "topic": "t", "data": 1 }), "t", 2),
        ("/api/sse/managed/send/user/1", json!("hi"), "user:1", 2),
        ("/api/sse/managed/send/user/2", json!("hi"), "user:2", 0),
        ("/api/sse/managed/broadcast/group/g", json!({ "event": "e", "data": 1 }), "group:g", 1),
        ("/api/sse/managed/broadcast", json!({ "event": "e", "data": 1 }), "all", 3),
        ("/api/sse/managed/broadcast/all", json!({ "event": "e", "data": 1 }), "all", 3),
    ];
    let mut last = without_receiver["id"].as_str().expect("an id").to_owned();
    for (path, body, topic, count) in cases {
        let answer = node.post(path, &body);
        assert_eq!((&answer["topic"], delivered(&answer)), (&json!(topic), &json!(count)), "{path}");
        let id = answer["id"].as_str().expect("an id");
        assert_ne!(id, last);
        last = id.to_owned();
        let event = node.get(&format!("/api/topics/{topic}/events")).json()["events"]
            .as_array()
            .and_then(|all| all.last().cloned());
        assert_eq!(event.expect("it is there when the answer is")["id"], *id, "{path}");
    }
    let filtered = node.post("/api/sse/managed/send/filtered", &json!({ "filter": {}, "data": 1 }));
    assert_eq!(delivered(&filtered), &Value::Null);
    drop(streams);
}

#[test]
fn data_are_text_as_it_is_or_compact_json() {
    let node = Node::start("");
    let mut stream = open(&node, "/events", &[("X-User-ID", "1")]);
    let cases = [
        (json!("plain"), "plain"),
        (json!("{\"a\": 1}"), "{\"a\": 1}"),
        (json!({ "b": [1, 2.5, "x"], "a": null }), "{\"b\":[1,2.5,\"x\"],\"a\":null}"),
        (json!([]), "[]"),
        (json!(null), "null"),
        (json!(false), "false"),
        (json!(""), ""),
        (json!("two\nlines\r\nthree\rfour"), "two\nlines\nthree\nfour"),
        (json!(" leading and é€😀"), " leading and é€😀"),
        (json!("data: not a field\n\nid: 7"), "data: not a field\n\nid: 7"),
    ];
    for (data, text) in &cases {
        node.post("/events", &json!({ "topic": "t", "event": "e", "data": data }));
        let event = stream.next_own();
        assert_eq!((event.data.as_str(), event.event.as_str()), (*text, "e"));
        node.post("/api/sse/managed/send/user/1?event=named", data);
        let event = stream.next_own();
        assert_eq!((event.data.as_str(), event.event.as_str()), (*text, "named"));
    }
    node.post("/events", &json!({ "topic": "t", "data": 1 }));
    assert_eq!(stream.next_own().event, "message", "without a name it is a message");
}

#[test]
fn a_reconnection_time_counts_up_to_an_hour() {
    let node = Node::start("");
    let mut stream = node.stream("/events?topic=t", &[]);
    stream.until("connection");
    node.post("/events", &json!({ "topic": "t", "data": 1, "retry": u64::MAX }));
    stream.until("message");
    assert_eq!(stream.retry, Some(3_600_000));
}

#[test]
fn retry_and_comment_reach_the_client() {
    let node = Node::start("");
    let mut stream = open(&node, "/events", &[]);
    node.post("/api/sse/managed/broadcast", &json!({ "event": "e", "data": 1, "retry": 7777, "comment": "one\ntwo" }));
    assert_eq!(stream.next_own().event, "e");
    assert_eq!((stream.retry, stream.comments), (Some(7777), 2), "a comment's line breaks become comments");
}

#[test]
fn an_array_is_published_whole_or_not_at_all() {
    let node = Node::start("");
    let mut stream = open(&node, "/events?topics=a,b", &[]);
    let answers = node.post(
        "/events",
        &json!([{ "topic": "a", "data": 1 }, { "topic": "b", "data": 2 }, { "topics": ["a", "b"], "data": 3 }]),
    );
    let ids: Vec<&str> =
        answers.as_array().expect("a list").iter().map(|answer| answer["id"].as_str().expect("an id")).collect();
    assert_eq!([&answers[0]["topic"], &answers[1]["topic"]], ["a", "b"]);
    for (n, id) in ids.iter().enumerate() {
        let event = stream.next_own();
        assert_eq!((event.id.as_str(), event.data), (*id, (n + 1).to_string()));
    }
    assert_eq!(node.post("/events", &json!([])), json!([]));
    assert!(node.post("/events", &json!([{ "topic": "a", "data": 1 }])).is_array(), "an array is answered by an array");

    let good = json!({ "topic": "c", "data": 1 });
    let bad = [
        json!({ "topic": "a b", "data": 1 }),
        json!({ "topic": "c" }),
        json!({ "data": 1 }),
        json!({ "topic": "c", "data": 1, "event": "a\nb" }),
        json!({ "topic": "job:1", "data": 1 }),
        json!({ "topic": "c", "data": 1, "colour": "red" }),
        json!({ "topic": "c", "data": 1, "retry": "soon" }),
        json!("c"),
    ];
    for bad in bad {
        let detail = node.json("POST", "/events", &json!([good, good, bad, good])).problem(422);
        assert!(detail.contains("event 2"), "{bad}: {detail}");
    }
    assert_eq!(kept(&node, "c"), Vec::<Value>::new());
}

#[test]
fn the_same_id_of_the_same_publisher_appends_once() {
    let node = Node::start("");
    let mut stream = open(&node, "/events?topic=t", &[]);
    let body = json!({ "topic": "t", "event": "e", "data": { "n": 1 }, "id": "order-1" });
    let send = |user: &str, body: &Value| -> Reply {
        node.request("POST", "/events", &[("Content-Type", "application/json"), ("X-User-ID", user)], body.to_string())
    };
    let first = send("alice", &body).json();
    let again = send("alice", &body).json();
    assert_eq!(again["id"], first["id"]);
    assert_eq!(again["duplicate"], true);
    for other in [
        json!({ "topic": "t", "event": "e", "data": { "n": 2 }, "id": "order-1" }),
        json!({ "topics": ["t", "u"], "event": "e", "data": { "n": 1 }, "id": "order-1" }),
    ] {
        assert!(send("alice", &other).problem(422).contains("order-1"));
    }
    for elsewhere in [
        json!({ "topic": "u", "event": "e", "data": { "n": 3 }, "id": "order-1" }),
        json!({ "topics": ["v", "t"], "event": "late", "data": { "n": 1 }, "id": "order-1" }),
    ] {
        let (one, two) = (send("alice", &elsewhere).json(), send("alice", &elsewhere).json());
        assert!(one["duplicate"].is_null() && one["id"] == two["id"], "a key is one of its first topic: {one}, {two}");
    }
    let theirs = send("bob", &body).json();
    assert_ne!(theirs["id"], first["id"], "a key belongs to its publisher");
    assert_eq!(kept(&node, "t").len(), 3);
    let (one, _, two) = (stream.next_own(), stream.next_own(), stream.next_own());
    assert_eq!([json!(one.id), json!(two.id)], [first["id"].clone(), theirs["id"].clone()]);
    assert!(!one.id.contains("order-1"), "the stream's ids are positions");

    let twice = send("carol", &json!([body, body])).json();
    assert_eq!(twice[0]["id"], twice[1]["id"], "also within one array");
    let group = json!({ "event": "e", "data": 1, "id": "k" });
    let path = "/api/sse/managed/broadcast/group/g";
    assert_eq!(node.post(path, &group)["id"], node.post(path, &group)["id"]);
    let filtered = json!({ "filter": { "a": 1 }, "data": 1, "id": "f" });
    let path = "/api/sse/managed/send/filtered";
    assert_eq!(node.post(path, &filtered)["id"], node.post(path, &filtered)["id"]);
    assert!(node.metric("millstream_journal_duplicates_total") >= 4.0);
}

#[test]
fn filtered_events_reach_those_whose_metadata_match_live_and_later() {
    let node = Node::start("");
    let gold = "/events?meta.premium=true&meta.level=3&meta.lang=pt-BR";
    let mut matching = open(&node, gold, &[]);
    let mut other = open(&node, "/events?meta.premium=%22true%22&meta.level=3", &[]);
    let start = node.publish("t", "e", &json!("start"));
    let send = |filter: Value, data: &str| {
        node.post("/api/sse/managed/send/filtered", &json!({ "filter": filter, "event": "f", "data": data }))
    };
    send(json!({ "premium": true }), "premium");
    send(json!({ "level": 3, "lang": "pt-BR" }), "both");
    send(json!({ "level": 3, "lang": "pt" }), "nobody");
    send(json!({}), "everybody");
    node.publish("t", "end", &json!(""));
    let received = |stream: &mut Stream| {
        let mut all = Vec::new();
        loop {
            let event = stream.next_own();
            match event.event.as_str() {
                "end" => return all,
                "f" => all.push(event.data),
                _ => {}
            }
        }
    };
    assert_eq!(received(&mut matching), ["premium", "both", "everybody"]);
    assert_eq!(received(&mut other), ["everybody"]);
    assert_eq!(
        received(&mut open(&node, gold, &[("Last-Event-ID", &start)])),
        ["premium", "both", "everybody"],
        "replay as live"
    );
    assert_eq!(received(&mut open(&node, "/events", &[("Last-Event-ID", &start)])), ["everybody"]);
    for wrong in [
        json!({ "data": 1 }),
        json!({ "filter": {} }),
        json!({ "filter": 5, "data": 1 }),
        json!({ "filter": {}, "data": 1, "to": "x" }),
    ] {
        node.json("POST", "/api/sse/managed/send/filtered", &wrong).problem(422);
    }
}

#[test]
fn what_would_break_a_stream_is_refused() {
    let node = Node::start("");
    for bad in ["a\rb", "a\nb", "a\0b", "\n"] {
        let event = node.json("POST", "/events", &json!({ "topic": "t", "event": bad, "data": 1 })).problem(422);
        assert!(event.contains("`event`"), "{event}");
        let id = node.json("POST", "/events", &json!({ "topic": "t", "id": bad, "data": 1 })).problem(422);
        assert!(id.contains("`id`"), "{id}");
    }
    assert!(node.json("POST", "/api/sse/managed/send/user/1?event=a%0Ab", &json!(1)).problem(422).contains("`event`"));
    for path in ["/events", "/api/sse/managed/broadcast", "/api/sse/managed/broadcast/group/g"] {
        let mut body = json!({ "event": "e" });
        if path == "/events" {
            body["topic"] = json!("t");
        }
        let reply = node.json("POST", path, &body);
        assert!(reply.problem(422).contains("data"), "{reply:?}");
        assert_eq!(reply.json()["errors"][0]["field"], "data");
    }
    assert_eq!(kept(&node, "t"), Vec::<Value>::new());
}

#[test]
fn internal_topics_are_refused_and_all_other_names_are_open() {
    let node = Node::start("");
    for topic in ["job:1", "emitter:x"] {
        assert!(node.json("POST", "/events", &json!({ "topic": topic, "data": 1 })).problem(422).contains(topic));
        assert!(
            node.json("POST", "/events", &json!({ "topics": ["ok", topic], "data": 1 })).problem(422).contains(topic)
        );
    }
    for topic in ["", "a b", "a,b", "a*", "a\tb", &"x".repeat(256)] {
        node.json("POST", "/events", &json!({ "topic": topic, "data": 1 })).problem(422);
    }
    for wrong in [
        json!({ "topic": "a", "topics": ["b"], "data": 1 }),
        json!({ "topics": [], "data": 1 }),
        json!({ "topics": vec!["t"; 65], "data": 1 }),
    ] {
        node.json("POST", "/events", &wrong).problem(422);
    }
    assert!(node.json("POST", "/api/sse/managed/send/user/a%20b", &json!(1)).problem(422).contains("white space"));
    assert!(
        node.json("POST", "/api/sse/managed/broadcast/group/a%2Cb", &json!({ "data": 1 })).problem(422).contains(',')
    );
    let elsewhere = node.json("POST", "/api/sse/managed/broadcast", &json!({ "topic": "t", "data": 1 }));
    assert!(elsewhere.problem(422).contains("topic"));
    for topic in ["user:1", "group:g", "order:é", "a/b.c#d", &"x".repeat(255)] {
        node.publish(topic, "e", &json!(1));
    }
}

#[test]
fn sizes_have_bounds_and_the_bound_is_named() {
    let node = Node::start("[journal]\nmax_event_bytes = 5000\n[server]\nbody_limit_bytes = 9000\n");
    node.publish("t", "e", &json!("x".repeat(4990)));
    let large = json!({ "topic": "t", "event": "e", "data": "x".repeat(5001) });
    assert!(node.json("POST", "/events", &large).problem(413).contains("max_event_bytes"));
    assert!(
        node.json("POST", "/events", &json!([{ "topic": "t", "data": 1 }, large])).problem(413).contains("event 1")
    );
    for path in ["/api/sse/managed/send/user/1", "/api/sse/managed/send/emitter/x"] {
        node.json("POST", path, &json!("x".repeat(5001))).problem(413);
    }
    let huge = node.json("POST", "/events", &json!({ "topic": "t", "data": "x".repeat(9000) }));
    assert!(huge.problem(413).contains("body_limit_bytes"));
    assert_eq!(kept(&node, "t").len(), 1);
}

#[test]
fn a_value_of_the_wrong_form_is_named_by_its_path() {
    let node = Node::start("");
    let job = json!({ "tasks": [{ "run": "task1" }, { "run": "task1", "timeoutMs": "soon" }] });
    let problem = node.json("POST", "/api/jobs", &job);
    assert_eq!(
        (problem.status, &problem.json()["errors"][0]["field"]),
        (422, &json!("tasks[1].timeoutMs")),
        "{problem:?}"
    );
    assert!(node.raw_post("/events", br#"{"topic":"t","data":1} x"#).problem(400).contains("no JSON"));
}

#[test]
fn bodies_must_be_json_of_the_right_form() {
    let node = Node::start("");
    let send = |media: &str, body: &str| node.request("POST", "/events", &[("Content-Type", media)], body);
    let good = r#"{"topic":"t","data":1}"#;
    for media in ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"]
    {
        assert_eq!(send(media, good).status, 200, "{media}");
    }
    assert_eq!(node.request("POST", "/events", &[], good).status, 200, "no type is taken for JSON");
    for media in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
        assert!(send(media, good).problem(415).contains("application/json"), "{media}");
    }
    for malformed in ["", "{", "{\"topic\":\"t\",}", "{'topic':'t'}", "{\"topic\":\"t\",\"data\":1}}"] {
        send("application/json", malformed).problem(400);
    }
    for wrong in [
        "1",
        "\"t\"",
        "null",
        r#"{"topic":1,"data":1}"#,
        r#"{"topic":"t","data":1,"ttl":5}"#,
        r#"{"topic":"t","data":1,"ttlMs":-5}"#,
    ] {
        send("application/json", wrong).problem(422);
    }
    assert!(node.json("POST", "/api/sse/managed/send/user/1?evnt=x", &json!(1)).problem(400).contains("`event`"));
}

/// The route does not read a query string, so an event name in it would be lost silently.
#[test]
fn a_query_on_a_route_without_parameters_is_refused() {
    let node = Node::start("");
    let event = json!({ "data": 1 });
    for path in ["/api/sse/managed/broadcast", "/api/sse/managed/broadcast/group/g"] {
        assert!(node.json("POST", &format!("{path}?event=x"), &event).problem(400).contains("`event`"), "{path}");
    }
    assert!(node.json("POST", "/events?topic=t", &event).problem(400).contains("`topic`"));
}

/// A client could not distinguish such an event from a control frame of the node.
#[test]
fn names_of_control_frames_are_refused() {
    let node = Node::start("");
    let stream = open(&node, "/events?topic=t", &[("X-User-ID", "1")]);
    let emitter = node.get("/api/sse/managed/emitters").json()["emitters"][0]["emitterId"].clone();
    let emitter = emitter.as_str().expect("an id");
    let headers = [("Content-Type", "application/json"), ("X-User-ID", "relay:1/x")];
    for name in ["connection", "heartbeat", "gap", "disconnect", "relay_open", "relay_x", "merge_complete", "merge_"] {
        let event = json!({ "event": name, "data": 1 });
        for (path, body) in [
            ("/events".to_owned(), json!({ "topic": "t", "event": name, "data": 1 })),
            (
                "/events".to_owned(),
                json!([{ "topic": "t", "data": 1 }, { "topics": ["t", "u"], "event": name, "data": 1 }]),
            ),
            (format!("/api/sse/managed/send/user/1?event={name}"), json!(1)),
            (format!("/api/sse/managed/send/emitter/{emitter}?event={name}"), json!(1)),
            ("/api/sse/managed/send/filtered".to_owned(), json!({ "filter": {}, "event": name, "data": 1 })),
            ("/api/sse/managed/broadcast/group/g".to_owned(), event.clone()),
            ("/api/sse/managed/broadcast".to_owned(), event.clone()),
            ("/api/sse/managed/broadcast/all".to_owned(), event),
        ] {
            let reply = node.request("POST", &path, &headers, body.to_string());
            let detail = reply.problem(422);
            assert!(detail.contains(&format!("`{name}`")), "{path}: {detail}");
        }
    }
    assert!(kept(&node, "t").is_empty() && kept(&node, "all").is_empty());
    for name in ["complete", "error", "progress", "task_start", "relay", "remote.gap", "Gap", "merged"] {
        node.publish("t", name, &json!(1));
    }
    assert_eq!(kept(&node, "t").len(), 8);
    drop(stream);
}
