//! A remote that lies, raves or stops: the job here comes to a truthful end.

use std::{io::Write, net::TcpStream};

use serde_json::{Value, json};

use super::{
    rig::{all, history, names, one, pointing, submit, verdict},
    support::{
        Event, Node,
        upstream::{self, Request, Upstream},
    },
};

/// A remote whose job is called `J`, and whose events are what `events` writes.
fn remote(events: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Upstream {
    Upstream::start(move |request, socket| match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/api/jobs") => upstream::answer(socket, "202 Accepted", "application/json", r#"{"jobId":"J"}"#),
        ("DELETE", "/api/jobs/J") => upstream::answer(socket, "202 Accepted", "application/json", "{}"),
        ("GET", "/api/jobs/J/events") => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            if socket.write_all(head.as_bytes()).is_ok() {
                events(request, socket);
            }
        }
        _ => upstream::answer(socket, "404 Not Found", "text/plain", "no"),
    })
}

fn write(socket: &mut TcpStream, event: &str, data: &Value) -> bool {
    socket.write_all(format!("event: {event}\ndata: {data}\n\n").as_bytes()).is_ok()
}

/// Runs two tasks there and one here.
fn run(remote: &Upstream, more: &Value) -> (Node, Vec<Event>) {
    let node = Node::start(&pointing(&remote.addr.to_string(), "[remotes.reactive]\nmax_retries = 2\n"));
    let mut spec = json!({ "tasks": [
        { "id": "a", "run": "x", "remote": "reactive" }, { "id": "b", "run": "y", "remote": "reactive" },
        { "id": "here", "run": "task1" },
    ] });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let job = submit(&node, &spec);
    let events = history(&node, &job);
    (node, events)
}

fn of(task: &str, more: &Value) -> Value {
    let mut data =
        json!({ "jobId": "J", "timestamp": 1, "taskId": task, "taskName": "N", "attempts": 1, "durationMs": 1 });
    for (key, value) in more.as_object().into_iter().flatten() {
        data[key] = value.clone();
    }
    data
}

#[test]
fn garbage_foreign_jobs_and_double_ends_change_nothing() {
    let lies = remote(|_, socket| {
        let _ = socket.write_all(b"event: connection\ndata: hello\n\n\xff\xfe: x\nevent: task_start\ndata: {\n\n");
        write(socket, "task_complete", &json!("no object"));
        write(socket, "whatever", &of("a", &json!({})));
        write(socket, "task_start", &of("nobody", &json!({})));
        write(socket, "task_start", &of("here", &json!({})));
        write(socket, "task_complete", &of("here", &json!({ "result": "stolen" })));
        let mut foreign = of("a", &json!({ "result": "foreign" }));
        foreign["jobId"] = json!("other");
        write(socket, "task_complete", &foreign);
        // Its end comes first, then all the rest.
        write(socket, "task_complete", &of("a", &json!({ "result": 1 })));
        write(socket, "task_start", &of("a", &json!({})));
        write(socket, "task_progress", &of("a", &json!({ "progress": 50 })));
        write(socket, "error", &of("a", &json!({ "error": "e", "code": "c", "retryable": false })));
        write(socket, "task_complete", &of("a", &json!({ "result": 2 })));
        write(socket, "task_progress", &of("b", &json!({ "progress": 1e300 })));
        write(socket, "task_progress", &of("b", &json!({ "progress": -5 })));
        write(
            socket,
            "task_retry",
            &of(
                "b",
                &json!({ "attempt": u32::MAX, "delayMs": u64::MAX, "error": "e".repeat(9000), "code": "node_restarted" }),
            ),
        );
        write(socket, "task_retry", &of("b", &json!({ "attempt": 1, "delayMs": 0, "error": "", "code": "" })));
        write(
            socket,
            "progress",
            &json!({ "jobId": "J", "timestamp": 1, "step": 99, "totalSteps": 1, "progress": 900 }),
        );
        write(
            socket,
            "error",
            &of(
                "b",
                &json!({ "error": "bad luck", "code": "own_code", "retryable": true, "httpStatus": 418, "attempts": 7 }),
            ),
        );
        write(socket, "complete", &json!({ "jobId": "J", "timestamp": 1 }));
    });
    let (node, events) = run(&lies, &json!({}));
    assert_eq!(names(&events, "a"), ["task_start", "task_complete"]);
    assert_eq!(one(&events, "task_complete", "a")["result"], 1);
    assert_eq!(names(&events, "b"), ["task_start", "task_progress", "task_retry", "error"]);
    assert_eq!(one(&events, "task_progress", "b")["progress"], 100);
    let error = one(&events, "error", "b");
    assert_eq!(
        (&error["code"], &error["httpStatus"], &error["retryable"]),
        (&json!("own_code"), &json!(418), &json!(true))
    );
    assert!(one(&events, "task_retry", "b")["error"].as_str().is_some_and(|text| text.len() < 4000));
    assert_ne!(one(&events, "task_complete", "here")["result"], "stolen");
    assert_eq!(verdict(&events), ("partial".into(), 2, 1));
    node.must_be_healthy();
}

