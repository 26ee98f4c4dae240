//! Options of a connection's socket, and the way to end one that no longer takes anything.
//!
//! The only module with `unsafe` code. A response body cannot end a stuck connection: while the framework's write
//! buffer is full it does not poll the body at all, so neither an end nor an error is seen. What ends it is a shutdown
//! of the socket from the side, and for that its descriptor is needed.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

#[cfg(unix)]
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

/// The socket of a connection that is being served.
///
/// Valid as long as that connection lives. The framework drops a response body before the socket under it, so a body
/// that holds a `Socket` never outlives the descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    #[cfg(unix)]
    fd: RawFd,
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

// === impl Socket ===

impl Socket {
    /// Remembers the descriptor of a connection.
    #[cfg(unix)]
    pub fn of(connection: &impl AsFd) -> Self {
        Self { fd: connection.as_fd().as_raw_fd() }
    }

    /// Bytes that have come from the peer since the connection began; `None` where the system does not tell.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "there is no safe way to ask the kernel for it")]
    pub fn received(self) -> Option<u64> {
        // The kernel's `struct tcp_info` only grows at its end, and `tcpi_bytes_received` stands at byte 128 of it.
        const BYTES: u32 = 128 + 8;
        let mut info = [0_u64; BYTES as usize / 8];
        let mut length = BYTES;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `info`, and any bytes are good there.
        // What holds for the descriptor is said in `cut`.
        let status = unsafe {
            libc::getsockopt(self.fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
        };
        (status == 0 && length == BYTES).then(|| info[info.len() - 1])
    }

    /// Bytes that have come from the peer; not known here.
    #[cfg(all(unix, not(target_os = "linux")))]
    pub fn received(self) -> Option<u64> {
        None
    }

    /// Ends the connection in both directions at once. What the peer has not taken is lost.
    #[cfg(unix)]
    #[allow(unsafe_code, reason = "a borrowed descriptor is the only way to reach a socket that the framework owns")]
    pub fn cut(self) {
        // SAFETY: whoever holds a `Socket` lives inside the connection (see the type's doc), so the descriptor is open
        // and is this connection's. Were that ever untrue, a shutdown could end another connection of this process,
        // which that one's peer answers by reconnecting; it cannot touch memory.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        // An error means that the connection is gone already.
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
    }
}

/// Takes an address for connections to come; as many as 4,096 wait to be accepted.
///
/// # Errors
/// When the address cannot be had.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // A node that comes back takes its port although connections of the last one are not forgotten yet.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Prepares an accepted connection: no waiting of small writes for each other, a small send buffer, so that a reader who stops costs little, and a bound on how
/// long the kernel keeps unacknowledged bytes, so that a peer which fell silent is found.
#[cfg(unix)]
pub fn prepare(connection: &impl AsFd, send_buffer: usize, unacknowledged: Duration) {
    let socket = socket2::SockRef::from(connection);
    // A small event must not wait for the acknowledgement of the one before it.
    if let Err(error) = socket.set_tcp_nodelay(true) {
        tracing::debug!(%error, "small writes may wait for each other");
    }
    if let Err(error) = socket.set_send_buffer_size(send_buffer) {
        tracing::debug!(%error, "the send buffer keeps its default size");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket.set_tcp_user_timeout(Some(unacknowledged)) {
        tracing::debug!(%error, "silent peers are found by the kernel's own timeout");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
}
