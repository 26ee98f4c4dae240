//! Jobs over HTTP: the main job end to end, late and broken watchers, and what a task can do.
//! What the API around jobs takes and refuses is in `job_api.rs`.

use std::{
    collections::HashMap,
    io::Write,
    net::TcpStream,
    sync::{Mutex, mpsc},
};

use serde_json::{Value, json};

mod support;

use support::{
    Event, Node, PATIENCE, Stream,
    upstream::{self, Request, Upstream},
};

/// The size of the slow download, and in how many pieces it comes.
const DOWNLOAD: usize = 3_000_000;
const PIECES: usize = 10;

/// The data of all events of this name, in order.
fn named<'a>(events: &'a [Event], name: &'a str) -> impl Iterator<Item = Value> + 'a {
    events.iter().filter(move |event| event.event == name).map(Event::json)
}

fn of_task<'a>(events: &'a [Event], name: &'a str, task: &'a str) -> Vec<Value> {
    named(events, name).filter(|data| data["taskId"] == task).collect()
}

/// All events of a stream up to its end, without the control frames.
fn history(stream: &mut Stream) -> Vec<Event> {
    let events: Vec<Event> = stream.rest().into_iter().filter(Event::is_own).collect();
    assert!(stream.finished, "the stream ends well");
    events
}

/// Four kinds of upstream on one port. The download continues piece by piece, each on request of the test.
fn four_kinds() -> (Upstream, mpsc::Sender<()>) {
    let (go_on, pace) = mpsc::channel();
    let (pace, failures) = (Mutex::new(pace), Mutex::new(0));
    let upstream = Upstream::start(move |request, socket| match request.path.as_str() {
        "/fast" => upstream::json(socket, &json!({ "answer": 42 })),
        "/slow" => slow(socket, &pace.lock().expect("one download")),
        "/shaky" => {
            let mut failures = failures.lock().expect("no panic");
            *failures += 1;
            match *failures {
                1 | 2 => upstream::answer(socket, "500 Internal Server Error", "text/plain", "not yet"),
                _ => upstream::json(socket, &json!("at last")),
            }
        }
        _ => upstream::silence(socket),
    });
    (upstream, go_on)
}

fn slow(socket: &mut TcpStream, pace: &mpsc::Receiver<()>) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {DOWNLOAD}\r\nConnection: close\r\n\r\n"
    );
    let mut written = socket.write_all(head.as_bytes());
    for _ in 0..PIECES {
        written = written.and_then(|()| socket.write_all(&[b'x'; DOWNLOAD / PIECES]));
        if written.is_err() || pace.recv_timeout(PATIENCE).is_err() {
            return;
        }
    }
}

fn four_tasks(upstream: &Upstream) -> Value {
    json!({ "tasks": [
        { "id": "fast", "name": "Fast", "url": upstream.url("/fast") },
        { "id": "slow", "name": "Slow", "url": upstream.url("/slow") },
        { "id": "shaky", "name": "Shaky", "url": upstream.url("/shaky"), "retryCount": 2 },
        { "id": "dead", "name": "Dead", "url": upstream.url("/dead"), "timeoutMs": 500 },
    ] })
}

/// Reads the job to its end, and continues the download each time that its progress has arrived.
fn watch_all(stream: &mut Stream, go_on: &mpsc::Sender<()>) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = stream.next();
        if event.event == "task_progress" && event.json()["taskId"] == "slow" {
            // The last piece is not waited for any more.
            let _ = go_on.send(());
        }
        let last = event.event == "complete";
        events.push(event);
        if last {
            assert_eq!(stream.rest(), [], "nothing follows");
            assert!(stream.finished, "the stream ends well");
            return events;
        }
    }
}

