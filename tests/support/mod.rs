//! What the end-to-end tests share: the real binary as a process, and plain blocking sockets against it.
#![expect(dead_code, reason = "each test file uses its part")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Child,
    time::{Duration, Instant},
};

use serde_json::Value;

pub(crate) mod pipe;
mod raw;
pub(crate) mod routes;
mod sse;
pub(crate) mod steady;
pub(crate) mod swarm;
pub(crate) mod upstream;

#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use self::{
    raw::{assert_problem, assert_refused, until_idle},
    sse::{Event, Stream},
};

/// Longest wait for anything: far above what a loaded machine needs, far below what a hang takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node as a process of its own; killed when dropped.
pub(crate) struct Node {
    child: Child,
    pub addr: SocketAddr,
    /// Keeps the configuration and the log.
    dir: tempfile::TempDir,
    config: String,
}

/// An answer.
pub(crate) struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

// === impl Node ===

impl Node {
    /// Starts a node on a free port with the built-in configuration and these settings over it.
    pub(crate) fn start(settings: &str) -> Self {
        Self::launch(settings, "127.0.0.1:0", tempfile::tempdir().expect("a temp directory"))
    }

    /// Starts a node with only these settings; a restart also has the built-in ones.
    pub(crate) fn start_bare(settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temp directory");
        Self::begin_with(settings, settings, dir, |dir| steady::serve(dir, &dir.join("data"), "127.0.0.1:0"))
    }

    /// Starts a node with these variables in its environment, at each start.
    pub(crate) fn start_with_env(settings: &str, variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temp directory");
        let lines: Vec<String> = variables.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        std::fs::write(dir.path().join("environment"), lines.concat()).expect("write the environment");
        Self::launch(settings, "127.0.0.1:0", dir)
    }

    fn launch(settings: &str, listen: &str, dir: tempfile::TempDir) -> Self {
        Self::begin(settings, dir, |dir| steady::serve(dir, &dir.join("data"), listen))
    }

    fn begin(settings: &str, dir: tempfile::TempDir, serve: impl FnOnce(&Path) -> Child) -> Self {
        Self::begin_with(&merged(settings), settings, dir, serve)
    }

    fn begin_with(config: &str, settings: &str, dir: tempfile::TempDir, serve: impl FnOnce(&Path) -> Child) -> Self {
        std::fs::write(dir.path().join("config.toml"), config).expect("write the configuration");
        let mut child = serve(dir.path());
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line on stdout");
        let url = line.trim().strip_prefix("listening on ").and_then(|url| url.split_once("://"));
        let addr = url.and_then(|(_, addr)| addr.parse().ok());
        let Some(addr) = addr else {
            let _ = child.kill();
            let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            panic!("the node did not start: {line:?}\n{log}")
        };
        Self { child, addr, dir, config: settings.to_owned() }
    }

    /// Where its settings stand; to be changed before a SIGHUP.
    pub(crate) fn config_file(&self) -> std::path::PathBuf {
        self.dir().join("config.toml")
    }

    /// From the next start on it has these settings.
    pub(crate) fn configure(&mut self, settings: &str) {
        settings.clone_into(&mut self.config);
    }

    /// The directory of its configuration.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All log lines so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// All log lines so far, once these words stand in them: lines are written by a thread of their own.
    pub(crate) fn logged(&self, words: &str) -> String {
        eventually(|| Some(self.log()).filter(|log| log.contains(words)))
    }

    /// SIGKILL, and gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; the exit code.
    pub(crate) fn terminate(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.exited()
    }

    /// Waits for the end of the process; the exit code.
    pub(crate) fn exited(&mut self) -> Option<i32> {
        let exited = eventually(|| self.child.try_wait().expect("it is our child"));
        exited.code()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the process is ours");
    }

    /// Kills the node and starts it again on the same port with the same data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts a node that has ended again, on the same port with the same data.
    pub(crate) fn start_again(&mut self) {
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a temp directory"));
        *self = Self::launch(&self.config, &self.addr.to_string(), dir);
    }

