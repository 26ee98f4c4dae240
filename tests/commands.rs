//! Programs of tasks and all that they start: nothing of them outlives its task or its node, and nothing of the node's
//! secrets reaches them. Processes are found by the mark in their environment, as the node finds them, or by a word
//! among their arguments that no other process has.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

mod support;

use support::{Node, eventually, steady::skipped};

/// Marks what a node starts.
const VARIABLE: &str = "MILLSTREAM_LIFELINE";

/// Processes that have this text in their environment or among their arguments; what waits to be reaped has neither.
fn with(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("a Linux machine").filter_map(Result::ok);
    let has = |file: std::path::PathBuf| {
        fs::read(file).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    let found = processes.filter(|process| ["environ", "cmdline"].iter().any(|file| has(process.path().join(file))));
    found.map(|process| describe(&process.path())).collect()
}

fn describe(process: &Path) -> String {
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    format!("{} {}", process.display(), String::from_utf8_lossy(&arguments).replace('\0', " "))
}

/// Waits until no process has this text.
fn gone(text: &str) {
    let deadline = Instant::now() + support::PATIENCE;
    loop {
        let left = with(text);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:#?}");
        std::thread::yield_now();
    }
}

/// A mark that no other test has, below the one of the whole run if there is one.
fn marker(name: &str) -> String {
    let own = format!("{name}-{}-{:08x}", std::process::id(), rand::random::<u32>());
    std::env::var(VARIABLE).map_or(own.clone(), |outer| format!("{outer}/{own}"))
}

/// Settings with one handler `it`, a shell script.
fn script(text: &str) -> String {
    format!("[handlers.it]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", {}]\n", json!(text))
}

fn run(node: &Node) -> String {
    node.post("/api/jobs", &json!({ "tasks": [{ "id": "a", "run": "it" }] }))["jobId"]
        .as_str()
        .expect("an id")
        .to_owned()
}

/// What the task came to.
fn outcome(node: &Node, job: &str) -> Value {
    node.stream(&format!("/api/jobs/{job}/events"), &[]).until("task_complete").json()["result"].clone()
}

/// The states of the children of a process, by the first letter of each.
fn children(pid: u32) -> Vec<u8> {
    let processes = fs::read_dir("/proc").expect("a Linux machine").filter_map(Result::ok);
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let fields = stats.filter_map(|stat| {
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        Some((fields.next()?.as_bytes()[0], fields.next()?.parse::<u32>().ok()?))
    });
    fields.filter(|(_, parent)| *parent == pid).map(|(state, _)| state).collect()
}

/// `MILLSTREAM_TEST_KILLS` sets how often; `scripts/long` asks for 500.
#[test]
fn no_program_outlives_a_node_that_is_killed_while_it_starts() {
    let kills = std::env::var("MILLSTREAM_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(25);
    let tasks: Vec<Value> = (0..4).map(|_| json!({ "run": "it" })).collect();
    for _ in 0..kills {
        let marker = marker("kill");
        let mut node = Node::start_with_env(&script("exec sleep 3600"), &[(VARIABLE, &marker)]);
        node.post("/api/jobs", &json!({ "tasks": tasks }));
        let moment = Duration::from_micros(rand::random_range(0..20_000));
        let begun = Instant::now();
        while begun.elapsed() < moment {
            std::hint::spin_loop();
        }
        node.kill();
        gone(&marker);
    }
    println!("{kills} kills, nothing left");
}

#[test]
fn children_that_leave_the_group_end_with_their_program() {
    for leave in ["setsid", "env -i PATH=$PATH setsid"] {
        let word = format!("36{:08}", rand::random_range(0..100_000_000));
        // The shell between them ends at once, so the child loses its parent while the program still runs.
        let node = Node::start(&script(&format!(
            "sh -c '{leave} sleep {word} >/dev/null 2>&1 </dev/null &'; until pgrep -f 'sleep {word}$' >/dev/null; do :; done; \
             echo '{{\"result\": 1}}'"
        )));
        let job = run(&node);
        assert_eq!(outcome(&node, &job), 1);
        gone(&format!("sleep\0{word}"));
        // They are reaped as well, as is whatever they were the parents of.
        eventually(|| (!children(node.pid()).contains(&b'Z')).then_some(()));
    }
}

#[test]
fn children_that_leave_the_group_end_with_a_cancelled_task() {
    let word = format!("36{:08}", rand::random_range(0..100_000_000));
    let node = Node::start(&script(&format!("setsid sleep {word} & setsid sh -c 'setsid sleep {word} & wait' & wait")));
    let job = run(&node);
    eventually(|| (with(&format!("sleep\0{word}")).len() == 2).then_some(()));
    node.request("DELETE", &format!("/api/jobs/{job}"), &[], "");
    gone(&word);
}

#[test]
fn children_that_leave_the_group_end_with_a_killed_node() {
    let word = format!("36{:08}", rand::random_range(0..100_000_000));
    let mut node = Node::start(&script(&format!("setsid sleep {word} & sleep {word}; wait")));
    run(&node);
    eventually(|| (with(&format!("sleep\0{word}")).len() == 2).then_some(()));
    node.kill();
    gone(&word);
}

#[test]
fn a_node_that_is_process_1_reaps_what_loses_its_parent() {
    const NAME: &str = "a_node_that_is_process_1_reaps_what_loses_its_parent";
    const ALONE: [&str; 4] = ["--pid", "--fork", "--mount-proc", "--kill-child"];
    let permitted = std::process::Command::new("unshare").args(ALONE).arg("true").output();
    if !permitted.as_ref().is_ok_and(|output| output.status.success()) {
        return skipped(NAME, &format!("no namespaces of processes here: {permitted:?}"));
    }
    let dir = tempfile::tempdir().expect("a temp directory");
    let config = dir.path().join("n.toml");
    let text = "for n in 1 2 3; do sh -c 'setsid sleep 0.01 &'; done; sleep 0.1; echo '{\"result\": 1}'";
    fs::write(&config, script(text)).expect("write the configuration");
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(ALONE).args([env!("CARGO_BIN_EXE_millstream"), "serve", "--listen", "127.0.0.1:0", "--config"]);
    unshare.arg(&config).arg("--data-dir").arg(dir.path().join("data")).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut outside = unshare.spawn().expect("it is permitted");
    let mut line = String::new();
    BufReader::new(outside.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line");
    let addr = line.trim().strip_prefix("listening on http://").expect("it listens").to_owned();
    let node: u32 = eventually(|| {
        let list = fs::read_to_string(format!("/proc/{0}/task/{0}/children", outside.id())).ok()?;
        list.split_whitespace().next()?.parse().ok()
    });
    let ask = |method: &str, path: &str, body: &str| {
        let mut socket = TcpStream::connect(&addr).expect("connect");
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: {}", body.len());
        write!(socket, "{head}\r\n\r\n{body}").expect("send a request");
        support::Reply::read(socket).json()
    };
    let job = ask("POST", "/api/jobs", r#"{"tasks":[{"run":"it"}]}"#)["jobId"].as_str().expect("an id").to_owned();
    eventually(|| (ask("GET", &format!("/api/jobs/{job}"), "")["status"] == "completed").then_some(()));
    eventually(|| (!children(node).contains(&b'Z')).then_some(()));
    let _ = outside.kill();
    let _ = outside.wait();
}

#[test]
fn programs_see_no_secret_of_the_node() {
    let settings = format!(
        "{}env = {{ GREETING = \"hello\" }}\npass_env = [\"REGION\"]\n\
         [remotes.far]\nbase_url = \"http://127.0.0.1:9\"\nbase_url_env = \"FAR_URL\"\ntoken_env = \"FAR_TOKEN\"\npaths = [\"/x\"]\n\
         [webhooks.hook]\nsecret_env = \"HOOK_SECRET\"\nevent = \"e\"\ntopic = \"t\"\n",
        script("env >&2; exit 3")
    );
    let secrets = [
        ("FAR_TOKEN", "s3cret-far"),
        ("FAR_URL", "http://127.0.0.1:9/s3cret-url"),
        ("HOOK_SECRET", "s3cret-hook"),
        ("MILLSTREAM_TOKEN", "s3cret-own"),
        ("MILLSTREAM__SERVER__HOSTS", "[\"s3cret.host\"]"),
        ("DATABASE_PASSWORD", "s3cret-other"),
        ("REGION", "north"),
    ];
    let node = Node::start_with_env(&settings, &secrets);
    let job = run(&node);
    let error = node.stream(&format!("/api/jobs/{job}/events"), &[]).until("error").json();
    let environment = error["error"].as_str().expect("an error text").to_owned();
    assert!(environment.contains("GREETING=hello") && environment.contains("REGION=north"), "{environment}");
    assert!(!environment.contains("s3cret"), "{environment}");
}
