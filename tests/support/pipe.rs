//! Proxies before a node: one that can take header fields out of the requests, and one that resets its connections.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use socket2::SockRef;

use super::upstream::Upstream;

/// Passes each request on to one address; that may be known later than its own.
pub(crate) struct Pipe {
    pub upstream: Upstream,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

/// The fields in which the way of a request can stand.
pub(crate) const WAY: &[&str] = &["via", "cdn-loop", "forwarded", "x-forwarded-for"];

// === impl Pipe ===

impl Pipe {
    /// A proxy that takes these fields out.
    pub(crate) fn start(stripped: &'static [&'static str]) -> Self {
        let target = Arc::<Mutex<Option<SocketAddr>>>::default();
        let address = target.clone();
        let upstream = Upstream::start(move |request, socket| {
            let Some(address) = *address.lock().expect("no panic while it is held") else { return };
            let Ok(mut behind) = TcpStream::connect(address) else { return };
            let keeps = |line: &&str| {
                let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
                name != "connection" && !stripped.contains(&name.as_str())
            };
            let lines: Vec<&str> = request.head.trim_end().split("\r\n").filter(keeps).collect();
            let head = format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"));
            let sent = behind.write_all(head.as_bytes()).and_then(|()| behind.write_all(&request.body));
            let mut buffer = [0; 65536];
            while let (Ok(()), Ok(count @ 1..)) = (&sent, behind.read(&mut buffer)) {
                if socket.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
        Self { upstream, target }
    }

    pub(crate) fn lead_to(&self, addr: SocketAddr) {
        *self.target.lock().expect("no panic while it is held") = Some(addr);
    }
}

/// Passes a GET on, and of its answer as much as the first frame of a stream; then it waits to reset both connections.
pub(crate) struct Resetting {
    pub addr: SocketAddr,
    cue: Arc<(Mutex<bool>, Condvar)>,
}

// === impl Resetting ===

impl Resetting {
    pub(crate) fn start(node: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let cue = Arc::<(Mutex<bool>, Condvar)>::default();
        let given = cue.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let cue = given.clone();
                std::thread::spawn(move || {
                    let behind = TcpStream::connect(node).expect("the node listens");
                    first_frame(&client, &behind);
                    let (reset, changed) = &*cue;
                    let reset = reset.lock().expect("no panic while it is held");
                    drop(changed.wait_while(reset, |reset| !*reset).expect("no panic while it is held"));
                    for socket in [&client, &behind] {
                        SockRef::from(socket).set_linger(Some(Duration::ZERO)).expect("an option");
                    }
                });
            }
        });
        Self { addr, cue }
    }

    /// Resets all connections, and each later one behind its first frame.
    pub(crate) fn reset(&self) {
        *self.cue.0.lock().expect("no panic while it is held") = true;
        self.cue.1.notify_all();
    }
}

/// A connection that breaks early fails the test that waits for the frame.
fn first_frame(client: &TcpStream, behind: &TcpStream) {
    pass(client, behind, b"\r\n\r\n");
    // The frame ends with an empty line, and its chunk with a line end more.
    pass(behind, client, b"\n\n\r\n");
}

/// Passes bytes on until these have come, and none behind them.
fn pass(mut from: &TcpStream, mut to: &TcpStream, end: &[u8]) {
    let (mut come, mut buffer) = (Vec::new(), [0; 65536]);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let passed = come.len();
        come.extend_from_slice(&buffer[..count]);
        let last = come.windows(end.len()).position(|window| window == end).map(|at| at + end.len());
        if to.write_all(&come[passed..last.unwrap_or(come.len())]).is_err() || last.is_some() {
            return;
        }
    }
}
