//! A blocking reader of event streams, down to the chunks.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use millstream::sse::{Decoder, Item, Limits};
use serde_json::Value;

/// An event as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// The id of this event's own block; empty for control frames but the first.
    pub id: String,
    pub event: String,
    pub data: String,
}

/// An open stream.
pub(crate) struct Stream {
    pub socket: TcpStream,
    pub head: String,
    pub status: u16,
    raw: Vec<u8>,
    decoder: Decoder,
    events: VecDeque<Event>,
    /// The last chunk, the one of length zero, has come: the stream ended well.
    pub finished: bool,
    closed: bool,
    /// The last `retry:` that came.
    pub retry: Option<u64>,
    pub comments: u64,
}

// === impl Event ===

impl Event {
    /// True for what a publisher sent through the journal, as opposed to frames of the stream itself.
    pub(crate) fn is_own(&self) -> bool {
        !self.id.is_empty() && self.event != "connection"
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

// === impl Stream ===

impl Stream {
    pub(crate) fn open(socket: TcpStream, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Self {
        Self::try_open(socket, method, path, headers, body).expect("a response head")
    }

    /// Opens a stream of a node that may end meanwhile.
    pub(crate) fn try_open(
        mut socket: TcpStream,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> io::Result<Self> {
        let host = socket.peer_addr()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if method != "GET" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        socket.write_all(format!("{head}\r\n{body}").as_bytes())?;
        Self::read_head(socket)
    }

    fn read_head(mut socket: TcpStream) -> io::Result<Self> {
        let mut raw = Vec::new();
        let mut byte = [0];
        while !raw.ends_with(b"\r\n\r\n") {
            if socket.read(&mut byte)? == 0 {
                return Err(io::Error::other(format!("closed before the head: {raw:?}")));
            }
            raw.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&raw).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(Self {
            socket,
            head,
            status,
            raw: Vec::new(),
            decoder: Decoder::new(Limits::default()),
            events: VecDeque::new(),
            finished: false,
            closed: false,
            retry: None,
            comments: 0,
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        super::header(&self.head, name)
    }

    /// The next event within `wait`; `None` when none came or the stream is over (see [`Self::over`]).
    pub(crate) fn next_within(&mut self, wait: Duration) -> Option<Event> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.closed || left.is_zero() {
                return None;
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).expect("a timeout");
            self.pull();
        }
    }

    /// The next event; panics when none comes.
    pub(crate) fn next(&mut self) -> Event {
        self.next_within(super::PATIENCE).unwrap_or_else(|| panic!("no event came; finished: {}", self.finished))
    }

    /// The next event that is not a control frame.
    pub(crate) fn next_own(&mut self) -> Event {
        loop {
            let event = self.next();
            if event.is_own() {
                return event;
            }
        }
    }

    /// Skips events until one has this name.
    pub(crate) fn until(&mut self, name: &str) -> Event {
        loop {
            let event = self.next();
            if event.event == name {
                return event;
            }
        }
    }

    /// All events until the stream is over.
    pub(crate) fn rest(&mut self) -> Vec<Event> {
        let deadline = Instant::now() + super::PATIENCE * 3;
        let mut events = Vec::new();
        while !self.over() {
            assert!(Instant::now() < deadline, "the stream does not end; {} events so far", events.len());
            events.extend(self.next_within(Duration::from_millis(100)));
        }
        events
    }

    /// True once the server has closed the connection or ended the response, and all events were taken.
    pub(crate) fn over(&self) -> bool {
        self.events.is_empty() && (self.closed || self.finished)
    }

    fn pull(&mut self) {
        let mut buffer = [0; 65536];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.closed = true,
            Ok(count) => self.raw.extend_from_slice(&buffer[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => self.closed = true,
        }
        let chunked = self.head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { self.take_chunks() } else { std::mem::take(&mut self.raw) };
        let (events, retry, comments) = (&mut self.events, &mut self.retry, &mut self.comments);
        let each = |item: Item<'_>| match item {
            Item::Event { event, data, id, own_id } => events.push_back(Event {
                id: if own_id { id.to_owned() } else { String::new() },
                event: event.to_owned(),
                data: data.to_owned(),
            }),
            Item::Retry(ms) => *retry = Some(ms),
            Item::Id(_) => {}
            Item::Comment(_) => *comments += 1,
        };
        self.decoder.push(&body, each).expect("within the limits");
    }

    /// Takes whole chunks from the received bytes.
    fn take_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut at = 0;
        while let Some(line) = self.raw[at..].windows(2).position(|window| window == b"\r\n") {
            let text = std::str::from_utf8(&self.raw[at..at + line]).expect("a chunk size");
            let size = usize::from_str_radix(text.trim(), 16).expect("a chunk size");
            let start = at + line + 2;
            if self.raw.len() < start + size + 2 {
                break;
            }
            if size == 0 {
                self.finished = true;
            }
            body.extend_from_slice(&self.raw[start..start + size]);
            at = start + size + 2;
        }
        self.raw.drain(..at);
        body
    }
}

/// The content of a complete chunked body.
pub(super) fn dechunk(mut raw: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = raw.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&raw[..line]).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let Some(size) = size.filter(|size| *size > 0 && raw.len() >= line + 2 + size) else { break };
        body.extend_from_slice(&raw[line + 2..line + 2 + size]);
        raw = raw.get(line + 2 + size + 2..).unwrap_or_default();
    }
    body
}
