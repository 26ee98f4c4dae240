//! A node behind nginx with `config/nginx.conf`: nothing is held back, nothing is lost, and who leaves is noticed.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::json;

mod support;

use support::{Node, PATIENCE, eventually, steady::skipped};

const SAMPLE: &str = include_str!("../config/nginx.conf");

/// nginx in front of a node; gone when dropped.
struct Nginx {
    child: Child,
    tls: SocketAddr,
    plain: SocketAddr,
    _dir: tempfile::TempDir,
}

/// A request by curl through nginx, line by line as it comes.
struct Curl {
    child: Child,
    lines: Receiver<String>,
}

// === impl Nginx ===

impl Nginx {
    /// `None` where there is no nginx.
    fn start(node: &Node) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let (tls, plain) = (free(), free());
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (cert, key, config) =
            (dir.path().join("cert.pem"), dir.path().join("key.pem"), dir.path().join("nginx.conf"));
        fs::write(&cert, made.cert.pem()).expect("write");
        fs::write(&key, made.signing_key.serialize_pem()).expect("write");
        let mut text = SAMPLE.to_owned();
        for (sample, here) in [
            (
                "worker_processes auto;\nworker_rlimit_nofile 65536;",
                format!("worker_processes 1;\n{}", global(dir.path())),
            ),
            ("worker_connections 16384;", "worker_connections 256;".to_owned()),
            ("http {\n", format!("http {{\n{}", paths(dir.path()))),
            ("server 127.0.0.1:8090;", format!("server {};", node.addr)),
            ("listen 80;", format!("listen {plain};")),
            ("listen 443 ssl http2;", format!("listen {tls} ssl http2;")),
            ("/etc/nginx/tls/cert.pem", cert.display().to_string()),
            ("/etc/nginx/tls/key.pem", key.display().to_string()),
        ] {
            assert!(text.contains(sample), "config/nginx.conf has no `{sample}` any more");
            text = text.replacen(sample, &here, 1);
        }
        fs::write(&config, text).expect("write");
        let start = |program: &str| {
            let mut command = Command::new(program);
            command.arg("-p").arg(dir.path()).arg("-c").arg(&config).args(["-e", "stderr"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()
        };
        // Debian has it where only root looks.
        let child = start("nginx").or_else(|_| start("/usr/sbin/nginx")).ok()?;
        let mut nginx = Self { child, tls, plain, _dir: dir };
        eventually(|| {
            assert!(nginx.child.try_wait().expect("it is ours").is_none(), "nginx does not take config/nginx.conf");
            TcpStream::connect(tls).ok()
        });
        Some(nginx)
    }

    fn curl(&self, version: &str, path: &str, more: &[&str]) -> Curl {
        let url = format!("https://localhost:{}{path}", self.tls.port());
        let resolve = format!("localhost:{}:127.0.0.1", self.tls.port());
        let mut child = Command::new("curl")
            .args(["-sSNik", version, "--resolve", &resolve, "--max-time", "60", &url])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("curl is there");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (say, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Curl { child, lines }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Curl ===

impl Curl {
    /// The next line that begins so, without that beginning.
    fn until(&self, begin: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line that begins with `{begin}`"));
            if let Some(rest) = line.strip_prefix(begin) {
                return rest.to_owned();
            }
        }
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port")
}

/// One process, which is the test's child, and no files but in its directory.
fn global(dir: &Path) -> String {
    format!("daemon off;\nmaster_process off;\npid {}/pid;\nerror_log stderr crit;", dir.display())
}

fn paths(dir: &Path) -> String {
    let path = |what: &str| format!("    {what}_temp_path {}/{what};\n", dir.display());
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(path).concat();
    format!("    access_log off;\n{paths}")
}

const VERSIONS: [(&str, &str); 2] = [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")];

#[test]
fn events_come_through_nginx_at_once_and_are_resumed_and_who_leaves_is_noticed() {
    let node = Node::start("");
    let Some(nginx) = Nginx::start(&node) else {
        return skipped("tests/nginx.rs", "nginx is missing");
    };
    for (version, status) in VERSIONS {
        let stream = nginx.curl(version, "/events?topic=a", &["-H", "Accept: text/event-stream"]);
        stream.until(status);
        stream.until("event: connection");
        let began = Instant::now();
        let first = node.publish("a", "news", &json!("first"));
        stream.until("data: first");
        assert!(began.elapsed() < Duration::from_secs(5), "an event waits in nginx: {:?}", began.elapsed());
        drop(stream);
        eventually(|| (node.count("streams_open") == 0).then_some(()));
        let missed = node.publish("a", "news", &json!("missed"));
        let resume = format!("Last-Event-ID: {first}");
        let stream = nginx.curl(version, "/events?topic=a", &["-H", "Accept: text/event-stream", "-H", &resume]);
        assert_eq!(stream.until("id: "), first, "the frame `connection` has the position of the client");
        assert_eq!(stream.until("id: "), missed, "the first event of the second stream is the one that was missed");
        assert_eq!(stream.until("data: "), "missed");
    }
}

#[test]
fn other_requests_go_through_nginx_as_they_are() {
    let node = Node::start("");
    let Some(nginx) = Nginx::start(&node) else {
        return skipped("tests/nginx.rs", "nginx is missing");
    };
    for (version, status) in VERSIONS {
        let body = r#"{"topic":"b","event":"news","data":"through"}"#;
        let posted = nginx.curl(version, "/events", &["-H", "Content-Type: application/json", "-d", body]);
        posted.until(status);
        posted.until("{\"id\":");
        let large = format!("{{\"topic\":\"b\",\"data\":\"{}\"}}", "x".repeat(900_000));
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("body"), large).expect("write");
        let from = format!("@{}", dir.path().join("body").display());
        let posted = nginx.curl(version, "/events", &["-H", "Content-Type: application/json", "--data-binary", &from]);
        posted.until(status);
        let missing = nginx.curl(version, "/nowhere", &[]);
        missing.until(&status.replace("200", "404"));
    }
    let moved = Command::new("curl").args(["-sSi", &format!("http://{}/healthz", nginx.plain)]).output().expect("curl");
    assert!(String::from_utf8_lossy(&moved.stdout).starts_with("HTTP/1.1 301"));
    assert_eq!(node.get("/api/topics/b/events").json()["events"].as_array().map(Vec::len), Some(4));
}

#[test]
fn a_stream_may_be_silent_for_longer_than_nginx_waits_by_default() {
    let value = SAMPLE.lines().find_map(|line| line.trim().strip_prefix("proxy_read_timeout "));
    assert_eq!(value, Some("5m;"));
}
