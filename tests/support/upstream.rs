//! A local HTTP upstream whose test defines the bytes and the moment of each response.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

/// Serves until dropped; one request per connection.
pub(crate) struct Upstream {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    over: Arc<AtomicBool>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    pub head: String,
    pub body: Vec<u8>,
}

// === impl Upstream ===

impl Upstream {
    /// Each request is answered by `answer` on a thread of its own; the connection ends with it.
    pub(crate) fn start(answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").expect("a free port"), answer)
    }

    /// An upstream on a port of the test's choice.
    pub(crate) fn start_on(
        listener: TcpListener,
        answer: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static,
    ) -> Self {
        let addr = listener.local_addr().expect("it is bound");
        let (seen, over) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicBool>::default());
        let (log, ended, answer) = (seen.clone(), over.clone(), Arc::new(answer));
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if ended.load(Relaxed) {
                    break;
                }
                let (log, answer) = (log.clone(), answer.clone());
                thread::spawn(move || {
                    let mut socket = socket;
                    let Some(request) = Request::read(&socket) else { return };
                    log.lock().expect("no thread panics with it").push(request.clone());
                    answer(&request, &mut socket);
                });
            }
        });
        Self { addr, seen, over }
    }

    /// An absolute URL of this upstream.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The setting that permits tasks to reach it.
    pub(crate) fn allowed(&self) -> String {
        format!("[egress]\nallow = [\"{}\"]\n", self.addr)
    }

    /// The requests for a path, so far.
    pub(crate) fn seen(&self, path: &str) -> Vec<Request> {
        self.seen
            .lock()
            .expect("no thread panics with it")
            .iter()
            .filter(|request| request.path == path)
            .cloned()
            .collect()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        // Wakes the listener, so that it sees that all is over.
        let _ = TcpStream::connect(self.addr);
    }
}

// === impl Request ===

impl Request {
    fn read(socket: &TcpStream) -> Option<Self> {
        let mut reader = BufReader::new(socket);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let length = super::header(&head, "Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        Some(Self { method, path, head, body })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        super::header(&self.head, name)
    }
}

/// Answers whole.
pub(crate) fn answer(socket: &mut TcpStream, status: &str, media: &str, body: impl AsRef<[u8]>) {
    let body = body.as_ref();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // The client may have gone; that is its right.
    let _ = socket.write_all(head.as_bytes()).and_then(|()| socket.write_all(body));
}

/// Answers JSON.
pub(crate) fn json(socket: &mut TcpStream, body: &serde_json::Value) {
    answer(socket, "200 OK", "application/json", body.to_string());
}

/// Never answers; returns when the client has given up.
pub(crate) fn silence(socket: &mut TcpStream) {
    let _ = socket.read(&mut [0]);
}
