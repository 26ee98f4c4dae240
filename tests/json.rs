//! JSON on its way through the node: digits, escapes and the order of names stay as they were written, and an array is
//! never taken for an object.

use std::process::Command;

use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use serde_json::{Value, json};

#[path = "support/spelled.rs"]
mod spelled;
mod support;

use support::{
    Node, Stream, eventually,
    upstream::{self, Upstream},
};

/// As a client writes it.
const SPACED: &str = "{ \"n\" : 123456789012345678901234567890,\n \"r\": 0.10000000000000000555, \"big\": 1e400, \"t\": 1.10,\
    \"e\": [ 1E5 , -0, -0.0 ], \"s\": \"\\u00e9 \\/\", \"a\": 1, \"a\": 2 }";
/// As it leaves the node.
const PLAIN: &str = "{\"n\":123456789012345678901234567890,\"r\":0.10000000000000000555,\"big\":1e400,\"t\":1.10,\
    \"e\":[1E5,-0,-0.0],\"s\":\"\\u00e9 \\/\",\"a\":1,\"a\":2}";

const JSON: (&str, &str) = ("Content-Type", "application/json");

#[track_caller]
fn post(node: &Node, path: &str, body: &str) -> Value {
    let reply = node.request("POST", path, &[JSON], body);
    assert!(reply.status < 300, "POST {path}: {reply:?}");
    reply.json()
}

#[track_caller]
fn contains(text: &str, part: &str) {
    assert!(text.contains(part), "{part} is missing in\n{text}");
}

/// The data of the next event that a publisher sent; one to an emitter alone has no id.
fn published(stream: &mut Stream) -> String {
    loop {
        let event = stream.next();
        if event.event != "heartbeat" && event.event != "connection" {
            return event.data;
        }
    }
}