#[test]
fn a_stream_without_end_is_ended_by_the_job() {
    let endless = remote(|_, socket| {
        let mut n = 0;
        write(socket, "task_start", &of("a", &json!({})));
        // Until the other side has gone.
        while write(socket, "task_progress", &of("a", &json!({ "progress": 1, "data": "x".repeat(4000), "n": n }))) {
            n += 1;
        }
    });
    let (node, events) = run(&endless, &json!({ "timeoutMs": 3000 }));
    assert_eq!(one(&events, "complete", "")["status"], "timed_out");
    let bytes: usize = events.iter().map(|event| event.data.len()).sum();
    assert!(bytes < 13 << 20, "{bytes} bytes of one task");
    assert_eq!(endless.seen("/api/jobs/J").len(), 1, "it was cancelled");
    node.must_be_healthy();
}

#[test]
fn a_stream_that_ends_without_ends_is_a_loss() {
    let over = remote(|_, socket| {
        write(socket, "task_complete", &of("a", &json!({ "result": 1 })));
        write(socket, "complete", &json!({ "jobId": "J", "timestamp": 1 }));
    });
    let (_, events) = run(&over, &json!({}));
    assert_eq!(verdict(&events), ("partial".into(), 2, 1));
    let lost = one(&events, "error", "b");
    assert_eq!((&lost["code"], &lost["retryable"]), (&json!("remote_lost"), &json!(true)));
    assert!(lost["error"].as_str().is_some_and(|text| text.contains("without an end")), "{lost}");

    let closing = remote(|_, socket| {
        write(socket, "task_start", &of("a", &json!({})));
    });
    let (_, events) = run(&closing, &json!({}));
    assert_eq!(verdict(&events), ("partial".into(), 1, 2));
    assert_eq!(names(&events, "a"), ["task_start", "error"]);
    assert!(closing.seen("/api/jobs/J/events").len() >= 3, "it was tried again");
    assert_eq!(closing.seen("/api/jobs").len(), 1, "and submitted once");
}

#[test]
fn what_is_too_large_or_too_deep_is_bounded() {
    let large = remote(|_, socket| {
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let plain = of("a", &json!({ "result": "DEEP" })).to_string().replace("\"DEEP\"", &deep);
        let progress = of("b", &json!({ "progress": 1, "data": "DEEP" })).to_string().replace("\"DEEP\"", &deep);
        let _ = socket.write_all(format!("event: task_progress\ndata: {progress}\n\n").as_bytes());
        let _ = socket.write_all(format!("event: task_complete\ndata: {plain}\n\n").as_bytes());
        // No line may be so long.
        while socket.write_all(&[b'x'; 65536]).is_ok() {}
    });
    let (node, events) = run(&large, &json!({}));
    assert_eq!(one(&events, "error", "a")["code"], "bad_result");
    assert_eq!(one(&events, "task_progress", "b")["data"]["omitted"], true);
    let lost = one(&events, "error", "b");
    assert_eq!(lost["code"], "remote_lost");
    assert!(lost["error"].as_str().is_some_and(|text| text.contains("max_event_bytes")), "{lost}");
    node.must_be_healthy();
}

#[test]
fn a_result_url_leads_nowhere_but_to_the_remote() {
    let secret = Upstream::start(|_, socket| upstream::json(socket, &json!("secret")));
    let url = secret.url("/result");
    let lies = remote(move |_, socket| {
        write(socket, "task_complete", &of("a", &json!({ "result": null, "resultBytes": 9, "resultUrl": url })));
        write(socket, "task_complete", &of("b", &json!({ "result": null, "resultBytes": 9, "resultUrl": "/nowhere" })));
    });
    let (_, events) = run(&lies, &json!({}));
    for task in ["a", "b"] {
        assert_eq!(one(&events, "error", task)["code"], "remote_lost", "{events:?}");
    }
    assert!(secret.seen("/result").is_empty());
}

#[test]
fn an_answer_that_is_none_is_refused() {
    for answer in [r#"{"jobId":"../../x"}"#, "{}", "<html>", r#"{"jobId":7}"#, ""] {
        let odd =
            Upstream::start(move |_, socket| upstream::answer(socket, "202 Accepted", "application/json", answer));
        let (_, events) = run(&odd, &json!({}));
        assert_eq!(verdict(&events), ("partial".into(), 1, 2), "{answer}");
        assert_eq!(one(&events, "error", "a")["code"], "remote_refused", "{answer}");
    }
    // A remote with a failure is asked again, and then its response is reported.
    let full = Upstream::start(|_, socket| {
        upstream::answer(
            socket,
            "503 Service Unavailable",
            "application/problem+json",
            r#"{"detail":"too much to do"}"#,
        );
    });
    let (_, events) = run(&full, &json!({}));
    let error = one(&events, "error", "a");
    assert_eq!(error["code"], "remote_lost");
    assert!(
        error["error"].as_str().is_some_and(|text| text.contains("503") && text.contains("too much to do")),
        "{error}"
    );
    let posts = full.seen("/api/jobs");
    assert_eq!(posts.len(), 3);
    let key = posts[0].header("Idempotency-Key").expect("a key").to_owned();
    assert!(key.ends_with(":reactive"));
    assert!(posts.iter().all(|post| post.header("Idempotency-Key") == Some(&key) && post.body == posts[0].body));
    let body: Value = serde_json::from_slice(&posts[0].body).expect("JSON");
    assert_eq!(body["tasks"], json!([{ "id": "a", "run": "x" }, { "id": "b", "run": "y" }]));
}