    /// Memory of its own in bytes, without the pages of its program that happen to be read.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a Linux process");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("it has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// CPU time used so far.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a Linux process");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("it has fields").split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        Duration::from_millis(ticks * 10)
    }

    /// One request on a connection of its own.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
        let body = body.as_ref();
        let mut socket = self.socket();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.addr);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        socket.write_all(head.as_bytes()).expect("send the head");
        // The server may refuse a body before it has read it.
        let _ = socket.write_all(body);
        Reply::read(socket)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], "")
    }

    /// POST of JSON; the answer must be a success.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let reply = self.request("POST", path, &[("Content-Type", "application/json")], body.to_string());
        assert!(reply.status < 300, "POST {path}: {reply:?}");
        reply.json()
    }

    /// A request with a JSON body, whatever its answer.
    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> Reply {
        self.request(method, path, &[("Content-Type", "application/json")], body.to_string())
    }

    /// Publishes one event; its id.
    pub(crate) fn publish(&self, topic: &str, event: &str, data: &Value) -> String {
        let answer = self.post("/events", &serde_json::json!({ "topic": topic, "event": event, "data": data }));
        answer["id"].as_str().expect("an id").to_owned()
    }

    /// The node's figure of this name at `/metrics`, labels included in the name.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }

    /// A connected socket with a bound on reads and writes.
    pub(crate) fn socket(&self) -> TcpStream {
        let socket = TcpStream::connect(self.addr).expect("connect");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    /// Opens a stream with GET.
    pub(crate) fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Stream {
        Stream::open(self.socket(), "GET", path, headers, "")
    }

    /// Opens a stream with POST.
    pub(crate) fn post_stream(&self, path: &str, body: &Value) -> Stream {
        Stream::open(self.socket(), "POST", path, &[("Content-Type", "application/json")], &body.to_string())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the node\n{}", self.log());
        }
        let panicked = self.log().contains("panicked at");
        self.kill();
        assert!(!panicked || std::thread::panicking(), "the node panicked, see its log above");
    }
}

// === impl Reply ===

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: String = self.text().chars().take(2000).collect();
        write!(f, "{}{text}", self.head)
    }
}

impl Reply {
    pub(crate) fn read(mut socket: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A reset after the answer is the server's way to refuse the rest of a body.
        let _ = socket.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            sse::dechunk(&bytes[end..])
        } else {
            bytes[end..].to_vec()
        };
        Self { status, head, body }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The problem that it is, with this status; its detail.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("Content-Type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.header("X-Content-Type-Options"), Some("nosniff"), "{self:?}");
        let problem = self.json();
        assert_eq!((&problem["type"], &problem["status"]), (&"about:blank".into(), &status.into()), "{problem}");
        assert!(problem["title"].is_string(), "{problem}");
        assert_code(&problem);
        problem["detail"].as_str().expect("a problem has a detail").to_owned()
    }
}

/// A problem has a word for programs.
#[track_caller]
fn assert_code(problem: &Value) {
    let code = problem["code"].as_str().unwrap_or_default();
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    assert!(!code.is_empty() && code.chars().all(plain), "{problem}");
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim())
}

/// Asks again until there is an answer; panics when patience ends.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not happen within {PATIENCE:?}");
        #[expect(clippy::disallowed_methods, reason = "this is the polling with a deadline that the ban asks for")]
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The built-in configuration with these settings over it, section by section.
fn merged(settings: &str) -> String {
    let built_in: toml_text::Sections = toml_text::split(millstream::config::BUILT_IN);
    toml_text::over(built_in, toml_text::split(settings))
}

/// As much of TOML as it takes to lay one file's sections over another's: headers in brackets, keys one per line.
mod toml_text {
    pub(super) type Sections = Vec<(String, Vec<String>)>;

    pub(super) fn split(text: &str) -> Sections {
        let mut sections: Sections = vec![(String::new(), Vec::new())];
        for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if line.starts_with('[') {
                sections.push((line.to_owned(), Vec::new()));
            } else {
                sections.last_mut().expect("never empty").1.push(line.to_owned());
            }
        }
        sections
    }

    pub(super) fn over(mut base: Sections, top: Sections) -> String {
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        for (header, lines) in top {
            match base.iter_mut().find(|(own, _)| *own == header && !header.starts_with("[[")) {
                Some((_, own)) => {
                    own.retain(|line| !lines.iter().any(|new| key(new) == key(line)));
                    own.extend(lines);
                }
                None => base.push((header, lines)),
            }
        }
        let sections = base.into_iter().map(|(header, lines)| [vec![header], lines].concat().join("\n"));
        sections.collect::<Vec<String>>().join("\n")
    }
}
