//! Many tasks and many jobs, in process, with handlers of the test's own.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millstream::{
    app::App,
    config::Config,
    jobs::{
        Submission,
        handler::{Output, Registered, Task, TaskError, TaskHandler},
        spec::Spec,
    },
    journal::BoxFuture,
    node::Node,
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};

mod support;

use support::{PATIENCE, Stream};

/// Gives back its input.
struct Echo;

/// Ends when the test releases it.
struct Gated(Arc<Semaphore>);

impl TaskHandler for Echo {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move { Ok(task.input.into()) })
    }
}

impl TaskHandler for Gated {
    fn run(&self, task: Task) -> BoxFuture<'_, Result<Output, TaskError>> {
        Box::pin(async move {
            tokio::select! {
                permit = self.0.acquire() => permit.expect("it is not closed").forget(),
                () = task.cancel.cancelled() => return Err(TaskError::fatal("cancelled", "the test is over")),
            }
            Ok(Output::default())
        })
    }
}

/// A node on a thread of its own, stopped when dropped.
struct Running {
    node: Node,
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl Running ===

impl Running {
    fn start(settings: &str, handler: impl TaskHandler) -> Self {
        let mut config = Config::read(settings, "test").expect("good settings");
        config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.server.drain_ms = 0;
        config.journal.kind = millstream::journal::Kind::Memory;
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let app =
                    App::with_handlers(config, [("trivial".to_owned(), Registered::new(handler))]).expect("it builds");
                let server = app.bind().expect("a free port");
                ready.send((server.node().clone(), server.addr())).expect("the test waits");
                server.run(async { drop(stopped.await) }).await.expect("it ends well");
            });
        });
        let (node, addr) = started.recv_timeout(PATIENCE).expect("the node starts");
        Self { node, addr, stop: Some(stop), thread: Some(thread) }
    }

    fn post_stream(&self, path: &str, body: &Value) -> Stream {
        let socket = TcpStream::connect(self.addr).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Stream::open(socket, "POST", path, &[("Content-Type", "application/json")], &body.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().expect("it was started").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the node panicked");
    }
}

/// Most memory that this process ever had, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("it has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// The bound of time is far above what it takes (a few seconds without optimisation), that of memory is the contract's.
#[test]
fn ten_thousand_tasks_in_one_job_end_soon_and_cost_little() {
    const TASKS: usize = 10_000;
    let running = Running::start("", Echo);
    let tasks: Vec<Value> = (0..TASKS).map(|n| json!({ "id": n.to_string(), "run": "trivial", "input": n })).collect();
    let begin = Instant::now();
    let mut stream = running.post_stream("/api/sse/emitter/parallel-tasks", &json!({ "tasks": tasks }));
    assert_eq!(stream.status, 200, "{}", stream.head);
    let (mut started, mut done, mut steps) = (vec![false; TASKS], vec![false; TASKS], 0);
    let complete = loop {
        let event = stream.next();
        let data = event.json();
        let index = || data["taskId"].as_str().and_then(|id| id.parse::<usize>().ok()).expect("a number");
        match event.event.as_str() {
            "task_start" => assert!(!std::mem::replace(&mut started[index()], true), "begins once: {data}"),
            "task_complete" => {
                assert_eq!(data["result"], index());
                assert!(!std::mem::replace(&mut done[index()], true), "ends once: {data}");
            }
            "progress" => {
                steps += 1;
                assert_eq!(data["step"], steps);
            }
            "complete" => break data,
            _ => {}
        }
    };
    assert!(done.iter().all(|done| *done) && started.iter().all(|started| *started));
    assert_eq!((&complete["status"], &complete["successCount"]), (&json!("completed"), &json!(TASKS)));
    println!("{TASKS} tasks in {:?}, peak of the process {} MiB", begin.elapsed(), peak() >> 20);
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    assert!(peak() < 300 << 20, "{} MiB", peak() >> 20);
}

/// A thousand jobs wait for slots; one that comes last has its turn within one round, when none of them has ended.
#[test]
fn a_thousand_jobs_do_not_starve_a_new_one() {
    const JOBS: usize = 1000;
    let gate = Arc::new(Semaphore::new(0));
    let running = Running::start("[jobs]\nconcurrency = 16\n", Gated(gate.clone()));
    let jobs = running.node.jobs.clone();
    let spec = |tasks: usize| -> Spec {
        let tasks: Vec<Value> = (0..tasks).map(|_| json!({ "run": "trivial" })).collect();
        serde_json::from_value(json!({ "tasks": tasks })).expect("a job")
    };
    let waiting = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    waiting.block_on(async {
        for _ in 0..JOBS {
            jobs.submit(Submission { spec: spec(20), ..Submission::default() }).await.expect("it is accepted");
        }
        let new = jobs.submit(Submission { spec: spec(1), ..Submission::default() }).await.expect("it is accepted");
        // One task of each job that was there before, and the new one's.
        gate.add_permits(JOBS + 100);
        let deadline = Instant::now() + PATIENCE;
        while !jobs.get(&new.job_id).await.expect("it is known").summary.status.ended() {
            assert!(Instant::now() < deadline, "the new job waits for {:?}", jobs.stats());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(jobs.stats().jobs_running, JOBS as u64, "no other job has ended meanwhile");
    });
    // Releases all, so that the stop need not wait.
    gate.add_permits(JOBS * 20);
}
