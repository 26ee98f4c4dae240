//! Connections that send no request, or only a part of its head.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use crate::{clock::pause, target::Target};

/// Connections that are checked at once. A pause follows, so that the checks cost little.
const AT_ONCE: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Connections that stay open. One that the node closes is opened again.
pub(super) struct UnfinishedRequests {
    stop: Arc<AtomicBool>,
    keeper: JoinHandle<Result<u64, String>>,
}

// === impl UnfinishedRequests ===

impl UnfinishedRequests {
    /// Opens connections.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(super) fn connect(target: &Target, count: u32) -> Result<Self, String> {
        let addr = target.addr;
        let mut sockets = (0..count).map(|index| open(addr, index)).collect::<Result<Vec<_>, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let keeper = std::thread::spawn(move || {
            let mut reopened = 0;
            while !stopped.load(Relaxed) {
                for (part, sockets) in sockets.chunks_mut(AT_ONCE).enumerate() {
                    for (index, socket) in sockets.iter_mut().enumerate().filter(|(_, socket)| is_closed(socket)) {
                        *socket = open(addr, u32::try_from(part * AT_ONCE + index).unwrap_or_default())?;
                        reopened += 1;
                    }
                    pause(PAUSE);
                }
            }
            Ok(reopened)
        });
        Ok(Self { stop, keeper })
    }

    /// Closes all; gives the number of those that were opened again.
    ///
    /// # Errors
    /// When one could not be opened again.
    pub(super) fn finish(self) -> Result<u64, String> {
        self.stop.store(true, Relaxed);
        self.keeper.join().map_err(|_| "the thread of the connections panicked".to_owned())?
    }
}

/// Every other connection sends a part of a head.
fn open(addr: SocketAddr, index: u32) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| format!("connection {index} without a request: {error}");
    let mut socket = TcpStream::connect(addr).map_err(failed)?;
    if index % 2 == 1 {
        write!(socket, "GET /events HTTP/1.1\r\nHost: {addr}\r\nX-Unfinished: ").map_err(failed)?;
    }
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

/// True if the node has answered or closed it.
fn is_closed(mut socket: &TcpStream) -> bool {
    !matches!(socket.read(&mut [0; 512]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}
