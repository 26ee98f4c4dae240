//! The API of jobs: submitting, keys, lists, cancelling, repeating, notifying, and the refusals.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use serde_json::{Value, json};

mod support;

use support::{
    Event, Node, eventually,
    upstream::{self, Upstream},
};

const TRIVIAL: &str = "Calculate Stats";

/// Responds to `/ok`; `/later` fails until it is switched; nothing else gets a response.
fn upstream() -> (Upstream, Arc<AtomicBool>) {
    let healed = Arc::<AtomicBool>::default();
    let well = healed.clone();
    let upstream = Upstream::start(move |request, socket| match request.path.as_str() {
        "/ok" => upstream::json(socket, &json!("ok")),
        "/later" if well.load(Relaxed) => upstream::json(socket, &json!("healed")),
        "/later" => upstream::answer(socket, "404 Not Found", "text/plain", "not yet"),
        _ => upstream::silence(socket),
    });
    (upstream, healed)
}

fn id(job: &Value) -> &str {
    job["jobId"].as_str().expect("an id")
}

fn complete(node: &Node, job: &str) -> Value {
    node.stream(&format!("/api/jobs/{job}/events"), &[]).until("complete").json()
}

#[test]
fn a_job_is_accepted_with_its_url_or_streamed_as_requested() {
    let node = Node::start("");
    let spec = json!({ "tasks": [{ "run": TRIVIAL }] });
    let accepted = node.json("POST", "/api/jobs", &spec);
    assert_eq!(accepted.status, 202);
    let body = accepted.json();
    assert_eq!(accepted.header("Location"), Some(format!("/api/jobs/{}", id(&body)).as_str()));
    assert_eq!(
        (&body["status"], &body["eventsUrl"]),
        (&json!("queued"), &json!(format!("/api/jobs/{}/events", id(&body))))
    );
    assert_eq!(complete(&node, id(&body))["status"], "completed");
    // The helper asks for an event stream.
    let mut stream = node.post_stream("/api/jobs", &spec);
    assert_eq!(stream.header("Content-Type"), Some("text/event-stream"));
    assert!(stream.until("connection").json()["jobId"].is_string());
    assert_eq!(stream.until("complete").json()["status"], "completed");
}

#[test]
fn the_same_key_and_body_are_the_same_job() {
    let node = Node::start("");
    let spec = json!({ "tasks": [{ "id": "a", "run": TRIVIAL }] });
    let submit = |user: &str, key: &str, spec: &Value| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key), ("X-User-ID", user)];
        node.request("POST", "/api/jobs", &headers, spec.to_string())
    };
    let first = submit("u", "k", &spec).json();
    complete(&node, id(&first));
    let again = submit("u", "k", &spec);
    assert_eq!((again.status, id(&again.json()), &again.json()["status"]), (202, id(&first), &json!("completed")));
    assert!(submit("u", "k", &json!({ "tasks": [{ "id": "b", "run": TRIVIAL }] })).problem(422).contains("key"));
    assert_ne!(id(&submit("other", "k", &spec).json()), id(&first), "a key belongs to its user");
    submit("u", &"k".repeat(256), &spec).problem(400);
    assert_eq!(node.metric("millstream_jobs_accepted_total"), 2.0);
}

#[test]
fn jobs_are_listed_newest_first_by_status_user_and_page() {
    let (upstream, _) = upstream();
    let node = Node::start(&upstream.allowed());
    let submit = |user: &str, url: &str| {
        let headers = [("Content-Type", "application/json"), ("X-User-ID", user)];
        let spec = json!({ "tasks": [{ "url": upstream.url(url) }] });
        id(&node.request("POST", "/api/jobs", &headers, spec.to_string()).json()).to_owned()
    };
    let jobs = [submit("a", "/ok"), submit("b", "/later"), submit("a", "/never")];
    complete(&node, &jobs[0]);
    complete(&node, &jobs[1]);
    eventually(|| (!upstream.seen("/never").is_empty()).then_some(()));
    let list = |query: &str| -> Vec<String> {
        let page = eventually(|| Some(node.get(&format!("/api/jobs{query}")).json()));
        page["jobs"].as_array().expect("a list").iter().map(|job| id(job).to_owned()).collect()
    };
    assert_eq!(list(""), [jobs[2].clone(), jobs[1].clone(), jobs[0].clone()]);
    assert_eq!(list("?user=a"), [jobs[2].clone(), jobs[0].clone()]);
    assert_eq!(
        (list("?status=completed"), list("?status=failed"), list("?status=running")),
        (vec![jobs[0].clone()], vec![jobs[1].clone()], vec![jobs[2].clone()])
    );
    let page = node.get("/api/jobs?limit=2").json();
    let next = page["next"].as_str().expect("there is more");
    assert_eq!(list(&format!("?limit=2&after={next}")), [jobs[0].clone()]);
    for wrong in ["?status=sleeping", "?limit=0", "?state=running"] {
        node.get(&format!("/api/jobs{wrong}")).problem(400);
    }
    let job = node.get(&format!("/api/jobs/{}", jobs[2])).json();
    assert_eq!(
        (&job["status"], &job["user"], &job["totalTasks"], &job["tasks"][0]["status"]),
        (&json!("running"), &json!("a"), &json!(1), &json!("running"))
    );
    assert!(job["lastEventId"].is_string() && job["createdAt"].is_u64(), "{job}");
}

