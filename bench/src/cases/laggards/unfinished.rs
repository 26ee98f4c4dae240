//! Connections that begin no request, or never finish the head of one.

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

/// So many are looked after at once, with a pause behind them: looking after all must cost little.
const AT_ONCE: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Connections that are held open. One that the node gives up is made again.
pub struct Unfinished {
    stop: Arc<AtomicBool>,
    keeper: JoinHandle<Result<u64, String>>,
}

// === impl Unfinished ===

impl Unfinished {
    /// Makes so many.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn connect(target: &Target, count: u32) -> Result<Self, String> {
        let addr = target.addr;
        let mut sockets = (0..count).map(|index| open(addr, index)).collect::<Result<Vec<_>, _>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let keeper = std::thread::spawn(move || {
            let mut again = 0;
            while !stopped.load(Relaxed) {
                for (part, sockets) in sockets.chunks_mut(AT_ONCE).enumerate() {
                    for (index, socket) in sockets.iter_mut().enumerate().filter(|(_, socket)| is_over(socket)) {
                        *socket = open(addr, u32::try_from(part * AT_ONCE + index).unwrap_or_default())?;
                        again += 1;
                    }
                    pause(PAUSE);
                }
            }
            Ok(again)
        });
        Ok(Self { stop, keeper })
    }

    /// Ends all; gives how many had to be made again.
    ///
    /// # Errors
    /// When one could not be made again.
    pub fn finish(self) -> Result<u64, String> {
        self.stop.store(true, Relaxed);
        self.keeper.join().map_err(|_| "the keeper of the connections panicked".to_owned())?
    }
}

/// Every other one says something, and not all of it.
fn open(addr: SocketAddr, index: u32) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| format!("connection {index} without a request: {error}");
    let mut socket = TcpStream::connect(addr).map_err(failed)?;
    if index % 2 == 1 {
        write!(socket, "GET /events HTTP/1.1\r\nHost: {addr}\r\nX-Unfinished: ").map_err(failed)?;
    }
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket)
}

/// The node has answered, or closed it.
fn is_over(mut socket: &TcpStream) -> bool {
    !matches!(socket.read(&mut [0; 512]), Err(error) if error.kind() == ErrorKind::WouldBlock)
}
