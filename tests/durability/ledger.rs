//! The knowledge of publishers: the sent events, and the ids of the acknowledged ones.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::{Value, json};

/// The publisher's name and its running number. Every payload contains them.
pub(crate) type Payload = (String, u64);

/// An acknowledged event.
#[derive(Clone, Debug)]
pub(crate) struct Acked {
    pub offset: u64,
    pub payload: Payload,
    pub topics: Vec<String>,
}

/// Shared by all threads of a run.
#[derive(Default)]
pub(crate) struct Ledger {
    acked: Mutex<Vec<Acked>>,
    /// Sent without a key and never answered: it may be there or not.
    unknown: Mutex<HashSet<Payload>>,
    epochs: Mutex<HashSet<String>>,
    answers: AtomicU64,
    /// Requests that got no answer.
    pub lost: AtomicU64,
    /// No more is to be published.
    pub over: AtomicBool,
    /// Nodes killed so far.
    pub kills: AtomicU64,
}

// === impl Ledger ===

impl Ledger {
    pub(crate) fn payload(publisher: &str, number: u64) -> Value {
        json!({ "p": publisher, "n": number, "pad": "x".repeat((number % 97) as usize) })
    }

    pub(crate) fn ack(&self, id: &str, payload: Payload, topics: &[&str]) {
        let offset = self.offset(id);
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        self.acked.lock().expect("no panic").push(Acked { offset, payload, topics });
    }

    /// A request was answered.
    pub(crate) fn answered(&self) {
        self.answers.fetch_add(1, Relaxed);
    }

    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    pub(crate) fn unknown(&self, payload: Payload) {
        self.unknown.lock().expect("no panic").insert(payload);
    }

    /// The offset of an id; all ids are of one epoch.
    pub(crate) fn offset(&self, id: &str) -> u64 {
        let (epoch, offset) = id.rsplit_once('-').unwrap_or_else(|| panic!("`{id}` is no position"));
        let mut epochs = self.epochs.lock().expect("no panic");
        epochs.insert(epoch.to_owned());
        assert_eq!(epochs.len(), 1, "SIGKILL alone begins no new epoch: {epochs:?}");
        offset.parse().unwrap_or_else(|_| panic!("`{id}` is no position"))
    }

    pub(crate) fn acked(&self) -> Vec<Acked> {
        let mut acked = self.acked.lock().expect("no panic").clone();
        acked.sort_by_key(|acked| acked.offset);
        acked
    }

    pub(crate) fn is_unknown(&self, payload: &Payload) -> bool {
        self.unknown.lock().expect("no panic").contains(payload)
    }

    /// What the acknowledgements say among themselves: no position given twice, no payload at two positions, and what a
    /// publisher sent one after the other stands in that order.
    pub(crate) fn check(&self) {
        let acked = self.acked();
        let mut last: HashMap<&str, u64> = HashMap::new();
        for pair in acked.windows(2) {
            assert!(pair[0].offset < pair[1].offset, "one position for two events: {pair:?}");
        }
        for Acked { payload: (publisher, number), offset, .. } in &acked {
            if let Some(earlier) = last.insert(publisher, *number) {
                assert!(earlier < *number, "{publisher}: {number} at {offset} came behind {earlier}");
            }
        }
    }
}