#[test]
fn a_cancelled_job_reports_that_once() {
    let (upstream, _) = upstream();
    let node = Node::start(&upstream.allowed());
    let job = node.post("/api/jobs", &json!({ "concurrency": 1, "tasks": [{ "id": "a", "url": upstream.url("/never") }, { "id": "b", "url": upstream.url("/ok") }] }));
    let mut watcher = node.stream(job["eventsUrl"].as_str().expect("a path"), &[]);
    watcher.until("task_start");
    let path = format!("/api/jobs/{}", id(&job));
    assert_eq!(node.request("DELETE", &path, &[], "").status, 202);
    let events = watcher.rest();
    let errors: Vec<Value> = events.iter().filter(|event| event.event == "error").map(Event::json).collect();
    assert_eq!(errors.len(), 2, "{events:?}");
    assert!(errors.iter().all(|error| error["code"] == "cancelled"), "{errors:?}");
    let last = events.last().expect("it ends").json();
    assert_eq!((&last["status"], &last["errorCount"]), (&json!("cancelled"), &json!(2)));
    assert!(upstream.seen("/ok").is_empty(), "no further task begins");
    let again = node.request("DELETE", &path, &[], "");
    assert!(again.status == 202 || again.status == 409, "{again:?}");
    let done = node.post("/api/jobs", &json!({ "tasks": [{ "run": TRIVIAL }] }));
    complete(&node, id(&done));
    assert!(node.request("DELETE", &format!("/api/jobs/{}", id(&done)), &[], "").problem(409).contains("completed"));
    node.request("DELETE", "/api/jobs/unknown", &[], "").problem(404);
}

#[test]
fn failed_tasks_run_again_as_a_job_of_their_own() {
    let (upstream, healed) = upstream();
    let node = Node::start(&upstream.allowed());
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "id": "good", "url": upstream.url("/ok") }, { "id": "bad", "url": upstream.url("/later") }] }));
    assert_eq!(complete(&node, id(&job))["status"], "partial");
    healed.store(true, Relaxed);
    let reply = node.request("POST", &format!("/api/jobs/{}/retry", id(&job)), &[], "");
    assert_eq!(reply.status, 202, "{reply:?}");
    let again = reply.json();
    assert_eq!(again["retryOf"], job["jobId"]);
    let end = complete(&node, id(&again));
    assert_eq!((&end["status"], &end["totalTasks"]), (&json!("completed"), &json!(1)));
    assert_eq!(node.get(&format!("/api/jobs/{}", id(&again))).json()["retryOf"], job["jobId"]);
    assert_eq!(upstream.seen("/ok").len(), 1, "a successful task is not repeated");
    assert!(node.request("POST", &format!("/api/jobs/{}/retry", id(&again)), &[], "").problem(409).contains("failed"));
    node.request("POST", "/api/jobs/unknown/retry", &[], "").problem(404);
    let running = node.post("/api/jobs", &json!({ "tasks": [{ "url": upstream.url("/never") }] }));
    node.request("POST", &format!("/api/jobs/{}/retry", id(&running)), &[], "").problem(409);
}

#[test]
fn a_result_is_had_by_its_task() {
    let (upstream, _) = upstream();
    let node = Node::start(&upstream.allowed());
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "id": "a/b c", "url": upstream.url("/ok") }, { "id": "bad", "url": upstream.url("/later") }] }));
    complete(&node, id(&job));
    let snapshot = node.get(&format!("/api/jobs/{}", id(&job))).json();
    let url = snapshot["tasks"][0]["resultUrl"].as_str().expect("a path");
    assert_eq!(node.get(url).json(), json!("ok"), "{url}");
    for wrong in [
        format!("/api/jobs/{}/tasks/none/result", id(&job)),
        format!("/api/jobs/{}/tasks/bad/result", id(&job)),
        "/api/jobs/x/tasks/a/result".to_owned(),
    ] {
        node.get(&wrong).problem(404);
    }
}

