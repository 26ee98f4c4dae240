//! For tests in which nodes die: clients that take a missing answer for what it is, and starts that are cut short.

use std::{
    fs::File,
    io::Write,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{Node, PATIENCE, Reply, Stream};

// === impl Node ===

impl Node {
    /// Starts a node whose data directory is somewhere else.
    pub(crate) fn start_on(data: &Path, settings: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temp directory");
        std::os::unix::fs::symlink(data, dir.path().join("data")).expect("a link");
        Self::launch(settings, "127.0.0.1:0", dir)
    }

    /// Starts a node with another stderr than its log.
    pub(crate) fn start_with_stderr(settings: &str, stderr: Stdio) -> Self {
        let dir = tempfile::tempdir().expect("a temp directory");
        Self::begin(settings, dir, |dir| serve_with(dir, &dir.join("data"), "127.0.0.1:0", stderr))
    }

    /// Starts a node with this limit of open files.
    pub(crate) fn start_with_files(limit: u64) -> Self {
        let dir = tempfile::tempdir().expect("a temp directory");
        Self::begin("", dir, |dir| {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_millstream")]);
            shell.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(dir.join("config.toml"));
            shell.arg("--data-dir").arg(dir.join("data")).stdin(Stdio::null()).stdout(Stdio::piped());
            shell.stderr(File::create(dir.join("log")).expect("a log")).spawn().expect("the shell starts")
        })
    }

    /// Where its journal is.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts a node that has ended again, and kills it after this time, most likely before it listens.
    pub(crate) fn die_starting(&self, after: Duration) {
        let mut child = serve(self.dir.path(), &self.data_dir(), &self.addr.to_string());
        let begin = Instant::now();
        while begin.elapsed() < after {
            std::hint::spin_loop();
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Text of this number of bytes that cannot be compressed: its repetitions are farther apart than the window.
pub(crate) fn noise(bytes: usize) -> String {
    let piece = bytes.min(100_000);
    let piece: String = std::iter::repeat_with(|| char::from(rand::random_range(b'0'..=b'z'))).take(piece).collect();
    let mut text = piece.repeat(bytes / piece.len().max(1) + 1);
    text.truncate(bytes);
    text
}

/// Prints, without the capture of the test harness, that a test shows nothing here.
pub(crate) fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED {test}: {why} ***");
}

/// Starts the program with the configuration and the log in `dir`.
pub(crate) fn serve(dir: &Path, data: &Path, listen: &str) -> Child {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("open the log");
    serve_with(dir, data, listen, log.into())
}

/// Starts a node with another stderr.
pub(crate) fn serve_with(dir: &Path, data: &Path, listen: &str, stderr: Stdio) -> Child {
    let environment = std::fs::read_to_string(dir.join("environment")).unwrap_or_default();
    Command::new(env!("CARGO_BIN_EXE_millstream"))
        .envs(environment.lines().filter_map(|line| line.split_once('=')))
        .args(["serve", "--listen", listen, "--config"])
        .arg(dir.join("config.toml"))
        .arg("--data-dir")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .expect("the binary starts")
}

/// What may come of a request to a node that may be gone.
pub(crate) enum Asked {
    /// It has answered, whole.
    Answered(Reply),
    /// No server listened: it was not sent.
    Unsent,
    /// It was sent, and its result is unknown.
    Lost,
}

/// One request to a node that may be gone.
pub(crate) fn ask(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Asked {
    let Some(mut socket) = socket(addr) else { return Asked::Unsent };
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    if socket.write_all(request.as_bytes()).is_err() {
        return Asked::Lost;
    }
    let reply = Reply::read(socket);
    let length = reply.header("Content-Length").and_then(|length| length.parse::<usize>().ok());
    if reply.status > 0 && length == Some(reply.body.len()) { Asked::Answered(reply) } else { Asked::Lost }
}

/// A stream of a node that may be gone; only one that is a stream.
pub(crate) fn listen(addr: SocketAddr, path: &str, last_event_id: Option<&str>) -> Option<Stream> {
    let resume: Vec<_> = last_event_id.map(|id| ("Last-Event-ID", id)).into_iter().collect();
    let stream = Stream::try_open(socket(addr)?, "GET", path, &resume, "").ok()?;
    (stream.status == 200).then_some(stream)
}

/// From its own address. A client that tries a port of this machine again and again without a listener finally gets
/// that port for its own side, and blocks it for the node.
fn socket(addr: SocketAddr) -> Option<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).ok()?;
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).ok()?;
    socket.connect(&addr.into()).ok()?;
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(socket)
}
