//! `run`: what it prints where, and how it ends.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::program::{Node, Program, file};

#[test]
fn a_good_job_shows_its_progress_and_prints_its_results() {
    let node = Node::start();
    let job = json!({ "tasks": [
        { "id": "stats", "run": "Calculate Stats" },
        { "id": "quotes", "name": "Quotes", "run": "Call Third-party API" },
    ]});
    let (_directory, path) = file("job.json", &job.to_string());
    let ended = node.run(&["run", &path], None).expect(0);
    let results: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&results["stats"]["count"], &results["quotes"]["quotes"]), (&10_000.into(), &100.into()));
    for line in ["start   Quotes", "done    Quotes, ", "done    Calculate Stats, ", "completed: 2 of 2 tasks in "] {
        assert!(ended.stderr.contains(line), "{line:?} is not in\n{}", ended.stderr);
    }
}

#[test]
fn a_failed_task_makes_exit_code_1_and_the_rest_is_printed() {
    let node = Node::start();
    // The guard refuses it: a port of this machine that is not permitted.
    let job = json!({ "tasks": [
        { "id": "good", "run": "Calculate Stats" },
        { "id": "bad", "url": "http://127.0.0.1:9/x" },
    ]});
    let ended = node.run(&["run", "-"], Some(&job.to_string())).expect(1);
    let results: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(results["good"]["count"], 10_000);
    assert!(results["bad"]["error"].is_string(), "{results}");
    assert!(ended.stderr.contains("failed  bad: ") && ended.stderr.contains("egress"), "{}", ended.stderr);
    assert!(ended.stderr.contains("partial: 1 of 2 tasks"), "{}", ended.stderr);
}

#[test]
fn events_come_as_lines_of_json_where_they_are_wanted() {
    let node = Node::start();
    let job = r#"{"tasks":[{"id":"stats","run":"Calculate Stats"}]}"#;
    let ended = node.run(&["run", "-", "--json", "--quiet"], Some(job)).expect(0);
    assert_eq!(ended.stderr, "");
    let rows = ended.rows();
    let names: Vec<&str> = rows.iter().map(|row| row["event"].as_str().unwrap()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("task_start", "complete"));
    assert!(names.contains(&"task_progress") && names.contains(&"aggregated_result"), "{names:?}");
    assert!(rows.iter().all(|row| row["id"].is_string() && row["data"]["jobId"].is_string()));
}

#[test]
fn a_file_that_is_no_job_is_refused_with_its_name_and_line() {
    let (_directory, path) = file("job.json", "{\n  \"tasks\": [\n    {\"run\": }\n  ]\n}\n");
    let ended = Program::start(&["run", &path], None).end().expect(64);
    assert!(ended.stderr.contains("job.json`, line 3, column 13"), "{}", ended.stderr);
    let ended = Program::start(&["run", "/nowhere/job.json"], None).end().expect(64);
    assert!(ended.stderr.contains("cannot read `/nowhere/job.json`"), "{}", ended.stderr);
    let ended = Program::start(&["run", "-"], Some("")).end().expect(64);
    assert!(ended.stderr.contains("`stdin`"), "{}", ended.stderr);
}

#[test]
fn a_refusal_is_shown_with_the_nodes_text() {
    let node = Node::start();
    let ended = node.run(&["run", "-"], Some(r#"{"tasks":[{"run":"Nonsense"}]}"#)).expect(1);
    assert!(ended.stderr.starts_with("millstream: 422: `tasks[0].run`: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("Process Image"), "it lists what there is: {}", ended.stderr);
    assert_eq!(ended.stdout, "");
}

#[test]
fn an_unreachable_node_is_reported_with_the_remedy() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let ended = Program::start(&["run", "-", "--url", &url], Some(r#"{"tasks":[]}"#)).end().expect(1);
    assert!(ended.stderr.contains("cannot connect") && ended.stderr.contains("millstream serve"), "{}", ended.stderr);
}

#[test]
fn an_interrupt_cancels_the_job() {
    let (_directory, path) = file("node.toml", "[handlers.wait]\nkind = 'command'\ncommand = ['sleep', '300']\n");
    let node = Node::start_with("127.0.0.1:0", &["--config", &path], &[]);
    let program = node.begin(&["run", "-"], Some(r#"{"tasks":[{"run":"wait"}]}"#));
    program.wait_until("the task begins", |program| program.stderr().contains("start   wait"));
    program.signal(Signal::INT);
    let ended = program.end().expect(130);
    assert!(ended.stderr.contains("cancelling job"), "{}", ended.stderr);
    node.program.wait_until("the job ends", |_| node.get("/api/jobs").contains(r#""status":"cancelled""#));
}

#[test]
fn a_job_whose_node_is_gone_ends_with_a_clear_word() {
    let (_directory, path) = file("node.toml", "[handlers.wait]\nkind = 'command'\ncommand = ['sleep', '300']\n");
    let env = [("MILLSTREAM__EMITTER__RECONNECT_TIME_MS", "100")];
    let node = Node::start_with("127.0.0.1:0", &["--config", &path], &env);
    let listen = node.addr.to_string();
    let program = node.begin(&["run", "-"], Some(r#"{"tasks":[{"run":"wait"}]}"#));
    program.wait_until("the task begins", |program| program.stderr().contains("start   wait"));
    drop(node);
    // The journal was in memory: the node that comes back knows nothing of the job.
    let _again = Node::start_with(&listen, &[], &[]);
    let ended = program.end().expect(1);
    assert!(ended.stderr.contains("connection lost") && ended.stderr.contains("404"), "{}", ended.stderr);
}