#[test]
fn a_disconnect_cancels_the_job_only_if_requested() {
    let (upstream, _) = upstream();
    let node = Node::start(&upstream.allowed());
    let submit = |word: &str| {
        let mut stream = node.post_stream(
            "/api/sse/parallel-tasks",
            &json!({ "tasks": [{ "url": upstream.url("/never") }], "onDisconnect": word }),
        );
        let job = stream.until("connection").json()["jobId"].as_str().expect("an id").to_owned();
        stream.until("task_start");
        job
    };
    let (goes_on, ends) = (submit("continue"), submit("cancel"));
    let status = |job: &str| node.get(&format!("/api/jobs/{job}")).json()["status"].clone();
    eventually(|| (status(&ends) == "cancelled").then_some(()));
    eventually(|| (node.get("/api/sse/managed/status").json()["totalEmitters"] == 0).then_some(()));
    assert_eq!(status(&goes_on), "running");
}

#[test]
fn the_first_failure_or_the_deadline_may_end_a_job() {
    let (upstream, _) = upstream();
    let node = Node::start(&upstream.allowed());
    let tasks =
        json!([{ "id": "bad", "url": upstream.url("/later") }, { "id": "long", "url": upstream.url("/never") }]);
    let fast = node
        .post_stream("/api/sse/parallel-tasks", &json!({ "tasks": tasks, "failFast": true }))
        .until("complete")
        .json();
    assert_eq!((&fast["status"], &fast["errorCount"]), (&json!("failed"), &json!(2)));
    let mut stream = node.post_stream(
        "/api/sse/parallel-tasks",
        &json!({ "tasks": [tasks[1], { "run": TRIVIAL, "id": "ok" }], "timeoutMs": 2500 }),
    );
    let error = stream.until("error").json();
    assert_eq!((&error["taskId"], &error["code"]), (&json!("long"), &json!("job_timeout")));
    assert_eq!(stream.until("complete").json()["status"], "timed_out");
}

#[test]
fn notified_topics_receive_progress_errors_and_the_end() {
    let (upstream, _) = upstream();
    let node = Node::start(&upstream.allowed());
    let watch = |path: &str, headers: &[(&str, &str)]| {
        let mut stream = node.stream(path, headers);
        stream.until("connection");
        stream
    };
    let mut watchers = [
        watch("/api/sse/managed/connect", &[("X-User-ID", "u")]),
        watch("/api/sse/managed/connect/group/g", &[]),
        watch("/events?topic=builds", &[]),
    ];
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "id": "bad", "url": upstream.url("/later") }], "notify": { "user": "u", "group": "g", "topic": "builds" } }));
    for stream in &mut watchers {
        let events = [stream.next_own(), stream.next_own(), stream.next_own()];
        assert_eq!(events.each_ref().map(|event| event.event.as_str()), ["error", "progress", "complete"]);
        assert!(events.iter().all(|event| event.json()["jobId"] == job["jobId"]), "{events:?}");
    }
    for wrong in [json!({ "user": "a b" }), json!({ "topic": "job:1" }), json!({ "users": "u" })] {
        node.json("POST", "/api/jobs", &json!({ "tasks": [{ "run": TRIVIAL }], "notify": wrong })).problem(422);
    }
}