/// Each connection begins at the start, for any requested position: nothing is reported twice.
#[test]
fn repeated_reports_of_a_remote_count_once() {
    let connections = std::sync::atomic::AtomicUsize::new(0);
    let repeating = remote(move |_, socket| {
        let nth = connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        for task in ["a", "b"] {
            write(socket, "task_start", &of(task, &json!({})));
            write(socket, "task_progress", &of(task, &json!({ "progress": 10 })));
        }
        if nth > 0 {
            write(socket, "task_complete", &of("a", &json!({ "result": "a" })));
        }
        if nth > 1 {
            write(socket, "task_complete", &of("b", &json!({ "result": "b" })));
        }
    });
    let (_, events) = run(&repeating, &json!({}));
    assert_eq!(verdict(&events), ("completed".into(), 3, 0));
    assert_eq!(all(&events, "task_start", "a").len(), 1);
    assert_eq!(one(&events, "task_complete", "b")["result"], "b");
}

const HELLO: &str = "event: connection\ndata: {\"status\":\"connected\",\"emitterId\":\"e\",\"resume\":{\"from\":null,\"status\":\"resumed\"}}\n\n";

fn write_as(socket: &mut TcpStream, id: &str, event: &str, data: &Value) {
    let _ = socket.write_all(format!("id: {id}\nevent: {event}\ndata: {data}\n\n").as_bytes());
}

/// Its journal began again: it sends `gap`, and repeats everything from the beginning.
#[test]
fn reports_of_a_remote_that_lost_the_position_count_once() {
    let connections = std::sync::atomic::AtomicUsize::new(0);
    let rewound = remote(move |_, socket| {
        let later = connections.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0;
        let mut ids = (1..).map(|n| format!("{}-{n}", if later { "bb" } else { "aa" }));
        let mut send = |socket: &mut TcpStream, event: &str, task: &str, fields: Value| {
            write_as(socket, &ids.next().expect("without end"), event, &of(task, &fields));
        };
        let _ = socket.write_all(HELLO.as_bytes());
        if later {
            write(socket, "gap", &json!({ "requested": "aa-7", "reason": "foreign", "topics": [] }));
        }
        send(socket, "task_start", "a", json!({}));
        send(socket, "task_progress", "a", json!({ "progress": 0, "data": "one" }));
        send(socket, "task_progress", "a", json!({ "progress": 0, "data": "two" }));
        send(socket, "task_start", "b", json!({}));
        send(socket, "task_progress", "b", json!({ "progress": 60 }));
        send(socket, "task_retry", "b", json!({ "attempt": 2, "delayMs": 1, "error": "e", "code": "c" }));
        send(socket, "task_progress", "b", json!({ "progress": 5 }));
        if later {
            send(socket, "task_progress", "a", json!({ "progress": 0, "data": "three" }));
            send(socket, "task_complete", "a", json!({ "result": "a" }));
            send(socket, "task_progress", "b", json!({ "progress": 10 }));
            send(socket, "task_complete", "b", json!({ "result": "b", "attempts": 2 }));
        }
    });
    let (_, events) = run(&rewound, &json!({}));
    let shown = |task: &str, field: &str| -> Vec<Value> {
        all(&events, "task_progress", task).into_iter().map(|data| data[field].clone()).collect()
    };
    assert_eq!(shown("a", "data"), ["one", "two", "three"]);
    assert_eq!(shown("b", "progress"), [60, 5, 10]);
    assert_eq!(all(&events, "task_retry", "b").len(), 1);
}

#[test]
fn a_long_stream_of_tokens_comes_whole() {
    const TOKENS: usize = 20_000;
    let tokens = remote(move |_, socket| {
        for n in 0..TOKENS {
            write(socket, "task_progress", &of("a", &json!({ "progress": 0, "data": { "data": n } })));
        }
        write(socket, "task_complete", &of("a", &json!({ "result": "a" })));
        write(socket, "task_complete", &of("b", &json!({ "result": "b" })));
    });
    let (_, events) = run(&tokens, &json!({}));
    assert_eq!(all(&events, "task_progress", "a").len(), TOKENS);
}
