//! The samples behind an EventSource that stays: it comes back three seconds after each end, with the id that it saw last.

use serde_json::{Value, json};

use crate::support::{Event, Node, Reply, eventually};

const SAMPLES: [&str; 4] = [
    "/api/sse/sample-parallel",
    "/api/sse/flow-example",
    "/api/sse/parallel-tasks-progress",
    "/api/sse/rate-limited-sse",
];
const PROXIED: &str = "/api/sse-proxy/reactive/sample-parallel/sse-emitter";

fn jobs(node: &Node) -> Vec<Value> {
    node.get("/api/jobs").json()["jobs"].as_array().expect("a list").clone()
}

fn again(node: &Node, path: &str, id: &str) -> Reply {
    node.raw_get(path, format!("Accept: text/event-stream\r\nLast-Event-ID: {id}\r\n"))
}

/// Reads a sample to its end; the events of its job.
fn whole(node: &Node, path: &str) -> Vec<Event> {
    let mut stream = node.stream(path, &[]);
    assert_eq!(stream.status, 200, "{path}: {}", stream.head);
    let events: Vec<Event> = stream.rest().into_iter().filter(|event| event.event != "connection").collect();
    let complete = events.iter().find(|event| event.event == "complete").expect("it completes");
    assert_eq!(complete.json()["status"], "completed", "{path}: {complete:?}");
    events.into_iter().filter(|event| !event.id.is_empty()).collect()
}

#[test]
fn an_eventsource_that_comes_back_gets_the_rest_of_its_job_and_never_a_second_one() {
    // Both with settings of their own: no handler is named in them.
    let reactive = Node::start_bare("");
    let remote = format!("[remotes.reactive]\nbase_url = \"http://{}\"\npaths = [\"/api/sse/*\"]\n", reactive.addr);
    let node = Node::start_bare(&remote);
    for (path, home) in SAMPLES.iter().map(|path| (*path, &node)).chain([(PROXIED, &reactive)]) {
        let before = jobs(home).len();
        let events = whole(&node, path);
        let last = &events.last().expect("events").id;
        // After the end there is nothing more, and an EventSource stops.
        for _ in 0..3 {
            assert_eq!(again(&node, path, last).status, 204, "{path}");
        }
        assert_eq!(node.raw_get(&format!("{path}?lastEventId={last}"), "").status, 204, "{path}");
        // From an earlier one: the rest, and then nothing more.
        let mut rest = node.stream(path, &[("Last-Event-ID", &events[2].id)]);
        let rest: Vec<String> = rest.rest().into_iter().filter(Event::is_own).map(|event| event.id).collect();
        let expected: Vec<&String> = events[3..].iter().map(|event| &event.id).collect();
        assert!(expected.iter().all(|id| rest.contains(id)) && !rest.contains(&events[2].id), "{path}: {rest:?}");
        // A text that is not a position of a job here is no reason for another job.
        for id in ["nonsense", "abc-7"] {
            assert_eq!(again(&node, path, id).status, 204, "{path} after {id}");
        }
        assert_eq!(jobs(home).len(), before + 1, "{path}");
    }
}

/// A cut in the middle, again and again, as by a proxy with a short patience.
#[test]
fn a_sample_whose_connection_breaks_again_and_again_is_one_job_and_misses_nothing() {
    let node = Node::start_bare("");
    let path = "/api/sse/parallel-tasks-progress";
    let (mut last, mut seen, mut connections) = (None::<String>, Vec::new(), 0);
    loop {
        let headers: Vec<(&str, &str)> = last.iter().map(|id| ("Last-Event-ID", id.as_str())).collect();
        let mut stream = node.stream(path, &headers);
        connections += 1;
        if stream.status == 204 {
            break;
        }
        assert_eq!(stream.status, 200, "{}", stream.head);
        // At most two events of each connection are taken.
        let mut taken = 0;
        while taken < 2 && !stream.over() {
            let Some(event) = stream.next_within(std::time::Duration::from_millis(200)) else { continue };
            if !event.id.is_empty() {
                last = Some(event.id.clone());
            }
            if !event.id.is_empty() && event.event != "connection" {
                taken += 1;
                seen.push(event);
            }
        }
    }
    assert!(connections > 3, "{connections}");
    let all = jobs(&node);
    assert_eq!(all.len(), 1, "{all:?}");
    let job = all[0]["jobId"].as_str().expect("an id");
    let history: Vec<String> = node
        .stream(&format!("/api/jobs/{job}/events"), &[])
        .rest()
        .into_iter()
        .filter(|event| !event.id.is_empty() && event.event != "connection")
        .map(|event| event.id)
        .collect();
    assert_eq!(seen.into_iter().map(|event| event.id).collect::<Vec<_>>(), history);
}

/// The `id:` of the first frame is a position before the job's first event: it is not an event of the job.
#[test]
fn a_client_that_was_cut_before_its_first_event_finds_its_job_again() {
    let node = Node::start("");
    node.publish("t", "e", &json!("before"));
    let before = node.get("/api/topics/t/events").json()["lastEventId"].as_str().expect("an id").to_owned();
    let other = whole(&node, "/api/sse/flow-example");
    let events = whole(&node, "/api/sse/sample-parallel");
    let mut stream = node.stream("/api/sse/sample-parallel", &[("Last-Event-ID", &before)]);
    let again: Vec<String> = stream.rest().into_iter().map(|event| event.id).collect();
    assert!(events.iter().all(|event| again.contains(&event.id)), "{again:?}");
    assert!(!other.iter().any(|event| again.contains(&event.id)), "another sample's job");
    assert_eq!(jobs(&node).len(), 2);
}

#[test]
fn the_samples_can_be_switched_off() {
    let node = Node::start_bare("[samples]\nenabled = false\n");
    for path in SAMPLES.into_iter().chain(["/api/sse/samples/orders.csv", "/api/sse/samples/quotes"]) {
        let reply = node.get(path);
        assert_eq!(reply.json()["code"], "samples_disabled", "{path}");
        reply.problem(404);
    }
    let job = json!({ "tasks": [{ "run": "Process Image" }] });
    node.json("POST", "/api/jobs", &job).problem(422);
    let on = Node::start_bare("");
    let job = on.post("/api/jobs", &job);
    let url = format!("/api/jobs/{}", job["jobId"].as_str().expect("an id"));
    eventually(|| (on.get(&url).json()["status"] == "completed").then_some(()));
}
