//! Requests over a plain socket.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::wire;

/// Longest silence of a server.
const READ_TIME: Duration = Duration::from_secs(60);

/// Connects and sends a request. The caller reads the response; each read has a limit.
///
/// # Errors
/// When the server does not accept it.
pub(crate) fn send(addr: SocketAddr, request: &str) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| format!("cannot connect to {addr}: {error}");
    let mut socket = TcpStream::connect(addr).map_err(failed)?;
    socket.set_read_timeout(Some(READ_TIME)).and_then(|()| socket.set_nodelay(true)).map_err(failed)?;
    socket.write_all(request.as_bytes()).map_err(failed)?;
    Ok(socket)
}

/// Sends a request without a body or with one in JSON; gives status and body of the response.
///
/// # Errors
/// When there is no response.
pub(crate) fn exchange(
    addr: SocketAddr,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<(u16, String), String> {
    let fields = body.map_or_else(String::new, |body| {
        format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())
    });
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{fields}\r\n{}",
        body.unwrap_or_default()
    );
    let (mut socket, mut response) = (send(addr, &request)?, Vec::new());
    socket.read_to_end(&mut response).map_err(|error| format!("{method} {path}: no response: {error}"))?;
    let (head, start) = wire::head(&response)?.ok_or("the response ends within its head")?;
    Ok((head.status, String::from_utf8_lossy(&response[start..]).into_owned()))
}
