//! Threads that publish during the whole run: each in its own way, each certain about its responses.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};

use crate::{
    ledger::Ledger,
    support::{
        Reply, eventually,
        steady::{Asked, ask},
    },
};

/// What a publisher does over and over.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    pub name: &'static str,
    /// The topics of each of its events.
    pub topics: &'static [&'static str],
    /// Events in one request.
    pub batch: u64,
    /// With its own ids, with which it repeats unanswered requests.
    pub keyed: bool,
    /// Purges the first topic after this number of requests.
    pub purge_every: u64,
}

// === impl Manner ===

impl Manner {
    pub(crate) const fn single(name: &'static str, topics: &'static [&'static str]) -> Self {
        Self { name, topics, batch: 1, keyed: false, purge_every: 0 }
    }

    pub(crate) const fn keyed(self) -> Self {
        Self { keyed: true, ..self }
    }

    pub(crate) const fn batches(self, batch: u64) -> Self {
        Self { batch, ..self }
    }

    pub(crate) const fn purging(self, purge_every: u64) -> Self {
        Self { purge_every, ..self }
    }

    /// Publishes on its own thread until the ledger ends the run.
    pub(crate) fn start(self, addr: SocketAddr, ledger: Arc<Ledger>) -> JoinHandle<()> {
        thread::spawn(move || {
            let mut requests = 0;
            while !ledger.over.load(Relaxed) {
                self.publish(addr, &ledger, requests * self.batch);
                requests += 1;
                if self.purge_every > 0 && requests % self.purge_every == 0 {
                    ask(addr, "DELETE", &format!("/api/topics/{}", self.topics[0]), &[], "");
                }
            }
        })
    }

    fn publish(&self, addr: SocketAddr, ledger: &Ledger, first: u64) {
        let numbers = first..first + self.batch;
        let event = |number: u64| {
            let mut event = json!({ "topics": self.topics, "event": "e", "data": Ledger::payload(self.name, number) });
            if self.keyed {
                event["id"] = json!(format!("{}/{number}", self.name));
            }
            event
        };
        let events: Vec<Value> = numbers.clone().map(event).collect();
        let body = if self.batch == 1 { events[0].to_string() } else { json!(events).to_string() };
        let Some(reply) = self.send(addr, ledger, &body) else {
            return numbers.for_each(|number| ledger.unknown((self.name.to_owned(), number)));
        };
        let answer = reply.json();
        let answers = answer.as_array().cloned().unwrap_or_else(|| vec![answer]);
        assert_eq!(answers.len() as u64, self.batch, "one answer each");
        for (number, answer) in numbers.zip(&answers) {
            let id = answer["id"].as_str().expect("an id");
            ledger.ack(id, (self.name.to_owned(), number), self.topics);
        }
        // Now and then a key is used again although all is well: the same answer, and nothing appended.
        if self.keyed && first.is_multiple_of(16) {
            let Asked::Answered(again) = ask(addr, "POST", "/events", &[], &body) else { return };
            if again.status == 200 {
                let again = again.json();
                let id = &again.get(0).unwrap_or(&again)["id"];
                assert_eq!(*id, answers[0]["id"], "the same key, another event");
            }
        }
    }

    /// The answer; without keys the first that comes or none, with keys for sure.
    fn send(&self, addr: SocketAddr, ledger: &Ledger, body: &str) -> Option<Reply> {
        eventually(|| match ask(addr, "POST", "/events", &[], body) {
            Asked::Answered(reply) if reply.status == 200 => {
                ledger.answered();
                Some(Some(reply))
            }
            Asked::Answered(reply) => {
                // The node was stopped.
                assert_eq!(reply.status, 503, "{reply:?}");
                (!self.keyed).then_some(None)
            }
            Asked::Unsent => None,
            Asked::Lost => {
                ledger.lost.fetch_add(1, Relaxed);
                (!self.keyed).then_some(None)
            }
        })
    }
}