#[test]
fn a_wrong_job_is_refused_with_every_mistake_named() {
    let node = Node::start("[jobs]\nmax_tasks = 3\n");
    let refuse = |spec: &Value| {
        let reply = node.json("POST", "/api/jobs", spec);
        let detail = reply.problem(422);
        let fields: Vec<String> = reply.json()["errors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|error| error["field"].as_str().map(str::to_owned))
            .collect();
        (detail, fields, reply.text())
    };
    let (_, fields, text) = refuse(&json!({ "tasks": [{ "run": "nothing" }] }));
    assert_eq!(fields, ["tasks[0].run"]);
    for known in ["Process Image", TRIVIAL, "Fetch External Data", "Call Third-party API", "task1", "task2"] {
        assert!(text.contains(known), "{text}");
    }
    let (_, fields, _) = refuse(
        &json!({ "concurrency": 0, "tasks": [{ "id": "a", "url": "ftp://x" }, { "id": "a", "run": TRIVIAL, "retryCount": 1000 }, {}] }),
    );
    assert_eq!(fields, ["concurrency", "tasks[1].id", "tasks[0].url", "tasks[1].retryCount", "tasks[2]"]);
    for (wrong, part) in [
        (json!({ "tasks": [] }), "max_tasks"),
        (json!({ "tasks": vec![json!({ "run": TRIVIAL }); 4] }), "max_tasks"),
        (json!({ "tasks": [{ "run": TRIVIAL, "url": "http://x/" }] }), "both"),
        (json!({ "tasks": [{ "run": TRIVIAL, "colour": "red" }] }), "colour"),
        (json!({ "tasks": [{ "run": TRIVIAL }], "failfast": true }), "failfast"),
        (json!({ "tasks": [{ "run": TRIVIAL }], "onDisconnect": "explode" }), "explode"),
        (json!({ "tasks": [{ "run": TRIVIAL, "timeoutMs": 0 }] }), "timeoutMs"),
        (json!({ "tasks": [{ "url": "http://u:p@x/" }] }), "password"),
        (json!({ "tasks": [{ "url": "http://x/", "method": "TRACE" }] }), "TRACE"),
        (json!({ "tasks": [{ "url": "http://x/", "headers": { "a b": "c" } }] }), "a b"),
        (json!({ "tasks": [{ "url": "http://x/", "headers": { "X-A": "c\nd" } }] }), "X-A"),
        (json!({ "tasks": [{ "url": "http://x/", "headers": { "Host": "other" } }] }), "Host"),
        (json!({ "tasks": [{ "run": TRIVIAL, "remote": "nowhere" }] }), "remote"),
        (json!({ "tasks": [{ "run": TRIVIAL }], "callbackUrl": "http://x/" }), "callbackUrl"),
        (json!({ "tasks": "all" }), "sequence"),
        (json!({}), "tasks"),
    ] {
        let (_, _, text) = refuse(&wrong);
        assert!(text.contains(part), "{wrong}: {text}");
        // The streaming routes refuse the same, before there is a stream.
        assert!(node.json("POST", "/api/sse/emitter/parallel-tasks", &wrong).problem(422).len() > 5);
    }
    node.json("POST", "/api/jobs?timeoutMs=5", &json!({ "tasks": [{ "run": TRIVIAL }] })).problem(400);
    assert_eq!(node.metric("millstream_jobs_accepted_total"), 0.0);
}

#[test]
fn the_samples_do_real_work_on_the_node_itself() {
    let node = Node::start("");
    for (path, tasks) in
        [("/api/sse/sample-parallel", 4), ("/api/sse/flow-example", 4), ("/api/sse/parallel-tasks-progress", 2)]
    {
        let mut stream = node.stream(path, &[]);
        let events = stream.rest();
        assert!(events.iter().any(|event| event.event == "task_progress"), "{path}");
        let end = events.last().expect("it ends").json();
        assert_eq!((&end["status"], &end["successCount"]), (&json!("completed"), &json!(tasks)), "{path}");
    }
    let orders = node.get("/api/sse/samples/orders.csv");
    assert!(
        orders.header("Content-Type").is_some_and(|media| media.starts_with("text/csv")) && orders.body.len() > 100_000
    );
    assert!(node.get("/api/sse/samples/quotes?page=1").json().is_object());
    node.get("/api/sse/samples/quotes?page=100000").problem(404);
    node.get("/api/sse/samples/quotes?page=x").problem(400);
}

/// A position that the journal has not issued does not show which events were received.
#[test]
fn an_ended_job_answers_an_unknown_position_with_a_gap_and_its_whole_history() {
    let node = Node::start("");
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "run": "Calculate Stats" }] }));
    let url = job["eventsUrl"].as_str().expect("a path");
    let whole: Vec<String> =
        node.stream(url, &[]).rest().into_iter().filter(Event::is_own).map(|event| event.id).collect();
    let last = whole.last().expect("it has events");
    let (epoch, offset) = last.split_once('-').expect("a position");
    let future = format!("{epoch}-{}", offset.parse::<u64>().expect("a number") + 1);
    let far = format!("{epoch}-99999999");
    for (requested, reason) in [(future.as_str(), "future"), (&far, "future"), ("abc-7", "foreign"), ("x", "unknown")] {
        let mut stream = node.stream(url, &[("Last-Event-ID", requested)]);
        let events = stream.rest();
        assert_eq!(events[1].json()["reason"], reason, "{requested}: {events:?}");
        let seen: Vec<String> = events.into_iter().filter(Event::is_own).map(|event| event.id).collect();
        assert_eq!((seen, stream.finished), (whole.clone(), true), "{requested}");
    }
    // What other topics have had since is no future.
    let later = node.publish("elsewhere", "e", &json!(1));
    for seen in [last, &later] {
        assert_eq!(node.request("GET", url, &[("Last-Event-ID", seen)], "").status, 204, "{seen}");
    }
}
