//! A reverse proxy between two nodes that can take header fields out of the requests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Mutex},
};

use super::upstream::Upstream;

/// Passes each request on to one address; that may be known later than its own.
pub struct Pipe {
    pub upstream: Upstream,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

/// The fields in which the way of a request can stand.
pub const WAY: &[&str] = &["via", "cdn-loop", "forwarded", "x-forwarded-for"];

// === impl Pipe ===

impl Pipe {
    /// A proxy that takes these fields out.
    pub fn start(stripped: &'static [&'static str]) -> Self {
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

    pub fn lead_to(&self, addr: SocketAddr) {
        *self.target.lock().expect("no panic while it is held") = Some(addr);
    }
}
