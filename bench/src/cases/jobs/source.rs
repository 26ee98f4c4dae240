//! What the tasks ask: a server that answers each GET with the same small JSON and keeps the connection.
//!
//! One thread for all connections: it must cost less than those who are measured.

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
pub struct Source {
    pub addr: SocketAddr,
    counts: Arc<Counts>,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub struct Counts {
    connections: AtomicU64,
    answered: AtomicU64,
}

/// All connect at the same moment, and whoever finds no room tries again only after a second.
const BACKLOG: u32 = 4096;

/// Longest request head; none here comes near.
const HEAD_MAX: usize = 16 << 10;

/// About 200 bytes, as a service would answer.
const BODY: &str = r#"{"id":"order-4711","status":"shipped","items":[{"sku":"A-100","count":2},{"sku":"B-205","count":1}],"total":{"amount":129.5,"currency":"EUR"},"carrier":"post","eta":"2026-11-24","note":"leave at the door"}"#;

// === impl Source ===

impl Source {
    /// # Errors
    /// When there is no port for it.
    pub fn start() -> Result<Self, String> {
        let failed = |error: io::Error| format!("no port for the source: {error}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listen = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            socket.listen(BACKLOG)
        };
        let listener = runtime.block_on(listen).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let counts = Arc::<Counts>::default();
        let source = Self { addr, counts: counts.clone() };
        let answer: Arc<str> = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{BODY}",
            BODY.len()
        )
        .into();
        thread::spawn(move || {
            runtime.block_on(async move {
                while let Ok((socket, _)) = listener.accept().await {
                    counts.connections.fetch_add(1, Relaxed);
                    // Who leaves has had enough.
                    tokio::spawn(serve(socket, answer.clone(), counts.clone()));
                }
            });
        });
        Ok(source)
    }

    /// Requests that were answered so far.
    pub fn answered(&self) -> u64 {
        self.counts.answered.load(Relaxed)
    }

    /// Connections that were made so far.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(Relaxed)
    }
}

async fn serve(mut socket: TcpStream, answer: Arc<str>, counts: Arc<Counts>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    while head.len() < HEAD_MAX && socket.read_buf(&mut head).await? > 0 {
        // Those who are measured send no body and wait for the answer before they send again.
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
    fn one_connection_has_many_answers() {
        let source = Source::start().unwrap();
        let mut socket = std::net::TcpStream::connect(source.addr).unwrap();
        for number in 1..=3 {
            socket.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(BODY.as_bytes()) {
                let mut chunk = [0; 1024];
                let read = socket.read(&mut chunk).unwrap();
                assert!(read > 0, "it has left");
                answer.extend_from_slice(&chunk[..read]);
            }
            assert_eq!((source.connections(), source.answered()), (1, number));
        }
        assert!(serde_json::from_str::<serde_json::Value>(BODY).is_ok() && (190..=210).contains(&BODY.len()));
    }
}
