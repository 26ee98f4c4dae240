//! One subscriber: a raw socket whose bytes become counts.

use tokio::net::TcpStream;

use crate::{
    tally::Track,
    wire::{self, Deframer, Stamp},
};
use millstream::sse::{Decoder, Item, Limits};

/// What a subscriber asks for, as bytes.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// The whole request head.
    pub request: String,
    /// The first sequence number that it is to get.
    pub first: u64,
    /// What says that it is heard.
    pub greeting: Greeting,
}

/// How a server says that a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// By its first frame, as a node does.
    Frame,
    /// By the head of the response.
    Head,
}

/// What came of a subscriber; filled in as it reads.
#[derive(Debug)]
pub struct Subscriber {
    parser: Parser,
    /// By publisher.
    pub tracks: Vec<Track>,
    first: u64,
    greeting: Greeting,
    /// True once the server has said that the subscription stands.
    pub established: bool,
    /// Heartbeats and comments.
    pub signs: u64,
    /// `gap` frames: the node itself says that something is missing.
    pub gaps: u64,
    /// The node ended the stream.
    pub closed: bool,
}

/// Where the response is.
#[derive(Debug)]
enum Parser {
    Head(Vec<u8>),
    Body(Deframer, Box<Decoder>),
}

/// An event that came for the first time.
pub struct Delivery<'a> {
    pub at: u64,
    pub sequence: u64,
    /// Its id, empty where the server gives none.
    pub id: &'a str,
}

// === impl Subscriber ===

impl Subscriber {
    pub fn new(ask: &Subscription) -> Self {
        Self {
            parser: Parser::Head(Vec::new()),
            tracks: Vec::new(),
            first: ask.first,
            greeting: ask.greeting,
            established: false,
            signs: 0,
            gaps: 0,
            closed: false,
        }
    }

    /// Takes bytes of the response; `each` gets what was delivered for the first time.
    ///
    /// # Errors
    /// When the answer is not a stream of this measurement.
    pub fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Delivery<'_>)) -> Result<(), String> {
        let Self { parser, tracks, first, greeting, established, signs, gaps, .. } = self;
        if let Parser::Head(head) = parser {
            head.extend_from_slice(bytes);
            let Some((parsed, start)) = wire::head(head)? else { return Ok(()) };
            let rest = head.split_off(start);
            if parsed.status != 200 {
                return Err(format!(
                    "a subscription was refused with {}: {}",
                    parsed.status,
                    String::from_utf8_lossy(&rest)
                ));
            }
            *established |= *greeting == Greeting::Head;
            *parser = Parser::Body(Deframer::new(parsed.framing), Box::new(Decoder::new(Limits::default())));
            return self.take(&rest, each);
        }
        let Parser::Body(deframer, decoder) = parser else { return Ok(()) };
        let mut refused = None;
        let pushed = deframer.push(bytes, |data| {
            let item = |item: Item<'_>| match item {
                // The greeting has an id, but is not a published event.
                Item::Event { event: "connection", .. } if *greeting == Greeting::Frame => *established = true,
                Item::Event { own_id, data, id, .. } if own_id || *greeting == Greeting::Head => {
                    match Stamp::read(data) {
                        Some(Stamp { publisher, sequence, at }) if publisher < 1024 => {
                            if tracks.len() <= publisher {
                                tracks.resize(publisher + 1, Track::from(*first));
                            }
                            if tracks[publisher].take(sequence) {
                                each(Delivery { at, sequence, id });
                            }
                        }
                        // Other servers may greet and beat by events of their own.
                        _ if *greeting == Greeting::Head => *signs += 1,
                        _ => refused = Some(format!("an event of somebody else came: {data}")),
                    }
                }
                Item::Event { event: "gap", .. } => *gaps += 1,
                Item::Event { event: "disconnect", data, .. } => {
                    refused = Some(format!("the node ended a stream: {data}"));
                }
                Item::Event { .. } | Item::Comment(_) => *signs += 1,
                Item::Id(_) | Item::Retry(_) => {}
            };
            decoder.push(data, item).map_err(|error| error.to_string())
        });
        refused.map_or(pushed, Err)
    }
}

/// Connects and asks.
///
/// # Errors
/// When nobody is there.
pub async fn open(addr: std::net::SocketAddr, ask: &Subscription) -> std::io::Result<TcpStream> {
    use tokio::io::AsyncWriteExt;
    let mut socket = TcpStream::connect(addr).await?;
    socket.set_nodelay(true)?;
    socket.write_all(ask.request.as_bytes()).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

    fn ask(greeting: Greeting) -> Subscription {
        Subscription { request: String::new(), first: 0, greeting }
    }

    fn chunk(text: &str) -> String {
        format!("{:x}\r\n{text}\r\n", text.len())
    }

    fn event(n: u64) -> String {
        let payload = Stamp { publisher: 1, sequence: n, at: n * 10 }.payload(60);
        chunk(&format!("id: e-{n}\ndata: {payload}\n\n"))
    }

    #[test]
    fn bytes_become_counts_wherever_they_are_cut() {
        let wire =
            [HEAD, &chunk("id: e-9\nevent: connection\ndata: {}\n\n"), &event(0), &event(1), &event(1), &event(3)]
                .concat();
        let wire = [&*wire, &chunk(": heartbeat\n\n"), &chunk("event: gap\ndata: {}\n\n")].concat();
        for size in [1, 7, 64, wire.len()] {
            let mut subscriber = Subscriber::new(&ask(Greeting::Frame));
            let mut delivered = Vec::new();
            for part in wire.as_bytes().chunks(size) {
                subscriber.take(part, |delivery| delivered.push(delivery.at)).unwrap();
            }
            assert_eq!(delivered, [0, 10, 30]);
            assert!(subscriber.established);
            assert_eq!((subscriber.signs, subscriber.gaps), (1, 1));
            let losses = subscriber.tracks[1].losses(4);
            assert_eq!((losses.lost, losses.duplicated), (1, 1));
        }
    }

    #[test]
    fn what_is_no_stream_of_this_measurement_is_refused() {
        let refused = |wire: String| {
            let mut subscriber = Subscriber::new(&ask(Greeting::Frame));
            subscriber.take(wire.as_bytes(), |_| {}).unwrap_err()
        };
        assert!(refused("HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nfull".into()).contains("503: full"));
        assert!(refused(format!("{HEAD}{}", chunk("id: e-1\ndata: hello\n\n"))).contains("somebody else"));
        assert!(refused(format!("{HEAD}{}", chunk("event: disconnect\ndata: {}\n\n"))).contains("ended"));
    }

    #[test]
    fn another_server_has_its_own_ways() {
        let mut subscriber = Subscriber::new(&ask(Greeting::Head));
        subscriber.take(HEAD.as_bytes(), |_| {}).unwrap();
        assert!(subscriber.established);
        let stamp = Stamp { publisher: 0, sequence: 0, at: 5 }.payload(60);
        let body = chunk(&format!("event: hello\ndata: you\n\ndata: {stamp}\n\n"));
        let mut delivered = Vec::new();
        subscriber.take(body.as_bytes(), |delivery| delivered.push((delivery.at, delivery.id.to_owned()))).unwrap();
        assert_eq!((delivered, subscriber.signs), (vec![(5, String::new())], 1));
    }
}
