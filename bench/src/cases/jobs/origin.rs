//! The origin of the tasks: a server that answers each GET with the same small JSON and keeps the connection.
//!
//! One thread serves all connections: the origin must cost less than its clients, which are measured.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

/// A server whose thread ends with the program.
#[derive(Debug)]
pub(super) struct Origin {
    pub addr: SocketAddr,
    counts: Arc<Counts>,
}

/// Totals so far.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    answered: AtomicU64,
}

/// All clients connect at the same moment. One that does not fit tries again only after a second.
const BACKLOG: u32 = 4096;

/// Longest request head; those of the tasks are much shorter.
const HEAD_MAX: usize = 16 << 10;

/// About 200 bytes, a typical response of a service.
const BODY: &str = r#"{"id":"order-4711","status":"shipped","items":[{"sku":"A-100","count":2},{"sku":"B-205","count":1}],"total":{"amount":129.5,"currency":"EUR"},"carrier":"post","eta":"2026-11-24","note":"leave at the door"}"#;

// === impl Origin ===

impl Origin {
    /// Listens on a free port of loopback.
    pub(super) fn start() -> Result<Self, String> {
        let failed = |error: io::Error| format!("no port for the origin: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listen = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            socket.listen(BACKLOG)
        };
        let listener = runtime.block_on(listen).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let counts = Arc::<Counts>::default();
        let origin = Self { addr, counts: counts.clone() };
        let answer: Arc<str> = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
            BODY.len()
        )
        .into();
        thread::spawn(move || {
            runtime.block_on(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    counts.connections.fetch_add(1, Relaxed);
                    // The end of a connection is no error.
                    tokio::spawn(serve(socket, answer.clone(), counts.clone()));
                }
            });
        });
        Ok(origin)
    }

    /// Answered requests so far.
    pub(super) fn answered(&self) -> u64 {
        self.counts.answered.load(Relaxed)
    }

    /// Accepted connections so far.
    pub(super) fn connections(&self) -> u64 {
        self.counts.connections.load(Relaxed)
    }
}

async fn serve(mut socket: TcpStream, answer: Arc<str>, counts: Arc<Counts>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    while head.len() < HEAD_MAX && socket.read_buf(&mut head).await? > 0 {
        // The clients send no body, and wait for the response before the next request.
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            counts.answered.fetch_add(1, Relaxed);
            socket.write_all(answer.as_bytes()).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn one_connection_gets_many_responses() {
        let origin = Origin::start().unwrap();
        let mut socket = std::net::TcpStream::connect(origin.addr).unwrap();
        for number in 1..=3 {
            socket.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(BODY.as_bytes()) {
                let mut chunk = [0; 1024];
                let read = socket.read(&mut chunk).unwrap();
                assert!(read > 0, "the origin closed the connection");
                answer.extend_from_slice(&chunk[..read]);
            }
            assert_eq!((origin.connections(), origin.answered()), (1, number));
        }
        assert!(serde_json::from_str::<serde_json::Value>(BODY).is_ok() && (190..=210).contains(&BODY.len()));
    }
}
