//! A subscriber: a raw socket whose bytes become counts.

use std::{io, net::SocketAddr};

use millstream::sse::{Decoder, Item, Limits};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    tally::Track,
    wire::{Body, Stamp},
};

/// Publishers of a measurement, at most.
const PUBLISHERS_MAX: usize = 1024;

/// The request of a subscriber, and the expected confirmation.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// The whole request head.
    pub request: String,
    /// The first sequence number that it gets.
    pub first: u64,
    /// How the server confirms it.
    pub greeting: Greeting,
}

/// How a server confirms a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// By its first frame, as a node does.
    Frame,
    /// By the head of the response.
    Head,
}

/// The state of a stream, and its counts so far.
#[derive(Debug)]
pub(crate) struct Subscriber {
    body: Body,
    decoder: Decoder,
    first: u64,
    greeting: Greeting,
    /// By publisher.
    pub tracks: Vec<Track>,
    /// True once the server has confirmed the subscription.
    pub established: bool,
    /// Heartbeats and other comments.
    pub heartbeats: u64,
    /// `gap` frames: the node reports that events are missing.
    pub gaps: u64,
    /// The server closed the connection.
    pub closed: bool,
}

/// An event that arrived for the first time.
pub(crate) struct Delivery<'a> {
    /// Its planned time.
    pub at: u64,
    pub sequence: u64,
    /// Its id, empty if the server gives none.
    pub id: &'a str,
}

// === impl Subscription ===

impl Subscription {
    /// Connects and sends the request.
    pub(crate) async fn open(&self, addr: SocketAddr) -> io::Result<TcpStream> {
        let mut socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        socket.write_all(self.request.as_bytes()).await?;
        Ok(socket)
    }
}

// === impl Subscriber ===

impl Subscriber {
    pub(crate) fn new(subscription: &Subscription) -> Self {
        Self {
            body: Body::default(),
            decoder: Decoder::new(Limits::default()),
            first: subscription.first,
            greeting: subscription.greeting,
            tracks: Vec::new(),
            established: false,
            heartbeats: 0,
            gaps: 0,
            closed: false,
        }
    }

    /// Takes bytes of the response; `each` gets the events that arrived for the first time.
    ///
    /// # Errors
    /// When the response is not a stream of this measurement.
    pub(crate) fn take(&mut self, bytes: &[u8], mut each: impl FnMut(Delivery<'_>)) -> Result<(), String> {
        let Self { body, decoder, first, greeting, tracks, established, heartbeats, gaps, .. } = self;
        let mut refused = None;
        let taken = body.take(bytes, |data| {
            let item = |item: Item<'_>| match item {
                // The greeting has an id, but is not a published event.
                Item::Event { event: "connection", .. } if *greeting == Greeting::Frame => *established = true,
                Item::Event { own_id, data, id, .. } if own_id || *greeting == Greeting::Head => {
                    match Stamp::read(data) {
                        Some(Stamp { publisher, sequence, at }) if publisher < PUBLISHERS_MAX => {
                            if tracks.len() <= publisher {
                                tracks.resize(publisher + 1, Track::from(*first));
                            }
                            if tracks[publisher].take(sequence) {
                                each(Delivery { at, sequence, id });
                            }
                        }
                        // Other servers may send greetings and heartbeats as events.
                        _ if *greeting == Greeting::Head => *heartbeats += 1,
                        _ => refused = Some(format!("an event that is not of this measurement arrived: {data}")),
                    }
                }
                Item::Event { event: "gap", .. } => *gaps += 1,
                Item::Event { event: "disconnect", data, .. } => {
                    refused = Some(format!("the node ended a stream: {data}"));
                }
                Item::Event { .. } | Item::Comment(_) => *heartbeats += 1,
                Item::Id(_) | Item::Retry(_) => {}
            };
            decoder.push(data, item).map_err(|error| error.to_string())
        });
        *established |= *greeting == Greeting::Head && body.begun();
        refused.map_or(taken, Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

    fn subscriber(greeting: Greeting) -> Subscriber {
        Subscriber::new(&Subscription { request: String::new(), first: 0, greeting })
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
            let mut subscriber = subscriber(Greeting::Frame);
            let mut delivered = Vec::new();
            for part in wire.as_bytes().chunks(size) {
                subscriber.take(part, |delivery| delivered.push(delivery.at)).unwrap();
            }
            assert_eq!(delivered, [0, 10, 30]);
            assert!(subscriber.established);
            assert_eq!((subscriber.heartbeats, subscriber.gaps), (1, 1));
            let losses = subscriber.tracks[1].losses(4);
            assert_eq!((losses.lost, losses.duplicated), (1, 1));
        }
    }

    #[test]
    fn a_response_that_is_not_a_stream_of_this_measurement_is_refused() {
        let refused = |wire: String| subscriber(Greeting::Frame).take(wire.as_bytes(), |_| {}).unwrap_err();
        assert!(refused("HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nfull".into()).contains("503: full"));
        assert!(refused(format!("{HEAD}{}", chunk("id: e-1\ndata: hello\n\n"))).contains("not of this measurement"));
        assert!(refused(format!("{HEAD}{}", chunk("event: disconnect\ndata: {}\n\n"))).contains("ended"));
    }

    #[test]
    fn another_server_is_established_by_its_head() {
        let mut subscriber = subscriber(Greeting::Head);
        subscriber.take(HEAD.as_bytes(), |_| {}).unwrap();
        assert!(subscriber.established);
        let stamp = Stamp { publisher: 0, sequence: 0, at: 5 }.payload(60);
        let body = chunk(&format!("event: hello\ndata: you\n\ndata: {stamp}\n\n"));
        let mut delivered = Vec::new();
        subscriber.take(body.as_bytes(), |delivery| delivered.push((delivery.at, delivery.id.to_owned()))).unwrap();
        assert_eq!((delivered, subscriber.heartbeats), (vec![(5, String::new())], 1));
    }
}