#[test]
fn four_tasks_end_as_they_must_and_every_watcher_sees_the_same() {
    let (upstream, go_on) = four_kinds();
    let node = Node::start(&upstream.allowed());
    let mut stream = node.post_stream("/api/sse/emitter/parallel-tasks", &four_tasks(&upstream));
    let connection = stream.until("connection").json();
    let job = connection["jobId"].as_str().expect("an id");
    let events_url = format!("/api/jobs/{job}/events");
    assert_eq!(connection["eventsUrl"], json!(events_url));
    let events = watch_all(&mut stream, &go_on);

    for event in &events {
        let data = event.json();
        assert_eq!(data["jobId"], job, "{event:?}");
        assert!(data["timestamp"].is_u64() && !event.id.is_empty(), "{event:?}");
    }
    for (task, name) in [("fast", "Fast"), ("slow", "Slow"), ("shaky", "Shaky"), ("dead", "Dead")] {
        let starts = of_task(&events, "task_start", task);
        assert_eq!(starts.len(), 1, "{task} begins once");
        assert_eq!((&starts[0]["taskName"], &starts[0]["source"]), (&json!(name), &json!("local")));
    }
    let fast = &of_task(&events, "task_complete", "fast")[0];
    assert_eq!(
        (&fast["result"], &fast["httpStatus"], &fast["attempts"]),
        (&json!({ "answer": 42 }), &json!(200), &json!(1))
    );
    assert!(fast["durationMs"].is_u64() && fast["taskName"] == "Fast");

    let steps: Vec<f64> = of_task(&events, "task_progress", "slow")
        .iter()
        .map(|data| data["progress"].as_f64().expect("a number"))
        .collect();
    assert!(steps.len() >= 5 && steps.is_sorted_by(|a, b| a < b), "{steps:?}");
    assert!(steps.iter().all(|step| (0.0..=100.0).contains(step)));
    let slow = &of_task(&events, "task_complete", "slow")[0];
    assert_eq!((&slow["result"], &slow["resultBytes"]), (&Value::Null, &json!(DOWNLOAD + 2)));
    let result = node.get(slow["resultUrl"].as_str().expect("a path"));
    assert_eq!((result.status, result.header("Content-Type")), (200, Some("application/json")));
    assert_eq!(result.json().as_str().map(str::len), Some(DOWNLOAD));

    let retries = of_task(&events, "task_retry", "shaky");
    assert_eq!(retries.iter().map(|retry| retry["attempt"].as_u64()).collect::<Vec<_>>(), [Some(2), Some(3)]);
    for retry in &retries {
        assert_eq!(retry["code"], "http_status");
        assert!(
            retry["error"].as_str().is_some_and(|error| error.contains("500") && error.contains("not yet")),
            "{retry}"
        );
        assert!(retry["delayMs"].as_u64().is_some_and(|ms| ms > 0));
    }
    let shaky = &of_task(&events, "task_complete", "shaky")[0];
    assert_eq!((&shaky["result"], &shaky["attempts"]), (&json!("at last"), &json!(3)));

    let dead = &of_task(&events, "error", "dead")[0];
    assert_eq!(
        (&dead["code"], &dead["attempts"], &dead["retryable"], &dead["taskName"]),
        (&json!("timeout"), &json!(1), &json!(true), &json!("Dead"))
    );
    assert!(dead["error"].as_str().is_some_and(|error| error.contains("500")), "{dead}");

    let progress: Vec<(Value, Value, Value)> = named(&events, "progress")
        .map(|data| (data["step"].clone(), data["totalSteps"].clone(), data["progress"].clone()))
        .collect();
    assert_eq!(progress, [25, 50, 75, 100].map(|percent| (json!(percent / 25), json!(4), json!(percent))));
    let [aggregated, complete] = &events[events.len() - 2..] else { panic!("two last events") };
    let results = &aggregated.json()["results"];
    assert_eq!(
        (aggregated.event.as_str(), &results["fast"], &results["shaky"]),
        ("aggregated_result", &json!({ "answer": 42 }), &json!("at last"))
    );
    assert_eq!(results["dead"], json!({ "error": dead["error"] }));
    assert_eq!((&results["slow"]["result"], &results["slow"]["resultUrl"]), (&Value::Null, &slow["resultUrl"]));
    let complete = complete.json();
    assert_eq!((&complete["status"], &complete["totalTasks"]), (&json!("partial"), &json!(4)));
    assert_eq!((&complete["successCount"], &complete["errorCount"]), (&json!(3), &json!(1)));
    assert_eq!(complete["errors"], json!([{ "taskId": "dead", "error": dead["error"] }]));

    // Late watchers.
    let late = history(&mut node.stream(&events_url, &[]));
    assert_eq!(late, events, "who comes after the end sees the identical history");
    let middle = events.len() / 2;
    let rest = history(&mut node.stream(&events_url, &[("Last-Event-ID", &events[middle].id)]));
    assert_eq!(rest, events[middle + 1..], "who comes back sees the rest, once");
    let last = &events[events.len() - 1].id;
    let seen = node.request("GET", &events_url, &[("Accept", "text/event-stream"), ("Last-Event-ID", last)], "");
    assert_eq!((seen.status, seen.body.len()), (204, 0), "a client with all events is stopped");
    assert_eq!(node.get(&format!("{events_url}?lastEventId={last}")).status, 204);

    let snapshot = node.get(&format!("/api/jobs/{job}")).json();
    assert_eq!(
        (&snapshot["status"], &snapshot["lastEventId"], &snapshot["successCount"]),
        (&json!("partial"), &json!(last), &json!(3))
    );
}

