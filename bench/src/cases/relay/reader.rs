//! The reader of a measurement: counts a firehose at little cost, and follows a paced stream event by event.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
};

use hdrhistogram::Histogram;
use millstream::sse::{Decoder, Item, Limits};
use serde_json::{Value, json};
use ulid::Ulid;

use crate::{
    call::{exchange, send},
    clock::Clock,
    report::{histogram, record},
    tally::{Losses, Track},
    wire::{Body, Stamp},
};

/// A route to a stream of the source.
#[derive(Clone, Debug)]
pub(super) struct Route {
    addr: SocketAddr,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// A GET of the source's path after this prefix.
    Plain(&'static str),
    /// A new relay, and a GET of its events.
    Relay,
}

/// True if the node has relays.
pub(super) fn has_relays(addr: SocketAddr) -> Result<bool, String> {
    Ok(exchange(addr, "GET", "/api/relays", None)?.0 == 200)
}

// === impl Route ===

impl Route {
    pub(super) fn plain(addr: SocketAddr, prefix: &'static str) -> Self {
        Self { addr, kind: Kind::Plain(prefix) }
    }

    pub(super) fn relay(addr: SocketAddr) -> Self {
        Self { addr, kind: Kind::Relay }
    }

    /// Counts the events of a firehose on a new thread. [`follow`](Self::follow) also checks that each event arrives
    /// once: here that would cost too much.
    pub(super) fn count(&self, events: u32, bytes: u32) -> Result<JoinHandle<Result<u64, String>>, String> {
        let mut socket = self.open(&format!("/firehose/{events}/{bytes}"))?;
        let read = move || {
            let (mut counter, mut buffer) = (Counter::default(), vec![0; 256 << 10]);
            while counter.count < u64::from(events) && !counter.body.ended() {
                let read = socket.read(&mut buffer).map_err(|error| broken(&error))?;
                if read == 0 {
                    break;
                }
                counter.take(&buffer[..read])?;
            }
            Ok(counter.count)
        };
        std::thread::Builder::new().spawn(read).map_err(|error| format!("a thread for a reader cannot start: {error}"))
    }

    /// Reads a paced stream: the latency of its events, and its losses.
    pub(super) fn follow(
        &self,
        events: u64,
        bytes: u32,
        rate: u32,
        clock: Clock,
    ) -> Result<(Histogram<u64>, Losses), String> {
        let mut socket = self.open(&format!("/paced/{events}/{bytes}/{rate}"))?;
        let (mut latency, mut arrived) = (histogram(), 0);
        let (mut track, mut body, mut buffer) = (Track::default(), Body::default(), vec![0; 64 << 10]);
        let mut decoder = Decoder::new(Limits::default());
        while arrived < events {
            let read = socket.read(&mut buffer).map_err(|error| broken(&error))?;
            if read == 0 {
                break;
            }
            let now = clock.now();
            body.take(&buffer[..read], |data| {
                let each = |item: Item<'_>| {
                    // Events without a stamp are those of the node about its relay.
                    if let Item::Event { data, .. } = item
                        && let Some(stamp) = Stamp::read(data)
                        && track.take(stamp.sequence)
                    {
                        record(&mut latency, now.saturating_sub(stamp.at));
                        arrived += 1;
                    }
                };
                decoder.push(data, each).map_err(|error| error.to_string())
            })?;
        }
        Ok((latency, track.losses(events)))
    }

    fn open(&self, path: &str) -> Result<TcpStream, String> {
        let path = match self.kind {
            Kind::Plain(prefix) => format!("{prefix}{path}"),
            Kind::Relay => self.create_relay(path)?,
        };
        send(self.addr, &format!("GET {path} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", self.addr))
    }

    /// Creates a relay; gives the path of its events.
    fn create_relay(&self, path: &str) -> Result<String, String> {
        let topic = format!("bench:{}", Ulid::new());
        let body = json!({ "topic": topic, "sources": [{ "remote": "source", "path": path }], "repeat": "until_end" });
        let (status, answer) = exchange(self.addr, "POST", "/api/relays", Some(&body.to_string()))?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let events = answer.get("eventsUrl").and_then(Value::as_str).filter(|_| status == 201);
        events.map(str::to_owned).ok_or_else(|| format!("the node created no relay: {status} {answer}"))
    }
}

fn broken(error: &std::io::Error) -> String {
    format!("a stream broke off: {error}")
}

/// Counts events by their stamps, without parsing them.
#[derive(Default)]
struct Counter {
    body: Body,
    count: u64,
    /// The last bytes before the next piece: a mark may begin there.
    tail: Vec<u8>,
}

/// The first bytes of each event's data.
const DATA_START: &[u8] = b"data: {\"p\":";

// === impl Counter ===

impl Counter {
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Self { body, count, tail } = self;
        body.take(bytes, |data| {
            // Each side of the seam is shorter than a mark, so that no mark counts twice.
            let short = DATA_START.len() - 1;
            tail.extend_from_slice(&data[..data.len().min(short)]);
            *count += memchr::memmem::find_iter(tail, DATA_START).count() as u64;
            *count += memchr::memmem::find_iter(data, DATA_START).count() as u64;
            if data.len() >= short {
                tail.clear();
                tail.extend_from_slice(&data[data.len() - short..]);
            } else {
                tail.drain(..tail.len().saturating_sub(short));
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_wherever_the_network_cuts_them() {
        let event = |sequence| {
            let payload = Stamp { publisher: 0, sequence, at: 5 }.payload(60);
            format!("id: {sequence}\ndata: {payload}\n\n")
        };
        let text: String = (0..5).map(event).collect();
        let wire =
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
        for size in [1, 2, 3, 7, 11, 64, wire.len()] {
            let mut counter = Counter::default();
            wire.as_bytes().chunks(size).for_each(|part| counter.take(part).unwrap());
            assert_eq!((counter.count, counter.body.ended()), (5, true), "pieces of {size}");
        }
    }
}
