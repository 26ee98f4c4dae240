//! `/readyz` reports failed parts, and a node that has lost a part of itself ends.

use std::{
    fs,
    path::Path,
    sync::Arc,
    task::{Context, Wake},
    time::{Duration, Instant},
};

use millstream::{
    app::{App, Error},
    config::Config,
    event::Draft,
    jobs::Submission,
    journal::{self, Batch},
    topic::Topic,
};
use serde_json::json;

use crate::support::{Node, PATIENCE, eventually};

/// How soon a node must notice. The machine may be busy, so the tests wait longer; the limit is the journal's own.
const SOON: Duration = PATIENCE;

fn refused(node: &Node) -> String {
    let begin = Instant::now();
    let detail = eventually(|| {
        let reply = node.json("POST", "/events", &json!({ "topic": "t", "data": 2 }));
        (reply.status != 200).then(|| {
            assert!(reply.header("Retry-After").is_some(), "{reply:?}");
            reply.problem(503)
        })
    });
    assert!(begin.elapsed() < SOON);
    detail
}

/// What takes the data directory away.
type Removal = fn(&Path) -> std::io::Result<()>;

fn moved(data: &Path) -> std::io::Result<()> {
    fs::rename(data, data.with_file_name("elsewhere"))
}

const REMOVALS: [(&str, Removal); 7] = [
    ("removed", |data| fs::remove_dir_all(data)),
    ("moved", moved),
    ("its journal is removed", |data| fs::remove_dir_all(data.join("journal"))),
    ("its journal is moved", |data| fs::rename(data.join("journal"), data.join("moved"))),
    ("its segments are removed", |data| {
        let segment = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|kind| kind == "seg");
        let mut segments = fs::read_dir(data.join("journal"))?.filter_map(Result::ok).filter(segment);
        segments.try_for_each(|entry| fs::remove_file(entry.path()))
    }),
    ("its high water mark is removed", |data| fs::remove_file(data.join("journal/MARK"))),
    ("replaced by a copy", |data| {
        moved(data)?;
        let copied =
            std::process::Command::new("cp").arg("-r").arg(data.with_file_name("elsewhere")).arg(data).status()?;
        assert!(copied.success());
        Ok(())
    }),
];

#[test]
fn a_node_without_its_data_directory_acknowledges_nothing() {
    for (what, remove) in REMOVALS {
        let mut node = Node::start("[server]\ndrain_ms = 100\n");
        let mut stream = node.stream("/events?topic=t", &[]);
        stream.until("connection");
        let last = node.publish("t", "e", &json!(1));
        remove(&node.data_dir()).expect("it is ours");
        // Also without an attempt to publish.
        let reply = eventually(|| Some(node.get("/readyz")).filter(|reply| reply.status != 200));
        let reason = reply.problem(503);
        let data = node.data_dir().display().to_string();
        for detail in [&reason, &refused(&node)] {
            assert!(detail.contains("was removed, moved or replaced") && detail.contains(&data), "{what}: {detail}");
        }
        assert_eq!(node.metric("millstream_ready"), 0.0);
        assert_eq!(node.get("/healthz").status, 200);
        eventually(|| Some(stream.next_own()).filter(|event| event.id == last));
        assert_eq!(node.terminate(), Some(0), "{what}");
    }
}

#[test]
fn a_data_directory_that_is_moved_back_is_used_again() {
    let node = Node::start("");
    node.publish("t", "e", &json!(1));
    let elsewhere = node.data_dir().with_file_name("elsewhere");
    fs::rename(node.data_dir(), &elsewhere).expect("it is ours");
    refused(&node);
    fs::rename(&elsewhere, node.data_dir()).expect("it is ours");
    eventually(|| (node.get("/readyz").status == 200).then_some(()));
    node.publish("t", "e", &json!(3));
    let kept = node.get("/api/topics/t/events").json();
    // Between them there may be events that were published before the node noticed.
    let data: Vec<_> = kept["events"].as_array().expect("a list").iter().map(|event| event["data"].clone()).collect();
    assert_eq!((data.first(), data.last()), (Some(&json!(1)), Some(&json!(3))), "{kept}");
}

/// A value of the embedding program that panics where the engine drops it.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "it fails on purpose");
    }
}

#[actix_rt::test]
async fn a_node_whose_jobs_have_failed_ends() {
    let mut config = Config::parse("", "the test").expect("the defaults are good");
    config.journal.kind = journal::Kind::Memory;
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.server.drain_ms = 0;
    config.handlers = Config::parse(millstream::config::BUILT_IN, "built in").expect("it is good").handlers;
    let server = App::build(config).expect("a node").bind().expect("a port");
    let node = server.node().clone();
    let running = actix_rt::spawn(server.run(std::future::pending()));
    eventually_ready(&node).await;
    let spec = serde_json::from_value(json!({ "tasks": [{ "run": "Calculate Stats" }] })).expect("a job");
    let submission = Submission { spec, quota_guard: Some(Arc::new(Bomb)), ..Submission::default() };
    node.jobs.submit(submission).await.expect("the job is accepted");
    let ended = tokio::time::timeout(PATIENCE * 2, running).await.expect("the node ends").expect("it does not panic");
    assert!(matches!(ended, Err(Error::Failed("jobs"))), "{ended:?}");
    assert_eq!(node.supervisor.trouble().as_deref(), Some("a part of the node has failed: jobs"));
}

/// Runs where the answer of the journal is given, on the thread of its writer.
struct PanickingWaker;

impl Wake for PanickingWaker {
    fn wake(self: Arc<Self>) {
        panic!("it fails on purpose");
    }
}

#[actix_rt::test]
async fn a_node_whose_journal_has_lost_its_writer_ends() {
    let dir = tempfile::tempdir().expect("a temp directory");
    let mut config = Config::parse("", "the test").expect("the defaults are good");
    config.server.data_dir = dir.path().to_owned();
    config.server.listen = "127.0.0.1:0".parse().expect("an address");
    config.server.drain_ms = 0;
    let server = App::build(config).expect("a node").bind().expect("a port");
    let node = server.node().clone();
    let running = actix_rt::spawn(server.run(std::future::pending()));
    eventually_ready(&node).await;
    let batch = || Batch::events(vec![Draft::new(Topic::new("t").expect("a name"), "e", "x")]);
    let waker = Arc::new(PanickingWaker).into();
    let mut append = node.journal.append(batch());
    // As often as the answer is there at once.
    while append.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
        append = node.journal.append(batch());
    }
    let ended = tokio::time::timeout(PATIENCE * 2, running).await.expect("the node ends").expect("it does not panic");
    assert!(matches!(ended, Err(Error::Failed("journal"))), "{ended:?}");
    assert_eq!(node.supervisor.trouble().as_deref(), Some("a part of the node has failed: journal"));
}

async fn eventually_ready(node: &millstream::node::Node) {
    let ready = async {
        while node.trouble().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("the node becomes ready");
}
