//! The reader of a measurement: counts a firehose at little cost, follows a paced stream event by event.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    thread::JoinHandle,
};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::{
    call::{Body, ask, exchange},
    clock::Clock,
    report::{histogram, record},
    tally::{Losses, Track},
    wire::Stamp,
};
use millstream::sse::{Decoder, Item, Limits};

/// How a stream of the source is reached.
#[derive(Clone, Debug)]
pub struct Way {
    addr: SocketAddr,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// A GET of the path behind this prefix.
    Plain(&'static str),
    /// A relay is made, and its events are read.
    Relay,
}

/// Whether the node has relays.
pub fn relays_there(addr: SocketAddr) -> Result<bool, String> {
    Ok(exchange(addr, "GET", "/api/relays", None)?.0 == 200)
}

// === impl Way ===

impl Way {
    pub fn plain(addr: SocketAddr, prefix: &'static str) -> Self {
        Self { addr, kind: Kind::Plain(prefix) }
    }

    pub fn relay(addr: SocketAddr) -> Self {
        Self { addr, kind: Kind::Relay }
    }

    /// Counts the events of a firehose on a thread of its own. A stream without a hole in it has as many as it was to
    /// have; that each is there once is looked at where it costs nothing, in [`follow`](Self::follow).
    pub fn count(&self, path: &str) -> Result<JoinHandle<Result<u64, String>>, String> {
        let mut socket = self.open(path)?;
        let expected: u64 = path.split('/').nth(2).and_then(|count| count.parse().ok()).unwrap_or_default();
        let read = move || {
            let (mut counter, mut buffer) = (Counter::default(), vec![0; 256 << 10]);
            while counter.count < expected && !counter.ended() {
                let read = socket.read(&mut buffer).map_err(|error| format!("a stream broke off: {error}"))?;
                if read == 0 {
                    break;
                }
                counter.take(&buffer[..read])?;
            }
            Ok(counter.count)
        };
        std::thread::Builder::new().spawn(read).map_err(|error| format!("no thread for a reader: {error}"))
    }

    /// Reads a paced stream: how late its events came, and whether each did.
    pub fn follow(&self, path: &str, events: u64, clock: Clock) -> Result<(Histogram<u64>, Losses), String> {
        let mut socket = self.open(path)?;
        let (mut latency, mut came) = (histogram(), 0);
        let (mut track, mut body, mut buffer) = (Track::default(), Body::default(), vec![0; 64 << 10]);
        let mut decoder = Decoder::new(Limits::default());
        while came < events {
            let read = socket.read(&mut buffer).map_err(|error| format!("a stream broke off: {error}"))?;
            if read == 0 {
                break;
            }
            let now = clock.now();
            body.take(&buffer[..read], |data| {
                let each = |item: Item<'_>| {
                    // Events without a stamp are words of the node about its relay.
                    if let Item::Event { data, .. } = item
                        && let Some(stamp) = Stamp::read(data)
                        && track.take(stamp.sequence)
                    {
                        record(&mut latency, now.saturating_sub(stamp.at));
                        came += 1;
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
            Kind::Relay => self.relayed(path)?,
        };
        ask(self.addr, &format!("GET {path} HTTP/1.1\r\nhost: {}\r\naccept: text/event-stream\r\n\r\n", self.addr))
    }

    /// Makes a relay; where its events are.
    fn relayed(&self, path: &str) -> Result<String, String> {
        let topic = format!("bench:{}", ulid::Ulid::new());
        let body = json!({ "topic": topic, "sources": [{ "remote": "source", "path": path }], "repeat": "until_end" });
        let (status, answer) = exchange(self.addr, "POST", "/api/relays", Some(&body.to_string()))?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let events = answer.get("eventsUrl").and_then(Value::as_str).filter(|_| status == 201);
        events.map(str::to_owned).ok_or_else(|| format!("no relay was made: {status} {answer}"))
    }
}

/// Counts events by their stamps, without parsing them.
#[derive(Default)]
struct Counter {
    body: Body,
    count: u64,
    /// The end of what came before, in which a mark may have begun.
    tail: Vec<u8>,
}

/// What the data of an event of the source begin with.
const MARK: &[u8] = b"data: {\"p\":";

// === impl Counter ===

impl Counter {
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Self { body, count, tail } = self;
        body.take(bytes, |data| {
            // No mark fits into what is looked at for the seam of either side alone.
            let short = MARK.len() - 1;
            tail.extend_from_slice(&data[..data.len().min(short)]);
            *count += memchr::memmem::find_iter(tail, MARK).count() as u64;
            *count += memchr::memmem::find_iter(data, MARK).count() as u64;
            if data.len() >= short {
                tail.clear();
                tail.extend_from_slice(&data[data.len() - short..]);
            } else {
                tail.drain(..tail.len().saturating_sub(short));
            }
            Ok(())
        })
    }

    fn ended(&self) -> bool {
        self.body.ended()
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
            assert_eq!((counter.count, counter.ended()), (5, true), "pieces of {size}");
        }
    }
}