/// The program with these arguments; its stdout.
fn program(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_millstream")).args(arguments).output().expect("the binary is built");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

#[test]
fn a_published_payload_keeps_its_text_on_every_road() {
    let hooks = "[webhooks.body]\nsecret_env = \"S\"\nevent = \"e\"\ntopic = \"hook\"\n\
        [webhooks.picked]\nsecret_env = \"S\"\nevent = \"e\"\ntopic = \"hook\"\n\
        data = { copy = \"/deep/0\", fixed = { value = 7 } }";
    let mut node = Node::start_with_env(hooks, &[("S", "secret")]);
    let mut stream = node.stream("/events", &[]);
    let emitter = stream.until("connection").json()["emitterId"].as_str().expect("an id").to_owned();
    let mut send = |path: &str, body: &str| {
        post(&node, path, body);
        assert_eq!(published(&mut stream), PLAIN, "{path}");
    };
    send("/events", &format!("{{\"topic\":\"t\",\"data\":{SPACED}}}"));
    send("/events", &format!("[{{\"topic\":\"t\",\"data\":{SPACED}}}]"));
    send("/api/sse/managed/send/user/u", SPACED);
    send(&format!("/api/sse/managed/send/emitter/{emitter}"), SPACED);
    send("/api/sse/managed/send/filtered", &format!("{{\"filter\":{{}},\"data\":{SPACED}}}"));
    send("/api/sse/managed/broadcast", &format!("{{\"data\":{SPACED}}}"));
    send("/api/sse/managed/broadcast/group/g", &format!("{{\"data\":{SPACED}}}"));
    for (hook, body, data) in [
        ("body", SPACED.to_owned(), PLAIN.to_owned()),
        ("picked", format!("{{\"deep\": [ {SPACED} ]}}"), format!("{{\"copy\":{PLAIN},\"fixed\":7}}")),
    ] {
        let headers = [JSON, ("x-secret-key", "secret")];
        let reply = node.request("POST", &format!("/api/webhooks/{hook}"), &headers, body);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(published(&mut stream), data);
    }
    // A number alone, and one that no program computes with.
    for number in ["1e400", "-0", "1.10", "1E5", "99999999999999999999", &"9".repeat(5000)] {
        post(&node, "/events", &format!("{{\"topic\":\"t\",\"data\":{number}}}"));
        assert_eq!(published(&mut stream), number);
    }
    let server = format!("http://{}", node.addr);
    program(&["publish", "--url", &server, "t", SPACED]);
    assert_eq!(published(&mut stream), PLAIN);

    let row = format!("\"data\":{PLAIN}");
    let watched = program(&["watch", "--url", &server, "--json", "--history", "1", "--count", "1", "t"]);
    contains(&watched, &row);
    node.restart();
    contains(&node.get("/api/topics/t/events").text(), &row);
    let enveloped = node.stream("/events?topic=t&envelope=true&history=1", &[]).next_own();
    contains(&enveloped.data, &row);
    let data_dir = node.dir().join("data");
    assert_eq!(node.terminate(), Some(0));
    contains(&program(&["journal", "export", "--data-dir", data_dir.to_str().expect("text")]), &row);
}

#[test]
fn tasks_keep_the_text_of_bodies_inputs_and_results() {
    let large = format!("{{\"n\": 1.10, \"pad\": \"{}\"}}", "x".repeat(300_000));
    let upstream = Upstream::start(move |request, socket| {
        let body = if request.path == "/large" { &large } else { SPACED };
        upstream::answer(socket, "200 OK", "application/json", body);
    });
    let echo = "command = [\"sh\", \"-c\", \"printf '{\\\"result\\\": '; tr -d '\\\\n'; echo '}'\"]";
    let deep = format!("{}{}", "[".repeat(300), "]".repeat(300));
    let settings = format!(
        "{}[handlers.echo]\nkind = \"command\"\n{echo}\n[handlers.post]\nkind = \"http\"\nurl = \"{}\"\n",
        upstream.allowed(),
        upstream.url("/operator")
    );
    let mut node = Node::start(&settings);
    let spec = format!(
        "{{\"tasks\":[{{\"id\":\"body\",\"url\":\"{}\",\"method\":\"POST\",\"body\":{SPACED}}},\
         {{\"id\":\"input\",\"run\":\"echo\",\"input\":{SPACED}}}, {{\"id\":\"op\",\"run\":\"post\",\"input\":{SPACED}}},\
         {{\"id\":\"large\",\"url\":\"{}\"}}]}}",
        upstream.url("/body"),
        upstream.url("/large")
    );
    let job = post(&node, "/api/jobs", &spec)["jobId"].as_str().expect("an id").to_owned();
    let check = |node: &Node| {
        let mut stream = node.stream(&format!("/api/jobs/{job}/events"), &[]);
        let mut seen = 0;
        loop {
            let event = stream.next();
            match event.event.as_str() {
                "task_complete" if !event.data.contains("\"large\"") => {
                    contains(&event.data, &format!("\"result\":{PLAIN}"));
                    seen += 1;
                }
                "aggregated_result" => {
                    for task in ["body", "input", "op"] {
                        contains(&event.data, &format!("\"{task}\":{PLAIN}"));
                    }
                }
                "complete" => break assert_eq!((seen, event.json()["status"].as_str()), (3, Some("completed"))),
                _ => {}
            }
        }
        let result = node.get(&format!("/api/jobs/{job}/tasks/large/result")).text();
        assert!(result.starts_with("{\"n\":1.10,\"pad\":\"xxx"), "{result:.40}");
        contains(&node.get(&format!("/api/jobs/{job}")).text(), "\"completed\"");
    };
    check(&node);
    for path in ["/body", "/operator"] {
        assert_eq!(String::from_utf8_lossy(&upstream.seen(path)[0].body), PLAIN, "{path}");
    }
    // The record of the spec has it too: a task that runs again after a restart gets the same input.
    node.restart();
    check(&node);

    let file = node.dir().join("job.json");
    std::fs::write(&file, format!("\u{feff}{{\"tasks\":[{{\"id\":\"a\",\"run\":\"echo\",\"input\":{PLAIN}}}]}}"))
        .expect("write");
    let shown = program(&["run", "--url", &format!("http://{}", node.addr), file.to_str().expect("text")]);
    contains(&shown, "\"n\": 123456789012345678901234567890");
    contains(&shown, "\"t\": 1.10");

    let spec = format!(
        "{{\"tasks\":[{{\"id\":\"a\",\"run\":\"echo\",\"input\":\"\\ud83d\\ude00\"}}], \"notify\":{{\"topic\":\"{}\"}}}}",
        "n"
    );
    post(&node, "/api/jobs", &spec);
    let refused =
        node.request("POST", "/api/jobs", &[JSON], format!("{{\"tasks\":[{{\"run\":\"echo\",\"input\":{deep}}}]}}"));
    refused.problem(400);
}

#[test]
fn relays_and_merged_streams_keep_the_text_of_their_sources() {
    let upstream = Upstream::start(|request, socket| {
        if request.path == "/body" {
            return upstream::answer(socket, "200 OK", "text/event-stream", "event: complete\ndata: 1\n\n");
        }
        let lines: Vec<_> = SPACED.lines().map(|line| format!("data: {line}")).collect();
        upstream::answer(
            socket,
            "200 OK",
            "text/event-stream",
            format!("id: 1\n{}\n\nevent: complete\ndata: 1\n\n", lines.join("\n")),
        );
    });
    let remote = format!(
        "[relay]\ndefault_remote = \"up\"\n[remotes.up]\nbase_url = \"{}\"\npaths = [\"/*\"]\n",
        upstream.url("")
    );
    let node = Node::start(&remote);
    let relay = "{\"topic\":\"r\",\"endEvent\":\"complete\",\"sources\":[{\"path\":\"/s\"},{\"label\":\"b\",\"path\":\"/body\",\"method\":\"POST\",\"body\":SPACED}]}";
    post(&node, "/api/relays", &relay.replace("SPACED", SPACED));
    eventually(|| (node.get("/api/topics/r/events").text().contains(PLAIN)).then_some(()));
    eventually(|| upstream.seen("/body").first().map(|request| assert_eq!(request.body, PLAIN.as_bytes())));

    let merge = "/api/sse-proxy/merge-streams/sse-emitter?envelope=true";
    let mut merged = Stream::open(node.socket(), "POST", merge, &[JSON], "[\"/s\"]");
    let event = merged.until("message");
    contains(&event.data, &format!("\"data\":{PLAIN}"));
}

/// Random values as clients write them and as they leave the node, each within an object: a text alone is no JSON there.
fn random_objects(count: usize) -> Vec<(String, String)> {
    let mut runner = TestRunner::default();
    let strategy = spelled::spelled();
    let value = move || strategy.new_tree(&mut runner).expect("a strategy without filters").current();
    std::iter::repeat_with(value)
        .map(|(spaced, plain)| (format!("{{ \"v\":{spaced}}}"), format!("{{\"v\":{plain}}}")))
        .take(count)
        .collect()
}

/// Each road separately: the random values differ in each run, and a failing one is shown completely.
#[test]
fn random_json_keeps_its_text_on_every_road() {
    let upstream = Upstream::start(|request, socket| {
        upstream::answer(socket, "200 OK", "application/json", String::from_utf8_lossy(&request.body).as_ref());
    });
    let echo = "command = [\"sh\", \"-c\", \"printf '{\\\"result\\\": '; cat; echo '}'\"]";
    let settings = format!(
        "{}[handlers.echo]\nkind = \"command\"\n{echo}\n[webhooks.body]\nsecret_env = \"S\"\nevent = \"e\"\n\
        topic = \"t\"\n[webhooks.picked]\nsecret_env = \"S\"\nevent = \"e\"\ntopic = \"t\"\ndata = {{ x = \"/deep/0\" }}\n",
        upstream.allowed()
    );
    let node = Node::start_with_env(&settings, &[("S", "secret")]);
    let mut stream = node.stream("/events", &[]);
    let emitter = stream.until("connection").json()["emitterId"].as_str().expect("an id").to_owned();
    let values = random_objects(30);

    for (spaced, plain) in &values {
        let picked = format!("{{\"x\":{plain}}}");
        for (path, body, data) in [
            ("/events", format!("{{\"topic\":\"t\",\"data\":{spaced}}}"), plain),
            ("/api/sse/managed/send/user/u", spaced.clone(), plain),
            (&format!("/api/sse/managed/send/emitter/{emitter}"), spaced.clone(), plain),
            ("/api/sse/managed/send/filtered", format!("{{\"filter\":{{}},\"data\":{spaced}}}"), plain),
            ("/api/sse/managed/broadcast", format!("{{\"data\":{spaced}}}"), plain),
            ("/api/sse/managed/broadcast/group/g", format!("{{\"data\":{spaced}}}"), plain),
            ("/api/webhooks/body", spaced.clone(), plain),
            ("/api/webhooks/picked", format!("{{\"deep\":[{spaced}]}}"), &picked),
        ] {
            let reply = node.request("POST", path, &[JSON, ("x-secret-key", "secret")], body);
            assert_eq!(reply.status, 200, "POST {path} {spaced}: {reply:?}");
            assert_eq!(published(&mut stream), *data, "{path} {spaced}");
        }
    }
    let batch: Vec<_> = values.iter().map(|(spaced, _)| format!("{{\"topic\":\"batch\",\"data\":{spaced}}}")).collect();
    post(&node, "/events", &format!("[{}]", batch.join(",")));
    for (_, plain) in &values {
        assert_eq!(published(&mut stream), *plain);
    }
    // Streams also receive `all`, which got the two broadcasts of each value.
    let count = 3 * values.len();
    let of_batch = |line: &&str| line.contains("\"topic\":\"batch\"");
    let page = node.get("/api/topics/batch/events?limit=1000").text();
    let mut enveloped = node.stream("/events?topic=batch&envelope=true&history=1000", &[]);
    let enveloped: Vec<_> = std::iter::repeat_with(|| enveloped.next_own().data).take(count).collect();
    let server = format!("http://{}", node.addr);
    let count = count.to_string();
    let watched = program(&["watch", "--url", &server, "--json", "--history", "1000", "--count", &count, "batch"]);
    let mut streamed = enveloped.iter().map(String::as_str).filter(of_batch);
    let mut printed = watched.lines().filter(of_batch);
    for (_, plain) in &values {
        let row = format!("\"data\":{plain}");
        contains(&page, &row);
        contains(streamed.next().expect("an event"), &row);
        contains(printed.next().expect("a line"), &row);
    }

    let url = upstream.url("/echo");
    let tasks = values.iter().enumerate().map(|(n, (spaced, _))| {
        format!(
            "{{\"id\":\"b{n}\",\"url\":\"{url}\",\"method\":\"POST\",\"body\":{spaced}}},\
             {{\"id\":\"i{n}\",\"run\":\"echo\",\"input\":{spaced}}}"
        )
    });
    let spec = format!("{{\"tasks\":[{}]}}", tasks.collect::<Vec<_>>().join(","));
    let job = post(&node, "/api/jobs", &spec)["jobId"].as_str().expect("an id").to_owned();
    let events = node.stream(&format!("/api/jobs/{job}/events"), &[]).rest();
    let aggregated = events.iter().find(|event| event.event == "aggregated_result").expect("one");
    for (n, (_, plain)) in values.iter().enumerate() {
        for id in [format!("b{n}"), format!("i{n}")] {
            contains(&aggregated.data, &format!("\"{id}\":{plain}"));
            let result = format!("\"result\":{plain}");
            let task = format!("\"taskId\":\"{id}\"");
            let done = events.iter().find(|event| event.event == "task_complete" && event.data.contains(&task));
            contains(&done.expect("it has completed").data, &result);
        }
    }
    for request in upstream.seen("/echo") {
        assert!(values.iter().any(|(_, plain)| plain.as_bytes() == request.body), "{:?}", request.body);
    }

    let lines: Vec<_> = values.iter().map(|(_, plain)| format!("data: {plain}\n\n")).collect();
    let source = Upstream::start(move |_, socket| {
        upstream::answer(
            socket,
            "200 OK",
            "text/event-stream",
            format!("{}event: complete\ndata: 1\n\n", lines.join("")),
        );
    });
    let remote = format!(
        "[relay]\ndefault_remote = \"up\"\n[remotes.up]\nbase_url = \"{}\"\npaths = [\"/*\"]\n",
        source.url("")
    );
    let node = Node::start(&remote);
    post(&node, "/api/relays", "{\"topic\":\"r\",\"endEvent\":\"complete\",\"sources\":[{\"path\":\"/s\"}]}");
    let mut relayed = node.stream("/events?topic=r&envelope=true&history=1000", &[]);
    let merge = "/api/sse-proxy/merge-streams/sse-emitter?envelope=true";
    let mut merged = Stream::open(node.socket(), "POST", merge, &[JSON], "[\"/s\"]");
    for (_, plain) in &values {
        let row = format!("\"data\":{plain}");
        contains(&relayed.until("message").data, &row);
        contains(&merged.until("message").data, &row);
    }
}

#[test]
fn half_a_surrogate_pair_is_refused() {
    let node = Node::start("");
    for (path, body) in [
        ("/events", r#"{"topic":"t","data":"\ud800"}"#),
        ("/events", r#"{"topic":"t","data":{"a":["\udc00"]}}"#),
        ("/events", r#"{"topic":"t","data":{"\ud83d":1}}"#),
        ("/events", r#"[{"topic":"t","data":"\ud83d\ud83d"}]"#),
        ("/api/sse/managed/send/user/u", r#"["\ud800"]"#),
        ("/api/jobs", r#"{"tasks":[{"run":"Calculate Stats","input":"\ud800"}]}"#),
    ] {
        let detail = node.request("POST", path, &[JSON], body).problem(400);
        assert!(detail.contains("surrogate"), "{body}: {detail}");
    }
}

#[test]
fn an_array_is_not_taken_for_an_object() {
    let node = Node::start("");
    let mut stream = node.stream("/events?topic=t", &[]);
    let emitter = stream.until("connection").json()["emitterId"].as_str().expect("an id").to_owned();
    let patch = format!("/api/sse/managed/emitters/{emitter}");
    let task = json!({ "run": "Calculate Stats" });
    for (method, path, body, field) in [
        ("POST", "/events", json!([["t", null, "e", 5, null, null, null, null]]), "[0]"),
        ("POST", "/events", json!([[]]), "[0]"),
        ("POST", "/api/sse/managed/broadcast", json!([null, null, "e", 5, null, null, null, null]), ""),
        ("POST", "/api/sse/managed/broadcast/group/g", json!([null, null, "e", 5, null, null, null, null]), ""),
        ("POST", "/api/sse/managed/send/filtered", json!([{}, "e", 5, null]), ""),
        ("POST", "/api/jobs", json!([[task], null, null, false, "continue", null, null]), ""),
        (
            "POST",
            "/api/jobs",
            json!({ "tasks": [["a", null, null, null, null, null, "Calculate Stats", null, null, null, null]] }),
            "tasks[0]",
        ),
        ("POST", "/api/jobs", json!({ "tasks": [task], "notify": ["u", null, null] }), "notify"),
        ("POST", "/api/sse/emitter/parallel-tasks", json!([[task], null, null, false, "continue", null, null]), ""),
        ("POST", "/api/sse-integration/hybrid-execution/sse-emitter", json!([["Calculate Stats"], [], "reactive"]), ""),
        (
            "POST",
            "/api/sse-integration/hybrid-execution/sse-emitter",
            json!({ "localTasks": [["a"]] }),
            "localTasks[0]",
        ),
        (
            "POST",
            "/api/sse-proxy/reactive/parallel-tasks/sse-emitter",
            json!([[task], null, null, false, "continue", null, null]),
            "",
        ),
        ("POST", "/api/relays", json!(["t", null, null, [{ "path": "/api/sse/x" }], "until_end", null]), ""),
        (
            "POST",
            "/api/relays",
            json!({ "sources": [["reactive", "/api/sse/x", null, null, null, null, null, null, null]] }),
            "sources[0]",
        ),
        (
            "POST",
            "/api/sse-proxy/merge-streams/sse-emitter",
            json!([["reactive", "/api/sse/x", null, null, null, null]]),
            "[0]",
        ),
        ("PATCH", &patch, json!([null, ["t"], null]), ""),
    ] {
        let reply = node.json(method, path, &body);
        let detail = reply.problem(422);
        let named = reply.json()["errors"][0]["field"].as_str().unwrap_or_default().to_owned();
        assert_eq!(named, field, "{path} {body}: {reply:?}");
        assert!(!reply.text().contains("struct ") && !detail.is_empty(), "{path} {body}: {reply:?}");
    }
    node.must_be_healthy();
}
