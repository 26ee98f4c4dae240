//! Requests as bytes, for what no well-behaved client would send.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{Node, PATIENCE, Reply, eventually};

// === impl Node ===

impl Node {
    /// Sends these bytes on a new connection and reads one response up to the end of its framing; of an event stream
    /// only the head. Status 0: closed without a response.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> Reply {
        let bytes = bytes.as_ref();
        let mut socket = self.socket();
        let mut sending = socket.try_clone().expect("a second handle");
        std::thread::scope(|scope| {
            // Beside the reading: the server may answer, and stop reading, before it has seen everything.
            scope.spawn(move || sending.write_all(bytes));
            let reply = answer(&mut socket);
            let _ = socket.shutdown(std::net::Shutdown::Both);
            reply
        })
    }

    /// A GET with these raw header lines (each with its line end).
    pub(crate) fn raw_get(&self, path: &str, lines: impl AsRef<[u8]>) -> Reply {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.addr);
        self.raw([head.as_bytes(), lines.as_ref(), b"\r\n"].concat())
    }

    /// POST of bytes that claim to be JSON.
    pub(crate) fn raw_post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        let body = body.as_ref();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
            self.addr
        );
        self.raw([head.as_bytes(), body].concat())
    }

    /// A connected socket with a small receive buffer, and packets as small as on a real network: on the loopback's
    /// large ones a small window stalls for reasons of its own.
    pub(crate) fn tight_socket(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(8192).expect("an option");
        socket.set_tcp_mss(1400).expect("an option");
        socket.connect(&self.addr.into()).expect("connect");
        let socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }

    /// Fails unless the node is well: it answers, serves a stream, and takes an event to it.
    pub(crate) fn must_be_healthy(&self) {
        eventually(|| (self.get("/readyz").status == 200).then_some(()));
        let mut stream = self.stream("/events?topic=health", &[]);
        stream.until("connection");
        let id = self.publish("health", "check", &serde_json::json!("well"));
        assert_eq!(stream.until("check").id, id);
        assert!(!self.log().contains("panicked at"), "the node panicked");
    }

    /// Open streams in the status.
    pub(crate) fn streams(&self) -> u64 {
        self.get("/api/sse/managed/status").json()["totalEmitters"].as_u64().expect("a count")
    }

    /// Time until the status has this number of streams.
    pub(crate) fn until_streams(&self, count: u64) -> Duration {
        let begin = Instant::now();
        eventually(|| (self.streams() == count).then_some(()));
        begin.elapsed()
    }

    /// A figure that is a whole number; its name without the prefix.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let value = self.metric(&format!("millstream_{name}"));
        format!("{value}").parse().unwrap_or_else(|_| panic!("{name} = {value} is no count"))
    }

    /// Streams closed for this reason.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.count(&format!("streams_closed_total{{reason=\"{reason}\"}}"))
    }

    /// CPU time that the node uses in the time from now.
    pub(crate) fn cpu_over(&self, window: Duration) -> Duration {
        let (begin, before) = (Instant::now(), self.cpu());
        eventually(|| (begin.elapsed() >= window).then_some(()));
        self.cpu().saturating_sub(before)
    }
}

/// Waits until each of these takes less than a fifth of a core over a second: what they had to do has come to an end.
pub(crate) fn until_idle(nodes: &[Node]) {
    let most = Duration::from_millis(200);
    eventually(|| {
        let (begin, before) = (Instant::now(), nodes.iter().map(Node::cpu).collect::<Vec<_>>());
        eventually(|| (begin.elapsed() >= Duration::from_secs(1)).then_some(()));
        let used = nodes.iter().zip(before).map(|(node, before)| node.cpu().saturating_sub(before));
        (used.max() < Some(most)).then_some(())
    });
}

/// The refusal is a problem with a text.
pub(crate) fn assert_problem(what: &str, reply: &Reply, statuses: &[u16]) {
    assert!(statuses.contains(&reply.status), "{what}: {statuses:?} expected, {reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{what}: {reply:?}");
    let problem = reply.json();
    assert_eq!(problem["status"], reply.status, "{what}: {reply:?}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{what}: {reply:?}");
    super::assert_code(&problem);
}

/// The framework's parser rejects invalid HTTP before there is a request: without a body, and the connection ends.
pub(crate) fn assert_refused(what: &str, reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{what}: {reply:?}");
}

/// Reads one response; interim ones are skipped.
fn answer(socket: &mut TcpStream) -> Reply {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n").map(|at| at + 4) {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            if status == 100 {
                bytes.drain(..end);
                continue;
            }
            let reply = Reply { status, head, body: bytes[end..].to_vec() };
            let whole = match reply.header("content-length") {
                Some(length) => reply.body.len() >= length.parse::<usize>().expect("a length"),
                None if reply.header("content-type") == Some("text/event-stream") => true,
                None => reply.body.ends_with(b"0\r\n\r\n"),
            };
            if whole {
                return reply;
            }
        }
        assert!(Instant::now() < deadline, "no answer in time, only {:?}", String::from_utf8_lossy(&bytes));
        let mut buffer = [0; 16384];
        match socket.read(&mut buffer) {
            Ok(0) => return closed(&bytes),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => return closed(&bytes),
        }
    }
}

/// The bytes received until the connection closed.
fn closed(bytes: &[u8]) -> Reply {
    let end = find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Reply { status, head, body: bytes[end..].to_vec() }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
