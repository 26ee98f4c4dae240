//! Many event streams at once on one thread, read line by line.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// One stream of a swarm.
pub(crate) struct Reader {
    lines: BufReader<TcpStream>,
    line: Vec<u8>,
    /// The id of the last event.
    pub id: String,
    /// The last `retry:`.
    pub retry: Option<u64>,
    /// The chunk that ends a response has come.
    pub finished: bool,
}

/// The events that a swarm's stream received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    pub event: String,
    pub data: String,
}

/// Runs a future on a runtime of its own, bounded in time.
pub(crate) fn run<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(limit, future).await.expect("the swarm is done in time") })
}

/// Does the same for each number below `count`, all at once; the results in order.
pub(crate) async fn all<T: 'static, F: Future<Output = T> + 'static>(
    count: usize,
    make: impl Fn(usize) -> F,
) -> Vec<T> {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let tasks: Vec<_> = (0..count).map(|index| tokio::task::spawn_local(make(index))).collect();
            let mut results = Vec::with_capacity(count);
            for task in tasks {
                results.push(task.await.expect("no panic"));
            }
            results
        })
        .await
}

// === impl Reader ===

impl Reader {
    /// Connects, asks for a stream and takes the response head, which must be a 200.
    pub(crate) async fn open(addr: SocketAddr, path: &str, last_event_id: Option<&str>) -> io::Result<Self> {
        let mut socket = TcpStream::connect(addr).await?;
        let resume = last_event_id.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nAccept: text/event-stream\r\n{resume}\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut reader = Self {
            lines: BufReader::with_capacity(4096, socket),
            line: Vec::new(),
            id: String::new(),
            retry: None,
            finished: false,
        };
        let status = reader.line().await?.unwrap_or_default();
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("the answer is {status:?}")));
        }
        while reader.line().await?.is_some_and(|line| !line.is_empty()) {}
        Ok(reader)
    }

    /// The next event; `None` when the stream is over. Each frame is one chunk, so lines of the framing never stand
    /// inside an event.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Received>> {
        let mut received = Received::default();
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            if let Some(id) = line.strip_prefix("id: ") {
                id.clone_into(&mut self.id);
            } else if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut received.event);
            } else if let Some(data) = line.strip_prefix("data: ") {
                data.clone_into(&mut received.data);
            } else if let Some(ms) = line.strip_prefix("retry: ") {
                self.retry = ms.parse().ok();
            } else if line.is_empty() && !received.data.is_empty() {
                return Ok(Some(received));
            } else if line == "0" {
                self.finished = true;
                return Ok(None);
            }
        }
    }

    /// Skips to the next event of this name; an error when the stream ends before.
    pub(crate) async fn until(&mut self, name: &str) -> io::Result<Received> {
        while let Some(received) = self.next().await? {
            if received.event == name {
                return Ok(received);
            }
        }
        Err(io::Error::other(format!("the stream ended before `{name}`")))
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        self.line.clear();
        if self.lines.read_until(b'\n', &mut self.line).await? == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(&self.line).map_err(io::Error::other)?;
        Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
    }
}
