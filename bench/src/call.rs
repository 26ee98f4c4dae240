//! Requests of a measurement over a plain socket, and the body of an answer as it comes.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use super::wire::{self, Deframer};

/// Longest silence.
const READ_TIME: Duration = Duration::from_secs(60);

/// The body of a response as it comes.
#[derive(Default)]
pub struct Body {
    head: Vec<u8>,
    deframer: Option<Deframer>,
}

// === impl Body ===

impl Body {
    /// Takes the next bytes of the response and hands on those of its body.
    ///
    /// # Errors
    /// What `each` gives, a broken framing, and a status other than 200.
    pub fn take(&mut self, bytes: &[u8], each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let Self { head, deframer } = self;
        if let Some(deframer) = deframer {
            return deframer.push(bytes, each);
        }
        head.extend_from_slice(bytes);
        let Some((parsed, start)) = wire::head(head)? else { return Ok(()) };
        let rest = head.split_off(start);
        if parsed.status != 200 {
            return Err(format!("a stream was refused with {}: {}", parsed.status, String::from_utf8_lossy(&rest)));
        }
        deframer.insert(Deframer::new(parsed.framing)).push(&rest, each)
    }

    pub fn ended(&self) -> bool {
        matches!(self.deframer, Some(Deframer::Ended))
    }
}

/// Connects and sends; what comes back is the caller's to read, with a limit for each silence.
///
/// # Errors
/// When nobody is there.
pub fn ask(addr: SocketAddr, request: &str) -> Result<TcpStream, String> {
    let failed = |error: std::io::Error| format!("cannot connect to {addr}: {error}");
    let mut socket = TcpStream::connect(addr).map_err(failed)?;
    socket.set_read_timeout(Some(READ_TIME)).and_then(|()| socket.set_nodelay(true)).map_err(failed)?;
    socket.write_all(request.as_bytes()).map_err(failed)?;
    Ok(socket)
}

/// One request; status and body.
///
/// # Errors
/// When there is no answer.
pub fn exchange(addr: SocketAddr, method: &str, path: &str, body: Option<&str>) -> Result<(u16, String), String> {
    let fields = body.map_or_else(String::new, |body| {
        format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())
    });
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{fields}\r\n{}",
        body.unwrap_or_default()
    );
    let (mut socket, mut answer) = (ask(addr, &request)?, Vec::new());
    socket.read_to_end(&mut answer).map_err(|error| format!("no answer: {error}"))?;
    let (head, start) = wire::head(&answer)?.ok_or("the answer has no end of its head")?;
    Ok((head.status, String::from_utf8_lossy(&answer[start..]).into_owned()))
}
