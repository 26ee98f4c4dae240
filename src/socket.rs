//! Socket options of a connection, and the way to end a connection that does not accept data.
//!
//! This module needs `unsafe`. A response body cannot end a blocked connection: the framework does not poll the body while
//! its write buffer is full, so it sees neither an end nor an error. A shutdown of the socket ends it, and needs the
//! descriptor.

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

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 4096;

// === impl Socket ===

impl Socket {
    /// Takes the descriptor of a connection.
    #[cfg(unix)]
    pub fn of(connection: &impl AsFd) -> Self {
        Self { fd: connection.as_fd().as_raw_fd() }
    }

    /// Bytes received from the peer since the connection began; `None` if the system does not report this.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "there is no safe way to ask the kernel for it")]
    pub fn received(self) -> Option<u64> {
        // `struct tcp_info` of the kernel only grows at its end. `tcpi_bytes_received` is at byte 128.
        const BYTES: u32 = 128 + 8;
        let mut info = [0_u64; BYTES as usize / 8];
        let mut length = BYTES;
        // SAFETY: the kernel writes at most `length` bytes, which is the size of `info`, and any bytes are valid there.
        // For the descriptor see `cut`.
        let status = unsafe {
            libc::getsockopt(self.fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
        };
        (status == 0 && length == BYTES).then(|| info[info.len() - 1])
    }

    /// Bytes received from the peer. Unknown on this system.
    #[cfg(all(unix, not(target_os = "linux")))]
    pub fn received(self) -> Option<u64> {
        None
    }

    /// Closes the connection in both directions at once. Data that the peer has not received are lost.
    #[cfg(unix)]
    #[allow(unsafe_code, reason = "a borrowed descriptor is the only way to reach a socket that the framework owns")]
    pub fn cut(self) {
        // SAFETY: a `Socket` is held only inside its connection (see the type), so the descriptor is open and belongs to
        // this connection. If that were false, the shutdown could close another connection of this process; its peer would
        // reconnect. Memory cannot be affected.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        // An error means that the connection is closed already.
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
    }
}

/// Binds an address. Up to 4,096 connections may wait to be accepted.
///
/// # Errors
/// If the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // A restarted node binds its port also while old connections are in TIME_WAIT.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Prepares an accepted connection.
///
/// Small writes are sent at once. The send buffer is small, so that a blocked client costs little memory. Data without
/// acknowledgement time out, so that a silent peer is detected.
#[cfg(unix)]
pub fn prepare(connection: &impl AsFd, send_buffer: usize, unacknowledged: Duration) {
    let socket = socket2::SockRef::from(connection);
    // A small event must not wait for the acknowledgement of the one before it.
    if let Err(error) = socket.set_tcp_nodelay(true) {
        tracing::debug!(%error, "small writes may be delayed");
    }
    if let Err(error) = socket.set_send_buffer_size(send_buffer) {
        tracing::debug!(%error, "the send buffer keeps its default size");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket.set_tcp_user_timeout(Some(unacknowledged)) {
        tracing::debug!(%error, "silent peers are detected by the timeout of the kernel");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = unacknowledged;
}