#[test]
fn a_watcher_whose_connection_breaks_in_the_middle_misses_nothing() {
    let (upstream, go_on) = four_kinds();
    let node = Node::start(&upstream.allowed());
    let submitted = node.post("/api/jobs", &four_tasks(&upstream));
    let url = submitted["eventsUrl"].as_str().expect("a path");
    let mut whole = node.stream(url, &[]);
    let mut seen = Vec::new();
    let mut broken = node.stream(url, &[]);
    // Half of the download, then the connection breaks.
    while seen.iter().filter(|event: &&Event| event.event == "task_progress").count() < PIECES / 2 {
        let event = broken.next_own();
        if event.event == "task_progress" {
            go_on.send(()).expect("it continues");
        }
        seen.push(event);
    }
    drop(broken);
    let last = seen[seen.len() - 1].id.clone();
    let mut again = node.stream(url, &[("Last-Event-ID", &last)]);
    assert_eq!(again.until("connection").json()["resume"]["status"], "resumed");
    seen.extend(watch_all(&mut again, &go_on));
    let whole: Vec<String> = history(&mut whole).into_iter().map(|event| event.id).collect();
    assert_eq!(seen.into_iter().map(|event| event.id).collect::<Vec<_>>(), whole);
}

/// What a task sends, and what it makes of the answer.
#[test]
fn a_request_is_sent_as_defined_and_its_response_is_interpreted_by_type() {
    let upstream = Upstream::start(|request, socket| match request.path.as_str() {
        "/binary" => upstream::answer(socket, "200 OK", "image/png", [0x89, 0x50, 0xff]),
        "/text" => upstream::answer(socket, "200 OK", "text/plain", "{\"a\":1}"),
        "/empty" => upstream::answer(socket, "204 No Content", "text/plain", ""),
        "/gone" => upstream::answer(socket, "404 Not Found", "text/plain", "no such thing"),
        "/large" => upstream::answer(socket, "200 OK", "text/plain", "x".repeat(2001)),
        "/stream" => {
            upstream::answer(socket, "200 OK", "text/event-stream", "id: 7\nevent: tick\ndata: 1\n\ndata: 2\n\n");
        }
        _ => upstream::json(socket, &json!({ "method": request.method })),
    });
    let node = Node::start(&format!("{}[jobs]\nmax_response_bytes = 2000\n", upstream.allowed()));
    let task = |id: &str| json!({ "id": id, "url": upstream.url(&format!("/{id}")), "retryCount": 1 });
    let mut post = task("post");
    post["method"] = json!("post");
    post["headers"] = json!({ "X-Api-Key": "secret-value" });
    post["body"] = json!({ "n": 1 });
    let tasks = [post, task("binary"), task("text"), task("empty"), task("gone"), task("large"), task("stream")];
    let mut stream = node.post_stream("/api/sse/parallel-tasks", &json!({ "tasks": tasks }));
    let job = stream.until("connection").json()["jobId"].as_str().expect("an id").to_owned();
    let events = history(&mut stream);
    let done: HashMap<String, Value> = named(&events, "task_complete")
        .map(|data| (data["taskId"].as_str().expect("an id").to_owned(), data))
        .collect();
    assert_eq!(done["post"]["result"], json!({ "method": "POST" }));
    assert_eq!((&done["binary"]["result"], &done["binary"]["encoding"]), (&json!("iVD/"), &json!("base64")));
    assert_eq!(
        (&done["text"]["result"], &done["empty"]["result"], &done["empty"]["httpStatus"]),
        (&json!("{\"a\":1}"), &Value::Null, &json!(204))
    );
    let gone = &of_task(&events, "error", "gone")[0];
    assert_eq!(
        (&gone["code"], &gone["httpStatus"], &gone["retryable"], &gone["attempts"]),
        (&json!("http_status"), &json!(404), &json!(false), &json!(1))
    );
    assert_eq!(of_task(&events, "error", "large")[0]["code"], "response_too_large");
    let forwarded: Vec<Value> =
        of_task(&events, "task_progress", "stream").iter().map(|data| data["data"].clone()).collect();
    assert_eq!(
        forwarded,
        [json!({ "event": "tick", "data": "1", "id": "7" }), json!({ "event": "message", "data": "2", "id": "7" })]
    );

    let sent: &Request = &upstream.seen("/post")[0];
    assert_eq!((sent.header("X-Api-Key"), sent.body.as_slice()), (Some("secret-value"), b"{\"n\":1}".as_slice()));
    assert_eq!(sent.header("Content-Type"), Some("application/json"));
    assert_eq!(sent.header("Idempotency-Key"), Some(format!("{job}/post").as_str()));
    assert!(sent.header("traceparent").is_some_and(|trace| trace.starts_with("00-") && trace.len() == 55), "{sent:?}");
    for path in [
        format!("/api/jobs/{job}"),
        "/api/jobs".to_owned(),
        "/api/topics".to_owned(),
        format!("/api/topics/job:{job}/events?limit=1000"),
    ] {
        assert!(!node.get(&path).text().contains("secret-value"), "{path} contains a secret");
    }
    assert!(!node.log().contains("secret-value"));
}

