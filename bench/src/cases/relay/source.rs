//! The source of a measurement: a simple and fast server of event streams on its own port.
//!
//! `/firehose/N/BYTES`: N events as fast as the client reads. `/paced/N/BYTES/RATE`: N events at a rate, each with the
//! time of its sending. The stream ends after the last event.

use std::{
    fmt::Write as _,
    io::{self, BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::{
    clock::{Clock, nanos},
    wire::Stamp,
};

/// A server whose threads end with the program.
#[derive(Debug)]
pub(super) struct Source {
    pub addr: SocketAddr,
}

/// Bytes of a firehose in one write.
const PIECE: usize = 32 << 10;

// === impl Source ===

impl Source {
    /// Listens on a free port of loopback.
    pub(super) fn start(clock: Clock) -> Result<Self, String> {
        let failed = |error: io::Error| format!("no port for the source: {error}");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                // The end of a connection is no error.
                thread::spawn(move || drop(serve(&socket, clock)));
            }
        });
        Ok(Self { addr })
    }
}

fn serve(mut socket: &TcpStream, clock: Clock) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut head = BufReader::new(socket).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let line = head.next().unwrap_or_default();
    head.for_each(drop);
    let path = line.split(' ').nth(1).unwrap_or_default();
    let mut numbers = path.split('/').filter_map(|part| part.parse::<u64>().ok());
    let mut number = || numbers.next().unwrap_or_default();
    let (events, bytes, rate) = (number(), usize::try_from(number()).unwrap_or_default(), number());
    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")?;
    let every = Duration::from_secs(1).checked_div(u32::try_from(rate).unwrap_or(0));
    let begin = clock.now();
    let mut piece = String::with_capacity(PIECE + bytes + 256);
    for sequence in 0..events {
        if let Some(every) = every {
            clock.sleep_until(begin + sequence * nanos(every));
        }
        let payload = Stamp { publisher: 0, sequence, at: clock.now() }.payload(bytes);
        let _ = write!(piece, "id: {sequence}\ndata: {payload}\n\n");
        if piece.len() >= PIECE || every.is_some() || sequence + 1 == events {
            socket.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes())?;
            piece.clear();
        }
    }
    socket.write_all(b"0\r\n\r\n")
}
