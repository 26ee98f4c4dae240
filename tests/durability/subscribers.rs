//! Threads that subscribe during the whole run, across all ends of the node, and record all received events.

use std::{
    collections::{HashMap, HashSet},
    iter::Peekable,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    ledger::{Ledger, Payload},
    support::{Event, eventually, steady::listen},
};

/// How a subscriber listens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ear {
    /// Topics with commas, as in the query.
    pub topics: &'static str,
    /// Does not read during this number of kills, again and again.
    pub stuck: u64,
    /// Reconnects only after this number of kills after each lost connection.
    pub late: u64,
}

/// The received events.
#[derive(Debug)]
pub(crate) struct Received {
    pub topics: &'static str,
    pub items: Vec<Item>,
    pub connections: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Event(u64, Payload),
    Gap,
}

/// The name of the event that ends a run, and of the topics' last.
pub(crate) const END: &str = "end";

// === impl Ear ===

impl Ear {
    pub(crate) const fn on(topics: &'static str) -> Self {
        Self { topics, stuck: 0, late: 0 }
    }

    pub(crate) const fn stuck(self, kills: u64) -> Self {
        Self { stuck: kills, ..self }
    }

    pub(crate) const fn late(self, kills: u64) -> Self {
        Self { late: kills, ..self }
    }

    /// True if it receives the topic.
    pub(crate) fn receives(topics: &str, topic: &str) -> bool {
        topics.split(',').any(|own| match own.strip_suffix('*') {
            Some(prefix) => topic.starts_with(prefix),
            None => own == topic,
        })
    }

    /// Listens from `start` on until the end event has come; connected when this returns.
    pub(crate) fn start(self, addr: SocketAddr, ledger: Arc<Ledger>, start: String) -> JoinHandle<Received> {
        thread::spawn(move || self.listen(addr, &ledger, start))
    }

    fn listen(self, addr: SocketAddr, ledger: &Ledger, mut last_id: String) -> Received {
        let mut received = Received { topics: self.topics, items: Vec::new(), connections: 0 };
        let path = format!("/events?topics={}&heartbeat=none", self.topics);
        loop {
            let mut stream = eventually(|| listen(addr, &path, Some(&last_id)));
            received.connections += 1;
            let wait_for = |kills: u64| {
                let until = ledger.kills.load(Relaxed) + kills;
                eventually(|| (ledger.kills.load(Relaxed) >= until || ledger.over.load(Relaxed)).then_some(()));
            };
            if self.stuck > 0 {
                wait_for(self.stuck);
            }
            while !stream.over() {
                let Some(event) = stream.next_within(Duration::from_millis(100)) else { continue };
                if !event.id.is_empty() {
                    last_id.clone_from(&event.id);
                }
                match event.event.as_str() {
                    END => return received,
                    "e" => received.items.push(item(ledger, &event)),
                    "gap" => received.items.push(Item::Gap),
                    "connection" | "disconnect" => {}
                    other => panic!("no publisher sent `{other}`: {event:?}"),
                }
            }
            if self.late > 0 {
                wait_for(self.late);
            }
        }
    }
}

fn item(ledger: &Ledger, event: &Event) -> Item {
    let data = event.json();
    let payload = (data["p"].as_str().expect("a name").to_owned(), data["n"].as_u64().expect("a number"));
    assert_eq!(data, Ledger::payload(&payload.0, payload.1), "the payload is as it was sent");
    Item::Event(ledger.offset(&event.id), payload)
}

// === impl Received ===

impl Received {
    /// Listens once from `start` to the end.
    pub(crate) fn fresh(
        addr: SocketAddr,
        ledger: &Ledger,
        topics: &'static str,
        query: &str,
        start: Option<&str>,
    ) -> Self {
        let mut received = Self { topics, items: Vec::new(), connections: 1 };
        let mut stream =
            listen(addr, &format!("/events?topics={topics}&heartbeat=none{query}"), start).expect("a stream");
        loop {
            let event = stream.next();
            match event.event.as_str() {
                END => return received,
                "e" => received.items.push(item(ledger, &event)),
                "gap" => received.items.push(Item::Gap),
                _ => {}
            }
        }
    }

    pub(crate) fn gaps(&self) -> usize {
        self.items.iter().filter(|item| **item == Item::Gap).count()
    }

    /// Offsets rise, no payload comes twice, each id has the payload that it was acknowledged for, and whatever was not
    /// acknowledged was at least sent.
    pub(crate) fn check_order(&self, ledger: &Ledger) {
        let acked = ledger.acked();
        let by_offset: HashMap<u64, &Payload> = acked.iter().map(|acked| (acked.offset, &acked.payload)).collect();
        let (mut last, mut payloads) = (0, HashSet::new());
        for item in &self.items {
            let Item::Event(offset, payload) = item else { continue };
            assert!(*offset > last, "{}: {offset} behind {last}", self.topics);
            last = *offset;
            assert!(payloads.insert(payload), "{}: {payload:?} came twice, again as {offset}", self.topics);
            match by_offset.get(offset) {
                Some(own) => assert_eq!(*own, payload, "{}: event {offset}", self.topics),
                None => {
                    assert!(ledger.is_unknown(payload), "{}: {payload:?} at {offset} has no publisher", self.topics);
                }
            }
        }
    }

    /// No acknowledged event of its topics is missing, except for reported gaps.
    pub(crate) fn check_whole(&self, ledger: &Ledger) {
        let mut items = self.items.iter().peekable();
        let mut reported = false;
        for acked in ledger.acked() {
            if !acked.topics.iter().any(|topic| Ear::receives(self.topics, topic)) {
                continue;
            }
            reported = skip_to(&mut items, acked.offset).unwrap_or(reported);
            match items.peek() {
                Some(Item::Event(offset, _)) if *offset == acked.offset => {
                    items.next();
                    reported = false;
                }
                _ => assert!(reported, "{}: {acked:?} is missing without a report", self.topics),
            }
        }
    }
}

/// Skips the events before an offset: true if a gap was the last of them; `None` if there was no event.
fn skip_to<'a>(items: &mut Peekable<impl Iterator<Item = &'a Item>>, offset: u64) -> Option<bool> {
    let mut reported = None;
    while let Some(item) = items.next_if(|item| !matches!(item, Item::Event(own, _) if *own >= offset)) {
        reported = Some(*item == Item::Gap);
    }
    reported
}
