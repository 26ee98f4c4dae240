//! A log that cannot be written loses lines and nothing else: publishing, streams, jobs and the stop continue, with
//! stderr closed, full or not read.

use std::{
    fs::File,
    io::{ErrorKind, PipeReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
};

use rustix::{fs::OFlags, process::Signal};
use serde_json::{Value, json};

use crate::support::{Node, PATIENCE, eventually};

/// What is wrong with stderr.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// Its reader has gone: `EPIPE`.
    Closed,
    /// No room: `ENOSPC`.
    Full,
    /// The reader does not read, and the pipe is full.
    Stalled,
    /// A full pipe that another process has made non-blocking: `EAGAIN`.
    Busy,
}

// === impl Broken ===

impl Broken {
    const ALL: [Self; 4] = [Self::Closed, Self::Full, Self::Stalled, Self::Busy];

    /// A file descriptor that is broken in this way, and what must be kept for it to stay so.
    fn stdio(self) -> (Stdio, Option<PipeReader>) {
        match self {
            Self::Full => (File::options().write(true).open("/dev/full").expect("it is everywhere").into(), None),
            Self::Closed => (std::io::pipe().expect("a pipe").1.into(), None),
            Self::Stalled | Self::Busy => {
                let (reader, mut writer) = std::io::pipe().expect("a pipe");
                rustix::fs::fcntl_setfl(writer.as_fd(), OFlags::NONBLOCK).expect("a flag");
                for bytes in [&[b'\n'; 4096][..], b"\n"] {
                    let full = std::iter::repeat_with(|| writer.write(bytes)).find_map(Result::err);
                    assert_eq!(full.expect("a pipe has a bound").kind(), ErrorKind::WouldBlock);
                }
                if matches!(self, Self::Stalled) {
                    rustix::fs::fcntl_setfl(writer.as_fd(), OFlags::empty()).expect("a flag");
                }
                (writer.into(), Some(reader))
            }
        }
    }
}

const EVENTS: u64 = 60;

/// Everything that a node does; each step writes log lines.
fn works(node: &Node) {
    let mut stream = node.stream("/events?topic=t", &[]);
    stream.until("connection");
    for number in 0..EVENTS {
        node.publish("t", "e", &json!(number));
    }
    for number in 0..EVENTS {
        assert_eq!(stream.next_own().data, number.to_string());
    }
    let job = node.post("/api/jobs", &json!({ "tasks": [{ "run": "Calculate Stats" }] }));
    let job = job["jobId"].as_str().expect("an id");
    let ended = eventually(|| {
        let status = node.get(&format!("/api/jobs/{job}")).json()["status"].clone();
        (status != "queued" && status != "running").then_some(status)
    });
    assert_eq!(ended, "completed");
    assert_eq!(node.get("/readyz").status, 200);
}

#[test]
fn a_node_whose_log_cannot_be_written_does_its_work_and_stops_well() {
    for broken in Broken::ALL {
        for level in ["info", "trace"] {
            let (stderr, _reader) = broken.stdio();
            let settings = format!("[telemetry]\nlog = \"{level}\"\nqueue_bytes = 65536\n[server]\ndrain_ms = 100\n");
            let mut node = Node::start_with_stderr(&settings, stderr);
            works(&node);
            // What waits for a reader that may come back is not lost yet.
            if matches!(broken, Broken::Closed | Broken::Full) || level == "trace" {
                eventually(|| (node.metric("millstream_log_lines_dropped_total") > 0.0).then_some(()));
            }
            assert_eq!(node.terminate(), Some(0), "{broken:?} at {level}");
        }
    }
}

#[test]
fn the_second_signal_does_not_wait_for_the_log() {
    let (stderr, _reader) = Broken::Stalled.stdio();
    let mut node = Node::start_with_stderr("[server]\ndrain_ms = 60000\n", stderr);
    let streams: Vec<_> = (0..20).map(|_| node.stream("/events", &[])).collect();
    node.signal(Signal::TERM);
    eventually(|| node.get("/readyz").text().contains("the node is stopping").then_some(()));
    node.signal(Signal::TERM);
    assert_eq!(node.exited(), Some(130));
    drop(streams);
}