#[test]
fn what_clients_name_must_not_reach_this_machine_unless_permitted() {
    let upstream = Upstream::start(|request, socket| match request.path.as_str() {
        "/redirect" => {
            let _ = socket.write_all(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/secret\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        _ => upstream::json(socket, &json!("should not be seen")),
    });
    let node = Node::start(&upstream.allowed());
    let secret = Upstream::start(|_, socket| upstream::json(socket, &json!("secret")));
    let own = format!("http://{}/healthz", node.addr);
    let port = secret.addr.port();
    let urls = [
        own,
        secret.url("/"),
        format!("http://localhost:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://0.0.0.0:{port}/"),
        format!("http://2130706433:{port}/"),
        "http://10.0.0.1/".to_owned(),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        upstream.url("/redirect"),
    ];
    let tasks: Vec<Value> = urls.iter().map(|url| json!({ "url": url, "timeoutMs": 5000 })).collect();
    let events = history(&mut node.post_stream("/api/sse/parallel-tasks", &json!({ "tasks": tasks })));
    let errors: Vec<Value> = named(&events, "error").collect();
    assert_eq!(errors.len(), urls.len(), "{events:?}");
    for error in &errors {
        assert_eq!((&error["code"], &error["retryable"]), (&json!("egress_refused"), &json!(false)), "{error}");
        assert!(error["error"].as_str().is_some_and(|text| text.contains("[egress] allow")), "{error}");
    }
    assert!(secret.seen("/").is_empty());
    assert_eq!(named(&events, "complete").next().expect("it ends")["status"], "failed");
}

/// Programs of this machine: argv as it is, the input on stdin, progress and result on stdout.
#[test]
fn a_command_reports_progress_and_result_and_leaves_no_process() {
    // No other process sleeps for this time.
    let long = format!("9{}", std::process::id());
    let settings = r#"
[handlers.echo]
kind = "command"
command = ["sh", "-c", "read line; echo '{\"progress\": 50, \"message\": \"half\"}'; echo \"{\\\"result\\\": $line}\"", "$HOME; rm"]
[handlers.broken]
kind = "command"
command = ["sh", "-c", "echo to the log >&2; exit 7"]
[handlers.endless]
kind = "command"
command = ["sh", "-c", "sleep LONG & echo '{\"progress\": 1}'; wait"]
timeout_ms = 500
"#;
    let node = Node::start(&settings.replace("LONG", &long));
    let tasks = json!([
        { "id": "echo", "run": "echo", "input": { "a": [1, "two"] } },
        { "id": "broken", "run": "broken" },
        { "id": "endless", "run": "endless" },
    ]);
    let events = history(&mut node.post_stream("/api/sse/parallel-tasks", &json!({ "tasks": tasks })));
    let half = &of_task(&events, "task_progress", "echo")[0];
    assert_eq!((&half["progress"], &half["message"]), (&json!(50), &json!("half")));
    assert_eq!(of_task(&events, "task_complete", "echo")[0]["result"], json!({ "a": [1, "two"] }));
    let broken = &of_task(&events, "error", "broken")[0];
    assert_eq!(broken["code"], "exit_status");
    assert!(broken["error"].as_str().is_some_and(|text| text.contains('7') && text.contains("to the log")), "{broken}");
    assert_eq!(of_task(&events, "error", "endless")[0]["code"], "timeout");
    assert_eq!(of_task(&events, "task_progress", "endless")[0]["progress"], 1, "it had begun to sleep");
    support::eventually(|| (!runs_with(&long)).then_some(()));
}

/// True while a process of this machine has this argument.
fn runs_with(argument: &str) -> bool {
    let all = std::fs::read_dir("/proc").expect("a Linux machine").filter_map(Result::ok);
    let mut lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes()))
}
