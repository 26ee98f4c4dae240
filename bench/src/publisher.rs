//! A publisher: a thread with one connection that sends a request, waits for the response, and sends the next.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use hdrhistogram::Histogram;

use crate::{
    clock::{Clock, nanos},
    report::{histogram, record},
    target::Target,
    wire::{self, Framing, Stamp},
};

/// Limit for an acknowledgement; a longer wait ends the measurement.
const RESPONSE_TIME: Duration = Duration::from_secs(15);

/// The task of a publisher.
pub(crate) struct Publisher {
    /// Its number.
    pub index: usize,
    /// All publishers.
    pub of: usize,
    /// The name of a topic is this and a number.
    pub topic: String,
    pub topics: usize,
    /// Time between two events of this publisher; `None`: it waits for acknowledgements only.
    pub every: Option<Duration>,
    /// Bytes of a payload.
    pub payload: usize,
    /// The planned time of the first event.
    pub start: u64,
    /// Events with a planned time from this one on count.
    pub measure: u64,
    /// No event has a planned time from this one on.
    pub end: u64,
}

/// The figures of a publisher.
#[derive(Debug)]
pub(crate) struct Sent {
    /// Acknowledged events by topic.
    pub acknowledged: Vec<u64>,
    /// Acknowledged events that count.
    pub measured: u64,
    /// From sending to the response, in microseconds.
    pub acks: Histogram<u64>,
}

/// A connection for one request after another.
pub(crate) struct Connection {
    socket: TcpStream,
    addr: SocketAddr,
    token: String,
    target: Target,
    buffer: Vec<u8>,
}

// === impl Publisher ===

impl Publisher {
    /// Publishes until the end.
    ///
    /// # Errors
    /// When an event is not acknowledged.
    pub(crate) fn run(&self, target: &Target, clock: Clock) -> Result<Sent, String> {
        let mut connection = Connection::open(target)?;
        let mut sent = Sent { acknowledged: vec![0; self.topics], measured: 0, acks: histogram() };
        let every = self.every.map(nanos);
        // Publishers take turns within the interval.
        let first = self.start + every.unwrap_or(0) * self.index as u64 / self.of as u64;
        clock.sleep_until(first);
        for round in 0.. {
            // The planned time: after a late response the next event is late too, and the latency shows it.
            let at = match every {
                Some(every) => {
                    let at = first + every * round;
                    clock.sleep_until(at);
                    at
                }
                None => clock.now(),
            };
            if at >= self.end {
                break;
            }
            let topic = (self.index + usize::try_from(round).unwrap_or(0) * self.of) % self.topics;
            let stamp = Stamp { publisher: self.index, sequence: sent.acknowledged[topic], at };
            let began = clock.now();
            connection.publish(&self.topic, topic, &stamp.payload(self.payload))?;
            let answered = clock.now();
            sent.acknowledged[topic] += 1;
            if at >= self.measure {
                sent.measured += 1;
                record(&mut sent.acks, answered - began);
            }
        }
        Ok(sent)
    }
}

// === impl Connection ===

impl Connection {
    /// Connects to the address for publishing.
    pub(crate) fn open(target: &Target) -> Result<Self, String> {
        let addr = target.publishing_addr()?;
        let connect = || {
            let socket = TcpStream::connect_timeout(&addr, RESPONSE_TIME)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(RESPONSE_TIME))?;
            socket.set_write_timeout(Some(RESPONSE_TIME))?;
            Ok(socket)
        };
        let socket = connect().map_err(|error: std::io::Error| format!("cannot connect to {addr}: {error}"))?;
        Ok(Self { socket, addr, token: target.token_line(), target: target.clone(), buffer: Vec::new() })
    }

    /// Publishes an event; gives the body of the acknowledgement.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn publish(&mut self, topic: &str, number: usize, payload: &str) -> Result<&[u8], String> {
        let (path, body) = self.target.publication(&format!("{topic}{number}"), payload);
        self.exchange(&path, &body)
    }

    /// Posts a body to `/events` of a node; gives the body of the acknowledgement.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn post(&mut self, body: &str) -> Result<&[u8], String> {
        self.exchange("/events", body)
    }

    fn exchange(&mut self, path: &str, body: &str) -> Result<&[u8], String> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\n{}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.addr,
            self.token,
            body.len(),
        );
        let failed = |error: std::io::Error| format!("an event was not acknowledged: {error}");
        self.socket.write_all(request.as_bytes()).map_err(failed)?;
        self.buffer.clear();
        let mut chunk = [0; 4096];
        loop {
            let read = self.socket.read(&mut chunk).map_err(failed)?;
            if read == 0 {
                return Err("the server closed a publisher's connection".into());
            }
            self.buffer.extend_from_slice(&chunk[..read]);
            let Some((head, start)) = wire::head(&self.buffer)? else { continue };
            let Framing::Length(length) = head.framing else { return Err("a response has no content length".into()) };
            if self.buffer.len() < start + length {
                continue;
            }
            let body = &self.buffer[start..start + length];
            return match head.status {
                200..=299 => Ok(body),
                status => Err(format!("an event was refused with {status}: {}", String::from_utf8_lossy(body))),
            };
        }
    }
}