/// A reader of stderr that reads again gets the stored lines, and one line in place of the missing ones.
#[test]
fn a_log_that_can_be_written_again_reports_the_number_of_missing_lines() {
    let (stderr, reader) = Broken::Stalled.stdio();
    let settings = "[telemetry]\nformat = \"json\"\nqueue_bytes = 65536\n";
    let mut node = Node::start_with_stderr(settings, stderr);
    while node.metric("millstream_log_lines_dropped_total") == 0.0 {
        node.publish("t", "e", &json!(1));
    }
    let mut reader = reader.expect("it stalls");
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    node.publish("t", "last", &json!(1));
    let lost = node.metric("millstream_log_lines_dropped_total");
    assert_eq!(node.terminate(), Some(0));
    let text = reading.join().expect("it reads").expect("it is text");
    let lines: Vec<Value> = text
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let notes = lines.iter().filter(|line| line["fields"]["message"] == "log lines were lost");
    let reported: f64 = notes.map(|line| line["fields"]["lines"].as_f64().expect("a number")).sum();
    assert!(reported >= lost && lost > 0.0, "{reported} of {lost} lines are accounted for");
    assert_eq!(lines.last().expect("there are lines")["fields"]["message"], "stopped");
}

/// Starts a node whose standard streams are these, on a port that was free a moment ago.
fn start(stdout: Stdio, stderr: Stdio, data: &std::path::Path) -> (Child, SocketAddr) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let mut program = Command::new(env!("CARGO_BIN_EXE_millstream"));
    program.args(["serve", "--listen", &free.to_string(), "--data-dir"]).arg(data);
    (program.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().expect("the binary starts"), free)
}

#[test]
fn a_node_whose_stdout_takes_nothing_serves_all_the_same() {
    for broken in Broken::ALL {
        let dir = tempfile::tempdir().expect("a temp directory");
        let ((stdout, _out), (stderr, _err)) = (broken.stdio(), broken.stdio());
        let (mut child, addr) = start(stdout, stderr, dir.path());
        eventually(|| {
            assert_eq!(child.try_wait().expect("it is our child"), None, "{broken:?}: it has ended");
            let mut socket = TcpStream::connect(addr).ok()?;
            socket.set_read_timeout(Some(PATIENCE)).ok()?;
            write!(socket, "GET /readyz HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").ok()?;
            let mut text = String::new();
            socket.read_to_string(&mut text).ok()?;
            text.starts_with("HTTP/1.1 200").then_some(())
        });
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, Signal::TERM).expect("it is our child");
        let code = eventually(|| child.try_wait().expect("it is our child"));
        assert_eq!(code.code(), Some(0), "{broken:?}");
    }
}

/// The exit status reports the failure, also if the message cannot be written.
#[test]
fn a_command_that_fails_has_its_exit_status_whatever_stderr_does() {
    let cases: [(&[&str], i32); 5] = [
        (&["serve", "--config", "/nowhere.toml"], 64),
        (&["serve", "--listen", "256.0.0.1:1"], 64),
        (&["publish", "--url", "http://127.0.0.1:1", "t", "1"], 1),
        (&["journal", "verify", "--data-dir", "/nowhere"], 64),
        (&["check-config", "--log", "a=b=c"], 64),
    ];
    for (arguments, status) in cases {
        for broken in [Broken::Closed, Broken::Full] {
            let mut program = Command::new(env!("CARGO_BIN_EXE_millstream"));
            let ended = program.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(broken.stdio().0);
            assert_eq!(ended.status().expect("it runs").code(), Some(status), "{arguments:?} {broken:?}");
        }
    }
}

/// What `script` shows of a node on a terminal of its own.
fn on_a_terminal(variable: &str) -> Option<String> {
    let dir = tempfile::tempdir().expect("a temp directory");
    // The node ends at once: nothing can listen there.
    let command = format!(
        "{variable} {} serve --listen 192.0.2.1:1 --data-dir {}/data --log info",
        env!("CARGO_BIN_EXE_millstream"),
        dir.path().display()
    );
    let mut script = Command::new("script");
    script.args(["-qec", &command, "/dev/null"]).env("MILLSTREAM__ACCESS__ALLOW_OPEN", "true");
    let shown = script.env("TERM", "xterm").env_remove("NO_COLOR").stdin(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&shown.stdout).into_owned())
}

#[test]
fn colours_go_to_terminals_that_want_them() {
    let Some(shown) = on_a_terminal("") else {
        return crate::support::steady::skipped("colours", "there is no `script` here");
    };
    assert!(shown.contains("webhook off") && shown.contains('\u{1b}'), "{shown:?}");
    for variable in ["NO_COLOR=1", "TERM=dumb"] {
        let shown = on_a_terminal(variable).expect("it was there");
        assert!(shown.contains("webhook off") && !shown.contains('\u{1b}'), "{variable}: {shown:?}");
    }
    let shown = on_a_terminal("NO_COLOR=").expect("it was there");
    assert!(shown.contains('\u{1b}'), "an empty value counts as unset: {shown:?}");
}
