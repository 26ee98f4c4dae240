//! What the tests of relays share: specs, histories, and upstreams that count.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use serde_json::{Value, json};

use crate::support::{
    Node, eventually,
    upstream::{Request, Upstream},
};

/// An event as a topic has it: name, data, upstream id.
pub(crate) type Row = (String, String, String);

pub(crate) const HEAD: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Settings of a node that reads `up`.
pub(crate) fn settings(up: SocketAddr) -> String {
    format!(
        "[relay]\ndefault_remote = \"up\"\ninitial_retry_ms = 20\nmax_retry_ms = 100\n\
         [remotes.up]\nbase_url = \"http://{up}\"\npaths = [\"/*\"]\nmax_connections = 4000\n"
    )
}

/// A node that reads this upstream.
pub(crate) fn node(upstream: &Upstream) -> Node {
    Node::start(&settings(upstream.addr))
}

/// Makes a relay; its id.
pub(crate) fn relay(node: &Node, spec: &Value) -> String {
    let created = node.post("/api/relays", spec);
    assert_eq!(created["status"], "running", "{created}");
    created["id"].as_str().expect("an id").to_owned()
}

/// Makes a relay of one source; its id.
pub(crate) fn relay_of(node: &Node, path: &str) -> String {
    relay(node, &json!({ "sources": [{ "path": path }] }))
}

pub(crate) fn view(node: &Node, id: &str) -> Value {
    let reply = node.get(&format!("/api/relays/{id}"));
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

/// Waits for the end of a relay; its status.
pub(crate) fn ended(node: &Node, id: &str) -> String {
    eventually(|| {
        let view = view(node, id);
        (view["status"] != "running").then(|| view["status"].as_str().expect("a status").to_owned())
    })
}

/// All that a topic keeps.
pub(crate) fn rows(node: &Node, topic: &str) -> Vec<Value> {
    let (mut rows, mut after) = (Vec::new(), String::new());
    loop {
        let page = node.get(&format!("/api/topics/{topic}/events?limit=1000{after}")).json();
        let events = page["events"].as_array().expect("a page").clone();
        let full = events.len() == 1000;
        rows.extend(events);
        if !full {
            return rows;
        }
        after = format!("&after={}", page["lastEventId"].as_str().expect("an id"));
    }
}

/// What of these came from a source.
pub(crate) fn relayed(rows: &[Value]) -> Vec<Row> {
    let text = |value: &Value| {
        value.as_str().map_or_else(|| if value.is_null() { String::new() } else { value.to_string() }, str::to_owned)
    };
    let own = rows.iter().filter(|row| row.get("source").is_some());
    own.map(|row| (text(&row["event"]), text(&row["data"]), text(row.get("origin").unwrap_or(&Value::Null)))).collect()
}

/// The data of all states of this name.
pub(crate) fn states(rows: &[Value], name: &str) -> Vec<Value> {
    let of = |row: &&Value| row["event"] == name && row.get("source").is_none();
    rows.iter().filter(of).map(|row| row["data"].clone()).collect()
}

/// The history of a relay that has ended.
pub(crate) fn history(node: &Node, id: &str) -> Vec<Value> {
    ended(node, id);
    eventually(|| {
        let rows = rows(node, &format!("relay:{id}"));
        rows.last().is_some_and(|row| row["event"] == "relay_end").then_some(rows)
    })
}

/// One chunk of a chunked body; false when the client has gone.
pub(crate) fn chunk(socket: &mut TcpStream, bytes: impl AsRef<[u8]>) -> bool {
    let bytes = bytes.as_ref();
    let framed = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    socket.write_all(&framed).is_ok()
}

/// The head and the whole body in one chunk.
pub(crate) fn stream(socket: &mut TcpStream, body: impl AsRef<[u8]>) {
    let _ = socket.write_all(HEAD.as_bytes());
    chunk(socket, body);
    finish(socket);
}

/// The end of a chunked body.
pub(crate) fn finish(socket: &mut TcpStream) {
    let _ = socket.write_all(b"0\r\n\r\n");
}

/// Closes with a reset.
pub(crate) fn reset(socket: &TcpStream) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_linger(Some(Duration::ZERO));
}

/// Waits a moment for the client; true when it has gone.
pub(crate) fn gone(socket: &mut TcpStream, wait: Duration) -> bool {
    let _ = socket.set_read_timeout(Some(wait));
    match socket.read(&mut [0; 64]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// The number after which a request continues.
pub(crate) fn after(request: &Request) -> usize {
    request.header("Last-Event-ID").and_then(|id| id.parse().ok()).unwrap_or(0)
}

/// The event of this number; the last one is called `done`.
pub(crate) fn numbered(number: usize, total: usize) -> String {
    let name = if number == total { "event: done\n" } else { "" };
    format!("id: {number}\n{name}data: n{number}\n\n")
}

/// What all numbers look like in a topic.
pub(crate) fn all_numbers(total: usize) -> Vec<Row> {
    let name = |number| if number == total { "done" } else { "message" };
    (1..=total).map(|number| (name(number).into(), format!("n{number}"), number.to_string())).collect()
}

/// An upstream whose streams stay open and bring what the test pours in.
pub(crate) struct Faucet {
    pub upstream: Upstream,
    level: Arc<AtomicUsize>,
    /// Streams opened and closed so far.
    pub opened: Arc<AtomicUsize>,
    pub closed: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

// === impl Faucet ===

impl Faucet {
    pub(crate) fn start() -> Self {
        let (level, opened, closed) =
            (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let done = Arc::<AtomicBool>::default();
        let (own_level, own_opened, own_closed, own_done) =
            (level.clone(), opened.clone(), closed.clone(), done.clone());
        let upstream = Upstream::start(move |request, socket| {
            own_opened.fetch_add(1, SeqCst);
            let _ = socket.write_all(HEAD.as_bytes());
            let mut at = after(request);
            loop {
                let over = own_done.load(SeqCst);
                let level = own_level.load(SeqCst);
                let events: String = (at..level).map(|number| numbered(number + 1, usize::MAX)).collect();
                at = at.max(level);
                if !events.is_empty() && !chunk(socket, events) {
                    break;
                }
                if over {
                    finish(socket);
                    break;
                }
                if gone(socket, Duration::from_millis(5)) {
                    break;
                }
            }
            own_closed.fetch_add(1, SeqCst);
        });
        Self { upstream, level, opened, closed, done }
    }

    /// Releases this number of further events.
    pub(crate) fn pour(&self, count: usize) {
        self.level.fetch_add(count, SeqCst);
    }

    /// Ends all streams in good order.
    pub(crate) fn end(&self) {
        self.done.store(true, SeqCst);
    }
}

/// Waits until a relay has this number of events.
pub(crate) fn events(node: &Node, id: &str, count: u64) {
    eventually(|| (view(node, id)["events"].as_u64() >= Some(count)).then_some(()));
}
