//! Servers whose bytes the test determines.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::timeout,
};

use crate::upstream::{Client, Config, Method, Request, Trust};

/// Limit that only a failing test reaches.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a port of its own that lives as long as the test's runtime.
pub(super) struct Upstream {
    pub addr: SocketAddr,
    seen: Arc<Seen>,
}

/// The connections and requests of a server.
#[derive(Default)]
pub(super) struct Seen {
    accepted: AtomicUsize,
    requests: Mutex<Vec<String>>,
    closed: Notify,
    /// The signal of the test for which a script waits.
    pub cue: Notify,
}

/// The reaction of a server to one request.
#[derive(Clone)]
pub(super) struct Step {
    bytes: Vec<u8>,
    then: Then,
}

/// The state of the connection after the bytes are sent.
#[derive(Clone, Copy)]
enum Then {
    /// The server reads the next request.
    Serve,
    Close,
    /// The server resets the connection at the signal of the test.
    ResetOnCue,
    /// The server sends no more bytes and waits until the client closes.
    Hold,
}

// === impl Step ===

impl Step {
    fn new(bytes: impl Into<Vec<u8>>, then: Then) -> Self {
        Self { bytes: bytes.into(), then }
    }

    /// Sends the bytes, and reads the next request.
    pub(super) fn serve(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(bytes, Then::Serve)
    }

    /// Sends the bytes, and closes.
    pub(super) fn close(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(bytes, Then::Close)
    }

    /// Sends the bytes, waits for the signal, and resets the connection.
    pub(super) fn reset_on_cue(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(bytes, Then::ResetOnCue)
    }

    /// Sends the bytes, and keeps the connection open.
    pub(super) fn hold(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(bytes, Then::Hold)
    }
}

impl Upstream {
    /// Takes the next step for each request, on any connection. The last step repeats.
    pub(super) async fn steps<const N: usize>(steps: [Step; N]) -> Self {
        Self::steps_on(listener().await, steps)
    }

    /// Takes the next step for each request, on the listener of the test.
    pub(super) fn steps_on<const N: usize>(listener: TcpListener, steps: [Step; N]) -> Self {
        let script = Arc::new((steps, AtomicUsize::new(0)));
        Self::serve(listener, move |mut stream, seen| {
            let script = script.clone();
            async move {
                let (steps, taken) = &*script;
                while seen.request(&mut stream).await {
                    let Step { bytes, then } = &steps[taken.fetch_add(1, Ordering::SeqCst).min(N - 1)];
                    if stream.write_all(bytes).await.is_err() {
                        return;
                    }
                    match then {
                        Then::Serve => {}
                        Then::Close => return,
                        Then::ResetOnCue => {
                            seen.cue.notified().await;
                            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                            return;
                        }
                        Then::Hold => return seen.watch(&mut stream).await,
                    }
                }
            }
        })
    }

    /// Runs `script` for each connection.
    pub(super) async fn run<F>(script: fn(TcpStream, Arc<Seen>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::serve(listener().await, script)
    }

    /// Responds to the first request of each connection with these bytes, and closes.
    pub(super) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        Self::steps([Step::close(answer)]).await
    }

    fn serve<F>(listener: TcpListener, script: impl Fn(TcpStream, Arc<Seen>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let addr = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Seen::default());
        let noted = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                noted.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(stream, noted.clone()));
            }
        });
        Self { addr, seen }
    }

    /// Responds with a redirect.
    pub(super) async fn redirecting(status: u16, target: &str) -> Self {
        Self::answering(format!("HTTP/1.1 {status} Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n")).await
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Number of connections so far.
    pub(super) fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// The requests so far, head and body.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.requests()
    }

    /// Sends the signal for which a script waits.
    pub(super) fn cue(&self) {
        self.seen.cue.notify_one();
    }

    /// Waits until the client has closed a connection that a script watches.
    pub(super) async fn closed(&self) {
        timeout(PATIENCE, self.seen.closed.notified()).await.expect("the client must close the connection");
    }
}

impl Seen {
    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no test panics with it").clone()
    }

    /// Reads a request with its body and stores it; false if the client has closed.
    pub(super) async fn request(&self, stream: &mut TcpStream) -> bool {
        let mut read = Vec::new();
        loop {
            if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&read[..end]).into_owned();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if read.len() >= end + 4 + length.unwrap_or(0) {
                    let whole = String::from_utf8_lossy(&read).into_owned();
                    self.requests.lock().expect("no test panics with it").push(whole);
                    return true;
                }
            }
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
    }

    /// Waits until the client closes, and notifies the test.
    pub(super) async fn watch(&self, stream: &mut TcpStream) {
        let mut rest = [0; 64];
        while matches!(stream.read(&mut rest).await, Ok(n) if n > 0) {}
        self.closed.notify_one();
    }
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("a free port")
}

/// A client whose guard permits these entries.
pub(super) fn client(allow: &[&str]) -> Client {
    client_with(allow, Config::default())
}

/// A client with these settings whose guard permits these entries.
pub(super) fn client_with(allow: &[&str], config: Config) -> Client {
    let allow = allow.iter().map(|entry| entry.parse().expect("a valid entry")).collect();
    Client::new(Config { allow, ..config })
}

/// A GET of a URL from the configuration.
pub(super) fn get(url: impl Into<String>) -> Request {
    Request { head_timeout: PATIENCE, ..Request::new(Method::GET, url, Trust::Operator) }
}

/// A GET of a URL from a client.
pub(super) fn guarded(url: impl Into<String>) -> Request {
    Request { trust: Trust::Client, ..get(url) }
}
